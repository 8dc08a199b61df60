"""The examples of docs/verify.md, run as they stand."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.documented import ROOT, examples, same_words, sandbox

PAGE = ROOT / "docs" / "verify.md"


@pytest.mark.skipif(
    shutil.which("onnxmorph", path=str(Path(sys.executable).parent)) is None or shutil.which("bash") is None,
    reason="onnxmorph is not installed for this Python (pip install -e .), or there is no bash",
)
def test_every_example_prints_what_the_page_says(tmp_path: Path) -> None:
    folder = sandbox(tmp_path / "project")
    for example in examples(PAGE):
        printed = example.run(folder)
        expected = example.printed if example.language == "console" else ""
        assert same_words(printed, expected), f"{PAGE.name}:{example.line}: {example.source}\n{printed}"
