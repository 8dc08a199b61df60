"""Activations that learn: a parametric version in place, or growth toward another one (NM eq. 9).

In place, ``phi`` becomes ``phi_a(x) = (1 - a) phi(x) + a x`` at ``a = 0``, which is ``phi``; ReLU becomes a PRelu.
Toward ``psi``, it becomes ``(1 - a) psi(x) + a phi(x)`` at ``a = 1``. Either way ``a`` is an initializer that
training may move.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from onnxmorph._ir import ir
from onnxmorph.edit import Builder, drop_unused, opset_of, replace_uses, take_name
from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.graph.activations import Activation, emit_parametric, named, why_not_emit
from onnxmorph.graph.layers import LinearLayer, layers
from onnxmorph.graph.select import select
from onnxmorph.graph.shapes import Shapes
from onnxmorph.morphs.sequence import channel_rank
from onnxmorph.morphs.standing_activations import (
    StandingActivation,
    named_activations,
    standing_activation,
    standing_activations,
)
from onnxmorph.plan import Change, Plan

__all__ = ["ActivatePlan", "check_activate", "plan_activate", "why_not_activate"]


def why_not_activate(layer: LinearLayer) -> Refusal | None:
    """Why the activation of ``layer`` cannot become parametric, or ``None`` when it can."""
    if layer.activation is None:
        return Refusal(
            f"{layer.name} has no activation of its own", way_out="name a layer that has one", code="no-activation"
        )
    return layer.weight_not_finite


def check_activate(_model: ir.Model) -> Callable[[LinearLayer], Refusal | None]:
    """What says of a model's layers why they cannot be morphed so; see :func:`why_not_activate`."""
    return why_not_activate


def plan_activate(
    model: ir.Model, layer: str | LinearLayer | None = None, *, to: str | None = None, per_channel: bool = True
) -> list[ActivatePlan]:
    """Decide which activations become parametric; nothing is edited.

    Args:
        model: The parent.
        layer: What a person types: a layer that has an activation, or a node or an output of one that stands by
            itself, behind a residual add say; ``None`` for every activation.
        to: Grow toward the activation of this name instead of toward the identity.
        per_channel: One ``a`` per channel rather than one for all.

    Returns:
        One plan per activation.

    Raises:
        SelectionError: No such layer or activation.
        Refusal: There is no activation to change, its layer's weights are not finite, or the model's opset and type
            cannot spell the goal.
    """
    chosen, standing = ([layer], []) if isinstance(layer, LinearLayer) else _chosen(model, layers(model), layer)
    goal = named(to) if to is not None else None
    plans = []
    seen: set[int] = set()
    for target in chosen:
        if (refusal := why_not_activate(target)) is not None:
            if len(chosen) == 1 or refusal.code != "no-activation":
                raise refusal
            continue
        phi = target.activation
        assert phi is not None
        if id(phi.output) in seen or (goal is not None and phi.name == goal.name):
            continue
        seen.add(id(phi.output))
        _refuse_unspelled(model, goal, target.graph, target.dtype)
        plans.append(ActivatePlan(target.key, target.name, phi.name, None if goal is None else goal.text, per_channel))
    for one in standing:
        phi = one.activation
        if goal is not None and phi.name == goal.name:
            continue
        _refuse_unspelled(model, goal, one.scope.graph, None if phi.input is None else phi.input.dtype)
        source = "" if phi.input is None else phi.input.name or ""
        text = None if goal is None else goal.text
        plans.append(ActivatePlan(one.key, one.name, phi.name, text, per_channel, source))
    if not plans:
        raise Refusal(
            "there is no activation to change" if goal is None else f"there is no activation other than {goal.text}",
            code="no-activation",
        )
    return plans


def _refuse_unspelled(
    model: ir.Model, goal: Activation | None, graph: ir.Graph | ir.Function, dtype: ir.DataType | None
) -> None:
    """Raise where the goal cannot be spelled in a scope; a body has the opset of what it lies in."""
    if goal is None or dtype is None:
        return
    function = graph if isinstance(graph, ir.Function) else None
    if (refusal := why_not_emit(goal, opset_of(model, function), dtype)) is not None:
        raise refusal


def _chosen(
    model: ir.Model, found: Sequence[LinearLayer], layer: str | None
) -> tuple[list[LinearLayer], list[StandingActivation]]:
    """Layers whose activations change, and activations that belong to none."""
    if layer is None:
        return list(found), [one for one in standing_activations(model, found) if one.is_plain]
    try:
        return select(found, layer), []
    except SelectionError as error:
        try:
            return [], named_activations(standing_activations(model, found), layer)
        except SelectionError:
            raise error from None


@dataclass(frozen=True)
class ActivatePlan(Plan):
    """One activation made parametric, decided.

    Attributes:
        layer: Key of the layer whose activation it is; of one that stands by itself, its own key.
        name: The layer's name, or the activation's own, for people.
        activation: The activation now.
        to: The activation it grows toward; ``None``: the identity.
        per_channel: One ``a`` per channel.
        source: Name of its input, where it stands by itself; empty for a layer's own.
    """

    morph: ClassVar[str] = "activate"

    layer: str
    name: str
    activation: str
    to: str | None
    per_channel: bool
    source: str = ""

    def options(self) -> dict[str, Any]:
        """See :meth:`Plan.options`."""
        return dict(vars(self))

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> ActivatePlan:
        """The plan that :meth:`options` came from."""
        known = {"source": "", **options}
        return cls(*(known[name] for name in cls.__dataclass_fields__ if name != "morph"))

    def describe(self) -> str:
        """See :meth:`Plan.describe`."""
        each = "per channel" if self.per_channel else "for all channels"
        if self.to is None:
            return f"{self.name}: {self.activation} becomes parametric, a = 0 {each}"
        return f"{self.name}: {self.activation} grows toward {self.to}, a = 1 {each}"

    def edit(self, child: ir.Model) -> Change:
        """See :meth:`Plan.edit`."""
        shapes = Shapes.of(child)
        place = _standing(child, self, shapes) if self.source else _of_layer(child, self.layer, shapes)
        phi = place.phi
        x, old = phi.input, phi.output
        assert x is not None and old is not None
        producer = old.producer()
        assert producer is not None
        per_channel = self.per_channel and place.channels is not None
        build = Builder(child, place.graph, after=producer)
        new = emit_parametric(
            build,
            phi if self.to is None else named(self.to),
            x,
            a=0.0 if self.to is None else 1.0,
            per_channel=per_channel,
            channels=place.channels or 1,
            channel_axis=place.channel_axis,
            rank=place.rank,
            label=place.label,
            dtype=place.dtype,
            kept=None if self.to is None else old,
        )
        replace_uses(old, new, except_nodes=build.nodes)
        take_name(child, new, old)
        drop_unused(child, list(phi.nodes)[::-1])
        return Change((), 0.0, (new.name or "",), self._notes(per_channel))

    def _notes(self, per_channel: bool) -> tuple[str, ...]:
        if not self.per_channel or per_channel:
            return ()
        why = (
            "which axis its channels are on is not known"
            if self.source
            else "its activation sees another layout than the layer's"
        )
        return (f"{self.name}: {why}, so one a serves all channels",)


@dataclass(frozen=True)
class _Place:
    """An activation and what has to be known of its input; ``channels`` is ``None`` where one ``a`` has to do."""

    phi: Activation
    graph: ir.Graph | ir.Function
    channels: int | None
    channel_axis: int
    rank: int
    label: str
    dtype: ir.DataType | None


def _of_layer(child: ir.Model, key: str, shapes: Shapes) -> _Place:
    layer = next((found for found in layers(child, shapes) if found.key == key), None)
    if layer is None or layer.activation is None:
        raise Refusal(f"the model has no layer {key!r} with an activation", code="layer-gone")
    channels = None if layer.layout_before_activation or layer.several_axes else layer.out_channels
    rank, label = channel_rank(layer), f"{layer.label}.act"
    return _Place(layer.activation, layer.graph, channels, layer.output_axis, rank, label, layer.dtype)


def _standing(child: ir.Model, plan: ActivatePlan, shapes: Shapes) -> _Place:
    found = standing_activation(child, plan.layer, plan.source, layers(child, shapes), shapes)
    if found is None:
        raise Refusal(f"the model has no activation {plan.layer!r}", code="layer-gone")
    phi = found.activation
    assert phi.input is not None
    per_channel = found.channels if phi.channels in (None, found.channels) else None
    rank = found.rank or 1
    dtype = shapes.dtype(phi.input)
    return _Place(phi, found.scope.graph, per_channel, found.channel_axis, rank, f"{found.name}.act", dtype)
