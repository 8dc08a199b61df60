"""What came of one check, in plain words: all that JUnit XML, annotations and summaries are written from.

Both ``verify`` (one outcome a pair of models) and ``batch`` (one a model) give these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from onnxmorph.errors import NotEquivalent, OnnxMorphError, Refusal

__all__ = ["Outcome", "Verdict", "exit_code", "of_certificate", "of_error", "reading"]

Verdict = Literal["equivalent", "not equivalent", "refused", "failed", "skipped"]

_EXIT_CODES: dict[Verdict, int] = {"equivalent": 0, "not equivalent": 1, "refused": 3, "failed": 4, "skipped": 0}
_WORST_FIRST = (1, 4, 2, 3)


@dataclass(frozen=True)
class Outcome:
    """What came of checking one child.

    Attributes:
        name: What it is called in a report; the pair's relative path, or the model's.
        verdict: In one word or two; ``skipped``: nothing was to be checked (up to date, no parent).
        reason: One line that says why, where the verdict is not ``equivalent``.
        seconds: How long it took, of wall-clock time.
        parent: Path of the parent's file, as it was given.
        child: Path of the child's file, as it was given: what an annotation points at.
        certificate: As :meth:`onnxmorph.verify.Certificate.to_json` gives it; ``None``: nothing could be compared.
        code: Exit code, where it is not the one that goes with the verdict.
    """

    name: str
    verdict: Verdict
    reason: str = ""
    seconds: float = 0.0
    parent: str = ""
    child: str = ""
    certificate: Mapping[str, Any] | None = None
    code: int | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of a command that did nothing but this."""
        return _EXIT_CODES[self.verdict] if self.code is None else self.code


def of_certificate(
    name: str, certificate: Mapping[str, Any], *, parent: str = "", child: str = "", seconds: float = 0.0
) -> Outcome:
    """The outcome of a comparison that was carried out.

    Args:
        name: What the pair is called.
        certificate: As JSON, or as it travels in a child's metadata.
        parent: Path of the parent's file.
        child: Path of the child's file.
        seconds: How long it took; 0: what the certificate says.
    """
    equivalent = certificate.get("equivalent") is True
    failures = certificate.get("failures") or [f"unproven: {reason}" for reason in certificate.get("unproven") or []]
    reason = "" if equivalent else str(failures[0]) if failures else "not shown to be equivalent"
    taken = seconds or float(certificate.get("seconds") or 0.0)
    return Outcome(name, "equivalent" if equivalent else "not equivalent", reason, taken, parent, child, certificate)


def of_error(name: str, error: Exception, *, parent: str = "", child: str = "", seconds: float = 0.0) -> Outcome:
    """The outcome of a check that could not be carried out, or ended in a :class:`NotEquivalent`."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, NotEquivalent):
        return Outcome(name, "not equivalent", reason, seconds, parent, child, error.certificate.to_json())
    verdict: Verdict = "refused" if isinstance(error, Refusal) else "failed"
    code = error.exit_code if isinstance(error, OnnxMorphError) else 4
    return Outcome(name, verdict, reason, seconds, parent, child, code=code)


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """The exit code of several: the worst.

    A child that was shown to be wrong (1) is worse than one that could not be checked (4, then 2), and that is worse
    than one that was refused (3).
    """
    codes = {outcome.exit_code for outcome in outcomes}
    return next((code for code in _WORST_FIRST if code in codes), max(codes, default=0))


def reading(outcomes: Iterable[Outcome]) -> str:
    """How many of each, in one line: ``3 equivalent, 1 failed``."""
    counts: dict[str, int] = {}
    for outcome in outcomes:
        counts[outcome.verdict] = counts.get(outcome.verdict, 0) + 1
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in _EXIT_CODES if verdict in counts) or "nothing"
