"""Every example of the page on training, run as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.documented import ROOT, examples, same_words, sandbox
from tests.test_readme import needs_program


@needs_program
@pytest.mark.slow
def test_every_example_prints_what_the_page_says(tmp_path: Path) -> None:
    folder = sandbox(tmp_path / "project")
    found = examples(ROOT / "docs" / "train.md")
    assert sum(example.language == "python" for example in found) == 2
    for example in found:
        printed = example.run(folder)
        if example.language == "python":
            assert printed == "", example.line
        else:
            assert same_words(printed, example.printed), f"{example.source}\n{printed}"
