"""Batch normalisation, in any spelling, into the linear layer before it or after it.

Before: ``s (W x + b) + t = (s W) x + (s b + t)``, per output channel. After: ``W (s x + t) + b = (W s) x + (b + W t)``,
which a layer that pads with zeros sees differently at its borders unless ``t = 0``: such layers are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.edit import drop_unused
from onnxmorph.graph.affine import Affine, Place, Step, follow, only_user
from onnxmorph.graph.constants import chain
from onnxmorph.graph.layers import LinearLayer
from onnxmorph.morphs.folds.finding import (
    Array,
    Edited,
    Finding,
    Rule,
    View,
    attempt,
    bypass,
    can_bypass,
    rename_between,
)
from onnxmorph.morphs.folds.parameters import bias_or_zeros, rounded, set_bias, set_kernel

__all__ = ["BatchNormRule"]


class BatchNormRule(Rule):
    """Affine maps per channel next to a linear layer."""

    kind = "batch-norm"

    def find(self, view: View) -> Iterator[Finding]:
        """See :meth:`Rule.find`."""
        for layer in view.foldable:
            found = attempt(lambda layer=layer: _before(view, layer) or _after(view, layer))  # type: ignore[misc]
            if found is not None:
                yield found


def _before(view: View, layer: LinearLayer) -> Finding | None:
    affine = layer.affine
    if affine is None or any(_overridable(view, node) for node in affine.nodes):
        return None
    if not (np.isfinite(affine.scale).all() and np.isfinite(affine.shift).all()):
        return None
    for node in affine.nodes:
        if not can_bypass(node.outputs[0], _data(node)):
            return None
    kernel = layer.kernel_array().astype(np.float64)
    kernel = kernel * affine.scale.reshape(-1, *(1,) * (kernel.ndim - 1))
    bias = bias_or_zeros(layer) * affine.scale + affine.shift
    stored, shift = rounded(kernel, layer.dtype), rounded(bias[:, None], layer.dtype)
    if stored is None or shift is None:
        return None

    def edit() -> Edited:
        end = ""
        for node in affine.nodes:
            end = bypass(view.model, node.outputs[0], _data(node))
        set_kernel(view.model, layer, stored)
        made = set_bias(view.model, layer, shift.reshape(-1)) if layer.bias is not None or np.any(bias) else ()
        rename_between(view.model, layer.node.outputs[0], end)
        return Edited((end,), made)

    what = _what(affine)
    touches = frozenset[object]((*layer.nodes, *affine.nodes, *affine.layout))
    return Finding(view.place(affine.output), f"{layer.name}: {what} into its kernel and bias", touches, edit)


def _what(affine: Affine) -> str:
    kinds = [node.op_type for node in affine.nodes]
    return "the batch norm after it" if "BatchNormalization" in kinds else f"{' and '.join(kinds)} after it"


def _data(node: ir.Node) -> ir.Value:
    """The operand of an affine node that is not its constant."""
    first = node.inputs[0]
    assert first is not None
    if node.op_type == "BatchNormalization" or len(node.inputs) < 2:
        return first
    other = node.inputs[1]
    return first if other is None or chain(first).reason is not None else other


def _overridable(view: View, node: ir.Node) -> bool:
    return any(
        value is not None and chain(value, ir_version=view.model.ir_version).overridable for value in node.inputs
    )


def _after(view: View, layer: LinearLayer) -> Finding | None:
    node = layer.input.producer()
    if node is None or only_user(layer.input) is not layer.node or _overridable(view, node):
        return None
    if node.op_type != "BatchNormalization" or node.inputs[0] is None:
        return None  # other spellings there are mostly the end of an activation, which it would be no more
    source = _data(node)
    start = Place(source, layer.input_axis, view.shapes.rank(source), layer.in_channels)
    step = next(iter(follow(start, view.shapes, layer.dtype)), None)
    if step is None or step.node is not node or step.scale is None or step.shift is None:
        return None
    if not view.same_shape(source, layer.input):
        return None
    return _into_the_next(view, layer, step)


def _into_the_next(view: View, layer: LinearLayer, step: Step) -> Finding | None:
    scale, shift, node = step.scale, step.shift, step.node
    assert scale is not None and shift is not None
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return None
    unpadded = layer.pads is None or layer.pads.zero
    if np.any(shift) and (not unpadded or layer.op == "ConvTranspose"):
        return None
    kernel = layer.kernel_array().astype(np.float64)
    per_input = _per_input(layer, scale)
    stored = rounded(kernel * per_input, layer.dtype)
    taps = kernel.reshape(*kernel.shape[:2], -1).sum(axis=2)
    offset: Array = (taps * _per_input(layer, shift).reshape(taps.shape[0], -1)).sum(axis=1)
    bias = rounded((bias_or_zeros(layer) + offset)[:, None], layer.dtype)
    if stored is None or bias is None:
        return None

    def edit() -> Edited:
        position = next(iter(node.outputs[0].uses()))[1]
        layer.node.replace_input_with(position, _data(node))
        drop_unused(view.model, [node])
        set_kernel(view.model, layer, stored)
        made = set_bias(view.model, layer, bias.reshape(-1)) if layer.bias is not None or np.any(offset) else ()
        if np.any(offset):
            rename_between(view.model, layer.node.outputs[0], layer.output.name or "")
        return Edited((layer.output.name or "",), made)

    touches = frozenset[object]((*layer.nodes, node))
    text = f"{layer.name}: the batch norm before it into its kernel and bias"
    return Finding(view.place(layer.input), text, touches, edit)


def _per_input(layer: LinearLayer, numbers: Array) -> Array:
    """``(out, in/groups, 1...)``: for every entry of the kernel the number of the channel it reads."""
    per_group = layer.in_channels // layer.groups
    rows = np.repeat(numbers.reshape(layer.groups, per_group), layer.out_channels // layer.groups, axis=0)
    return rows.reshape(layer.out_channels, per_group, *(1,) * len(layer.kernel))
