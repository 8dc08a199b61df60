"""The command line as a whole: exit codes, one line a failure, nothing but results on stdout."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from onnxmorph import model
from onnxmorph.errors import ModelError, NotEquivalent, OnnxMorphError, Refusal, SelectionError
from onnxmorph_cli import main as entry
from tests.cli.conftest import SAMPLES

PROGRAM = [sys.executable, "-c", "from onnxmorph_cli.main import main; main()"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run_words(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            entry.main(words)
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    return run_words


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Lets the verb ``verify`` do something else, with the options that every verb has."""
    from onnxmorph_cli.options import talk_options
    from onnxmorph_cli.verbs import verify

    def install(body: Callable[[], Any]) -> None:
        @click.command(name="verify")
        @talk_options
        def command(talk: Any) -> None:
            body()

        monkeypatch.setattr(verify, "command", command)

    return install


def raising(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


@pytest.mark.parametrize("name", entry.VERBS)
def test_the_line_of_a_verb_in_the_list_is_the_one_in_its_own_help(name: str) -> None:
    command = entry.root.get_command(click.Context(entry.root), name)
    assert command is not None and command.name == name
    assert command.get_short_help_str(limit=500) == entry.VERBS[name]


def test_listing_the_verbs_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from onnxmorph_cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'scipy', 'rich', 'onnxmorph.errors'} & set(sys.modules)\n"
        "verbs = [name for name in sys.modules if name.startswith('onnxmorph_cli.verbs')]\n"
        "sys.exit(f'{heavy} {verbs}' if heavy or verbs else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deepen" in done.stdout


@pytest.mark.parametrize("name", entry.VERBS)
def test_help_of_a_verb_imports_neither_numpy_nor_onnx(name: str) -> None:
    code = (
        "import sys\n"
        "from onnxmorph_cli.main import main\n"
        f"try: main([{name!r}, '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(str({'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'scipy', 'rich'} & set(sys.modules) or 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "0", done.stderr


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            Refusal("the weight is computed", way_out="freeze it first"),
            3,
            "refused: the weight is computed; freeze it first",
        ),
        (ModelError("m.onnx: not an ONNX model:\n  empty"), 4, "error: m.onnx: not an ONNX model: empty"),
        (SelectionError("no layer 'conv9'"), 2, "error: no layer 'conv9'"),
        (OnnxMorphError("odd"), 4, "error: odd"),
        (NotEquivalent("they differ", certificate=None), 1, "error: they differ"),  # type: ignore[arg-type]
        (MemoryError(), 4, "error: out of memory"),
        (PermissionError(13, "Permission denied", "/out/child.onnx"), 4, "error: /out/child.onnx: Permission denied"),
        (OSError(28, "No space left on device"), 4, "error: No space left on device"),
        (KeyboardInterrupt(), 130, "error: interrupted, nothing written"),
        (ZeroDivisionError("by zero"), 4, "error: internal error: ZeroDivisionError: by zero; rerun with --debug"),
        (RecursionError("deep"), 4, "error: internal error: RecursionError: deep; rerun with --debug"),
    ],
)
def test_every_failure_is_one_line_and_an_exit_code(
    run: Callable[..., tuple[int, str, str]],
    verb: Callable[[Callable[[], Any]], None],
    error: BaseException,
    code: int,
    line: str,
) -> None:
    verb(raising(error))
    assert run("verify") == (code, "", f"onnxmorph: {line}\n")


@pytest.mark.parametrize(
    ("error", "key"), [(Refusal("no", code="weight-not-constant"), "refused"), (ModelError("no"), "error")]
)
def test_failures_are_one_json_document_too(
    run: Callable[..., tuple[int, str, str]], verb: Callable[[Callable[[], Any]], None], error: Exception, key: str
) -> None:
    verb(raising(error))
    code, out, err = run("verify", "--json")
    document = json.loads(out)
    assert (document["schema"], document[key]) == (1, "no")
    assert err.count("\n") == 1 and code in (3, 4)
    if key == "refused":
        assert document["code"] == "weight-not-constant"


def test_tracebacks_are_shown_with_debug_and_only_then(
    run: Callable[..., tuple[int, str, str]], verb: Callable[[Callable[[], Any]], None]
) -> None:
    verb(raising(ZeroDivisionError("by zero")))
    assert "Traceback" not in run("verify")[2]
    code, out, err = run("verify", "--debug")
    assert code == 4 and out == "" and "Traceback" in err and err.endswith("ZeroDivisionError: by zero\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["inspekt", "m.onnx"], "did you mean 'inspect'"),
        (["frobnicate"], "the verbs are inspect"),
        (["inspect"], "MODEL"),
        (["inspect", "--nonsense", "m.onnx"], "--nonsense"),
        (["verify", "a.onnx", "b.onnx", "--shape", "x2"], "x:2,3,64,64"),
        (["verify", "a.onnx", "b.onnx", "--shape", "x:1", "--shape", "x:2"], "given twice"),
        (["verify", "a.onnx", "b.onnx", "--provider", "tpu"], "auto"),
        (["verify", "a.onnx", "b.onnx", "-q", "-v"], "contradict"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_wrong_usage_is_exit_2_and_one_line_that_says_where_help_is(
    run: Callable[..., tuple[int, str, str]], words: list[str], said: str
) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith("onnxmorph: error: ") and err.count("\n") == 1
    assert said in err and "--help'" in err


def test_no_words_at_all_show_the_help_on_stderr(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run()
    assert (code, out) == (2, "") and "Verbs:" in err


def test_version(run: Callable[..., tuple[int, str, str]]) -> None:
    import onnxmorph

    assert run("--version") == (0, f"onnxmorph {onnxmorph.__version__}\n", "")


def test_words_after_two_dashes_are_no_options(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = run("inspect", "--", "--json")
    assert (code, out) == (4, "")


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_reader_that_goes_away_gets_no_complaint(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*PROGRAM, "--version"], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (4, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_stdout_is_no_success() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*PROGRAM, "--version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 4
    assert "Traceback" not in done.stderr


def test_names_that_the_terminal_cannot_show_are_escaped(tmp_path: Path) -> None:
    done = subprocess.run(
        [*PROGRAM, "inspect", str(tmp_path / "модель.onnx")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert done.returncode == 4
    assert "Traceback" not in done.stderr and "\\u043c" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no such shells")
@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_harm(tmp_path: Path, closed: str) -> None:
    """The first file that is opened would take the place of a closed stream, and what C prints would end up in it."""
    child = tmp_path / "child.onnx"
    words = [*PROGRAM, "deepen", str(SAMPLES / "digits_mlp.onnx"), "--after", "#0"]
    command = shlex.join([*words, "-o", str(child), "--method", "identity"])
    ended = subprocess.run(["sh", "-c", f"{command} {closed}"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert model.certificate_of(model.load(child)) is not None


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_is_one_line_and_a_document(tmp_path: Path, name: str) -> None:
    sample = str(SAMPLES / "digits_mlp.onnx")
    words = [*PROGRAM, "verify", sample, sample, "--json"]
    script = tmp_path / "inputs.py"
    script.write_text("import time\nprint('here', flush=True)\ntime.sleep(60)\n", encoding="utf-8")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    number = getattr(signal, name)
    # What starts the tests may ignore hangups, as nohup does, and its children would too.
    before = signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)
    try:
        process = subprocess.Popen([*words, "--inputs", str(script)], **pipes)  # type: ignore[call-overload]
    finally:
        signal.signal(number, before)
    with process:
        assert process.stderr.readline() == "here\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "nothing written" in json.loads(out)["error"] and err.count("\n") == 1
