"""The morphs: each decides a plan, says why not, and edits a clone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from onnxmorph.errors import ModelError, Refusal
from onnxmorph.graph.layers import LinearLayer
from onnxmorph.morphs.deepen import DeepenPlan, plan_deepen, why_not_deepen
from onnxmorph.plan import Plan

__all__ = ["MORPHS", "plan_deepen", "plan_from_record"]

MORPHS: Mapping[str, Callable[[LinearLayer], Refusal | None]] = {"deepen": why_not_deepen}
"""Per morph of single layers: why it cannot be done to a layer, or ``None``. What ``inspect`` shows."""

_PLANS: Mapping[str, Callable[[Mapping[str, Any]], Plan]] = {"deepen": DeepenPlan.from_options}


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
