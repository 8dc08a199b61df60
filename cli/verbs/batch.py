"""``onnxmorph batch``: one recipe, many models."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ..gate import Reports, report_options
from ..options import Checking, checking_options, talk_options
from ..table import Table
from ..talk import Talk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxmorph.zoo.report import BatchReport, ModelEntry

__all__ = ["command", "memory_size"]

_UNITS = {"": 1, "K": 10, "M": 20, "G": 30, "T": 40}


def memory_size(text: str) -> int:
    """``500M``, ``4G``, ``1.5GiB``: bytes, in powers of 1024."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), flags=re.ASCII | re.IGNORECASE)
    if found is None:
        raise click.BadParameter(f"{text!r} is no size; write bytes, or 500M, 4G")
    unit = found[2].upper()
    size = float(found[1]) * (1 << _UNITS[unit] if unit else 1)
    if size < 1:
        raise click.BadParameter(f"{text!r}: a worker needs some memory")
    return int(size)


@click.command(name="batch", short_help="Carry out a recipe on many models.")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("models", metavar="MODEL_OR_GLOB...", nargs=-1, required=True)
@click.option(
    "-o", "--output", required=True, metavar="DIR", help="Folder of the children and the report; a path or an address."
)
@click.option("--jobs", type=click.IntRange(min=1), help="Models at a time. [default: one a core, as memory allows]")
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    default=1800.0,
    show_default=True,
    metavar="SECONDS",
    help="For one model.",
)
@click.option("--memory-limit", type=memory_size, metavar="SIZE", help="For one worker, as 4G. [default: what is free]")
@click.option("--force", is_flag=True, help="Replace files in DIR that this batch did not write.")
@click.option("--fresh", is_flag=True, help="Grow all models anew, up to date or not.")
@click.option("--allow-refused", is_flag=True, help="Exit with 0 though some models refused.")
@click.option("--engine", type=click.Choice(["processes", "dask"]), default="processes", show_default=True)
@click.option("--scheduler", metavar="ADDRESS", help="Of the dask cluster, as tcp://HOST:8786.")
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    help="Folder of the journal. [default: DIR/.onnxmorph-batch; for an address, in the user's cache]",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seeds what the verification draws."
)
@click.option("--dry-run", is_flag=True, help="Tell what would be done, write nothing.")
@checking_options(skippable=True)
@report_options
@talk_options
def command(
    *,
    recipe: Path,
    models: tuple[str, ...],
    output: str,
    jobs: int | None,
    time_limit: float,
    memory_limit: int | None,
    force: bool,
    fresh: bool,
    allow_refused: bool,
    engine: Literal["processes", "dask"],
    scheduler: str | None,
    state: Path | None,
    seed: int,
    dry_run: bool,
    checking: Checking,
    reports: Reports,
    talk: Talk,
) -> None:
    """Carry out RECIPE on many models, each in a process of its own, verified; children go to DIR.

    MODEL_OR_GLOB is a file, a folder, a quoted glob such as 'zoo/**/*.onnx', or an address such as s3://zoo/*.onnx.
    Children are named like their parents below the fixed part of the glob. Killed at any moment, the same command goes
    on where it stopped; what is up to date is not run again. DIR gets report.json, report.md and report.html.

    Exit code, the first that holds: 1 a child is not equivalent (and not written); 4 a model failed; 3 a model refused;
    0 all done or up to date.
    """
    context = click.get_current_context()
    if scheduler is not None and engine != "dask":
        raise click.UsageError("--scheduler goes with --engine dask", context)
    if engine == "dask" and scheduler is None:
        raise click.UsageError("--engine dask works on a cluster that exists: --scheduler tcp://HOST:PORT", context)
    if engine == "dask" and jobs is not None:
        raise click.UsageError("--jobs is for this machine; a cluster has as many as its workers have threads", context)
    from onnxmorph.delivery import Check
    from onnxmorph.zoo import Limits, Settings, run_batch
    from onnxmorph.zoo import dry_run as look

    check = Check(checking.provider, checking.inputs, checking.shapes, seed) if checking.verify else None
    limits = Limits(time_limit, memory_limit)
    began = datetime.now(UTC)
    settings = Settings(check, jobs, limits, force, fresh, allow_refused, engine, scheduler, state)
    try:
        if dry_run:
            report = look(recipe, models, output, settings)
        else:
            reports.ready()
            with _progress(talk) as watcher:
                report = run_batch(recipe, models, output, settings, watcher)
    except KeyboardInterrupt:
        talk.note("interrupted; what is done is kept, and the same command goes on from there")
        raise click.exceptions.Exit(130) from None
    if report.left_out:
        talk.note(f"{len(report.left_out)} file(s) in the output folder left out, such as {report.left_out[0]}")
    if not dry_run:
        from onnxmorph.report.batch import outcomes_of_batch

        reports.write(outcomes_of_batch(report.to_json()), began)
    document = {key: value for key, value in report.to_json().items() if key != "schema"}
    talk.result(document, lambda: _show(report), short=report.summary())
    if report.exit_code:
        raise click.exceptions.Exit(report.exit_code)


def _show(report: BatchReport) -> None:
    table = Table(["model", "outcome", ">ratio", ">parameters", ">seconds", "reason"])
    for entry in report.models:
        before, after = entry.parameters.get("before"), entry.parameters.get("after")
        sizes = "" if before is None else f"{before:,}" if after is None else f"{before:,} -> {after:,}"
        table.add(
            entry.model,
            f"{entry.outcome}, up to date" if entry.up_to_date else entry.outcome,
            "" if entry.ratio is None else f"{entry.ratio:.2f}" if isinstance(entry.ratio, float) else str(entry.ratio),
            sizes,
            "" if entry.seconds is None else f"{entry.seconds:.1f}",
            " ".join((entry.reason or "").split()),
        )
    table.show()
    click.echo()
    click.echo(report.summary())
    if not report.dry:
        click.echo(f"report: {report.output.rstrip('/')}/report.html, .md, .json")


@contextlib.contextmanager
def _progress(talk: Talk) -> Iterator[Any]:
    """Bars on a terminal, a line a model elsewhere, nothing under ``-q``."""
    from onnxmorph.zoo.batch import Watcher

    if talk.quiet:
        yield Watcher()
    elif sys.stderr.isatty() and not talk.verbose:
        with _bars() as watcher:
            yield watcher
    else:
        yield _lines(talk)


def _lines(talk: Talk) -> Any:
    from onnxmorph.zoo.batch import Watcher

    class Lines(Watcher):
        def __init__(self) -> None:
            self.all = 0
            self.over = 0

        def planned(self, to_do: int, up_to_date: int, jobs: int) -> None:
            self.all = to_do
            stood = f", {up_to_date} up to date" if up_to_date else ""
            talk.note(f"{to_do} to do{stood}" + (f", {jobs} at a time" if jobs else ""))

        def begun(self, model: str, stage: str) -> None:
            talk.detail(f"{model}: {stage}")

        def ended(self, entry: ModelEntry) -> None:
            if entry.up_to_date:
                talk.detail(f"{entry.model}: {entry.outcome}, up to date")
                return
            self.over += 1
            why = f": {' '.join(entry.reason.split())}" if entry.reason else ""
            talk.note(f"[{self.over}/{self.all}] {entry.model}: {entry.outcome}{why}")

    return Lines()


@contextlib.contextmanager
def _bars() -> Iterator[Any]:
    import rich.console
    import rich.markup
    import rich.progress

    from onnxmorph.zoo.batch import Watcher

    shown = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.TextColumn("{task.fields[counted]}"),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(),
        console=rich.console.Console(stderr=True),
    )

    class Bars(Watcher):
        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.bar = shown.add_task("models", total=None, counted="")
            self.over = 0
            self.all = 0
            self.running: dict[str, Any] = {}

        def planned(self, to_do: int, up_to_date: int, jobs: int) -> None:
            del jobs
            self.all = to_do + up_to_date
            shown.update(self.bar, total=self.all)

        def begun(self, model: str, stage: str) -> None:
            text = f"  {rich.markup.escape(model)}: {stage}"
            with self.lock:
                if model not in self.running:
                    self.running[model] = shown.add_task(text, total=None, counted="")
                shown.update(self.running[model], description=text)

        def ended(self, entry: ModelEntry) -> None:
            with self.lock:
                row = self.running.pop(entry.model, None)
                if row is not None:
                    shown.remove_task(row)
                self.over += 1
            shown.update(self.bar, completed=self.over, counted=f"{self.over}/{self.all}")
            if entry.outcome != "done" and not entry.up_to_date:
                why = f": {' '.join(entry.reason.split())}" if entry.reason else ""
                shown.console.print(f"{entry.model}: {entry.outcome}{why}", markup=False, highlight=False)

    with shown:
        yield Bars()
