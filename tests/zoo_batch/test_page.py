"""Every command of the page on batches, run as it stands."""

from __future__ import annotations

from pathlib import Path

from tests.documented import ROOT, examples, same_words, sandbox
from tests.test_readme import needs_program


@needs_program
def test_every_example_prints_what_the_page_says(tmp_path: Path) -> None:
    folder = sandbox(tmp_path / "project")
    found = examples(ROOT / "docs" / "batch.md")
    assert len(found) == 4
    for example in found:
        printed = example.run(folder)
        assert same_words(printed, example.printed), f"batch.md:{example.line}: {example.source}\n{printed}"
