"""Whether numbers that nobody has seen may go through a group: roots, logarithms and quotients are not for all of them.

What reads a new channel may have weight 0, but 0 times NaN is NaN. So channels that hold random numbers are only exact
where every operator between takes any number, or is given one that it takes, as in ``x / (1 + exp(-x))``.
"""

from __future__ import annotations

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.graph.axes import Group
from onnxmorph.graph.constants import constant

__all__ = ["first_undefined"]

_NOT_NEGATIVE = frozenset({"Sqrt"})
_POSITIVE = frozenset({"Log", "Reciprocal"})
_NARROW = frozenset({"Acos", "Asin", "Acosh", "Atanh", "Tan"})
_GIVE_POSITIVE = frozenset({"Exp", "Sigmoid", "Softplus", "Softmax"})
_GIVE_NOT_NEGATIVE = frozenset({"Relu", "Abs", "HardSigmoid", "ReduceL1", "ReduceL2", "ReduceSumSquare", "Sqrt"})
_KEEP_SIGN = frozenset(
    {
        *("Identity", "Cast", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile", "Slice"),
        *("Split", "Gather", "Dropout", "ReduceMean", "ReduceMax", "ReduceMin", "GlobalAveragePool", "GlobalMaxPool"),
        *("AveragePool", "MaxPool", "ReduceSum"),
    }
)
_DEEPEST = 30


def first_undefined(group: Group) -> str | None:
    """The first operator, in words, that may give NaN or infinity for a number it has not seen; ``None`` for none."""
    for member in group.members:
        if group.coupled.is_constant(member.value):
            continue
        for node, position in member.value.uses():
            if not _takes(node, position, member.value):
                return f"{node.op_type} '{node.name or node.outputs[0].name}' is not defined for every number"
    return None


def _takes(node: ir.Node, position: int, value: ir.Value) -> bool:
    op = node.op_type
    if node.domain not in ("", "ai.onnx") or op in {"Shape", "Size"}:
        return True
    if op in _NARROW:
        return False
    if op in _NOT_NEGATIVE:
        return _sign(value, 0) >= 0
    if op in _POSITIVE or (op == "Div" and position == 1):
        return _sign(value, 0) > 0
    if op == "Pow" and position == 0:
        exponent = constant(node.inputs[1])
        whole = exponent is not None and bool(np.all(exponent == np.floor(exponent)) and np.all(exponent >= 0))
        if whole:
            return True
        least = 1 if exponent is None or bool(np.any(exponent < 0)) else 0
        return _sign(value, 0) >= least
    return True


def _sign(value: ir.Value | None, depth: int) -> int:
    """1 for positive whatever the weights, 0 for not negative, -1 for unknown."""
    if value is None or depth > _DEEPEST:
        return -1
    array = constant(value) if value.producer() is None or value.producer().op_type == "Constant" else None  # type: ignore[union-attr]
    if array is not None:
        return -1 if array.size == 0 or array.dtype.kind not in "fiu" else int(np.sign(array.min()))
    node = value.producer()
    if node is None:
        return -1
    op = node.op_type
    if op in _GIVE_POSITIVE:
        return 1
    if op in _KEEP_SIGN:
        return _sign(node.inputs[0], depth + 1)
    if op in _GIVE_NOT_NEGATIVE:
        return max(0, _sign(node.inputs[0], depth + 1)) if op == "Sqrt" else 0
    if op == "Mul" and node.inputs[0] is node.inputs[1]:
        return 0
    if op == "Pow":
        exponent = constant(node.inputs[1])
        even = exponent is not None and bool(np.all(exponent % 2 == 0))
        return 0 if even else -1
    if op in {"Add", "Sum", "Max"}:
        signs = [_sign(one, depth + 1) for one in node.inputs]
        if op == "Max":
            return max(signs)
        return -1 if min(signs) < 0 else max(signs)
    if op in {"Mul", "Div"}:
        signs = [_sign(one, depth + 1) for one in node.inputs]
        return -1 if min(signs) < 0 else min(signs)
    if op == "Clip":
        given = node.attributes.get("min")
        low = node.inputs[1] if len(node.inputs) > 1 else None
        bound = constant(low) if low is not None else None if given is None else np.array(given.as_float())
        return -1 if bound is None else int(np.sign(bound.reshape(-1)[0]))
    return -1
