"""How many models are begun at a time, and that a batch which is told to end takes its workers with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from onnxmorph.zoo import memory
from onnxmorph.zoo.engines import ProcessEngine, _Counter
from onnxmorph.zoo.selection import Parent
from onnxmorph.zoo.settings import Limits
from onnxmorph.zoo.stores import LocalStore
from onnxmorph.zoo.task import Task

from .conftest import Zoo

ROOT = Path(__file__).resolve().parents[2]
STORE = LocalStore("/")


def _task(name: str, size: int) -> Task:
    return Task(Parent(STORE, name), STORE, name, "", "", None, {}, size)


def test_models_are_begun_only_while_memory_is_reckoned_to_bear_them() -> None:
    room = memory.estimate(1000 << 20) + memory.estimate(10)
    big, other, small, late = (_task("big", 1000 << 20), _task("other", 900 << 20), _task("small", 10), _task("l", 10))
    counter = _Counter([big, other, small, late], room)
    assert counter.take() is big
    assert counter.take() is small  # the other one would be too much beside the big one
    waiting: list[Task | None] = []
    thread = threading.Thread(target=lambda: waiting.append(counter.take()))
    thread.start()
    thread.join(0.1)
    assert not waiting
    counter.give_back(big)
    thread.join(5)
    assert waiting == [other]
    counter.give_back(small)
    assert counter.take() is late
    assert counter.take() is None


def test_one_that_is_too_big_is_begun_alone() -> None:
    counter = _Counter([_task("huge", 1 << 50)], 1)
    assert counter.take() is not None


def test_jobs_are_no_more_than_models_or_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "cores", lambda: 16)
    monkeypatch.setattr(memory, "available", lambda: int(memory.BASE * 4 / memory.SHARE) + 1024)
    assert ProcessEngine(None, Limits(), 100, "").jobs == 4
    assert ProcessEngine(None, Limits(), 3, "").jobs == 3
    assert ProcessEngine(8, Limits(), 100, "").jobs == 8
    assert ProcessEngine(8, Limits(), 100, "").limits.bytes == pytest.approx(memory.BASE * 4, rel=0.01)
    assert ProcessEngine(8, Limits(1, 5), 100, "").limits.bytes == 5


def test_what_is_free_and_what_is_taken_are_told() -> None:
    free = memory.available()
    assert free is None or 0 <= free < 1 << 50
    taken = memory.taken(os.getpid())
    assert taken is None or 1 << 20 < taken < 1 << 40
    assert memory.taken(2**22 + 1) is None
    assert memory.cores() >= 1


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_told_to_end_a_batch_ends_its_workers_and_keeps_what_is_done(
    zoo: Zoo, recipe: Path, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    folder, out = zoo("hang.onnx", "good-one.onnx"), tmp_path / "out"
    program = (
        "import os, sys; sys.path.insert(0, sys.argv.pop(1));"
        "from onnxmorph.zoo import slot; from tests.zoo_batch import faulty_worker; from cli.main import main;"
        "slot.worker_command = lambda label: [sys.executable, faulty_worker.__file__, str(os.getpid()), label];"
        "main()"
    )
    words = [sys.executable, "-c", program, str(ROOT), "batch", str(recipe), str(folder), "-o", str(out), "--jobs", "2"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as batch:
        assert batch.stderr is not None
        for line in batch.stderr:
            if "good-one.onnx: done" in line:
                break
        family = _children(batch.pid)
        assert family
        batch.send_signal(sent)
        try:
            assert batch.wait(timeout=60) == code
        finally:
            batch.kill()  # where it did not heed the signal, nobody is to wait for it for ever
        said = batch.stderr.read()
    assert "Traceback" not in said
    end = time.monotonic() + 10
    while any(Path(f"/proc/{process}").exists() for process in family) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(Path(f"/proc/{process}").exists() for process in family)
    assert (out / "good-one.onnx").is_file() and not list((out / ".onnxmorph-batch").glob("staged*"))


def _children(process: int) -> list[str]:
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [child for task in tasks for child in task.read_text(encoding="ascii").split()]
