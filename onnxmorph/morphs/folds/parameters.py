"""New numbers for a layer that stays: its kernel, its bias, wherever the file keeps them."""

from __future__ import annotations

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.edit import Builder, drop_unused, rename_value, replace_uses, take_name
from onnxmorph.graph.layers import LinearLayer
from onnxmorph.morphs.folds.finding import Array
from onnxmorph.morphs.sequence import adds_bias, column, on_the_left

__all__ = ["bias_or_zeros", "input_position", "rounded", "set_bias", "set_kernel"]

_ROUNDINGS = 4.0
"""How much more than one rounding a row may lose when it is stored: 16-bit types underflow early."""


def input_position(layer: LinearLayer) -> int:
    """Which operand of the layer's node the data is; the value there may change, its place does not."""
    return layer.equation.data_position if layer.equation is not None else int(on_the_left(layer))


def rounded(numbers: Array, dtype: ir.DataType) -> Array | None:
    """``(rows, ...)`` in the layer's type, or ``None`` where a row would lose more than roundings: range, underflow."""
    kind = dtype.numpy()
    unit = float(np.finfo(kind).eps) if kind.kind == "f" else 2.0**-7
    with np.errstate(all="ignore"):
        stored = numbers.astype(kind)
        back = stored.astype(np.float64)
    if not np.isfinite(back).all():
        return None
    rows = numbers.reshape(numbers.shape[0], -1)
    lost = np.abs(back.reshape(rows.shape) - rows).max(axis=1, initial=0.0)
    return stored if bool(np.all(lost <= _ROUNDINGS * unit * np.abs(rows).max(axis=1, initial=0.0))) else None


def bias_or_zeros(layer: LinearLayer) -> Array:
    """The bias ``(out,)`` in float64, zeros without one."""
    bias = layer.bias_array()
    return np.zeros(layer.out_channels) if bias is None else bias.astype(np.float64)


def set_kernel(model: ir.Model, layer: LinearLayer, kernel: Array) -> None:
    """Store another kernel ``(out, in/groups, *kernel)`` for a layer; it keeps the weight's name where that is free."""
    node = layer.node
    position = 1 - input_position(layer)
    old = node.inputs[position]
    build = Builder(model, layer.graph, before=node)
    new = build.initializer(f"{layer.label}.weight", np.ascontiguousarray(layer.weight_from_kernel(kernel)))
    node.replace_input_with(position, new)
    _inherit_name(model, new, old, layer.weight.root)


def _inherit_name(model: ir.Model, new: ir.Value, old: ir.Value | None, root: ir.Value | None) -> None:
    name = None if root is None else root.name
    freed = drop_unused(model, [] if old is None else [old])
    if name and name in freed:
        rename_value(model, new, name)


def set_bias(model: ir.Model, layer: LinearLayer, bias: Array) -> tuple[ir.Node, ...]:
    """Store another bias ``(out,)`` for a layer, by a node of its own where the layer has none; gives that node."""
    build = Builder(model, layer.graph, before=layer.node)
    name = f"{layer.label}.bias"
    if len(layer.nodes) > 1:
        adder = layer.nodes[1]
        position = 1 if adder.inputs[0] is layer.node.outputs[0] else 0
        old = adder.inputs[position]
        assert layer.bias is not None
        shape = layer.bias.shape or bias.shape
        new = build.initializer(name, (bias * (-1.0 if adder.op_type == "Sub" else 1.0)).reshape(shape), layer.dtype)
        adder.replace_input_with(position, new)
        _inherit_name(model, new, old, layer.bias.root)
        return ()
    node = layer.node
    if adds_bias(layer):
        if not np.any(bias):
            return ()
        output = node.outputs[0]
        after = Builder(model, layer.graph, after=node)
        new = after.initializer(name, column(layer, bias), layer.dtype)
        total = after.node("Add", [output, new], name=f"{node.name or layer.label}.bias")
        replace_uses(output, total, except_nodes=after.nodes)
        take_name(model, total, output)
        return tuple(after.nodes)
    given = node.inputs[2] if len(node.inputs) > 2 else None
    new = build.initializer(name, bias, layer.dtype)
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, new)
    node.attributes.pop("beta", None)
    _inherit_name(model, new, given, None if layer.bias is None else layer.bias.root)
    return ()
