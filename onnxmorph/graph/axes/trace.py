"""Which indices of one value end up in another: the query, key and value parts of a fused projection, say.

Groups say what must change together; one group may run through several places of one axis, as the head size runs
through ``(3, heads, size)`` of a fused QKV. A scheme that silences the new keys needs to know which places those are.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmorph._ir import ir
from onnxmorph.errors import Refusal
from onnxmorph.graph.axes.analysis import CoupledAxes
from onnxmorph.graph.axes.factors import Expr
from onnxmorph.graph.evaluate import Unevaluable, evaluate

__all__ = ["reaching"]

_LAYOUT = {
    "Concat",
    "Expand",
    "Flatten",
    "Gather",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
}
_MIXING = {"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "MatMulInteger", "LSTM", "GRU", "RNN", "Attention"}
LARGEST_TRACE = 1 << 24
"""Elements of a value; larger ones are not traced."""


def reaching(coupled: CoupledAxes, source: ir.Value, axis: int, target: ir.Value) -> NDArray[np.bool_]:
    """For every index of an axis of ``source`` whether anything of it ends up in ``target``.

    Followed through what moves elements (Reshape, Transpose, Split, Gather ...) and what works element by element; not
    through contractions. Dynamic sizes count as 1.

    Args:
        coupled: The analysis of the model both values are in.
        source: Typically a layer's output, whose axis has the same places as the weight's.
        axis: Its axis.
        target: Typically an operand of a ``bilinear`` condition.

    Raises:
        Refusal: Something between the two cannot be followed.
    """
    shape = _shape(coupled, source)
    if source is target:
        return np.ones(shape[axis], dtype=bool)
    marks: dict[ir.Value, NDArray[np.bool_]] = {target: np.ones(_shape(coupled, target), dtype=bool)}
    for node in _between(source, target):
        marked = [(at, marks.get(value)) for at, value in enumerate(node.outputs)]
        for position, value in enumerate(node.inputs):
            if value is None or coupled.is_constant(value) or _reads_sizes(coupled, node, position, value):
                continue
            for output, mark in marked:
                if mark is None:
                    continue
                came = _origins(coupled, node, position, output, mark.shape)
                here = marks.setdefault(value, np.zeros(_shape(coupled, value), dtype=bool))
                hit = came[mark]
                here.reshape(-1)[hit[hit >= 0]] = True
    found = marks.get(source)
    if found is None:
        return np.zeros(shape[axis], dtype=bool)
    others = tuple(other for other in range(found.ndim) if other != axis)
    return np.asarray(found.any(axis=others), dtype=bool)


def _size(coupled: CoupledAxes, expr: Expr) -> int:
    total = 1
    for factor in coupled.factors.factors(expr):
        parts = coupled.factors.segments(factor)
        if parts is None:
            one = coupled.factors.size((factor,))
            total *= 1 if one is None else one
        else:
            total *= sum(_size(coupled, part) for part in parts)
    return total


def _shape(coupled: CoupledAxes, value: ir.Value) -> tuple[int, ...]:
    axes = coupled.axes(value)
    if axes is None:
        raise Refusal(f"the rank of '{value.name}' is not known", code="unknown-rank")
    shape = tuple(_size(coupled, expr) for expr in axes)
    if math.prod(shape) > LARGEST_TRACE:
        raise Refusal(f"'{value.name}' is too large to be traced", code="too-large")
    return shape


def _between(source: ir.Value, target: ir.Value) -> list[ir.Node]:
    """Nodes on a way from source to target that does not contract, those nearest to the target first."""
    users: dict[ir.Node, set[ir.Node]] = defaultdict(set)
    seen: set[ir.Node] = set()
    waiting = [target]
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if value is source or node is None or node in seen or node.op_type in _MIXING:
            continue
        seen.add(node)
        for read in node.inputs:
            if read is None:
                continue
            producer = read.producer()
            if producer is not None:
                users[producer].add(node)
            waiting.append(read)
    # Kahn's order from the target: a node comes when all its users that lead to the target have come.
    order: list[ir.Node] = []
    left = {node: len(users[node] & seen) for node in seen}
    ready = [node for node in seen if left[node] == 0]
    while ready:
        node = ready.pop()
        order.append(node)
        for producer in {read.producer() for read in node.inputs if read is not None}:
            if producer in left and producer is not None:
                left[producer] -= 1
                if left[producer] == 0:
                    ready.append(producer)
    return order


def _reads_sizes(coupled: CoupledAxes, node: ir.Node, position: int, value: ir.Value) -> bool:
    """Whether an operand is a list of sizes rather than data."""
    return coupled.content(value) is not None and (position > 0 or node.op_type in {"ConstantOfShape", "Range"})


def _origins(
    coupled: CoupledAxes, node: ir.Node, position: int, output: int, shape: tuple[int, ...]
) -> NDArray[np.int64]:
    """For every element of an output the flat index of the element of one input it stems from; -1 for none."""
    value = node.inputs[position]
    if value is None:
        raise ValueError("an operand that is not given")
    size = _shape(coupled, value)
    numbered = np.arange(math.prod(size), dtype=np.int64).reshape(size)
    if node.op_type not in _LAYOUT:
        try:
            return np.broadcast_to(numbered, shape)
        except ValueError:
            reason = f"{node.op_type} '{node.name}' between them does not keep elements in place"
            raise Refusal(reason, code="not-followed") from None
    inputs: list[Any] = []
    for at, read in enumerate(node.inputs):
        if read is None or at == position:
            inputs.append(None if read is None else numbered)
            continue
        content = coupled.content(read)
        if content is not None and at > 0 and node.op_type != "Concat":
            numbers = [number.value(lambda expr: _size(coupled, expr)) for number in content.reshape(-1)]
            inputs.append(np.array(numbers, dtype=np.int64).reshape(content.shape))
        else:
            inputs.append(np.full(_shape(coupled, read), -1, dtype=np.int64))
    try:
        return np.asarray(evaluate(node, inputs)[output], dtype=np.int64).reshape(shape)
    except (Unevaluable, ValueError, TypeError) as error:
        raise Refusal(f"{node.op_type} '{node.name}' cannot be traced: {error}", code="not-followed") from error
