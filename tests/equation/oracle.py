"""Slow, plain references that share no code with the solver."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def convolve(x: Array, kernel: Array, groups: int = 1) -> Array:
    """Cross-correlation without padding of ``x`` ``(in, *size)`` by ``(out, in / groups, *taps)``; float64."""
    x, kernel = x.astype(np.float64), kernel.astype(np.float64)
    taps = kernel.shape[2:]
    size = tuple(n - k + 1 for n, k in zip(x.shape[1:], taps, strict=True))
    outputs, inputs = kernel.shape[0] // groups, kernel.shape[1]
    y = np.zeros((kernel.shape[0], *size))
    for group in range(groups):
        for j in range(outputs):
            for tap in itertools.product(*(range(k) for k in taps)):
                window = tuple(slice(t, t + n) for t, n in zip(tap, size, strict=True))
                for i in range(inputs):
                    y[group * outputs + j] += kernel[(group * outputs + j, i, *tap)] * x[(group * inputs + i, *window)]
    return y


def composition(first: Array, second: Array, groups: int = 1) -> Array:
    """``G~[j, i, u + v] = sum_l F2[j, l, v] F1[l, i, u]`` entry by entry."""
    outputs, width, inputs = second.shape[0] // groups, second.shape[1], first.shape[1]
    taps1, taps2 = first.shape[2:], second.shape[2:]
    whole = np.zeros((second.shape[0], inputs, *(a + b - 1 for a, b in zip(taps1, taps2, strict=True))))
    for j, i in itertools.product(range(second.shape[0]), range(inputs)):
        group = j // outputs
        for v in itertools.product(*(range(k) for k in taps2)):
            for u in itertools.product(*(range(k) for k in taps1)):
                w = tuple(a + b for a, b in zip(u, v, strict=True))
                for l in range(width):
                    left = float(second[(j, l, *v)])
                    whole[(j, i, *w)] += left * float(first[(group * width + l, i, *u)])
    return whole


def padded(kernel: Array, size: tuple[int, ...], offset: tuple[int, ...]) -> Array:
    """``kernel`` in float64 with zeros around it."""
    whole = np.zeros((*kernel.shape[:2], *size))
    for tap in itertools.product(*(range(k) for k in kernel.shape[2:])):
        place = tuple(t + o for t, o in zip(tap, offset, strict=True))
        whole[(slice(None), slice(None), *place)] = kernel[(slice(None), slice(None), *tap)].astype(np.float64)
    return whole


def he_kernel(
    rng: np.random.Generator, shape: tuple[int, ...], gain: float = 1.0, dtype: npt.DTypeLike = np.float32
) -> Array:
    """A kernel of He's scale, ``(out, in / groups, *taps)``."""
    std = gain * math.sqrt(2 / max(1, math.prod(shape[1:])))
    return (rng.standard_normal(shape) * std).astype(dtype)


def trained_kernel(rng: np.random.Generator, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
    """Output channels of very different scale (a hundredfold), and one in seven dead, as trained layers have them."""
    kernel = he_kernel(rng, shape, dtype=np.float64)
    scale = np.exp(rng.uniform(-2.3, 2.3, shape[0])) * (np.arange(shape[0]) % 7 != 3)
    return (kernel * scale.reshape(-1, *(1,) * (len(shape) - 1))).astype(dtype)


def distance(found: Array, wanted: Array) -> float:
    """Relative Frobenius distance."""
    size = float(np.linalg.norm(wanted.astype(np.float64)))
    return float(np.linalg.norm(found.astype(np.float64) - wanted.astype(np.float64))) / (size or 1.0)
