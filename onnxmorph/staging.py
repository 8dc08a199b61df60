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
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.errors import ModelError
from onnxmorph.special_files import is_special
from onnxmorph.tensors import MappedFile, MappedTensor, reason_of

__all__ = ["DataFile", "Folder", "copy_range", "mostly", "write_tensor"]

_PAGE = 4096
_CACHE_LINE = 64
_CHUNK = 8 << 20
_PAGE_ALIGNED_FROM = 1 << 20
_UNUSED = 64  # one part in so many of a data file may be of no use


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
    if hasattr(os, "pread"):
        data = os.pread(fd, min(count, _CHUNK), offset)
    else:
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


def mostly(used: int, size: int) -> bool:
    """Whether ``used`` of the ``size`` bytes of a data file are so many that it can stay as it is."""
    return (size - used) * _UNUSED <= size


class DataFile:
    """The layout of a new external data file: what is taken over from the parent's files, then new tensors.

    1. A file of which at most one part in 64 is not taken over keeps its layout; new tensors go into what became free,
       where they fit. So a file system can copy it as a whole, and the copy can begin before the child is known.
    2. Of other files ranges are taken over, which begin at the same place within a page as they did, so that a file
       system that shares blocks between files can share these. Nothing that is not used stays.
    """

    def __init__(self) -> None:
        self.size = 0
        self._ranges: list[tuple[int, MappedFile, int, int]] = []  # position, file, offset, length
        self._new: list[tuple[int, ir.TensorProtocol]] = []
        self._positions: dict[tuple[int, int, int], int] = {}  # of mapped tensors, by (file, offset, length)
        self._bases: dict[int, int] = {}  # of files that keep their layout: where they begin
        self._gaps: list[tuple[int, int]] = []  # begin and end of what is of no use in them
        self._free: list[tuple[int, int]] = []  # and of what new tensors can have of it

    def take_over(self, tensors: Iterable[MappedTensor]) -> None:
        """Lay out tensors that stay as they are, in the order of their files; each range is copied once."""
        of_files: dict[tuple[str, int], list[MappedTensor]] = {}
        for tensor in tensors:
            of_files.setdefault((str(tensor.file.path), id(tensor.file)), []).append(tensor)
        scattered = []
        for key in sorted(of_files):
            runs = _runs(of_files[key])
            file = runs[0].file
            used = sum(run.end - run.begin for run in runs)
            if mostly(used, file.size) and all(tensor.external for tensor in of_files[key]):
                self._keep(file, runs)
            else:
                scattered += runs
        for run in scattered:
            self._place(run, self.size + (run.begin - self.size) % _PAGE)

    def _keep(self, file: MappedFile, runs: Sequence[_Run]) -> None:
        base = -(-self.size // _PAGE) * _PAGE
        self._bases[id(file)] = base
        end = 0
        for run in runs:
            if end < run.begin:
                self._gaps.append((base + end, base + run.begin))
                self._free.append((base + end, base + run.begin))
            self._place(run, base + run.begin)
            end = run.end
        self._gaps.append((base + end, base + file.size))  # not kept: what comes next may come earlier

    def _place(self, run: _Run, position: int) -> None:
        self._ranges.append((position, run.file, run.begin, run.end - run.begin))
        for tensor in run.tensors:
            self._positions[id(run.file), tensor.offset, tensor.length] = position + tensor.offset - run.begin
        self.size = position + run.end - run.begin

    def add(self, tensor: ir.TensorProtocol, length: int) -> int:
        """Lay out a new tensor where something became free, or behind everything else; gives its position."""
        alignment = _PAGE if length >= _PAGE_ALIGNED_FROM else _CACHE_LINE
        for number, (begin, end) in enumerate(self._free):
            position = -(-begin // alignment) * alignment
            if position + length <= end:
                self._free[number] = (position + length, end)
                break
        else:
            position = -(-self.size // alignment) * alignment
            self.size = position + length
        self._new.append((position, tensor))
        return position

    def position(self, tensor: MappedTensor) -> int:
        """Where a taken-over tensor begins."""
        return self._positions[id(tensor.file), tensor.offset, tensor.length]

    def begins_like(self, file: MappedFile) -> bool:
        """Whether everything that is taken over from ``file`` lies where it lies there."""
        return self._bases.get(id(file)) == 0

    def write(self, target: BinaryIO, *, over: MappedFile | None = None) -> None:
        """Write the whole file.

        Args:
            target: Unbuffered and empty, or a copy of ``over``.
            over: A file that this one begins like.
        """
        if over is not None:
            for begin, end in self._gaps:
                target.seek(begin)
                for done in range(begin, min(end, self.size), _CHUNK):
                    write_all(target, bytes(min(_CHUNK, end - done)))
        for position, file, offset, length in self._ranges:
            if file is not over:
                target.seek(position)
                copy_range(file, offset, length, target)
        for position, tensor in self._new:
            target.seek(position)
            write_tensor(tensor, target)
        target.truncate(self.size)


@dataclass(frozen=True, slots=True)
class _Run:
    """Tensors that lie one behind the other, in bytes ``[begin, end)`` of a file."""

    file: MappedFile
    begin: int
    end: int
    tensors: tuple[MappedTensor, ...]


def _runs(tensors: Iterable[MappedTensor]) -> list[_Run]:
    """The runs of one file, in its order. A gap below a page is alignment, and copying it keeps one long run of two."""
    runs: list[_Run] = []
    run: list[MappedTensor] = []
    end = 0
    for tensor in sorted(tensors, key=lambda t: t.offset):
        if run and tensor.offset > end + _PAGE:
            runs.append(_Run(run[0].file, run[0].offset, end, tuple(run)))
            run = []
        if not run:
            end = tensor.offset
        run.append(tensor)
        end = max(end, tensor.offset + tensor.length)
    if run:
        runs.append(_Run(run[0].file, run[0].offset, end, tuple(run)))
    return runs


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
            if is_special(path):
                raise ModelError(f"{path}: is no regular file, and is not replaced by one")
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
    def create(self, name: str, *, there: bool = False) -> Iterator[BinaryIO]:
        """A new unbuffered file in the folder, or one that is ``there`` already."""
        with self.explained(), (self.path / name).open("r+b" if there else "xb", buffering=0) as file:
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
