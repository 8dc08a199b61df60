"""Every command of the pages that show commands, run as it stands."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path

import pytest

from tests.documented import ROOT, Example, examples, same_words, sandbox

PAGES = [ROOT / "README.md", ROOT / "docs" / "cli.md"]

needs_program = pytest.mark.skipif(
    shutil.which("onnxmorph", path=str(Path(sys.executable).parent)) is None or shutil.which("bash") is None,
    reason="onnxmorph is not installed for this Python (pip install -e .), or there is no bash",
)


@needs_program
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_example_prints_what_the_page_says(page: Path, tmp_path: Path) -> None:
    folder = sandbox(tmp_path / "project")
    found = examples(page)
    assert any(example.language == "console" for example in found)
    for example in found:
        printed = example.run(folder)
        if "training needs torch" in printed and not _torch():
            break  # what follows uses what was trained
        if example.language == "python":
            assert printed == "", f"{page.name}:{example.line}"
        else:
            assert same_words(printed, example.printed), (
                f"{page.name}:{example.line}: {example.source}\n{printed}"
                f"Where this is what it should print: python -m tests.documented {page.relative_to(ROOT)}"
            )


def _torch() -> bool:
    """Whether the extra `train` is there: the project's own tests do without."""
    try:
        importlib.import_module("torch")
    except ImportError:
        return False
    return True


def test_the_readme_tells_set_up_main_job_and_tests() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    set_up = text.split("```sh\n", 1)[1].split("```", 1)[0].splitlines()
    assert len(set_up) == 2
    assert "onnxmorph deepen models/" in text and "\npython -m pytest\n" in text


def test_measured_numbers_may_differ_and_words_and_counts_may_not() -> None:
    assert same_words("ratio  0.31\non CUDA", "ratio 1.2e-07\non CPU")
    assert not same_words("48 channels", "64 channels")
    assert not same_words("equivalent", "not equivalent")


def test_examples_are_found_with_what_they_print(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# T\n\n```console\n$ echo a\na\n$ false\n[exit code 1]\n```\n\n```python\nx = 1\n```\n\n```sh\nno\n```\n"
    )
    found = examples(page)
    assert found == [
        Example(4, "console", "echo a", "a\n"),
        Example(6, "console", "false", "[exit code 1]\n"),
        Example(11, "python", "x = 1\n"),
    ]
    assert [example.run(tmp_path) for example in found] == ["a\n", "[exit code 1]\n", ""]
