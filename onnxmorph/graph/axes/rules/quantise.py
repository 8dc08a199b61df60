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
