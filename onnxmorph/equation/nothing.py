"""A kernel of zeros: the last factor is zero, the others random at He's scale.

Solving would give random factors that cancel out up to rounding, and so a child that adds noise where its parent gives
zeros. One factor of zeros is exact, and training moves it from the first step, since what comes before it is not zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxmorph.equation.factorization import Factorization, occupancy, scale_ratio

__all__ = ["zero_factors"]


def zero_factors(
    channels: Sequence[int],
    kernels: Sequence[Sequence[int]],
    groups: int,
    kind: np.dtype[Any],
    rng: np.random.Generator,
    *,
    mirrored: Sequence[bool] | None = None,
) -> Factorization:
    """Factors that compose to zero.

    Args:
        channels: per group, inputs first and outputs last; one more than factors.
        kernels: taps of the factors.
        groups: groups of all of them.
        kind: floating-point type of the factors.
        rng: draws the ones that are not zero.
        mirrored: per gap whether what reads it will be read twice over.
    """
    doubled = [False, *(mirrored or [False] * (len(kernels) - 1))]
    factors: list[np.ndarray[Any, Any]] = []
    ratios: list[float] = []
    for index, taps in enumerate(kernels):
        shape = (channels[index + 1] * groups, channels[index], *taps)
        fan_in = math.prod(shape[1:]) * (2 if doubled[index] else 1)
        last = index == len(kernels) - 1
        factor = np.zeros(shape) if last else rng.standard_normal(shape) * math.sqrt(2.0 / fan_in)
        factors.append(factor.astype(kind))
        ratios.append(scale_ratio(factors[-1], fan_in))
    return Factorization(
        factors=tuple(factors),
        residual=0.0,
        residual_before_rounding=0.0,
        worst_row_residual=0.0,
        method="zero",
        occupancy=tuple(occupancy(factor) for factor in factors),
        scale_ratio=tuple(ratios),
        amplification=1.0,
        bytes_needed=8 * max(factor.size for factor in factors) + sum(factor.nbytes for factor in factors),
        exact=True,
        why="the kernel is zero: so is the last factor",
    )
