"""Segments: Concat, Split, Slice, Pad; repetition: Expand, Tile, ConstantOfShape, Range."""

from __future__ import annotations

from onnxmorph.graph.axes.contents import Number, Scalar, SizeOf
from onnxmorph.graph.axes.factors import Expr
from onnxmorph.graph.axes.site import Axes, Barrier, Site, rule
from onnxmorph.graph.axes.uses import Wanted

__all__: list[str] = []

_FAR = 1 << 30
"""Slice ends beyond this mean "to the end"."""


@rule("Concat")
def concat(site: Site) -> None:
    """One axis is the sum of the operands', the others are the same."""
    operands = [site.axes(position) for position in range(len(site.node.inputs)) if site.has(position)]
    rank = len(operands[0])
    if any(len(axes) != rank for axes in operands):
        raise Barrier(f"{site.label} has operands of different rank")
    axis = site.axis(int(site.attribute("axis", 1)), rank)
    out: Axes = []
    for place in range(rank):
        here = [axes[place] for axes in operands]
        if place == axis:
            out.append(site.factors.sum([_segment(site, expr) for expr in here]))
        else:
            out.append(_equal(site, here))
    site.give(0, out)


def _segment(site: Site, expr: Expr) -> Expr:
    # An axis that is 1 by construction still takes one place in a sum.
    return expr if expr and site.factors.factors(expr) else site.new(1)


def _equal(site: Site, exprs: list[Expr]) -> Expr:
    known = [expr for expr in exprs if site.size(expr) is not None]
    unknown = [expr for expr in exprs if site.size(expr) is None]
    for expr in known[1:]:
        site.unify(known[0], expr)
    if known:
        for expr in unknown:
            site.block((expr, known[0]), "unknown-size", f"{site.label} meets an axis of unknown size")
        return known[0]
    for expr in unknown[1:]:
        if site.factors.symbol(expr) is not None and site.factors.symbol(expr) == site.factors.symbol(unknown[0]):
            site.unify(unknown[0], expr)
        elif not site.factors.same(unknown[0], expr):
            site.block((unknown[0], expr), "unknown-size", f"{site.label} meets axes of unknown size")
    return unknown[0]


@rule("Split")
def split(site: Site) -> None:
    """Segments; sizes from an attribute, an operand, or equal parts."""
    axes = site.axes(0)
    axis = site.axis(int(site.attribute("axis", 0)), len(axes))
    expr = axes[axis]
    total = site.size(expr)
    count = len(site.node.outputs)
    numbers = site.numbers("split", 1)
    sizes: list[int | None]
    if numbers is not None:
        values = [number.value(site.factors.size) for number in numbers]
        sizes = [None if value is None else int(value) for value in values]
    elif site.has(1):
        raise Barrier(f"the sizes of {site.label} are computed from data", "computed-shape")
    elif total is None:
        sizes = [None] * count
    else:
        count = int(site.attribute("num_outputs", count))
        chunk = -(-total // count)
        sizes = [max(0, min(chunk, total - chunk * part)) for part in range(count)]
    parts = _cut_all(site, expr, total, sizes)
    for output, part in enumerate(parts):
        site.give(output, [*axes[:axis], part, *axes[axis + 1 :]])
    site.split_operand(expr, parts, None if "split" in site.node.attributes else site.content(1))


def _cut_all(site: Site, expr: Expr, total: int | None, sizes: list[int | None]) -> list[Expr]:
    if len(sizes) == 1:
        return [expr]
    if total is None or any(size is None for size in sizes) or sum(size or 0 for size in sizes) != total:
        site.block(expr, "unknown-size", f"{site.label} cuts an axis of unknown size")
        return [site.new(size) for size in sizes]
    parts: list[Expr] = []
    rest = expr
    for size in sizes[:-1]:
        if not size or size == site.size(rest):
            parts.append(rest if size else site.new(0))
            rest = site.new(0) if size else rest
            continue
        pieces = site.factors.cut(rest, size)
        if pieces is None:
            text = f"{site.label} cuts across the factors {site.factors.text(rest)} of an axis"
            site.block(expr, "incompatible-axes", text)
            return [site.new(one) for one in sizes]
        parts.append(pieces[0])
        rest = pieces[1]
    return [*parts, rest]


@rule("Slice")
def slices(site: Site) -> None:
    """Segments [start, end); a step that divides the axis picks a column."""
    axes = site.axes(0)
    starts, ends = site.numbers("starts", 1), site.numbers("ends", 2)
    if starts is None or ends is None:
        raise Barrier(f"the bounds of {site.label} are computed from data", "computed-shape")
    named = site.integers("axes", 3)
    places = named if named is not None else list(range(len(starts)))
    steps = site.integers("steps", 4) or [1] * len(starts)
    out: Axes = list(axes)
    wanted_starts: list[Wanted | None] = []
    wanted_ends: list[Wanted | None] = []
    for place, start, end, step in zip(places, starts, ends, steps, strict=True):
        place = site.axis(place, len(axes))  # noqa: PLW2901  # the same axis, counted from 0
        part, first, last = _slice(site, out[place], (start, end), step)
        out[place] = part
        wanted_starts.append(first)
        wanted_ends.append(last)
    site.size_operand("starts", 1, wanted_starts)
    site.size_operand("ends", 2, wanted_ends)
    site.give(0, out)


def _slice(
    site: Site, expr: Expr, bounds: tuple[Number, Number], step: int
) -> tuple[Expr, Wanted | None, Wanted | None]:
    low, high = (number.value(site.factors.size) for number in bounds)
    total = site.size(expr)
    if low is not None and int(low) == 0 and step == 1:
        if high is not None and high >= _FAR:
            return expr, None, None
        if total is None and high is None and site.means(bounds[1], expr):
            return expr, None, None
    if total is None or low is None or high is None:
        site.pin(expr, "index", f"{site.label} cuts it at bounds that are not fixed")
        bound = site.axis_of(bounds[1]) if high is None and low == 0 and step == 1 else None
        return (bound if bound is not None else site.new(None)), None, None
    first, last = int(low), int(high)
    start = min(max(first + total if first < 0 else first, 0), total)
    end = min(max(last + total if last < 0 else last, 0), total)
    if step != 1:
        return _strided(site, expr, (start, end, first >= 0 and last >= total), step)
    if start == 0 and end == total:
        return expr, _bound((), (expr,), first, expr), _bound((expr,), (), last, expr)
    if start >= end:
        site.pin(expr, "index", f"{site.label} takes nothing of it")
        return site.new(0), None, None
    before, rest = ((), expr) if start == 0 else site.factors.cut(expr, start) or (None, None)
    middle, after = (
        (rest, ())
        if end == total
        else (site.factors.cut(rest, end - start) if rest is not None else None) or (None, None)
    )
    if before is None or middle is None or after is None:
        text = f"{site.label} cuts across the factors {site.factors.text(expr)} of an axis"
        site.block(expr, "incompatible-axes", text)
        return site.new(end - start), None, None
    head = (before,) if start else ()
    tail = (after,) if end < total else ()
    return (
        middle,
        _bound(head, (middle, *tail), first, expr),
        _bound((*head, middle), tail, last, expr),
    )


def _bound(before: tuple[Expr, ...], after: tuple[Expr, ...], given: int, axis: Expr) -> Wanted:
    """A bound with ``before`` in front of it and ``after`` behind, said from the side that the model says it from."""

    def accepts(found: Scalar, wanted: Scalar, size: SizeOf) -> bool:
        total = size(axis)
        if total is None:
            return False
        places = [min(max(int(one) + total if one < 0 else int(one), 0), total) for one in (found, wanted)]
        return places[0] == places[1]

    if given < 0 and after:
        return Wanted(after, accepts, negative=True)
    return Wanted(before, accepts)


def _strided(
    site: Site, expr: Expr, taken: tuple[int, int, bool], step: int
) -> tuple[Expr, Wanted | None, Wanted | None]:
    start, end, to_the_end = taken
    total = site.size(expr) or 0
    count = max(0, -((start - end) // step)) if step > 0 else 0
    if step > 1 and to_the_end and start < step and total % step == 0:
        outer, inner = site.columns(expr, step, "step")
        site.pin(inner, "structure", f"{site.label} picks one of {step} columns")
        whole = Wanted((outer + inner,), lambda found, wanted, _: found >= wanted)
        return outer, None, whole
    site.pin(expr, "index", f"{site.label} takes every {step}th of it")
    return site.new(count if step > 0 else None), None, None


@rule("Pad")
def pad(site: Site) -> None:
    """Constant padding adds segments of its own; other modes mirror the axis and pin it."""
    axes = site.axes(0)
    name = "pads" if "pads" in site.node.attributes else "paddings"
    numbers = site.numbers(name, 1)
    named = site.integers("axes", 3)
    places = [site.axis(axis, len(axes)) for axis in named] if named is not None else list(range(len(axes)))
    if numbers is None or len(numbers) != 2 * len(places):
        raise Barrier(f"the pads of {site.label} are computed from data", "computed-shape")
    constant = site.attribute("mode", "constant") == "constant"
    out: Axes = list(axes)
    wanted: list[Wanted | None] = [None] * len(numbers)
    for index, place in enumerate(places):
        values = [numbers[at].value(site.factors.size) for at in (index, index + len(places))]
        expr = axes[place]
        if values == [0, 0]:
            continue
        total = site.size(expr)
        if any(value is None for value in values) or total is None:
            site.block(expr, "unknown-size", f"{site.label} pads an axis of unknown size")
            out[place] = site.new(None)
            continue
        before, after = (int(value or 0) for value in values)
        if not constant or before < 0 or after < 0 or site.factors.settled(expr):
            site.pin(expr, "spatial", f"{site.label} pads this axis")
            out[place] = site.new(total + before + after, "spatial")
            continue
        parts: list[Expr] = []
        for at, count in ((index, before), (index + len(places), after)):
            segment = site.free(count) if count else ()
            parts.append(segment)
            wanted[at] = Wanted((segment,)) if count else None
        out[place] = site.factors.sum(
            [part for part in (parts[0] if before else None, expr, parts[1] if after else None) if part is not None]
        )
    site.size_operand(name, 1, wanted)
    site.give(0, out)


@rule("Expand")
def expand(site: Site) -> None:
    """Broadcast to a shape: an axis of 1 becomes a new one, the others are carried."""
    axes = site.axes(0)
    numbers = site.numbers(None, 1)
    if numbers is None:
        raise Barrier(f"the shape of {site.label} is computed from data", "computed-shape")
    rank = max(len(axes), len(numbers))
    out: Axes = []
    wanted: list[Wanted | None] = []
    for place in range(rank):
        here = place - rank + len(axes)
        there = place - rank + len(numbers)
        expr: Expr = axes[here] if here >= 0 else ()
        if there < 0:
            out.append(expr)
            continue
        one, want = _expanded(site, expr, numbers[there])
        out.append(one)
        wanted.append(want)
    site.size_operand(None, 1, wanted)
    site.give(0, out)


def _expanded(site: Site, expr: Expr, number: Number) -> tuple[Expr, Wanted | None]:
    known = number.value(site.factors.size)
    total = site.size(expr)
    if known is not None and known < 0:
        return expr, None
    if total == 1:
        if known == 1:
            return expr, Wanted((expr,), lambda found, _wanted, _size: found == 1)
        if not site.factors.settled(expr):
            site.pin(expr, "broadcast", f"an axis of 1 is expanded by {site.label}")
        if known is not None:
            new = site.free(int(known))
            return new, Wanted((new,))
        axis = site.axis_of(number)
        return (axis if axis is not None else site.new(None)), None
    if total is not None:
        if known is None and not site.means(number, expr):
            site.block(expr, "computed-shape", f"{site.label} expands to a size that is not known")
            return expr, None
        return expr, Wanted((expr,), lambda found, _wanted, _size: found == 1)
    if known == 1 or site.means(number, expr):
        return expr, None
    site.block(expr, "unknown-size", f"{site.label} expands an axis of unknown size")
    return site.new(None if known is None or known == 1 else int(known)), None


@rule("Tile")
def tile(site: Site) -> None:
    """Repeats: the axis becomes (repeats, axis)."""
    axes = site.axes(0)
    numbers = site.numbers(None, 1)
    if numbers is None or len(numbers) != len(axes) or site.opset < 6:
        raise Barrier(f"the repeats of {site.label} are computed from data", "computed-shape")
    out: Axes = []
    wanted: list[Wanted | None] = []
    for expr, number in zip(axes, numbers, strict=True):
        repeats = number.value(site.factors.size)
        if repeats == 1:
            out.append(expr)
            wanted.append(None)
            continue
        if repeats is None:
            if site.size(expr) != 1:
                site.block(expr, "computed-shape", f"{site.label} repeats this axis an unknown number of times")
            axis = site.axis_of(number) if site.size(expr) == 1 else None
            out.append(axis if axis is not None else site.new(None))
            wanted.append(None)
            continue
        outer = site.free(int(repeats)) if site.size(expr) == 1 else site.new(int(repeats))
        out.append(outer + expr)
        wanted.append(Wanted((outer,)))
    site.size_operand(None, 1, wanted)
    site.give(0, out)


@rule("ConstantOfShape")
def constant_of_shape(site: Site) -> None:
    """Every element the same, so that every axis is free until it meets another."""
    numbers = site.numbers(None, 0)
    if numbers is None:
        raise Barrier(f"the shape of {site.label} is computed from data", "computed-shape")
    out: Axes = []
    wanted: list[Wanted | None] = []
    for number in numbers:
        known = number.value(site.factors.size)
        if known is None:
            axis = site.axis_of(number)
            out.append(axis if axis is not None else site.new(None))
            wanted.append(None)
        elif known == 1 and not number.depends:
            out.append(())
            wanted.append(None)
        else:
            out.append(site.free(int(known)))
            wanted.append(Wanted((out[-1],)))
    site.size_operand(None, 0, wanted)
    site.give(0, out)


@rule("Range")
def arange(site: Site) -> None:
    """Positions: their axis cannot change."""
    values: list[float | None] = []
    for position in range(3):
        numbers = site.numbers(None, position)
        known = numbers[0].value(site.factors.size) if numbers else None
        values.append(None if known is None else float(known))
    start, limit, delta = values
    if start is None or limit is None or not delta:
        numbers = site.numbers(None, 1)
        axis = site.axis_of(numbers[0]) if start == 0 and delta == 1 and numbers else None
        if axis is not None:
            site.shape_operands.add(1)
            site.pin(axis, "index", f"positions counted by {site.label}")
        site.give(0, [axis if axis is not None else site.new(None)])
        return
    site.give(0, [site.new(max(0, int(-((start - limit) // delta))), "index", f"positions counted by {site.label}")])


@rule("ReverseSequence")
def reverse_sequence(site: Site) -> None:
    """Time is reversed in part, batch and the rest are carried."""
    axes = site.axes(0)
    time, batch = int(site.attribute("time_axis", 0)), int(site.attribute("batch_axis", 1))
    site.condition(axes[time], "reverse", order=True)
    site.pin(axes[time], "index", f"{site.label} reverses this axis")
    site.unify(axes[batch], site.axes(1)[0])
    site.give(0, axes)


@rule("Trilu")
def triangular(site: Site) -> None:
    """Row and column numbers decide what stays."""
    axes = site.axes(0)
    site.pin(axes[-2:], "index", f"{site.label} compares positions of this axis")
    site.give(0, axes)


@rule("EyeLike")
def eye_like(site: Site) -> None:
    """Row and column numbers decide what is 1."""
    axes = site.axes(0)
    site.pin(axes, "index", f"{site.label} compares positions of this axis")
    site.give(0, axes)


@rule("RandomNormalLike", "RandomUniformLike", "Bernoulli")
def random_like(site: Site) -> None:
    """Random values of the same shape."""
    site.pin(site.axes(0), "random", f"{site.label} draws at random by position")
    site.give(0, site.axes(0))
