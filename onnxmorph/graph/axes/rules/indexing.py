"""Gather and scatter: what is indexed by constants follows its indices, what is indexed by data is pinned."""

from __future__ import annotations

from onnxmorph.graph.axes.site import Axes, Barrier, Site, rule
from onnxmorph.graph.axes.views import viewed

__all__: list[str] = []


@rule("Gather")
def gather(site: Site) -> None:
    """data[..., indices, ...]: the indexed axis is replaced by the axes of the indices."""
    data, indices = site.axes(0), site.axes(1)
    axis = site.axis(int(site.attribute("axis", 0)), len(data))
    expr = data[axis]
    array = site.array(1)
    source = viewed(site) if array is None and not site.constant(0) else None
    if source is not None:
        site.pin(indices, "index", f"{site.label} reads by these indices")
        site.view(source)
        return
    if site.constant(0) and array is None:
        site.pin(expr, "vocabulary", f"rows of the table that {site.label} looks up")
        for place in range(len(data)):
            if place != axis:
                site.role(0, place, "embedding")
    elif array is None:
        site.pin(expr, "index", f"{site.label} picks from it by computed indices")
    elif array.ndim == 0 or array.size == 1:
        site.pin(expr, "index", f"{site.label} picks index {int(array.reshape(-1)[0])} of it")
    elif site.constant(0):
        site.pin([expr, *indices], "index", f"{site.label} picks from a constant by constant indices")
        for place in range(len(data)):
            if place != axis:
                site.role(0, place, "embedding")
    elif array.ndim == 1 and site.size(expr) is not None:
        site.index_operand(1, expr, [int(one) for one in array.reshape(-1)])
        site.role(1, 0, "index")
    else:
        site.pin([expr, *indices], "index", f"{site.label} picks from it by constant indices")
    site.give(0, [*data[:axis], *indices, *data[axis + 1 :]])


@rule("GatherElements")
def gather_elements(site: Site) -> None:
    """One index per element: order and size of every axis matter."""
    data, indices = site.axes(0), site.axes(1)
    site.pin([*data, *indices], "index", f"{site.label} picks from it element by element")
    site.give(0, indices)


@rule("GatherND")
def gather_nd(site: Site) -> None:
    """The last axis of the indices names leading axes of data; what lies behind them is carried."""
    data, indices = site.axes(0), site.axes(1)
    batch = int(site.attribute("batch_dims", 0))
    width = site.size(indices[-1])
    if width is None:
        raise Barrier(f"{site.label} has indices of unknown width")
    site.pin([*data[: batch + width], *indices], "index", f"{site.label} picks from it by computed indices")
    site.give(0, [*indices[:-1], *data[batch + width :]])


@rule("ScatterND")
def scatter_nd(site: Site) -> None:
    """Slices of data are replaced; what lies behind the indexed axes is carried."""
    data, indices, updates = site.axes(0), site.axes(1), site.axes(2)
    width = site.size(indices[-1])
    if width is None:
        raise Barrier(f"{site.label} has indices of unknown width")
    site.pin([*data[:width], *indices, *updates[: len(indices) - 1]], "index", f"{site.label} writes by indices")
    for one, two in zip(data[width:], updates[len(indices) - 1 :], strict=True):
        site.unify(one, two)
    site.give(0, data)


@rule("ScatterElements", "Scatter")
def scatter_elements(site: Site) -> None:
    """One index per element: order and size of every axis matter."""
    data = site.axes(0)
    site.pin([*data, *site.axes(1), *site.axes(2)], "index", f"{site.label} writes element by element")
    site.give(0, data)


@rule("OneHot")
def one_hot(site: Site) -> None:
    """A new axis of the given depth."""
    indices = site.axes(0)
    numbers = site.numbers(None, 1)
    known = numbers[0].value(site.factors.size) if numbers else None
    axis = site.axis(int(site.attribute("axis", -1)), len(indices) + 1)
    depth = site.new(None if known is None else int(known), "index", f"depth of {site.label}")
    site.give(0, [*indices[:axis], depth, *indices[axis:]])


@rule("NonZero")
def non_zero(site: Site) -> None:
    """Positions of what is not zero."""
    axes = site.axes(0)
    site.pin(axes, "index", f"{site.label} gives positions in this axis")
    site.give(0, [site.new(len(axes)), site.new(None)])


@rule("Compress")
def compress(site: Site) -> None:
    """Picks by a mask."""
    axes: Axes = list(site.axes(0))
    given = site.attribute("axis")
    if given is None:
        site.pin(axes, "index", f"{site.label} picks from all axes by a mask")
        site.give(0, [site.new(None)])
        return
    axis = site.axis(int(given), len(axes))
    site.pin([axes[axis], *site.axes(1)], "index", f"{site.label} picks by a mask")
    axes[axis] = site.new(None)
    site.give(0, axes)


@rule("NonMaxSuppression")
def non_max_suppression(site: Site) -> None:
    """Indices of batch, class and box."""
    for position in (0, 1):
        site.pin(site.axes(position), "index", f"{site.label} gives indices of this axis")
    site.give(0, [site.new(None), site.new(3)])
