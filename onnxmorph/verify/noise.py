"""The parent moved by one rounding: how far rounding alone can push each value.

Inputs and weights move to a neighbouring floating-point number, up or down by a coin. Only what looks like measured or
trained numbers moves: whole numbers stay (masks, one-hot tables, the 1 of ``1 - mask``, ids carried as floats), and so
do constants that shape or quantize (Resize scales, quantization scales), where one step would change the question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxmorph._ir import ir

__all__ = ["moved", "moved_inputs", "moved_weights", "set_tensor", "tensors"]

Array = np.ndarray[Any, Any]

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)

_SHAPING = {
    ("Resize", 1),
    ("Resize", 2),
    ("Upsample", 1),
    ("Range", 0),
    ("Range", 1),
    ("Range", 2),
    ("QuantizeLinear", 1),
    ("DequantizeLinear", 1),
    ("OneHot", 2),
    ("Pad", 2),
    ("Clip", 1),
    ("Clip", 2),
}
"""``(op, input)`` places whose constants decide sizes, steps or bounds rather than weigh anything."""


def moved(array: Array, generator: np.random.Generator) -> Array:
    """``array`` with every finite number that is not whole moved to one of its two neighbours in its own type."""
    if array.size == 0:
        return array
    if array.dtype.kind == "f":
        toward = np.where(generator.random(array.shape, dtype=np.float32) < 0.5, -np.inf, np.inf).astype(array.dtype)
        neighbours = np.nextafter(array, toward)
        largest = float(np.finfo(array.dtype).max) / 2
    else:
        import ml_dtypes

        step = np.where(generator.random(array.shape, dtype=np.float32) < 0.5, -1, 1)
        neighbours = (array.view(np.uint16).astype(np.int32) + step).astype(np.uint16).view(array.dtype)
        largest = float(ml_dtypes.finfo(array.dtype).max) / 2  # type: ignore[no-untyped-call]
    with np.errstate(invalid="ignore"):
        stays = (array == np.rint(array.astype(np.float32))) | ~(np.abs(array) < largest)
    return np.where(stays, array, neighbours).astype(array.dtype)


def moved_inputs(feeds: Mapping[str, Any], generator: np.random.Generator) -> dict[str, Any]:
    """The same inputs with floating-point ones moved by one rounding."""
    return {
        name: moved(value, generator) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value
        for name, value in feeds.items()
    }


def _shapes_rather_than_weighs(value: ir.Value) -> bool:
    return any((use.node.op_type, use.idx) in _SHAPING for use in value.uses())


def tensors(model: ir.Model) -> dict[ir.Value, ir.TensorProtocol]:
    """Every constant tensor of the model with the value that carries it: initializers and Constant nodes, also those
    of subgraphs and functions."""
    found: dict[ir.Value, ir.TensorProtocol] = {}
    for graph in _graphs(model):
        if isinstance(graph, ir.Graph):
            for value in graph.initializers.values():
                if value.const_value is not None:
                    found[value] = value.const_value
        for node in graph:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and "value" in node.attributes:
                attribute = node.attributes["value"]
                if not attribute.is_ref():
                    found[node.outputs[0]] = attribute.as_tensor()
    return found


def _graphs(model: ir.Model) -> list[ir.Graph | ir.Function]:
    roots: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    found: list[ir.Graph | ir.Function] = []
    while roots:
        graph = roots.pop(0)
        found.append(graph)
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.is_ref():
                    continue
                if attribute.type == ir.AttributeType.GRAPH:
                    roots.append(attribute.as_graph())
                elif attribute.type == ir.AttributeType.GRAPHS:
                    roots.extend(attribute.as_graphs())
    return found


def set_tensor(value: ir.Value, tensor: ir.TensorProtocol) -> None:
    """Puts another tensor of the same type and shape where `tensors` found one. Changes the model it belongs to."""
    node = value.producer()
    if node is None:
        value.const_value = tensor
    else:
        node.attributes["value"] = ir.AttrTensor("value", tensor)


def moved_weights(
    model: ir.Model, generator: np.random.Generator, *, first: Sequence[str] = (), most_bytes: int = 1 << 28
) -> ir.Model:
    """A copy of the model with its floating-point weights moved by one rounding.

    Args:
        first: Names of the weights to move before all others when there are more than ``most_bytes`` of them.
        most_bytes: Memory the moved copies may take; what does not fit stays, shared with the parent.
    """
    from onnxmorph.model import clone

    copy = clone(model)
    candidates = [
        (value, tensor)
        for value, tensor in tensors(copy).items()
        if tensor.dtype in _FLOATS and tensor.size > 1 and not _shapes_rather_than_weighs(value)
    ]
    rank = {name: index for index, name in enumerate(first)}
    candidates.sort(key=lambda item: rank.get(item[0].name or "", len(rank)))
    spent = 0
    for value, tensor in candidates:
        if spent + tensor.nbytes > most_bytes:
            continue
        spent += tensor.nbytes
        array = moved(np.asarray(tensor.numpy()), generator)
        set_tensor(value, ir.Tensor(array, dtype=tensor.dtype, name=tensor.name))
    return copy
