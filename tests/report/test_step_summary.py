"""The step summary: what needs a person comes first, nothing breaks out, nothing grows beyond what GitHub takes."""

from __future__ import annotations

import re

from onnxmorph import model as files
from onnxmorph.diff import diff
from onnxmorph.morphs import plan_deepen
from onnxmorph.plan import apply
from onnxmorph.report.outcomes import Outcome, of_certificate
from onnxmorph.report.step_summary import MARK, step_summary
from tests.ci.models import SAMPLES
from tests.report.test_junit import certificate
from tests.test_diff import HOSTILE


def test_one_pair_is_told_in_full() -> None:
    text = step_summary([of_certificate("p", certificate(), child="b.onnx")])
    assert text.startswith(MARK) and "❌" in text and "inner value 'v' differs by 0.5" in text
    assert "| inner | v | differs | 0.5 | 0.1 | 5 |" in text and "careful" in text
    assert "✅" in step_summary([of_certificate("p", certificate(equivalent=True))])


def test_of_many_those_that_failed_come_first() -> None:
    text = step_summary(
        [Outcome("fine", "equivalent"), Outcome("bad", "failed", "no model"), Outcome("odd", "refused", "why")]
    )
    assert text.index("bad") < text.index("odd") < text.index("fine")
    assert "1 equivalent, 1 refused, 1 failed" in text


def test_names_cannot_break_out() -> None:
    bad = certificate(failures=[HOSTILE], outputs=[{"name": HOSTILE, "status": "differs", "max_abs": "nan"}])
    text = step_summary([of_certificate(HOSTILE, bad), Outcome(HOSTILE, "failed", HOSTILE)])
    assert "<script" not in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (6, 7), line


def test_it_stays_below_what_github_takes() -> None:
    inner = [
        {"name": "v" * 300 + str(number), "status": "differs", "max_abs": 1.0, "ratio": 30.0} for number in range(60)
    ]
    big = certificate(inner=inner, failures=["x" * 3000] * 40)
    text = step_summary([of_certificate(f"model {number}", big) for number in range(2000)])
    assert len(text.encode()) < 1_000_000 and "and 1600 more" in text
    assert step_summary([Outcome("m", "failed", "y" * 2_000_000)]).endswith("\n")
    assert len(step_summary([Outcome("m", "failed", "y" * 2_000_000)]).encode()) < 1_000_000


def test_what_changed_is_drawn_where_it_can_be_said() -> None:
    parent = files.load(SAMPLES / "digits_cnn.onnx")
    found = diff(parent, apply(parent, [plan_deepen(parent, "conv2")]).model)
    outcomes = [of_certificate("p", certificate(), parent="a", child="b")]
    assert "```mermaid" in step_summary(outcomes, lambda _: found)
    assert "```mermaid" not in step_summary(outcomes, lambda _: None)
