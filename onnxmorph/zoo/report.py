"""What came of a batch, as data: the JSON, Markdown and HTML of one report are written from this."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["KIND", "OUTCOMES", "BatchReport", "ModelEntry", "as_html", "as_json", "as_markdown", "is_report"]

KIND = "onnxmorph.batch"
OUTCOMES = ("done", "not-equivalent", "failed", "refused")
_MARK = "<!-- onnxmorph batch -->"
_ANY_MARK = b"<!-- onnxmorph"


@dataclass(frozen=True)
class ModelEntry:
    """One model of a batch.

    Attributes:
        model: The parent, as it was typed or found.
        child: Where its child is, relative to the output folder; ``None``: there is none.
        outcome: ``done``, ``refused``, ``not-equivalent`` or ``failed``; in a dry run ``pending``: it would be grown.
        up_to_date: It was over before: nothing was run for it this time.
        code: Why not ``done``, as a short slug to count by.
        reason: Why not ``done``, in words.
        ratio: Largest difference over the parent's own noise; ``None`` where nothing was compared.
        seconds: It took, when it was run; a string stands for what is not finite.
        bytes: Of the files, before and after.
        parameters: Floating-point numbers stored, before and after.
        plans: What was done to it.
        notes: What a reader should know.
        broken_by: Of a child that is not equivalent, the plan that broke it.
        certificate: Of the comparison, with the inner values that moved most.
        parent_sha256, files: Of the parent's file, and of each of the child's by name.
        content_hash: Of the child, independent of how its tensors are stored and of its metadata.
    """

    model: str
    child: str | None
    outcome: str
    up_to_date: bool = False
    code: str | None = None
    reason: str | None = None
    ratio: float | str | None = None
    seconds: float | None = None
    bytes: Mapping[str, int | None] = field(default_factory=dict)
    parameters: Mapping[str, int | None] = field(default_factory=dict)
    plans: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    broken_by: str | None = None
    certificate: Mapping[str, Any] | None = None
    parent_sha256: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    content_hash: str | None = None

    @classmethod
    def from_journal(cls, model: str, entry: Mapping[str, Any], *, up_to_date: bool) -> ModelEntry:
        """Of what the journal says at a model's end."""
        result = entry["result"]
        files = entry["files"]
        return cls(
            model,
            files[-1]["name"] if files else None,
            result["outcome"],
            up_to_date,
            result.get("code"),
            result.get("reason"),
            result.get("ratio"),
            result.get("seconds"),
            entry["bytes"],
            result.get("parameters") or {},
            tuple(result.get("plans", ())),
            tuple(result.get("notes", ())),
            result.get("broken_by"),
            result.get("certificate"),
            entry["inputs"].get(""),
            {file["name"]: file["sha256"] for file in files},
            result.get("content_hash"),
        )


@dataclass(frozen=True)
class BatchReport:
    """A batch that is over.

    Attributes:
        recipe: Name of the recipe's file; ``recipe_text`` is what stood in it.
        output: Where children went.
        options: What else bears on them.
        models: One entry a model, in the order they were selected.
        left_out: Matches of globs that lie in the output folder.
        jobs: Models at a time.
        engine: What worked them off.
        seconds: The whole batch took.
        allow_refused: Refusals alone do not make the exit code 3, as long as any model was done.
        version: Of onnxmorph.
        dry: Nothing was run.
    """

    recipe: str
    recipe_text: str
    output: str
    options: Mapping[str, Any]
    models: tuple[ModelEntry, ...]
    left_out: tuple[str, ...] = ()
    jobs: int = 1
    engine: str = "processes"
    seconds: float = 0.0
    allow_refused: bool = False
    version: str = ""
    dry: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """Models by outcome, and how many of them were up to date."""
        outcomes = (*OUTCOMES, "pending") if self.dry else OUTCOMES
        return {
            "models": len(self.models),
            **{outcome: sum(entry.outcome == outcome for entry in self.models) for outcome in outcomes},
            "up_to_date": sum(entry.up_to_date for entry in self.models),
        }

    @property
    def exit_code(self) -> int:
        """The first that holds: 1 a child is not equivalent, 4 a model failed, 3 a model refused, 0."""
        outcomes = {entry.outcome for entry in self.models}
        if self.dry:
            return 0
        if "not-equivalent" in outcomes:
            return 1
        if "failed" in outcomes:
            return 4
        if "refused" in outcomes and not (self.allow_refused and "done" in outcomes):
            return 3
        return 0

    def to_json(self) -> dict[str, Any]:
        """The report as one JSON document, ``"schema": 1``."""
        return {
            "schema": 1,
            "kind": KIND,
            "onnxmorph": self.version,
            "recipe": {"name": self.recipe, "text": self.recipe_text},
            "output": self.output,
            "options": dict(self.options),
            "engine": self.engine,
            "jobs": self.jobs,
            "seconds": round(self.seconds, 3),
            "dry_run": self.dry,
            "counts": self.counts,
            "exit_code": self.exit_code,
            "left_out": list(self.left_out),
            "models": [_entry_json(entry) for entry in self.models],
        }

    def summary(self) -> str:
        """One line: how many models, and what came of them."""
        counts = self.counts
        parts = [f"{counts[outcome]} {outcome}" for outcome in ("pending", *OUTCOMES) if counts.get(outcome)]
        models = "1 model" if len(self.models) == 1 else f"{len(self.models)} models"
        stood = f" ({counts['up_to_date']} of them up to date before)" if counts["up_to_date"] else ""
        return f"{models}: {', '.join(parts)}{stood}".replace("not-equivalent", "NOT equivalent")


def _entry_json(entry: ModelEntry) -> dict[str, Any]:
    document = {**vars(entry), "plans": list(entry.plans), "notes": list(entry.notes)}
    for key in ("bytes", "parameters", "files"):
        document[key] = dict(document[key])
    return document


def as_json(report: BatchReport) -> str:
    """``report.json``."""
    return json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n"


def is_report(name: str, data: bytes) -> bool:
    """Whether a file of a report's name is a report, which the next one may replace."""
    if name.endswith(".json"):
        try:
            document = json.loads(data)
        except ValueError:
            return False
        return isinstance(document, dict) and document.get("kind") == KIND
    return _ANY_MARK in data[:64]


_HEADINGS = ("model", "outcome", "ratio", "parameters", "bytes", "seconds", "reason")


def _cells(entry: ModelEntry) -> tuple[str, ...]:
    outcome = f"{entry.outcome}, up to date" if entry.up_to_date else entry.outcome
    return (
        entry.model,
        outcome,
        "" if entry.ratio is None else f"{entry.ratio:.2f}" if isinstance(entry.ratio, float) else str(entry.ratio),
        _growth(entry.parameters),
        _growth(entry.bytes),
        "" if entry.seconds is None else f"{entry.seconds:.1f}",
        entry.reason or "",
    )


def _growth(sizes: Mapping[str, int | None]) -> str:
    before, after = sizes.get("before"), sizes.get("after")
    if before is None:
        return ""
    if after is None:
        return f"{before:,}"
    return f"{before:,} → {after:,}" + (f" (×{after / before:.2f})" if before else "")


def _by_reason(models: Sequence[ModelEntry]) -> list[tuple[str, str, int]]:
    counted: dict[tuple[str, str], int] = {}
    for entry in models:
        if entry.code is not None:
            counted[entry.outcome, entry.code] = counted.get((entry.outcome, entry.code), 0) + 1
    return sorted(((*key, number) for key, number in counted.items()), key=lambda row: -row[2])


def _about(report: BatchReport) -> Iterator[tuple[str, str]]:
    yield "recipe", report.recipe
    yield "output", report.output
    yield "onnxmorph", report.version
    yield "worked off by", f"{report.engine}, {report.jobs} at a time, {report.seconds:.1f} s"


def as_markdown(report: BatchReport) -> str:
    """``report.md``: what came of it, reasons by number, a table of models."""
    lines = [_MARK, "", "# Batch", "", f"**{report.summary()}**", ""]
    lines += [f"- {what}: {_md(text)}" for what, text in _about(report)]
    if reasons := _by_reason(report.models):
        lines += ["", "## Why not", "", "| outcome | code | models |", "|---|---|---:|"]
        lines += [f"| {_md(outcome)} | {_md(code)} | {number} |" for outcome, code, number in reasons]
    lines += ["", "## Models", "", f"| {' | '.join(_HEADINGS)} |", "|---|---|---:|---:|---:|---:|---|"]
    lines += [f"| {' | '.join(_md(cell) for cell in _cells(entry))} |" for entry in report.models]
    fence = "`" * max(3, 1 + _longest_run(report.recipe_text, "`"))
    lines += ["", "## Recipe", "", f"{fence}toml", report.recipe_text.rstrip("\n"), fence, ""]
    return "\n".join(lines)


def _longest_run(text: str, character: str) -> int:
    longest = run = 0
    for now in text:
        run = run + 1 if now == character else 0
        longest = max(longest, run)
    return longest


def _md(text: str) -> str:
    text = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{character}" if character in "\\`*_[]|#!~$" else character for character in text)


def as_html(report: BatchReport) -> str:
    """``report.html``: a page of its own that loads nothing from elsewhere."""
    from onnxmorph.report.batch import batch_page

    return batch_page(report.to_json())
