"""Many pairs in one call, and what a CI system reads of them: JUnit XML, a step summary, annotations."""

from __future__ import annotations

import functools
import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from onnxmorph.diff import Diff
    from onnxmorph.report.outcomes import Outcome
    from onnxmorph.verify import Certificate

    from .talk import Talk

__all__ = ["Pair", "Reports", "check", "chosen_pairs", "report_options"]

Verb = TypeVar("Verb", bound=Callable[..., Any])

_STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


@dataclass(frozen=True)
class Pair:
    """A parent and a child, and what the two are called in reports.

    Attributes:
        name: The path they share below their folders, or the child's own.
        parent: File; ``None``: a child that has no parent where its own should be.
        child: File.
    """

    name: str
    parent: Path | None
    child: Path


@dataclass(frozen=True)
class Reports:
    """Which reports are written besides what is said.

    Attributes:
        junit: File for JUnit XML.
        summary: File for the Markdown summary.
        append: Whether ``summary`` is the step summary that other programs write too.
        annotations: Whether lines for GitHub's runner are printed.
    """

    junit: Path | None
    summary: Path | None
    append: bool
    annotations: bool

    def ready(self) -> None:
        """Says what cannot be written before any work is done.

        Raises:
            SelectionError: A file is in the way.
        """
        from onnxmorph.report.files import may_write

        if self.junit is not None:
            may_write(self.junit, "junit")
        if self.summary is not None and not self.append:
            may_write(self.summary, "markdown")

    def write(self, outcomes: Sequence[Outcome], began: datetime) -> None:
        """Writes what was asked for."""
        from onnxmorph.report.files import append_report, write_report

        if self.junit is not None:
            from onnxmorph.report.junit import junit_xml, suite_of

            stamp = began.strftime("%Y-%m-%dT%H:%M:%S")
            suites = [suite_of(outcome) for outcome in outcomes]
            write_report(self.junit, junit_xml(suites, name="onnxmorph verify", timestamp=stamp), "junit")
        if self.summary is not None:
            from onnxmorph.report.step_summary import step_summary

            text = step_summary(outcomes, _changes)
            if self.append:
                append_report(self.summary, f"{text}\n")
            else:
                write_report(self.summary, text, "markdown")
        if self.annotations:
            from onnxmorph.report.annotations import github_annotations

            for line in github_annotations(outcomes):
                click.echo(line, err=True)


def report_options(verb: Verb) -> Verb:
    """``--junit``, ``--summary``, ``--annotations``, given to the verb as ``reports``."""

    @click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write the results as JUnit XML.")
    @click.option(
        "--summary",
        metavar="FILE|-",
        help="Write a Markdown summary with a picture of what changed; -: add it to GitHub's step summary.",
    )
    @click.option("--annotations", is_flag=True, help="Print annotations for GitHub Actions on stderr.")
    @functools.wraps(verb)
    def with_reports(*args: Any, junit: Path | None, summary: str | None, annotations: bool, **kwargs: Any) -> Any:
        append = summary == "-"
        where = os.environ.get(_STEP_SUMMARY) if append else summary
        if append and not where:
            raise click.UsageError(
                f"--summary - goes to the file that {_STEP_SUMMARY} names, and that is not set; name a file",
                click.get_current_context(),
            )
        path = Path(where) if where else None
        if path is not None and junit is not None and path.absolute() == junit.absolute():
            raise click.UsageError("--junit and --summary name the same file", click.get_current_context())
        return verb(*args, reports=Reports(junit, path, append, annotations), **kwargs)

    return with_reports  # type: ignore[return-value]


# -- which pairs ------------------------------------------------------------------------------------------------------


def chosen_pairs(parent: Path | None, child: Path | None, listed: Path | None) -> list[Pair] | None:
    """The pairs that were asked for; ``None`` where it is just the two models that were named.

    Args:
        parent: A model, or a folder of models.
        child: A model, or a folder in which each has its child under the same path.
        listed: A list of pairs, one a line; paths that are not absolute are taken from the list's own folder.

    Raises:
        click.UsageError: Neither or both ways are used, one is a folder and the other not, or nothing is found.
    """
    context = click.get_current_context(silent=True)
    if listed is not None:
        if parent is not None:
            raise click.UsageError("--pairs takes the place of PARENT and CHILD", context)
        return _read_pairs(listed)
    if parent is None or child is None:
        raise click.UsageError("name PARENT and CHILD, or a list of pairs by --pairs", context)
    if parent.is_dir() != child.is_dir():
        folder, other = (parent, child) if parent.is_dir() else (child, parent)
        raise click.UsageError(f"{folder} is a folder and {other} is not; name two models or two folders", context)
    return _pairs_of_folders(parent, child) if parent.is_dir() else None


def _pairs_of_folders(parents: Path, children: Path) -> list[Pair]:
    before, after = _models(parents, without=children), _models(children, without=parents)
    if not before:
        raise click.UsageError(
            f"there is no .onnx file in {parents} or below it", click.get_current_context(silent=True)
        )
    pairs = [Pair(name, parents / name, children / name) for name in before]
    return pairs + [Pair(name, None, children / name) for name in after if name not in before]


def _models(folder: Path, *, without: Path) -> dict[str, None]:
    """The models below a folder, by their path there; one folder of a pair may lie in the other."""
    inside = folder.resolve() != without.resolve() and without.resolve().is_relative_to(folder.resolve())
    found = (
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*.onnx")
        if file.is_file() and not (inside and file.resolve().is_relative_to(without.resolve()))
    )
    return dict.fromkeys(sorted(found))


def _read_pairs(listed: Path) -> list[Pair]:
    context = click.get_current_context(silent=True)
    try:
        text = listed.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{listed} is no text", context) from error
    except OSError as error:
        raise click.UsageError(f"{listed}: {error.strerror}", context) from error
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise click.UsageError(f"{listed}:{number}: {error}", context) from error
        if not words:
            continue
        if len(words) != 2:
            raise click.UsageError(
                f"{listed}:{number}: a line holds a parent and a child, not {len(words)} word(s);"
                " quote paths that have spaces",
                context,
            )
        parent, child = (listed.parent / word for word in words)
        pairs.append(Pair(words[1], parent, child))
    if not pairs:
        raise click.UsageError(f"{listed} lists no pair", context)
    return pairs


# -- checking them ----------------------------------------------------------------------------------------------------


def check(
    parent: Path | None,
    child: Path | None,
    listed: Path | None,
    compare: Callable[[Path, Path], Certificate],
    show: Callable[[Certificate], None],
    *,
    reports: Reports,
    talk: Talk,
) -> None:
    """Compares the pairs that were asked for, tells what came of them, writes the reports.

    Args:
        parent: A model, or a folder of models.
        child: Likewise.
        listed: A list of pairs, in the place of both.
        compare: One parent with one child.
        show: Prints a certificate for a person.
        reports: What to write.
        talk: How to tell.

    Raises:
        click.exceptions.Exit: With the exit code of the worst, where that is not 0.
        OnnxMorphError: One pair was asked for, and it cannot be compared.
    """
    pairs = chosen_pairs(parent, child, listed)
    reports.ready()
    if pairs is None:
        assert parent is not None and child is not None
        _check_one(Pair(child.as_posix(), parent, child), compare, show, reports, talk)
    else:
        _check_all(pairs, compare, reports, talk)


def _check_one(
    pair: Pair,
    compare: Callable[[Path, Path], Certificate],
    show: Callable[[Certificate], None],
    reports: Reports,
    talk: Talk,
) -> None:
    from onnxmorph.errors import OnnxMorphError
    from onnxmorph.report.outcomes import of_certificate, of_error

    began, begun = datetime.now(UTC), time.perf_counter()
    names = {"parent": str(pair.parent), "child": str(pair.child)}
    assert pair.parent is not None
    try:
        with talk.step("verifying"):
            certificate = compare(pair.parent, pair.child)
    except (OnnxMorphError, OSError) as error:
        reports.write([of_error(pair.name, error, **names, seconds=time.perf_counter() - begun)], began)
        raise
    document = certificate.to_json()
    talk.result(document, lambda: show(certificate), short=certificate.verdict)
    reports.write([of_certificate(pair.name, document, **names, seconds=time.perf_counter() - begun)], began)
    if not certificate.equivalent:
        raise click.exceptions.Exit(1)


def _check_all(
    pairs: Sequence[Pair], compare: Callable[[Path, Path], Certificate], reports: Reports, talk: Talk
) -> None:
    from onnxmorph.report.outcomes import exit_code, reading

    began = datetime.now(UTC)
    outcomes = []
    for pair in pairs:
        outcomes.append(_outcome(pair, compare, talk))
        if not talk.as_json and not talk.quiet:
            _tell(outcomes[-1])
    code = exit_code(outcomes)
    document = {
        "equivalent": code == 0,
        "exit_code": code,
        "pairs": [
            {
                "name": outcome.name,
                "parent": outcome.parent or None,
                "child": outcome.child,
                "verdict": outcome.verdict,
                "reason": outcome.reason,
                "exit_code": outcome.exit_code,
                "seconds": round(outcome.seconds, 3),
                "certificate": outcome.certificate,
            }
            for outcome in outcomes
        ],
    }
    talk.result(document, lambda: click.echo(reading(outcomes)), short=reading(outcomes))
    reports.write(outcomes, began)
    if code:
        raise click.exceptions.Exit(code)


def _outcome(pair: Pair, compare: Callable[[Path, Path], Certificate], talk: Talk) -> Outcome:
    """Checks a pair; what goes wrong with it is its outcome, and does not end the others'."""
    from onnxmorph.errors import ModelError, OnnxMorphError
    from onnxmorph.report.outcomes import Outcome, of_certificate, of_error

    if pair.parent is None:
        return Outcome(pair.name, "skipped", "it has no parent to be compared with", child=str(pair.child))
    names = {"parent": str(pair.parent), "child": str(pair.child)}
    begun = time.perf_counter()
    try:
        if not pair.child.exists() and pair.parent.exists():
            raise ModelError(f"{pair.child}: the parent is there, and its child is not")
        with talk.step(f"verifying {pair.name}"):
            document = compare(pair.parent, pair.child).to_json()
    except (OnnxMorphError, OSError, MemoryError) as error:
        return of_error(pair.name, error, **names, seconds=time.perf_counter() - begun)
    return of_certificate(pair.name, document, **names, seconds=time.perf_counter() - begun)


def _tell(outcome: Outcome) -> None:
    # On one line whatever a name holds: a line of its own could be a command to the system that runs this.
    reason = f": {' '.join(outcome.reason.split())}" if outcome.reason else ""
    click.echo(f"{outcome.verdict}  {' '.join(outcome.name.split())}  ({outcome.seconds:.1f} s){reason}")


def _changes(outcome: Outcome) -> Diff | None:
    """What a child differs in; ``None`` where that cannot be said, which is no reason to go without a report."""
    from onnxmorph import model
    from onnxmorph.diff import diff
    from onnxmorph.errors import OnnxMorphError

    if not (outcome.parent and outcome.child):
        return None
    try:
        return diff(model.load(outcome.parent), model.load(outcome.child))
    except (OnnxMorphError, OSError):
        return None
