"""Nodes for several factors in the place of one linear layer: where padding, stride, dilation and bias go.

* All zero-padding goes on the first factor and none on the others: split, it would be wrong at the borders.
* The stride goes on the last factor that spans more than one tap: a pointwise factor reads one position, so decimating
  before it is the same as after, and cheaper.
* The dilation goes on all factors, whose kernels then add up on its lattice.
* A ConvTranspose stays one in the first factor only; what follows are convolutions on its dense output. Where it crops
  too little to leave them a border, the second one pads: what lies beyond a ConvTranspose's output is zero.
* The bias of the layer stays with the last factor, in whatever form it has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.edit import Builder, drop_unused, replace_uses, take_name
from onnxmorph.equation import extent
from onnxmorph.errors import Refusal
from onnxmorph.graph.kernels import WeightForm
from onnxmorph.graph.layers import LinearLayer

__all__ = [
    "Between",
    "LayerNames",
    "adds_bias",
    "channel_rank",
    "check_borders",
    "column",
    "margins",
    "on_the_left",
    "plain_layer",
    "replace_layer",
    "sequence_nodes",
]

_FIRST_OPSET_WITH_FREE_BIAS = 11
"""From here on Gemm works without C."""

Between = Callable[[int, ir.Value], ir.Value]
"""Builds what stands between factor ``i`` and factor ``i + 1``, from the output of factor ``i``."""


class LayerNames:
    """Readable names for what replaces one layer: ``conv3`` becomes ``conv3.0``, ``conv3.act``, ``conv3.1``.

    Args:
        layer: The layer.
        path: A further name between the layer's and the part's, for stacked paths.
    """

    def __init__(self, layer: LinearLayer, path: str = "") -> None:
        stem = layer.node.name or layer.label
        head, slash, tail = stem.rpartition("/")
        # '/features/conv3/Conv' ends in its op: the layer's own name is the path before it.
        self._path = head if slash and head and re.fullmatch(rf"{layer.op}(_\d+)?", tail) else ""
        self._stem = stem
        self._label = layer.label
        if path:
            self._stem, self._label = f"{self._stem}.{path}", f"{self._label}.{path}"
            self._path = f"{self._path}/{path}" if self._path else ""

    def node(self, part: int | str, op: str) -> str:
        """Name of a node of part ``part``."""
        return f"{self._path}/{part}/{op}" if self._path else f"{self._stem}.{part}"

    def part(self, part: int | str) -> str:
        """Readable stem of a part, such as ``conv3.0``."""
        return f"{self._label}.{part}"

    def initializer(self, part: int | str, role: str) -> str:
        """Name of an initializer, such as ``conv3.0.weight``."""
        return f"{self._label}.{part}.{role}"

    def value(self, part: int | str) -> str:
        """Name of the output of part ``part``."""
        return f"{self._label}.{part}.output"


def margins(size: int, old: int = 1) -> tuple[int, int]:
    """Zeros before and after when a kernel axis grows from ``old`` to ``size``; an odd one goes at the end."""
    before = (size - old) // 2
    return before, size - old - before


def check_borders(layer: LinearLayer, kernels: Sequence[tuple[int, ...]]) -> None:
    """Whether factors with these kernels can stand in for ``layer`` at its borders.

    Raises:
        Refusal: They cannot, with the reason.
    """
    if layer.kernel:
        _geometry(layer, kernels)


def _geometry(layer: LinearLayer, kernels: Sequence[tuple[int, ...]]) -> list[dict[str, Any]]:
    """Attributes of each factor of a convolution, first applied first."""
    axes = len(layer.kernel)
    ones = (1,) * axes
    plain = {"pads": [0] * (2 * axes), "strides": [1] * axes, "group": layer.groups}
    if kernels[0] == layer.kernel and all(kernel == ones for kernel in kernels[1:]):
        # Whatever the spelling of the padding, the first factor keeps it: every attribute stays.
        first = {**dict(layer.node.attributes.items()), "kernel_shape": list(layer.kernel)}
        rest = [{**plain, "kernel_shape": list(ones), "dilations": [1] * axes} for _ in kernels[1:]]
        return [first, *rest]
    pads = None if layer.pads is None else layer.pads.explicit
    transposed = layer.op == "ConvTranspose"
    if pads is None or (transposed and layer.pads is not None and layer.pads.sized):
        raise Refusal(
            f"{layer.name} pads by auto_pad or output_shape over an input of unknown size: its padding cannot be moved",
            way_out="keep its own kernel on the first factor and 1 on the others, or fix the input's size in the model",
            code="auto-pad-dynamic",
        )
    grown = [margins(size, old) for size, old in zip(extent(kernels), layer.kernel, strict=True)]
    begin: list[int] = []
    end: list[int] = []
    for axis, (before, after) in enumerate(grown):
        dilation = layer.dilations[axis]
        if transposed:
            # In convolution form the padding is d (K - 1) - pad: turned back for the first factor's own kernel.
            lost = layer.kernel[axis] - kernels[0][axis]
            begin.append(pads[0][axis] - dilation * (lost + before))
            end.append(pads[1][axis] - dilation * (lost + after))
        else:
            begin.append(pads[0][axis] + dilation * before)
            end.append(pads[1][axis] + dilation * after)
    # A ConvTranspose that crops less than the kernels after it read: its output beyond the border is exactly zero (no
    # input reaches there, and its bias starts at zero), so the second factor may pad with zeros what is missing.
    missing = [max(0, -pad) for pad in (*begin, *end)]
    if any(missing) and (not transposed or len(kernels) == 1):
        raise Refusal(
            f"{layer.name} pads {[*pads[0], *pads[1]]}: a path of kernel {extent(kernels)} in its place would have to"
            " crop its input",
            way_out="take paths that reach as far as the layer's own kernel",
            code="path-crops",
        )
    begin, end = [max(0, pad) for pad in begin], [max(0, pad) for pad in end]
    spanning = [index for index, kernel in enumerate(kernels) if kernel != ones]
    strided = 0 if transposed else max(spanning, default=0)
    geometry = []
    for index, kernel in enumerate(kernels):
        attributes: dict[str, Any] = {**plain, "kernel_shape": list(kernel), "dilations": list(layer.dilations)}
        if index == 0:
            attributes["pads"] = [*begin, *end]
            if "output_padding" in layer.node.attributes:
                attributes["output_padding"] = layer.node.attributes["output_padding"]
        if index == 1:
            attributes["pads"] = missing
        if index == strided:
            attributes["strides"] = list(layer.strides)
        geometry.append(attributes)
    return geometry


def sequence_nodes(
    build: Builder,
    layer: LinearLayer,
    names: LayerNames,
    factors: Sequence[np.ndarray],
    between: Between,
    *,
    biases: Sequence[np.ndarray | None] | None = None,
    keeps_bias: bool = True,
) -> ir.Value:
    """Build factors on the input of ``layer``, with what stands between them; the output is what the layer's was.

    Of MatMul and Einsum the layer's output here is that of the node: an Add with the bias may follow and stays.

    Args:
        build: Inserts before the layer's node.
        layer: The layer that is replaced.
        names: Names of the parts.
        factors: Kernels ``(out, in/groups, *kernel)``, first applied first, in the layer's type.
        between: What stands in the gaps.
        biases: Bias of every factor but the last; default zeros.
        keeps_bias: The last factor takes the layer's bias (of stacked paths, one does).

    Returns:
        The output of the last factor.
    """
    node, last = layer.node, len(factors) - 1
    left = on_the_left(layer)
    kernels = [tuple(factor.shape[2:]) for factor in factors]
    geometry = _geometry(layer, kernels) if layer.kernel else [{} for _ in factors]
    x = layer.input
    for index, factor in enumerate(factors):
        op = "Conv" if layer.op == "ConvTranspose" and index else layer.op
        attributes: dict[str, Any] = geometry[index]
        if layer.equation is None:
            numbers = stored(layer, op, factor, layer.groups)
        else:
            equation, numbers = layer.equation.factor(factor, first=index == 0, last=index == last)
            attributes = {"equation": equation}
        weight = build.initializer(names.initializer(index, "weight"), numbers)
        if op == "Gemm":
            attributes = {"transB": 1}
            if index == 0 and "transA" in node.attributes:
                attributes["transA"] = node.attributes["transA"]
            if index == last and keeps_bias and "beta" in node.attributes:
                attributes["beta"] = node.attributes["beta"]
        inputs: list[ir.Value | None] = [weight, x] if left else [x, weight]
        bias: ir.Value | None = None
        if index < last:
            given = biases[index] if biases is not None else None
            array = np.zeros(factor.shape[0], dtype=factor.dtype) if given is None else given
            bias = build.initializer(names.initializer(index, "bias"), column(layer, array))
        elif keeps_bias and not adds_bias(layer):
            bias = node.inputs[2] if len(node.inputs) > 2 else None
        elif op == "Gemm" and build.opset < _FIRST_OPSET_WITH_FREE_BIAS:
            bias = build.initializer(names.initializer(index, "bias"), np.zeros(factor.shape[0], dtype=factor.dtype))
        added = bias is not None and adds_bias(layer)
        if bias is not None and not added:
            inputs.append(bias)
        x = build.node(
            op,
            inputs,
            name=names.node(index, op),
            output=names.value(f"{index}.product" if added else index),
            **attributes,
        )
        if added:
            x = build.node("Add", [x, bias], name=names.node(index, "Add"), output=names.value(index))
        if index < last:
            x = between(index, x)
    return x


def on_the_left(layer: LinearLayer) -> bool:
    """Whether the layer is a MatMul ``W @ x``, whose channels are on the axis before the last."""
    return layer.op == "MatMul" and layer.form.out_first


def channel_rank(layer: LinearLayer) -> int:
    """Axes a per-channel constant needs so that its only sizeable axis lines up with the layer's output channels."""
    return -layer.output_axis if adds_bias(layer) else len(layer.kernel) + 2


def adds_bias(layer: LinearLayer) -> bool:
    """Whether the layer's operator takes no bias, so that an Add after it carries one."""
    return layer.op in ("MatMul", "Einsum")


def column(layer: LinearLayer, numbers: np.ndarray) -> np.ndarray:
    """One number per channel, shaped so that an Add lines it up with the channels where `adds_bias`."""
    return numbers.reshape(-1, *(1,) * (channel_rank(layer) - 1)) if adds_bias(layer) else numbers


def stored(layer: LinearLayer, op: str, kernel: np.ndarray, groups: int) -> np.ndarray:
    """``kernel`` as a new node ``op`` in place of ``layer`` stores it: Gemm with transB, MatMul on the layer's side."""
    return WeightForm(op, groups, out_first=op == "Gemm" or on_the_left(layer)).weight(kernel)


def replace_layer(build: Builder, layer: LinearLayer, new: ir.Value) -> None:
    """``new`` takes the place and the name of the output of the layer's node, which goes with all that only it used."""
    node = layer.node
    old = node.outputs[0]
    producer = new.producer()
    if producer is not None:
        producer.metadata_props.update(node.metadata_props)
    replace_uses(old, new)
    take_name(build.model, new, old)
    drop_unused(build.model, [node])


def plain_layer(
    build: Builder,
    layer: LinearLayer,
    names: LayerNames,
    part: int,
    x: ir.Value,
    kernel: np.ndarray,
    groups: int = 1,
) -> ir.Value:
    """A further layer of the same family as ``layer`` on ``x``: stride 1, size kept by zero padding, bias zero."""
    op = "Conv" if layer.op == "ConvTranspose" else layer.op
    left = on_the_left(layer)
    attributes: dict[str, Any] = {}
    if layer.equation is None:
        numbers = stored(layer, op, kernel, groups)
    else:
        equation, numbers = layer.equation.further(kernel)
        attributes = {"equation": equation}
    weight = build.initializer(names.initializer(part, "weight"), numbers)
    zeros = column(layer, np.zeros(kernel.shape[0], dtype=kernel.dtype))
    bias = build.initializer(names.initializer(part, "bias"), zeros)
    name, output = names.node(part, op), names.value(part)
    if adds_bias(layer):
        operands = [weight, x] if left else [x, weight]
        product = build.node(op, operands, name=name, output=names.value(f"{part}.product"), **attributes)
        return build.node("Add", [product, bias], name=names.node(part, "Add"), output=output)
    if op == "Gemm":
        return build.node("Gemm", [x, weight, bias], name=name, output=output, transB=1)
    border = [margins(size) for size in kernel.shape[2:]]
    return build.node(
        "Conv",
        [x, weight, bias],
        name=name,
        output=output,
        kernel_shape=list(kernel.shape[2:]),
        pads=[before for before, _ in border] + [after for _, after in border],
        strides=[1] * len(border),
        dilations=[1] * len(border),
        group=groups,
    )
