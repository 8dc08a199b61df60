"""``onnxmorph batch`` as it is typed: what it says, and how it ends."""

from __future__ import annotations

import json
import shutil
import sys
import xml.etree.ElementTree
from pathlib import Path

import click
import pytest

from onnxmorph_cli.verbs.batch import memory_size
from tests.cli.conftest import Run, run

from .conftest import Zoo

__all__ = ["run"]
SAMPLES = Path(__file__).resolve().parents[2] / "models"


@pytest.mark.usefixtures("faulty")
def test_lines_on_stderr_and_a_table_on_stdout(run: Run, zoo: Zoo, recipe: Path, tmp_path: Path) -> None:
    folder, out = zoo("a/x.onnx", "y.onnx"), tmp_path / "out"
    ended = run("batch", recipe, f"{folder}/**/*.onnx", "-o", out, "--jobs", "1")
    assert ended.code == 0
    assert "2 to do, 1 at a time" in ended.err and "[2/2]" in ended.err
    assert "2 models: 2 done" in ended.out and "a/x.onnx" in ended.out
    assert {path.name for path in out.iterdir()} == {
        ".onnxmorph-batch",
        "a",
        "y.onnx",
        "report.json",
        "report.md",
        "report.html",
    }
    again = run("batch", recipe, f"{folder}/**/*.onnx", "-o", out, "-q")
    assert again.code == 0 and again.err == ""
    assert again.out == "2 models: 2 done (2 of them up to date before)\n"


@pytest.mark.usefixtures("faulty")
def test_json_is_the_report(run: Run, zoo: Zoo, recipe: Path, tmp_path: Path) -> None:
    folder = zoo("good.onnx", "crash.onnx", "refuse.onnx", "chatter.onnx")
    ended = run("batch", recipe, f"{folder}/*.onnx", "-o", tmp_path / "out", "--json")
    assert ended.code == ended.document["exit_code"] == 4
    assert ended.document["kind"] == "onnxmorph.batch"
    assert ended.document == json.loads((tmp_path / "out" / "report.json").read_text())
    assert {Path(entry["model"]).stem: entry["outcome"] for entry in ended.document["models"]} == {
        "good": "done",
        "chatter": "done",
        "crash": "failed",
        "refuse": "refused",
    }


@pytest.mark.usefixtures("faulty")
def test_what_ci_systems_read(run: Run, zoo: Zoo, recipe: Path, tmp_path: Path) -> None:
    folder = zoo("good.onnx", "crash.onnx", "wrong.onnx", "refuse.onnx")
    junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
    words = ("batch", recipe, folder, "-o", tmp_path / "out", "--junit", junit, "--summary", summary, "--annotations")
    ended = run(*words)
    assert ended.code == 1 and "::error" in ended.err
    suites = xml.etree.ElementTree.parse(junit).getroot()
    assert len(suites.findall("testsuite")) == 4
    assert len(suites.findall(".//failure")) >= 1 and len(suites.findall(".//error")) >= 1
    assert "wrong.onnx" in summary.read_text()
    junit.write_text("something of the user's")
    assert run(*words).code == 2


@pytest.mark.usefixtures("faulty")
def test_exit_codes(run: Run, zoo: Zoo, recipe: Path, tmp_path: Path) -> None:
    folder = zoo("good.onnx", "refuse.onnx", "wrong.onnx", "leave.onnx")

    def code(*names: str, options: tuple[str, ...] = ()) -> int:
        models = [folder / f"{name}.onnx" for name in names]
        return run("batch", recipe, *models, "-o", tmp_path / "out", *options).code

    assert code("good") == 0
    assert code("good", "refuse") == 3
    assert code("good", "refuse", options=("--allow-refused",)) == 0
    assert code("refuse", options=("--allow-refused",)) == 3
    assert code("good", "refuse", "leave") == 4
    assert code("good", "refuse", "leave", "wrong") == 1
    assert code("wrong", "leave", options=("--dry-run",)) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("{r}", "{z}/*.omnx", "-o", "{o}"), "no model at"),
        (("{r}", "{z}/y.onnx", "-o", "{o}"), "did you mean"),
        (("{r}", "-o", "{o}"), "MODEL_OR_GLOB"),
        (("{r}", "{z}"), "--output"),
        (("{z}/none.toml", "{z}", "-o", "{o}"), "cannot be read"),
        (("{r}", "{z}", "-o", "{z}"), "lies in the output folder"),
        (("{r}", "{z}", "-o", "{o}", "--memory-limit", "much"), "is no size"),
        (("{r}", "{z}", "-o", "{o}", "--engine", "dask"), "--scheduler"),
        (("{r}", "{z}", "-o", "{o}", "--scheduler", "tcp://h:1"), "--engine dask"),
        (("{r}", "{z}", "-o", "{o}", "--time-limit", "0"), "time-limit"),
    ],
)
def test_usage(run: Run, zoo: Zoo, recipe: Path, tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    folder = zoo("x.onnx")
    ended = run("batch", *(word.format(r=recipe, z=folder, o=tmp_path / "out") for word in words))
    assert ended.code == 2 and says in ended.err and ended.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("faulty")
def test_bars_on_a_terminal(run: Run, zoo: Zoo, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    ended = run("batch", recipe, zoo("x[red].onnx", "crash.onnx"), "-o", tmp_path / "out", "--jobs", "1")
    assert ended.code == 4 and "crash.onnx: failed" in ended.err and "2/2" in ended.err


def test_a_real_recipe_that_fits_one_model_and_not_the_other(run: Run, tmp_path: Path) -> None:
    for name in ("digits_cnn.onnx", "digits_mlp.onnx"):
        shutil.copy(SAMPLES / name, tmp_path)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[[step]]\nmorph = "kernel"\nwhere = { op = "Conv", first = 1 }\nto = 5\n')
    ended = run("batch", recipe, tmp_path / "*.onnx", "-o", tmp_path / "out", "--json")
    assert ended.code == 3
    by_name = {Path(entry["model"]).name: entry for entry in ended.document["models"]}
    assert by_name["digits_cnn.onnx"]["outcome"] == "done" and by_name["digits_cnn.onnx"]["certificate"]["equivalent"]
    assert by_name["digits_mlp.onnx"]["code"] == "selection"
    assert "step 1 (kernel) selects no layer" in by_name["digits_mlp.onnx"]["reason"]
    verified = run("verify", tmp_path / "digits_cnn.onnx", tmp_path / "out" / "digits_cnn.onnx", "-q")
    assert verified.code == 0


@pytest.mark.parametrize(
    ("text", "size"), [("1000", 1000), ("500M", 500 << 20), ("4g", 4 << 30), ("1.5GiB", 3 << 29), ("2 KB", 2048)]
)
def test_sizes(text: str, size: int) -> None:
    assert memory_size(text) == size
    with pytest.raises(click.BadParameter):
        memory_size(f"{text}x")
