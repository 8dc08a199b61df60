"""Reshape: the same row-major factors, dealt out to other axes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnxmorph.graph.axes.contents import Number
from onnxmorph.graph.axes.factors import Expr
from onnxmorph.graph.axes.notes import Block
from onnxmorph.graph.axes.site import Axes, Barrier, Site, rule
from onnxmorph.graph.axes.uses import Wanted

__all__: list[str] = []


@dataclass
class _Target:
    """One element of the target shape; ``size`` or ``copy`` where known, ``rest`` for -1 and for the unknown."""

    number: Number
    size: int | None
    copy: Expr | None
    infer: bool
    axis: Expr | None = None
    computed: bool = False


@rule("Reshape")
def reshape(site: Site) -> None:
    """Deal the factors of the input out to the target, from both ends; what is left goes to the -1."""
    axes = site.axes(0)
    numbers = site.numbers("shape", 1)
    if numbers is None:
        raise Barrier(f"the target of {site.label} is computed from data", "computed-shape")
    copies = not site.attribute("allowzero", 0)
    targets = [_target(site, number, axes, index, copies) for index, number in enumerate(numbers)]
    rest = site.factors.factors(tuple(atom for expr in axes for atom in expr))
    rest = _deal(site, targets, rest)
    _finish(site, targets, rest)
    site.give(0, [target.axis or () for target in targets])
    site.size_operand("shape", 1, [_wanted(target) for target in targets])


def _target(site: Site, number: Number, axes: Axes, index: int, copies: bool) -> _Target:
    value = number.value(site.factors.size)
    size = None if value is None else int(value)
    if size == 0 and copies and index < len(axes) and not number.depends:
        return _Target(number, site.size(axes[index]), axes[index], False)
    if size is not None and size < 0:
        return _Target(number, None, None, True)
    return _Target(number, size, site.axis_of(number), False, computed=size is None)


def _deal(site: Site, targets: list[_Target], rest: list[int]) -> list[int]:
    """Give axes to targets from the left, then from the right, as far as sizes tell."""
    factors = site.factors
    first = 0
    while first < len(targets):
        target = targets[first]
        taken = _copied(site, target, rest, left=True) or _computed(site, target, rest, left=True)
        if taken is None and target.size is not None and _reach(site, rest, target.size) != 0:
            outer = factors.take_outer(rest, target.size)
            taken = None if outer is None else (outer[0], outer[1])
        if taken is None:
            break
        target.axis, rest = taken
        first += 1
    last = len(targets)
    while last > first:
        target = targets[last - 1]
        rest = factors.factors(tuple(rest))
        taken = _copied(site, target, rest, left=False) or _computed(site, target, rest, left=False)
        reach = _reach(site, rest[::-1], target.size) if target.size is not None else 0
        if taken is None and target.size is not None and (reach != 0 or _is_last_unknown(site, rest)):
            inner = factors.take_inner(rest, target.size)
            taken = None if inner is None else (inner[1], inner[0])
        if taken is None:
            break
        target.axis, rest = taken
        last -= 1
    return factors.factors(tuple(rest))


def _copied(site: Site, target: _Target, rest: list[int], left: bool) -> tuple[Expr, list[int]] | None:
    """The factors that a 0, or the size of a known axis, names, if they come next."""
    if target.copy is None:
        return None
    named = site.factors.factors(target.copy)
    count = len(named)
    if target.size is not None and site.size(target.copy) != target.size:
        return None
    if left and rest[:count] == named:
        return tuple(named), rest[count:]
    if not left and count and rest[-count:] == named:
        return tuple(named), rest[:-count]
    return None


def _computed(site: Site, target: _Target, rest: list[int], left: bool) -> tuple[Expr, list[int]] | None:
    """The next factors whose sizes multiply to a number that is computed from sizes of unknown value."""
    if not target.computed:
        return None
    for count in range(1, len(rest) + 1):
        taken = tuple(rest[:count] if left else rest[-count:])
        if site.means(target.number, taken):
            return taken, (rest[count:] if left else rest[:-count])
    return None


def _reach(site: Site, rest: list[int], size: int) -> int:
    """1 when known factors alone cover ``size``; 0 when a factor of unknown size is in the way."""
    for factor in rest:
        if size == 1:
            return 1
        one = site.size((factor,))
        if one is None:
            return 0
        if one == 0 or size % one:
            return 1
        size //= one
    return 1


def _is_last_unknown(site: Site, rest: list[int]) -> bool:
    """Whether the only factor of unknown size is the outermost, so that it must take up what the others leave."""
    return bool(rest) and all(site.size((factor,)) is not None for factor in rest[1:])


def _finish(site: Site, targets: list[_Target], rest: list[int]) -> None:
    open_targets = [target for target in targets if target.axis is None]
    if len(open_targets) == 1:
        target = open_targets[0]
        target.axis = tuple(rest)
        if target.size is not None and site.size(target.axis) is None:
            site.factors.learn(target.axis, target.size)
        if target.size is not None and site.size(target.axis) != target.size:
            _fail(site, [target], rest)
    elif open_targets:
        _fail(site, open_targets, rest)
    elif rest:
        if site.size(tuple(rest)) is None:
            # Every target has its size: what is left is 1, or the Reshape does not run. So models are exported that
            # were traced with a batch of 1 and keep it open at their inputs.
            site.factors.learn(tuple(rest), 1)
        if site.size(tuple(rest)) == 1:
            site.pin(tuple(rest), "structure", f"a factor of 1 dropped by {site.label}")
        else:
            _fail(site, targets, rest)


def _fail(site: Site, targets: list[_Target], rest: list[int]) -> None:
    text = f"{site.label} mixes factors {site.factors.text(tuple(rest))} that do not nest"
    note = Block("incompatible-axes", text)
    site.block(tuple(rest), note.kind, note.text)
    total = site.size(tuple(rest))
    known = math.prod(target.size or 1 for target in targets if target.axis is None)
    inferred = [target for target in targets if target.axis is None and target.size is None]
    if total is not None and len(inferred) == 1 and known and total % known == 0:
        inferred[0].size = total // known
    for target in targets:
        if target.axis is not None:
            site.block(target.axis, note.kind, note.text)
        target.axis = site.factors.axis(target.size, note)


def _wanted(target: _Target) -> Wanted | None:
    if target.infer or target.axis is None:
        return None
    copy = target.copy
    if copy is not None and not target.number.depends:
        return Wanted((target.axis,), lambda found, wanted, size: found == 0 and size(copy) == wanted)
    return Wanted((target.axis,), infer=True)


@rule("Flatten")
def flatten(site: Site) -> None:
    """Two axes: the product of those before ``axis``, and of the rest."""
    axes = site.axes(0)
    axis = int(site.attribute("axis", 1))
    axis = axis if axis == len(axes) else site.axis(axis, len(axes))
    site.give(0, [tuple(a for expr in axes[:axis] for a in expr), tuple(a for expr in axes[axis:] for a in expr)])


@rule("Squeeze")
def squeeze(site: Site) -> None:
    """Axes of 1 go; without axes, all of them do."""
    axes = site.axes(0)
    given = site.integers("axes", 1)
    if given is None:
        left = site.coupled.declared(site.node.outputs[0])
        ones = sum(site.size(expr) == 1 for expr in axes)
        if any(site.size(expr) is None for expr in axes) and (left is None or len(left) != len(axes) - ones):
            raise Barrier(f"{site.label} squeezes axes of unknown size")
        gone = {axis for axis, expr in enumerate(axes) if site.size(expr) == 1}
    else:
        gone = {site.axis(axis, len(axes)) for axis in given}
    for axis in gone:
        site.pin(axes[axis], "structure", f"{site.label} takes this axis of 1 away")
    site.give(0, [expr for axis, expr in enumerate(axes) if axis not in gone])


@rule("Unsqueeze")
def unsqueeze(site: Site) -> None:
    """New axes of 1."""
    axes = site.axes(0)
    given = site.integers("axes", 1) or []
    rank = len(axes) + len(given)
    new = {site.axis(axis, rank) for axis in given}
    old = iter(axes)
    site.give(0, [() if axis in new else next(old) for axis in range(rank)])


@rule("Transpose")
def transpose(site: Site) -> None:
    """Axes permuted."""
    axes = site.axes(0)
    order = site.integers("perm") or list(range(len(axes)))[::-1]
    if sorted(order) != list(range(len(axes))):
        raise Barrier(f"{site.label} has perm {order} for {len(axes)} axes")
    site.give(0, [axes[axis] for axis in order])


@rule("DepthToSpace")
def depth_to_space(site: Site) -> None:
    """DCR: C = (b, b, c); CRD: C = (c, b, b); H' = (H, b), W' = (W, b)."""
    batch, channels, height, width = _four(site)
    block = int(site.attribute("blocksize"))
    if site.attribute("mode", "DCR") == "CRD":
        rest, right = site.columns(channels, block, "blocksize")
        inside, down = site.columns(rest, block, "blocksize")
    else:
        down, rest = site.rows(channels, block, "blocksize")
        right, inside = site.rows(rest, block, "blocksize")
    for expr in (down, right):
        site.pin(expr, "structure", f"blocks of {site.label}")
    site.give(0, [batch, inside, height + down, width + right])


@rule("SpaceToDepth")
def space_to_depth(site: Site) -> None:
    """C' = (b, b, C)."""
    batch, channels, height, width = _four(site)
    block = int(site.attribute("blocksize"))
    height, down = site.columns(height, block, "blocksize")
    width, right = site.columns(width, block, "blocksize")
    for expr in (down, right):
        site.pin(expr, "structure", f"blocks of {site.label}")
    site.give(0, [batch, down + right + channels, height, width])


def _four(site: Site) -> tuple[Expr, Expr, Expr, Expr]:
    axes = site.axes(0)
    if len(axes) != 4:
        raise Barrier(f"{site.label} has an input of {len(axes)} axes")
    return axes[0], axes[1], axes[2], axes[3]
