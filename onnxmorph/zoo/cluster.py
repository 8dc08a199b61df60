"""The workers of a dask cluster as an engine.

Dask, since it is Python alone (no server of its own to install, any platform), runs on clusters that exist already
(SSH, Kubernetes, Slurm and others all give a scheduler's address), and asks nothing more of a task than that it can be
pickled. A task there does what a thread does here: it starts a worker process of its own, under the same clock and the
same scale, so a crash costs one model and no dask worker. Placing children and the journal stay with the batch.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxmorph.errors import RuntimeFailure, SelectionError
from onnxmorph.zoo import memory
from onnxmorph.zoo.engines import Begun
from onnxmorph.zoo.settings import Limits
from onnxmorph.zoo.slot import Slot, Stopped
from onnxmorph.zoo.task import Attempt, Task, attempt

__all__ = ["DaskEngine"]

_CONNECT_SECONDS = 10
_IDLE_SECONDS = 30.0


class DaskEngine:
    """Tasks on an existing cluster.

    Args:
        scheduler: Its address.
        limits: For each model; without a limit of memory, a worker gets what is free on its machine, over its threads.
        label: Shown in the workers' command lines.
        shared: A file that is there on this machine, which the cluster must see too where models are read from or
            written to paths; ``None``: everything lies in stores.

    Raises:
        RuntimeFailure: Dask is not installed, nothing answers, there are no workers, or they see other files.
    """

    def __init__(self, scheduler: str | None, limits: Limits, label: str, shared: Path | None) -> None:
        if scheduler is None:
            raise SelectionError(
                "--engine dask works on a cluster that exists: say which with --scheduler tcp://HOST:PORT"
            )
        try:
            distributed: Any = importlib.import_module("distributed")
        except ImportError as error:
            raise RuntimeFailure("--engine dask needs the extra 'dask': pip install 'onnxmorph[dask]'") from error
        try:
            self.client = distributed.Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise RuntimeFailure(f"no dask scheduler answers at {scheduler}: {' '.join(str(error).split())}") from error
        try:
            self._examine(shared, scheduler)
        except BaseException:
            self.client.close()
            raise
        self.limits = limits
        self.label = label

    def _examine(self, shared: Path | None, scheduler: str) -> None:
        try:
            seen: Mapping[str, tuple[str, bool, str, int]] = self.client.run(
                _sees, None if shared is None else str(shared)
            )
        except Exception as error:  # whatever a worker's import raises travels here
            raise RuntimeFailure(
                f"the workers of {scheduler} cannot use onnxmorph: {' '.join(str(error).split())}"
            ) from error
        if not seen:
            raise RuntimeFailure(f"the dask scheduler at {scheduler} has no workers")
        from onnxmorph import __version__

        self.jobs = 0
        self.threads_by_host: Counter[str] = Counter()
        for address, (version, there, host, threads) in seen.items():
            self.jobs += threads
            self.threads_by_host[host] += threads
            if version != __version__:
                raise RuntimeFailure(f"the dask worker {address} has onnxmorph {version}, this is {__version__}")
            if not there:
                raise RuntimeFailure(
                    f"the dask worker {address} does not see {shared}: put models and children on a file system that "
                    "all share, or in a store (s3:// ...)"
                )

    def run(self, tasks: Sequence[Task], begun: Begun) -> Generator[tuple[Task, Attempt]]:
        distributed: Any = importlib.import_module("distributed")
        by_key: dict[str, Task] = {}
        futures = []
        for task in sorted(tasks, key=lambda task: task.bytes, reverse=True):
            future = self.client.submit(
                _attempt_there,
                task,
                self.limits,
                dict(self.threads_by_host),
                self.label,
                key=f"onnxmorph-{task.staging}",
                pure=False,
                retries=0,
            )
            by_key[future.key] = task
            futures.append(future)
            begun(task, "on the cluster")
        try:
            for future in distributed.as_completed(futures, loop=self.client.loop):
                task = by_key[future.key]
                error = future.exception()
                if error is None:
                    yield task, future.result()
                else:  # the dask worker itself died over it, several times
                    said = " ".join(str(error).split()) or type(error).__name__
                    failed = {"outcome": "failed", "code": "cluster", "reason": f"lost by the cluster: {said}"}
                    yield task, Attempt(None, {**failed, "seconds": 0.0})
                future.release()
        finally:
            with contextlib.suppress(Exception):
                self.client.cancel(futures, force=True)
            with contextlib.suppress(Exception):
                self.client.run(_end_idle)
            self.client.close()


_idle: list[tuple[tuple[Limits, int, str], Slot]] = []
_idle_lock = threading.Lock()


def _sees(path: str | None, dask_worker: Any) -> tuple[str, bool, str, int]:
    """On a dask worker: its version of this package, whether a file is there, its machine, and its threads."""
    from onnxmorph import __version__

    return __version__, path is None or Path(path).is_file(), _host(dask_worker), int(dask_worker.state.nthreads)


def _host(worker: Any) -> str:
    return str(worker.address).rpartition("://")[2].rpartition(":")[0]


def _attempt_there(task: Task, limits: Limits, threads_by_host: Mapping[str, int], label: str) -> Attempt:
    """On a dask worker: one task, in a worker process that the next task takes over."""
    distributed: Any = importlib.import_module("distributed.worker")
    here = distributed.get_worker()
    beside = max(1, threads_by_host.get(_host(here), 1))
    if limits.bytes is None:
        free = memory.available()
        limits = Limits(limits.seconds, None if free is None else int(free * memory.SHARE))
    kind = (Limits(limits.seconds), max(1, memory.cores() // beside), label)
    slot = _taken_slot(kind) or Slot(limits, kind[1], label)
    slot.limits = limits
    try:
        made = attempt(task, slot, stopping=_given_up(here, distributed.thread_state.key))
    except Stopped:
        return Attempt(
            None, {"outcome": "failed", "code": "stopped", "reason": "the batch was stopped", "seconds": 0.0}
        )
    except BaseException:
        slot.close()
        raise
    with _idle_lock:
        _idle.append((kind, slot))
    timer = threading.Timer(_IDLE_SECONDS, _end_idle, [slot])  # should the batch be killed, nobody else will end it
    timer.daemon = True
    timer.start()
    return made


def _end_idle(only: Slot | None = None) -> None:
    """End worker processes that wait for a task: one of them, or all."""
    with _idle_lock:
        for entry in list(_idle):
            if only is None or entry[1] is only:
                _idle.remove(entry)
                entry[1].close()


def _taken_slot(kind: tuple[Limits, int, str]) -> Slot | None:
    with _idle_lock:
        for place, (known, _) in enumerate(_idle):
            if known == kind:
                return _idle.pop(place)[1]
        for _, slot in _idle:  # of another batch, which is over
            slot.close()
        _idle.clear()
        return None


def _given_up(worker: Any, key: str) -> Callable[[], bool]:
    """Whether nobody waits for a task any more: its batch was stopped or killed."""

    def given_up() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state in ("cancelled", "released", "forgotten")

    return given_up
