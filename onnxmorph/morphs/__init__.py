"""The morphs: each decides a plan, says why not, and edits a clone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnxmorph._ir import ir
from onnxmorph.errors import ModelError, Refusal
from onnxmorph.graph.layers import LinearLayer
from onnxmorph.morphs.activate import ActivatePlan, plan_activate, why_not_activate
from onnxmorph.morphs.deepen import DeepenPlan, plan_deepen, why_not_deepen
from onnxmorph.morphs.kernel import KernelPlan, plan_kernel, why_not_kernel
from onnxmorph.morphs.skip import SkipPlan, plan_skip
from onnxmorph.morphs.subnet import SubnetPlan, plan_subnet, why_not_subnet
from onnxmorph.morphs.widen import WidenPlan, coupled_groups, plan_widen, why_not_widen
from onnxmorph.plan import Plan

__all__ = [
    "MORPHS",
    "PLANNERS",
    "plan_activate",
    "plan_deepen",
    "plan_from_record",
    "plan_kernel",
    "plan_skip",
    "plan_subnet",
    "plan_widen",
]

WhyNot = Callable[[LinearLayer], Refusal | None]
"""Why a morph cannot be done to a layer, or ``None``."""


def _widen_check(model: ir.Model) -> WhyNot:
    table = coupled_groups(model)
    return lambda layer: why_not_widen(layer, table)


MORPHS: Mapping[str, Callable[[ir.Model], WhyNot]] = {
    "deepen": lambda _: why_not_deepen,
    "widen": _widen_check,
    "kernel": lambda _: why_not_kernel,
    "subnet": lambda _: why_not_subnet,
    "activate": lambda _: why_not_activate,
}
"""Per morph of single layers: from a model to what says why not of its layers. What ``inspect`` shows."""

PLANNERS: Mapping[str, Callable[..., Plan | Sequence[Plan]]] = {
    "deepen": plan_deepen,
    "widen": plan_widen,
    "kernel": plan_kernel,
    "subnet": plan_subnet,
    "activate": plan_activate,
}
"""Per morph: from a model, a layer of it and options to plans. What recipes call."""

_PLANS: Mapping[str, Callable[[Mapping[str, Any]], Plan]] = {
    "deepen": DeepenPlan.from_options,
    "widen": WidenPlan.from_options,
    "kernel": KernelPlan.from_options,
    "subnet": SubnetPlan.from_options,
    "skip": SkipPlan.from_options,
    "activate": ActivatePlan.from_options,
}


def plan_from_record(record: Mapping[str, Any]) -> Plan:
    """The plan that left ``record`` in a child's metadata, ready to be replayed on the parent.

    Raises:
        ModelError: The record names no morph this version has, or lacks what the morph needs.
    """
    morph = record.get("morph")
    if morph not in _PLANS:
        raise ModelError(f"the record names a morph {morph!r} that this version does not have")
    try:
        return _PLANS[str(morph)](record)
    except (KeyError, TypeError) as error:
        raise ModelError(f"the record of a {morph} is incomplete: {error}") from error
