"""Two linear layers of one input that only their sum is used of are one: ``F1 x + F2 x = (F1 + F2) x`` (NM eq. 20).

The inverse of a stacked subnet. Their kernels may reach differently far: with the same strides and dilations, tap ``u``
reads the input at ``d u - pad``, so the kernels are laid over each other by their pads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.edit import drop_unused, replace_uses, take_name
from onnxmorph.graph.affine import only_user
from onnxmorph.graph.layers import LinearLayer
from onnxmorph.graph.scopes import node_label
from onnxmorph.morphs.folds.chains import Geometry, One, geometry_of, put
from onnxmorph.morphs.folds.finding import Array, Edited, Finding, Rule, View, attempt, rename_between
from onnxmorph.morphs.folds.parameters import bias_or_zeros, input_position, rounded

__all__ = ["SumRule"]


class SumRule(Rule):
    """Sums of two layers of the same input."""

    kind = "sum"

    def find(self, view: View) -> Iterator[Finding]:
        """See :meth:`Rule.find`."""
        for _, node in view.places:
            if node.op_type != "Add" or node.domain not in ("", "ai.onnx") or len(node.inputs) != 2:
                continue
            one, two = (None if value is None else view.by_output.get(value) for value in node.inputs)
            if one is None or two is None or one is two:
                continue
            if only_user(one.output) is not node or only_user(two.output) is not node or not _alike(one, two):
                continue
            found = attempt(lambda node=node, one=one, two=two: _sum(view, node, one, two))  # type: ignore[misc]
            if found is not None:
                yield found


def _alike(one: LinearLayer, two: LinearLayer) -> bool:
    return (
        one.op == two.op
        and _more(one) == _more(two)
        and one.input is two.input
        and one.groups == two.groups
        and one.dtype == two.dtype
        and one.out_channels == two.out_channels
        and one.in_channels == two.in_channels
        and one.graph is two.graph
        and one.strides == two.strides
        and one.input_axis == two.input_axis
        and input_position(one) == input_position(two)
    )


def _more(layer: LinearLayer) -> tuple[int, ...]:
    """A ConvTranspose's places added at the end."""
    added = () if layer.pads is None else layer.pads.output_padding
    return added if any(added) else ()


def _sum(view: View, node: ir.Node, one: LinearLayer, two: LinearLayer) -> Finding | None:
    geometry = _union(one, two) if one.kernel else geometry_of(one)
    if geometry is None:
        return None
    kernel = _laid(one, geometry) + _laid(two, geometry)
    if kernel.size > one.kernel_array().size + two.kernel_array().size:
        return None
    stored = rounded(kernel, one.dtype)
    bias = rounded((bias_or_zeros(one) + bias_or_zeros(two))[:, None], one.dtype)
    if stored is None or bias is None:
        return None
    both = [bool(np.any(bias_or_zeros(layer))) for layer in (one, two)]
    shift = bias.reshape(-1) if all(both) else None
    keeper = two if both[1] and not both[0] else one if both[0] or one.bias is not None else two
    composed = One(stored, shift, geometry)

    def edit() -> Edited:
        total = node.outputs[0]
        made = put(view.model, [one, two], keeper, keeper, composed)
        # The layer that carries the bias now computes the sum; the other one is no longer added.
        side = 0 if keeper is one else 1
        summed = node.inputs[side]
        assert summed is not None
        replace_uses(total, summed)
        take_name(view.model, summed, total)
        drop_unused(view.model, [node])
        rename_between(view.model, made, summed.name or "")
        producer = summed.producer()
        return Edited((summed.name or "",), () if producer is None else (producer,))

    text = f"{node_label(node)}: {one.name} and {two.name} of the same input, one {one.op}"
    touches = frozenset[object]((node, *one.nodes, *two.nodes))
    return Finding(view.place(node.outputs[0]), text, touches, edit)


def _union(left: LinearLayer, right: LinearLayer) -> Geometry | None:
    """The least kernel that holds both, and its padding.

    Tap ``u`` of a Conv reads ``d u`` less the padding before; of a ConvTranspose it writes there. The end follows from
    the number of places that come out, which must be the same of both, or their sum would broadcast.
    """
    one, two = geometry_of(left), geometry_of(right)
    if one == two and (one.pads is not None or left.pads == right.pads):
        return one
    if one.pads is None or two.pads is None:
        return None
    kernel, dilations = [], []
    begin: list[int] = []
    end: list[int] = []
    for axis, (k1, k2) in enumerate(zip(one.kernel, two.kernel, strict=True)):
        d1, d2 = one.dilations[axis], two.dilations[axis]
        if k1 > 1 and k2 > 1 and d1 != d2:
            return None
        dilation = d2 if k1 == 1 else d1
        b1, b2 = one.pads[0][axis], two.pads[0][axis]
        reach1, reach2 = d1 * (k1 - 1), d2 * (k2 - 1)
        first, last = max(b1, b2), max(reach1 - b1, reach2 - b2)
        room = b1 + one.pads[1][axis] - reach1
        if room != b2 + two.pads[1][axis] - reach2:
            return None
        if (first - b1) % dilation or (first - b2) % dilation or (first + last) % dilation:
            return None
        size = (first + last) // dilation + 1
        after = room + dilation * (size - 1) - first
        if after < 0:
            return None
        kernel.append(size)
        dilations.append(dilation)
        begin.append(first)
        end.append(after)
    return Geometry(tuple(kernel), one.strides, tuple(dilations), (tuple(begin), tuple(end)), plain=False)


def _laid(layer: LinearLayer, geometry: Geometry) -> Array:
    """A layer's kernel within the union's, float64."""
    kernel = layer.kernel_array().astype(np.float64)
    if not layer.kernel or kernel.shape[2:] == geometry.kernel:
        return kernel
    own = geometry_of(layer)
    assert own.pads is not None and geometry.pads is not None
    whole = np.zeros((*kernel.shape[:2], *geometry.kernel))
    at = [(geometry.pads[0][a] - own.pads[0][a]) // geometry.dilations[a] for a in range(len(own.kernel))]
    if layer.op == "ConvTranspose":  # its kernel form is its weight back to front
        at = [more - size - start for more, size, start in zip(geometry.kernel, own.kernel, at, strict=True)]
    index: Any = (..., *(slice(start, start + size) for start, size in zip(at, own.kernel, strict=True)))
    whole[index] = kernel
    return whole
