"""Exact factorisation by one small mix of the hidden channels: closed form, no large matrix anywhere.

With the taps shared out by a :class:`~onnxmorph.equation.tilings.Tiling`, the parent is a matrix ``M`` of ``R`` rows.
Of the ``n`` hidden channels ``R`` carry ``M``; the others come in two kinds that cancel whatever they are filled with:

* *null-space* channels ``H``: the solved factor writes them at random, the fixed factor reads them with zero;
* *rim* channels ``N``: the solved factor leaves them zero, the fixed factor reads them at random, on its idle taps.

Then a random ``T`` mixes all of them::

    fixed = [ s D | 0 | N ] T          solved = T^-1 [ D^-1 M / s ; H ; 0 ]

Dense on every tap of both factors from ``n = R + 1`` on (``R + 2`` where the solved factor has idle taps as well),
where condition (7) of NM would want several times that. ``D`` holds the row norms of ``M`` as powers of two, so that
output channels of very different scale keep their own relative accuracy.

One rounding is left: the core rows of the fixed factor are rounded first and ``T`` is corrected to what they became;
the idle taps are outer products of numbers short enough for their products to be exact in the model's type, so they
vanish against the solved factor after rounding as well; then the solved factor is solved for that ``T`` in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxmorph.equation.factorization import PROBES, channel_energy, combine, measure
from onnxmorph.equation.kernels import extent
from onnxmorph.equation.mixing import DENSE_UP_TO, DenseMix, KroneckerMix, kronecker_sizes, random_mix
from onnxmorph.equation.precision import Array, round_bits, significant_bits
from onnxmorph.equation.scales import balance
from onnxmorph.equation.tilings import Tiling

__all__ = ["BLOCK_BYTES", "StructuredSolution", "share_free", "solve_structured", "structured_bytes"]

# Float64 working memory per block of the right-hand side; blocks follow from sizes alone, so results do too.
BLOCK_BYTES = 1 << 25
# Row norms further below the mean than this are scaled no further (16-bit types would underflow sooner).
_ROW_FLOOR = {53: -12, 24: -12, 11: -6, 8: -6}
_DEAD_ROW = 2.0**-6


@dataclass(frozen=True, eq=False)
class StructuredSolution:
    """``fixed`` ``(g, a, n, *fixed taps)`` and ``solved`` ``(g, n, b, *solved taps)``, both rounded."""

    fixed: Array
    solved: Array
    residual_before_rounding: float


def structured_bytes(groups: int, outer: int, inner: int, width: int, tiling: Tiling, itemsize: int, rank: int) -> int:
    """Bound on the memory taken beyond the parent: factors, the mix and its inverse, blocks, the low-rank form's SVD.

    Args:
        groups, outer, inner, width: groups, and per group channels of the fixed side, of the solved side, hidden.
        tiling: how taps are shared.
        itemsize: bytes of one stored weight.
        rank: 0, or the rank kept by the low-rank form, which needs ``M`` in float64 several times.
    """
    fixed = groups * outer * width * math.prod(tiling.fixed_taps) * itemsize
    solved = groups * width * inner * math.prod(tiling.solved_taps) * itemsize
    factors = 2 * fixed + solved  # the fixed one is laid out anew once it is complete
    mix = 5 * groups * width * width * 8
    if _is_kronecker(width):
        mix = 4 * groups * width * 64 * 8
    matrix = groups * outer * tiling.rows * inner * tiling.columns * 8
    many_fixed, many_solved = math.prod(tiling.fixed_taps), math.prod(tiling.solved_taps)
    many = math.prod(extent((tiling.fixed_taps, tiling.solved_taps)))
    # Blocks of the right-hand side, its answer and what multiplies it; at least one column however large it is.
    column = groups * width * 8 * max(many_solved, tiling.rows)
    blocks = 8 * max(column, min(BLOCK_BYTES, column * inner))
    # The residual before rounding, on probes, and after, in blocks of inputs; factors in float64, a part at a time.
    probes = min(inner, 2 * PROBES)
    before = groups * probes * 8 * (3 * width * many_solved + 4 * outer * many)
    per_input = groups * max(outer, inner, width) * many * 8 * 4
    after = max(per_input, min(1 << 26, per_input * max(outer, inner)))
    parts = 8 * groups * width * (min(outer * many_fixed, 1 << 22) + min(inner * many_solved, 1 << 22))
    parts = min(parts, 4 * 8 * (1 << 22)) if groups * width < 1 << 22 else parts
    return int(factors + mix + blocks + max(before, after) + parts + (5 * matrix if rank else 0)) + (1 << 20)


def solve_structured(
    parent: Array,
    tiling: Tiling,
    width: int,
    offset: tuple[int, ...],
    dtype: np.dtype[Any],
    rng: np.random.Generator,
    *,
    he_fixed: float,
    he_solved: float,
    rank: int | None = None,
    swapped: bool = False,
) -> StructuredSolution:
    """Solves for one orientation; the caller swaps channels where the first factor is the fixed one.

    Args:
        parent: ``(g, a, b, *taps)``, ``a`` the channels of the fixed side.
        tiling: how taps are shared; needs ``width >= a * tiling.rows``, or ``rank``.
        width: hidden channels per group.
        offset: where the parent starts in the composition.
        dtype: type the factors are rounded to.
        rng: source of all randomness.
        he_fixed: sum of squares He's std would give the fixed factor, per group.
        he_solved: the same for the solved factor.
        rank: keep this many singular directions of ``M`` instead of all its rows (exact where ``M`` has no more).
        swapped: the fixed factor is the first one, so ``b`` counts output channels: results are laid out in memory for
            the caller to swap their channels without a copy, and null-space channels follow the norms of the outputs,
            which keeps the accuracy of each relative to its own scale.
    """
    groups, outer, inner = parent.shape[:3]
    bits = significant_bits(dtype)
    rows, columns = outer * tiling.rows, tiling.columns
    many_fixed, many_solved = math.prod(tiling.fixed_taps), math.prod(tiling.solved_taps)
    energy = channel_energy(parent, 1)
    norm = float(energy.sum()) / groups
    channel_scale = powers_of_two(energy, bits)
    row_energy = _row_energy(parent, tiling) if tiling.rows > 1 else energy
    row_scale = powers_of_two(row_energy, bits)

    left = right = None
    if rank is None:
        core_rows = rows
        core_energy = float(np.square(row_scale).sum())
        solved_energy = float((row_energy / np.square(row_scale)).sum())
    else:
        left, right = _low_rank(tiling.matrix(parent), row_scale, rank)
        core_rows = left.shape[2]
        core_energy, solved_energy = float(np.square(left).sum()), float(np.square(right).sum())
    free = width - core_rows
    rim_channels, null_channels = share_free(free, tiling)
    idle = many_fixed - tiling.rows
    large = rank is None and _is_kronecker(width)
    scales = balance(
        core=core_energy / groups,
        rim=idle * float(np.square(channel_scale).sum()) / groups if rim_channels else 0.0,
        solved=solved_energy / groups,
        fillers=null_channels,
        width=width,
        he_fixed=he_fixed,
        he_solved=he_solved,
        norm=norm,
        bits=bits,
        power_of_two=large,
        can_grow=width > 1,
    )
    mix = random_mix(groups, width, scales.growth, bits, rng)
    first_rim = width - rim_channels
    if isinstance(mix, DenseMix) and rim_channels:
        mix.matrix[:, first_rim:] = round_bits(mix.matrix[:, first_rim:], bits - bits // 2)

    fixed = np.zeros((groups, outer, many_fixed, width), dtype=dtype)
    _write_core(fixed, tiling, mix, row_scale.reshape(groups, outer, tiling.rows), scales.scale, left)
    if rim_channels and idle:
        _write_rim(fixed, tiling, mix, channel_scale * scales.scale * scales.border, first_rim, bits, rng)
    if isinstance(mix, DenseMix):
        mix.settle()

    if swapped:
        solved = np.empty((groups, inner, width, many_solved), dtype=dtype).swapaxes(1, 2)
    else:
        solved = np.empty((groups, width, inner, many_solved), dtype=dtype)
    exact_columns = inner <= 2 * PROBES
    probe = np.eye(inner) if exact_columns else rng.standard_normal((inner, PROBES))
    probed = np.zeros((groups, width, probe.shape[1], many_solved))
    used = tiling.solved_flat()
    column_scale = powers_of_two(channel_energy(parent, 2), bits) if swapped else np.ones((groups, inner))
    filler = scales.filler / math.sqrt(inner * many_solved)
    live = core_rows + null_channels
    step = max(1, BLOCK_BYTES // (8 * groups * width * many_solved))
    inverse_scale = 1.0 / (row_scale * scales.scale)
    for start in range(0, inner, step):
        stop = min(inner, start + step)
        rhs = np.zeros((groups, live, stop - start, many_solved))
        if right is None:
            block = tiling.matrix(parent[:, :, start:stop]) * inverse_scale[:, :, None]
        else:
            block = right.reshape(groups, core_rows, inner, columns)[:, :, start:stop] / scales.scale
        rhs[:, :core_rows, :, used] = block.reshape(groups, core_rows, stop - start, columns)
        if null_channels:
            noise = rng.standard_normal((groups, null_channels, stop - start, many_solved))
            rhs[:, core_rows:] = noise * (filler * column_scale[:, None, start:stop, None])
        answer = mix.undo(rhs.reshape(groups, live, -1)).reshape(groups, width, stop - start, many_solved)
        solved[:, :, start:stop] = answer
        probed += np.einsum("gnbt,bp->gnpt", answer, probe[start:stop], optimize=True)
    fixed = _laid_out(fixed, tiling.fixed_taps, swapped)
    if swapped:
        solved = solved.swapaxes(1, 2).reshape(groups, inner, width, *tiling.solved_taps).swapaxes(1, 2)
    else:
        solved = solved.reshape(groups, width, inner, *tiling.solved_taps)
    combined = parent if exact_columns else combine(parent, probe)
    before, _, _ = measure(
        [probed.reshape(groups, width, probe.shape[1], *tiling.solved_taps), fixed], combined, offset, rng, probes=False
    )
    return StructuredSolution(fixed, solved, before)


def share_free(free: int, tiling: Tiling) -> tuple[int, int]:
    """How many free hidden channels fill the fixed factor's idle taps, and how many go to the null space."""
    if free <= 0 or not tiling.fixed_border:
        return 0, max(0, free)
    rim = max(1, free // 2 if tiling.solved_border else (free + 1) // 2)
    return rim, free - rim


def _low_rank(matrix: Array, row_scale: Array, most: int) -> tuple[Array, Array]:
    """``L`` and ``R`` with ``L R = M`` as far as ``most`` singular directions reach, scale shared evenly; rows of ``M``
    are brought to one scale first, so that small output channels are kept as well as large ones."""
    u, values, vt = np.linalg.svd(matrix / row_scale[:, :, None], full_matrices=False)
    largest = values.max(initial=0.0)
    rank = int(max(1, min(most, (values > 2.0**-46 * largest).sum(axis=1).max(initial=1))))
    roots = np.sqrt(values[:, :rank])
    return row_scale[:, :, None] * u[:, :, :rank] * roots[:, None, :], roots[:, :, None] * vt[:, :rank]


def _is_kronecker(width: int) -> bool:
    return width > DENSE_UP_TO and kronecker_sizes(width) is not None


def _laid_out(fixed: Array, taps: tuple[int, ...], swapped: bool) -> Array:
    """``(g, a, taps, n)`` to ``(g, a, n, *taps)``, in memory ``(g, n, a, *taps)`` where ``swapped``."""
    groups, outer, many, width = fixed.shape
    if swapped:
        layout = np.ascontiguousarray(fixed.transpose(0, 3, 1, 2))
        return layout.reshape(groups, width, outer, *taps).swapaxes(1, 2)
    if many == 1:
        return fixed.reshape(groups, outer, width, *taps)
    return np.ascontiguousarray(fixed.transpose(0, 1, 3, 2)).reshape(groups, outer, width, *taps)


def powers_of_two(energy: Array, bits: int) -> Array:
    """Norms over their root mean square, as powers of two: scaling by them and back is exact in every type."""
    mean = float(energy.mean()) if energy.size else 0.0
    if mean == 0:
        return np.ones_like(energy)
    floor = _ROW_FLOOR[bits]
    exponent = np.round(np.log2(np.maximum(energy / mean, 1e-300)) / 2)
    return np.where(exponent < floor, _DEAD_ROW, np.exp2(np.maximum(exponent, floor)))


def _row_energy(parent: Array, tiling: Tiling) -> Array:
    """Sums of squares of the rows of ``M``: ``(g, a * rows)``."""
    groups, outer = parent.shape[:2]
    whole = np.zeros((groups, outer, tiling.rows))
    for tap, row, _ in tiling.cover():
        whole[:, :, row] += np.square(parent[(slice(None),) * 3 + tap].astype(np.float64)).sum(axis=2)
    return whole.reshape(groups, outer * tiling.rows)


def _write_core(
    fixed: Array, tiling: Tiling, mix: DenseMix | KroneckerMix, row_scale: Array, scale: float, left: Array | None
) -> None:
    """Writes ``s D T`` (or ``s L T``) on the taps in use, rounded, and corrects a dense ``T`` to what was written."""
    groups, outer, rows = row_scale.shape
    used = tiling.fixed_flat()
    step = max(1, BLOCK_BYTES // (8 * groups * rows * mix.size))
    for start in range(0, outer, step):
        stop = min(outer, start + step)
        if left is None:
            exact = mix.rows(start * rows, stop * rows).reshape(groups, stop - start, rows, mix.size)
            weight = (row_scale[:, start:stop] * scale)[..., None]
            rounded = (exact * weight).astype(fixed.dtype)
            if isinstance(mix, DenseMix):
                mix.matrix[:, start * rows : stop * rows] = (rounded.astype(np.float64) / weight).reshape(
                    groups, -1, mix.size
                )
        else:
            part = left.reshape(groups, outer, rows, -1)[:, start:stop]
            basis = mix.rows(0, left.shape[2])
            rounded = (scale * (part.reshape(groups, -1, left.shape[2]) @ basis)).astype(fixed.dtype)
            rounded = rounded.reshape(groups, stop - start, rows, mix.size)
        fixed[:, start:stop, used] = rounded


def _write_rim(
    fixed: Array,
    tiling: Tiling,
    mix: DenseMix | KroneckerMix,
    strength: Array,
    first_rim: int,
    bits: int,
    rng: np.random.Generator,
) -> None:
    """Writes the idle taps: each row a short number times one rim row of ``T``, exact in the model's type."""
    groups, outer, many, width = fixed.shape
    used = set(tiling.fixed_flat().tolist())
    rim_channels = width - first_rim
    basis = mix.rows(first_rim, width)
    channels = np.arange(outer)
    for position, tap in enumerate(t for t in range(many) if t not in used):
        signs = rng.choice(np.array([-1.0, 1.0]), size=(groups, outer))
        if isinstance(mix, KroneckerMix):  # rows of T already take all the bits there are
            sizes = np.exp2(np.round(np.log2(strength))) * rng.choice(np.array([0.5, 1.0, 1.0]), size=(groups, outer))
        else:
            sizes = round_bits(strength * rng.uniform(0.6, 1.36, size=(groups, outer)), bits // 2)
        chosen = basis[:, (channels + position) % rim_channels]
        fixed[:, :, tap] = (signs * sizes)[..., None] * chosen
