"""What decides whether a child is up to date: the bytes of its parent, the recipe, the version, the options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from onnxmorph.errors import OnnxMorphError

if TYPE_CHECKING:
    import onnx

__all__ = ["data_files", "data_locations", "file_sha256", "key_of", "stream_sha256"]

_CHUNK = 1 << 20


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal, read a piece at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stream_sha256(stream: BinaryIO) -> str:
    """SHA-256 of what is left in a stream, hexadecimal."""
    digest = hashlib.sha256()
    while block := stream.read(_CHUNK):
        digest.update(block)
    return digest.hexdigest()


def key_of(parent: Mapping[str, str], recipe: str, options: Mapping[str, Any]) -> str:
    """One hash over everything that a child depends on.

    Args:
        parent: SHA-256 of the model's file, under ``""``, and of each of its data files, by location.
        recipe: The recipe's text.
        options: What else bears on the child, as JSON.
    """
    from onnxmorph import __version__

    document = {"parent": dict(parent), "recipe": recipe, "onnxmorph": __version__, "options": dict(options)}
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def data_files(path: Path) -> dict[str, Path]:
    """The external data files of a model that are there, by location; empty for a file that is no usable model."""
    found = {}
    for location in data_locations(path):
        for spelling in (location, location.replace("\\", "/")):
            if (path.parent / spelling).is_file():
                found[location] = path.parent / spelling
                break
    return found


def data_locations(path: Path) -> list[str]:
    """Where a model says that its external data lie, relative to its folder; places outside of it are left out.

    Only the model's skeleton is parsed, however large its weights are. A file that is no usable model has none: to say
    what is wrong with it is the loader's business.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    from onnxmorph import wire
    from onnxmorph.tensors import MappedFile

    proto = onnx.ModelProto()
    try:
        file = MappedFile(path.resolve(), str(path))
        if file.size == 0:
            return []
        proto.MergeFromString(wire.skeleton(file.view, str(path)).data)
        locations = {
            entry.value for tensor in _tensors(proto) for entry in tensor.external_data if entry.key == "location"
        }
    except (OnnxMorphError, DecodeError, ValueError, OSError, RecursionError):
        return []
    return sorted(location for location in locations if _inside(location))


def _inside(location: str) -> bool:
    path = PurePosixPath(location.replace("\\", "/"))
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in location


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for graph in (attribute.g, *attribute.graphs):
                yield from _graph_tensors(graph)
