"""Who works off the tasks of a batch: threads of this process with a worker process each, or a cluster."""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Protocol

from onnxmorph.zoo import memory
from onnxmorph.zoo.settings import Limits
from onnxmorph.zoo.slot import Slot, Stopped
from onnxmorph.zoo.task import Attempt, Task, attempt

__all__ = ["Begun", "Engine", "ProcessEngine"]

_LOOK_EVERY = 0.5

Begun = Callable[[Task, str], None]
"""Told from any thread which task begins what."""


class Engine(Protocol):
    """Works off tasks.

    Attributes:
        jobs: How many at a time.
    """

    jobs: int

    def run(self, tasks: Sequence[Task], begun: Begun) -> Generator[tuple[Task, Attempt]]:
        """Each task with what came of it, as they end. When the iterator is closed, what still runs is ended."""


class ProcessEngine:
    """Worker processes of this machine, as many as ``jobs`` at a time and no more than memory is reckoned to bear.

    Args:
        jobs: Most models at a time; ``None``: one a core.
        limits: For each model. Without a limit of memory, a worker gets what was free when the engine was made.
        most: How many tasks there are.
        label: Shown in the workers' command lines.
    """

    def __init__(self, jobs: int | None, limits: Limits, most: int, label: str) -> None:
        free = memory.available()
        self.budget = None if free is None else int(free * memory.SHARE)
        self.jobs = max(1, min(jobs if jobs is not None else memory.cores(), most))
        if jobs is None and self.budget is not None:
            self.jobs = max(1, min(self.jobs, self.budget // memory.BASE))
        self.limits = limits if limits.bytes is not None else Limits(limits.seconds, self.budget)
        self.label = label

    def run(self, tasks: Sequence[Task], begun: Begun) -> Generator[tuple[Task, Attempt]]:
        # The largest first, so that none of them is left to the end alone.
        counter = _Counter(sorted(tasks, key=lambda task: task.bytes, reverse=True), self.budget)
        over: queue.Queue[tuple[Task, Attempt] | BaseException] = queue.Queue()
        threads = [
            threading.Thread(target=self._serve, args=(counter, over, begun), name=f"onnxmorph-slot-{number}")
            for number in range(min(self.jobs, len(tasks)))
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in tasks:
                ended = _next(over)
                if isinstance(ended, BaseException):
                    raise ended
                yield ended
        finally:
            counter.stop()
            for thread in threads:
                thread.join()

    def _serve(self, counter: _Counter, over: queue.Queue[tuple[Task, Attempt] | BaseException], begun: Begun) -> None:
        slot = Slot(self.limits, max(1, memory.cores() // self.jobs), self.label)
        try:
            while (task := counter.take()) is not None:
                try:
                    said = attempt(task, slot, stopping=counter.stopped, stage=functools.partial(begun, task))
                finally:
                    counter.give_back(task)
                over.put((task, said))
        except Stopped:
            pass
        except BaseException as error:
            over.put(error)  # a fault of the batch itself: the thread that waits is to raise it
        finally:
            slot.close()


def _next(over: queue.Queue[tuple[Task, Attempt] | BaseException]) -> tuple[Task, Attempt] | BaseException:
    while True:
        with contextlib.suppress(queue.Empty):
            return over.get(timeout=_LOOK_EVERY)  # without a timeout Ctrl-C would not come through on every platform


class _Counter:
    """Hands out tasks as far as memory is reckoned to bear."""

    def __init__(self, tasks: Sequence[Task], budget: int | None) -> None:
        self._waiting = list(tasks)
        self._budget = budget
        self._running: dict[str, int] = {}
        self._changed = threading.Condition()
        self._stopped = False

    def take(self) -> Task | None:
        """The first task for which there is room; waits for room; ``None`` when nothing is left to begin."""
        with self._changed:
            while self._waiting and not self._stopped:
                for place, task in enumerate(self._waiting):
                    needed = memory.estimate(task.bytes)
                    if (
                        not self._running
                        or self._budget is None
                        or sum(self._running.values()) + needed <= self._budget
                    ):
                        self._running[task.name] = needed
                        return self._waiting.pop(place)
                self._changed.wait()
            return None

    def give_back(self, task: Task) -> None:
        with self._changed:
            self._running.pop(task.name, None)
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def stopped(self) -> bool:
        return self._stopped
