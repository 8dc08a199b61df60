"""The pages on CI and reports: every command and program on them, run as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documented import ROOT, examples, same_words, sandbox
from tests.test_readme import needs_program


@needs_program
@pytest.mark.parametrize("name", ["ci.md", "reports.md"])
def test_every_example_prints_what_the_page_says(name: str, tmp_path: Path) -> None:
    page = ROOT / "docs" / name
    folder = sandbox(tmp_path / "project")
    for example in examples(page):
        printed = example.run(folder)
        if example.language == "python":
            assert printed == "", f"{name}:{example.line}"
        else:
            assert same_words(printed, example.printed), f"{name}:{example.line}: {example.source}\n{printed}"


def test_the_action_on_the_page_uses_inputs_that_there_are() -> None:
    yaml = pytest.importorskip("yaml")
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    text = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    block = next(block for block in text.split("```yaml\n")[1:] if "uses: OWNER" in block).split("```")[0]
    steps = yaml.safe_load(block)["steps"]
    assert set(steps[-1]["with"]) <= set(action["inputs"])
    for name in action["inputs"]:
        assert f"`{name}`" in text, name
