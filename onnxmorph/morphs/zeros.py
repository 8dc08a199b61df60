"""Whether channels that are fed zeros stay exactly zero until they are read: what makes ``zero-in`` exact.

And whether they can learn (`first_without_slope`): exact they are behind a ReLU as well, but there without a gradient.

A forward walk over the values of one group. An operator that is not known to take zeros to zeros ends the walk with its
name; an unknown one is never supposed to.
"""

from __future__ import annotations

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.graph.axes import Group
from onnxmorph.graph.constants import constant
from onnxmorph.graph.recurrent import LENGTHS, is_recurrent, keeps_zero, zero_filled

__all__ = ["clip_bounds", "first_not_zero", "first_without_slope", "is_zero"]

_LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "Gather"})
"""Their new channels are made by new rows that are zero, or carried from a zero operand."""

_KEEP_ZERO = frozenset(
    {
        *("Relu", "LeakyRelu", "PRelu", "ThresholdedRelu", "Tanh", "Gelu", "HardSwish", "Mish", "Swish", "Elu", "Selu"),
        *("Celu", "Softsign", "Erf", "Abs", "Neg", "Sqrt", "Sign", "Sin", "Tan", "Asin", "Atan", "Sinh", "Asinh"),
        *("Round", "Floor", "Ceil", "Identity", "Dropout", "Cast", "CastLike", "Shrink"),
        *("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile", "Slice", "Split", "Concat"),
        *("DepthToSpace", "SpaceToDepth", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool"),
        *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "Resize", "Upsample"),
    }
)
"""Of one operand; of several (Concat), each is a segment of its own."""

_FLAT_AT_ZERO = frozenset(
    {"Relu", "ThresholdedRelu", "Abs", "Sign", "Floor", "Ceil", "Round", "Shrink", "ReduceSumSquare"}
)
"""Operators whose slope at 0 is 0, as frameworks take it where there are two."""

_ALL_ZERO = frozenset({"Add", "Sub", "Sum", "Mean", "Max", "Min"})
_ANY_ZERO = frozenset({"Mul"})


def first_not_zero(group: Group) -> str | None:
    """The first place, in words, where a new channel fed zeros would not be zero; ``None`` where it stays so."""
    zero = _zeros(group)
    for member in group.members:
        if member.is_stored or zero.get(member.value, False):
            continue
        reader = next((node for node in member.value.consumers() if _reads(node, group)), None)
        if reader is not None:
            node = member.value.producer()
            what = "an input" if node is None else f"{node.op_type} '{node.name or member.value.name}'"
            return f"a channel fed zeros is not zero after {what}"
    return None


def first_without_slope(group: Group) -> str | None:
    """Where the gradient of channels that are zero ends, in words; ``None`` where one reaches what feeds them.

    ``d phi(w x)/dw = phi'(0) x``: behind a ReLU, an absolute value or a square, ``phi'(0) = 0``. Then what feeds a
    channel of zeros gets no gradient, and what reads it has none either, since what it reads is 0.
    """
    zero = _zeros(group)
    holds = {member.value for member in group.members if not member.is_stored}
    alive: dict[ir.Value, bool] = {}
    flat: ir.Node | None = None
    read = False
    for member in group.members:
        value, node = member.value, member.value.producer()
        if member.is_stored or value in alive:
            continue
        alive[value] = node is None or _has_slope(node, alive, zero, holds)
        if not alive[value] and flat is None:
            flat = node
        if any(_reads(one, group) for one in value.consumers()):
            if alive[value]:
                return None
            read = True
    if flat is None or not read:
        return None
    return f"{flat.op_type} '{flat.name or flat.outputs[0].name}' has slope 0 at 0"


def _has_slope(node: ir.Node, alive: dict[ir.Value, bool], zero: dict[ir.Value, bool], holds: set[ir.Value]) -> bool:
    """Whether a small change of what feeds zeros changes the node's outputs to first order."""
    held = [value for value in node.inputs if value is not None and value in holds]
    if not held:
        return True
    moving = [value for value in held if alive.get(value, True)]
    if node.domain not in ("", "ai.onnx"):
        return bool(moving)
    if node.op_type in _FLAT_AT_ZERO:
        return False
    if node.op_type == "Clip":
        low, high = clip_bounds(node)
        return bool(moving) and 0 not in (low, high)
    if node.op_type == "Pow" and held[0] is node.inputs[0]:
        exponent = constant(node.inputs[1])
        return bool(moving) and (exponent is None or not bool(np.all(exponent > 1)))
    if node.op_type == "Mul" and len(held) > 1:
        # Of a product of two zeros, neither has a slope; of a zero and a gate, the zero has.
        return any(one in moving and not zero.get(other, False) for one, other in (held[:2], held[1::-1]))
    return bool(moving)


def clip_bounds(node: ir.Node) -> tuple[float, float]:
    """Least and largest number that a Clip lets through; infinite where it has no bound, NaN where it is not known."""
    given = [constant(value) if value is not None else None for value in (*node.inputs[1:], None, None)[:2]]
    out = []
    for place, (name, none) in enumerate((("min", -np.inf), ("max", np.inf))):
        bound, read = given[place], node.inputs[place + 1] if len(node.inputs) > place + 1 else None
        unknown = read is not None and (bound is None or not bound.size)
        out.append(
            np.nan if unknown else _attribute(node, name, none) if bound is None else float(bound.reshape(-1)[0])
        )
    return out[0], out[1]


def _zeros(group: Group) -> dict[ir.Value, bool]:
    """Per value of a group whether new channels of it are zero where all that feeds them is."""
    holds = {member.value for member in group.members}
    nonzero = {member.value for member in group.stored if member.roles & {"variance", "scale", "quantisation"}}
    zero: dict[ir.Value, bool] = {member.value: member.value not in nonzero for member in group.stored}
    endless: set[ir.Value] = set()
    for member in group.members:
        value = member.value
        node = value.producer()
        if value in zero or node is None:
            continue
        zero[value] = _gives_zero(node, zero, holds, endless)
    return zero


def _reads(node: ir.Node, group: Group) -> bool:
    """Whether the node contracts the group: by a stored weight that does, or between two activations."""
    weights = {member.value for member in group.stored if "contracted" in member.roles}
    if any(value in weights for value in node.inputs if value is not None):
        return True
    holds = {member.value for member in group.members}
    return not any(output in holds for output in node.outputs)


def _gives_zero(node: ir.Node, zero: dict[ir.Value, bool], holds: set[ir.Value], endless: set[ir.Value]) -> bool:
    """Whether new channels of the node's outputs are zero; ``endless`` collects those that may not even be finite."""
    inputs = [value for value in node.inputs if value is not None]
    divides = node.op_type in {"Div", "Reciprocal", "Pow", "Log"} and any(
        zero.get(value, False) for value in inputs[-1:]
    )
    if divides or any(value in endless for value in inputs):
        endless.update(node.outputs)
        return False
    if node.domain not in ("", "ai.onnx"):
        return False
    op = node.op_type
    if is_recurrent(node):
        return keeps_zero(node) and all(_zero_or_lengths(node, place, zero) for place in range(1, len(node.inputs)))
    if zero_filled(node) or (op == "Expand" and is_zero(inputs[0])):
        return True
    if op in _LINEAR:
        held = [value for value in inputs if value in holds]
        biased = node.op_type in {"Conv", "ConvTranspose", "Gemm"} and len(inputs) > 2
        unbiased = not biased or zero.get(inputs[2], False) or is_zero(inputs[2])
        return unbiased and bool(held) and all(zero.get(value, False) for value in held)
    if op in _KEEP_ZERO:
        first = inputs if op == "Concat" else inputs[:1]
        held = [value for value in first if value in holds]
        return bool(held) and all(zero.get(value, False) for value in held)
    if op == "BatchNormalization":
        # Scale and variance of a new channel are 1; what must be zero is what is normalised, the mean and the shift.
        return all(zero.get(inputs[place], False) for place in (0, 2, 3) if place < len(inputs))
    if op == "InstanceNormalization":
        # The mean of zeros is 0 and epsilon keeps the quotient finite: what is left is the shift.
        shift = inputs[2] if len(inputs) > 2 else None
        return zero.get(inputs[0], False) and shift is not None and zero.get(shift, False) and _epsilon(node) > 0
    if op == "Pad":
        return zero.get(inputs[0], False) and _pads_with_zero(node)
    if op == "Clip":
        low, high = clip_bounds(node)
        return zero.get(inputs[0], False) and low <= 0 <= high
    if op in _ANY_ZERO:
        return any(zero.get(value, False) for value in inputs)
    if op == "Div":
        below = inputs[1]
        return zero.get(inputs[0], False) and (below in holds or _never_zero(below))
    if op in _ALL_ZERO:
        return all(zero.get(value, False) or is_zero(value) for value in inputs)
    return False


def _zero_or_lengths(node: ir.Node, place: int, zero: dict[ir.Value, bool]) -> bool:
    """Whether new entries of an operand of a recurrent layer are zero; the lengths of its sequences have none."""
    value = node.inputs[place]
    return value is None or place == LENGTHS or zero.get(value, False) or is_zero(value)


def _attribute(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None or attribute.is_ref() else float(attribute.value)


def _epsilon(node: ir.Node) -> float:
    return _attribute(node, "epsilon", 1e-5)


def _pads_with_zero(node: ir.Node) -> bool:
    """Whether what a Pad adds to zeros is zero: its constant is, or it repeats what is there."""
    mode = node.attributes.get("mode")
    if mode is not None and (mode.is_ref() or mode.as_string() != "constant"):
        return not mode.is_ref()
    given = node.inputs[2] if len(node.inputs) > 2 else None
    return is_zero(given) if given is not None else _attribute(node, "value", 0.0) == 0


def is_zero(value: ir.Value) -> bool:
    """Whether a value is known before a run to hold nothing but zeros."""
    array = constant(value)
    return array is not None and not np.any(array)


def _never_zero(value: ir.Value) -> bool:
    array = constant(value)
    return array is not None and bool(np.all(array != 0))
