"""Where models lie: a folder of this machine, or a place that fsspec reaches (``s3://``, ``gs://``, ``memory://`` ...).

Both are seen as a root with names below it, separated by ``/``. Only what both can do is asked of them.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol, cast

from onnxmorph.errors import ModelError, RuntimeFailure, SelectionError
from onnxmorph.zoo.fingerprint import file_sha256, stream_sha256

__all__ = ["LocalStore", "RemoteStore", "Store", "is_remote", "open_store"]

_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*(::|://)")
_MAGIC = re.compile(r"[*?\[]")
_CHUNK = 1 << 20


def is_remote(text: str) -> bool:
    """Whether ``text`` is an address for fsspec rather than a path."""
    return _REMOTE.match(text) is not None


def open_store(text: str) -> Store:
    """The store whose root is a path or an address.

    Raises:
        RuntimeFailure: It is an address, and what is needed for it is not installed.
    """
    return RemoteStore.at(text) if is_remote(text) else LocalStore(str(Path(text).absolute()), text)


class Store(Protocol):
    """A root with names below it."""

    @property
    def root(self) -> str:
        """Its path or address."""

    def path(self, name: str) -> Path | None:
        """Where a name lies on this machine; ``None`` in a remote store."""

    def shown(self, name: str) -> str:
        """A name as a person would type it."""

    def exists(self, name: str) -> bool: ...

    def size(self, name: str) -> int:
        """Bytes of a file; 0 where there is none."""

    def token(self, name: str) -> str | None:
        """Something that changes whenever the file does and is had without reading it; ``None``: nothing reliable."""

    def sha256(self, name: str) -> str | None:
        """SHA-256 of a file; ``None`` where there is none."""

    def find(self, pattern: str) -> list[str]:
        """Names of the files that match a glob, sorted; ``**`` stands for any number of folders."""

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file to this machine."""

    def put(self, path: Path, name: str) -> None:
        """Copy a file from this machine."""

    def move(self, name: str, to: str) -> None:
        """Rename a file, over one that is there; in a store that cannot rename, copied there and then removed."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def remove_folder(self, name: str) -> None:
        """Remove a folder with all that is in it, if it is there."""

    def read(self, name: str) -> bytes | None:
        """A whole file; ``None`` where there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file, so that a reader sees the old one or the new one."""


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(f"{what}: {error.strerror or error}") from error


@dataclass(frozen=True)
class LocalStore:
    """A folder of this machine.

    Attributes:
        root: Its path.
        typed: Its path as a person typed it, for messages.
    """

    root: str
    typed: str | None = None

    def path(self, name: str) -> Path:
        return Path(self.root, *PurePosixPath(name).parts)

    def shown(self, name: str) -> str:
        base = self.root if self.typed is None else self.typed
        return os.path.normpath(os.path.join(base, *PurePosixPath(name).parts))  # noqa: PTH118 - of text, not of files

    def exists(self, name: str) -> bool:
        return os.path.lexists(self.path(name))

    def size(self, name: str) -> int:
        try:
            return self.path(name).stat().st_size
        except OSError:
            return 0

    def token(self, name: str) -> str | None:
        del name
        return None  # times of change can be set back, and reading is quick here

    def sha256(self, name: str) -> str | None:
        path = self.path(name)
        with _told(str(path)):
            try:
                return file_sha256(path) if path.is_file() else None
            except FileNotFoundError:
                return None

    def find(self, pattern: str) -> list[str]:
        names = glob.glob(pattern, root_dir=self.root, recursive=True)  # noqa: PTH207 - Path.glob knows no hidden files
        return sorted({name.replace(os.sep, "/") for name in names if Path(self.root, name).is_file()})

    def fetch(self, name: str, path: Path) -> None:
        with _told(self.shown(name)):
            shutil.copyfile(self.path(name), path)

    def put(self, path: Path, name: str) -> None:
        target = self.path(name)
        with _told(str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)

    def move(self, name: str, to: str) -> None:
        target = self.path(to)
        with _told(str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            self.path(name).replace(target)
            _sync_folder(target.parent)

    def remove(self, name: str) -> None:
        with _told(self.shown(name)):
            self.path(name).unlink(missing_ok=True)

    def remove_folder(self, name: str) -> None:
        shutil.rmtree(self.path(name), ignore_errors=True)

    def read(self, name: str) -> bytes | None:
        with _told(self.shown(name)):
            return self.path(name).read_bytes() if self.exists(name) else None

    def write(self, name: str, data: bytes) -> None:
        path = self.path(name)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        with _told(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with aside.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                aside.replace(path)
            finally:
                aside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where the platform lets one."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class RemoteStore:
    """A place that fsspec reaches.

    Attributes:
        root: Its address, as typed, without a slash at its end.
    """

    root: str

    @classmethod
    def at(cls, address: str) -> RemoteStore:
        """The store at an address.

        Raises:
            RuntimeFailure: fsspec, or what it needs for this kind of address, is not installed.
        """
        store = cls(address.rstrip("/") if not address.endswith("://") else address)
        store._system()
        return store

    def _system(self) -> tuple[Any, str]:
        """The file system, which fsspec keeps and hands out again, and the root as it calls it."""
        kind = re.split(r"::|://", self.root, maxsplit=1)[0]
        try:
            import fsspec
        except ImportError as error:
            raise RuntimeFailure(
                f"{self.root}: addresses need the extra 'remote': pip install 'onnxmorph[remote]'"
            ) from error
        try:
            system, root = fsspec.core.url_to_fs(self.root)
        except ImportError as error:
            missing = " ".join(str(error).split())
            raise RuntimeFailure(f"{self.root}: {kind}:// needs one more package: {missing}") from error
        except ValueError as error:
            raise RuntimeFailure(f"{self.root}: {' '.join(str(error).split())}") from error
        return system, str(root)

    @contextlib.contextmanager
    def _at(self, name: str) -> Iterator[tuple[Any, str]]:
        system, root = self._system()
        try:
            yield system, f"{root.rstrip('/')}/{name}" if name else root
        except (ModelError, SelectionError):
            raise
        except Exception as error:  # each kind of store raises errors of its own library
            said = " ".join(str(error).split()) or type(error).__name__
            raise ModelError(f"{self.shown(name)}: {said}") from error

    def path(self, name: str) -> None:
        del name

    def shown(self, name: str) -> str:
        return f"{self.root}/{name}" if not self.root.endswith("/") else f"{self.root}{name}"

    def exists(self, name: str) -> bool:
        with self._at(name) as (system, path):
            return bool(system.exists(path))

    def size(self, name: str) -> int:
        with self._at(name) as (system, path):
            return int(system.size(path) or 0) if system.exists(path) else 0

    def token(self, name: str) -> str | None:
        with self._at(name) as (system, path):
            try:
                return str(system.checksum(path))
            except (FileNotFoundError, NotImplementedError):
                return None

    def sha256(self, name: str) -> str | None:
        with self._at(name) as (system, path):
            if not system.isfile(path):
                return None
            with system.open(path, "rb") as stream:
                return stream_sha256(cast(BinaryIO, stream))

    def find(self, pattern: str) -> list[str]:
        with self._at("") as (system, root):
            below = root.rstrip("/")
            if not _MAGIC.search(pattern):
                found = [f"{below}/{pattern}"]
            else:
                found = system.glob(f"{below}/{pattern}")
            names = [str(path)[len(below) + 1 :] for path in found if system.isfile(path)]
        hidden = [name for name in names if any(part.startswith(".") for part in name.split("/"))]
        return sorted(set(names) - set(hidden))

    def fetch(self, name: str, path: Path) -> None:
        with self._at(name) as (system, there), system.open(there, "rb") as stream, path.open("wb") as file:
            shutil.copyfileobj(stream, file, _CHUNK)

    def put(self, path: Path, name: str) -> None:
        with self._at(name) as (system, there):
            system.makedirs(there.rsplit("/", 1)[0], exist_ok=True)
            with path.open("rb") as file, system.open(there, "wb") as stream:
                shutil.copyfileobj(file, stream, _CHUNK)

    def move(self, name: str, to: str) -> None:
        with self._at(name) as (system, here), self._at(to) as (_, there):
            system.makedirs(there.rsplit("/", 1)[0], exist_ok=True)
            system.mv(here, there)
            system.invalidate_cache()

    def remove(self, name: str) -> None:
        with self._at(name) as (system, path):
            with contextlib.suppress(FileNotFoundError):
                system.rm_file(path)
            system.invalidate_cache()

    def remove_folder(self, name: str) -> None:
        with self._at(name) as (system, path):
            with contextlib.suppress(FileNotFoundError):
                system.rm(path, recursive=True)
            system.invalidate_cache()

    def read(self, name: str) -> bytes | None:
        with self._at(name) as (system, path):
            return bytes(system.cat_file(path)) if system.exists(path) else None

    def write(self, name: str, data: bytes) -> None:
        with self._at(name) as (system, path):
            system.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            system.pipe_file(path, data)
            system.invalidate_cache()
