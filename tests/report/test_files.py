"""Writing reports: over earlier ones of their kind, over nothing else, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnxmorph.errors import SelectionError
from onnxmorph.report.files import append_report, may_write, write_report
from onnxmorph.report.junit import junit_xml
from onnxmorph.report.page import document
from onnxmorph.report.step_summary import step_summary


def texts() -> dict[str, str]:
    return {"junit": junit_xml([]), "markdown": step_summary([]), "html": document("t", "x")}


@pytest.mark.parametrize("kind", ["junit", "markdown", "html"])
def test_a_report_takes_the_place_of_an_earlier_one_and_of_nothing_else(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "report"
    for _ in range(2):
        write_report(path, texts()[kind], kind)
        assert path.read_text(encoding="utf-8") == texts()[kind]
    for other, text in texts().items():
        if other != kind:
            path.write_text(text, encoding="utf-8")
            with pytest.raises(SelectionError):
                may_write(path, kind)
    path.write_bytes(b"\x08\x08a model")
    with pytest.raises(SelectionError, match="no earlier report"):
        write_report(path, texts()[kind], kind)
    assert path.read_bytes() == b"\x08\x08a model"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files here")
def test_a_pipe_or_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # an empty one would be waited for
    with pytest.raises(SelectionError, match="no regular file"):
        write_report(tmp_path / "pipe", texts()["html"], "html")
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe"]


def test_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="is a folder"):
        may_write(tmp_path, "html")
    with pytest.raises(SelectionError, match="there is no folder"):
        may_write(tmp_path / "nowhere" / "x.html", "html")


def test_an_empty_file_may_be_filled_and_a_summary_is_added_to(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.touch()
    write_report(path, texts()["markdown"], "markdown")
    append_report(path, "more\ud800")
    assert path.read_text(encoding="utf-8").endswith("more\\ud800")
