"""What of a layer's output axis a group is, in words: heads, the size of a head, groups, a part of a concatenation."""

from __future__ import annotations

import contextlib
import math

from onnxmorph.errors import Refusal
from onnxmorph.graph.axes import Group, GroupTable, resize
from onnxmorph.graph.layers import LinearLayer

__all__ = ["resize_naturally", "unit_of"]

_ATTENTION = frozenset({"Attention", "MultiHeadAttention"})


def resize_naturally(table: GroupTable, layer: LinearLayer, to: int, *, interface: bool = False) -> tuple[Group, int]:
    """As `onnxmorph.graph.axes.resize`, but by whole heads where that meets ``to``.

    Raises:
        Refusal: No group of the axis may change, or none meets ``to``.
    """
    for group in table.of_axis(layer.output, layer.output_axis):
        if group.size > 1 and group.refusal(interface=interface) is None and _are_heads(group):
            with contextlib.suppress(Refusal):
                return resize(table, layer.output, layer.output_axis, to, interface=interface, among=(group,))
    return resize(table, layer.output, layer.output_axis, to, interface=interface)


def unit_of(group: Group, size: int, layer: LinearLayer) -> str:
    """What changes, such as ``"heads 4 -> 6 of 16"``; empty where the group is the whole axis.

    Args:
        group: The group that changes, one of those of the layer's output axis.
        size: Its indices in the child.
        layer: The layer.
    """
    if layer.cell is not None:
        return "hidden units" + (" of each direction" if layer.cell.directions > 1 else "")
    factors = group.coupled.factors
    axes = group.coupled.axes(layer.output)
    if axes is None:
        return ""
    expr = axes[layer.output_axis]
    whole = factors.size(expr) or 0
    change = f"{group.size} -> {size}"
    if factors.factors(expr) == [group.atom]:
        return ""
    places = factors.placements(expr, group.atom)
    inner = min((stride for _, stride in places), default=1)
    others = [one for one in group.table.of_axis(layer.output, layer.output_axis) if one is not group]
    if inner > 1 and _are_heads(group):
        # With grouped queries, heads are (heads of keys) x (queries to each): both are factors of the axis.
        each = math.prod(one.size for one in others if _are_heads(one) and inner % one.size == 0)
        return f"heads {group.size * each} -> {size * each} of {inner // each}"
    if inner > 1:
        # One index of the group is a row of `inner` channels.
        return f"groups {change} of {inner}"
    heads = math.prod(one.size for one in others if _are_heads(one))
    if heads > 1:
        return f"size of a head {change}, in each of {heads} heads"
    rows = max(len(factors.coordinate(expr, group.atom)) // group.size, 1) if group.size else 1
    used = int((factors.coordinate(expr, group.atom) >= 0).sum())
    if used < whole:
        return f"a part of the {whole}, {change}"
    return f"{change} in each of {rows} parts"


def _are_heads(group: Group) -> bool:
    """Whether attention weights, one set for each, are computed for the group."""
    for member in group.members:
        producer = member.value.producer()
        if producer is None or member.axis == 0:
            continue
        if producer.op_type == "Softmax":
            return True
        if producer.op_type in _ATTENTION:
            # (N, heads, L, size), or (N, L, heads x size), of which the size of a head is the inner factor.
            rank = len(group.coupled.axes(member.value) or ())
            return member.axis == 1 if rank == 4 else all(stride > 1 for _, stride in member.placements)
    return False
