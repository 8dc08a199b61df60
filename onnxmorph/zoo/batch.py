"""A batch from its first look at the disk to its report."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from onnxmorph.errors import ModelError, RuntimeFailure, SelectionError
from onnxmorph.zoo import memory
from onnxmorph.zoo.engines import Engine, ProcessEngine
from onnxmorph.zoo.journal import Journal
from onnxmorph.zoo.outbox import Outbox
from onnxmorph.zoo.report import BatchReport, ModelEntry, as_html, as_json, as_markdown, is_report
from onnxmorph.zoo.selection import OWN_FOLDER, REPORTS, Parent, Selected, select_parents
from onnxmorph.zoo.settings import Settings
from onnxmorph.zoo.stores import LocalStore, Store, open_store
from onnxmorph.zoo.task import Task, fingerprint

__all__ = ["Watcher", "dry_run", "run_batch"]

_STANDS = ("done", "refused", "not-equivalent")
"""Outcomes that follow from the bytes, and are not tried again; what failed may do better next time."""
_MOST_SHOWN = 3


class Watcher:
    """Told how a batch goes on. Override what is of interest; methods are called from several threads."""

    def planned(self, to_do: int, up_to_date: int, jobs: int) -> None:
        """Work begins on ``to_do`` models, ``jobs`` at a time."""

    def begun(self, model: str, stage: str) -> None:
        """A model's worker begins something: ``loading``, ``growing``, ``verifying`` ..."""

    def ended(self, entry: ModelEntry) -> None:
        """A model is over."""


def run_batch(
    recipe: str | Path,
    models: Sequence[str | Path],
    output: str | Path,
    settings: Settings | None = None,
    watcher: Watcher | None = None,
) -> BatchReport:
    """Carry a recipe out on many models, each in a process of its own, and write one report.

    A child bears its parent's name relative to the fixed part of the glob that found it, in ``output``. A model whose
    parent bytes, recipe, onnxmorph version and options are as they were, and whose child is in place as it was written,
    is up to date and not run. A batch may be killed at any moment; the same call goes on where it stopped.

    Args:
        recipe: A TOML file; see :mod:`onnxmorph.recipe`.
        models: Files, folders (all ``.onnx`` below) and globs; addresses such as ``s3://bucket/zoo/**/*.onnx`` where
            fsspec is installed.
        output: A folder, or an address. ``report.json``, ``report.md`` and ``report.html`` go there too.
        settings: How; see :class:`Settings`.
        watcher: Told how it goes on.

    Returns:
        What came of every model. Models that are refused, fail, crash their process, hang or are not equivalent are in
        it, with the reason; they raise nothing.

    Raises:
        SelectionError: The recipe cannot be read; nothing is selected; two parents would give one child; a parent lies
            in the output folder; a file is in the way that this batch did not write.
        ModelError: The output folder or the journal cannot be written; another batch is at work there.
        RuntimeFailure: What an address or the engine needs is not installed or does not answer.
    """
    settings = Settings() if settings is None else settings
    watcher = Watcher() if watcher is None else watcher
    started = time.monotonic()
    plan = _plan(recipe, models, output, settings)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_only_one(plan.state))
        journal = stack.enter_context(Journal(plan.state / "journal.jsonl"))
        outbox = Outbox(plan.output, journal, force=settings.force)
        outbox.recover()
        _sweep(plan, journal)
        tasks, entries = _divided(plan, settings, outbox)
        _refuse_foreign(plan, tasks, outbox, settings)
        engine = _engine(plan, tasks, settings) if tasks else None
        journal.append("run", schema=1, run=plan.run, time=round(time.time()), to_do=len(tasks))
        stack.callback(_sweep, plan, journal)
        watcher.planned(len(tasks), len(entries), 0 if engine is None else engine.jobs)
        for entry in entries.values():
            watcher.ended(entry)
        if engine is not None:
            ends = engine.run(tasks, lambda task, stage: watcher.begun(str(task.parent), stage))
            stack.enter_context(contextlib.closing(ends))
            for task, made in ends:
                label = str(task.parent)
                if made.result is None:  # the same bytes as when its child was made, which is still there
                    entry = ModelEntry.from_journal(label, journal.ended[task.name], up_to_date=True)
                else:
                    fields = outbox.publish(task.name, made, {"run": plan.run, "model": label})
                    entry = ModelEntry.from_journal(label, fields, up_to_date=False)
                plan.output.remove_folder(task.staging)
                entries[task.name] = entry
                watcher.ended(entry)
        report = _report(plan, settings, entries, 1 if engine is None else engine.jobs, time.monotonic() - started)
        _write_report(plan.output, report)
        return report


def dry_run(
    recipe: str | Path, models: Sequence[str | Path], output: str | Path, settings: Settings | None = None
) -> BatchReport:
    """What :func:`run_batch` would do: which models are up to date, and which would be grown. Writes nothing.

    Raises:
        SelectionError, ModelError, RuntimeFailure: As :func:`run_batch`.
    """
    settings = Settings() if settings is None else settings
    plan = _plan(recipe, models, output, settings)
    with Journal(plan.state / "journal.jsonl", read_only=True) as journal:
        outbox = Outbox(plan.output, journal, force=settings.force)
        tasks, entries = _divided(plan, settings, outbox)
        _refuse_foreign(plan, tasks, outbox, settings)
        for task in tasks:
            entries[task.name] = ModelEntry(str(task.parent), task.name, "pending", bytes={"before": task.bytes})
        return dataclasses.replace(_report(plan, settings, entries, settings.jobs or memory.cores(), 0.0), dry=True)


@dataclass(frozen=True)
class _Plan:
    """What is known before anything is written."""

    recipe: str
    recipe_text: str
    output: Store
    selected: Selected
    state: Path
    run: str
    bearing: Mapping[str, Any]

    @property
    def staging(self) -> str:
        return _staging(self.run)

    @property
    def scratch(self) -> Path:
        return self.state / "fetched"


def _staging(run: str) -> str:
    return f"{OWN_FOLDER}/staged-{run}"


def _plan(recipe: str | Path, models: Sequence[str | Path], output: str | Path, settings: Settings) -> _Plan:
    from onnxmorph.recipe import parse_recipe, read_recipe

    parsed = read_recipe(recipe)
    text = Path(recipe).read_text(encoding="utf-8")
    parse_recipe(text, name=parsed.name)
    if not str(output):
        raise SelectionError("the output folder has an empty name")
    store = open_store(str(output))
    path = store.path("")
    if path is not None and os.path.lexists(path) and not path.is_dir():
        raise SelectionError(f"{output} is there and is no folder; children need one")
    if not models:
        raise SelectionError("no model is named")
    selected = select_parents([str(model) for model in models], store)
    if settings.limits.bytes is not None and memory.taken(os.getpid()) is None:
        raise RuntimeFailure("memory cannot be watched on this platform: go without a memory limit")
    run = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"
    return _Plan(parsed.name, text, store, selected, _state_folder(store, settings), run, settings.bearing())


def _state_folder(output: Store, settings: Settings) -> Path:
    if settings.state is not None:
        return Path(settings.state).absolute()
    path = output.path(OWN_FOLDER)
    if path is not None:
        return path
    cache = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA", "") if sys.platform == "win32" else "")
    name = hashlib.sha256(output.shown("").encode()).hexdigest()[:16]
    return Path(cache or Path.home() / ".cache", "onnxmorph", "batch", name)


@contextlib.contextmanager
def _only_one(state: Path) -> Iterator[None]:
    """Hold the lock of a state folder, which the system lets go of however this process ends."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        file = (state / "lock").open("a+b")
    except OSError as error:
        raise ModelError(f"{state}: cannot be written: {error.strerror}") from error
    with file:
        if not _locked(file):
            raise ModelError(f"another batch is at work with {state}; wait for it, or choose another output folder")
        yield


def _locked(file: BinaryIO) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK)  # a file system that knows no locks
    return True


def _sweep(plan: _Plan, journal: Journal) -> None:
    """Remove what runs that are over have left under temporary names."""
    shutil.rmtree(plan.scratch, ignore_errors=True)
    for run in list(journal.open_runs):
        plan.output.remove_folder(_staging(run))
        journal.append("closed", run=run)


def _divided(plan: _Plan, settings: Settings, outbox: Outbox) -> tuple[list[Task], dict[str, ModelEntry]]:
    """The tasks to be done, and the entries of what is up to date, by the child's name."""
    journal = outbox.journal
    tasks: list[Task] = []
    entries: dict[str, ModelEntry] = {}
    check = None
    if settings.check is not None:
        given = settings.check
        check = {
            "provider": given.provider,
            "inputs": None if given.inputs is None else str(Path(given.inputs).absolute()),
            "shapes": {name: list(dims) for name, dims in given.shapes.items()},
            "seed": given.seed,
        }
    with ThreadPoolExecutor(min(8, memory.cores())) as pool:
        known = list(pool.map(lambda parent: _inputs(parent, journal), plan.selected.parents))
    for number, (parent, (inputs, size)) in enumerate(zip(plan.selected.parents, known, strict=True)):
        entry = journal.ended.get(parent.name)
        stands = (
            entry is not None
            and not settings.fresh
            and entry["result"]["outcome"] in _STANDS
            and outbox.stands(parent.name)
        )
        task = Task(
            parent,
            plan.output,
            f"{plan.staging}/{number}",
            plan.recipe_text,
            plan.recipe,
            check,
            plan.bearing,
            size,
            inputs,
            entry["key"] if entry is not None and stands else None,
            str(plan.scratch) if settings.engine == "processes" else None,
        )
        if inputs is not None and task.key(inputs) == task.known_key:
            assert entry is not None
            entries[parent.name] = ModelEntry.from_journal(str(parent), entry, up_to_date=True)
        else:
            tasks.append(task)
    return tasks, entries


def _inputs(parent: Parent, journal: Journal) -> tuple[dict[str, str] | None, int]:
    """Hashes of a parent's files where they can be had without copying it here, and their bytes."""
    path = parent.store.path(parent.name)
    if path is not None:
        try:
            return fingerprint(path)
        except OSError:
            return None, 0  # growing it will say what is wrong
    entry = journal.ended.get(parent.name, {})
    tokens = entry.get("tokens", {})
    folder = PurePosixPath(parent.name).parent
    size = parent.store.size(parent.name)
    if tokens and set(tokens) == set(entry["inputs"]):
        names = {at: parent.name if at == "" else str(folder / at.replace("\\", "/")) for at in tokens}
        if all(parent.store.token(names[at]) == token for at, token in tokens.items()):
            return dict(entry["inputs"]), int(entry["bytes"]["before"] or size)
    return None, size


def _refuse_foreign(plan: _Plan, tasks: Sequence[Task], outbox: Outbox, settings: Settings) -> None:
    """Before anything runs: nothing that this batch did not write may be in the way."""
    if settings.force:
        return
    found = [name for task in tasks if (name := outbox.foreign(task.name)) is not None]
    for name in REPORTS:
        data = plan.output.read(name)
        if data is not None and not is_report(name, data):
            found.append(name)
    if found:
        shown = ", ".join(plan.output.shown(name) for name in found[:_MOST_SHOWN])
        more = f" and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
        raise SelectionError(
            f"{shown}{more}: there already, and not as this batch has written it; --force (force=True) replaces it"
        )


def _engine(plan: _Plan, tasks: Sequence[Task], settings: Settings) -> Engine:
    label = plan.output.shown("")
    if settings.engine == "processes":
        with _explained(plan.scratch):
            plan.scratch.mkdir(parents=True, exist_ok=True)
        return ProcessEngine(settings.jobs, settings.limits, len(tasks), label)
    from onnxmorph.zoo.cluster import DaskEngine

    stores = [plan.output, *(task.parent.store for task in tasks)]
    private = next((store.root for store in stores if store.root.startswith("memory:")), None)
    if private is not None:
        raise SelectionError(f"{private}: lies in the memory of this process, which no cluster sees")
    shared = any(isinstance(store, LocalStore) for store in stores)
    return DaskEngine(settings.scheduler, settings.limits, label, plan.state / "journal.jsonl" if shared else None)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror}") from error


def _report(
    plan: _Plan, settings: Settings, entries: Mapping[str, ModelEntry], jobs: int, seconds: float
) -> BatchReport:
    from onnxmorph import __version__

    return BatchReport(
        plan.recipe,
        plan.recipe_text,
        plan.output.shown(""),
        plan.bearing,
        tuple(entries[parent.name] for parent in plan.selected.parents),
        plan.selected.left_out,
        jobs,
        settings.engine,
        seconds,
        settings.allow_refused,
        __version__,
    )


def _write_report(output: Store, report: BatchReport) -> None:
    for name, write in zip(REPORTS, (as_json, as_markdown, as_html), strict=True):
        output.write(name, write(report).encode("utf-8", "backslashreplace"))
