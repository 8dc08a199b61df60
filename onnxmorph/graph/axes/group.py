"""Groups: every axis of every tensor that changes together. A group prints itself before anything is cut."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnxmorph._ir import ir
from onnxmorph.errors import Refusal
from onnxmorph.graph.axes.analysis import CoupledAxes, Operand
from onnxmorph.graph.axes.factors import Expr
from onnxmorph.graph.axes.index_map import IndexMap
from onnxmorph.graph.axes.notes import Block, Condition, Constraint, Pin
from onnxmorph.graph.constants import constant
from onnxmorph.visible import visible

__all__ = ["Group", "GroupTable", "Member", "decompose", "group_of", "groups", "groups_of", "resize"]


_WAYS_OUT = {"computed-constant": "an optimiser that folds constants stores what is computed"}
"""What lifts a block, by its kind."""


@dataclass(frozen=True, eq=False)
class Member:
    """One axis of one tensor that holds the group's indices.

    Args:
        value: The tensor: a stored one (weight, bias, constant) or one computed by a node.
        axis: Which axis of it.
        expr: The axis in factors.
        roles: What a stored tensor's axis is for: ``produced``, ``contracted``, ``bias``, ``scale`` ... A tensor with
            several users may have several.
        placements: (offset, stride) of each place the group's indices have in the axis.
        use: For a constant that every user has its own copy of, the user this member is for.
        is_stored: Whether an index map rewrites it: a tensor of the file, or one computed from those in a way that no
            index map goes through, which is stored from then on.
    """

    value: ir.Value
    axis: int
    expr: Expr
    roles: frozenset[str]
    placements: tuple[tuple[int, int], ...]
    use: Operand | None = None
    is_stored: bool = False


@dataclass(frozen=True, eq=False)
class Group:
    """One degree of freedom of a model, with all that hangs on it."""

    table: GroupTable
    atom: int
    size: int
    entries: tuple[tuple[ir.Value, int, Expr, Operand | None], ...]

    @property
    def coupled(self) -> CoupledAxes:
        """The analysis the group belongs to."""
        return self.table.coupled

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """Every axis that holds the group, in the order of the graph."""
        return tuple(self._member(*entry) for entry in self.entries)

    @cached_property
    def stored(self) -> tuple[Member, ...]:
        """The members that an index map rewrites."""
        return tuple(self._member(*entry) for entry in self.entries if self.coupled.is_root(entry[0]))

    def _member(self, value: ir.Value, axis: int, expr: Expr, use: Operand | None) -> Member:
        is_stored = self.coupled.is_root(value)
        roles = self.table.roles(value, axis, use, self.atom) if is_stored else frozenset[str]()
        return Member(value, axis, expr, roles, self.table.placements(expr, self.atom), use, is_stored)

    @property
    def pins(self) -> tuple[Pin, ...]:
        """What ties the indices to something outside the network's weights."""
        return self.coupled.factors.notes(self.atom, Pin)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """What the rules could not follow."""
        return self.coupled.factors.notes(self.atom, Block)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Operators that mix the indices."""
        return self.coupled.factors.notes(self.atom, Condition)

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """Why axes that hold the group move in steps."""
        return self.coupled.factors.notes(self.atom, Constraint)

    @property
    def status(self) -> str:
        """``free``, ``conditioned`` (new indices need a scheme), ``pinned`` or ``blocked``."""
        if self.blocks:
            return "blocked"
        if self.pins:
            return "pinned"
        return "conditioned" if self.conditions else "free"

    @property
    def interface(self) -> bool:
        """Whether all that pins it is the model's own signature."""
        return bool(self.pins) and not self.blocks and all(pin.interface for pin in self.pins)

    @property
    def symmetric(self) -> bool:
        """Whether a permutation of the indices leaves the model's outputs as they are."""
        return not self.pins and not self.blocks and not any(condition.order for condition in self.conditions)

    @property
    def fills_its_axes(self) -> bool:
        """Whether no computed axis holds other channels beside the group's, which a mean would weigh against them."""
        factors = self.coupled.factors
        return all(
            member.is_stored or bool((factors.coordinate(member.expr, self.atom) >= 0).all()) for member in self.members
        )

    @property
    def frontier(self) -> tuple[str, ...]:
        """Names of values computed from the group's indices that do not hold them: they keep shape and meaning."""
        holds = {member.value for member in self.members}
        found: dict[str, None] = {}
        for member in self.members:
            if member.is_stored:
                continue
            for node in member.value.consumers():
                found.update((output.name, None) for output in node.outputs if output not in holds and output.name)
        return tuple(found)

    @property
    def resized(self) -> tuple[str, ...]:
        """Names of the computed values that hold the group's indices: their shapes change with it."""
        return tuple(
            dict.fromkeys(member.value.name for member in self.members if not member.is_stored and member.value.name)
        )

    def refusal(self, *, interface: bool = False) -> Refusal | None:
        """Why the group cannot change, ``None`` when it can.

        Args:
            interface: The caller asked for a change of the model's signature.
        """
        if self.blocks:
            block = self.blocks[0]
            return Refusal(block.text, way_out=_WAYS_OUT.get(block.kind), code=block.kind)
        if not self.pins or (interface and self.interface):
            return None
        pin = next((pin for pin in self.pins if not pin.interface), self.pins[0])
        way_out = "widen --interface changes it, and the model's signature" if self.interface else None
        if pin.kind == "vocabulary" and any("produced" in one.roles for one in self.stored):
            way_out = "the table is a layer's weight too: --untie gives each its own"
        return Refusal(f"the axis is pinned: {pin.text}", way_out=way_out, code=pin.kind)

    def describe(self, limit: int = 40) -> str:
        """The group as text: size and status, conditions, constraints, pins, members."""
        lines = [f"group of {self.size} indices, {self.status}"]
        for title, notes in (
            ("blocked by", self.blocks),
            ("pinned by", self.pins),
            ("condition", self.conditions),
            ("constraint", self.constraints),
        ):
            lines += [f"  {title}: {text}" for text in dict.fromkeys(note.text for note in notes)]
        shown = self.members[:limit]
        for member in shown:
            lines.append("  " + self._line(member))
        if len(self.members) > limit:
            lines.append(f"  ... and {len(self.members) - limit} more")
        return "\n".join(map(visible, lines))

    def _line(self, member: Member) -> str:
        producer = member.value.producer()
        if member.is_stored:
            what = ", ".join(sorted(member.roles)) or "constant"
        elif producer is None:
            what = "input"
        else:
            what = f"computed by {producer.op_type}"
        whole = self.coupled.factors.size(member.expr)
        place = ""
        if whole != self.size:
            spots = ", ".join(f"offset {offset} stride {stride}" for offset, stride in member.placements[:4])
            more = " ..." if len(member.placements) > 4 else ""
            place = f" of {whole} ({self.coupled.factors.text(member.expr)}; {spots}{more})"
        return f"{member.value.name} axis {member.axis}{place}: {what}"


class GroupTable:
    """All groups of one model; made once, members found on demand."""

    def __init__(self, coupled: CoupledAxes) -> None:
        self.coupled = coupled
        entries: dict[int, list[tuple[ir.Value, int, Expr, Operand | None]]] = defaultdict(list)
        self._placed: dict[Expr, dict[int, list[tuple[int, int]]]] = {}
        found: dict[Expr, tuple[int, ...]] = {}
        for value, axis, expr, use in self._axes():
            leaves = found.get(expr)
            if leaves is None:
                leaves = found[expr] = tuple(dict.fromkeys(coupled.factors.leaves(expr)))
                for leaf in coupled.factors.repeated(expr):
                    coupled.factors.note((leaf,), _SELF_PRODUCT)
            for leaf in leaves:
                entries[leaf].append((value, axis, expr, use))
        self._groups: dict[int, Group] = {}
        for atom, where in entries.items():
            size = coupled.factors.size((atom,))
            if size is not None:
                self._groups[atom] = Group(self, atom, size, tuple(where))

    def _axes(self) -> Iterable[tuple[ir.Value, int, Expr, Operand | None]]:
        for value, axes in self.coupled.known_values():
            for axis, expr in enumerate(axes):
                yield value, axis, expr, None
        for use, axes in self.coupled.own_copy.items():
            read = use[0].inputs[use[1]]
            if read is not None:
                for axis, expr in enumerate(axes):
                    yield read, axis, expr, use

    def all(self) -> list[Group]:
        """Every group of known size."""
        return list(self._groups.values())

    def of_axis(self, value: ir.Value, axis: int) -> list[Group]:
        """The groups that make up an axis, in row-major and segment order."""
        axes = self.coupled.axes(value)
        if axes is None:
            raise Refusal(f"the rank of '{value.name}' is not known", code="unknown-rank")
        leaves = dict.fromkeys(self.coupled.factors.leaves(axes[axis]))
        return [self._groups[leaf] for leaf in leaves if leaf in self._groups]

    def roles(self, value: ir.Value, axis: int, use: Operand | None, atom: int) -> frozenset[str]:
        """What those who read an axis of a stored tensor, perhaps through Transpose, Cast and the like, use it for."""
        out: set[str] = set()
        seen: set[tuple[Operand, int | None]] = set()
        waiting: list[tuple[Operand, int | None]] = (
            [(use, axis)] if use is not None else [(operand, axis) for operand in self._users(value)]
        )
        while waiting:
            operand, here = waiting.pop()
            if (operand, here) in seen or (use is None and operand in self.coupled.own_copy):
                continue
            seen.add((operand, here))
            node, position = operand
            read = node.inputs[position]
            axes = None if read is None else self.coupled.operand(read, node, position)
            for place, role, part in self.coupled.roles.get(operand, ()):
                if axes is None or here not in (None, place):
                    continue
                if atom in self._places(axes[place] if part is None else part):
                    out.add(role)
            for output in node.outputs:
                if self.coupled.is_constant(output) and not self.coupled.is_computed(output):
                    after = _carried_axis(node, position, here, len(self.coupled.axes(output) or ()))
                    waiting.extend((user, after) for user in self._users(output))
        return frozenset(out)

    def placements(self, expr: Expr, atom: int) -> tuple[tuple[int, int], ...]:
        """(offset, stride) of each place that an atom has in an axis."""
        return tuple(self._places(expr).get(atom, ()))

    def _places(self, expr: Expr) -> dict[int, list[tuple[int, int]]]:
        known = self._placed.get(expr)
        if known is None:
            known = self._placed[expr] = self.coupled.factors.all_placements(expr)
        return known

    def _users(self, value: ir.Value) -> list[Operand]:
        users = [(node, at) for node, at in value.uses()]
        for formal in self.coupled.formals.get(value, ()):
            users += self._users(formal)
        return users


_SAME_AXES = {
    *("Identity", "Cast", "CastLike", "QuantizeLinear", "DequantizeLinear", "Neg", "Dropout"),
    *("Slice", "Split", "Concat"),
}


def _carried_axis(node: ir.Node, position: int, axis: int | None, rank: int) -> int | None:
    """Where an axis of a constant goes, through one node to ``rank`` axes; ``None`` when only its factors tell."""
    if axis is None or (position != 0 and node.op_type != "Concat"):
        return None
    if node.op_type in _SAME_AXES:
        return axis
    order = node.attributes.get("perm")
    if node.op_type == "Transpose" and order is not None and not order.is_ref():
        return list(order.as_ints()).index(axis)
    if node.op_type == "Unsqueeze":
        added = _listed_axes(node, rank)
        left = [place for place in range(rank) if added is not None and place not in added]
        return left[axis] if axis < len(left) else None
    return None


def _listed_axes(node: ir.Node, rank: int) -> set[int] | None:
    given = node.attributes.get("axes")
    if given is not None:
        return None if given.is_ref() else {axis % rank for axis in given.as_ints()}
    array = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if array is None else {int(axis) % rank for axis in array.reshape(-1)}


def groups(coupled: CoupledAxes) -> list[Group]:
    """Every group of a model."""
    return GroupTable(coupled).all()


def groups_of(table: GroupTable, value: ir.Value, axis: int) -> list[Group]:
    """The groups of one axis: one for a plain channel axis, several where it is a product or a concatenation."""
    return table.of_axis(value, axis)


_SELF_PRODUCT = Condition("self-product", "an axis is a product of this group with itself")

_ORDER = {"free": 0, "conditioned": 1, "pinned": 2, "blocked": 3}


def group_of(table: GroupTable, value: ir.Value, axis: int) -> Group:
    """The group by which an axis changes most easily: free before conditioned before pinned, the innermost first.

    Raises:
        Refusal: The axis has no group of known size.
    """
    found = table.of_axis(value, axis)
    if not found:
        raise Refusal(f"axis {axis} of '{value.name}' has no size that is known", code="unknown-size")
    return min(reversed(found), key=lambda group: _ORDER[group.status])


def resize(
    table: GroupTable, value: ir.Value, axis: int, to: int, *, interface: bool = False, among: Sequence[Group] = ()
) -> tuple[Group, int]:
    """The group, and its new size, that give an axis ``to`` indices.

    An axis that holds a group moves in steps: by ``groups`` for a grouped convolution, by the head size for heads. So
    one group of the axis changes, and the first in the order of `group_of` that meets ``to`` is taken.

    Args:
        table: Groups of the model.
        value: The tensor, typically a layer's output.
        axis: Its axis.
        to: Wanted size, at least 1.
        interface: Whether groups pinned by the model's signature may change.
        among: Restrict the choice to these groups of the axis.

    Raises:
        Refusal: No group may change, or none meets ``to``; then the nearest sizes that can be met are named.
    """
    found = list(among) or table.of_axis(value, axis)
    axes = table.coupled.axes(value)
    size = None if axes is None else table.coupled.factors.size(axes[axis])
    if axes is None or size is None or not found:
        raise Refusal(f"axis {axis} of '{value.name}' has no size that is known", code="unknown-size")
    refusals = [refusal for group in found if (refusal := group.refusal(interface=interface)) is not None]
    able = [group for group in reversed(found) if group.refusal(interface=interface) is None]
    if not able:
        raise refusals[0]
    near: set[int] = set()
    for group in sorted(able, key=lambda group: _ORDER[group.status]):
        step = (table.coupled.factors.size(axes[axis], {group.atom: group.size + 1}) or 0) - size
        moved, left = divmod(to - size, step)
        if left == 0 and group.size + moved >= 1:
            return group, group.size + moved
        near.update(one for one in (size + moved * step, size + (moved + 1) * step) if one >= 1)
    below = max((one for one in near if one < to), default=None)
    above = min((one for one in near if one > to), default=None)
    nearest = " and ".join(str(one) for one in (below, above) if one is not None)
    why = dict.fromkeys(note.text for group in able for note in group.constraints)
    reason = f" ({'; '.join(why)})" if why else ""
    raise Refusal(
        f"'{value.name}' cannot have {to} indices on axis {axis}{reason}", way_out=f"{nearest} can", code="size-step"
    )


def decompose(
    table: GroupTable, value: ir.Value, axis: int, index_map: IndexMap, *, interface: bool = False
) -> dict[Group, IndexMap]:
    """The maps of single groups that together change a whole axis by ``index_map``.

    What a caller wants to do to a layer's channels (keep these, drop those) is a map of the axis; what can change are
    its groups. A concatenation takes each segment's part; a product takes a map that treats all rows alike. New indices
    are given to groups (`resize`), except where the axis is one group as a whole.

    Args:
        table: Groups of the model.
        value: The tensor, typically a layer's output.
        axis: Its axis.
        index_map: Map of the whole axis.
        interface: Whether groups pinned by the model's signature may change.

    Returns:
        One map for each group that changes; empty for the identity.

    Raises:
        Refusal: No maps of the groups give this map of the axis, or a group that would change may not.
        ValueError: The map does not start from the axis' size.
    """
    factors = table.coupled.factors
    axes = table.coupled.axes(value)
    size = None if axes is None else factors.size(axes[axis])
    if axes is None or size is None or any(factors.size((leaf,)) is None for leaf in factors.leaves(axes[axis])):
        raise Refusal(f"axis {axis} of '{value.name}' has no size that is known", code="unknown-size")
    if index_map.parent_size != size:
        raise ValueError(f"a map of {index_map.parent_size} indices for an axis of {size}")
    wanted = index_map.sources
    maps: dict[int, IndexMap] = {}
    for group in table.of_axis(value, axis):
        read = _read_off(group, axes[axis], wanted)
        if read is not None:
            maps[group.atom] = read
    if not np.array_equal(factors.gather(axes[axis], {atom: one.sources for atom, one in maps.items()}), wanted):
        text = factors.text(axes[axis])
        raise Refusal(
            f"axis {axis} of '{value.name}' is made of {text}, whose parts cannot change to give these indices",
            code="not-separable",
        )
    out: dict[Group, IndexMap] = {}
    for group in table.of_axis(value, axis):
        one = maps.get(group.atom)
        if one is None or one.is_identity:
            continue
        refusal = group.refusal(interface=interface)
        if refusal is not None:
            raise refusal
        out[group] = one
    return out


def _read_off(group: Group, expr: Expr, wanted: NDArray[np.int64]) -> IndexMap | None:
    """The map of one group that a map of the axis suggests: what becomes of the first row of it that is kept."""
    factors = group.coupled.factors
    if factors.factors(expr) == [group.atom]:
        return IndexMap(group.size, wanted)
    inside = factors.coordinate(expr, group.atom)
    kept = [int(one) for one in wanted if one >= 0 and inside[one] >= 0]
    if not kept:
        return None
    for _, stride in group.table.placements(expr, group.atom):
        # The row in which every other factor is as it is at the first index that is kept.
        row = kept[0] - stride * int(inside[kept[0]]) + stride * np.arange(group.size)
        if row[0] < 0 or row[-1] >= inside.size or not np.array_equal(inside[row], np.arange(group.size)):
            continue
        place = {int(position): index for index, position in enumerate(row)}
        return IndexMap(group.size, np.array([place[one] for one in kept if one in place], dtype=np.int64))
    return None
