"""Copying a parent's data file while its child is still worked out.

A child of a model with external data takes over nearly all of it, at the same places (:class:`DataFile`). So the copy
can begin as soon as the parent is loaded, in a thread of its own: the kernel copies while the interpreter plans. The
copy lies in the hidden folder in which the child's files are put together, so nothing of it is ever seen: it becomes
part of the child's data file when the child keeps the parent's layout, and is removed in every other case - a refusal,
an interrupt, a child that takes too little of it, a disk that is full. What the child's files hold does not depend on
whether anything was copied ahead.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from onnxmorph._ir import ir
from onnxmorph.errors import ModelError
from onnxmorph.staging import Folder, copy_range, mostly
from onnxmorph.tensors import MappedFile, MappedTensor

__all__ = ["CopyAhead", "copy_ahead"]

_FROM = 16 << 20
"""Bytes: less is copied in less time than it takes to start thinking about it."""
_UP_TO = 4 << 30
"""Bytes: of more, a copy takes so much longer than a plan that little is won, and a refused plan would write much."""
_CHUNK = 128 << 20
"""Bytes: between two chunks the thread looks whether it is still wanted, and waits for the interpreter."""


class CopyAhead:
    """One data file on its way into the folder of a child.

    Attributes:
        source: What is copied, whole.
        folder: Where it goes; whoever takes the copy puts the child's other files there too.
    """

    def __init__(self, source: MappedFile, folder: Folder, name: str) -> None:
        """Begin to copy ``source`` into ``folder``, which is there, under ``name``."""
        self.source = source
        self.folder = folder
        self._path = folder.path / name
        self._unwanted = threading.Event()
        self._complete = False
        self._thread = threading.Thread(target=self._copy, name="onnxmorph-copy-ahead", daemon=True)
        self._thread.start()

    def _copy(self) -> None:
        # Whatever goes wrong here goes wrong again when the child is written without this copy, and is told then.
        with contextlib.suppress(OSError, ModelError), self._path.open("xb", buffering=0) as target:
            done = 0
            while done < self.source.size:
                if self._unwanted.is_set():
                    return
                length = min(_CHUNK, self.source.size - done)
                copy_range(self.source, done, length, target)
                done += length
            self._complete = True

    def finish(self) -> bool:
        """Wait for the copy; gives whether it is there, and removes what is there of it otherwise."""
        self._thread.join()
        if not self._complete:
            self.drop()
        return self._complete

    def drop(self) -> None:
        """Stop copying, and remove the copy."""
        self._unwanted.set()
        self._thread.join()
        self._complete = False
        with contextlib.suppress(OSError):
            self._path.unlink()


@contextlib.contextmanager
def copy_ahead(model: ir.Model, path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[CopyAhead | None]:
    """Copy the data file of a parent while the ``with`` block works out its child, which is to be written to ``path``.

    Give what comes of it to :func:`onnxmorph.saving.staged`, inside the block. ``None`` where it is not worth it: the
    parent has no data file or several, uses only a part of it, or it is small or huge; or where the child cannot be
    written to ``path`` anyway, which :func:`~onnxmorph.saving.staged` tells.
    """
    source = _data_file(model)
    ahead = None
    if source is not None:
        destination = Path(path).absolute()
        folder = Folder(destination, overwrite=overwrite)
        with contextlib.suppress(ModelError):
            folder.make()
            ahead = CopyAhead(source, folder, f"{destination.name}.data")
    try:
        yield ahead
    finally:
        if ahead is not None:
            try:
                ahead.drop()  # what was used up is elsewhere by now
            finally:
                ahead.folder.drop()


def _data_file(model: ir.Model) -> MappedFile | None:
    """The one data file of a model, where copying it ahead is worth it."""
    if not hasattr(os, "pread"):  # without it, reading moves the position that all users of a file share
        return None
    used: dict[tuple[int, int], int] = {}
    files: dict[int, MappedFile] = {}
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, MappedTensor) and tensor.external:
                files[id(tensor.file)] = tensor.file
                used[id(tensor.file), tensor.offset] = tensor.length
    if len(files) != 1:
        return None
    (source,) = files.values()
    worth_it = _FROM <= source.size <= _UP_TO and mostly(sum(used.values()), source.size)
    return source if worth_it else None
