"""What new indices hold. A fill sees one stored tensor's axis at a time and edits it as it likes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmorph.errors import Refusal
from onnxmorph.graph.axes.group import Group, Member
from onnxmorph.graph.axes.index_map import IndexMap

__all__ = ["AxisEdit", "Fill", "keep_zero", "replicate", "zero_out"]

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class AxisEdit:
    """One axis of one stored tensor, gathered already.

    Args:
        member: Tensor, axis and roles.
        array: The gathered array in the stored type; new entries hold ``zero``. The fill may write into it.
        axis: The axis that was gathered.
        new: For every position of the axis whether it is new.
        zero: The stored number that means 0 (the zero point of a quantised tensor).
        parent: The array before this axis was gathered.
        coordinates: For every changed group, the child index it has at every position; -1 where it has none.
    """

    member: Member
    array: Array
    axis: int
    new: NDArray[np.bool_]
    zero: Any
    parent: Array
    coordinates: Mapping[Group, NDArray[np.int64]]
    new_of: Mapping[Group, NDArray[np.bool_]]
    """For every changed group, the positions where its own index is new."""
    roles_of: Mapping[Group, frozenset[str]]
    """For every changed group what the axis is for: grouped weights make one factor of it and read another."""

    anchor: NDArray[np.int64]
    """For every position the parent's position with index 0 in place of a new one: which part of a fused axis it is."""

    @property
    def roles(self) -> frozenset[str]:
        """What the axis is for, to any of the groups."""
        return frozenset[str]().union(*self.roles_of.values())

    @property
    def read(self) -> NDArray[np.bool_]:
        """Positions that read a new index of some group: the fan-out of what is new."""
        out = np.zeros(self.new.shape, dtype=bool)
        for group, roles in self.roles_of.items():
            if "contracted" in roles:
                out |= self.new_of[group]
        return out

    @property
    def fed(self) -> NDArray[np.bool_]:
        """Positions that are new and read no new index: the fan-in of what is new, and its parameters."""
        return self.new & ~self.read

    def front(self) -> Array:
        """The array with the axis in front, as a view to write into."""
        return np.moveaxis(self.array, self.axis, 0)


Fill = Callable[[AxisEdit], None]


def keep_zero(edit: AxisEdit) -> None:
    """New entries stay 0, variances become 1, quantisation scales are copied."""
    fed = edit.fed
    if not fed.any():
        return
    front = edit.front()
    if "variance" in edit.roles:
        front[fed] = 1
    elif "quantisation" in edit.roles and edit.parent.dtype.kind == "f":
        front[fed] = np.moveaxis(edit.parent, edit.axis, 0)[:1]


NORMALISING = frozenset({"scale", "shift", "mean", "variance"})
"""Roles of the tensors that normalise a channel together."""


def of_one_channel(edit: AxisEdit, places: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """For new positions of a tensor per channel, the kept ones whose numbers they take: of one channel in every tensor.

    What training has switched off has a variance of 0 and a scale of 0: that variance under another channel's scale
    would multiply by hundreds.
    """
    channels = np.zeros(len(places), dtype=np.int64)
    for group, new in edit.new_of.items():
        channels = np.where(new[places], edit.coordinates[group][places], channels)
    kept = np.flatnonzero(~edit.new)
    drawn = np.random.default_rng([seed, len(kept)]).random(int(channels.max(initial=0)) + 1)
    return np.asarray(kept[(drawn[channels] * len(kept)).astype(np.int64)])


def zero_out(seed: int = 0) -> Fill:
    """NetMorph's default: what feeds a new channel is random at the parent's scale, what reads it is 0.

    Numbers are drawn from the parent's own entries of the same tensor, so they lie in its range and type.
    """
    random = np.random.default_rng(seed)

    def fill(edit: AxisEdit) -> None:
        fed = edit.fed
        if not fed.any() or edit.parent.size == 0 or "index" in edit.roles:
            return
        if "quantisation" in edit.roles and edit.parent.dtype.kind != "f":
            return
        front = edit.front()
        if edit.roles & NORMALISING and not edit.new.all():
            front[fed] = front[of_one_channel(edit, np.flatnonzero(fed), seed)]
            return
        kept = edit.parent.reshape(-1)
        front[fed] = kept[random.integers(kept.size, size=front[fed].shape)]

    return fill


def replicate(maps: Mapping[Group, IndexMap], seed: int = 0) -> Fill:
    """Net2Net: what feeds a copy is copied, what reads it is split over the copies by unequal shares that add up to 1.

    The fill for maps whose indices are all kept or copied; new ones (`NEW`) stay 0.

    Raises:
        Refusal: (by the fill) a tensor both feeds and reads the channels, so it cannot be copied and split at once; or
            it is quantised, so it cannot be split.
    """
    random = np.random.default_rng(seed)
    shares: dict[Group, NDArray[np.float64]] = {}
    for group, index_map in maps.items():
        weights = random.uniform(0.5, 1.5, size=index_map.child_size)
        totals = np.zeros(index_map.parent_size)
        kept = index_map.sources >= 0
        np.add.at(totals, index_map.sources[kept], weights[kept])
        shares[group] = np.where(kept, weights / totals[np.maximum(index_map.sources, 0)], 1.0)

    def fill(edit: AxisEdit) -> None:
        keep_zero(edit)
        factor = np.ones(edit.array.shape[edit.axis])
        tied = False
        for group, places in edit.coordinates.items():
            if "contracted" in edit.roles_of[group]:
                factor *= np.where(places >= 0, shares[group][np.maximum(places, 0)], 1.0)
                tied |= len(edit.roles_of[group]) > 1
        if (factor == 1).all():
            return
        name = edit.member.value.name
        if tied:
            raise Refusal(f"'{name}' both feeds and reads the channels, so copies cannot share it", code="tied")
        if edit.array.dtype.kind in "iub":
            raise Refusal(f"'{name}' is quantised and cannot be split over copies", code="quantised")
        front = edit.front()
        spread = factor.reshape(-1, *(1,) * (front.ndim - 1))
        front[...] = (front.astype(np.float64) * spread).astype(front.dtype)

    return fill
