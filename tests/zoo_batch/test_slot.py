"""A worker that crashes, hangs, eats memory or loses its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from onnxmorph.zoo import memory
from onnxmorph.zoo.settings import Limits
from onnxmorph.zoo.slot import Slot, Stopped

from .conftest import Zoo

pytestmark = pytest.mark.usefixtures("faulty")


def _task(zoo: Zoo, name: str) -> dict[str, Any]:
    folder = zoo(f"{name}.onnx")
    return {"model": str(folder / f"{name}.onnx"), "child": str(folder / f"{name}.child")}


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def _gone(process: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not _alive(process):
            return True
        time.sleep(0.02)
    return False


def test_whatever_kills_a_worker_costs_the_model_it_was_at(zoo: Zoo) -> None:
    slot = Slot(Limits(30), 1)
    try:
        first = slot.run(_task(zoo, "good-1"))
        second = slot.run(_task(zoo, "chatter"))
        assert first["outcome"] == second["outcome"] == "done" and first["worker"] == second["worker"]
        crashed = slot.run(_task(zoo, "crash"))
        assert crashed["outcome"] == "failed" and crashed["code"] == "crash" and "SIGSEGV" in crashed["reason"]
        left = slot.run(_task(zoo, "leave"))
        assert "status 7 while growing: something is wrong" in left["reason"]
        assert slot.run(_task(zoo, "good-2"))["outcome"] == "done"
    finally:
        slot.close()


def test_a_worker_killed_while_idle_costs_nothing(zoo: Zoo) -> None:
    slot = Slot(Limits(30), 1)
    try:
        worker = slot.run(_task(zoo, "good-1"))["worker"]
        os.kill(worker, signal.SIGKILL)
        assert _gone(worker)  # a zombie of ours until it is asked for
        after = slot.run(_task(zoo, "good-2"))
        assert after["outcome"] == "done" and after["worker"] != worker, after
    finally:
        slot.close()


def test_a_worker_that_dies_before_it_begins_costs_nothing(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    slot = Slot(Limits(30), 1)
    send = Slot._send

    def send_to_the_dying(worker: subprocess.Popen[bytes], task: dict[str, Any]) -> bool:
        monkeypatch.setattr(Slot, "_send", staticmethod(send))
        os.kill(worker.pid, signal.SIGKILL)
        return True  # it went into the pipe, and nobody reads it

    try:
        worker = slot.run(_task(zoo, "good-1"))["worker"]
        monkeypatch.setattr(Slot, "_send", staticmethod(send_to_the_dying))
        after = slot.run(_task(zoo, "good-2"))
        assert after["outcome"] == "done" and after["worker"] != worker, after
    finally:
        slot.close()


def test_a_hang_ends_at_the_time_limit(zoo: Zoo) -> None:
    slot = Slot(Limits(3), 1)
    started = time.monotonic()
    late = slot.run(_task(zoo, "hang"))
    assert late["code"] == "time-limit" and "3 s" in late["reason"] and "growing" in late["reason"]
    assert time.monotonic() - started < 10
    slot.close()


@pytest.mark.skipif(memory.taken(os.getpid()) is None, reason="memory cannot be watched on this platform")
def test_eating_ends_at_the_memory_limit(zoo: Zoo) -> None:
    slot = Slot(Limits(60, 300 << 20), 1)
    over = slot.run(_task(zoo, "eat"))
    assert over["code"] == "memory-limit" and "300 MiB" in over["reason"]
    slot.close()


def test_a_stop_ends_the_worker(zoo: Zoo) -> None:
    slot = Slot(Limits(60), 1)
    begun: list[str] = []
    with pytest.raises(Stopped):
        slot.run(_task(zoo, "hang"), stopping=lambda: bool(begun), stage=begun.append)
    slot.close()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("asked", [True, False], ids=["asking the system", "by its pipe"])
def test_a_worker_does_not_outlive_a_batch_that_is_killed(zoo: Zoo, asked: bool) -> None:
    task = _task(zoo, "hang")
    program = (
        "import sys, json; sys.path.insert(0, sys.argv[1]);"
        "from onnxmorph.zoo import slot, settings; from tests.zoo_batch import faulty_worker;"
        "import os; script = faulty_worker.__file__;"
        "slot.worker_command = lambda label: [sys.executable, script, str(os.getpid())];"
        "one = slot.Slot(settings.Limits(600), 1);"
        "one.run(json.loads(sys.argv[2]), stage=lambda said: print(one._worker.pid, flush=True))"
    )
    if not asked:  # without the system's help: a worker that never asks
        program = program.replace("one = ", "script = script.replace('faulty_worker', 'deaf_worker'); one = ")
    import json

    root = str(Path(__file__).resolve().parents[2])
    batch = subprocess.Popen([sys.executable, "-c", program, root, json.dumps(task)], stdout=subprocess.PIPE, text=True)
    assert batch.stdout is not None
    worker = int(batch.stdout.readline())
    assert _alive(worker)
    batch.send_signal(signal.SIGKILL)
    batch.wait()
    batch.stdout.close()
    assert _gone(worker)
