"""The journal of a batch: what was made and what has ended, one JSON object a line, on the disk before work goes on.

Lines are only ever appended, each with one write and an fsync. A process killed while it writes leaves at most one torn
line, at the end; the next to write ends that line, and every reader passes over lines that are no JSON object.
So no entry before the torn one can be lost, at whatever byte the file stops.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from onnxmorph.errors import ModelError

__all__ = ["Journal", "read_entries"]


def read_entries(data: bytes) -> list[dict[str, Any]]:
    """The entries in the bytes of a journal, oldest first; a torn or damaged line is left out."""
    entries = []
    for line in data.split(b"\n"):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


class Journal:
    """An open journal.

    An entry has an ``event`` and, where it is about a model, the name of its child as ``output``:

    ``made``
        The child is complete under temporary names; next it is moved. Holds ``files`` and the whole result.
    ``end``
        The model is over: its child is in place, or there is none. Holds the whole result.
    ``dropped``
        What a ``made`` announced was lost with the folder that held it; the model is to be done again.

    ``run``, ``closed``
        A run begins to use its temporary folders, and has removed them.

    Attributes:
        ended: By output, the latest ``end``.
        pending: By output, a ``made`` that nothing followed: the process was killed in between.
        open_runs: Runs whose temporary folders may still be there.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open ``path``, or begin it.

        Raises:
            ModelError: It cannot be read or written.
        """
        self.path = path
        self.ended: dict[str, dict[str, Any]] = {}
        self.pending: dict[str, dict[str, Any]] = {}
        self.open_runs: dict[str, None] = {}
        self._descriptor = -1
        self._torn = False
        try:
            if read_only:
                data = path.read_bytes() if path.exists() else b""
            else:
                flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
                self._descriptor = os.open(path, flags, 0o666)
                data = path.read_bytes()
                self._torn = bool(data) and not data.endswith(b"\n")
        except OSError as error:
            raise ModelError(f"{path}: cannot be opened: {error.strerror}") from error
        for entry in read_entries(data):
            self._take(entry)

    def append(self, event: str, **fields: Any) -> None:
        """Add an entry; it is on the disk when this returns.

        Raises:
            ModelError: It cannot be written.
        """
        entry = {"event": event, **fields}
        try:
            self._write(json.dumps(entry, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n")
        except OSError as error:
            raise ModelError(f"{self.path}: cannot be written: {error.strerror}") from error
        self._take(entry)

    def _write(self, line: bytes) -> None:
        rest = memoryview(b"\n" + line if self._torn else line)
        self._torn = True  # until all of it is written: a full disk may take a part
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        self._torn = False
        os.fsync(self._descriptor)

    def _take(self, entry: Mapping[str, Any]) -> None:
        event, output = entry.get("event"), entry.get("output")
        if event == "run" and isinstance(entry.get("run"), str):
            self.open_runs[entry["run"]] = None
        elif event == "closed" and isinstance(entry.get("run"), str):
            self.open_runs.pop(entry["run"], None)
        if not isinstance(output, str):
            return
        if event == "made":
            self.pending[output] = dict(entry)
        elif event == "end":
            self.pending.pop(output, None)
            self.ended[output] = dict(entry)
        elif event == "dropped":
            self.pending.pop(output, None)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
