"""Writing a model's files so that they are there whole or not at all.

Everything is first written into a hidden folder beside the destination, under the final names, and moved by renames:
the data file first, then the model. A rename leaves the replaced file's inode to those who have it open, so a model may
overwrite the very files it is mapped from. Bytes that did not change are copied inside the kernel, from file to file.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.errors import ModelError
from onnxmorph.tensors import MappedFile, MappedTensor, reason_of

__all__ = ["DataFile", "Folder", "copy_range", "write_tensor"]

_PAGE = 4096
_CACHE_LINE = 64
_CHUNK = 8 << 20
_PAGE_ALIGNED_FROM = 1 << 20


def copy_range(source: MappedFile, offset: int, length: int, target: BinaryIO) -> None:
    """Append ``length`` bytes from ``offset`` of ``source`` to ``target`` (unbuffered), in the kernel where it can."""
    end = offset + length
    for copy in (_copy_file_range, _send_file, _read_and_write):
        while offset < end:
            try:
                copied = copy(source.fd, offset, end - offset, target)
            except (OSError, AttributeError) as error:
                # Not between these two file systems, or not on this platform: the next way tells real errors.
                if copy is _read_and_write:
                    raise
                del error
                break
            if copied == 0:
                if copy is _read_and_write:
                    raise ModelError(f"{source.path.name}: shrank while it was being copied")
                break
            offset += copied
        else:
            return


def _copy_file_range(fd: int, offset: int, count: int, target: BinaryIO) -> int:
    return os.copy_file_range(fd, target.fileno(), count, offset)


def _send_file(fd: int, offset: int, count: int, target: BinaryIO) -> int:
    return os.sendfile(target.fileno(), fd, offset, min(count, 1 << 30))


def _read_and_write(fd: int, offset: int, count: int, target: BinaryIO) -> int:
    os.lseek(fd, offset, os.SEEK_SET)
    data = os.read(fd, min(count, _CHUNK))
    write_all(target, data)
    return len(data)


def write_all(target: BinaryIO, data: bytes | memoryview) -> None:
    """Write all of ``data``; an unbuffered file may take only a part at a time."""
    rest = memoryview(data).cast("B")
    while len(rest):
        rest = rest[target.write(rest) :]


def write_tensor(tensor: ir.TensorProtocol, target: BinaryIO) -> int:
    """Append a tensor's stored bytes to ``target`` (unbuffered); gives their number."""
    if isinstance(tensor, MappedTensor):
        copy_range(tensor.file, tensor.offset, tensor.length, target)
        return tensor.length
    data = _contiguous(tensor)
    write_all(target, data)
    return len(data)


def _contiguous(tensor: ir.TensorProtocol) -> bytes | memoryview:
    """A tensor's stored bytes, without a copy where the array in memory already is what is stored."""
    if isinstance(tensor, ir.Tensor) and tensor.dtype.bitwidth >= 8 and sys.byteorder == "little":
        array = tensor.numpy()
        if array.flags.c_contiguous and array.size:
            return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    return tensor.tobytes()


class DataFile:
    """The layout of a new external data file: ranges taken over from the parent's files, then new tensors.

    A taken-over range begins at the same place within a page as it did in its file, so that a file system that shares
    blocks between files can share these.
    """

    def __init__(self) -> None:
        self.size = 0
        self._ranges: list[tuple[int, MappedFile, int, int]] = []  # position, file, offset, length
        self._new: list[tuple[int, ir.TensorProtocol]] = []
        self._positions: dict[tuple[int, int, int], int] = {}  # of mapped tensors, by (file, offset, length)

    def take_over(self, tensors: Iterable[MappedTensor]) -> None:
        """Lay out tensors that stay as they are, in the order of their files; each range is copied once."""
        ordered = sorted(tensors, key=lambda t: (str(t.file.path), id(t.file), t.offset))
        run: list[MappedTensor] = []
        end = 0
        for tensor in ordered:
            # A gap below a page is alignment, and copying it keeps one long range of two.
            if run and (tensor.file is not run[0].file or tensor.offset > end + _PAGE):
                self._add_run(run, end)
                run = []
            if not run:
                end = tensor.offset
            run.append(tensor)
            end = max(end, tensor.offset + tensor.length)
        if run:
            self._add_run(run, end)

    def _add_run(self, run: list[MappedTensor], end: int) -> None:
        begin = run[0].offset
        position = self.size + (begin - self.size) % _PAGE
        self._ranges.append((position, run[0].file, begin, end - begin))
        for tensor in run:
            self._positions[id(tensor.file), tensor.offset, tensor.length] = position + tensor.offset - begin
        self.size = position + end - begin

    def add(self, tensor: ir.TensorProtocol, length: int) -> int:
        """Lay out a new tensor behind everything else; gives its position."""
        alignment = _PAGE if length >= _PAGE_ALIGNED_FROM else _CACHE_LINE
        position = -(-self.size // alignment) * alignment
        self._new.append((position, tensor))
        self.size = position + length
        return position

    def position(self, tensor: MappedTensor) -> int:
        """Where a taken-over tensor begins."""
        return self._positions[id(tensor.file), tensor.offset, tensor.length]

    def write(self, target: BinaryIO) -> None:
        """Write the whole file, from the start of the empty, unbuffered ``target``."""
        for position, file, offset, length in self._ranges:
            target.seek(position)
            copy_range(file, offset, length, target)
        for position, tensor in self._new:
            target.seek(position)
            write_tensor(tensor, target)
        target.truncate(self.size)


class Folder:
    """A hidden folder beside the destination that holds new files until all of them are complete."""

    def __init__(self, destination: Path, *, overwrite: bool) -> None:
        """``destination``: the model file to be.

        Raises:
            ModelError: It exists and may not be overwritten, is a folder, or its folder is missing or read-only.
        """
        self.destination = destination
        self.overwrite = overwrite
        self.path = destination.parent / f".onnxmorph-{secrets.token_hex(8)}"
        self.made = False

    def make(self) -> None:
        parent = self.destination.parent
        with self.explained():
            if self.destination.is_dir():
                raise ModelError(f"{self.destination}: is a folder; name the file to write")
            if not parent.is_dir():
                raise ModelError(f"{self.destination}: there is no folder {str(parent)!r} to write it in")
        self.refuse_existing(self.destination)
        with self.explained():
            self.path.mkdir()
        self.made = True

    def refuse_existing(self, path: Path) -> None:
        with self.explained():
            if path.is_dir():
                raise ModelError(f"{path}: is a folder where a file should be written")
            if not self.overwrite and os.path.lexists(path):
                raise ModelError(f"{path}: exists already; --force (overwrite=True) replaces it")

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn the operating system's errors into one line."""
        try:
            yield
        except (OSError, ValueError) as error:
            raise ModelError(f"{self.destination}: cannot be written: {reason_of(error)}") from error

    @contextlib.contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """A new unbuffered file in the folder."""
        with self.explained(), (self.path / name).open("xb", buffering=0) as file:
            yield file

    def commit(self, names: Sequence[str]) -> None:
        """Move the files to the destination's folder, in this order; on failure put back what was replaced."""
        parent = self.destination.parent
        for name in names:
            self.refuse_existing(parent / name)
        *first, last = names
        done: list[tuple[Path, Path | None]] = []  # what was put in place, and where its predecessor waits
        try:
            with self.explained():
                for name in first:
                    target = parent / name
                    waiting = self.path / f"{name}.replaced" if os.path.lexists(target) else None
                    if waiting is not None:
                        target.rename(waiting)
                    done.append((target, waiting))
                    (self.path / name).rename(target)
                # The model itself is replaced in one step: until then the old one is there, from then on the new one.
                (self.path / last).replace(parent / last)
        except BaseException:
            for target, waiting in reversed(done):
                with contextlib.suppress(OSError):
                    if waiting is not None:
                        waiting.replace(target)
                    elif not (self.path / target.name).exists():
                        target.unlink(missing_ok=True)
            raise
        self.drop()

    def drop(self) -> None:
        """Remove the folder with whatever is still in it."""
        if self.made:
            shutil.rmtree(self.path, ignore_errors=True)
            self.made = False
