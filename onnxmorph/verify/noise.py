"""The parent moved by one rounding: how far rounding alone can push each value.

Inputs and weights move to a neighbouring floating-point number, up or down by a coin. Only what looks like measured or
trained numbers moves: whole numbers stay (masks, one-hot tables, the 1 of ``1 - mask``, ids carried as floats), and so
do constants that shape or quantize (Resize scales, quantization scales), where one step would change the question.
Weights of layers that the child has others for move even where they are whole: what replaces them is rounded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from onnxmorph._ir import ir

__all__ = [
    "graphs",
    "is_floating",
    "movable",
    "moved",
    "moved_inputs",
    "moved_tensors",
    "moved_weights",
    "set_tensor",
    "tensors",
    "with_tensors",
]

Array = np.ndarray[Any, Any]

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)

_BLOCK = 1 << 20

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

_LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN"})
"""Operators that multiply by their constants, and compare nothing with them."""


def is_floating(array: Array) -> bool:
    """Whether the array holds floating-point numbers, numpy's own or ml_dtypes' (bfloat16 and the 8-bit ones)."""
    return array.dtype.kind in "fc" or (array.dtype.kind == "V" and array.dtype.names is None)


def moved(array: Array, generator: np.random.Generator, roundings: int = 1, *, whole: bool = False) -> Array:
    """``array`` with every finite number that is not whole moved to one of its two neighbours in its own type.

    Args:
        roundings: How many neighbours further.
        whole: Move whole numbers too, all but zeros.
    """
    if array.size == 0:
        return array
    if array.size > _BLOCK:  # in blocks: the steps below take many times the memory of what they work on
        flat, result = array.reshape(-1), np.empty(array.size, array.dtype)
        for start in range(0, array.size, _BLOCK):
            result[start : start + _BLOCK] = moved(flat[start : start + _BLOCK], generator, roundings, whole=whole)
        return result.reshape(array.shape)
    if array.dtype.kind == "f":
        # Neighbours of one sign are neighbours as integers: several times as fast as asking for the next number.
        bits = np.asarray(array, order="C").view(f"i{array.dtype.itemsize}")
        up = generator.random(array.shape, dtype=np.float32) >= 0.5
        away = up ^ (bits < 0)
        with np.errstate(over="ignore", invalid="ignore"):
            neighbours = np.asarray(bits + (away.astype(bits.dtype) * 2 - 1), bits.dtype).view(array.dtype)
            if roundings > 1:
                neighbours = array + (neighbours - array) * array.dtype.type(roundings)
        largest = float(np.finfo(array.dtype).max) / 2
    else:
        import ml_dtypes

        step = np.where(generator.random(array.shape, dtype=np.float32) < 0.5, -roundings, roundings)
        neighbours = (array.view(np.uint16).astype(np.int32) + step).astype(np.uint16).view(array.dtype)
        largest = float(ml_dtypes.finfo(array.dtype).max) / 2  # type: ignore[no-untyped-call]
    with np.errstate(over="ignore", invalid="ignore"):
        settled = np.zeros_like(array) if whole else np.rint(array.astype(np.float32))
        stays = (array == settled) | ~(np.abs(array) < largest)
    return np.where(stays, array, neighbours).astype(array.dtype)


def moved_inputs(feeds: Mapping[str, Any], generator: np.random.Generator, roundings: int = 1) -> dict[str, Any]:
    """The same inputs with floating-point ones moved by one rounding, or several."""
    return {
        name: moved(value, generator, roundings) if isinstance(value, np.ndarray) and is_floating(value) else value
        for name, value in feeds.items()
    }


def movable(value: ir.Value, tensor: ir.TensorProtocol) -> bool:
    """Whether a constant is a weight: floating-point, more than one number, and not what shapes or quantizes values."""
    if tensor.dtype not in _FLOATS or tensor.size < 2:
        return False
    return not any((use.node.op_type, use.idx) in _SHAPING and not _scales_weights(use.node) for use in value.uses())


def _scales_weights(node: ir.Node) -> bool:
    """Whether this DequantizeLinear unpacks a constant: then its scale is part of a weight."""
    packed = node.inputs[0] if node.op_type == "DequantizeLinear" else None
    return packed is not None and (packed.const_value is not None or packed.is_initializer())


def tensors(model: ir.Model) -> dict[ir.Value, ir.TensorProtocol]:
    """Every constant tensor of the model with the value that carries it: initializers and Constant nodes, also those
    of subgraphs and functions."""
    found: dict[ir.Value, ir.TensorProtocol] = {}
    for graph in graphs(model):
        if isinstance(graph, ir.Graph):
            for value in graph.initializers.values():
                if value.const_value is not None:
                    found[value] = value.const_value
        for node in graph:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and "value" in node.attributes:
                attribute = node.attributes["value"]
                # Not as_tensor(): it asks the tensor for every member of a protocol, which takes longer than the rest.
                if not attribute.is_ref() and attribute.type == ir.AttributeType.TENSOR:
                    found[node.outputs[0]] = attribute.value
    return found


def graphs(model: ir.Model) -> list[ir.Graph | ir.Function]:
    """The main graph, the functions, and every body inside them."""
    roots: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    found: list[ir.Graph | ir.Function] = []
    while roots:
        graph = roots.pop(0)
        found.append(graph)
        for node in graph:
            for attribute in node.attributes.data.values():  # past the mapping's own views, which are slow
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


def moved_tensors(
    model: ir.Model,
    generator: np.random.Generator,
    *,
    only: Collection[str] | None = None,
    most_bytes: int = 1 << 28,
    roundings: int = 1,
    whole: bool = False,
) -> dict[ir.Value, ir.TensorProtocol]:
    """The floating-point weights of a model moved by one rounding, by the value that carries them.

    Args:
        only: Names of the weights to move; all of them without it.
        most_bytes: Memory the moved copies may take; what does not fit stays and is left out.
        roundings: How many roundings they move by.
        whole: In weights of linear layers whole numbers move too, all but zeros.
    """
    found: dict[ir.Value, ir.TensorProtocol] = {}
    spent = 0
    for value, tensor in tensors(model).items():
        if (only is not None and value.name not in only) or not movable(value, tensor):
            continue
        if spent + tensor.nbytes > most_bytes:
            continue
        spent += tensor.nbytes
        all_numbers = whole and any(use.node.op_type in _LINEAR for use in value.uses())
        array = moved(np.asarray(tensor.numpy()), generator, roundings, whole=all_numbers)
        found[value] = ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)
    return found


def with_tensors(model: ir.Model, changed: Mapping[ir.Value, ir.TensorProtocol]) -> ir.Model:
    """A copy of the model with other tensors of the same types and shapes in some places that `tensors` found."""
    from onnxmorph.model import clone

    copy = clone(model)
    for (value, _), twin in zip(tensors(model).items(), tensors(copy), strict=True):
        if value in changed:
            set_tensor(twin, changed[value])
    return copy


def moved_weights(
    model: ir.Model,
    generator: np.random.Generator,
    *,
    only: Collection[str] | None = None,
    most_bytes: int = 1 << 28,
) -> ir.Model:
    """A copy of the model with its floating-point weights moved by one rounding; arguments of `moved_tensors`."""
    return with_tensors(model, moved_tensors(model, generator, only=only, most_bytes=most_bytes))
