"""Whether two nodes that are the same otherwise differ in the numbers of their weights, and where.

A weight is what a layer, a normalisation, a recurrence, a table, a bound or a product is given besides ``x``; not what
shapes or masks (the ``-inf`` of one exporter is another's ``-1e9``), nor integers that steer. Numbers that make no
difference together (a variance and an epsilon, the two biases of a recurrence) are compared as they act, and numbers
that rounding explains, as where a scale was folded in by another tool, are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.graph.constants import constant, stored
from onnxmorph.verify.compare import unit_rounding
from onnxmorph.verify.noise import is_floating

__all__ = ["Apart", "weights_apart"]

Array = np.ndarray[Any, Any]

_ALL = tuple(range(16))
_WEIGHTS: Mapping[str, Sequence[int]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), (0, 1, 2)),
    **dict.fromkeys(("LayerNormalization", "GroupNormalization", "InstanceNormalization", "RMSNormalization"), (1, 2)),
    "BatchNormalization": (1, 2, 3, 4),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), (1, 2, 3, 7)),
    **dict.fromkeys(("Gather", "GatherND", "GatherElements"), (0,)),
    "PRelu": (1,),
    "Clip": (1, 2),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), (0, 1)),
    **dict.fromkeys(("MatMulInteger", "ConvInteger"), (0, 1)),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul"), (3, 8)),
    "DequantizeLinear": (0,),
}
"""Places of the inputs that are weights where they are constant, by operator."""

_INTEGERS = frozenset({"MatMulInteger", "ConvInteger", "QLinearConv", "QLinearMatMul"})
"""Operators whose weights are integers with a scale and a zero point beside them."""

_TERMS = frozenset({"Add", "Sub"})
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_FILL = 1e4
"""Magnitude from which numbers of one sign stand for infinity, as in masks."""

_OWN_ROUNDINGS = 8.0
"""Roundings of its own that a number may be off by where another tool computed it."""

_ROUNDINGS = {2: 2.0, 4: 64.0, 8: 64.0}
"""Roundings of the largest number of its tensor, by bytes: what sums in another order may come to."""

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Apart:
    """Numbers of one weight that differ."""

    op: str
    weight: str
    parents: str
    place: tuple[int, ...]
    before: float
    after: float
    differing: int
    size: int


def weights_apart(before: ir.Node, after: ir.Node, apart: Sequence[int]) -> list[Apart] | None:
    """Which weights of two nodes that are the same otherwise differ, and where; ``None`` where that cannot be said."""
    places = _weights(after)
    if any(place not in places for place in apart):
        return None
    if len(apart) > 1 and (after.op_type in _INTEGERS or after.domain not in ("", "ai.onnx")):
        return None  # a scale or a zero point may make up for it
    pairs = {place: (constant(before.inputs[place]), constant(after.inputs[place])) for place in apart}
    found: list[Apart] = []
    for place, (one, other) in pairs.items():
        if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
            return None
        if not _weighs(after, other):
            return None
        made = _most_apart(one, other)
        if made is not None:
            where, count = made
            index = np.unravel_index(where, other.shape)
            names = (_weight_name(after.inputs[place]), _weight_name(before.inputs[place]))
            numbers = (float(one.reshape(-1)[where]), float(other.reshape(-1)[where]))
            found.append(Apart(after.op_type, *names, tuple(int(i) for i in index), *numbers, count, other.size))
    if after.op_type == "BatchNormalization" and len(apart) > 1:
        return found if any(_most_apart(*pair) is not None for pair in _affine(before, after)) else []
    if after.op_type in _RECURRENT and 3 in pairs:
        sums = [_joined(np.asarray(array)) for array in pairs[3]]
        if _most_apart(sums[0], sums[1]) is None:
            return [item for item in found if item.weight != _weight_name(after.inputs[3])]
    return found


def _weights(node: ir.Node) -> Iterable[int]:
    if node.domain not in ("", "ai.onnx"):
        return _ALL if node.domain == "com.microsoft" else ()
    return _WEIGHTS.get(node.op_type, ())


def _weighs(node: ir.Node, array: Array) -> bool:
    """Whether a constant in a weight's place weighs: numbers, and of a sum more than one (an epsilon is none)."""
    if node.op_type in _TERMS and array.size < 2:
        return False
    if is_floating(array):
        return bool(array.dtype.kind != "c")
    if array.dtype.kind in "iu" or array.dtype.kind == "V":
        # Wider integers are indices and sizes, but for the bias of an integer layer.
        return bool(array.dtype.itemsize == 1 or (array.dtype.name == "int32" and node.op_type in _INTEGERS))
    return False


def _most_apart(one: Array, other: Array) -> tuple[int, int] | None:
    """Flat index of the number that differs most, and how many differ by more than rounding; ``None``: none does."""
    left, right = (np.asarray(array).reshape(-1) for array in (one, other))
    blocks = [slice(start, start + _BLOCK) for start in range(0, right.size, _BLOCK)]
    if is_floating(other):
        unit = unit_rounding(other.dtype)
        largest = max((_largest(left[block]) for block in blocks), default=0.0)
        rounding = _ROUNDINGS.get(other.dtype.itemsize, 2.0) * unit * largest
    else:
        unit = rounding = 0.0
    count, most, where = 0, -1.0, -1
    for block in blocks:
        with np.errstate(invalid="ignore"):
            unequal = np.flatnonzero(left[block] != right[block])
        old, new = left[block][unequal].astype(np.float64), right[block][unequal].astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            distance = np.abs(new - old)
            own = _OWN_ROUNDINGS * unit * np.maximum(np.abs(old), np.abs(new))
            fills = (np.abs(old) >= _FILL) & (np.abs(new) >= _FILL) & (np.sign(old) == np.sign(new))
            counts = (distance > np.maximum(own, rounding)) & np.isfinite(distance) & ~fills
        count += int(np.count_nonzero(counts))
        distance = np.where(counts, distance, -1.0)
        if distance.size and distance.max() > most:
            most, where = float(distance.max()), block.start + int(unequal[int(np.argmax(distance))])
    return (where, count) if count else None


def _largest(array: Array) -> float:
    wide = array if array.dtype.kind == "f" else array.astype(np.float32)
    with np.errstate(invalid="ignore"):
        return float(np.max(np.abs(wide), where=np.isfinite(wide), initial=0.0))


def _affine(before: ir.Node, after: ir.Node) -> list[tuple[Array, Array]]:
    """Factor and shift of two batch normalisations."""
    made: list[tuple[Array, Array]] = []
    for node in (before, after):
        arrays = [constant(value) for value in node.inputs[1:5]]
        if any(array is None for array in arrays):
            return [(np.zeros(1), np.ones(1))]
        scale, shift, mean, variance = (np.asarray(array, np.float64) for array in arrays)
        epsilon = float(node.attributes["epsilon"].as_float()) if "epsilon" in node.attributes else 1e-5
        factor = scale / np.sqrt(variance + epsilon)
        made.append((factor.astype(np.float32), (shift - mean * factor).astype(np.float32)))
    return [(made[0][0], made[1][0]), (made[0][1], made[1][1])]


def _joined(biases: Array) -> Array:
    """The two biases of a recurrence, ``(directions, 2 gates hidden)``, added up."""
    half = biases.shape[-1] // 2
    return np.asarray(biases[..., :half] + biases[..., half:])


def _weight_name(value: ir.Value | None) -> str:
    """Name of the stored tensor behind a constant."""
    current = value
    while current is not None and stored(current) is None:
        node = current.producer()
        current = node.inputs[0] if node is not None and node.inputs else None
    found = current if current is not None else value
    return str(found.name) if found is not None else ""
