"""Putting children in place, so that a batch killed at any moment can tell what it has done.

1. The child lies complete under temporary names in the output's own store, and its bytes are on the disk.
2. The journal says ``made``: which files, with their hashes, and the result.
3. The files are moved: the data file, then the model. An older model of this batch goes first, so that at no moment a
   model lies beside data that are not its own.
4. The journal says ``end``.

A batch that finds a ``made`` without its ``end`` goes on at 3. Only files whose hashes the journal knows count as the
batch's own; anything else in the output folder is the user's and stays, unless he says otherwise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from onnxmorph.errors import ModelError
from onnxmorph.zoo.journal import Journal
from onnxmorph.zoo.stores import Store
from onnxmorph.zoo.task import Attempt, MadeFile

__all__ = ["Outbox"]


_FIELDS = tuple(field.name for field in dataclasses.fields(MadeFile))


class Outbox:
    """The output's store together with the journal that knows what of it is this batch's."""

    def __init__(self, store: Store, journal: Journal, *, force: bool) -> None:
        self.store = store
        self.journal = journal
        self.force = force

    def recover(self) -> None:
        """Bring to an end what a killed batch had begun to move."""
        for output, entry in list(self.journal.pending.items()):
            files = _files(entry)
            if all(self._in_place(file) or self.store.sha256(file.staged) == file.sha256 for file in files):
                try:
                    self._move(output, files)
                except _Foreign:
                    self.journal.append("dropped", output=output)
                else:
                    self._end({**entry, "event": "end"})
                continue
            for file in files:  # lost with its folder: what was moved of it is of no use alone
                if self._in_place(file):
                    self.store.remove(file.name)
            self.journal.append("dropped", output=output)

    def foreign(self, output: str) -> str | None:
        """The file at a child's name, or at its data file's, that is not this batch's; ``None`` where there is none."""
        own = {file.name: file for file in _files(self.journal.ended.get(output, {}))}
        for name in (output, f"{output}.data"):
            if self.store.exists(name) and not (name in own and self._in_place(own[name])):
                return name
        return None

    def stands(self, output: str) -> bool:
        """Whether what the journal says of a model's end is still so: its child is in place, byte for byte."""
        entry = self.journal.ended.get(output)
        return entry is not None and all(self._in_place(file) for file in _files(entry))

    def publish(self, output: str, attempt: Attempt, about: Mapping[str, Any]) -> dict[str, Any]:
        """Put a child in place, or withdraw the one that an earlier run made; gives the journal's entry.

        Args:
            output: The child's name.
            attempt: What came of the model.
            about: What else the journal is to keep.
        """
        result = dict(attempt.result or {})
        entry: dict[str, Any] = {
            **about,
            "output": output,
            "key": attempt.key,
            "inputs": dict(attempt.inputs),
            "tokens": dict(attempt.tokens),
            "bytes": {"before": attempt.bytes, "after": sum(file.bytes for file in attempt.files) or None},
            "files": [dataclasses.asdict(file) for file in attempt.files],
            "result": result,
        }
        if attempt.files:
            if not self.force and (name := self.foreign(output)) is not None:
                return self._end(_refused_place(entry, f"{self.store.shown(name)} appeared while the batch ran"))
            self.journal.append("made", **entry)
            try:
                self._move(output, attempt.files)
            except _Foreign as error:
                return self._end(_refused_place(entry, str(error)))
        else:
            self._withdraw(output, keep=())
        return self._end(entry)

    def _end(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        fields = {key: value for key, value in entry.items() if key != "event"}
        fields["files"] = [{**file, "token": self.store.token(file["name"])} for file in fields["files"]]
        self.journal.append("end", **fields)
        return fields

    def _move(self, output: str, files: Sequence[MadeFile]) -> None:
        if all(self._in_place(file) for file in files):
            return
        if self.force:
            self.store.remove(output)
        else:
            waiting = [file for file in files if not self._in_place(file)]
            own = {file.name: file for file in _files(self.journal.ended.get(output, {}))}
            for file in waiting:
                older = own.get(file.name)
                if self.store.exists(file.name) and not (older is not None and self._in_place(older)):
                    raise _Foreign(f"{self.store.shown(file.name)} is not of this batch")
        self._withdraw(output, keep=files)
        for file in files:
            if not self._in_place(file):
                self.store.move(file.staged, file.name)

    def _withdraw(self, output: str, keep: Sequence[MadeFile]) -> None:
        """Remove what an earlier run put in place, the model first, as far as it is as that run left it."""
        stays = {(file.name, file.sha256) for file in keep}
        for file in reversed(_files(self.journal.ended.get(output, {}))):
            if (file.name, file.sha256) not in stays and self._in_place(file):
                self.store.remove(file.name)

    def _in_place(self, file: MadeFile) -> bool:
        if file.token is not None and file.token == self.store.token(file.name):
            return True
        return self.store.sha256(file.name) == file.sha256


class _Foreign(ModelError):
    """Something that is not of this batch lies where a child belongs."""


def _refused_place(entry: Mapping[str, Any], reason: str) -> dict[str, Any]:
    result = {**entry["result"], "outcome": "failed", "code": "in-the-way", "reason": f"{reason}; --force replaces it"}
    bytes_ = {**entry["bytes"], "after": None}
    return {**entry, "key": None, "files": [], "bytes": bytes_, "result": result}


def _files(entry: Mapping[str, Any]) -> list[MadeFile]:
    """The files of a journal's entry, the model last."""
    try:
        return [MadeFile(**{name: file[name] for name in _FIELDS if name in file}) for file in entry.get("files", ())]
    except (AttributeError, TypeError):
        return []  # of another version: what lies there does not count as this batch's own
