"""Pooling and resizing: batch and channels are carried, spatial axes are made anew."""

from __future__ import annotations

from onnxmorph.graph.axes.contents import Number
from onnxmorph.graph.axes.factors import Expr
from onnxmorph.graph.axes.rules.linear import spatial_sizes
from onnxmorph.graph.axes.site import Axes, Barrier, Site, rule
from onnxmorph.graph.axes.uses import Wanted

__all__: list[str] = []


@rule("MaxPool", "AveragePool", "LpPool")
def pool(site: Site) -> None:
    """A sliding window over the spatial axes."""
    axes = site.axes(0)
    kernel = site.integers("kernel_shape")
    if kernel is None or len(kernel) != len(axes) - 2:
        raise Barrier(f"{site.label} has no kernel for its {len(axes)} axes")
    site.pin(axes[2:], "spatial", f"{site.label} slides over this axis")
    sizes = spatial_sizes(site, [site.size(expr) for expr in axes[2:]], kernel)
    out = [*axes[:2], *(site.new(size, "spatial") for size in sizes)]
    site.give(0, out)
    if len(site.node.outputs) > 1 and site.node.outputs[1].uses():
        # Indices are flat positions in the whole input: channels are part of the number.
        site.block(axes, "not-followed", f"the indices that {site.label} gives count channels too")
    site.give(1, out)


@rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(site: Site) -> None:
    """Spatial axes become 1."""
    axes = site.axes(0)
    kind = {"GlobalAveragePool": "mean", "GlobalMaxPool": "max", "GlobalLpPool": "l2"}[site.node.op_type]
    site.condition(axes[2:], kind)
    site.give(0, [*axes[:2], *(() for _ in axes[2:])])


@rule("Resize", "Upsample")
def resize(site: Site) -> None:
    """An axis whose scale is 1, or whose size is its own, is carried; the others are made anew."""
    axes = site.axes(0)
    version = 10 if site.node.op_type == "Upsample" else site.opset
    scale_at, size_at = (1, None) if version < 11 else (2, 3)
    named = site.integers("axes") if version >= 18 else None
    places = [site.axis(axis, len(axes)) for axis in named] if named is not None else list(range(len(axes)))
    if site.attribute("coordinate_transformation_mode") == "tf_crop_and_resize":
        # The region may crop an axis that keeps its size.
        site.pin([axes[place] for place in places], "spatial", f"{site.label} crops this axis")
    out: Axes = list(axes)
    sizes = _elements(site, size_at, len(places))
    if sizes is not None:
        wanted: list[Wanted | None] = []
        for place, number in zip(places, sizes, strict=True):
            expr = axes[place]
            if _is_size_of(site, number, expr):
                wanted.append(Wanted((expr,)))
            else:
                wanted.append(None)
                out[place] = _resized(site, expr, number.value(site.factors.size))
        site.size_operand(None, size_at, wanted)
        site.give(0, out)
        return
    scales = _scales(site, scale_at, len(places))
    for index, place in enumerate(places):
        scale = None if scales is None else scales[index]
        if scale == 1:
            continue
        size = site.size(axes[place])
        out[place] = _resized(site, axes[place], None if scale is None or size is None else int(size * scale))
    site.give(0, out)


def _elements(site: Site, position: int | None, count: int) -> list[Number] | None:
    if position is None or not site.has(position):
        return None
    numbers = site.numbers(None, position)
    if numbers is None:
        known = site.axes(position)
        if len(known) == 1 and site.size(known[0]) == 0:
            return None
        raise Barrier(f"the sizes of {site.label} are computed from data", "computed-shape")
    return numbers if len(numbers) == count else None


def _scales(site: Site, position: int, count: int) -> list[float] | None:
    given = site.attribute("scales")
    if given is None:
        array = site.array(position)
        given = None if array is None else array.reshape(-1).tolist()
    return None if given is None or len(given) != count else [float(one) for one in given]


def _is_size_of(site: Site, number: Number, expr: Expr) -> bool:
    if number.axis is not None and site.factors.same(number.axis, expr):
        return True
    known = number.value(site.factors.size)
    return known is not None and known == site.size(expr)


def _resized(site: Site, expr: Expr, size: int | float | bool | None) -> Expr:
    site.condition(expr, "resize", order=True)
    site.pin(expr, "spatial", f"{site.label} interpolates over this axis")
    return site.new(None if size is None else int(size), "spatial")


@rule("GridSample")
def grid_sample(site: Site) -> None:
    """Channels are carried; spatial sizes come from the grid."""
    axes, grid = site.axes(0), site.axes(1)
    site.pin(axes[2:], "spatial", f"{site.label} samples this axis")
    site.pin(grid[-1], "structure", f"coordinates for {site.label}")
    site.unify(axes[0], grid[0])
    site.give(0, [*axes[:2], *grid[1:-1]])


@rule("RoiAlign", "MaxRoiPool")
def regions(site: Site) -> None:
    """(N, C, H, W) -> (regions, C, h, w)."""
    axes, rois = site.axes(0), site.axes(1)
    site.pin([axes[0], *axes[2:], *rois], "spatial", f"{site.label} samples this axis")
    if site.has(2):
        site.pin(site.axes(2), "spatial", f"{site.label} samples by these")
    if site.node.op_type == "MaxRoiPool":
        height, width = site.integers("pooled_shape") or [1, 1]
    else:
        height, width = int(site.attribute("output_height", 1)), int(site.attribute("output_width", 1))
    site.give(0, [rois[0], axes[1], site.new(height, "spatial"), site.new(width, "spatial")])
