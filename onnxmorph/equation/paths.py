"""Stacked subnets (NM eq. 20): kernels that add up to the parent's, one for each path."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxmorph.equation.kernels import window
from onnxmorph.equation.precision import Array, float_type, significant_bits
from onnxmorph.equation.solve import check_finite
from onnxmorph.errors import Refusal

__all__ = ["split"]


def split(
    kernel: Array,
    paths: int | Sequence[Sequence[int]],
    *,
    rng: np.random.Generator | int = 0,
    noise: float = 0.5,
    dtype: npt.DTypeLike | None = None,
) -> tuple[Array, ...]:
    """Kernels with ``sum_p G_p = G``: an equal share each, plus noise that sums to zero.

    Args:
        kernel: ``(out, in / groups, *taps)``.
        paths: how many, or the extent of each: a path that reaches less far than the kernel gets its centred part, and
            the taps beyond it are shared by those that reach them.
        rng: a generator or a seed.
        noise: std of the noise relative to an equal share; 0 for none.
        dtype: type of the parts; the kernel's own by default.

    Returns:
        One kernel a path, of the kernel's taps or of the path's extent where that is less. The last path that reaches a
        tap takes what the others have left there. The sum of all parts is exactly the kernel (rounded to ``dtype``).

    Raises:
        Refusal: no path, a tap that no path reaches, or a path without a centre in the kernel.
    """
    taps = kernel.shape[2:]
    extents = [tuple(taps)] * paths if isinstance(paths, int) else [tuple(int(k) for k in path) for path in paths]
    if not extents:
        raise Refusal("a split needs at least one path", code="paths")
    check_finite(kernel)
    kind = float_type(kernel.dtype if dtype is None else dtype)
    generator = rng if isinstance(rng, np.random.Generator) else np.random.Generator(np.random.PCG64(rng))
    places = []
    for extent in extents:
        if len(extent) != len(taps) or any(k < 1 for k in extent):
            raise Refusal(f"a path of kernel {extent} does not suit a kernel of {tuple(taps)}", code="kernel-size")
        size = tuple(min(k, e) for k, e in zip(taps, extent, strict=True))
        if any((k - s) % 2 for k, s in zip(taps, size, strict=True)):
            raise Refusal(
                f"a path of kernel {extent} has no centre in a kernel of {tuple(taps)}",
                way_out="choose sizes that differ by an even number",
                code="kernel-size",
            )
        places.append(window([(k - s) // 2 for k, s in zip(taps, size, strict=True)], size))
    reach = np.zeros(taps, dtype=np.intp)
    for place in places:
        reach[place] += 1
    if not reach.all():
        raise Refusal(
            f"no path reaches every tap of a kernel of {tuple(taps)}",
            way_out=f"give one of them an extent of at least {tuple(taps)}",
            code="kernel-size",
        )
    rest = kernel.astype(kind).astype(np.float64)
    bits = significant_bits(kind)
    level = noise * float(np.sqrt(np.square(rest).mean()))
    left = reach.copy()
    # What is still owed is in ``rest``; each path takes a noisy share of it and those after it give the noise back.
    # A share between nothing and twice what is owed, on the grid of what is owed, leaves a remainder that the type
    # can hold (Sterbenz): so every sum is exact.
    parts: list[Array] = []
    for place in places:
        owed = rest[place]
        many = np.broadcast_to(left[place], owed.shape)
        swing = noise * generator.standard_normal(owed.shape)
        share = owed * np.clip((1 + swing) / many, 0.05, 1.95)
        if level:
            # Nothing owed: any number, and its negative to the next.
            share = np.where(owed == 0, np.ldexp(np.round(swing * 8), math.frexp(level)[1] - 4), share)
        exponent = np.frexp(owed)[1] - bits
        share = np.where(owed == 0, share, np.ldexp(np.round(np.ldexp(share, -exponent)), exponent))
        part = np.where(many == 1, owed, share).astype(kind)
        parts.append(part)
        rest[place] = owed - part.astype(np.float64)
        left[place] -= 1
    return tuple(parts)
