"""Tensors whose bytes stay in a file.

One :class:`MappedFile` a file, shared by all its tensors: a memory map for reading values and a descriptor for copying
bytes from file to file inside the kernel. Both keep the file's inode alive, so a model stays usable when its file is
replaced by a rename, which is the only way this package ever overwrites anything.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import stat
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxmorph._ir import ir, onnx
from onnxmorph.errors import ModelError

__all__ = ["MappedFile", "MappedTensor", "reason_of", "refer", "sample_ranges", "stored_bytes"]

_CHUNK = 1 << 20  # as fast as larger ones, and within the processor's cache
_SAMPLE_BLOCK = 4 << 10
_SAMPLE_FROM = 1 << 20
_SAMPLE_BLOCKS = 64


class MappedFile:
    """A regular file, opened and mapped once for reading.

    Attributes:
        path: Absolute path with all links resolved, as it was when the file was opened.
        size: Bytes.
        fd: Open descriptor; closed with the last tensor.
        view: All bytes, zero-copy.
    """

    __slots__ = ("__weakref__", "fd", "links", "path", "size", "view")

    def __init__(self, path: Path, shown: str) -> None:
        """Open and map ``path``; ``shown`` is what errors call it.

        Raises:
            ModelError: It does not exist, is not a regular file, or cannot be read.
        """
        try:
            # Without O_NONBLOCK a named pipe would wait for a writer that never comes.
            self.fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        except (OSError, ValueError) as error:
            raise ModelError(f"{shown}: cannot be read: {reason_of(error)}") from error
        try:
            status = os.fstat(self.fd)
            if not stat.S_ISREG(status.st_mode):
                kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
                raise ModelError(f"{shown}: is {kind}")
            self.size = status.st_size
            self.links = status.st_nlink
            mapped = mmap.mmap(self.fd, 0, access=mmap.ACCESS_READ) if self.size else b""
        except (OSError, ValueError) as error:
            os.close(self.fd)
            raise ModelError(f"{shown}: cannot be mapped: {reason_of(error)}") from error
        except ModelError:
            os.close(self.fd)
            raise
        self.path = path
        self.view = memoryview(mapped)
        weakref.finalize(self, os.close, self.fd)

    def digest(self, ranges: Iterable[tuple[int, int]]) -> bytes:
        """SHA-256 of ranges (offset, length), read in chunks so that the map's pages do not count as ours."""
        digest = hashlib.sha256()
        window = memoryview(bytearray())
        for begin, length in ranges:
            if len(window) < min(_CHUNK, length):
                window = memoryview(bytearray(min(_CHUNK, length)))
            position, end = begin, begin + length
            while position < end:
                got = _read_at(self.fd, window[: end - position], position)
                if not got:
                    raise ModelError(f"{self.path.name}: shrank while it was being read")
                digest.update(window[:got])
                position += got
        return digest.digest()


def _read_at(fd: int, into: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(fd, [into], offset)
    os.lseek(fd, offset, os.SEEK_SET)
    data = os.read(fd, len(into))
    into[: len(data)] = data
    return len(data)


def reason_of(error: BaseException) -> str:
    """The operating system's words for an error, without errno and path."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()


def stored_bytes(dtype: ir.DataType, shape: Sequence[int]) -> int:
    """Bytes that ``raw_data`` of this type and shape takes; types below 8 bits are packed."""
    return (dtype.bitwidth * math.prod(shape) + 7) // 8


def sample_ranges(length: int) -> list[tuple[int, int]]:
    """Which ranges (begin, length) of a tensor's bytes stand for it in a sampled hash.

    All of them up to 1 MiB; of more, 64 blocks of 4 KiB at equal distances, from the first byte to the last.
    """
    if length <= _SAMPLE_FROM:
        return [(0, length)]
    last = length - _SAMPLE_BLOCK
    return [(number * last // (_SAMPLE_BLOCKS - 1), _SAMPLE_BLOCK) for number in range(_SAMPLE_BLOCKS)]


def refer(proto: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Mark a tensor's data as external: ``length`` bytes from ``offset`` of the file ``location``."""
    proto.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        proto.external_data.add(key=key, value=value)


class MappedTensor(ir.Tensor):  # type: ignore[type-arg]
    """A tensor over a range of a mapped file, immutable.

    ``numpy()`` is a read-only view into the map, except for types below 8 bits, which are unpacked (a copy). The view
    may be unaligned where the file's layout is.

    Attributes:
        file: Where the bytes lie.
        offset: First byte in the file.
        length: Number of bytes.
        external: Whether the model kept it in a data file of its own rather than inside the ``.onnx``.
    """

    __slots__ = ("_digest", "external", "file", "length", "offset")

    def __init__(
        self,
        file: MappedFile,
        offset: int,
        *,
        dtype: ir.DataType,
        shape: Sequence[int],
        external: bool,
        name: str | None = None,
        doc_string: str | None = None,
        metadata_props: dict[str, str] | None = None,
    ) -> None:
        self.file = file
        self.offset = offset
        self.length = stored_bytes(dtype, shape)
        self.external = external
        self._digest: bytes | None = None
        stored = np.frombuffer(file.view[offset : offset + self.length], dtype=np.uint8)
        value: Any
        if dtype.bitwidth < 8:
            value = ir.PackedTensor(stored, dtype, shape=shape)
        else:
            value = stored.view(dtype.numpy().newbyteorder("<")).reshape(shape)
        super().__init__(
            value, dtype, shape=ir.Shape(shape), name=name, doc_string=doc_string, metadata_props=metadata_props
        )

    @property
    def stored(self) -> npt.NDArray[np.uint8]:
        """The bytes as they lie in the file, ``(length,)``, zero-copy."""
        return np.frombuffer(self.file.view[self.offset : self.offset + self.length], dtype=np.uint8)

    def __repr__(self) -> str:
        return f"{self._repr_base()}({self.file.path.name!r}, offset={self.offset}, name={self.name!r})"

    def numpy(self) -> npt.NDArray[Any]:
        """The values, read-only."""
        raw = self.raw
        return raw.numpy() if isinstance(raw, ir.PackedTensor) else raw

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        array = self.numpy()
        return np.array(array, dtype=dtype, copy=copy)

    def tobytes(self) -> bytes:
        """The bytes as ONNX stores them: little endian, packed."""
        return bytes(self.file.view[self.offset : self.offset + self.length])

    def tofile(self, file: Any) -> None:
        """Write the bytes to a binary file object."""
        file.write(self.file.view[self.offset : self.offset + self.length])

    def digest(self) -> bytes:
        """SHA-256 of the stored bytes, computed once."""
        if self._digest is None:
            self._digest = self.file.digest([(self.offset, self.length)])
        return self._digest

    def sampled_digest(self) -> bytes:
        """SHA-256 of a sample of the stored bytes, see :func:`sample_ranges`."""
        return self.file.digest((self.offset + begin, length) for begin, length in sample_ranges(self.length))
