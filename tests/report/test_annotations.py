"""Annotations: read back as GitHub's runner reads them."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from onnxmorph.report.annotations import annotation, github_annotations
from onnxmorph.report.outcomes import Outcome


def read(line: str) -> tuple[str, dict[str, str], str]:
    """As the runner does: the command up to the next ``::``, its properties at commas, then unescaped."""
    assert line.startswith("::") and "\n" not in line and "\r" not in line
    end = line.index("::", 2)
    level, _, rest = line[2:end].partition(" ")
    properties = {}
    for one in rest.split(","):
        key, _, value = one.partition("=")
        for code, letter in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
            value = value.replace(code, letter)
        properties[key] = value
    data = line[end + 2 :]
    for code, letter in (("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
        data = data.replace(code, letter)
    return level, properties, data


@given(title=st.text(), message=st.text(), file=st.text(min_size=1))
def test_any_text_comes_back(title: str, message: str, file: str) -> None:
    assert read(annotation("error", title, message, file)) == ("error", {"title": title, "file": file}, message)


def test_what_is_wrong_is_an_error_and_what_says_little_a_warning() -> None:
    blind = {"warnings": ["output 'y' is the same on every input", "more"]}
    lines = github_annotations(
        [
            Outcome("a", "equivalent", child="a.onnx"),
            Outcome("b", "not equivalent", "output 'y' differs", child="b.onnx"),
            Outcome("c", "equivalent", child="c.onnx", certificate=blind),
            Outcome("d", "failed", "no model"),
            Outcome("e", "skipped", "no parent"),
        ]
    )
    assert [read(line)[0] for line in lines] == ["error", "error", "warning"]
    assert read(lines[0])[1:] == ({"file": "b.onnx", "title": "b: not equivalent"}, "output 'y' differs")
    assert "file" not in read(lines[1])[1] and read(lines[2])[2].count("\n") == 1


def test_no_more_than_github_shows_and_the_last_one_counts_the_rest() -> None:
    lines = github_annotations([Outcome(str(number), "failed", "why") for number in range(25)])
    assert len(lines) == 10 and re.search(r"\b16 more\b", lines[-1])
