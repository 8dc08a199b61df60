"""The order that channels had in the parent, from the index maps that travel with a child.

Widening permutes: new channels stand between old ones. What drops them again puts those that stay into the parent's
order, so that weights, values and their names mean what they meant there, position by position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.graph.axes import Group

__all__ = ["added_channels", "in_parents_order"]

Indices = NDArray[np.int64]


def in_parents_order(model: ir.Model, group: Group, kept: Indices) -> Indices:
    """The channels of ``group`` that stay, in the order they had before the changes of width that made ``model``.

    Args:
        model: The model that ``group`` was found in, with the index maps in its metadata.
        group: One group of coupled axes.
        kept: Indices of the group, each once, in any order.

    Returns:
        The same indices: as they are where nothing is recorded, where they are not all of the parent, or where the
        order of the channels matters.

    Raises:
        ModelError: The index maps in the metadata are damaged.
    """
    if not group.symmetric:
        return kept
    maps = files.index_maps(model)
    if not maps:
        return kept
    factors = group.coupled.factors
    best: tuple[int, list[int]] | None = None
    for member in group.stored:
        places = factors.coordinate(member.expr, group.atom)
        first = {int(index): place for place, index in reversed(list(enumerate(places.tolist())))}
        if not all(int(index) in first for index in kept):
            continue
        found = _origins(maps, member.value.name or "", member.axis, [first[int(index)] for index in kept], len(places))
        # Of tensors that were made anew on the way, the maps before that are lost: the one told farthest back counts.
        if found[0] and (best is None or found[0] > best[0]):
            best = found
    return kept if best is None else np.asarray(kept)[np.argsort(best[1], kind="stable")]


def added_channels(model: ir.Model, group: Group) -> NDArray[np.bool_]:
    """Which channels of ``group`` the changes of width that made ``model`` have added, of copies all but the first.

    Nowhere true where nothing is recorded.

    Raises:
        ModelError: The index maps in the metadata are damaged.
    """
    most, best = 0, np.zeros(group.size, dtype=np.bool_)
    maps = files.index_maps(model)
    if not maps or not group.symmetric:
        return best
    for member in group.stored:
        places = group.coupled.factors.coordinate(member.expr, group.atom)
        first = {int(index): place for place, index in reversed(list(enumerate(places.tolist())))}
        if len(first) < group.size:
            continue
        told, added = _added(
            maps, member.value.name or "", member.axis, [first[index] for index in range(group.size)], len(places)
        )
        if told > most:
            most, best = told, np.asarray(added, dtype=np.bool_)
    return best


def _added(
    maps: Sequence[Mapping[str, Any]], name: str, axis: int, places: Sequence[int], size: int
) -> tuple[int, list[bool]]:
    """How many maps back entries of a tensor's axis could be followed, and which of them come from no entry there."""
    now, added = list(places), [False] * len(places)
    told = 0
    for entry in reversed(maps):
        tensor = entry["tensors"].get(name)
        one = None if tensor is None else tensor["axes"].get(str(axis))
        if tensor is None or one is None:
            continue
        sources = one["sources"]
        if len(sources) != size:
            break  # the tensor has been made anew since
        seen: set[int] = set()
        for index, place in enumerate(now):
            if added[index]:
                continue
            source = int(sources[place])
            added[index] = source < 0 or source in seen
            now[index] = source
            seen.add(source)
        name, size, told = str(tensor["parent"]), int(one["parent_size"]), told + 1
    return told, added


def _origins(
    maps: Sequence[Mapping[str, Any]], name: str, axis: int, places: Sequence[int], size: int
) -> tuple[int, list[int]]:
    """How many maps back, and where, entries of a tensor's axis were in the earliest parent that had all of them."""
    now: list[int] = list(places)
    told = 0
    for entry in reversed(maps):
        tensor = entry["tensors"].get(name)
        one = None if tensor is None else tensor["axes"].get(str(axis))
        if tensor is None or one is None:
            continue
        sources = one["sources"]
        if len(sources) != size:
            break  # the tensor has been made anew since
        before = [int(sources[place]) for place in now]
        if min(before, default=-1) < 0 or len(set(before)) < len(before):
            break  # channels that are the child's own
        now, name, size, told = before, str(tensor["parent"]), int(one["parent_size"]), told + 1
    return told, now
