"""Putting children in place: cut short after any step, the next start ends where an uncut run ends."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from onnxmorph.zoo.journal import Journal
from onnxmorph.zoo.outbox import Outbox
from onnxmorph.zoo.stores import LocalStore
from onnxmorph.zoo.task import Attempt, MadeFile


class Killed(BaseException):
    """As good as SIGKILL: nothing in the code under test catches it."""


class _Mortal:
    """Counts what changes anything on the disk, and dies after so many."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1


class _Store(LocalStore):
    def __init__(self, root: str, life: _Mortal) -> None:
        super().__init__(root)
        object.__setattr__(self, "life", life)

    def move(self, name: str, to: str) -> None:
        self.life.step()  # type: ignore[attr-defined]
        super().move(name, to)

    def remove(self, name: str) -> None:
        self.life.step()  # type: ignore[attr-defined]
        super().remove(name)


class _Journal(Journal):
    def __init__(self, path: Path, life: _Mortal) -> None:
        self.life = life
        super().__init__(path)

    def append(self, event: str, **fields: Any) -> None:
        self.life.step()
        super().append(event, **fields)


def _attempt(root: Path, key: str, contents: dict[str, bytes], outcome: str = "done") -> Attempt:
    """Stages files and says what a worker would say."""
    staged = root / ".onnxmorph-batch" / f"staged-{key}"
    staged.mkdir(parents=True)
    files = []
    for name, data in contents.items():
        (staged / name).write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        files.append(MadeFile(name, f".onnxmorph-batch/staged-{key}/{name}", sha256, len(data)))
    return Attempt(key, {"outcome": outcome, "seconds": 1.0}, tuple(files), {"": "p"}, {}, 5)


def _visible(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}


OLD = {"m.onnx.data": b"old data", "m.onnx": b"old model"}
NEW = {"m.onnx.data": b"new data", "m.onnx": b"new model"}
SMALL = {"m.onnx": b"small model"}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("before", "after"), [({}, NEW), (OLD, NEW), (OLD, SMALL), (SMALL, NEW), (OLD, {}), (SMALL, OLD | SMALL)]
)
def test_killed_after_any_step_and_started_again_the_result_is_the_same(
    tmp_path: Path, before: dict[str, bytes], after: dict[str, bytes], force: bool
) -> None:
    for steps in range(20):
        root = tmp_path / str(steps)
        (root / ".onnxmorph-batch").mkdir(parents=True)
        path = root / ".onnxmorph-batch" / "journal"
        with Journal(path) as journal:
            if before:
                Outbox(LocalStore(str(root)), journal, force=force).publish("m.onnx", _attempt(root, "1", before), {})
        second = _attempt(root, "2", after, "done" if after else "refused")
        life = _Mortal(steps)
        killed = False
        with _Journal(path, life) as mortal:
            try:
                Outbox(_Store(str(root), life), mortal, force=force).publish("m.onnx", second, {})
            except Killed:
                killed = True
        # At no moment does a model lie beside data of another one.
        seen = _visible(root)
        if "m.onnx" in seen:
            assert seen in (before, after)
        with Journal(path) as journal:
            outbox = Outbox(LocalStore(str(root)), journal, force=force)
            outbox.recover()
            assert not journal.pending
            if journal.ended.get("m.onnx", {}).get("key") != "2":  # it was not even announced: done again
                again = _attempt(root, "2 again", after, "done" if after else "refused")
                outbox.publish("m.onnx", again, {})
            assert outbox.stands("m.onnx")
        assert _visible(root) == after
        if not killed:
            return
    raise AssertionError("it never came to an end")


def test_what_the_batch_did_not_write_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / ".onnxmorph-batch").mkdir()
    with Journal(tmp_path / "journal") as journal:
        outbox = Outbox(LocalStore(str(tmp_path)), journal, force=False)
        assert outbox.foreign("m.onnx") is None
        outbox.publish("m.onnx", _attempt(tmp_path, "1", SMALL), {})
        assert outbox.foreign("m.onnx") is None and outbox.stands("m.onnx")
        (tmp_path / "m.onnx").write_bytes(b"the user's own")
        assert outbox.foreign("m.onnx") == "m.onnx" and not outbox.stands("m.onnx")
        entry = outbox.publish("m.onnx", _attempt(tmp_path, "2", NEW), {})
        assert entry["result"]["code"] == "in-the-way" and "--force" in entry["result"]["reason"]
        assert (tmp_path / "m.onnx").read_bytes() == b"the user's own"
        refused = outbox.publish("m.onnx", _attempt(tmp_path, "3", {}, "refused"), {})
        assert refused["files"] == [] and (tmp_path / "m.onnx").exists()
        forced = Outbox(LocalStore(str(tmp_path)), journal, force=True)
        forced.publish("m.onnx", _attempt(tmp_path, "4", NEW), {})
        assert (tmp_path / "m.onnx").read_bytes() == NEW["m.onnx"]


def test_an_older_child_goes_when_the_model_refuses_now(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal") as journal:
        outbox = Outbox(LocalStore(str(tmp_path)), journal, force=False)
        outbox.publish("m.onnx", _attempt(tmp_path, "1", OLD), {})
        outbox.publish("m.onnx", _attempt(tmp_path, "2", {}, "refused"), {})
        assert not (tmp_path / "m.onnx").exists() and not (tmp_path / "m.onnx.data").exists()


def test_a_child_lost_with_its_folder_is_made_again(tmp_path: Path) -> None:
    made = _attempt(tmp_path, "1", NEW)
    with Journal(tmp_path / "journal") as journal:
        journal.append(
            "made", output="m.onnx", key="1", files=[vars(file) for file in made.files], result={}, inputs={}
        )
        (tmp_path / made.files[0].staged).rename(tmp_path / "m.onnx.data")
        (tmp_path / made.files[1].staged).unlink()
        Outbox(LocalStore(str(tmp_path)), journal, force=False).recover()
        assert not journal.pending and not journal.ended
    assert not (tmp_path / "m.onnx.data").exists()
    last = json.loads((tmp_path / "journal").read_bytes().splitlines()[-1])
    assert last == {"event": "dropped", "output": "m.onnx"}
