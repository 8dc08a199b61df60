"""Which taps of the two factors carry the parent's taps.

A parent tap ``w`` is one product of a tap ``v`` of the fixed factor and a tap ``u`` of the solved one, ``u + v = w``.
On one kernel axis either the solved factor holds the parent's taps, each under one tap of the fixed factor (several,
``ceil(K / K_solved)``, when the parent is wider than the solved factor), or the other way round. With every axis
settled the equation becomes one low-rank matrix factorisation ``M = A B``, whose width decides exactness.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxmorph.equation.precision import Array

__all__ = ["AxisTiling", "Tiling", "tilings"]


@dataclass(frozen=True)
class AxisTiling:
    """One axis: taps in use of the fixed factor and of the solved one, and for each parent tap the pair making it."""

    fixed: tuple[int, ...]
    solved: tuple[int, ...]
    cover: tuple[tuple[int, int], ...]

    def swapped(self) -> AxisTiling:
        return AxisTiling(self.solved, self.fixed, tuple((u, v) for v, u in self.cover))


def _held_by_solved(kernel: int, fixed: int, solved: int, offset: int) -> AxisTiling:
    """The solved factor holds runs of parent taps, each run under its own tap of the fixed factor."""
    if kernel <= solved:
        lowest, highest = max(0, offset + kernel - solved), min(offset, fixed - 1)
        starts = [min(max((fixed - 1) // 2, lowest), highest)]
    else:
        starts = [min(offset + run, fixed - 1) for run in range(0, kernel, solved)]
    pairs = []
    for tap in range(kernel):
        start = starts[min(tap // solved, len(starts) - 1)]
        pairs.append((start, offset + tap - start))
    used = sorted({u for _, u in pairs})
    place = {u: k for k, u in enumerate(used)}
    return AxisTiling(tuple(starts), tuple(used), tuple((starts.index(v), place[u]) for v, u in pairs))


@dataclass(frozen=True)
class Tiling:
    """All axes together. ``rows`` and ``columns`` count taps in use of the fixed and of the solved factor."""

    axes: tuple[AxisTiling, ...]
    fixed_taps: tuple[int, ...]
    solved_taps: tuple[int, ...]

    @property
    def rows(self) -> int:
        return math.prod(len(axis.fixed) for axis in self.axes)

    @property
    def columns(self) -> int:
        return math.prod(len(axis.solved) for axis in self.axes)

    @property
    def fixed_border(self) -> bool:
        """The fixed factor has taps that carry nothing of the parent."""
        return self.rows < math.prod(self.fixed_taps)

    @property
    def solved_border(self) -> bool:
        return self.columns < math.prod(self.solved_taps)

    def fixed_flat(self) -> Array:
        """Flat positions, within the taps of the fixed factor, of those in use."""
        return _flat([axis.fixed for axis in self.axes], self.fixed_taps)

    def solved_flat(self) -> Array:
        return _flat([axis.solved for axis in self.axes], self.solved_taps)

    def cover(self) -> Iterator[tuple[tuple[int, ...], int, int]]:
        """``(parent tap, row, column)`` for every tap of the parent."""
        sizes_fixed = [len(axis.fixed) for axis in self.axes]
        sizes_solved = [len(axis.solved) for axis in self.axes]
        for tap in itertools.product(*(range(len(axis.cover)) for axis in self.axes)):
            row = column = 0
            for k, t in enumerate(tap):
                v, u = self.axes[k].cover[t]
                row, column = row * sizes_fixed[k] + v, column * sizes_solved[k] + u
            yield tap, row, column

    def matrix(self, kernel: Array) -> Array:
        """``M`` of a grouped kernel ``(g, a, b, *taps)``: float64 ``(g, a * rows, b * columns)``, one entry of it for
        each entry of the kernel and zeros where a run of taps ends early."""
        groups, outer, inner = kernel.shape[:3]
        if self.rows == 1:  # the parent as it stands
            return kernel.astype(np.float64).reshape(groups, outer, inner * self.columns)
        whole = np.zeros((groups, outer, self.rows, inner, self.columns))
        for tap, row, column in self.cover():
            whole[:, :, row, :, column] = kernel[(slice(None),) * 3 + tap]
        return whole.reshape(groups, outer * self.rows, inner * self.columns)


def _flat(positions: Sequence[tuple[int, ...]], sizes: Sequence[int]) -> Array:
    if not sizes:
        return np.zeros(1, dtype=np.intp)
    mesh = np.meshgrid(*positions, indexing="ij")
    return np.asarray(np.ravel_multi_index([m.reshape(-1) for m in mesh], tuple(sizes)))


def tilings(kernel: Sequence[int], fixed: Sequence[int], solved: Sequence[int], offset: Sequence[int]) -> list[Tiling]:
    """Every way to share the parent's axes between the factors; at most ``2 ** axes`` of them.

    Args:
        kernel: taps of the parent.
        fixed: taps of the factor that is fixed first.
        solved: taps of the other.
        offset: where the parent starts in the composition, per axis.
    """
    choices: list[list[AxisTiling]] = []
    for k, k_fixed, k_solved, start in zip(kernel, fixed, solved, offset, strict=True):
        options = [_held_by_solved(k, k_fixed, k_solved, start)]
        other = _held_by_solved(k, k_solved, k_fixed, start).swapped()
        if other not in options:
            options.append(other)
        choices.append(options)
    return [Tiling(axes, tuple(fixed), tuple(solved)) for axes in itertools.product(*choices)]
