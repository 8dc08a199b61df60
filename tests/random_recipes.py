"""Random morphs, one after the other: what the tests of random recipes draw and carry out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.errors import Refusal
from onnxmorph.graph.layers import LinearLayer, layers
from onnxmorph.morphs import (
    plan_activate,
    plan_deepen,
    plan_duplicate,
    plan_kernel,
    plan_skip,
    plan_subnet,
    plan_widen,
)
from onnxmorph.morphs.template import TemplateError
from onnxmorph.plan import Child, Plan, apply

__all__ = ["KINDS", "Draw", "carried_out", "draws"]

Planner = Callable[[ir.Model, LinearLayer, "Draw"], "Plan | Sequence[Plan]"]


@dataclass(frozen=True)
class Draw:
    """One step: a morph of :data:`KINDS`, the layer at a share of all, and numbers that choose its options."""

    kind: str
    place: float
    option: int
    seed: int


def _subnet(model: ir.Model, layer: LinearLayer, draw: Draw) -> Plan:
    size = "x".join(map(str, layer.kernel)) or "1"
    out = layer.out_channels
    templates = (
        f"({size}:{4 * out})(1:{out})",
        f"({size}:{2 * out + 2},bn)(1:{out})",
        f"({size}:{4 * out})(1:{out})|({size}:{out})",
        f"({size}:{4 * out},netmorph)(1:{4 * out},mirror)(1:{out})",
    )
    return plan_subnet(model, layer, template=templates[draw.option % len(templates)], seed=draw.seed)


def _skip(model: ir.Model, layer: LinearLayer, draw: Draw) -> Plan:
    found = layers(model)
    source = found[draw.option % len(found)]
    if source.index == layer.index:
        raise Refusal("a layer cannot skip to itself")
    return plan_skip(model, source=source, target=layer, mode=("add", "concat")[draw.seed % 2])


def _deepen(method: str, **options: Any) -> Planner:
    def plan(model: ir.Model, layer: LinearLayer, draw: Draw) -> Plan:
        kernel = (None, 1, 3)[draw.option % 3] if layer.kernel else None
        return plan_deepen(model, layer, method=method, kernel=kernel, seed=draw.seed, **options)

    return plan


def _widen(fill: str | None) -> Planner:
    def plan(model: ir.Model, layer: LinearLayer, draw: Draw) -> Plan:
        return plan_widen(model, layer, by=(1.25, 1.5, 2)[draw.option % 3], fill=fill, seed=draw.seed)

    return plan


KINDS: dict[str, Planner] = {
    "deepen auto": _deepen("auto"),
    "deepen mirror": _deepen("mirror", activation="relu"),
    "deepen netmorph": _deepen("netmorph"),
    "deepen identity": _deepen("identity"),
    "deepen residual": _deepen("residual"),
    "widen": _widen(None),
    "widen zero-in": _widen("zero-in"),
    "widen replicate": _widen("replicate"),
    "widen pair": _widen("pair"),
    "kernel": lambda model, layer, draw: plan_kernel(
        model, layer, to=[size + (1, 2, 4)[draw.option % 3] for size in layer.kernel] or 3
    ),
    "subnet": _subnet,
    "skip": _skip,
    "duplicate": lambda model, layer, draw: plan_duplicate(model, layer, times=1 + draw.option % 2),
    "activate": lambda model, layer, draw: plan_activate(
        model, layer, to=(None, "gelu", "tanh")[draw.option % 3], per_channel=draw.seed % 2 == 0
    ),
}


def draws(least: int, most: int) -> st.SearchStrategy[list[Draw]]:
    """Lists of so many steps."""
    one = st.builds(
        Draw,
        st.sampled_from(sorted(KINDS)),
        st.integers(0, 99).map(lambda share: share / 100),
        st.integers(0, 11),
        st.integers(0, 7),
    )
    return st.lists(one, min_size=least, max_size=most)


def carried_out(parent: ir.Model, steps: Sequence[Draw], *, most_numbers: int = 4_000_000) -> tuple[Child, list[str]]:
    """The child of all steps that are not refused, and what became of each step.

    Args:
        parent: Stays as it is.
        steps: A step whose layer is gone, or that refuses, is passed over.
        most_numbers: Layers with more numbers than this are passed over, so that a test ends.
    """
    child, told = Child(files.clone(parent), ()), []
    for step in steps:
        found = layers(child.model)
        if not found:
            break
        layer = found[int(step.place * len(found))]
        what = f"{step.kind} of {layer.name} (option {step.option}, seed {step.seed})"
        if layer.out_channels * layer.in_channels > most_numbers:
            continue
        try:
            made = KINDS[step.kind](child.model, layer, step)
            plans = [made] if isinstance(made, Plan) else list(made)
            grown = apply(child.model, plans)
        except (Refusal, TemplateError) as refusal:
            told.append(f"{what}: refused: {refusal}")
            continue
        child = child.then(grown)
        told += [plan.describe() for plan in plans]
    return child, told
