"""Reductions, arg-reductions, TopK and cumulative sums."""

from __future__ import annotations

from onnxmorph.graph.axes.site import Axes, Site, rule

__all__: list[str] = []

_KINDS = {
    "ReduceMean": "mean",
    "ReduceSum": "sum",
    "ReduceProd": "prod",
    "ReduceMax": "max",
    "ReduceMin": "min",
    "ReduceL1": "l1",
    "ReduceL2": "l2",
    "ReduceSumSquare": "sum-of-squares",
    "ReduceLogSum": "logsum",
    "ReduceLogSumExp": "logsumexp",
}


@rule(*_KINDS)
def reduction(site: Site) -> None:
    """Axes in an attribute or an operand; none means all, unless noop_with_empty_axes says nothing."""
    axes = site.axes(0)
    given = site.integers("axes", 1)
    if not given:
        if site.attribute("noop_with_empty_axes", 0):
            site.give(0, axes)
            return
        given = list(range(len(axes)))
    over = {site.axis(axis, len(axes)) for axis in given}
    site.condition([axes[axis] for axis in sorted(over)], _KINDS[site.node.op_type])
    keep = bool(site.attribute("keepdims", 1))
    out: Axes = []
    for axis, expr in enumerate(axes):
        if axis not in over:
            out.append(expr)
        elif keep:
            out.append(())
    site.give(0, out)


@rule("ArgMax", "ArgMin")
def arg_reduction(site: Site) -> None:
    """The result holds indices of the axis, so that even its order matters."""
    axes = site.axes(0)
    axis = site.axis(int(site.attribute("axis", 0)), len(axes))
    site.condition(axes[axis], site.node.op_type.lower(), order=True)
    site.pin(axes[axis], "index", f"{site.label} gives indices of this axis")
    kept = [()] if site.attribute("keepdims", 1) else []
    site.give(0, [*axes[:axis], *kept, *axes[axis + 1 :]])


@rule("TopK")
def top_k(site: Site) -> None:
    """Values in order, and indices of the axis."""
    axes = site.axes(0)
    axis = site.axis(int(site.attribute("axis", -1)), len(axes))
    site.condition(axes[axis], "topk", order=True)
    site.pin(axes[axis], "index", f"{site.label} gives indices of this axis")
    count = site.attribute("k")
    if count is None:
        numbers = site.numbers(None, 1)
        known = numbers[0].value(site.factors.size) if numbers else None
        count = None if known is None else int(known)
    out = [*axes[:axis], site.new(count), *axes[axis + 1 :]]
    site.give(0, out)
    site.give(1, out)


@rule("CumSum", "CumProd")
def cumulative(site: Site) -> None:
    """Every index depends on those before it."""
    axes = site.axes(0)
    given = site.integers("axis", 1) or [0]
    site.condition(axes[site.axis(given[0], len(axes))], site.node.op_type.lower(), order=True)
    site.give(0, axes)
