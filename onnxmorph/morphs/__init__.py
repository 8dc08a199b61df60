"""The morphs: each decides a plan, says why not, and edits a clone.

A morph's module is imported when the morph is first asked for: one verb of the command line needs one of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from onnxmorph._on_use import names_on_use
from onnxmorph.errors import ModelError, Refusal

if TYPE_CHECKING:
    from onnxmorph._ir import ir
    from onnxmorph.graph.layers import LinearLayer
    from onnxmorph.morphs.activate import plan_activate
    from onnxmorph.morphs.deepen import plan_deepen
    from onnxmorph.morphs.duplicate import plan_duplicate
    from onnxmorph.morphs.fold import plan_fold
    from onnxmorph.morphs.kernel import plan_kernel
    from onnxmorph.morphs.shrink import plan_shrink
    from onnxmorph.morphs.skip import plan_skip
    from onnxmorph.morphs.subnet import plan_subnet
    from onnxmorph.morphs.widen import plan_widen
    from onnxmorph.plan import Plan

__all__ = [
    "MORPHS",
    "PLANNERS",
    "plan_activate",
    "plan_deepen",
    "plan_duplicate",
    "plan_fold",
    "plan_from_record",
    "plan_kernel",
    "plan_shrink",
    "plan_skip",
    "plan_subnet",
    "plan_widen",
]

Item = TypeVar("Item")

WhyNot = Callable[["LinearLayer"], Refusal | None]
"""Why a morph cannot be done to a layer, or ``None``."""


@dataclass(frozen=True)
class _Place:
    """Where a morph's parts are: a module of this package and names in it.

    Attributes:
        module: Module below this package.
        plan: The function that plans it, ``plan_...``.
        kind: Its plan's class.
        check: What says why not of one layer, from a model; ``None`` where the morph is not of single layers.
    """

    module: str
    plan: str
    kind: str
    check: str | None = None

    def load(self, name: str) -> Any:
        """A part of the morph's module."""
        return getattr(importlib.import_module(f"{__name__}.{self.module}"), name)


_PLACES = {
    "deepen": _Place("deepen", "plan_deepen", "DeepenPlan", "check_deepen"),
    "widen": _Place("widen", "plan_widen", "WidenPlan", "check_widen"),
    "shrink": _Place("shrink", "plan_shrink", "ShrinkPlan"),
    "kernel": _Place("kernel", "plan_kernel", "KernelPlan", "check_kernel"),
    "subnet": _Place("subnet", "plan_subnet", "SubnetPlan", "check_subnet"),
    "skip": _Place("skip", "plan_skip", "SkipPlan"),
    "duplicate": _Place("duplicate", "plan_duplicate", "DuplicatePlan"),
    "activate": _Place("activate", "plan_activate", "ActivatePlan", "check_activate"),
    "fold": _Place("fold", "plan_fold", "FoldPlan"),
}


class _Loaded(Mapping[str, Item], Generic[Item]):
    """A mapping whose values are imported when they are taken."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = dict(names)

    def __getitem__(self, morph: str) -> Item:
        part: Item = _PLACES[morph].load(self._names[morph])
        return part

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


MORPHS: Mapping[str, Callable[[ir.Model], WhyNot]] = _Loaded(
    {morph: place.check for morph, place in _PLACES.items() if place.check is not None}
)
"""Per morph of single layers: from a model to what says why not of its layers. What ``inspect`` shows."""

PLANNERS: Mapping[str, Callable[..., Plan | Sequence[Plan]]] = _Loaded(
    {morph: place.plan for morph, place in _PLACES.items() if morph != "skip"}
)
"""Per morph that can be done to one layer: from a model, a layer of it and options to plans. What recipes call."""


def plan_from_record(record: Mapping[str, Any]) -> Plan:
    """The plan that left ``record`` in a child's metadata, ready to be replayed on the parent.

    Raises:
        ModelError: The record names no morph this version has, or lacks what the morph needs.
    """
    morph = str(record.get("morph"))
    if morph not in _PLACES:
        raise ModelError(f"the record names a morph {morph!r} that this version does not have")
    place = _PLACES[morph]
    try:
        plan: Plan = place.load(place.kind).from_options(record)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the record of a {morph} is incomplete: {error}") from error
    return plan


__getattr__, __dir__ = names_on_use(__name__, {place.module: (place.plan,) for place in _PLACES.values()})
