"""Models and their files: load, save, and what travels in a model's metadata.

A loaded model keeps its weights in the file it came from, memory-mapped, whether they are embedded in the ``.onnx`` or
kept as external data. Clones share them, and saving copies what did not change from file to file. Everything a file
says is kept: opset imports and IR version as they are, metadata and doc strings at every level, functions, subgraphs,
quantization annotations, types. What could not be kept is refused when the file is loaded.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from onnxmorph import wire
from onnxmorph._ir import ir, onnx
from onnxmorph.checks import check
from onnxmorph.errors import ModelError
from onnxmorph.external import DataFolders
from onnxmorph.protos import from_proto
from onnxmorph.reading import ReadTensors
from onnxmorph.records import (
    CERTIFICATE_KEY,
    RECORD_KEY,
    add_index_maps,
    add_record,
    certificate_of,
    content_hash,
    drop_certificate,
    index_maps,
    records,
    set_certificate,
)
from onnxmorph.runtime_form import RuntimeForm, runtime_form
from onnxmorph.saving import SOURCE_KEY, SaveResult, Source, Staged, save, staged
from onnxmorph.tensors import MappedFile

__all__ = [
    "CERTIFICATE_KEY",
    "RECORD_KEY",
    "RuntimeForm",
    "SaveResult",
    "Staged",
    "add_index_maps",
    "add_record",
    "certificate_of",
    "clone",
    "content_hash",
    "drop_certificate",
    "index_maps",
    "load",
    "opset",
    "records",
    "runtime_form",
    "save",
    "set_certificate",
    "source",
    "staged",
]

_OTHER_FORMATS = {
    ".json": "JSON",
    ".onnxjson": "JSON",
    ".textproto": "protobuf text",
    ".prototxt": "protobuf text",
    ".pbtxt": "protobuf text",
    ".onnxtxt": "ONNX text",
    ".onnxtext": "ONNX text",
    ".ort": "ONNX Runtime's own",
    ".zst": "compressed",
    ".gz": "compressed",
    ".zip": "compressed",
    ".safetensors": "safetensors",
}
_SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the model itself; git lfs pull fetches it"),
    (b"PK\x03\x04", "a zip archive (a PyTorch file, perhaps); export it to ONNX first"),
    (b"\x1f\x8b", "compressed; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed; unpack it first"),
    (b"\x89HDF", "an HDF5 file (a Keras model, perhaps); convert it to ONNX first"),
)


def load(path: str | os.PathLike[str], *, data_dir: Path | Sequence[Path] | None = None) -> ir.Model:
    """Load and check a model; its large tensors stay in the file, memory-mapped.

    The model file may be a link, as model hubs keep them: its data files are then looked up beside the file the link
    leads to. Data files must lie in the model's folder or below, and so must the targets of links among them; absolute
    locations, ``..`` and hard links are turned away.

    Args:
        path: A binary ONNX file.
        data_dir: Folder, or several in order, in which external data is looked up instead of the model's own.

    Raises:
        ModelError: It is not a usable ONNX model, with what is wrong and where.
        Refusal: It is one, but has something that could not be kept: sparse tensors, training information, fields of a
            newer ONNX.
    """
    given = Path(path)
    name = str(given)
    other = _OTHER_FORMATS.get(given.suffix.lower())
    if other is not None:
        raise ModelError(f"{name}: is in {other} format by its name; binary .onnx files are supported")
    try:
        resolved = Path(os.path.realpath(given))
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: is no usable path: {error}") from error
    file = MappedFile(resolved, name)
    if file.size == 0:
        raise ModelError(f"{name}: not an ONNX model: the file is empty")
    start = bytes(file.view[:32])
    for signature, what in _SIGNATURES:
        if start.startswith(signature):
            raise ModelError(f"{name}: not an ONNX model but {what}")
    skeleton = wire.skeleton(file.view, name)
    proto = onnx.ModelProto()
    try:
        proto.MergeFromString(skeleton.data)
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{name}: not an ONNX model: protobuf cannot read it ({error})") from error
    check(proto, name)
    if data_dir is None:
        folders = [resolved.parent]
    else:
        folders = (
            [Path(data_dir)] if isinstance(data_dir, (str, os.PathLike)) else [Path(folder) for folder in data_dir]
        )
    linked_from = given.absolute() if resolved.parent != Path(os.path.realpath(given.parent)) else None
    read = ReadTensors(name, file, skeleton, DataFolders(folders, name, linked_from=linked_from))
    model = from_proto(proto, name, read)
    model.meta[SOURCE_KEY] = Source(given.absolute(), bool(read.folders.files))
    return model


def clone(model: ir.Model) -> ir.Model:
    """A copy to be changed: new graphs, nodes and values over the same tensors, with everything kept."""
    child = model.clone()
    child.meta.update(model.meta)
    # onnx-ir's clone shares the type objects, and setting a value's dtype would reach through to the parent.
    for graph in (*child.graphs(), *(g for f in child.functions.values() for g in (f.graph, *f.subgraphs()))):
        for value in (*graph.inputs, *graph.initializers.values(), *(out for node in graph for out in node.outputs)):
            value.type = copy.copy(value.type)
    return child


def source(model: ir.Model) -> Path | None:
    """The file a model, or the parent it was cloned from, was loaded from; ``None`` when it was made in memory."""
    known = model.meta.get(SOURCE_KEY)
    return None if known is None else known.path


def opset(model: ir.Model, domain: str = "") -> int:
    """The version of an opset that a model imports; ``""`` and ``"ai.onnx"`` are the same.

    Raises:
        ModelError: It imports none of this domain.
    """
    for name in ("", "ai.onnx") if domain in ("", "ai.onnx") else (domain,):
        version = model.opset_imports.get(name)
        if version is not None:
            return version
    raise ModelError(f"the model imports no opset of domain {domain or 'ai.onnx'!r}")
