"""Activations that learn: a parametric version in place, or growth toward another one (NM eq. 9).

In place, ``phi`` becomes ``phi_a(x) = (1 - a) phi(x) + a x`` at ``a = 0``, which is ``phi``; ReLU becomes a PRelu.
Toward ``psi``, it becomes ``(1 - a) psi(x) + a phi(x)`` at ``a = 1``. Either way ``a`` is an initializer that
training may move.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from onnxmorph._ir import ir
from onnxmorph.edit import Builder, drop_unused, replace_uses, take_name
from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.graph.activations import emit_parametric, named
from onnxmorph.graph.layers import LinearLayer, layers
from onnxmorph.graph.select import select
from onnxmorph.morphs.sequence import channel_rank
from onnxmorph.plan import Change, Plan

__all__ = ["ActivatePlan", "check_activate", "plan_activate", "why_not_activate"]


def why_not_activate(layer: LinearLayer) -> Refusal | None:
    """Why the activation of ``layer`` cannot become parametric, or ``None`` when it can."""
    if layer.activation is None:
        return Refusal(
            f"{layer.name} has no activation of its own", way_out="name a layer that has one", code="no-activation"
        )
    return None


def check_activate(_model: ir.Model) -> Callable[[LinearLayer], Refusal | None]:
    """What says of a model's layers why they cannot be morphed so; see :func:`why_not_activate`."""
    return why_not_activate


def plan_activate(
    model: ir.Model, layer: str | LinearLayer | None = None, *, to: str | None = None, per_channel: bool = True
) -> list[ActivatePlan]:
    """Decide which activations become parametric; nothing is edited.

    Args:
        model: The parent.
        layer: What a person types; ``None`` for every layer that has an activation.
        to: Grow toward the activation of this name instead of toward the identity.
        per_channel: One ``a`` per channel rather than one for all.

    Returns:
        One plan per activation.

    Raises:
        SelectionError: No such layer or activation.
        Refusal: There is no activation to change, or its layer's weights are not finite.
    """
    found = layers(model)
    chosen = [layer] if isinstance(layer, LinearLayer) else found if layer is None else select(found, layer)
    if layer is not None and not chosen:
        raise SelectionError(f"no layer {layer!r}")
    goal = named(to) if to is not None else None
    plans = []
    seen: set[int] = set()
    for target in chosen:
        if (refusal := why_not_activate(target)) is not None:
            if len(chosen) == 1:
                raise refusal
            continue
        if target.blocked is None:
            target.kernel_array()
        phi = target.activation
        assert phi is not None
        if id(phi.output) in seen or (goal is not None and phi.name == goal.name):
            continue
        seen.add(id(phi.output))
        plans.append(ActivatePlan(target.key, target.name, phi.name, None if goal is None else goal.text, per_channel))
    if not plans:
        raise Refusal(
            "no layer has an activation to change"
            if goal is None
            else f"no layer has an activation other than {goal.text}",
            code="no-activation",
        )
    return plans


@dataclass(frozen=True)
class ActivatePlan(Plan):
    """One activation made parametric, decided.

    Attributes:
        layer: Key of the layer whose activation it is.
        name: The layer's name, for people.
        activation: The activation now.
        to: The activation it grows toward; ``None``: the identity.
        per_channel: One ``a`` per channel.
    """

    morph: ClassVar[str] = "activate"

    layer: str
    name: str
    activation: str
    to: str | None
    per_channel: bool

    def options(self) -> dict[str, Any]:
        """See :meth:`Plan.options`."""
        return {
            "layer": self.layer,
            "name": self.name,
            "activation": self.activation,
            "to": self.to,
            "per_channel": self.per_channel,
        }

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> ActivatePlan:
        """The plan that :meth:`options` came from."""
        return cls(*(options[name] for name in ("layer", "name", "activation", "to", "per_channel")))

    def describe(self) -> str:
        """See :meth:`Plan.describe`."""
        each = "per channel" if self.per_channel else "for all channels"
        if self.to is None:
            return f"{self.name}: {self.activation} becomes parametric, a = 0 {each}"
        return f"{self.name}: {self.activation} grows toward {self.to}, a = 1 {each}"

    def edit(self, child: ir.Model) -> Change:
        """See :meth:`Plan.edit`."""
        layer = next((found for found in layers(child) if found.key == self.layer), None)
        if layer is None or layer.activation is None:
            raise Refusal(f"the model has no layer {self.layer!r} with an activation", code="layer-gone")
        phi = layer.activation
        x, old = phi.input, phi.output
        assert x is not None and old is not None
        producer = old.producer()
        assert producer is not None
        per_channel = self.per_channel and not layer.layout_before_activation
        axis, rank = layer.output_axis, channel_rank(layer)
        build = Builder(child, layer.graph, after=producer)
        new = emit_parametric(
            build,
            phi if self.to is None else named(self.to),
            x,
            a=0.0 if self.to is None else 1.0,
            per_channel=per_channel,
            channels=layer.out_channels,
            channel_axis=axis,
            rank=rank,
            label=f"{layer.label}.act",
            dtype=layer.dtype,
            kept=None if self.to is None else old,
        )
        replace_uses(old, new, except_nodes=build.nodes)
        take_name(child, new, old)
        drop_unused(child, list(phi.nodes)[::-1])
        return Change((), 0.0, (new.name or "",), _notes(self, per_channel))


def _notes(plan: ActivatePlan, per_channel: bool) -> tuple[str, ...]:
    if plan.per_channel and not per_channel:
        return (f"{plan.name}: its activation sees another layout than the layer's, so one a serves all channels",)
    return ()
