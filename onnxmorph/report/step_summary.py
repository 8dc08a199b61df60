"""What a CI system shows under a run: Markdown with one table for all, and for each child what it compared and changed.

GitHub takes no more than 1 MiB of a step and then shows nothing of it: what is too long is cut at a child, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from onnxmorph.diff import Diff
from onnxmorph.report.diff import as_markdown, markdown_text
from onnxmorph.report.outcomes import Outcome, exit_code, reading

__all__ = ["MARK", "step_summary"]

MARK = "<!-- onnxmorph verify -->"

_SIGNS = {"equivalent": "✅", "not equivalent": "❌", "refused": "🚫", "failed": "💥", "skipped": "⏭️"}
_MOST_BYTES = 900_000
_MOST_ROWS = 40
_MOST_DETAILS = 20


def step_summary(
    outcomes: Sequence[Outcome],
    changes: Callable[[Outcome], Diff | None] | None = None,
    *,
    title: str = "Equivalence",
) -> str:
    """The summary.

    Args:
        outcomes: In order.
        changes: What a child differs in from its parent, for the picture; called for those that are told in full only.
        title: Headline.
    """
    sign = "✅" if exit_code(outcomes) == 0 else "❌"
    parts = [MARK, f"## {sign} {markdown_text(title)}: {reading(outcomes)}"]
    if len(outcomes) != 1:
        parts.append(_overview(outcomes))
    size = sum(len(part.encode()) for part in parts)
    # Those that need a person first.
    order = sorted(outcomes, key=lambda outcome: outcome.exit_code == 0)
    told = 0
    for outcome in order:
        if told >= _MOST_DETAILS:
            break
        part = _one(outcome, changes(outcome) if changes is not None else None, alone=len(outcomes) == 1)
        if size + len(part.encode()) > _MOST_BYTES:
            part = _one(outcome, None, alone=len(outcomes) == 1)
            if size + len(part.encode()) > _MOST_BYTES:
                break
        parts.append(part)
        size += len(part.encode())
        told += 1
    if told < len(outcomes):
        parts.append(f"{len(outcomes) - told} more are in the table above only." if told else "The rest is too long.")
    return "\n\n".join(parts) + "\n"


def _overview(outcomes: Sequence[Outcome]) -> str:
    lines = ["| | child | verdict | worst ratio | seconds |", "| --- | --- | --- | ---: | ---: |"]
    order = sorted(outcomes, key=lambda outcome: outcome.exit_code == 0)
    for outcome in order[: 10 * _MOST_ROWS]:
        verdict = outcome.verdict + (f": {outcome.reason}" if outcome.reason else "")
        lines.append(
            f"| {_SIGNS[outcome.verdict]} | {markdown_text(outcome.name)} | {markdown_text(verdict[:300])} |"
            f" {_worst(outcome.certificate)} | {outcome.seconds:.1f} |"
        )
    if len(order) > 10 * _MOST_ROWS:
        lines.append(f"\nand {len(order) - 10 * _MOST_ROWS} more")
    return "\n".join(lines)


def _worst(certificate: Mapping[str, Any] | None) -> str:
    if certificate is None:
        return ""
    ratios = [
        ratio
        for comparison in [*(certificate.get("outputs") or ()), *(certificate.get("inner") or ())]
        for ratio in (comparison.get("ratio"), comparison.get("channel_ratio"))
        if ratio is not None
    ]
    return _number(max(ratios, key=float)) if ratios else ""


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, (int, float)) else markdown_text(str(value))


def _one(outcome: Outcome, found: Diff | None, *, alone: bool) -> str:
    parts = [f"### {_SIGNS[outcome.verdict]} {markdown_text(outcome.name)}: {outcome.verdict}"]
    if outcome.reason:
        parts.append(markdown_text(outcome.reason))
    certificate = outcome.certificate
    if certificate is not None:
        ran = str(certificate.get("provider", "")).removesuffix("ExecutionProvider")
        parts.append(
            markdown_text(
                f"{certificate.get('inputs')} set(s) of inputs on {ran}, {certificate.get('precision')}; "
                f"a difference up to {certificate.get('limit'):g} times the parent's own noise is rounding."
            )
        )
        parts.append(_compared(certificate))
        more = [str(failure) for failure in (certificate.get("failures") or certificate.get("unproven") or ())[1:]]
        parts += [_listed("failure", more), _listed("warning", certificate.get("warnings") or ())]
    if found is not None:
        body = as_markdown(found, (outcome.parent or "parent", outcome.child or "child"), level=4)
        hidden = "" if alone else " of this child"
        parts.append(f"<details><summary>What changed{hidden}</summary>\n\n{body}\n</details>")
    return "\n\n".join(part for part in parts if part)


def _compared(certificate: Mapping[str, Any]) -> str:
    inner = certificate.get("inner") or ()
    apart = [one for one in inner if one.get("status") == "differs"]
    rows = [("inner", one) for one in apart] + [("output", one) for one in certificate.get("outputs") or ()]
    if not rows:
        return ""
    lines = [
        "| | value | verdict | largest difference | noise floor | ratio |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for kind, one in rows[:_MOST_ROWS]:
        ratios = [ratio for ratio in (one.get("ratio"), one.get("channel_ratio")) if ratio is not None]
        lines.append(
            f"| {kind} | {markdown_text(str(one.get('name')))} | {one.get('status')} | {_number(one.get('max_abs'))} |"
            f" {_number(one.get('noise_floor'))} | {_number(max(ratios, key=float)) if ratios else ''} |"
        )
    if len(rows) > _MOST_ROWS:
        lines.append(f"\nand {len(rows) - _MOST_ROWS} more")
    if len(inner) > len(apart):
        lines.append(f"\nand {len(inner) - len(apart)} inner value(s) that agree")
    return "\n".join(lines)


def _listed(kind: str, texts: Iterable[Any]) -> str:
    listed = [str(text) for text in texts]
    lines = [f"* {kind}: {markdown_text(text)}" for text in listed[:_MOST_ROWS]]
    if len(listed) > _MOST_ROWS:
        lines.append(f"* and {len(listed) - _MOST_ROWS} more")
    return "\n".join(lines)
