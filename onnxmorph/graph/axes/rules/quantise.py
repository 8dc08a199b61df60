"""QuantizeLinear and its like: scales and zero points are per-channel parameters."""

from __future__ import annotations

from onnxmorph.graph.axes.site import Barrier, Site, rule

__all__: list[str] = []


@rule("QuantizeLinear", "DequantizeLinear")
def quantize(site: Site) -> None:
    """Scale and zero point: scalars, or one entry per index of ``axis``."""
    _quantize(site)


@rule("QuantizeLinear", "DequantizeLinear", domain="com.microsoft")
def microsoft_quantize(site: Site) -> None:
    """The contributed forms."""
    _quantize(site)


def _quantize(site: Site) -> None:
    if site.attribute("block_size", 0):
        raise Barrier(f"{site.label} quantises in blocks", "block-quantisation")
    axes = site.axes(0)
    for position in (1, 2):
        if not site.has(position):
            continue
        parameter = site.axes(position)
        if len(parameter) > 1:
            raise Barrier(f"{site.label} has a scale of {len(parameter)} axes", "block-quantisation")
        if not parameter or (site.size(parameter[0]) == 1 and (not axes or len(axes) <= 1)):
            continue
        axis = site.axis(int(site.attribute("axis", 1)), len(axes)) if axes else 0
        if site.size(parameter[0]) == 1 and site.size(axes[axis]) != 1:
            continue
        site.unify(parameter[0], axes[axis])
        site.role(position, 0, "quantisation")
    site.give(0, axes)


@rule("DynamicQuantizeLinear")
def dynamic_quantize(site: Site) -> None:
    """One scale from the smallest and largest element of all."""
    axes = site.axes(0)
    site.condition(axes, "dynamic-quantisation")
    site.give(0, axes)
    site.give(1, [])
    site.give(2, [])


@rule("QLinearAdd", "QLinearMul", domain="com.microsoft")
def qlinear_binary(site: Site) -> None:
    """A, A_scale, A_zero, B, B_scale, B_zero, C_scale, C_zero; scales are scalars."""
    site.give(0, site.broadcast([site.axes(0), site.axes(3)]))


@rule("QLinearLeakyRelu", "QLinearSigmoid", domain="com.microsoft")
def qlinear_unary(site: Site) -> None:
    """X and scalar scales."""
    site.give(0, site.axes(0))


@rule("QLinearSoftmax", domain="com.microsoft")
def qlinear_softmax(site: Site) -> None:
    """X and scalar scales; the attribute `opset` says whose softmax."""
    axes = site.axes(0)
    axis = site.axis(int(site.attribute("axis", -1)), len(axes))
    site.condition(axes[axis:] if int(site.attribute("opset", 13)) < 13 else axes[axis], "softmax")
    site.give(0, axes)


@rule("QLinearGlobalAveragePool", domain="com.microsoft")
def qlinear_global_pool(site: Site) -> None:
    """Spatial axes become 1; channels come second, or last where the attribute says so."""
    axes = site.axes(0)
    place = len(axes) - 1 if site.attribute("channels_last", 0) else 1
    site.condition([expr for axis, expr in enumerate(axes) if axis not in (0, place)], "mean")
    site.give(0, [expr if axis in (0, place) else () for axis, expr in enumerate(axes)])


@rule("QLinearConcat", domain="com.microsoft")
def qlinear_concat(site: Site) -> None:
    """Y_scale, Y_zero, then tensor, scale, zero for each part."""
    positions = range(2, len(site.node.inputs), 3)
    operands = [site.axes(position) for position in positions]
    rank = len(operands[0])
    axis = site.axis(int(site.attribute("axis", 0)), rank)
    out = []
    for place in range(rank):
        here = [axes[place] for axes in operands]
        if place == axis:
            out.append(site.factors.sum([expr or site.new(1) for expr in here]))
            continue
        for expr in here[1:]:
            site.unify(here[0], expr)
        out.append(here[0])
    site.give(0, out)
