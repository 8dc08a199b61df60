"""Fewer channels: the inverse of widening, by one index map on a coupled group of axes.

Channels go in this order: those without effect (zero, or read by nothing), then all but one of those that hold the
same (what read them is added up), then constant ones (into the next biases). As long as only such go, the child
computes what the parent does. Beyond that shrinking is no morphism: on request the channels go whose fan-in norm times
fan-out norm is smallest, and the plan, the record and the certificate say that the result is another function.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxmorph._ir import ir
from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.graph.axes import Group, GroupTable, IndexMap, decompose, resize
from onnxmorph.graph.layers import LinearLayer
from onnxmorph.morphs.calls import fixed_width, merge_copies, own_copies, with_own_copies
from onnxmorph.morphs.folds.channels import Droppable, drop_channels, droppable, magnitudes
from onnxmorph.morphs.folds.finding import View
from onnxmorph.morphs.natural_units import resize_naturally, unit_of
from onnxmorph.morphs.parent_order import added_channels, in_parents_order
from onnxmorph.morphs.target import find_layer, layer_by_key, size_on_axis
from onnxmorph.plan import Change, Plan

__all__ = ["ShrinkPlan", "plan_shrink"]

Indices = NDArray[np.int64]

_HAS_EFFECT = 3
"""Rank of channels that cannot go exactly: behind those without effect, copies, and constant ones."""


def plan_shrink(
    model: ir.Model,
    layer: str | LinearLayer,
    *,
    to: int | None = None,
    by: float | str | None = None,
    keep: Sequence[int] | None = None,
    drop: Sequence[int] | None = None,
    inexact: bool = False,
) -> ShrinkPlan:
    """Decide which outputs of ``layer``, and all that is coupled with them, go; nothing is edited.

    Args:
        model: The parent.
        layer: What a person types, or a layer of ``model``.
        to: Output channels of the child.
        by: Or a factor below 1, such as 0.75: the next size from there up that the group's constraints allow.
        keep: Or the channels that stay, counted from 0.
        drop: Or those that go.
        inexact: Also where the child then computes something else.

    Raises:
        SelectionError: No such layer, size or channel.
        Refusal: A size cannot be met, with the nearest that can; or it is not exact, and ``inexact`` was not given.
    """
    target = find_layer(model, layer)
    if (fixed := fixed_width(target)) is not None:
        raise fixed
    if sum(option is not None for option in (to, by, keep, drop)) != 1:
        raise SelectionError("give one of --to, --by, --keep and --drop")
    model, target = with_own_copies(model, target)
    view = View(model)
    size = _size(view.table, target)
    if keep is not None or drop is not None:
        kept = _listed(size, keep, drop)
        maps = decompose(view.table, target.output, target.output_axis, IndexMap.keep(size, kept))
        chosen = {group: (index_map.sources, droppable(view, group)) for group, index_map in maps.items()}
        kept = _axis_indices(
            view.table,
            target,
            {group: in_parents_order(model, group, index_map.sources) for group, index_map in maps.items()},
        )
        unit = ""
    else:
        wanted = _wanted(size, None if to is None else size_on_axis(target, size, to), by)
        group, new, known = _choose(view, target, wanted, exact_size=by is None)
        kept_of_group = in_parents_order(model, group, _kept(model, group, new, known))
        kept = _axis_indices(view.table, target, {group: kept_of_group})
        chosen = {group: (kept_of_group, known)}
        unit = unit_of(group, new, target)
    if len(kept) == size:
        raise Refusal(f"{target.name} would keep all its {size} outputs", code="not-narrower")
    lost = _Lost.of(chosen)
    if lost.missed and not inexact:
        least = _least(view, target)
        raise Refusal(
            f"{lost.missed} of the channels of {target.name} that would go have an effect, so that the child would "
            "compute something else",
            way_out=(f"exact down to {least}, " if least < size else "") + "--inexact drops them all the same",
            code="not-exact",
        )
    return ShrinkPlan(
        target.key, target.name, size, tuple(int(one) for one in kept), not lost.missed, lost.text(), unit
    )


@dataclass(frozen=True)
class ShrinkPlan(Plan):
    """One axis made narrower, decided.

    Attributes:
        layer: Key of the layer whose output shrinks.
        name: The layer's name, for people.
        before: Outputs of the parent.
        keep: The outputs that stay, in order.
        exact: Whether the child computes what the parent does.
        what: What goes, in words.
        unit: What of the axis shrinks, where the axis is more than channels.
    """

    morph: ClassVar[str] = "shrink"

    layer: str
    name: str
    before: int
    keep: tuple[int, ...]
    exact: bool
    what: str
    unit: str = ""

    @property
    def is_morph(self) -> bool:
        """See :attr:`Plan.is_morph`."""
        return self.exact

    def options(self) -> dict[str, Any]:
        """See :meth:`Plan.options`."""
        return {**vars(self), "keep": list(self.keep)}

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> ShrinkPlan:
        """The plan that :meth:`options` came from."""
        fields = {name: options[name] for name in cls.__dataclass_fields__ if name != "morph"}
        return cls(**{**fields, "keep": tuple(int(one) for one in options["keep"])})

    def describe(self) -> str:
        """See :meth:`Plan.describe`."""
        unit = f" ({self.unit})" if self.unit else ""
        exact = "exact" if self.exact else "NOT exact: the child computes something else"
        sizes = f"from {self.before} to {len(self.keep)} channels{unit}"
        return f"{self.name}: shrink the output {sizes}, {exact}; {self.what}"

    def edit(self, child: ir.Model) -> Change:
        """See :meth:`Plan.edit`."""
        twins = own_copies(child, layer_by_key(child, self.layer))
        view = View(child)
        layer = next((one for one in view.layers if one.key == self.layer), None) or layer_by_key(child, self.layer)
        size = _size(view.table, layer)
        if size != self.before:
            raise Refusal(f"{self.name} has {size} outputs, not {self.before}", code="layer-changed")
        maps = decompose(view.table, layer.output, layer.output_axis, IndexMap.keep(size, list(self.keep)))
        known = {group: droppable(view, group) for group in maps}
        lost = _Lost.of({group: (index_map.sources, known[group]) for group, index_map in maps.items()})
        if self.exact and lost.missed:
            raise Refusal(f"channels of {self.name} that would go have an effect here", code="not-exact")
        kept = {group: one.sources for group, one in maps.items()}
        stands_for = {group: _stand_ins(kept[group], known[group]) for group in maps}
        constant = {group: _constant(kept[group], known[group]) for group in maps}
        edited = drop_channels(view, kept, stands_for, constant)
        merge_copies(child, twins)
        notes = () if self.exact else (f"{self.name}: not a morphism, the child computes something else",)
        return Change((), 0.0, edited.frontier, notes, edited.index_maps, edited.resized)


@dataclass(frozen=True)
class _Lost:
    """How many channels go, by what makes that exact; ``missed`` have an effect."""

    without_effect: int
    doubles: int
    constant: int
    missed: int

    @classmethod
    def of(cls, chosen: Mapping[Group, tuple[Indices, Droppable]]) -> _Lost:
        counts = np.zeros(4, dtype=int)
        for group, (kept, known) in chosen.items():
            gone = np.setdiff1d(np.arange(group.size), kept)
            stand_ins = _stand_ins(kept, known)
            free = known.without_effect[gone]
            double = ~free & (stand_ins[gone] >= 0)
            constant = _constant(kept, known)[gone]
            counts += [free.sum(), double.sum(), constant.sum(), (~free & ~double & ~constant).sum()]
        return cls(*counts.tolist())

    def text(self) -> str:
        words = (
            (self.without_effect, "without effect"),
            (self.doubles, "that others double"),
            (self.constant, "that are constant"),
            (self.missed, "that have an effect"),
        )
        return "what goes: " + ", ".join(f"{count} {what}" for count, what in words if count)


def _stand_ins(kept: Indices, known: Droppable) -> Indices:
    """Per channel the kept one that holds the same, itself where it stays; -1 for none, and where none is needed."""
    size = known.alike.size
    out = np.full(size, -1, dtype=np.int64)
    of_class: dict[int, int] = {}
    for channel in kept.tolist():
        of_class.setdefault(int(known.alike[channel]), channel)
        out[channel] = channel
    for channel in np.setdiff1d(np.arange(size), kept).tolist():
        if not known.without_effect[channel]:
            out[channel] = of_class.get(int(known.alike[channel]), -1)
    return out


def _constant(kept: Indices, known: Droppable) -> NDArray[np.bool_]:
    """The channels that go into the next biases: constant, not without effect, and doubled by none that stays."""
    gone = np.ones(known.constant.size, dtype=bool)
    gone[kept] = False
    return gone & known.constant & ~known.without_effect & (_stand_ins(kept, known) < 0)


def _kept(model: ir.Model, group: Group, new: int, known: Droppable) -> Indices:
    """The channels that stay when ``new`` do: those that can go exactly go first, then the smallest."""
    order = _in_order(model, group, known)
    return np.sort(order[group.size - new :])


def _in_order(model: ir.Model, group: Group, known: Droppable) -> Indices:
    """All channels, those first that should go first."""
    rank = np.full(group.size, _HAS_EFFECT)
    seen: set[int] = set()
    for channel in range(group.size):
        if known.without_effect[channel]:
            rank[channel] = 0
        elif int(known.alike[channel]) in seen:
            rank[channel] = 1
        elif known.constant[channel]:
            rank[channel] = 2
        else:
            seen.add(int(known.alike[channel]))
    # Channels that can go exactly and were not the parent's go before those of its own that it does nothing with.
    stays = (rank == _HAS_EFFECT) | ~added_channels(model, group)
    return np.lexsort((np.arange(group.size), magnitudes(group), rank, stays)).astype(np.int64)


def _exact_count(model: ir.Model, group: Group, known: Droppable) -> int:
    """How many channels can go exactly; one always stays. Under a mean over channels, copies go all or not at all."""
    order = _in_order(model, group, known)
    for count in range(min(group.size - 1, len(order)), 0, -1):
        if not _Lost.of({group: (np.sort(order[count:]), known)}).missed:
            return count
    return 0


def _choose(view: View, layer: LinearLayer, wanted: int, *, exact_size: bool) -> tuple[Group, int, Droppable]:
    """The group and its new size for an axis of ``wanted`` outputs: one that can exactly, if there is."""
    table, size = view.table, _size(view.table, layer)
    for to in range(wanted, wanted + 1 if exact_size else size):
        for group in table.of_axis(layer.output, layer.output_axis):
            if group.refusal() is not None:
                continue
            try:
                _, new = resize(table, layer.output, layer.output_axis, to, among=(group,))
            except Refusal:
                continue
            known = droppable(view, group)
            if group.size - new <= _exact_count(view.model, group, known):
                return group, new, known
        try:
            group, new = resize_naturally(table, layer, to)
        except Refusal as refusal:
            if refusal.code != "size-step" or exact_size:
                raise
            continue
        return group, new, droppable(view, group)
    raise Refusal(f"{layer.name} has no size between {wanted} and {size}", code="size-step")


def _least(view: View, layer: LinearLayer) -> int:
    """The fewest outputs the layer can exactly have."""
    table, size = view.table, _size(view.table, layer)
    axes = table.coupled.axes(layer.output)
    assert axes is not None
    least = size
    for group in table.of_axis(layer.output, layer.output_axis):
        if group.refusal() is None:
            count = _exact_count(view.model, group, droppable(view, group))
            now = table.coupled.factors.size(axes[layer.output_axis], {group.atom: group.size - count})
            least = min(least, size if now is None else now)
    return least


def _axis_indices(table: GroupTable, layer: LinearLayer, kept: Mapping[Group, Indices]) -> list[int]:
    axes = table.coupled.axes(layer.output)
    assert axes is not None
    return [
        int(place)
        for place in table.coupled.factors.gather(
            axes[layer.output_axis], {group.atom: one for group, one in kept.items()}
        )
    ]


def _size(table: GroupTable, layer: LinearLayer) -> int:
    axes = table.coupled.axes(layer.output)
    size = None if axes is None else table.coupled.factors.size(axes[layer.output_axis])
    if size is None:
        raise Refusal(f"the width of {layer.name} is not known before a run", code="unknown-size")
    return size


def _wanted(size: int, to: int | None, by: float | str | None) -> int:
    if to is not None:
        if to >= size:
            raise Refusal(f"{to} is not less than {size}", way_out="to add channels, widen", code="not-narrower")
        if to < 1:
            raise SelectionError(f"no size {to}: at least 1 channel stays")
        return to
    try:
        factor = float(str(by).removeprefix("x"))
    except ValueError:
        factor = math.nan
    if not 0 < factor < 1:
        raise SelectionError(f"no factor {by!r}: give a number between 0 and 1, such as 0.75")
    return max(1, math.ceil(size * factor - 1e-9))


def _listed(size: int, keep: Sequence[int] | None, gone: Sequence[int] | None) -> list[int]:
    listed = [int(one) for one in (keep if keep is not None else gone or ())]
    wrong = next((one for one in listed if not 0 <= one < size), None)
    if wrong is not None:
        raise SelectionError(f"no channel {wrong}: they are numbered from 0 to {size - 1}")
    kept = sorted(set(listed)) if keep is not None else sorted(set(range(size)) - set(listed))
    if not kept:
        raise SelectionError("at least 1 channel stays")
    return kept
