"""Short ways that have no effect: a summand that is zero, further inputs that nothing reads.

The inverse of skips and of residual depth. A branch counts as zero where its last product does: a gate of zeros, or a
layer of zeros without a bias. Exact for finite values.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.edit import drop_unused
from onnxmorph.graph.affine import only_user
from onnxmorph.graph.attributes import WrongAttribute, integer
from onnxmorph.graph.layers import LinearLayer
from onnxmorph.graph.scopes import node_label
from onnxmorph.morphs.folds.activations import weighted
from onnxmorph.morphs.folds.finding import Array, Edited, Finding, Rule, View, attempt, bypass, can_bypass, passes_on
from onnxmorph.morphs.folds.parameters import input_position, set_kernel

__all__ = ["SkipRule"]

_LONGEST = 16


class SkipRule(Rule):
    """Branches of zeros, and operands of a Concat that are read with zeros."""

    kind = "skip"

    def find(self, view: View) -> Iterator[Finding]:
        """See :meth:`Rule.find`."""
        for _, node in view.places:
            if node.op_type in ("Add", "Sub") and node.domain in ("", "ai.onnx") and len(node.inputs) == 2:
                found = attempt(lambda node=node: _sum(view, node))  # type: ignore[misc]
                if found is not None:
                    yield found
        for layer in view.foldable:
            found = attempt(lambda layer=layer: _concatenated(view, layer))  # type: ignore[misc]
            if found is not None:
                yield found


def _sum(view: View, node: ir.Node) -> Finding | None:
    one, two = node.inputs
    if one is None or two is None or one is two:
        return None
    out = node.outputs[0]
    for position, (kept, lost) in enumerate(((one, two), (two, one))):
        if position == 1 and node.op_type == "Sub":
            break
        why = _zero(view, lost)
        if why is None or (kept.producer() is None and kept.is_initializer()):
            continue
        if not view.same_shape(out, kept) or not can_bypass(out, kept):
            continue

        def edit(position: int = position) -> Edited:
            if node.graph is None:
                return Edited(())  # it went with a branch that another finding of this sweep took away
            source = node.inputs[position]
            assert source is not None
            return Edited((bypass(view.model, out, source),))

        touches: frozenset[object] = frozenset({node, lost.producer()})
        return Finding(view.place(out), f"{node_label(node)}: {why}", touches, edit)
    return None


def _zero(view: View, value: ir.Value) -> str | None:
    """Why a computed value is zero for every finite input, in words, or ``None``."""
    for _ in range(_LONGEST):
        node = value.producer()
        if node is None or not passes_on(node) or node.inputs[0] is None:
            break
        value = node.inputs[0]
    product = weighted(view, value)
    if product is not None:
        node, _, gate = product
        return f"the branch through '{node_label(node)}' has a gate of zeros" if gate.size and not gate.any() else None
    layer = view.by_output.get(value)
    if layer is None:
        return None
    bias = layer.bias_array()
    if (bias is not None and np.any(bias)) or np.any(layer.kernel_array()):
        return None
    return f"the branch through '{layer.name}' has a projection of zeros"


def _concatenated(view: View, layer: LinearLayer) -> Finding | None:
    """A layer reads a Concat, some of whose operands meet zeros only; nobody else reads it."""
    joint = layer.input.producer()
    if joint is None or joint.op_type != "Concat" or layer.groups != 1 or len(joint.inputs) < 2:
        return None
    if only_user(layer.input) is not layer.node or not _along_channels(view, joint, layer):
        return None
    sizes = [_channels(view, value, layer) for value in joint.inputs]
    if None in sizes or sum(size or 0 for size in sizes) != layer.in_channels:
        return None
    ends = np.cumsum([size or 0 for size in sizes])
    kernel = layer.kernel_array()
    read: Array = np.any(kernel, axis=(0, *range(2, kernel.ndim)))
    used = [bool(read[end - (size or 0) : end].any()) for end, size in zip(ends, sizes, strict=True)]
    if all(used):
        return None
    if not any(used):
        used[0] = True
    kept = [position for position, one in enumerate(used) if one]
    small = np.concatenate([kernel[:, ends[p] - (sizes[p] or 0) : ends[p]] for p in kept], axis=1)

    def edit() -> Edited:
        if layer.node.graph is None:
            return Edited(())  # it went with a branch that another finding of this sweep took away
        lost = [value for position, value in enumerate(joint.inputs) if position not in kept]
        position = input_position(layer)
        if len(kept) == 1:
            layer.node.replace_input_with(position, joint.inputs[kept[0]])
            drop_unused(view.model, [joint])
        else:
            for place, source in enumerate([joint.inputs[index] for index in kept]):
                joint.replace_input_with(place, source)
            joint.resize_inputs(len(kept))
            _reshape(joint.outputs[0], layer.input_axis, small.shape[1])
            drop_unused(view.model, [value for value in lost if value is not None])
        set_kernel(view.model, layer, small)
        return Edited((layer.output.name or "",))

    dropped = ", ".join(f"'{value.name}'" for p, value in enumerate(joint.inputs) if p not in kept and value)
    text = f"{layer.name}: it reads {dropped} with zeros only"
    return Finding(view.place(layer.output), text, frozenset((*layer.nodes, joint)), edit)


def _along_channels(view: View, joint: ir.Node, layer: LinearLayer) -> bool:
    rank = view.shapes.rank(layer.input)
    try:
        axis = integer(joint, "axis", 1)
    except WrongAttribute:
        return False
    if rank is None:
        return axis == layer.input_axis and not layer.repeated and axis > 0 and bool(layer.kernel)
    return axis % rank == layer.input_axis % rank


def _channels(view: View, value: ir.Value | None, layer: LinearLayer) -> int | None:
    shape = None if value is None else view.shapes.shape(value)
    if shape is None or not -len(shape) <= layer.input_axis < len(shape):
        return None
    size = shape[layer.input_axis]
    return size if isinstance(size, int) else None


def _reshape(value: ir.Value, axis: int, size: int) -> None:
    if value.shape is not None and -len(value.shape) <= axis < len(value.shape):
        dims = list(value.shape)
        dims[axis] = size
        value.shape = ir.Shape(dims)
