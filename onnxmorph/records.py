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

from onnxmorph._ir import ir, onnx
from onnxmorph.errors import ModelError
from onnxmorph.protos import to_proto
from onnxmorph.tensors import MappedTensor, sample_ranges

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
    "is_sampled",
    "mark_like",
    "mark_parent",
    "records",
    "replace_records",
    "sampled_hash",
    "set_certificate",
]

RECORD_KEY = "onnxmorph.record"
CERTIFICATE_KEY = "onnxmorph.certificate"
INDEX_MAPS_KEY = "onnxmorph.index_maps"
PARENT_KEY = "parent"
"""In the first record of a growth: the mark of the model that was grown, see :func:`mark_like`."""
_SAMPLED = "sampled:"


def content_hash(model: ir.Model) -> str:
    """SHA-256 over graph and weights, hexadecimal.

    Independent of how tensors are stored and of what does not bear on the computation: doc strings, metadata,
    ``value_info``, the producer. Names count, and the order of nodes and initializers.
    """
    return _hash(model, sampled=False)


def sampled_hash(model: ir.Model) -> str:
    """SHA-256 over the graph and a sample of the weights, hexadecimal: tells models apart, but is no proof of content.

    As :func:`content_hash`, except that of a tensor above 1 MiB only 64 blocks of 4 KiB are read, at equal distances,
    the first and the last among them. Models with other nodes, names, shapes, types or small tensors differ in it, and
    so do large weights that were trained, scaled or quantized. A change of a few numbers of a large tensor may lie
    between the blocks. It takes milliseconds where the content hash reads everything.
    """
    return _hash(model, sampled=True)


def _hash(model: ir.Model, *, sampled: bool) -> str:
    def digest(proto: onnx.TensorProto, tensor: ir.TensorProtocol, *, initializer_of: ir.Graph | None) -> bool:
        del initializer_of
        if isinstance(tensor, MappedTensor):
            proto.raw_data = tensor.sampled_digest() if sampled else tensor.digest()
        else:
            data = tensor.tobytes()
            ranges = sample_ranges(len(data)) if sampled else [(0, len(data))]
            found = hashlib.sha256()
            for begin, length in ranges:
                found.update(memoryview(data)[begin : begin + length])
            proto.raw_data = found.digest()
        return True

    proto = to_proto(model, digest, bare=True)
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def is_sampled(mark: object) -> bool:
    """Whether a parent's mark comes from a sample of its weights."""
    return isinstance(mark, str) and mark.startswith(_SAMPLED)


def mark_like(mark: object, model: ir.Model) -> str:
    """The mark of ``model``, of the kind that ``mark`` is, so that the two can be compared.

    A mark is a content hash, or ``"sampled:"`` and a sampled hash.
    """
    return _SAMPLED + sampled_hash(model) if is_sampled(mark) else content_hash(model)


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


def mark_parent(child: ir.Model, parent: ir.Model, *, sampled: bool = False) -> None:
    """Write into the first record that ``child`` has beyond ``parent`` what it was grown from, unless it says so.

    Args:
        child: Changed in place.
        parent: What it was grown from.
        sampled: Read only a sample of large weights. The content hash reads every weight once; where a verification
            follows that costs nothing more, since hashes of weights in files are kept.
    """
    entries = records(child)
    first = len(records(parent))
    if first < len(entries) and PARENT_KEY not in entries[first]:
        entries[first][PARENT_KEY] = _SAMPLED + sampled_hash(parent) if sampled else content_hash(parent)
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
