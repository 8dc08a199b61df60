"""One worker at a time, under a clock and a scale: what a slot is given comes back, or what killed it does."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import onnxmorph
from onnxmorph.zoo import memory
from onnxmorph.zoo.settings import Limits

__all__ = ["Slot", "Stopped", "worker_command"]

_LOOK_EVERY = 0.1
_FRESH_FROM = 512 << 20
"""A worker that keeps this much after a model is not used for another."""
_KEPT_LINES = 4

_START = """
import sys
root = sys.argv.pop(1)
if root not in sys.path:
    sys.path.insert(0, root)
from onnxmorph.zoo.worker import main
main()
"""


class Stopped(Exception):
    """The batch is being stopped; the model that was being grown is left for the next run."""


def worker_command(label: str) -> list[str]:
    """What a worker is started with: this Python, this package, the process it belongs to, and whose it is for ``ps``.

    Without the working folder on the path, where any file could take the name of a module.
    """
    root = str(Path(onnxmorph.__file__).resolve().parents[1])
    return [sys.executable, "-P", "-c", _START, root, str(os.getpid()), f"onnxmorph-batch-worker:{label}"]


class Slot:
    """Room for one worker process, which serves model after model until one of them breaks it.

    Args:
        limits: For each model.
        threads: For ONNX Runtime in the worker.
        label: Shown in the worker's command line.
    """

    def __init__(self, limits: Limits, threads: int, label: str = "") -> None:
        self.limits = limits
        self.threads = threads
        self.label = label
        self._worker: subprocess.Popen[bytes] | None = None
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._complaints: list[str] = []
        self._listener: threading.Thread | None = None

    def run(
        self,
        task: Mapping[str, Any],
        *,
        stopping: Callable[[], bool] = lambda: False,
        stage: Callable[[str], None] = lambda _: None,
    ) -> dict[str, Any]:
        """Have one model grown; see :func:`onnxmorph.zoo.worker.grow_model`.

        Args:
            task: For the worker.
            stopping: Asked every tenth of a second.
            stage: Told what the worker begins.

        Raises:
            Stopped: ``stopping`` said so; the worker is gone.
        """
        started = time.monotonic()
        now = "starting"
        idle = self._worker
        worker = self._ready()
        if not self._send(worker, task):
            worker = self._renewed()  # it died while it was idle, which is not this model's doing
            if not self._send(worker, task):
                return self._lost(worker, now, started)
        while True:
            if stopping():
                self.close()
                raise Stopped
            try:
                line = self._lines.get(timeout=_LOOK_EVERY)
            except queue.Empty:
                if time.monotonic() - started > self.limits.seconds:
                    self.close()
                    reason = f"took longer than {self.limits.seconds:g} s and was ended while {now}"
                    return _failure("time-limit", reason, started)
                if (over := self._over(worker)) is not None:
                    self.close()
                    return _failure("memory-limit", f"took {over} and was ended while {now}", started)
                continue
            if line is None and worker is idle and now == "starting":
                idle = None  # it was dying when the task was sent, and never began it
                worker = self._renewed()
                if self._send(worker, task):
                    continue
            if line is None:
                return self._lost(worker, now, started)
            event = json.loads(line)
            if event["event"] == "stage":
                now = str(event["stage"])
                stage(now)
                continue
            kept = memory.taken(worker.pid)
            if kept is not None and kept > _FRESH_FROM:
                self.close()
            result: dict[str, Any] = event["result"]
            return result

    def close(self) -> None:
        """End the worker and all that it may have started."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        if worker.poll() is None:  # else its number may be another's by now
            with contextlib.suppress(OSError):
                if hasattr(os, "killpg"):
                    os.killpg(worker.pid, signal.SIGKILL)
                else:
                    worker.kill()
        with contextlib.suppress(OSError):
            if worker.stdin is not None:
                worker.stdin.close()
        worker.wait()

    def _ready(self) -> subprocess.Popen[bytes]:
        if self._worker is None or self._worker.poll() is not None:
            return self._renewed()
        return self._worker

    def _renewed(self) -> subprocess.Popen[bytes]:
        self.close()
        worker = subprocess.Popen(
            worker_command(self.label),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **_thread_settings(self.threads)},
            start_new_session=True,  # its own group: ended as a whole, and not reached by the terminal's Ctrl-C
        )
        assert worker.stdout is not None and worker.stderr is not None
        self._lines = queue.Queue()
        self._complaints = []
        threading.Thread(target=_pump, args=(worker.stdout, self._lines.put), daemon=True).start()
        self._listener = threading.Thread(target=_pump, args=(worker.stderr, _last(self._complaints)), daemon=True)
        self._listener.start()
        self._worker = worker
        return worker

    @staticmethod
    def _send(worker: subprocess.Popen[bytes], task: Mapping[str, Any]) -> bool:
        assert worker.stdin is not None
        try:
            worker.stdin.write(json.dumps(task).encode("ascii") + b"\n")
            worker.stdin.flush()
        except OSError:
            return False
        return True

    def _over(self, worker: subprocess.Popen[bytes]) -> str | None:
        if self.limits.bytes is None:
            return None
        taken = memory.taken(worker.pid)
        if taken is None or taken <= self.limits.bytes:
            return None
        return f"{taken / 2**20:.0f} MiB of memory, more than {self.limits.bytes / 2**20:.0f} MiB,"

    def _lost(self, worker: subprocess.Popen[bytes], now: str, started: float) -> dict[str, Any]:
        """What to say of a worker that ended by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(timeout=5)
        status = worker.returncode
        self.close()
        if self._listener is not None:
            self._listener.join(timeout=2)  # its last words may still be on their way
        said = f": {' | '.join(self._complaints)}" if self._complaints else ""
        if status is not None and status < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-status).name
                hint = " (by the system, for want of memory, or by somebody)" if name == "SIGKILL" else ""
                return _failure("crash", f"the worker was ended by {name}{hint} while {now}{said}", started)
        return _failure("crash", f"the worker ended with status {status} while {now}{said}", started)


def _failure(code: str, reason: str, started: float) -> dict[str, Any]:
    seconds = round(time.monotonic() - started, 3)
    return {"outcome": "failed", "code": code, "reason": reason[:2000], "seconds": seconds}


def _thread_settings(threads: int) -> dict[str, str]:
    """ONNX Runtime gets its share of the cores; linear algebra always one thread.

    So a child's weights do not depend on how many models are grown at a time: sums in another order round differently.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    most = int(wanted) if wanted.isdigit() and int(wanted) > 0 else threads
    settings = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1")
    return {**settings, "OMP_NUM_THREADS": str(max(1, min(threads, most)))}


def _pump(stream: IO[bytes], put: Callable[[bytes | None], Any]) -> None:
    with stream:
        for line in stream:
            put(line)
    put(None)


def _last(kept: list[str]) -> Callable[[bytes | None], None]:
    def keep(line: bytes | None) -> None:
        if line is not None and line.strip():
            kept.append(line.decode("utf-8", "replace").strip()[:300])
            del kept[:-_KEPT_LINES]

    return keep
