"""Activations with a parameter that stands at an end: ``(1-a) phi(x) + a x`` is phi at a = 0 and x at a = 1.

A PRelu of slope 0 is a ReLU and of slope 1 the identity; a slope that constants compute is stored as what it is. A
blend of two activations resolves to the one with all the weight. Exact for finite values; a parameter per channel must
be the same for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.edit import Builder, drop_unused, replace_uses, take_name
from onnxmorph.graph.attributes import WrongAttribute, floating
from onnxmorph.graph.constants import stored
from onnxmorph.graph.scopes import Scope, node_label
from onnxmorph.morphs.folds.finding import Array, Edited, Finding, Rule, View, bypass, can_bypass

__all__ = ["ActivationRule", "weighted"]


class ActivationRule(Rule):
    """Parametric activations at an end of their parameter."""

    kind = "activation"

    def find(self, view: View) -> Iterator[Finding]:
        """See :meth:`Rule.find`."""
        for scope, node in view.places:
            if node.domain not in ("", "ai.onnx"):
                continue
            if node.op_type == "PRelu":
                found = _prelu(view, scope, node)
            elif node.op_type == "LeakyRelu":
                found = _leaky_relu(view, scope, node)
            elif node.op_type == "Add":
                found = _blend(view, node)
            else:
                continue
            if found is not None:
                yield found


def _leaky_relu(view: View, scope: Scope, node: ir.Node) -> Finding | None:
    try:
        slope = floating(node, "alpha", 0.01)
    except WrongAttribute:
        return None
    if slope == 1.0:
        return _identity(view, node, "LeakyRelu of slope 1")
    return _another(view, scope, node, "Relu") if slope == 0.0 else None


def _prelu(view: View, scope: Scope, node: ir.Node) -> Finding | None:
    if len(node.inputs) != 2 or node.inputs[0] is None:
        return None
    slope = view.known(node.inputs[1])
    if slope is None or not slope.size or not np.isfinite(slope).all():
        return None
    first = slope.reshape(-1)[0]
    uniform = bool(np.all(slope == first))
    if uniform and first == 1:
        return _identity(view, node, "PRelu of slope 1")
    if uniform and first == 0:
        return _another(view, scope, node, "Relu")
    given = node.inputs[1]
    if stored(given) is not None:
        return None
    if uniform and float(np.float32(first)) == float(first):
        return _another(view, scope, node, "LeakyRelu", alpha=float(first))

    def edit() -> Edited:
        old = node.inputs[1]
        build = Builder(view.model, scope.graph, before=node)
        node.replace_input_with(1, build.initializer(f"{node_label(node)}.slope", slope))
        drop_unused(view.model, [] if old is None else [old])
        return Edited((node.outputs[0].name or "",))

    return Finding(
        view.place(node.outputs[0]), f"{node_label(node)}: its slope, computed, is a constant", frozenset({node}), edit
    )


def _identity(view: View, node: ir.Node, what: str) -> Finding | None:
    out, kept = node.outputs[0], node.inputs[0]
    if kept is None or not can_bypass(out, kept):
        return None

    def edit() -> Edited:
        source = node.inputs[0]
        assert source is not None
        return Edited((bypass(view.model, out, source),))

    return Finding(view.place(out), f"{node_label(node)}: {what} is the identity", frozenset({node}), edit)


def _another(view: View, scope: Scope, node: ir.Node, op: str, **attributes: Any) -> Finding | None:
    """The same input through the plain activation ``op``."""
    dtype = view.shapes.dtype(node.outputs[0])
    build = Builder(view.model, scope.graph, before=node)
    if not build.has_op(op, dtype):
        return None

    def edit() -> Edited:
        build = Builder(view.model, scope.graph, before=node)
        old = node.outputs[0]
        plain = build.node(op, [node.inputs[0]], name=_plain_name(node, op), **attributes)
        replace_uses(old, plain)
        take_name(view.model, plain, old)
        drop_unused(view.model, [node])
        return Edited((plain.name or "",), tuple(build.nodes))

    described = f"{op}({attributes['alpha']:g})" if attributes else op
    return Finding(
        view.place(node.outputs[0]), f"{node_label(node)}: {node.op_type} is {described}", frozenset({node}), edit
    )


def _plain_name(node: ir.Node, op: str) -> str:
    name = node.name or node.outputs[0].name or op
    return name.replace(node.op_type, op) if node.op_type in name else name


def weighted(view: View, value: ir.Value | None) -> tuple[ir.Node, ir.Value, Array] | None:
    """``(node, u, c)`` where a value is ``u * c`` with a known c."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Mul" or node.domain not in ("", "ai.onnx") or len(node.inputs) != 2:
        return None
    one, two = node.inputs
    if one is None or two is None:
        return None
    if (numbers := view.known(two)) is not None:
        return node, one, numbers
    if (numbers := view.known(one)) is not None:
        return node, two, numbers
    return None


def _blend(view: View, node: ir.Node) -> Finding | None:
    left, right = (weighted(view, value) for value in (*node.inputs, None, None)[:2])
    if left is None or right is None:
        return None
    for (_, _, nothing), (keeper, kept, all_of_it) in ((left, right), (right, left)):
        if not (nothing.size and all_of_it.size and not np.any(nothing) and np.all(all_of_it == 1)):
            continue
        out = node.outputs[0]
        if not view.same_shape(out, kept) or not can_bypass(out, kept):
            return None
        side = 0 if node.inputs[0] is keeper.outputs[0] else 1

        def edit(out: ir.Value = out, side: int = side) -> Edited:
            again = weighted(view, node.inputs[side])
            assert again is not None
            return Edited((bypass(view.model, out, again[1]),))

        maker = kept.producer()
        what = f"the output of {node_label(maker)}" if maker is not None else f"'{kept.name}'"
        return Finding(
            view.place(out),
            f"{node_label(node)}: a blend with all its weight on {what}",
            frozenset({node, left[0], right[0]}),
            edit,
        )
    return None
