"""From a stored weight to the one kernel form of every linear layer, and back; arrays only.

The canonical kernel is ``(out, in/groups, *kernel)``, as in a cross-correlation
``y[o, p] = b[o] + sum_{i, u} kernel[o, i, u] x[i, s p + d u - pad]``:

========================  ==========================  =====================================================
operator                  stored weight               kernel
========================  ==========================  =====================================================
Conv                      ``(out, in/g, *k)``         as it is
ConvTranspose             ``(in, out/g, *k)``         in and out swapped within each group, every tap axis reversed:
                                                      the convolution that runs over the zero-stuffed input
Gemm, transB = 0          ``(in, out)``               ``alpha * W.T``
Gemm, transB = 1          ``(out, in)``               ``alpha * W``
MatMul, x @ W             ``(in, out)``               ``W.T``
MatMul, W @ x             ``(out, in)``               ``W``
Einsum                    by its equation             made labels first, then taken ones: see `equations`
========================  ==========================  =====================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxmorph.graph.equations import Equation

__all__ = ["WeightForm"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class WeightForm:
    """How one layer's stored weight relates to its canonical kernel.

    Attributes:
        op: ``'Conv'``, ``'ConvTranspose'``, ``'Gemm'``, ``'MatMul'`` or ``'Einsum'``.
        groups: Channel groups; 1 for Gemm and MatMul.
        out_first: For Gemm and MatMul: the weight is stored ``(out, in)`` (transB = 1, or W @ x).
        scale: Gemm's alpha.
        equation: Of an Einsum; its sizes are those of the stored weight.
    """

    op: str
    groups: int = 1
    out_first: bool = False
    scale: float = 1.0
    equation: Equation | None = None

    def kernel(self, weight: Array) -> Array:
        """The kernel ``(out, in/groups, *kernel)`` of a stored weight, in its dtype; a view where that is enough."""
        if self.op == "Conv":
            return weight
        if self.op == "ConvTranspose":
            swapped = _swap_within_groups(weight, self.groups)
            return np.flip(swapped, axis=tuple(range(2, weight.ndim)))
        if self.equation is not None:
            return self.equation.kernel(weight)
        return _scaled(weight if self.out_first else weight.T, self.scale)

    def weight(self, kernel: Array) -> Array:
        """The weight to store for a kernel ``(out, in/groups, *kernel)``: the inverse of `kernel`.

        With Gemm's alpha = 0 there is no inverse; the layer is refused before.
        """
        if self.op == "Conv":
            return kernel
        if self.op == "ConvTranspose":
            flipped = np.flip(kernel, axis=tuple(range(2, kernel.ndim)))
            return _swap_within_groups(flipped, self.groups)
        if self.equation is not None:
            return self.equation.factor(kernel, first=True, last=True)[1]
        unscaled = _scaled(kernel, 1.0 / self.scale)
        return unscaled if self.out_first else unscaled.T


def _scaled(array: Array, factor: float) -> Array:
    if factor == 1.0:
        return array
    # Rounded once from double precision, as alpha is applied by the operator in the accumulation's precision.
    scaled: Array = (array.astype(np.float64) * factor).astype(array.dtype)
    return scaled


def _swap_within_groups(array: Array, groups: int) -> Array:
    """``(g a, b, ...)`` to ``(g b, a, ...)``."""
    rows, columns, *taps = array.shape
    grouped = array.reshape(groups, rows // groups, columns, *taps)
    return grouped.swapaxes(1, 2).reshape(groups * columns, rows // groups, *taps)
