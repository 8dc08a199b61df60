"""What a layer costs: parameters, and multiply-accumulates for one sample.

One function serves the report and whatever weighs layers against a budget. With ``A`` the number of places the kernel
is applied at,

    macs = A * out * (in / groups) * prod(kernel),

A being the spatial places of the output of a Conv, of the *input* of a ConvTranspose, and the product of all axes but
the channel's for Gemm and MatMul; the batch counts as one sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from onnxmorph._ir import ir
from onnxmorph.graph.constants import stored
from onnxmorph.graph.layers import LinearLayer
from onnxmorph.graph.shapes import Dims, Shapes

__all__ = ["Cost", "Totals", "cost", "total"]


@dataclass(frozen=True)
class Cost:
    """Of one layer.

    Attributes:
        parameters: Numbers in kernel and bias, as the layer uses them.
        macs: Multiply-accumulates for one sample; ``None`` where a size is not known before a run.
    """

    parameters: int
    macs: int | None


@dataclass(frozen=True)
class Totals:
    """Of several layers or a whole model.

    Attributes:
        parameters: A weight used by several layers counts once.
        macs: For one sample, over the layers where it is known.
        unknown: Layers whose multiply-accumulates are not known.
        stored: Numbers in all float tensors stored in the model, normalisation and embeddings included; ``None`` where
            only layers were asked about.
    """

    parameters: int
    macs: int
    unknown: int
    stored: int | None = None


def _places(dims: Dims, channel: int) -> int | None:
    """Product of all sizes but the channel's; a symbolic first size is the batch, of which one sample counts."""
    channel %= len(dims)
    product = 1
    for axis, size in enumerate(dims):
        if axis == channel:
            continue
        if isinstance(size, int):
            product *= size
        elif axis:
            return None
    return product


def _batch(layer: LinearLayer, batch: int | None, places: int, first: int | str | None) -> int:
    """Places for one sample: a static batch is divided out where the layer's first axis holds it."""
    if batch is not None and batch > 1 and isinstance(first, int) and first % batch == 0:
        return places // batch
    return places


def cost(layer: LinearLayer, batch: int | None = None) -> Cost:
    """Parameters and multiply-accumulates of a layer.

    Args:
        layer: Blocked ones have a cost too, as far as their sizes are known.
        batch: The model's static batch size, to be divided out; ``None`` when it is symbolic. `total` finds it itself.
    """
    taps = math.prod(layer.kernel)
    weights = layer.out_channels * (layer.in_channels // max(layer.groups, 1)) * taps
    if weights == 0 and layer.weight.root is not None:
        # An operator that is only listed: what its weight holds is all there is to say.
        tensor = stored(layer.weight.root)
        return Cost(0 if tensor is None else int(tensor.size), None)
    parameters = weights + (layer.out_channels if layer.bias is not None else 0)
    if layer.op == "ConvTranspose":
        value, axis = layer.input, layer.input_axis
    else:
        value, axis = layer.node.outputs[0], layer.output_axis
    dims = layer.shapes.shape(value)
    if dims is None or not weights or not dims:
        return Cost(parameters, None)
    places = _places(dims, axis)
    if places is None:
        return Cost(parameters, None)
    first = dims[0] if axis % len(dims) else None
    return Cost(parameters, _batch(layer, batch, places, first) * weights)


def batch_size(model: ir.Model, shapes: Shapes) -> int | None:
    """The static first size of the first graph input with at least two axes, ``None`` when it is symbolic."""
    for value in model.graph.inputs:
        dims = shapes.shape(value)
        if value.is_initializer() or dims is None or len(dims) < 2:
            continue
        return dims[0] if isinstance(dims[0], int) else None
    return None


def total(found: Iterable[LinearLayer], model: ir.Model | None = None) -> Totals:
    """Sum over layers; with the model, its static batch is divided out and all its stored numbers are counted."""
    parameters = macs = unknown = 0
    seen: set[ir.Value] = set()
    batch: int | None = None
    for position, layer in enumerate(found):
        if position == 0 and model is not None:
            batch = batch_size(model, layer.shapes)
        own = cost(layer, batch)
        for source in (layer.weight, layer.bias):
            if source is None or source.root in seen:
                continue
            if source.root is not None:
                seen.add(source.root)
            bias = layer.out_channels if layer.bias is not None else 0
            parameters += bias if source is layer.bias else own.parameters - bias
        if own.macs is None:
            unknown += 1
        else:
            macs += own.macs
    return Totals(parameters, macs, unknown, None if model is None else _stored_numbers(model))


def _stored_numbers(model: ir.Model) -> int:
    from onnxmorph.graph.scopes import scopes

    numbers = 0
    for scope in scopes(model):
        if isinstance(scope.graph, ir.Graph):
            tensors = [value.const_value for value in scope.graph.initializers.values()]
            numbers += sum(
                int(tensor.size) for tensor in tensors if tensor is not None and tensor.dtype.is_floating_point()
            )
        for node in scope.graph:
            tensor = stored(node.outputs[0]) if node.op_type == "Constant" and node.outputs else None
            if tensor is not None and tensor.dtype.is_floating_point():
                numbers += int(tensor.size)
    return numbers
