"""What a solver gives back: the factors, and its own diagnosis of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxmorph.equation.kernels import compose_pair, grouped, window
from onnxmorph.equation.precision import Array, unit_roundoff

__all__ = ["Factorization", "occupancy", "scale_ratio"]

# Columns of the parent that a residual is measured on when all of them would cost too much.
PROBES = 16
# Multiply-adds beyond which the residual is estimated by probes instead of measured on every entry.
PROBE_ABOVE = 2e10
# What float64 arithmetic may leave before the factors are rounded, relative, for a parent stored in float64.
FLOAT64_SLACK = 2e-13
# Beyond this growth of rounding noise a factorization is not called exact however small its residual.
AMPLIFICATION_LIMIT = 256.0


@dataclass(frozen=True, eq=False)
class Factorization:
    """Kernels whose composition is the parent's kernel, and how good they are.

    Attributes:
        factors: in order of application, ``(out, in / groups, *taps)``, rounded to the model's type.
        residual: ``||compose(factors) - G~|| / ||G~||`` (Frobenius), float64 arithmetic on the *rounded* factors.
        residual_before_rounding: the same for the unrounded solution of the half that was solved last.
        worst_row_residual: the largest such ratio over output channels that are not (nearly) dead.
        method: the form taken, one word or two: ``"fix-second"``, ``"fix-first"``, ``"low-rank"``, ``"alternating"``,
            ``"practical"``, ``"mirror"``, ``"sequence"``, ``"beside"``.
        occupancy: share of non-zeros, per factor.
        scale_ratio: std over the He std ``sqrt(2 / fan_in)``, per factor.
        amplification: how much more the rounding of hidden values weighs in the child than that of the parent's own
            products, ``sqrt(sum_l ||F2[:, l]||^2 ||F1[l]||^2) / ||G||``; 1 for an orthogonal F2, and by how much
            cancellation between hidden channels costs accuracy at run time.
        bytes_needed: bound on the memory the solver took beyond its input, known before it started.
        exact: the gate (never condition (7)): the residual is what rounding to ``dtype`` must leave, no more.
        iterations: half-steps taken by an alternating solver, else 1.
        why: in words, what was done and what stands in the way where ``exact`` is false.
        probed: the residuals are estimates from random combinations of input channels (very large kernels).
        pairs: mirror only: ``(n, 2)`` hidden channels that are each other's negative.
        fresh: beside only: for every hidden channel whether it is new, and read by nothing yet.
        least_width: where not exact: the least width that is known to be.
    """

    factors: tuple[Array, ...]
    residual: float
    residual_before_rounding: float
    worst_row_residual: float
    method: str
    occupancy: tuple[float, ...]
    scale_ratio: tuple[float, ...]
    amplification: float
    bytes_needed: int
    exact: bool
    why: str
    iterations: int = 1
    probed: bool = False
    pairs: Array | None = field(default=None, repr=False)
    fresh: Array | None = field(default=None, repr=False)
    least_width: int | None = None

    @property
    def dense(self) -> bool:
        """No zeros but a handful that a 16-bit type may round to."""
        return all(share > 0.9999 for share in self.occupancy)


def occupancy(kernel: Array) -> float:
    """Share of non-zero entries."""
    return float(np.count_nonzero(kernel)) / max(1, kernel.size)


def sum_of_squares(x: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    """Sum of squares in float64, without a float64 copy of a large array where it can be avoided."""
    if axis is None and x.dtype != np.float64 and x.size > 1 << 22:
        flat = x.reshape(-1)
        step = 1 << 20
        return np.asarray(
            sum(float(np.square(flat[k : k + step].astype(np.float64)).sum()) for k in range(0, flat.size, step))
        )
    return np.asarray(np.square(x.astype(np.float64, copy=False)).sum(axis=axis))


def scale_ratio(kernel: Array, fan_in: int | None = None) -> float:
    """Root mean square over the He std ``sqrt(2 / fan_in)``; ``kernel`` is ``(out, in / groups, *taps)``."""
    fan = math.prod(kernel.shape[1:]) if fan_in is None else fan_in
    return float(np.sqrt(float(sum_of_squares(kernel)) / max(1, kernel.size) * fan / 2))


def channel_energy(kernel: Array, axis: int) -> Array:
    """``(g, channels)`` sums of squares of a grouped kernel over every axis but groups and ``axis``."""
    moved = np.moveaxis(kernel, axis, 1)
    energies = np.empty(moved.shape[:2])
    step = max(1, (1 << 22) // max(1, moved.size // max(1, moved.shape[1])))
    for start in range(0, moved.shape[1], step):
        block = moved[:, start : start + step].astype(np.float64)
        energies[:, start : start + step] = np.square(block).sum(axis=tuple(range(2, block.ndim)))
    return energies


def amplification(factors: Sequence[Array], norm: float) -> float:
    """Growth of rounding noise of grouped factors, the largest over the joins between them.

    For two factors ``sqrt(sum_l ||F2[:, l]||^2 ||F1[l]||^2) / ||G||``: hidden value ``l`` carries an independent
    relative error, which reaches the outputs through ``F2[:, l]``.
    """
    if norm == 0:
        return 1.0
    worst = 0.0
    for k in range(len(factors) - 1):
        before = factors[0]
        for factor in factors[1 : k + 1]:
            before = compose_pair(before, factor)
        after = factors[k + 1]
        for factor in factors[k + 2 :]:
            after = compose_pair(after, factor)
        noise = float((channel_energy(before, 1) * channel_energy(after, 2)).sum())
        worst = max(worst, math.sqrt(noise) / norm)
    return worst


def measure(
    factors: Sequence[Array],
    parent: Array,
    offset: Sequence[int],
    rng: np.random.Generator,
    probes: bool | None = None,
) -> tuple[float, float, bool]:
    """Residual, worst residual of a row, and whether they are estimates; all kernels grouped ``(g, out, in, *taps)``.

    With probes ``Omega`` of i.i.d. normal entries, ``E ||E Omega||^2 / p = ||E||^2``, row by row as well.
    """
    groups, outputs, inputs = parent.shape[:3]
    taps = parent.shape[3:]
    work = sum(
        math.prod(left.shape) * math.prod(right.shape[3:]) * right.shape[1]
        for left, right in itertools.pairwise(factors)
    )
    probed = inputs > 2 * PROBES and (work > PROBE_ABOVE if probes is None else probes)
    error = np.zeros((groups, outputs))
    size = np.zeros((groups, outputs))
    if probed:
        blocks = [slice(0, PROBES)]
        mix = rng.standard_normal((inputs, PROBES))
    else:
        per_input = groups * max(outputs, *(f.shape[1] for f in factors)) * math.prod(taps) * 8 * 4
        step = max(1, min(inputs, (1 << 26) // max(1, per_input)))
        blocks = [slice(start, min(inputs, start + step)) for start in range(0, inputs, step)]
    for block in blocks:
        if probed:
            first, target = combine(factors[0], mix), combine(parent, mix)
        else:
            first, target = factors[0][:, :, block], parent[:, :, block].astype(np.float64)
        whole = first.astype(np.float64)
        for factor in factors[1:]:
            whole = compose_pair(whole, factor)
        whole[window(offset, taps)] -= target
        axes = tuple(range(2, whole.ndim))
        error += np.square(whole).sum(axis=axes)
        size += np.square(target).sum(axis=axes)
    total = float(size.sum())
    if total == 0:
        return float(np.sqrt(error.sum())), float(np.sqrt(error.max(initial=0))), probed
    mean = total / max(1, size.size)
    alive = size > 1e-8 * mean  # a row this far below the others is dead: judged against the others' scale
    ratio = error / np.where(alive, size, mean)
    return math.sqrt(float(error.sum()) / total), math.sqrt(float(ratio.max(initial=0))), probed


def combine(kernel: Array, mix: Array) -> Array:
    """Random combinations of input channels of a grouped kernel, row block by row block."""
    groups, outputs, inputs = kernel.shape[:3]
    rest = kernel.shape[3:]
    result = np.empty((groups, outputs, mix.shape[1], *rest))
    step = max(1, (1 << 22) // max(1, inputs * math.prod(rest)))
    for group in range(groups):
        for start in range(0, outputs, step):
            block = kernel[group, start : start + step].astype(np.float64)
            result[group, start : start + step] = np.moveaxis(np.tensordot(block, mix, axes=([1], [0])), -1, 1)
    return result


def is_exact(residual: float, before: float, noise: float, dtype: np.dtype[np.generic], count: int, width: int) -> bool:
    """The gate. ``count`` factors of type ``dtype``, hidden width ``width``, amplification ``noise``.

    Before rounding only float64 arithmetic may be left (for a parent stored in float32 or shorter: no more than half a
    unit of float32, which is what a rank-deficient parent's own storage leaves). After rounding, one rounding per
    factor at most, weighed by the amplification.
    """
    if not (np.isfinite(residual) and noise <= AMPLIFICATION_LIMIT):
        return False
    unit = unit_roundoff(dtype)
    solved = FLOAT64_SLACK * max(1.0, noise) * math.sqrt(max(1.0, width / 64))
    if unit > 2.0**-30:
        # 16-bit types underflow early, which leaves a little of what should vanish: an eighth of one rounding.
        solved = max(solved, 2.0**-24, unit / 8 if unit > 2.0**-20 else 0.0)
    return before <= solved and residual <= solved + 2 * count * unit * max(1.0, noise)


def diagnose(
    factors: Sequence[Array],
    parent: Array,
    offset: Sequence[int],
    groups: int,
    rng: np.random.Generator,
    before: float,
    fan_ins: Sequence[int] | None = None,
) -> tuple[float, float, bool, tuple[float, ...], tuple[float, ...], float]:
    """Residual, worst row, probed, occupancy, scale ratios, amplification of ungrouped rounded factors."""
    split = [grouped(factor, groups) for factor in factors]
    whole = grouped(parent, groups)
    residual, worst, probed = measure(split, whole, offset, rng)
    del before
    noise = amplification(split, math.sqrt(float(sum_of_squares(whole))))
    ratios = tuple(
        scale_ratio(factor, None if fan_ins is None else fan_ins[index]) for index, factor in enumerate(factors)
    )
    return residual, worst, probed, tuple(occupancy(factor) for factor in factors), ratios, noise
