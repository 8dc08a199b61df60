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
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from onnxmorph._ir import ir
from onnxmorph.errors import Refusal
from onnxmorph.graph.axes import AxisEdit, Group, IndexMap, Member
from onnxmorph.graph.axes import apply as rewrite
from onnxmorph.graph.constants import stored
from onnxmorph.graph.recurrent import RECURRENCE, is_recurrent
from onnxmorph.graph.scopes import subgraphs
from onnxmorph.morphs.folds.constant_channels import Constants, constants_of, numbers_of
from onnxmorph.morphs.folds.finding import Array, Edited, Finding, Rule, View, attempt, rename_between
from onnxmorph.morphs.folds.parameters import set_bias
from onnxmorph.morphs.index_maps import TensorMaps
from onnxmorph.morphs.parent_order import in_parents_order
from onnxmorph.morphs.zeros import first_not_zero

__all__ = ["DeadRule", "Droppable", "DuplicateRule", "drop_channels", "droppable", "magnitudes"]

Indices = NDArray[np.int64]

_ZEROS = frozenset({"sum", "l1", "l2", "bilinear"})
"""Reductions that exact zeros leave as they are."""

_EXTREMES = frozenset({"max", "min"})
"""Reductions that copies leave as they are."""

_EVENLY = frozenset({"layernorm", "rmsnorm", "mean"}) | _EXTREMES
"""Reductions that equally many copies of every channel leave as they are."""

_NEUTRAL_ROLES = frozenset({"variance", "scale", "quantisation", "slope"})
"""Parameters that a channel of zeros may have as it likes."""

_SPREAD = frozenset({"ConstantOfShape", "Expand"})
"""Operators that give every channel the same where none of their operands has channels."""

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
        return _taken_out(view, [self._drops[finding] for finding in findings])

    def _finding(self, view: View, drop: _Drop, what: str) -> Finding | None:
        named = _where(view, drop.group)
        if named is None:
            return None
        place, name = named
        drop = replace(drop, kept=in_parents_order(view.model, drop.group, drop.kept))
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
        frontier, resized = drop.group.frontier, drop.group.resized
        rewrite(view.model, {drop.group: IndexMap.keep(drop.group.size, drop.kept)}, _added({drop.group: drop}))
        return Edited(frontier, _into_biases(view, drop), resized=resized)


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
            zero = _always_zero(group, members) | _silenced(view, group, members)
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
            evenly = bool(np.all(counts == counts[0])) and group.fills_its_axes
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
        tensor = group.coupled.tensor(member.value)
        if tensor is None or not tensor.dtype.is_floating_point():
            return None
    return members


def _slices(group: Group, member: Member) -> Array:
    """``(channels, ...)``: what a stored tensor holds for every channel of a group."""
    tensor = group.coupled.tensor(member.value)
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
    if group.conditions or not any("contracted" in member.roles for member in members):
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


def _silenced(view: View, group: Group, members: Sequence[Member]) -> NDArray[np.bool_]:
    """Channels by which two activations are multiplied with each other, one of which is zero there."""
    never = np.zeros(group.size, dtype=bool)
    if not group.conditions or any(condition.kind not in ("bilinear", "attention") for condition in group.conditions):
        return never
    products = [condition.operands for condition in group.conditions if condition.kind == "bilinear"]
    if len(products) < len(group.conditions):
        scored = _scored(group)
        if scored is None:
            return never
        products += scored
    numbers = numbers_of(view, group)
    silent = ~never
    for operands in products:
        here = never.copy()
        for name in operands:
            zeros = [found == 0 for value, found in numbers.items() if value.name == name]
            if name and zeros:
                here |= np.logical_and.reduce(zeros)
        silent &= here
    for member in members:
        if "contracted" in member.roles and silent.any():
            silent &= ~np.any(_slices(group, member), axis=1) | _reads_zeros(group, member, numbers)
    return silent


def _reads_zeros(group: Group, member: Member, numbers: Mapping[ir.Value, Array]) -> NDArray[np.bool_]:
    """Channels that are 0 in whatever a tensor meets; of a recurrence weight, that is what its layer gives."""
    zero = np.ones(group.size, dtype=bool)
    for node, position in member.value.uses():
        met = [value for value in node.inputs if value is not None and value in numbers]
        if is_recurrent(node):
            given = [value for value in node.outputs if value in numbers]
            met = given[:1] if position == RECURRENCE else [value for value in met if value is node.inputs[0]]
        zero &= np.logical_and.reduce([numbers[value] == 0 for value in met]) if met else False
    return zero


def _scored(group: Group) -> list[tuple[str, ...]] | None:
    """Query and key of every Attention; ``None`` where the scale of one follows the size of a head."""
    readers = dict.fromkeys(node for member in group.members for node in member.value.consumers())
    scored = []
    for node in readers:
        if "Attention" not in node.op_type:
            continue
        if node.op_type != "Attention" or node.domain != "" or "scale" not in node.attributes:
            return None
        scored.append(tuple(value.name or "" for value in node.inputs[:2] if value is not None))
    return scored or None


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
    """For every channel the first one that is fed the same, bit by bit; ``None`` where all differ, or nothing reads."""
    if not any("contracted" in member.roles for member in members):
        return None
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
        if any(value in holds for value in node.inputs) or node.op_type in _SPREAD:
            continue
        if not _made_inside(group, node, member.value, holds):
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


# -- for who chooses the channels himself ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Droppable:
    """Which channels of a group can go without a trace.

    Attributes:
        without_effect: bool, per channel: zero, or read by nothing.
        alike: Per channel the first that holds the same; channels of one class can go but for one.
        constant: bool, per channel: one number on every run, which the next biases can take.
    """

    without_effect: NDArray[np.bool_]
    alike: Indices
    constant: NDArray[np.bool_]


def droppable(view: View, group: Group) -> Droppable:
    """What is known of the channels of one group, which must be of ``view.table``."""
    none, alone = np.zeros(group.size, dtype=bool), np.arange(group.size)
    members = _members(group)
    if members is None:
        return Droppable(none, alone, none)
    without = _unread(group, members) | _always_zero(group, members) | _silenced(view, group, members)
    kinds = {condition.kind for condition in group.conditions}
    alike = None
    tied = any("contracted" in member.roles and len(member.roles) > 1 for member in members)
    if not tied and kinds <= _EVENLY and _made_from_members(group) and not any(c.order for c in group.conditions):
        alike = _alike(group, members)
    if alike is not None and not kinds <= _EXTREMES:
        # A mean stays as it is only where every channel was there equally often, and all copies go.
        counts = np.bincount(alike, minlength=group.size)
        counts = counts[counts > 0]
        if not (counts == counts[0]).all() or not group.fills_its_axes:
            alike = None
    fed_zeros = _fed_zeros(group, members) & ~without
    found = attempt(lambda: constants_of(view, group, members, fed_zeros)) if fed_zeros.any() else None
    constant = none if found is None else np.asarray(found.channels, dtype=bool)
    return Droppable(without, alone if alike is None else alike, constant)


def drop_channels(
    view: View,
    kept: Mapping[Group, Indices],
    stands_for: Mapping[Group, Indices],
    constant: Mapping[Group, NDArray[np.bool_]],
) -> Edited:
    """Drop the channels of groups that are not kept, in the view's model.

    Args:
        view: The model; stale afterwards.
        kept: Per group of ``view.table`` the channels that stay, in order.
        stands_for: Per group and channel the kept one that holds the same (itself where it stays), -1 for none. What
            reads a channel that goes is added to what reads the one that stands for it.
        constant: Per group and channel whether it goes into the next biases.

    Raises:
        Refusal: A constant channel cannot go into the biases.
    """
    drops = []
    for group, channels in kept.items():
        constants = None
        if constant[group].any():
            members = _members(group)
            constants = None if members is None else constants_of(view, group, members, constant[group])
            if constants is None or not np.array_equal(constants.channels, constant[group]):
                raise Refusal("constant channels cannot go into the next biases", code="not-exact")
        drops.append(_Drop(group, channels, stands_for[group], constants))
    return _taken_out(view, drops)


def _taken_out(view: View, drops: Sequence[_Drop]) -> Edited:
    """Take channels out of the model of ``view``; what they gave goes to those that stand for them, and into biases."""
    maps = {drop.group: IndexMap.keep(drop.group.size, drop.kept) for drop in drops}
    # Names are those of the parent: they are read before the rewrite renames what it resizes.
    frontier = tuple(name for drop in drops for name in drop.group.frontier)
    resized = tuple(name for drop in drops for name in drop.group.resized)
    tensor_maps = TensorMaps(maps)
    rewrite(view.model, maps, _added({drop.group: drop for drop in drops}))
    index_maps = tensor_maps.to_json()
    made = [node for drop in drops for node in _into_biases(view, drop)]
    return Edited(frontier, tuple(made), (), index_maps, resized)


def magnitudes(group: Group) -> NDArray[np.float64]:
    """Per channel the norm of what feeds it times the norm of what reads it: how much of the model goes with it."""
    squares = {"feeds": np.zeros(group.size), "reads": np.zeros(group.size)}
    for member in group.stored:
        tensor = group.coupled.tensor(member.value)
        side = "reads" if "contracted" in member.roles else "feeds"
        if tensor is None or (side == "feeds" and not member.roles & {"produced", "embedding"}):
            continue
        squares[side] += np.square(_slices(group, member).astype(np.float64)).sum(axis=1)
    return np.asarray(np.sqrt(squares["feeds"]) * np.sqrt(squares["reads"]))
