"""Channels that nothing reads, that are zero, or that compute what another one computes: one index map drops them.

A channel is one index of a coupled group of axes (:mod:`onnxmorph.graph.axes`), so everything that holds it goes
together: rows, biases, statistics, slopes, columns.

* *Constant*: see :mod:`onnxmorph.morphs.folds.constant_channels`; counted as dead.
* *Dead*: every tensor that reads it holds zeros there; or everything that feeds it is zero, and what stands between
  takes zero to zero.
* *Duplicate*: every tensor that feeds it, or has a parameter for it, is for two channels the same to the last bit. They
  then hold the same numbers on every run, and what reads them is added up: the inverse of Net2Net's replication, and of
  pairs of opposite sign, whose sum is zero.

Operators that reduce over the axis see how many channels there are: dead ones stay there, zero ones go where sums are
taken, duplicates go where a mean or an extreme is taken over channels that are all there equally often.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from onnxmorph._ir import ir
from onnxmorph.errors import Refusal
from onnxmorph.graph.axes import AxisEdit, Group, IndexMap, Member
from onnxmorph.graph.axes import apply as rewrite
from onnxmorph.graph.constants import stored
from onnxmorph.graph.scopes import subgraphs
from onnxmorph.morphs.folds.constant_channels import Constants, constants_of
from onnxmorph.morphs.folds.finding import Array, Edited, Finding, Rule, View, attempt, rename_between
from onnxmorph.morphs.folds.parameters import set_bias
from onnxmorph.morphs.zeros import first_not_zero

__all__ = ["DeadRule", "DuplicateRule"]

Indices = NDArray[np.int64]

_ZEROS = frozenset({"sum", "l1", "l2", "bilinear"})
"""Reductions that exact zeros leave as they are."""

_EXTREMES = frozenset({"max", "min"})
"""Reductions that copies leave as they are."""

_EVENLY = frozenset({"layernorm", "rmsnorm", "mean"}) | _EXTREMES
"""Reductions that equally many copies of every channel leave as they are."""

_NEUTRAL_ROLES = frozenset({"variance", "scale", "quantisation", "slope"})
"""Parameters that a channel of zeros may have as it likes."""

_RANDOM = ("Random", "Multinomial", "Bernoulli")


@dataclass(frozen=True, eq=False)
class _Drop:
    """Which channels of a group stay, and for every one of the group the one that stands for it (-1: none)."""

    group: Group
    kept: Indices
    stands_for: Indices
    constants: Constants | None = None


class _ChannelRule(Rule):
    """What both kinds share: groups of one analysis change together."""

    def __init__(self) -> None:
        self._drops: dict[Finding, _Drop] = {}

    def carry_out(self, view: View, findings: Sequence[Finding]) -> Edited:
        """See :meth:`Rule.carry_out`; one edit for all groups, since they are of one analysis."""
        drops = [self._drops[finding] for finding in findings]
        maps = {drop.group: IndexMap.keep(drop.group.size, drop.kept) for drop in drops}
        frontier = tuple(name for drop in drops for name in _frontier(drop.group))
        rewrite(view.model, maps, _added({drop.group: drop for drop in drops}))
        made = [node for drop in drops for node in _into_biases(view, drop)]
        index_maps = {finding.place: maps[drop.group].to_json() for finding, drop in zip(findings, drops, strict=True)}
        return Edited(frontier, tuple(made), (), index_maps)

    def _finding(self, view: View, drop: _Drop, what: str) -> Finding | None:
        named = _where(view, drop.group)
        if named is None:
            return None
        place, name = named
        lost = drop.group.size - drop.kept.size
        text = f"{name}: {lost} of {drop.group.size} channels {what}"
        axes = {(member.value, member.axis) for member in drop.group.stored}
        users = {node for member in drop.group.members for node in member.value.consumers()}
        finding = Finding(
            place, text, frozenset[object](axes), lambda: self._alone(view, drop), frozenset[object](users)
        )
        self._drops[finding] = drop
        return finding

    def _alone(self, view: View, drop: _Drop) -> Edited:
        rewrite(view.model, {drop.group: IndexMap.keep(drop.group.size, drop.kept)}, _added({drop.group: drop}))
        return Edited(_frontier(drop.group), _into_biases(view, drop))


class DeadRule(_ChannelRule):
    """Channels that nothing reads, and channels of zeros."""

    kind = "dead"

    def find(self, view: View) -> Iterator[Finding]:
        """See :meth:`Rule.find`."""
        found = list(self._without_effect(view))
        # A constant changes biases, which other groups hold: one at a time, and only when nothing else is left.
        yield from found or islice(self._constant(view), 1)

    def _constant(self, view: View) -> Iterator[Finding]:
        for group in view.table.all():
            members = _members(group)
            fed_zeros = None if members is None else _fed_zeros(group, members)
            if members is None or fed_zeros is None or not fed_zeros.any():
                continue
            constants = attempt(
                lambda group=group, members=members, fed_zeros=fed_zeros: (  # type: ignore[misc]
                    constants_of(view, group, members, fed_zeros)
                )
            )
            if constants is None:
                continue
            kept = np.flatnonzero(~constants.channels)
            if not kept.size:
                continue
            stands_for = np.full(group.size, -1)
            stands_for[kept] = kept
            what = "are constant: into the next bias"
            finding = self._finding(view, _Drop(group, kept, stands_for, constants), what)
            if finding is not None:
                yield finding

    def _without_effect(self, view: View) -> Iterator[Finding]:
        for group in view.table.all():
            members = _members(group)
            if members is None:
                continue
            unread = _unread(group, members)
            zero = _always_zero(group, members)
            if not (unread | zero).any():
                continue
            kept = np.flatnonzero(~(unread | zero))
            if not kept.size:
                kept = np.arange(1)  # an axis keeps one channel
            if kept.size == group.size:
                continue
            stands_for = np.full(group.size, -1)
            stands_for[kept] = kept
            what = "are zero" if not unread.any() else "are zero or read by nothing" if zero.any() else "are not read"
            found = self._finding(view, _Drop(group, kept, stands_for), what)
            if found is not None:
                yield found


class DuplicateRule(_ChannelRule):
    """Channels that hold what another channel holds."""

    kind = "duplicate"

    def find(self, view: View) -> Iterator[Finding]:
        """See :meth:`Rule.find`."""
        for group in view.table.all():
            members = _members(group)
            if members is None or not _made_from_members(group):
                continue
            if any("contracted" in member.roles and len(member.roles) > 1 for member in members):
                continue  # tied: what feeds the channels is what reads them
            alike = _alike(group, members)
            if alike is None:
                continue
            kept = np.unique(alike)
            counts = np.bincount(alike, minlength=group.size)[kept]
            kinds = {condition.kind for condition in group.conditions}
            evenly = bool(np.all(counts == counts[0])) and _fills_its_axes(group)
            if any(condition.order for condition in group.conditions) or not kinds <= (
                _EVENLY if evenly else _EXTREMES
            ):
                continue
            found = self._finding(view, _Drop(group, kept, alike), "hold what another one holds")
            if found is not None:
                yield found


# -- what a group is made of -----------------------------------------------------------------------------------------


def _members(group: Group) -> list[Member] | None:
    """The stored tensors of a group that may lose channels; ``None`` where it may not, or holds what is quantised."""
    if group.size < 2 or group.refusal() is not None:
        return None
    members = list(group.stored)
    for member in members:
        tensor = stored(member.value)
        if tensor is None or not tensor.dtype.is_floating_point():
            return None
    return members if any("contracted" in member.roles for member in members) else None


def _fills_its_axes(group: Group) -> bool:
    """Whether no computed axis holds other channels beside the group's, which a mean would weigh against them."""
    factors = group.coupled.factors
    return all(
        member.is_stored or bool(np.all(factors.coordinate(member.expr, group.atom) >= 0)) for member in group.members
    )


def _slices(group: Group, member: Member) -> Array:
    """``(channels, ...)``: what a stored tensor holds for every channel of a group."""
    tensor = stored(member.value)
    assert tensor is not None
    front = np.moveaxis(tensor.numpy(), member.axis, 0)
    places = group.coupled.factors.coordinate(member.expr, group.atom)
    if places.size == group.size and bool(np.all(places == np.arange(group.size))):
        return front.reshape(group.size, -1)
    held = np.flatnonzero(places >= 0)
    order = held[np.argsort(places[held], kind="stable")]
    return front[order].reshape(group.size, -1)


def _unread(group: Group, members: Sequence[Member]) -> NDArray[np.bool_]:
    """Channels that meet zeros wherever they are read."""
    dead = np.ones(group.size, dtype=bool)
    if group.conditions:
        return ~dead
    for member in members:
        if "contracted" not in member.roles:
            continue
        dead &= ~np.any(_slices(group, member), axis=1)
        if not dead.any():
            break
    return dead


def _always_zero(group: Group, members: Sequence[Member]) -> NDArray[np.bool_]:
    """Channels that are fed zeros and stay zero until they are read."""
    zero = np.ones(group.size, dtype=bool)
    feeding = [member for member in members if member.roles != {"contracted"}]
    if not any("produced" in member.roles for member in feeding):
        return ~zero
    if any(condition.kind not in _ZEROS for condition in group.conditions):
        return ~zero
    for member in sorted(feeding, key=_numbers):
        if member.roles and member.roles <= _NEUTRAL_ROLES:
            continue
        zero &= ~np.any(_slices(group, member), axis=1)
        if not zero.any():
            return zero
    return zero if first_not_zero(group) is None else ~np.ones(group.size, dtype=bool)


def _fed_zeros(group: Group, members: Sequence[Member]) -> NDArray[np.bool_]:
    """Channels whose every row is zero, whatever their bias."""
    zero = np.ones(group.size, dtype=bool)
    rows = [member for member in members if "produced" in member.roles]
    for member in rows:
        zero &= ~np.any(_slices(group, member), axis=1)
        if not zero.any():
            break
    return zero if rows else ~zero


def _into_biases(view: View, drop: _Drop) -> tuple[ir.Node, ...]:
    """What constant channels gave goes into the biases of the layers that read them."""
    made: list[ir.Node] = []
    for layer, bias in drop.constants.biases if drop.constants is not None else ():
        made += set_bias(view.model, layer, bias) if layer.bias is not None or np.any(bias) else ()
        rename_between(view.model, layer.node.outputs[0], layer.output.name or "")
    return tuple(made)


def _alike(group: Group, members: Sequence[Member]) -> Indices | None:
    """For every channel the first one that is fed the same, bit by bit; ``None`` where all differ."""
    label = np.zeros(group.size, dtype=np.int64)
    feeding = [member for member in members if "contracted" not in member.roles]
    if not any(member.roles & {"produced", "embedding"} for member in feeding):
        return None
    for member in sorted(feeding, key=_numbers):
        rows = np.ascontiguousarray(_slices(group, member))
        seen: dict[tuple[int, bytes], int] = {}
        label = np.array(
            [seen.setdefault((int(label[channel]), rows[channel].tobytes()), channel) for channel in range(group.size)]
        )
        if len(seen) == group.size:
            return None
    return label


def _numbers(member: Member) -> int:
    tensor = stored(member.value)
    return 0 if tensor is None else int(tensor.size)


def _made_from_members(group: Group) -> bool:
    """Whether every node that makes channels makes them from channels and their tensors, and none draws numbers."""
    holds = {member.value for member in group.members}
    for member in group.members:
        node = member.value.producer()
        if member.is_stored:
            continue
        if node is None:
            if member.value.is_graph_input():
                continue  # of a body or a function: what enters there is a member outside
            return False
        if node.op_type.startswith(_RANDOM):
            return False
        if not any(value in holds for value in node.inputs) and not _made_inside(group, node, member.value, holds):
            return False
    return True


def _made_inside(group: Group, node: ir.Node, value: ir.Value, holds: Collection[ir.Value]) -> bool:
    """Whether a value comes out of a function or of the branches of an If, where its channels are members too."""
    place = list(node.outputs).index(value)
    function = group.coupled.model.functions.get(node.op_identifier())
    if function is not None:
        return function.outputs[place] in holds
    bodies = [body for _, body in subgraphs(node)]
    return node.op_type == "If" and bool(bodies) and all(body.outputs[place] in holds for body in bodies)


def _where(view: View, group: Group) -> tuple[str, str] | None:
    """How a record names a group, and a person: by the first value that holds it and the layer that makes that."""
    first = next((member for member in group.members if not member.is_stored and member.value.name), None)
    if first is None:
        return None
    spot = "" if group.coupled.factors.size(first.expr) == group.size else f" at {first.placements[0]}"
    place = f"{view.place(first.value)} axis {first.axis}{spot}"
    maker = first.value.producer()
    return place, (maker.name if maker is not None and maker.name else first.value.name) or ""


def _frontier(group: Group) -> tuple[str, ...]:
    """Values computed from the group's channels that do not hold them: they keep shape and meaning."""
    holds = {member.value for member in group.members}
    found: dict[str, None] = {}
    for member in group.members:
        if member.is_stored:
            continue
        for node in member.value.consumers():
            found.update((output.name, None) for output in node.outputs if output not in holds and output.name)
    return tuple(found)


def _added(drops: Mapping[Group, _Drop]) -> _Fill:
    return _Fill(drops)


class _Fill:
    """What reads a channel that stands for several reads their sum."""

    def __init__(self, drops: Mapping[Group, _Drop]) -> None:
        self._drops = drops

    def __call__(self, edit: AxisEdit) -> None:
        """Add what the dropped channels were read with; called for every axis of every tensor."""
        for group, roles in edit.roles_of.items():
            drop = self._drops[group]
            merged = np.flatnonzero((drop.stands_for >= 0) & (drop.stands_for != np.arange(group.size)))
            if "contracted" not in roles or not merged.size:
                continue
            if len(edit.roles_of) > 1:
                raise Refusal(f"'{edit.member.value.name}' reads two groups that both change", code="fold-overlap")
            before = group.coupled.factors.coordinate(edit.member.expr, group.atom)
            front = edit.front()
            parent = np.moveaxis(edit.parent, edit.axis, 0)
            place_of = {int(channel): place for place, channel in enumerate(drop.kept)}
            total = front.astype(np.float64)
            for channel in merged.tolist():
                here = np.flatnonzero(edit.coordinates[group] == place_of[int(drop.stands_for[channel])])
                total[here] += parent[np.flatnonzero(before == channel)].astype(np.float64)
            with np.errstate(over="ignore"):
                summed = total.astype(front.dtype)
            if not bool(np.isfinite(summed.astype(np.float64)).all()):
                raise Refusal(f"'{edit.member.value.name}' cannot hold the sum of its columns", code="fold-range")
            front[...] = summed
