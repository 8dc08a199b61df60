"""A batch's ``report.json`` as a page, and as outcomes from which JUnit XML and annotations are written.

Read as strictly as needed and no more: what a later version adds is passed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from onnxmorph.errors import SelectionError
from onnxmorph.report.morph import finite, ratio_bar
from onnxmorph.report.outcomes import Outcome, Verdict
from onnxmorph.report.page import Html, document, element, figures, joined, section, table

__all__ = ["KIND", "batch_page", "outcomes_of_batch"]

KIND = "onnxmorph.batch"

_VERDICTS: dict[str, Verdict] = {
    "done": "equivalent",
    "not-equivalent": "not equivalent",
    "refused": "refused",
    "failed": "failed",
    "pending": "skipped",
}
_COLOURS = {"done": "good", "not-equivalent": "bad", "failed": "bad", "refused": "warn", "pending": "soft"}


def _models(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if report.get("kind") != KIND or not isinstance(report.get("models"), list):
        raise SelectionError("this is no report of 'onnxmorph batch'")
    return [entry for entry in report["models"] if isinstance(entry, Mapping)]


def outcomes_of_batch(report: Mapping[str, Any]) -> list[Outcome]:
    """One outcome a model.

    Args:
        report: The document of ``report.json``.

    Raises:
        SelectionError: It is none.
    """
    folder = PurePosixPath(str(report.get("output") or "."))
    return [
        Outcome(
            str(entry.get("model")),
            _VERDICTS.get(str(entry.get("outcome")), "failed"),
            str(entry.get("reason") or ""),
            finite(entry.get("seconds")) or 0.0,
            str(entry.get("model")),
            str(folder / str(entry["child"])) if entry.get("child") else "",
            entry.get("certificate") if isinstance(entry.get("certificate"), Mapping) else None,
        )
        for entry in _models(report)
    ]


def batch_page(report: Mapping[str, Any]) -> str:
    """The page.

    Args:
        report: The document of ``report.json``.

    Raises:
        SelectionError: It is none.
    """
    entries = _models(report)
    recipe = report.get("recipe") if isinstance(report.get("recipe"), Mapping) else {}
    assert isinstance(recipe, Mapping)
    counts = Counter(str(entry.get("outcome")) for entry in entries)
    stood = sum(bool(entry.get("up_to_date")) for entry in entries)
    title = f"{recipe.get('name') or 'Batch'}: {len(entries)} model{'' if len(entries) == 1 else 's'}"
    wrong = counts["not-equivalent"] + counts["failed"]
    words = "dry run" if report.get("dry_run") else "all done" if counts["done"] == len(entries) else _told(counts)
    kind = "bad" if wrong else "warn" if counts["refused"] or report.get("dry_run") else "good"
    body: list[str] = [
        element("h1", title),
        element("p", element("span", words, class_=f"verdict {kind}")),
        _share(counts),
        figures(
            [(_spoken(outcome), f"{counts[outcome]:,}", "") for outcome in _VERDICTS if counts[outcome]]
            + [("up to date before", f"{stood:,}", "nothing was run for them")] * bool(stood)
            + _sums(entries)
        ),
    ]
    reasons = Counter((str(one.get("outcome")), str(one.get("code"))) for one in entries if one.get("code"))
    if reasons:
        rows = [
            (element("span", _spoken(outcome), class_=_COLOURS.get(outcome)), code, f"{number:,}")
            for (outcome, code), number in reasons.most_common()
        ]
        body.append(section("Why not", table(("outcome", "reason", ">models"), rows)))
    body.append(section("Models", _table(entries)))
    if recipe.get("text"):
        body.append(section("The recipe", element("pre", str(recipe["text"]))))
    return document(title, *body)


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[outcome]} {_spoken(outcome)}" for outcome in _VERDICTS if counts[outcome]) or "nothing"


def _spoken(outcome: str) -> str:
    return outcome.replace("-", " ")


def _share(counts: Mapping[str, int]) -> Html:
    spans = joined(
        element("span", class_=_COLOURS[outcome], style=f"flex:{counts[outcome]}", title=f"{counts[outcome]} {outcome}")
        for outcome in _VERDICTS
        if counts[outcome]
    )
    return element("div", spans, class_="share")


def _sums(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Parameters of all that were grown, before and after."""
    pairs = [sizes for entry in entries if (sizes := _sizes(entry, "parameters")) is not None]
    seconds = sum(finite(entry.get("seconds")) or 0.0 for entry in entries)
    spent = [("seconds of work", f"{seconds:,.1f}", "of all models together")]
    if not pairs:
        return spent
    before, after = (sum(sizes[place] for sizes in pairs) for place in (0, 1))
    return [
        ("numbers stored", f"{after:,}", f"from {before:,}" + (f", ×{after / before:.3g}" if before else "")),
        *spent,
    ]


def _sizes(entry: Mapping[str, Any], key: str) -> tuple[int, int] | None:
    sizes = entry.get(key)
    if not isinstance(sizes, Mapping):
        return None
    before, after = sizes.get("before"), sizes.get("after")
    return (before, after) if isinstance(before, int) and isinstance(after, int) else None


def _table(entries: Sequence[Mapping[str, Any]]) -> Html:
    order = {"not-equivalent": 0, "failed": 1, "refused": 2}
    rows = []
    for entry in sorted(entries, key=lambda one: order.get(str(one.get("outcome")), 3)):
        outcome, ratio = str(entry.get("outcome")), finite(entry.get("ratio"))
        certificate = entry.get("certificate")
        limit = (finite(certificate.get("limit")) if isinstance(certificate, Mapping) else None) or 24.0
        sizes = _sizes(entry, "parameters")
        bar = (
            element("div", ratio_bar(ratio, limit, outcome == "not-equivalent"), class_="ratio")
            if ratio is not None
            else Html("")
        )
        rows.append(
            (
                _name(entry),
                element("span", _spoken(outcome), class_=_COLOURS.get(outcome)),
                "" if ratio is None else f"{ratio:.3g}",
                bar,
                "" if sizes is None else f"{sizes[0]:,} → {sizes[1]:,}",
                "" if finite(entry.get("seconds")) is None else f"{finite(entry.get('seconds')):.1f}",
            )
        )
    return table(("model", "outcome", ">ratio", "against its noise", ">numbers stored", ">seconds"), rows)


def _name(entry: Mapping[str, Any]) -> Html:
    """What a model is called, with why it is not done or, folded away, what was done to it."""
    parts = [element("b", str(entry.get("model")))]
    if entry.get("reason"):
        parts.append(element("div", str(entry["reason"]), class_="soft"))
    lines = [str(line) for key in ("plans", "notes") for line in entry.get(key) or ()]
    if entry.get("broken_by"):
        lines.append(f"first wrong after: {entry['broken_by']}")
    if lines:
        listed = element("ul", joined(element("li", line) for line in lines))
        summary = "1 step" if len(lines) == 1 else f"{len(lines)} steps and notes"
        parts.append(element("details", element("summary", summary), listed))
    return joined(parts)
