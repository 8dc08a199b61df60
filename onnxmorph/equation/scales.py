"""Scales of the two halves: how large to make what the equation leaves free.

With hidden channels evenly mixed, rounding noise grows by ``2 r1 r2 / gamma`` where ``r`` are the ratios to the He std
and ``gamma`` the root mean square norm of a parent's row. So scale and accuracy trade against each other through the
product of the ratios alone, and a parent with tiny weights must not be blown up to He's scale at any price.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Scales", "balance", "target_ratio"]

# (amplification up to which ratios of 1 are asked for, amplification never paid for a ratio) by significant bits
_AMPLIFICATION = {53: (8.0, 32.0), 24: (8.0, 12.0), 11: (3.0, 12.0), 8: (3.0, 12.0)}
# Amplification taken where even the limit would not bring the ratio near one.
_QUIET = 1.0
# Ratio that is asked for as long as the amplification allows.
_LEAST_RATIO = 0.62
# Energy of one null-space channel against an ordinary He channel: more would let a few directions dominate.
_CHANNEL_CAP = 4.0
_GROWTH_CAP = 400.0


@dataclass(frozen=True)
class Scales:
    """``scale`` of the fixed factor's core, ``filler`` (row norm of null-space channels of the solved factor),
    ``border`` (of the fixed factor's taps that carry nothing, relative to its core) and ``growth`` of the mix."""

    scale: float
    filler: float
    border: float
    growth: float


def target_ratio(amplification_at_one: float, bits: int) -> float:
    """Ratio to the He std to aim at, given the amplification that ratios of 1 would cost."""
    comfortable, limit = _AMPLIFICATION[bits]
    if amplification_at_one <= comfortable:
        return 1.0
    wanted = max(_LEAST_RATIO, math.sqrt(comfortable / amplification_at_one))
    if wanted**2 * amplification_at_one <= limit:
        return wanted
    # He's scale is out of reach whatever is paid: then nothing is paid for a little less distance.
    return math.sqrt(_QUIET / amplification_at_one)


def balance(
    *,
    core: float,
    rim: float,
    solved: float,
    fillers: int,
    width: int,
    he_fixed: float,
    he_solved: float,
    norm: float,
    bits: int,
    power_of_two: bool,
    can_grow: bool,
) -> Scales:
    """Chooses the free scales so that both ratios come near each other and near the target.

    All energies are sums of squares per group.

    Args:
        core: of the fixed factor's core at scale 1.
        rim: of its other taps at scale 1 and ``border`` 1.
        solved: of the solved factor at scale 1.
        fillers: null-space channels available to the solved factor.
        width: hidden channels per group.
        he_fixed: what He's std would give the fixed factor.
        he_solved: what He's std would give the solved one.
        norm: of the parent.
        bits: significant bits of the model's type.
        power_of_two: only powers of two may scale (exact products).
        can_grow: the mix may take two singular values.
    """
    if norm <= 0:
        return Scales(math.sqrt(he_fixed / max(core + rim, 1e-300)), math.sqrt(he_solved / max(1, width)), 1.0, 1.0)
    target = target_ratio(math.sqrt(he_fixed * he_solved / (width * norm)), bits)
    least = min(target, _LEAST_RATIO)

    def solve(filler: float, border: float) -> tuple[float, float]:
        """Square of the scale, and of the common ratio, at growth 1."""
        q = (core + border**2 * rim) / he_fixed
        p = fillers * filler**2 / he_solved
        c = solved / he_solved
        square = (p + math.sqrt(p * p + 4 * q * c)) / (2 * q)
        return square, square * q

    border = 1.0
    square, ratio = solve(0.0, border)
    while rim and ratio > 1.0 and border > 0.35:
        border *= 0.9
        square, ratio = solve(0.0, border)
    filler = 0.0
    if fillers:
        low, high = 0.0, math.sqrt(_CHANNEL_CAP * he_solved / width) * target
        if ratio >= target**2:  # large enough already: as large as its neighbours, for density
            filler = min(high, math.sqrt(solved / square / max(1, width - fillers)))
        else:
            for _ in range(50):
                filler = (low + high) / 2
                low, high = (filler, high) if solve(filler, border)[1] < target**2 else (low, filler)
        square, ratio = solve(filler, border)
    if power_of_two:
        square = 4.0 ** round(math.log(square, 4))
        ratio = min(square * (core + border**2 * rim) / he_fixed, (solved / square + fillers * filler**2) / he_solved)
    growth = 1.0
    if can_grow and ratio < least**2:
        growth = min(_GROWTH_CAP, least**2 / ratio)
    return Scales(math.sqrt(square), filler, border, growth)
