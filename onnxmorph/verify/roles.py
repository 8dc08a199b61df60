"""What each graph input is for, read from what the graph does with it.

Random numbers of the right type are rarely inputs: ids must stay in their table and should reach all of it, masks are
zeros and ones with the padding at the end, lengths must not exceed the axis they measure. The consumers say which.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from onnxmorph._ir import ir

__all__ = ["InputRole", "compared_sizes", "static_array", "static_shape", "trace_role"]

_CARRIES = {
    "Identity",
    "Cast",
    "CastLike",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Transpose",
    "Expand",
    "Concat",
    "Slice",
    "Gather",
    "GatherElements",
    "GatherND",
    "Tile",
    "Split",
    "Pad",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Max",
    "Min",
    "Clip",
    "Mod",
    "Abs",
    "Where",
    "ScatterND",
    "ScatterElements",
    "CumSum",
    "ReduceSum",
    "ReduceMax",
    "SequenceAt",
    "SplitToSequence",
    "ConcatFromSequence",
}
"""Operators that pass on the values of their data input closely enough to keep following it."""

_DATA_INPUTS = {"Where": (1, 2), "Gather": (0,), "GatherElements": (0,), "GatherND": (0,), "ScatterND": (0, 2)}
_DATA_INPUTS["ScatterElements"] = (0, 2)
_ALL_INPUTS = {"Add", "Sub", "Mul", "Div", "Max", "Min", "Mod", "Concat", "ConcatFromSequence"}

_INDEXES = {("Gather", 1), ("GatherElements", 1), ("ScatterElements", 1)}
_SHAPES = {
    ("Reshape", 1),
    ("Expand", 1),
    ("ConstantOfShape", 0),
    ("Tile", 1),
    ("TopK", 1),
    ("Pad", 1),
    ("Split", 1),
    ("Slice", 1),
    ("Slice", 2),
    ("Slice", 3),
    ("Slice", 4),
    ("Resize", 2),
    ("Resize", 3),
    ("Upsample", 1),
    ("Range", 0),
    ("Range", 1),
    ("Range", 2),
    ("Loop", 0),
    ("CenterCropPad", 1),
    ("AffineGrid", 1),
}
_LENGTHS = {("LSTM", 4), ("GRU", 4), ("RNN", 4), ("ReverseSequence", 1)}
_CONDITIONS = {("Where", 0), ("If", 0), ("Compress", 1)}
_LOGIC = {"And", "Or", "Not", "Xor"}
_COMPARES = {"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"}
_SIZE_CARRIERS = {"Identity", "Cast", "Gather", "Slice", "Squeeze", "Unsqueeze", "Reshape", "ReduceProd"}
_EMBED_TABLES = {0: 2, 1: 4, 7: 3, 8: 3}
"""``com.microsoft::EmbedLayerNormalization``: input that carries ids to input that is their table."""


@dataclass
class InputRole:
    """What an input feeds.

    Attributes:
        tables: ``(rows, offset, name)`` of each table it indexes: ids must satisfy ``0 <= id + offset < rows``.
        compared: Constants it is compared with.
        length: It gives lengths of sequences.
        shape: It decides a shape, a size or a number of steps.
        mask: It is a condition, or decides by 0 and 1 what counts.
        weighs: It is multiplied or added as a number.
        strings: Strings the graph knows.
        channels: Size of an axis that its first consumer fixes: ``(axis, size)``, axis negative from the end.
        rank: Rank that its first consumer needs, where that is certain.
    """

    tables: list[tuple[int, int, str]] = field(default_factory=list)
    compared: list[float] = field(default_factory=list)
    length: bool = False
    shape: bool = False
    mask: bool = False
    weighs: bool = False
    strings: list[str] = field(default_factory=list)
    channels: list[tuple[int, int]] = field(default_factory=list)
    rank: int | None = None

    def id_range(self) -> tuple[int, int] | None:
        """Smallest and one past the largest id that all its tables hold, or ``None`` without tables."""
        if not self.tables:
            return None
        low = max(0, *(-offset for _, offset, _ in self.tables))
        high = min(rows - offset for rows, offset, _ in self.tables)
        return (low, max(high, low + 1))


def static_array(value: ir.Value | None, *, depth: int = 8) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None:
    """The small constant behind a value: an initializer or Constant node, through Identity, Cast and layout changes."""
    if value is None or depth == 0:
        return None
    if value.const_value is not None and not value.is_graph_input():
        return np.asarray(value.const_value.numpy()) if value.const_value.size <= 4096 else None
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "Constant":
        attribute = next(iter(node.attributes.values()), None)
        if attribute is None or attribute.is_ref():
            return None
        if attribute.type == ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            return np.asarray(tensor.numpy()) if tensor.size <= 4096 else None
        return np.asarray(attribute.value)
    if node.op_type in ("Identity", "Cast", "Unsqueeze", "Squeeze"):
        return static_array(node.inputs[0], depth=depth - 1)
    return None


def static_shape(value: ir.Value | None, *, depth: int = 8) -> tuple[int, ...] | None:
    """Shape of the constant behind a value, without reading it."""
    if value is None or depth == 0:
        return None
    if value.const_value is not None:
        return tuple(int(size) for size in value.const_value.shape.numpy())
    node = value.producer()
    if node is None or not node.inputs:
        if node is not None and node.op_type == "Constant" and "value" in node.attributes:
            tensor = node.attributes["value"].as_tensor()
            return tuple(int(size) for size in tensor.shape.numpy())
        return None
    if node.op_type in ("Identity", "Cast", "DequantizeLinear", "QuantizeLinear"):
        return static_shape(node.inputs[0], depth=depth - 1)
    if node.op_type == "Transpose":
        shape = static_shape(node.inputs[0], depth=depth - 1)
        if shape is None:
            return None
        order = node.attributes["perm"].as_ints() if "perm" in node.attributes else range(len(shape))[::-1]
        return tuple(shape[axis] for axis in order)
    return None


def _uses(model: ir.Model, value: ir.Value) -> Iterator[tuple[ir.Node, int, ir.Value | None]]:
    """Consumers of a value with the input it enters by, and the value it becomes inside a function or branch."""
    for use in value.uses():
        function = model.functions.get(use.node.op_identifier())
        if function is not None and use.idx < len(function.inputs):
            yield use.node, use.idx, function.inputs[use.idx]
        else:
            yield use.node, use.idx, None


def trace_role(model: ir.Model, value: ir.Value) -> InputRole:
    """Follows an input through casts, reshapes and arithmetic to what it is used for."""
    role = InputRole()
    pending: list[tuple[ir.Value, int]] = [(value, 0)]
    seen: set[ir.Value] = {value}
    while pending:
        current, offset = pending.pop(0)
        for node, place, inside in _uses(model, current):
            _note_use(role, node, place, offset)
            if current is value:
                _note_needs(role, node, place)
            shift = offset
            if node.op_type in ("Add", "Sub") and len(node.inputs) == 2:
                other = static_array(node.inputs[1 - place])
                if other is not None and other.size == 1 and other.dtype.kind in "iu":
                    shift += int(other.item()) * (1 if node.op_type == "Add" else -1)
            targets = [inside] if inside is not None else []
            if inside is None and _carries(node, place):
                targets += list(node.outputs)
            for target in targets:
                if target not in seen and len(seen) < 10_000:
                    seen.add(target)
                    pending.append((target, shift))
    role.compared = sorted(set(role.compared))
    return role


def _carries(node: ir.Node, place: int) -> bool:
    if node.op_type not in _CARRIES:
        return False
    if node.op_type in _ALL_INPUTS:
        return True
    return place in _DATA_INPUTS.get(node.op_type, (0,))


def _note_use(role: InputRole, node: ir.Node, place: int, offset: int) -> None:
    op, key = node.op_type, (node.op_type, place)
    if key in _INDEXES:
        shape = static_shape(node.inputs[0])
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        if shape:
            role.tables.append((shape[axis], offset, str(_root_name(node.inputs[0]))))
    elif key == ("GatherND", 1):
        shape = static_shape(node.inputs[0])
        if shape:
            role.tables.append((min(shape), offset, str(_root_name(node.inputs[0]))))
    elif op == "EmbedLayerNormalization" and place in _EMBED_TABLES:
        table = node.inputs[_EMBED_TABLES[place]] if len(node.inputs) > _EMBED_TABLES[place] else None
        shape = static_shape(table)
        if shape:
            role.tables.append((shape[0], offset, str(_root_name(table))))
        elif place == 7:
            role.mask = True
    elif key == ("OneHot", 0):
        depth = static_array(node.inputs[1])
        if depth is not None and depth.size == 1:
            role.tables.append((int(depth.item()), offset, "OneHot"))
    elif key in _LENGTHS:
        role.length = True
    elif key in _SHAPES:
        role.shape = True
    elif key in _CONDITIONS or op in _LOGIC or op == "NonZero":
        role.mask = True
    elif op in _COMPARES:
        other = static_array(node.inputs[1 - place])
        if other is not None and other.dtype.kind in "iufb":
            role.compared.extend(float(item) for item in other.reshape(-1)[:16])
        else:
            role.length = True  # compared with positions that the graph computes
    elif op in ("Add", "Sub", "Mul", "MatMul", "Gemm", "Conv", "Div"):
        role.weighs = True
    elif op in ("LabelEncoder", "CategoryMapper", "TfIdfVectorizer", "OneHotEncoder"):
        for name in ("keys_strings", "cats_strings", "pool_strings", "classes_strings"):
            if name in node.attributes:
                role.strings.extend(str(item) for item in node.attributes[name].as_strings())


def _root_name(value: ir.Value | None) -> str | None:
    for _ in range(8):
        node = value.producer() if value is not None else None
        if value is None or node is None or not node.inputs:
            break
        value = node.inputs[0]
    return value.name if value is not None else None


def _note_needs(role: InputRole, node: ir.Node, place: int) -> None:
    """Rank and channel count that a direct consumer demands, for exporters that declare neither."""
    if place != 0 or len(node.inputs) < 2:
        return
    shape = static_shape(node.inputs[1])
    if not shape:
        return
    op = node.op_type
    if op == "Conv":
        groups = node.attributes["group"].as_int() if "group" in node.attributes else 1
        role.rank = len(shape)
        role.channels.append((1, shape[1] * groups))
    elif op == "ConvTranspose":
        role.rank = len(shape)
        role.channels.append((1, shape[0]))
    elif op == "Gemm":
        transposed = "transB" in node.attributes and node.attributes["transB"].as_int() == 1
        role.rank = 2
        role.channels.append((-1, shape[1 if transposed else 0]))
    elif op == "MatMul" and len(shape) >= 2:
        role.channels.append((-1, shape[-2]))
    elif op in ("LSTM", "GRU", "RNN") and len(shape) == 3:
        role.rank = 3
        role.channels.append((-1, shape[2]))
    elif op in ("BatchNormalization", "InstanceNormalization") and len(shape) == 1:
        role.channels.append((1, shape[0]))


def compared_sizes(model: ir.Model) -> list[int]:
    """Constants that the sizes of values are compared with, in the main graph: an If may go by them."""
    found: dict[int, None] = {}
    pending = [node.outputs[0] for node in model.graph if node.op_type in ("Shape", "Size")]
    seen = set(pending)
    while pending:
        for use in pending.pop().uses():
            node = use.node
            if node.op_type in _COMPARES:
                other = static_array(node.inputs[1 - use.idx])
                if other is not None and other.size <= 4 and other.dtype.kind in "iuf":
                    found.update((int(item), None) for item in other.reshape(-1))
            elif node.op_type in _SIZE_CARRIERS and use.idx == 0:
                new = [output for output in node.outputs if output not in seen]
                seen.update(new)
                pending.extend(new)
    return [number for number in found if 0 < number < 1 << 16]
