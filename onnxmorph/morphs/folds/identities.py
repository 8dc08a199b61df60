"""Layers that pass their input on (Net2DeeperNet's), and the same idempotent activation twice in a row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.graph.activations import recognise
from onnxmorph.graph.layers import LinearLayer
from onnxmorph.graph.scopes import node_label
from onnxmorph.morphs.folds.finding import Array, Edited, Finding, Rule, View, attempt, bypass, can_bypass
from onnxmorph.morphs.folds.parameters import input_position

__all__ = ["IdentityRule"]


class IdentityRule(Rule):
    """``I * x = x``, and ``phi(phi(x)) = phi(x)``."""

    kind = "identity"

    def find(self, view: View) -> Iterator[Finding]:
        """See :meth:`Rule.find`."""
        for layer in view.foldable:
            found = attempt(lambda layer=layer: _identity(view, layer))  # type: ignore[misc]
            if found is not None:
                yield found
        seen: set[ir.Value] = set()
        for layer in view.layers:
            phi = layer.activation
            if phi is None or phi.output is None or phi.output in seen or not phi.idempotent:
                continue
            seen.add(phi.output)
            again = recognise(phi.output, ir_version=view.model.ir_version)
            if again is None or again.output is None or not again.same_as(phi, tolerance=0.0):
                continue
            out, kept = again.output, phi.output
            if not can_bypass(out, kept) or not view.same_shape(out, kept):
                continue
            yield Finding(
                view.place(out),
                f"{node_label(again.nodes[-1])}: {phi.name} of {phi.name} is {phi.name}",
                frozenset((*phi.nodes, *again.nodes)),
                lambda out=out, kept=kept: Edited((bypass(view.model, out, kept),)),  # type: ignore[misc]
            )


def _identity(view: View, layer: LinearLayer) -> Finding | None:
    if layer.in_channels != layer.out_channels or any(stride != 1 for stride in layer.strides):
        return None
    if layer.input_axis != layer.output_axis:
        return None  # a Gemm that transposes its input
    if layer.op == "ConvTranspose" and layer.pads is not None and any(layer.pads.output_padding):
        return None
    kernel = layer.kernel_array()
    tap = _identity_tap(kernel, layer.groups)
    if tap is None:
        return None
    bias = layer.bias_array()
    if (bias is not None and np.any(bias)) or not _in_place(layer, tap):
        return None
    position = input_position(layer)
    out, kept = layer.output, layer.input
    if not can_bypass(out, kept) or not _same_rank(view, layer):
        return None

    def edit() -> Edited:
        source = layer.node.inputs[position]
        assert source is not None
        return Edited((bypass(view.model, out, source),))

    return Finding(view.place(out), f"{layer.name}: its kernel is the identity", frozenset(layer.nodes), edit)


def _same_rank(view: View, layer: LinearLayer) -> bool:
    """A bias node may add axes to what it is added to."""
    if len(layer.nodes) == 1:
        return True
    return view.same_shape(layer.node.outputs[0], layer.output)


def _identity_tap(kernel: Array, groups: int) -> tuple[int, ...] | None:
    """Where the ones of an identity kernel stand, or ``None`` when it is none."""
    outputs = np.arange(kernel.shape[0])
    rows = kernel[outputs, outputs % kernel.shape[1]]
    if kernel.shape[0] != kernel.shape[1] * groups or not rows.size:
        return None
    flat = rows[0].reshape(-1)
    place = int(np.argmax(flat != 0))
    if flat[place] != 1 or int(np.count_nonzero(kernel)) != kernel.shape[0]:
        return None
    tap = tuple(int(index) for index in np.unravel_index(place, kernel.shape[2:])) if kernel.ndim > 2 else ()
    return tap if bool(np.all(kernel[(outputs, outputs % kernel.shape[1], *tap)] == 1)) else None


def _in_place(layer: LinearLayer, tap: tuple[int, ...]) -> bool:
    """Whether every output stands where the input it copies stood, and there are as many."""
    if not layer.kernel:
        return True
    if layer.pads is None or layer.pads.sized or layer.pads.explicit is None:
        return False
    begin, end = layer.pads.explicit
    for axis, (size, dilation) in enumerate(zip(layer.kernel, layer.dilations, strict=True)):
        reach = dilation * (size - 1)
        # A ConvTranspose of stride 1 in convolution form pads by its reach less what it crops.
        before, after = begin[axis], end[axis]
        if layer.op == "ConvTranspose":
            before, after = reach - before, reach - after
        if dilation * tap[axis] != before or before + after != reach:
            return False
    return True
