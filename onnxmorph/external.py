"""External data: which file a tensor's location means, and that it lies where it may.

A model names its data files by paths relative to its folder. A model from elsewhere could name any file of this
machine and have it copied into a child, so every location is resolved and must stay inside the folder. onnx-ir leaves
that check out when a model is opened by a bare file name, so it is made here, on absolute paths.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from onnxmorph._ir import ir, onnx
from onnxmorph.errors import ModelError
from onnxmorph.tensors import MappedFile, MappedTensor, stored_bytes

__all__ = ["DataFolders", "reference"]


def reference(proto: onnx.TensorProto) -> dict[str, str]:
    """The ``external_data`` entries of a tensor."""
    return {entry.key: entry.value for entry in proto.external_data}


class DataFolders:
    """The folders in which a model's data files are looked up; opens each file once."""

    def __init__(self, folders: Sequence[Path], name: str, *, linked_from: Path | None = None) -> None:
        """``name``: what errors call the model; ``linked_from``: where it was linked, when it was opened by a link."""
        self.folders = [Path(os.path.realpath(folder)) for folder in folders]
        self.name = name
        self.linked_from = linked_from
        self.files: dict[str, MappedFile] = {}

    def tensor(self, proto: onnx.TensorProto, shape: Sequence[int], what: str) -> MappedTensor:
        """The tensor over its range of its data file.

        Raises:
            ModelError: The location leaves the folder or is missing; the range is not in the file, or is not as long as
                type and dims ask for.
        """
        entries = reference(proto)
        location = entries.get("location", "")
        file = self.open(location, what)
        offset = self.number(entries, "offset", what)
        length = self.number(entries, "length", what)
        dtype = ir.DataType(proto.data_type)
        needed = stored_bytes(dtype, shape)
        if length is not None and length != needed:
            raise ModelError(
                f"{self.name}: {what} says it has {length} bytes in {location!r}, "
                f"but {dtype} of shape {list(shape)} takes {needed}"
            )
        begin = offset or 0
        if begin + needed > file.size:
            raise ModelError(
                f"{self.name}: {what} lies at bytes {begin} to {begin + needed} of {location!r}, "
                f"which has only {file.size}; the file is incomplete or belongs to another model"
            )
        return MappedTensor(file, begin, dtype=dtype, shape=shape, external=True)

    def number(self, entries: dict[str, str], key: str, what: str) -> int | None:
        text = entries.get(key)
        if text is None or text == "":
            return None
        if not (text.isascii() and text.isdigit()) or len(text) > 19:
            raise ModelError(
                f"{self.name}: {what} has the {key} {text[:40]!r} of external data, which is no valid number"
            )
        return int(text)

    def open(self, location: str, what: str) -> MappedFile:
        if location not in self.files:
            self.files[location] = self.opened(location, what)
        return self.files[location]

    def opened(self, location: str, what: str) -> MappedFile:
        if not isinstance(location, str) or not location or "\0" in location:
            raise ModelError(f"{self.name}: {what} is kept in an external file, but does not say in which")
        path = PurePosixPath(location.replace("\\", "/"))
        outside = f"{self.name}: {what} is kept in {location!r}, which is outside the model's folder"
        if path.is_absolute() or PureWindowsPath(location).drive or PureWindowsPath(location).root:
            raise ModelError(f"{outside} (an absolute path); only files in the model's own folder are read")
        if ".." in path.parts:
            raise ModelError(f"{outside}; only files in the model's own folder are read")
        # A backslash is a separator to some exporters and part of a name to a Unix file system: as it stands first.
        spellings = [location] if location == str(path) else [location, str(path)]
        found = next(
            (folder / s for folder in self.folders for s in spellings if os.path.lexists(folder / s)),
            None,
        )
        if found is None:
            beside = f"; looked in {self.folders[0]}"
            if self.linked_from is not None:
                beside += f", where the link {self.linked_from} leads (cp -L copies model and data into one folder)"
            raise ModelError(f"{self.name}: its external data file {location!r} is missing{beside}")
        resolved = Path(os.path.realpath(found))
        if not any(resolved.is_relative_to(folder) for folder in self.folders):
            raise ModelError(
                f"{outside} (a link to {resolved}); ONNX Runtime may follow it, onnxmorph does not: "
                "put a copy in its place"
            )
        file = MappedFile(resolved, f"{self.name}: its external data file {location!r}")
        if file.links > 1:
            raise ModelError(
                f"{self.name}: its external data file {location!r} is a hard link ({file.links} names for one file), "
                "which may lead outside the model's folder; ONNX Runtime may load it, onnxmorph does not: "
                "put a copy in its place"
            )
        return file
