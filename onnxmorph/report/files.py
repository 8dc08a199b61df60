"""Writing a report: whole or not at all, over an earlier report of its kind, and over nothing else."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from onnxmorph.errors import SelectionError
from onnxmorph.special_files import is_special

__all__ = ["append_report", "may_write", "write_report", "write_whole"]

_BEGINNINGS = {
    "junit": (b'<?xml version="1.0" encoding="utf-8"?>\n<testsuites',),
    "markdown": (b"<!-- onnxmorph",),
    "html": (b"<!doctype html>\n<!-- onnxmorph",),
}


def may_write(path: Path, kind: str) -> None:
    """Whether a report of this kind can go there, said before any work is done.

    A run in CI writes the same names again and again, so a report takes the place of an earlier one without a word;
    but a model that stands there because somebody mistyped is not lost.

    Args:
        path: Where it goes.
        kind: ``junit``, ``markdown`` or ``html``.

    Raises:
        SelectionError: Something else is there, or its folder is not.
    """
    if path.is_dir():
        raise SelectionError(f"{path} is a folder; name the report's file")
    if not path.parent.is_dir():
        raise SelectionError(f"{path}: there is no folder {path.parent}")
    if is_special(path):
        raise SelectionError(f"{path} is no regular file, and no report takes its place")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SelectionError(f"{path}: {error.strerror}") from error
    if start and not start.startswith(_BEGINNINGS[kind]):
        raise SelectionError(f"{path} exists and is no earlier report; choose another name, or remove it")


def write_report(path: Path, text: str, kind: str) -> None:
    """Write a report, under a temporary name first.

    Raises:
        SelectionError: As :func:`may_write`.
        OSError: The disk says no; what was there stays.
    """
    may_write(path, kind)
    write_whole(path, text)


def write_whole(path: Path, text: str) -> None:
    """Write a text file, whole or not at all, in the place of whatever file is there.

    Raises:
        OSError: The disk says no; what was there stays.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def append_report(path: Path, text: str) -> None:
    """Add to a file that others write too, such as the summary of a step.

    Raises:
        OSError: It cannot be written.
    """
    with path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.write(text)
