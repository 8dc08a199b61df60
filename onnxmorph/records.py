"""What identifies a model and what travels in its metadata: content hash, records of morphs, certificate."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnxmorph._ir import ir
from onnxmorph.errors import ModelError
from onnxmorph.protos import to_proto
from onnxmorph.tensors import MappedTensor

__all__ = [
    "CERTIFICATE_KEY",
    "PARENT_KEY",
    "RECORD_KEY",
    "add_record",
    "as_json",
    "certificate_of",
    "content_hash",
    "drop_certificate",
    "index_maps",
    "mark_parent",
    "records",
    "replace_records",
    "set_certificate",
]

RECORD_KEY = "onnxmorph.record"
CERTIFICATE_KEY = "onnxmorph.certificate"
INDEX_MAPS_KEY = "onnxmorph.index_maps"
PARENT_KEY = "parent"
"""In the first record of a growth: the content hash of the model that was grown."""


def content_hash(model: ir.Model) -> str:
    """SHA-256 over graph and weights, hexadecimal.

    Independent of how tensors are stored and of what does not bear on the computation: doc strings, metadata,
    ``value_info``, the producer. Names count, and the order of nodes and initializers.
    """

    def digest(proto: onnx.TensorProto, tensor: ir.TensorProtocol, *, initializer_of: ir.Graph | None) -> bool:
        del initializer_of
        if isinstance(tensor, MappedTensor):
            proto.raw_data = tensor.digest()
        else:
            proto.raw_data = hashlib.sha256(tensor.tobytes()).digest()
        return True

    proto = to_proto(model, digest, bare=True)
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def _json_of(model: ir.Model, key: str) -> Any:
    text = model.metadata_props.get(key)
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the metadata {key!r} of the model is damaged: it is not JSON") from error


def records(model: ir.Model) -> list[dict[str, Any]]:
    """The morphs that made this model, oldest first; empty for a model nobody grew.

    Raises:
        ModelError: The metadata is there but damaged.
    """
    found = _json_of(model, RECORD_KEY)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
        raise ModelError(f"the metadata {RECORD_KEY!r} of the model is damaged: it is not a list of records")
    return found


def add_record(model: ir.Model, record: Mapping[str, Any]) -> None:
    """Append the record of one morph to the model's metadata, as JSON."""
    model.metadata_props[RECORD_KEY] = as_json([*records(model), dict(record)])


def replace_records(model: ir.Model, entries: Sequence[Mapping[str, Any]]) -> None:
    """Put ``entries`` into the metadata, in the place of the records that are there."""
    model.metadata_props[RECORD_KEY] = as_json([dict(record) for record in entries])


def mark_parent(child: ir.Model, parent: ir.Model) -> None:
    """Write into the first record that ``child`` has beyond ``parent`` what it was grown from, unless it says so.

    The hash reads every weight once; of weights in files it is kept, so that a verification does not read them again.
    """
    entries = records(child)
    first = len(records(parent))
    if first < len(entries) and PARENT_KEY not in entries[first]:
        entries[first][PARENT_KEY] = content_hash(parent)
        replace_records(child, entries)


def add_index_maps(model: ir.Model, maps: Mapping[str, Any]) -> None:
    """Keep the index maps of the record that was added last: per tensor and axis where its indices come from.

    They are kept compactly: maps that are the same once, the sources as compressed 32-bit integers.

    Args:
        model: The child, changed in place.
        maps: ``{tensor: {"parent": name, "axes": {axis: {"parent_size": n, "sources": [...]}}}}``.
    """
    packed: dict[tuple[int, str], int] = {}
    tensors: dict[str, Any] = {}
    for name, entry in maps.items():
        axes = {}
        for axis, one in entry["axes"].items():
            data = zlib.compress(np.asarray(one["sources"], dtype="<i4").tobytes(), 9)
            key = (int(one["parent_size"]), base64.b64encode(data).decode("ascii"))
            axes[axis] = packed.setdefault(key, len(packed))
        tensors[name] = [entry["parent"], axes]
    entry = {"record": len(records(model)) - 1, "maps": [list(key) for key in packed], "tensors": tensors}
    kept = _json_of(model, INDEX_MAPS_KEY)
    model.metadata_props[INDEX_MAPS_KEY] = as_json([*(kept if isinstance(kept, list) else ()), entry])


def index_maps(model: ir.Model) -> list[dict[str, Any]]:
    """The index maps of every record that changed a width, oldest first.

    Returns:
        ``{"record": place in `records`, "morph": its name, "tensors": maps}`` each, the maps as `add_index_maps` takes
        them. What follows the first record's child follows the second's by the second entry, and so on.

    Raises:
        ModelError: The metadata is there but damaged.
    """
    kept, grown = _json_of(model, INDEX_MAPS_KEY), records(model)
    out: list[dict[str, Any]] = []
    try:
        for entry in kept or ():
            sources = [
                {
                    "parent_size": int(size),
                    "sources": np.frombuffer(zlib.decompress(base64.b64decode(data)), dtype="<i4").tolist(),
                }
                for size, data in entry["maps"]
            ]
            tensors = {
                name: {"parent": parent, "axes": {axis: sources[place] for axis, place in axes.items()}}
                for name, (parent, axes) in entry["tensors"].items()
            }
            record = int(entry["record"])
            out.append({"record": record, "morph": grown[record].get("morph"), "tensors": tensors})
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, binascii.Error, zlib.error) as error:
        raise ModelError(f"the metadata {INDEX_MAPS_KEY!r} of the model is damaged: {error}") from error
    return out


def certificate_of(model: ir.Model) -> dict[str, Any] | None:
    """The certificate of equivalence that travels with the model, or ``None``.

    Raises:
        ModelError: The metadata is there but damaged.
    """
    found = _json_of(model, CERTIFICATE_KEY)
    if found is not None and not isinstance(found, dict):
        raise ModelError(f"the metadata {CERTIFICATE_KEY!r} of the model is damaged: it is not a certificate")
    return found


def set_certificate(model: ir.Model, certificate: Mapping[str, Any]) -> None:
    """Put a certificate into the model's metadata, in the place of an earlier one."""
    model.metadata_props[CERTIFICATE_KEY] = as_json(dict(certificate))


def drop_certificate(model: ir.Model) -> None:
    """Take the certificate out of a model's metadata: what held of the parent was not shown of its child."""
    model.metadata_props.pop(CERTIFICATE_KEY, None)


def as_json(value: Any) -> str:
    """``value`` as it stands in metadata: one line of JSON.

    Raises:
        ModelError: It holds something JSON has no word for.
    """
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ModelError(f"a record cannot be written as JSON: {error}") from error
