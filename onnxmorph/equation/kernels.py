"""Kernels as arrays: composing, embedding, identities, and the biases that go with them.

A kernel is ``(out, in / groups, *taps)`` with any number of kernel axes, none for Gemm and MatMul, in ONNX's
cross-correlation form. All factors of one morph live on one lattice of dilation, so dilation never enters here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxmorph.equation.precision import Array, float_type
from onnxmorph.errors import Refusal

__all__ = ["compose", "embed", "extent", "identity_kernel", "inner_offset", "outer_bias"]


_BLOCK_ENTRIES = 1 << 22


def extent(kernels: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Size of the composition of kernels of these sizes, per axis: ``sum K - (n - 1)`` (NM eq. 19)."""
    return tuple(sum(sizes) - (len(kernels) - 1) for sizes in zip(*kernels, strict=True))


def inner_offset(kernel: Sequence[int], size: Sequence[int], offset: Sequence[int] | None = None) -> tuple[int, ...]:
    """Where a kernel starts inside a larger one; centred unless given.

    Raises:
        Refusal: when it does not fit, or when a difference is odd and no offset is given.
    """
    if len(kernel) != len(size) or (offset is not None and len(offset) != len(size)):
        raise Refusal(
            f"kernel {_shape(kernel)} and size {_shape(size)} have different numbers of axes", code="kernel-size"
        )
    places = []
    for axis, (inner, outer) in enumerate(zip(kernel, size, strict=True)):
        if outer < inner:
            raise Refusal(
                f"a kernel of {_shape(kernel)} does not fit into {_shape(size)}",
                way_out=f"the factors must reach at least {_shape(kernel)} together (sum of sizes less one per join)",
                code="kernel-size",
            )
        if offset is None:
            if (outer - inner) % 2:
                raise Refusal(
                    f"kernel {_shape(kernel)} has no centre in {_shape(size)}: the difference is odd",
                    way_out="choose sizes that differ by an even number, or give the offset",
                    code="kernel-size",
                )
            places.append((outer - inner) // 2)
        else:
            if not 0 <= offset[axis] <= outer - inner:
                raise Refusal(
                    f"offset {_shape(offset)} puts kernel {_shape(kernel)} outside {_shape(size)}", code="kernel-size"
                )
            places.append(int(offset[axis]))
    return tuple(places)


def _shape(sizes: Sequence[int]) -> str:
    return "x".join(str(int(size)) for size in sizes) or "1"


def embed(kernel: Array, size: Sequence[int], offset: Sequence[int] | None = None) -> Array:
    """``kernel`` zero-padded to ``size`` taps (NM section 3.3, eq. 15), in its own type.

    Args:
        kernel: ``(out, in / groups, *taps)``.
        size: taps of the result, per axis.
        offset: first tap of ``kernel`` in the result; centred by default.

    Raises:
        Refusal: when it does not fit, or has no centre and no offset is given.
    """
    taps = kernel.shape[2:]
    places = inner_offset(taps, size, offset)
    if tuple(size) == taps:
        return kernel
    grown = np.zeros((*kernel.shape[:2], *size), dtype=kernel.dtype)
    grown[window(places, taps)] = kernel
    return grown


def window(start: Sequence[int], length: Sequence[int]) -> tuple[Any, ...]:
    """Index of a block of taps: everything on the other axes, ``length`` taps from ``start`` on the last ones."""
    return (..., *(slice(s, s + n) for s, n in zip(start, length, strict=True)))


def taps_of(sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every tap of a kernel of these sizes, last axis fastest; one empty tap when there are no axes."""
    return itertools.product(*(range(size) for size in sizes))


def grouped(kernel: Array, groups: int) -> Array:
    """View ``(groups, out / groups, in / groups, *taps)`` of a kernel."""
    if groups < 1 or kernel.shape[0] % groups:
        raise Refusal(f"{kernel.shape[0]} channels are not divisible by {groups} groups", code="groups")
    return kernel.reshape(groups, kernel.shape[0] // groups, *kernel.shape[1:])


def ungrouped(kernel: Array) -> Array:
    """The inverse of :func:`grouped`."""
    return kernel.reshape(kernel.shape[0] * kernel.shape[1], *kernel.shape[2:])


def compose_pair(first: Array, second: Array) -> Array:
    """``second ⊛ first`` of grouped kernels ``(g, l, i, *K1)`` and ``(g, j, l, *K2)``, in float64 ``(g, j, i, *K)``.

    One matrix product per tap of the smaller factor: its cost is that of the products alone.
    """
    groups, width, inputs = first.shape[:3]
    outputs = second.shape[1]
    if second.shape[0] != groups or second.shape[2] != width:
        raise Refusal(
            f"factors do not join: {width} channels out of the first, {second.shape[2]} into the second", code="width"
        )
    taps1, taps2 = first.shape[3:], second.shape[3:]
    size = extent((taps1, taps2))
    if second.dtype != np.float64 and second.size > _BLOCK_ENTRIES and outputs > 1:
        # A large second factor is taken a few outputs at a time: never a float64 copy of all of it.
        whole = np.empty((groups, outputs, inputs, *size))
        step = max(1, outputs * _BLOCK_ENTRIES // second.size)
        first = first.astype(np.float64, copy=False)
        for start in range(0, outputs, step):
            part = second[:, start : start + step].astype(np.float64)
            whole[:, start : start + step] = compose_pair(first, part)
        return whole
    many1, many2 = math.prod(taps1), math.prod(taps2)
    first = first.astype(np.float64, copy=False)
    second = second.astype(np.float64, copy=False)
    if many1 == 1 or many2 == 1:  # one product, nothing to add up
        if many2 == 1:
            product = second.reshape(groups, outputs, width) @ first.reshape(groups, width, inputs * many1)
            return product.reshape(groups, outputs, inputs, *size)
        rows = np.moveaxis(second, 2, -1).reshape(groups, outputs * many2, width)
        product = (rows @ first.reshape(groups, width, inputs)).reshape(groups, outputs, *taps2, inputs)
        return np.moveaxis(product, -1, 2)
    whole = np.zeros((groups, outputs, inputs, *size))
    if many2 <= many1:
        flat = first.reshape(groups, width, inputs * many1)
        for tap in taps_of(taps2):
            part = whole[window(tap, taps1)]
            product = np.ascontiguousarray(second[(slice(None),) * 3 + tap]) @ flat
            part += product.reshape(groups, outputs, inputs, *taps1)
        return whole
    rows = np.moveaxis(second, 2, -1).reshape(groups, outputs * many2, width)
    for tap in taps_of(taps1):
        part = whole[window(tap, taps2)]
        product = (rows @ np.ascontiguousarray(first[(slice(None),) * 3 + tap])).reshape(
            groups, outputs, *taps2, inputs
        )
        part += np.moveaxis(product, -1, 2)
    return whole


def compose(factors: Sequence[Array], groups: int = 1) -> Array:
    """The one kernel that factors applied in order amount to (NM eq. 6 and 19).

    ``G~[j, i, w] = sum_{u + v = w} sum_l F2[j, l, v] F1[l, i, u]``, and so on for more factors.

    Args:
        factors: kernels ``(out, in / groups, *taps)``, the first applied first.
        groups: groups of every factor, and of the result.

    Returns:
        float64 ``(out, in / groups, *taps)`` with ``taps`` the :func:`extent` of the factors'.

    Raises:
        Refusal: when the factors do not join.
    """
    whole = grouped(factors[0], groups)
    for factor in factors[1:]:
        whole = compose_pair(whole, grouped(factor, groups))
    return ungrouped(whole).astype(np.float64, copy=False)


def identity_kernel(
    channels: int,
    kernel: Sequence[int] = (),
    groups: int = 1,
    dtype: npt.DTypeLike = np.float32,
    tap: Sequence[int] | None = None,
) -> Array:
    """The kernel that passes every channel on (Net2DeeperNet, N2N section 2.3).

    The padding that makes the layer an identity is ``tap`` before and ``K - 1 - tap`` after on every axis, in taps
    (times the dilation in pixels).

    Args:
        channels: channels in and out.
        kernel: taps per axis.
        groups: groups of the layer.
        dtype: type of the result.
        tap: where the one stands; ``(K - 1) // 2`` on every axis by default, which is the centre of an odd kernel and
            the earlier of the two middle taps of an even one.

    Returns:
        ``(channels, channels / groups, *kernel)``.

    Raises:
        Refusal: channels not divisible by groups, or a tap outside the kernel.
    """
    if groups < 1 or channels % groups:
        raise Refusal(f"{channels} channels are not divisible by {groups} groups", code="groups")
    place = tuple((size - 1) // 2 for size in kernel) if tap is None else tuple(int(t) for t in tap)
    if len(place) != len(kernel) or any(not 0 <= t < size for t, size in zip(place, kernel, strict=False)):
        raise Refusal(f"tap {_shape(place)} is outside a kernel of {_shape(kernel)}", code="kernel-size")
    per_group = channels // groups
    array = np.zeros((channels, per_group, *kernel), dtype=float_type(dtype))
    outputs = np.arange(channels)
    index: Any = (outputs, outputs % per_group, *place)
    array[index] = 1
    return array


def outer_bias(second: Array, inner: Array, bias: Array | None, groups: int = 1) -> Array:
    """Bias of the second factor when the first carries ``inner``: ``b2 = b - (sum over taps of F2) b1``.

    Right wherever the second factor pads nothing (all padding on the first): every output then sees every tap.

    Args:
        second: ``(out, width / groups, *taps)``.
        inner: ``(width,)``, bias of the first factor; behind it nothing but what is linear.
        bias: ``(out,)`` of the parent, or ``None`` for none.

    Returns:
        float64 ``(out,)``.
    """
    taps = grouped(second, groups).astype(np.float64)
    taps = taps.reshape(*taps.shape[:3], -1).sum(axis=-1)
    shift = np.einsum("gjl,gl->gj", taps, inner.astype(np.float64).reshape(groups, -1)).reshape(-1)
    return np.asarray(-shift if bias is None else bias.astype(np.float64) - shift)
