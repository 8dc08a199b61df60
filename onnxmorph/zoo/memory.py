"""Memory: how much is free, how much a model will take, how much a process has taken.

The rule by which a batch stays within bounds: a model is begun only while the estimates of all that run, and its own,
are within four fifths of what was free when the batch began; one alone is begun in any case. The estimate is
:data:`BASE` (an idle worker with ONNX Runtime in it) plus :data:`PER_BYTE` times the bytes of the model's files.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

__all__ = ["BASE", "PER_BYTE", "SHARE", "available", "cores", "estimate", "taken"]

BASE = 250 << 20
PER_BYTE = 6
"""Parent and child in ONNX Runtime with optimised weights beside the stored ones, and what solving keeps."""
SHARE = 0.8
_OWN_FIELDS = ("RssAnon:", "RssShmem:")


def estimate(file_bytes: int) -> int:
    """Bytes of memory that a model with this many bytes in files is reckoned to take."""
    return BASE + PER_BYTE * file_bytes


def cores() -> int:
    """Cores this process may run on."""
    try:
        return len(os.sched_getaffinity(0)) or 1
    except AttributeError:  # not on this platform
        return os.cpu_count() or 1


def available() -> int | None:
    """Bytes of memory that are free for new processes, by the machine and the control group; ``None``: not known."""
    known = [size for size in (_machine(), _control_group()) if size is not None]
    return min(known) if known else None


def _machine() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    if sys.platform == "win32":
        return _windows()
    with contextlib.suppress(OSError, ValueError, AttributeError):
        # What is free is not to be had without a library here: half of what there is.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return None


def _windows() -> int | None:
    if sys.platform != "win32":
        return None
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
            (name, ctypes.c_ulonglong)
            for name in ("total", "available", "page_total", "page", "virtual_total", "virtual", "extended")
        ]

    status = Status(length=ctypes.sizeof(Status))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None
    return int(status.available)


def _control_group() -> int | None:
    """What a container's limit leaves; pages of files do not count, since they go when room is needed."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):
            root = Path("/sys/fs/cgroup")
            most = int((root / limit).read_text(encoding="ascii"))
            free = most - int((root / used).read_text(encoding="ascii"))
            statistics = (root / limit).with_name("memory.stat").read_text(encoding="ascii")
            for line in statistics.splitlines():
                name, _, value = line.partition(" ")
                if name == cache:
                    free += int(value)
            return max(0, free)
    return None


def taken(process: int) -> int | None:
    """Bytes that a process has for itself; ``None`` where that cannot be told, or the process is gone.

    On Linux without the pages of mapped files: a model's weights lie in such, and the system takes them back when it
    needs room.
    """
    status = Path(f"/proc/{process}/status")
    try:
        fields = [line.split() for line in status.read_text(encoding="ascii", errors="replace").splitlines()]
        own = [int(words[1]) << 10 for words in fields if words and words[0] in _OWN_FIELDS]
        return sum(own) if own else None
    except (OSError, ValueError, IndexError):
        if Path("/proc/self/status").exists() or sys.platform == "win32":
            return None
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        said = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(process)], capture_output=True, text=True, timeout=5, check=False
        )
        return int(said.stdout) << 10
    return None
