"""Index maps: what every change of width is. Child index -> parent index, or -1 for a new one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["NEW", "IndexMap"]

NEW = -1


@dataclass(frozen=True, eq=False)
class IndexMap:
    """A map from the indices of the child's axis to those of the parent's.

    Widen, shrink, permute, duplicate and untie are the same operation with different maps: an index may be kept,
    copied (several child indices with one source), new (`NEW`), dropped (a parent index that is nobody's source) or
    moved.

    Args:
        parent_size: Number of indices of the parent.
        sources: For every child index its parent index, or -1.

    Raises:
        ValueError: A source is out of range.
    """

    parent_size: int
    sources: NDArray[np.int64]

    def __post_init__(self) -> None:
        sources = np.array(self.sources, dtype=np.int64).reshape(-1)
        if sources.size and (sources.min() < NEW or sources.max() >= self.parent_size):
            raise ValueError(f"sources must lie in -1..{self.parent_size - 1}")
        sources.setflags(write=False)
        object.__setattr__(self, "sources", sources)

    @classmethod
    def identity(cls, size: int) -> IndexMap:
        """Nothing changes."""
        return cls(size, np.arange(size))

    @classmethod
    def widen(cls, size: int, to: int) -> IndexMap:
        """``to - size`` new indices at the end."""
        if to < size:
            raise ValueError(f"{to} is less than {size}")
        return cls(size, np.concatenate([np.arange(size), np.full(to - size, NEW)]))

    @classmethod
    def keep(cls, size: int, kept: Sequence[int] | NDArray[np.int64]) -> IndexMap:
        """Only these parent indices stay, in this order."""
        return cls(size, np.asarray(kept, dtype=np.int64))

    @property
    def child_size(self) -> int:
        """Number of indices of the child."""
        return int(self.sources.size)

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes."""
        return self.child_size == self.parent_size and bool(np.array_equal(self.sources, np.arange(self.parent_size)))

    @property
    def is_permutation(self) -> bool:
        """Whether every parent index is the source of exactly one child index and none is new."""
        return bool(np.array_equal(np.sort(self.sources), np.arange(self.parent_size)))

    @property
    def new(self) -> NDArray[np.int64]:
        """Child indices without a source."""
        return np.flatnonzero(self.sources == NEW)

    @property
    def dropped(self) -> NDArray[np.int64]:
        """Parent indices that no child index comes from."""
        return np.setdiff1d(np.arange(self.parent_size), self.sources)

    @property
    def copies(self) -> NDArray[np.int64]:
        """For every child index how many child indices share its source; 0 for a new one."""
        counts = np.bincount(self.sources[self.sources >= 0], minlength=self.parent_size)
        return np.where(self.sources >= 0, counts[self.sources], 0).astype(np.int64)

    def then(self, later: IndexMap) -> IndexMap:
        """This map first, ``later`` on its child: grandchild index -> parent index.

        Raises:
            ValueError: ``later`` does not start from this map's child.
        """
        if later.parent_size != self.child_size:
            raise ValueError(f"a map of {later.parent_size} indices cannot follow one that gives {self.child_size}")
        padded = np.append(self.sources, NEW)  # source -1 of `later` reads the appended NEW
        return IndexMap(self.parent_size, padded[later.sources])

    def inverse(self) -> IndexMap:
        """The map that takes the child back: ``self.then(self.inverse())`` is the identity.

        Of several copies the first is taken back.

        Raises:
            ValueError: A parent index was dropped, so there is nothing to take it from.
        """
        if self.dropped.size:
            raise ValueError(f"{self.dropped.size} indices were dropped and cannot be taken back")
        back = np.full(self.parent_size, NEW)
        for child in range(self.child_size - 1, -1, -1):
            if self.sources[child] >= 0:
                back[self.sources[child]] = child
        return IndexMap(self.child_size, back)

    def take(self, array: NDArray[Any], axis: int = 0, fill: Any = 0) -> NDArray[Any]:
        """Gather an array along an axis; new indices hold ``fill``."""
        out = np.take(array, np.maximum(self.sources, 0), axis=axis)
        if self.new.size:
            out = np.moveaxis(out, axis, 0)
            out[self.new] = fill
            out = np.moveaxis(out, 0, axis)
        return out

    def to_json(self) -> dict[str, Any]:
        """Plain data: ``{"parent_size": n, "sources": [...]}``."""
        return {"parent_size": self.parent_size, "sources": self.sources.tolist()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> IndexMap:
        """The inverse of `to_json`."""
        return cls(int(data["parent_size"]), np.asarray(data["sources"], dtype=np.int64))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IndexMap):
            return NotImplemented
        return self.parent_size == other.parent_size and np.array_equal(self.sources, other.sources)

    def __hash__(self) -> int:
        return hash((self.parent_size, self.sources.tobytes()))
