"""From what a person types to parents, and to the names of their children.

A child's name is its parent's, relative to the fixed part of the glob that found it: ``zoo/**/*.onnx`` finds
``zoo/vision/a.onnx``, whose child is ``vision/a.onnx`` in the output folder. Whatever could make two models meet in one
file is turned away before anything runs.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from onnxmorph.errors import SelectionError
from onnxmorph.zoo.stores import LocalStore, RemoteStore, Store, is_remote

__all__ = ["OWN_FOLDER", "REPORTS", "Parent", "Selected", "select_parents", "split_glob"]

OWN_FOLDER = ".onnxmorph-batch"
REPORTS = ("report.json", "report.md", "report.html")
_MAGIC = re.compile(r"[*?\[]")
_MOST_SHOWN = 5
_MOST_SEARCHED = 10_000


@dataclass(frozen=True)
class Parent:
    """One model to grow: a name in a store. Its child bears the same name in the output's store."""

    store: Store
    name: str

    def __str__(self) -> str:
        return self.store.shown(self.name)


@dataclass(frozen=True)
class Selected:
    """What was found.

    Attributes:
        parents: In the order typed, and sorted within one glob.
        left_out: Matches of globs that lie in the output folder, and were left out as children of earlier runs.
    """

    parents: tuple[Parent, ...]
    left_out: tuple[str, ...] = ()


def split_glob(text: str) -> tuple[str, str]:
    """The fixed part of a glob and the rest: ``("zoo", "**/*.onnx")``; for a plain path its folder and its name."""
    parts = text.split("/")
    fixed = next((place for place, part in enumerate(parts) if _MAGIC.search(part)), len(parts) - 1)
    base = "/".join(parts[:fixed])
    if base == "" and text.startswith("/"):
        base = "/"
    return base or ".", "/".join(parts[fixed:])


def select_parents(texts: Sequence[str], output: Store) -> Selected:
    """The parents that paths, folders and globs name.

    A folder stands for ``**/*.onnx`` below it. Globs and folders find files named ``.onnx`` only; a file that is named
    itself is taken whatever its name is.

    Args:
        texts: As typed; addresses are looked up by fsspec.
        output: Where children go.

    Raises:
        SelectionError: One names nothing; a file lies in the output folder; two parents would give one child.
    """
    found: list[Parent] = []
    left_out: list[str] = []
    for text in texts:
        chosen, single = _chosen(text)
        inside = {parent: None for parent in chosen if _within(parent, output)}
        if inside and (single or len(inside) == len(chosen)):
            raise SelectionError(
                f"{next(iter(inside))} lies in the output folder {output.root}, where children go; "
                "choose another with -o"
            )
        left_out += [str(parent) for parent in inside]
        found += [parent for parent in chosen if parent not in inside]
    return Selected(tuple(_apart(found, output)), tuple(left_out))


def _chosen(text: str) -> tuple[list[Parent], bool]:
    """Parents that one text names, and whether it names a single file."""
    if not text:
        raise SelectionError("an empty path names no model")
    store: Store
    if is_remote(text):
        scheme = text.index("://") + 3 if "://" in text else text.index("::") + 2
        base, pattern = split_glob(text[scheme:])
        root = text[:scheme] + ("" if base == "." else base.removeprefix("/") if base == "/" else base)
        store = RemoteStore.at(root)
        single = not _MAGIC.search(pattern)
        names = store.find(pattern)
        if single and not names:
            folder = RemoteStore.at(text)
            names = folder.find("**/*.onnx") if text.rstrip("/") != root else []
            if names:
                store, single, pattern = folder, False, "**/*.onnx"
    else:
        path = Path(text)
        typed = text.replace(os.sep, "/")
        if path.is_dir():
            base, pattern, single = typed, "**/*.onnx", False
        elif os.path.lexists(path):
            base, pattern, single = str(path.parent), path.name, True
        else:
            base, pattern = split_glob(typed)
            single = not _MAGIC.search(pattern)
        if not single and ".." in pattern.split("/"):
            raise SelectionError(f"{text}: leads out of the glob's own folder; write it without '..' behind a '*'")
        store = LocalStore(str(Path(base).absolute()), base)
        names = [pattern] if single and path.is_file() else [] if single else store.find(pattern)
    if not single:
        names = [name for name in names if name.lower().endswith(".onnx")]
    if not names:
        raise SelectionError(f"no model at {text!r}{_near(store, text)}")
    return [Parent(store, name) for name in names], single


def _near(store: Store, text: str) -> str:
    """The nearest names to one that selects nothing, from the folder that is there."""
    if not isinstance(store, LocalStore):
        return ""
    folder = Path(store.root)
    while not folder.is_dir():
        folder = folder.parent
    names: list[str] = []
    searched = 0
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        searched += len(files) + 1
        shown = os.path.relpath(where) if not Path(text).is_absolute() else where
        names += [os.path.normpath(f"{shown}/{name}") for name in sorted(files) if name.endswith(".onnx")]
        if searched > _MOST_SEARCHED or len(names) > _MOST_SEARCHED:
            break
    by_end = {Path(name).name: name for name in reversed(names)}
    near = difflib.get_close_matches(os.path.normpath(text), names, n=3, cutoff=0.6) or [
        by_end[name] for name in difflib.get_close_matches(Path(text).name, by_end, n=3, cutoff=0.6)
    ]
    if near:
        return f"; did you mean {', '.join(map(repr, near))}?"
    if names:
        more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
        return f"; there are {', '.join(names[:_MOST_SHOWN])}{more}"
    return (
        f"; {os.path.relpath(folder)!r} holds no .onnx file"
        if folder == Path(store.root)
        else (f"; there is no folder {store.typed or store.root!r}")
    )


def _place(store: Store, name: str) -> tuple[str, str]:
    """What tells two files apart: the kind of store, and the path with links followed."""
    path = store.path(name)
    if path is not None:
        return "", os.path.normcase(os.path.realpath(path))
    return "remote", store.shown(name)


def _within(parent: Parent, output: Store) -> bool:
    kind, path = _place(parent.store, parent.name)
    other, folder = _place(output, "")
    return kind == other and (path == folder or path.startswith(folder.rstrip("/\\") + ("/" if kind else os.sep)))


def _apart(parents: Sequence[Parent], output: Store) -> list[Parent]:
    """The parents, each once.

    Raises:
        SelectionError: Two of them would meet in one file, or a child would lie on a parent.
    """
    folded = sys.platform in ("darwin", "win32")
    by_place: dict[tuple[str, str], Parent] = {}
    by_name: dict[str, Parent] = {}
    for parent in parents:
        place = _place(parent.store, parent.name)
        if place in by_place:
            continue  # a file that two globs find is grown once, under the name that the first gives it
        by_place[place] = parent
        name = parent.name.casefold() if folded else parent.name
        if name in by_name:
            raise SelectionError(
                f"{by_name[name]} and {parent} would both become {output.shown(parent.name)}; quote a glob that keeps "
                "their folders apart, such as 'DIR/**/*.onnx'"
            )
        by_name[name] = parent
    for name, parent in by_name.items():
        taken = [name + ".data", *map(str, PurePosixPath(name).parents)]
        met = next((other for other in taken if other in by_name), None)
        if met is not None:
            raise SelectionError(f"the child of {parent} needs a name that the child of {by_name[met]} takes")
        if parent.name in REPORTS or PurePosixPath(parent.name).parts[0] == OWN_FOLDER:
            raise SelectionError(f"{parent}: its child would lie where the batch keeps its own {parent.name}")
        if _place(output, parent.name) in by_place:
            raise SelectionError(f"the child of {parent} would lie on a parent; choose another folder with -o")
    return list(by_place.values())
