"""Mirror depth: a plain non-linear layer, inserted exactly.

Where the odd part of an activation is linear, ``phi(x) - phi(-x) = c x``, the factors ``[V; -V]`` and ``[Z, -Z] / c``
with ``Z ⊛ V = G~`` compute the parent with ``phi`` itself between them: ReLU, LeakyReLU and PReLU
(``c = 1 + slope``), GELU, SiLU, HardSwish, Softplus (``c = 1``). No parameter to un-learn, no zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from onnxmorph.equation.factorization import Factorization, scale_ratio
from onnxmorph.equation.kernels import grouped, ungrouped
from onnxmorph.equation.precision import Array
from onnxmorph.equation.solve import MEMORY_LIMIT, check_finite, solve_scaled
from onnxmorph.errors import Refusal

__all__ = ["mirror", "mirror_inputs", "mirror_outputs"]


def mirror_outputs(kernel: Array, groups: int, order: Array) -> Array:
    """``[V; -V]`` within each group, channels in ``order`` (``(g, 2 h)`` indices into them)."""
    split = grouped(kernel, groups)
    both = np.concatenate([split, -split], axis=1)
    return ungrouped(np.take_along_axis(both, order.reshape(*order.shape, *(1,) * (both.ndim - 2)), axis=1))


def mirror_inputs(kernel: Array, groups: int, order: Array) -> Array:
    """``[Z, -Z]`` within each group, input channels in ``order``."""
    split = grouped(kernel, groups)
    both = np.concatenate([split, -split], axis=2)
    index = order.reshape(groups, 1, order.shape[1], *(1,) * (both.ndim - 3))
    return ungrouped(np.take_along_axis(both, index, axis=2))


def mirror_order(groups: int, half: int, rng: np.random.Generator, permute: bool = True) -> tuple[Array, Array]:
    """A random order of ``2 half`` channels in each group, so that partners do not stand in two clusters, and the pairs
    ``(n, 2)`` of total channel numbers it makes."""
    order = np.tile(np.arange(2 * half), (groups, 1))
    if permute:
        order = rng.permuted(order, axis=1)
    place = np.argsort(order, axis=1) + 2 * half * np.arange(groups)[:, None]
    return order, np.stack([place[:, :half].reshape(-1), place[:, half:].reshape(-1)], axis=1)


def mirror(
    kernel: Array,
    width: int,
    kernels: Sequence[Sequence[int]],
    slope: float = 1.0,
    groups: int = 1,
    *,
    dtype: npt.DTypeLike | None = None,
    rng: np.random.Generator | int = 0,
    offset: Sequence[int] | None = None,
    permute: bool = True,
    memory_limit: int = MEMORY_LIMIT,
) -> Factorization:
    """Factors with a plain activation between them that compute the parent exactly.

    Args:
        kernel: ``(out, in / groups, *taps)``.
        width: hidden channels in all groups together; an even number in each group.
        kernels: taps of the two factors.
        slope: ``c`` of ``phi(x) - phi(-x) = c x``; 1 for ReLU, ``1 + alpha`` for LeakyReLU.
        groups: groups of all of them.
        dtype, rng, offset, memory_limit: see :func:`~onnxmorph.equation.solve.solve`.
        permute: put the channels of each group in random order.

    Returns:
        Factors whose partners (``pairs``) are exact negatives of each other after rounding, in F1's rows and in F2's
        columns; a bias ``b`` on one and ``-b`` on the other is allowed. Their residual is that of ``c Z ⊛ V``.

    Raises:
        Refusal: odd widths (with the nearest even ones), a slope of zero, and what ``solve`` refuses.
    """
    if not (math.isfinite(slope) and slope != 0):
        raise Refusal(f"no mirror for an activation whose odd part is {slope} x", code="no-mirror")
    if width < 2 * groups or width % (2 * groups):
        low = width // (2 * groups) * 2 * groups
        nearest = f"{low} or {low + 2 * groups}" if low else f"{2 * groups}"
        each = f" in each of {groups} groups" if groups > 1 else ""
        raise Refusal(
            f"mirror depth needs an even number of hidden channels{each}, {width} is not",
            way_out=f"{nearest} is",
            code="width-odd",
        )
    check_finite(kernel)
    generator = rng if isinstance(rng, np.random.Generator) else np.random.Generator(np.random.PCG64(rng))
    kind = kernel.dtype if dtype is None else dtype
    target = kernel if slope == 1 else kernel.astype(np.float64) / slope
    half = solve_scaled(
        target,
        width // 2,
        kernels,
        groups,
        dtype=kind,
        rng=generator,
        offset=offset,
        memory_limit=memory_limit,
        fan_in_factor=2,
    )
    order, pairs = mirror_order(groups, width // (2 * groups), generator, permute)
    first = mirror_outputs(half.factors[0], groups, order)
    second = mirror_inputs(half.factors[1], groups, order)
    why = f"{half.why}; mirrored with slope {slope:g}"
    least = None if half.least_width is None else 2 * half.least_width
    return replace(
        half,
        factors=(first, second),
        method="mirror",
        scale_ratio=(scale_ratio(first), scale_ratio(second)),
        bytes_needed=2 * half.bytes_needed,
        why=why,
        pairs=pairs,
        least_width=least,
    )
