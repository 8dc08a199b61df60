"""The kernel as it stands, new channels beside it, and an identity that reads the kernel's own channels alone.

``F1 = [G; R]``, ``F2 = [I, 0]``: whatever the new channels R compute, ``F2 ⊛ F1 = G``, with no equation to solve and
no rounding. This is Net2DeeperNet's identity and NetMorph's zero fan-out in one. Between the two goes an activation
that is the identity on the channels of G alone (a P-activation at a = 1), and plain on those of R: they are non-linear
features from the first step on, and the gradient reaches the zeros that read them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxmorph.equation.factorization import Factorization, occupancy, scale_ratio
from onnxmorph.equation.kernels import grouped, identity_kernel, ungrouped
from onnxmorph.equation.precision import Array
from onnxmorph.equation.solve import check_finite
from onnxmorph.errors import Refusal

__all__ = ["beside"]

_VANISHING = 1e-20
"""Entries below this are nothing to draw from."""


def beside(
    kernel: Array,
    width: int,
    taps: Sequence[int],
    groups: int = 1,
    *,
    dtype: npt.DTypeLike | None = None,
    rng: np.random.Generator | int = 0,
    tap: Sequence[int] | None = None,
) -> Factorization:
    """Two factors that compute ``kernel``: itself with new channels beside it, and an identity.

    Args:
        kernel: ``(out, in / groups, *taps)``.
        width: Hidden channels in all groups together; at least as many as come out, as many more in each group.
        taps: Of the second factor.
        groups: Of both.
        dtype: Type of the factors; default the kernel's.
        rng: Or its seed.
        tap: Where the identity's one stands; see :func:`~onnxmorph.equation.kernels.identity_kernel`.

    Returns:
        The factors, exact, and in ``fresh`` which hidden channels are new. Their weights are drawn from the kernel's
        own entries other than zero, which have its scale (normally, at He's scale, where it has none), and they stand
        among the others in random order.

    Raises:
        Refusal: The groups cannot grow evenly to that width (``width-groups``, with the nearest that is), there are
            fewer channels than come out (``width-too-small``), or the kernel is not finite.
    """
    check_finite(kernel)
    outputs = kernel.shape[0]
    if width < outputs:
        raise Refusal(
            f"{width} channels cannot hold the {outputs} that the layer has",
            way_out=f"{outputs} and more can",
            code="width-too-small",
        )
    if width % groups:
        below = max(outputs, width - width % groups)
        raise Refusal(
            f"{width} channels do not divide into {groups} groups",
            way_out=f"{below} and {width + groups - width % groups} do",
            code="width-groups",
        )
    generator = rng if isinstance(rng, np.random.Generator) else np.random.Generator(np.random.PCG64(rng))
    kind = np.dtype(kernel.dtype if dtype is None else dtype)
    own = grouped(kernel.astype(kind, copy=False), groups)
    kept, each = outputs // groups, width // groups
    shape = (groups, each - kept, *own.shape[2:])
    entries = kernel[np.abs(kernel) > _VANISHING]
    if entries.size:
        drawn = entries[generator.integers(entries.size, size=shape)]
    else:
        drawn = generator.standard_normal(shape) * math.sqrt(2 / math.prod(kernel.shape[1:]))
    order = generator.permuted(np.tile(np.arange(each), (groups, 1)), axis=1)
    whole = np.concatenate([own, drawn.astype(kind)], axis=1)
    first = ungrouped(np.take_along_axis(whole, order.reshape(groups, each, *(1,) * (whole.ndim - 2)), axis=1))
    identity = grouped(identity_kernel(outputs, taps, groups, kind, tap), groups)
    padding = np.zeros((groups, kept, each - kept, *identity.shape[3:]), dtype=kind)
    read = np.concatenate([identity, padding], axis=2)
    second = ungrouped(np.take_along_axis(read, order.reshape(groups, 1, each, *(1,) * (read.ndim - 3)), axis=2))
    return Factorization(
        factors=(first, second),
        residual=0.0,
        residual_before_rounding=0.0,
        worst_row_residual=0.0,
        method="beside",
        occupancy=(occupancy(first), occupancy(second)),
        scale_ratio=(scale_ratio(first), scale_ratio(second)),
        amplification=1.0,
        bytes_needed=2 * (first.nbytes + second.nbytes),
        exact=True,
        why="the kernel itself, new channels beside it, and an identity",
        fresh=(order >= kept).reshape(-1),
    )
