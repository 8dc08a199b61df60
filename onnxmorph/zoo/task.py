"""One model of a batch, from its parent wherever it lies to a child under a temporary name in the output's store.

The same steps are taken in a thread of the batch and on a worker of a cluster: fetch, grow, put aside. They put nothing
in place and write no journal; that is for the batch alone (:mod:`onnxmorph.zoo.outbox`).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from onnxmorph.errors import OnnxMorphError
from onnxmorph.zoo.fingerprint import data_files, data_locations, file_sha256, key_of
from onnxmorph.zoo.selection import Parent
from onnxmorph.zoo.slot import Slot
from onnxmorph.zoo.stores import Store

__all__ = ["Attempt", "MadeFile", "Task", "attempt", "fingerprint"]


@dataclass(frozen=True)
class MadeFile:
    """A file of a child.

    Attributes:
        name: In the output's store, where it belongs.
        staged: In the same store, where it waits.
        sha256: Of its bytes.
        bytes: Their number.
        token: What the store said of it once it was in place, by which it is known again without being read.
    """

    name: str
    staged: str
    sha256: str
    bytes: int
    token: str | None = None


@dataclass(frozen=True)
class Task:
    """All that has to be known to grow one model, wherever that is done.

    Attributes:
        parent: The model.
        output: Where children go.
        staging: A folder of its own in ``output``, for this model in this run.
        recipe: Text of the recipe; ``recipe_name`` is what it is called in messages.
        check: Arguments of :class:`onnxmorph.delivery.Check`, or ``None``.
        bearing: The options that go into the key.
        bytes: Of the parent's files, as far as known before.
        inputs: SHA-256 of the parent's files by location, where they have been read; ``None``: they have not.
        known_key: Of the child that is in place; should the parent's bytes turn out to give this key, it is up to date.
        scratch: A folder of this machine for what is fetched; ``None``: the system's.
    """

    parent: Parent
    output: Store
    staging: str
    recipe: str
    recipe_name: str
    check: Mapping[str, Any] | None
    bearing: Mapping[str, Any]
    bytes: int
    inputs: Mapping[str, str] | None = None
    known_key: str | None = None
    scratch: str | None = None

    @property
    def name(self) -> str:
        return self.parent.name

    def key(self, inputs: Mapping[str, str]) -> str:
        return key_of(inputs, self.recipe, self.bearing)


@dataclass(frozen=True)
class Attempt:
    """What came of a task.

    Attributes:
        key: Of parent, recipe, version and options; ``None`` where the parent could not be read.
        result: As the worker gave it; ``None``: the child in place is up to date.
        files: Of the child, the model last; empty where there is none.
        inputs: SHA-256 of the parent's files, by location (``""``: the model itself).
        tokens: By location, what tells a remote file unchanged without reading it.
        bytes: Of the parent's files.
    """

    key: str | None
    result: dict[str, Any] | None
    files: tuple[MadeFile, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)
    bytes: int = 0


def fingerprint(path: Path) -> tuple[dict[str, str], int]:
    """SHA-256 of a model's file (under ``""``) and of its data files by location, and the bytes of all of them.

    Raises:
        OSError: A file cannot be read.
    """
    paths = {"": path, **data_files(path)}
    return {location: file_sha256(file) for location, file in paths.items()}, sum(
        file.stat().st_size for file in paths.values()
    )


def attempt(
    task: Task,
    slot: Slot,
    *,
    stopping: Callable[[], bool] = lambda: False,
    stage: Callable[[str], None] = lambda _: None,
) -> Attempt:
    """Grow one model. What fails is in the result; nothing is raised but what stops the batch.

    Raises:
        onnxmorph.zoo.slot.Stopped: ``stopping`` said so.
    """
    try:
        return _attempted(task, slot, stopping, stage)
    except OnnxMorphError as error:
        return Attempt(None, {"outcome": "failed", "code": "files", "reason": str(error), "seconds": 0.0})
    except OSError as error:
        reason = f"{error.filename or task.parent}: {error.strerror or error}"
        return Attempt(None, {"outcome": "failed", "code": "files", "reason": reason, "seconds": 0.0})


def _attempted(task: Task, slot: Slot, stopping: Callable[[], bool], stage: Callable[[str], None]) -> Attempt:
    with tempfile.TemporaryDirectory(prefix="onnxmorph-", dir=task.scratch) as private:
        model = task.parent.store.path(task.parent.name)
        tokens: dict[str, str] = {}
        if model is None:
            stage("fetching")
            model, tokens = _fetched(task.parent, Path(private) / "parent")
        inputs, size = (task.inputs, task.bytes) if task.inputs is not None else fingerprint(model)
        key = task.key(inputs)
        if key == task.known_key:
            return Attempt(key, None, inputs=inputs, tokens=tokens, bytes=size)
        file_name = PurePosixPath(task.name).name
        folder = task.output.path(task.staging) or Path(private) / "child"
        folder.mkdir(parents=True, exist_ok=True)
        told = {
            "model": str(model),
            "child": str(folder / file_name),
            "recipe": task.recipe,
            "recipe_name": task.recipe_name,
            "check": task.check,
        }
        result = slot.run(told, stopping=stopping, stage=stage)
        # The private name of what was fetched would tell a reader nothing.
        if isinstance(result.get("reason"), str):
            result["reason"] = result["reason"].replace(str(model), str(task.parent))
        files = [_put_aside(task, folder, name) for name in result.pop("files", ())]
        return Attempt(key, result, tuple(files), inputs, tokens, size)


def _fetched(parent: Parent, folder: Path) -> tuple[Path, dict[str, str]]:
    """A remote model and its data files, copied into ``folder``; and their tokens, taken before they were copied."""
    folder.mkdir()
    place = PurePosixPath(parent.name)
    model = folder / place.name
    tokens = {"": parent.store.token(parent.name)}
    parent.store.fetch(parent.name, model)
    for location in data_locations(model):
        spelled = location.replace("\\", "/")
        name = str(place.parent / spelled)
        target = folder / spelled
        if not parent.store.exists(name):
            continue  # the loader will say what is missing
        target.parent.mkdir(parents=True, exist_ok=True)
        tokens[location] = parent.store.token(name)
        parent.store.fetch(name, target)
    return model, {location: token for location, token in tokens.items() if token is not None}


def _put_aside(task: Task, folder: Path, file_name: str) -> MadeFile:
    path = folder / file_name
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    staged = f"{task.staging}/{file_name}"
    made = MadeFile(str(PurePosixPath(task.name).with_name(file_name)), staged, file_sha256(path), path.stat().st_size)
    if task.output.path(staged) is None:
        task.output.put(path, staged)
    return made
