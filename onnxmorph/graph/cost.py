"""What a layer costs: parameters, and multiply-accumulates for one sample.

One function serves the report and whatever weighs layers against a budget. With ``A`` the number of places the kernel
is applied at,

    macs = A * out * (in / groups) * prod(kernel),

A being the spatial places of the output of a Conv, of the *input* of a ConvTranspose, and the product of all axes but
the channel's for Gemm and MatMul, all for one sample. A recurrent layer multiplies all of W and R at every time step:
steps * directions * gates * hidden * (in + hidden).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from onnxmorph._ir import ir
from onnxmorph.graph.constants import stored
from onnxmorph.graph.layers import LinearLayer
from onnxmorph.graph.recurrent import Cell
from onnxmorph.graph.shapes import Dims, Shapes

__all__ = ["Cost", "Sample", "Totals", "cost", "total"]


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


class Sample:
    """The sizes of a model run on one sample: every symbolic first size of an input is 1, and so is its name elsewhere.

    A batch size that is fixed in the file is found as `batch`, to be divided out.
    """

    def __init__(self, model: ir.Model, shapes: Shapes) -> None:
        fed = [value for value in model.graph.inputs if not value.is_initializer()]
        self._model, self._shapes = model, shapes
        self._inputs = [(value, dims) for value in fed if (dims := shapes.shape(value))]
        self._symbols = {dims[0] for _, dims in self._inputs if not isinstance(dims[0], int)}
        fixed = [dims[0] for _, dims in self._inputs if len(dims) > 1 and isinstance(dims[0], int)]
        self.batch: int = fixed[0] if fixed and fixed[0] > 0 and not self._symbols else 1

    def sizes(self, value: ir.Value) -> list[int] | None:
        """All sizes of a value, or ``None`` where one is not known before a run."""
        dims = self._shapes.shape(value)
        settled = self._settled(dims)
        if settled is None and self._symbols and dims is not None:
            # A batch folded into another axis, such as the rows (16 N, 64) of a Gemm: infer with N = 1.
            settled = self._settled(self._inferred.shape(value))
        return settled

    def _settled(self, dims: Dims | None) -> list[int] | None:
        if dims is None:
            return None
        sizes = [1 if size is not None and size in self._symbols else size for size in dims]
        known = [size for size in sizes if isinstance(size, int)]
        return known if len(known) == len(sizes) else None

    @cached_property
    def _inferred(self) -> Shapes:
        fixed = {
            value.name or "": tuple(1 if self._is_batch(axis, size) else size for axis, size in enumerate(dims))
            for value, dims in self._inputs
        }
        return Shapes.of(self._model, fixed)

    def _is_batch(self, axis: int, size: int | str | None) -> bool:
        if isinstance(size, int):
            return False
        return axis == 0 or (size is not None and size in self._symbols)


def cost(layer: LinearLayer, sample: Sample) -> Cost:
    """Parameters and multiply-accumulates of a layer; of a blocked one too, as far as its sizes are known."""
    if layer.cell is not None:
        return _recurrent(layer, layer.cell, sample)
    weights = layer.out_channels * (layer.in_channels // max(layer.groups, 1)) * math.prod(layer.kernel)
    if not weights:
        # An operator that is only listed: what its weight holds is all there is to say.
        tensor = None if layer.weight.root is None else stored(layer.weight.root)
        return Cost(0 if tensor is None else int(tensor.size), None)
    parameters = weights + (layer.out_channels if layer.bias is not None else 0)
    if layer.op == "ConvTranspose":
        value, channel = layer.input, layer.input_axis
    else:
        value, channel = layer.node.outputs[0], layer.output_axis
    sizes = sample.sizes(value)
    if not sizes or not -len(sizes) <= channel < len(sizes):
        return Cost(parameters, None)
    if layer.several_axes:
        places = math.prod(sizes) // layer.out_channels
    else:
        del sizes[channel]
        places = math.prod(sizes)
    return Cost(parameters, (places if places % sample.batch else places // sample.batch) * weights)


def _recurrent(layer: LinearLayer, cell: Cell, sample: Sample) -> Cost:
    """W and R once for every step of one sequence, in each direction; a sequence of unknown length has no cost."""
    dims, sizes = layer.shapes.shape(layer.input), sample.sizes(layer.input)
    time = 1 if cell.batch_first else 0
    steps = dims[time] if dims is not None and len(dims) == 3 else None
    if not isinstance(steps, int):
        return Cost(cell.parameters, None)
    sequences = 1 if sizes is None else sizes[1 - time]
    each = sequences if sequences % sample.batch else sequences // sample.batch
    return Cost(cell.parameters, steps * each * cell.multiplied)


def _biases(layer: LinearLayer) -> int:
    if layer.cell is not None:
        return layer.cell.biases
    return layer.out_channels if layer.bias is not None else 0


def total(found: Sequence[LinearLayer], costs: Sequence[Cost], model: ir.Model | None = None) -> Totals:
    """The sum over layers, with what the whole model stores where it is given."""
    parameters = 0
    seen: set[ir.Value] = set()
    for layer, own in zip(found, costs, strict=True):
        bias = _biases(layer)
        for source, numbers in ((layer.weight, own.parameters - bias), (layer.bias, bias)):
            if source is None or source.root is None or source.root not in seen:
                parameters += numbers
            if source is not None and source.root is not None:
                seen.add(source.root)
    known = [own.macs for own in costs if own.macs is not None]
    return Totals(parameters, sum(known), len(costs) - len(known), None if model is None else _stored_numbers(model))


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
            if node.op_type == "Constant" and node.outputs:
                numbers += _floats(stored(node.outputs[0]))
    return numbers


def _floats(tensor: ir.TensorProtocol | None) -> int:
    return 0 if tensor is None or not tensor.dtype.is_floating_point() else int(tensor.size)
