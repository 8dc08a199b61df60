"""Small values that are known once shapes are: the arithmetic exporters do on sizes.

A traced model computes a Reshape target as Shape, Gather, Mul, Concat. C++ inference follows few such steps. Here they
are evaluated with numpy on numbers of which some may be unknown: of `Shape` of ``(N, 64, 16)`` the last two are
known, and so is what Gather, Slice or Concat takes from them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.graph.constants import stored
from onnxmorph.graph.evaluate import Unevaluable, evaluate, supported
from onnxmorph.graph.scopes import nodes

__all__ = ["known_values"]

Array = np.ndarray[Any, Any]

LARGEST_KNOWN = 1024
"""Bytes; sizes, axes and bounds are small."""

_MOVES = frozenset(("Identity", "Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Reshape", "Split", "Transpose"))
"""Operators that only move the numbers of their data input, so that some may be unknown."""


Sizes = Callable[[ir.Value], tuple[int | str | None, ...] | None]


def known_values(model: ir.Model, shape: Sizes) -> dict[ir.Value, Array]:
    """Small values computed by nodes that are fully known, given what is known of shapes.

    Args:
        model: All its scopes are gone through.
        shape: Sizes of a value; names and ``None`` are unknown.
    """
    known: dict[ir.Value, tuple[Array, Array]] = {}
    results: dict[ir.Value, Array] = {}
    for _scope, node in nodes(model):
        try:
            found = _result(node, known, shape, model.ir_version)
        except Unevaluable:
            continue
        for value, (numbers, mask) in zip(node.outputs, found, strict=False):
            if numbers.nbytes > LARGEST_KNOWN:
                continue
            known[value] = numbers, mask
            if mask.all():
                results[value] = numbers
    return results


def _operand(
    value: ir.Value | None, known: dict[ir.Value, tuple[Array, Array]], ir_version: int
) -> tuple[Array, Array] | None:
    if value is None:
        return None
    if value in known:
        return known[value]
    tensor = stored(value)
    if tensor is None or tensor.nbytes > LARGEST_KNOWN or tensor.dtype == ir.DataType.STRING:
        return None
    if ir_version >= 4 and value.is_graph_input():
        return None  # only a default, which a caller may replace
    numbers = tensor.numpy()
    known[value] = numbers, np.ones(numbers.shape, np.bool_)
    return known[value]


def _result(
    node: ir.Node, known: dict[ir.Value, tuple[Array, Array]], shape: Sizes, ir_version: int
) -> list[tuple[Array, Array]]:
    if not supported(node) or not node.inputs:
        raise Unevaluable("no operator on sizes")
    first = node.inputs[0]
    if node.op_type in ("Shape", "Size") and first is not None:
        dims = shape(first)
        if dims is None:
            raise Unevaluable("the rank is unknown")
        if node.op_type == "Shape":
            start, end = node.attributes.get("start"), node.attributes.get("end")
            dims = dims[0 if start is None else start.as_int() : None if end is None else end.as_int()]
        sizes = np.array([size if isinstance(size, int) else 0 for size in dims], np.int64)
        mask = np.array([isinstance(size, int) for size in dims], np.bool_)
        if node.op_type == "Size":
            return [(np.asarray(sizes.prod()), np.asarray(mask.all()))]
        return [(sizes, mask)]
    operands = [_operand(value, known, ir_version) for value in node.inputs]
    if any(operand is None and value is not None for operand, value in zip(operands, node.inputs, strict=True)):
        raise Unevaluable("an operand is unknown")
    moved = len(operands) if node.op_type == "Concat" else 1
    if any(operand is not None and not operand[1].all() for operand in operands[moved:]):
        raise Unevaluable("an index is unknown")
    numbers = [None if operand is None else operand[0] for operand in operands]
    if all(operand is None or operand[1].all() for operand in operands):
        return [(result, np.ones(result.shape, np.bool_)) for result in evaluate(node, numbers)]
    if node.op_type in ("Cast", "Neg", "Abs"):
        return [(evaluate(node, numbers)[0], operands[0][1] if operands[0] is not None else np.zeros((), np.bool_))]
    if node.op_type not in _MOVES:
        raise Unevaluable("some of its numbers are unknown")
    masks = [
        numbers[position] if position >= moved else operand and operand[1] for position, operand in enumerate(operands)
    ]
    return list(zip(evaluate(node, numbers), evaluate(node, masks), strict=True))
