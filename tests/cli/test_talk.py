"""Results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from onnxmorph_cli.table import Table
from onnxmorph_cli.talk import Talk, finite


def test_what_libraries_print_from_c_does_not_reach_stdout() -> None:
    code = (
        "import os\n"
        "from onnxmorph_cli.talk import Talk\n"
        "talk = Talk(as_json=True)\n"
        "with talk.step('working'):\n"
        "    os.write(1, b'noise from C\\n')\n"
        "    print('noise from Python')\n"
        "talk.result({'a': 1}, lambda: None)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"schema": 1, "a": 1}
    assert "noise from C" in done.stderr and "noise from Python" in done.stderr


def test_a_failing_step_gives_stdout_back() -> None:
    before = os.fstat(1)
    with pytest.raises(ValueError, match="no"), Talk().step("failing"):
        raise ValueError("no")
    assert os.path.samestat(before, os.fstat(1))


def test_quiet_leaves_the_essence_and_verbose_adds_durations(capsys: pytest.CaptureFixture[str]) -> None:
    talk = Talk(quiet=True)
    talk.note("a note")
    talk.result({}, lambda: print("long text"), short="child.onnx")
    assert capsys.readouterr() == ("child.onnx\n", "")
    with Talk(verbose=True).step("loading"):
        pass
    assert capsys.readouterr().err.startswith("onnxmorph: loading: 0.")


def test_numbers_that_json_lacks_become_strings() -> None:
    assert finite({"a": [math.nan, math.inf, -math.inf, 1.0], "b": np.float32(0.5), 3: (1, None, True)}) == {
        "a": ["nan", "inf", "-inf", 1.0],
        "b": 0.5,
        "3": [1, None, True],
    }
    with pytest.raises(TypeError):
        finite(object())


def test_a_piped_table_is_aligned_and_cuts_nothing_off(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(["name", ">count"])
    table.add("x" * 300, "7")
    table.add("[bold]", "1234")
    table.show()
    assert capsys.readouterr().out == f"name{' ' * 297} count\n{'x' * 300}      7\n[bold]{' ' * 294}   1234\n"


@pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals are POSIX's")
@pytest.mark.parametrize(("columns", "drawn"), [(120, True), (40, False)])
def test_a_table_is_drawn_only_where_the_terminal_has_room_and_is_whole_either_way(columns: int, drawn: bool) -> None:
    import fcntl
    import pty
    import struct
    import termios

    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    code = (
        "from onnxmorph_cli.table import Table\n"
        "table = Table(['name', '>count'])\n"
        "table.add('/features/[bold]/a/rather/long/name/of/a/layer/Conv', '1234')\n"
        "table.show()\n"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    subprocess.run([sys.executable, "-c", code], stdout=end, env={**environment, "TERM": "xterm"}, check=True)
    os.close(end)
    text = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert "/features/[bold]/a/rather/long/name/of/a/layer/Conv" in text and "1234" in text
    assert ("\u2500" in text) is drawn
