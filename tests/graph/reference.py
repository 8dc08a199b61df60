"""An independent reading of a linear layer: float64 from nothing but what `LinearLayer` says of it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from onnxmorph.graph.layers import LinearLayer

Array = np.ndarray[Any, Any]

ZOO = Path(__file__).resolve().parents[2].parent / "shared" / "zoo" / "models"


def correlate(x: Array, kernel: Array, strides: tuple[int, ...], dilations: tuple[int, ...], groups: int) -> Array:
    """``y[n, o, p] = sum_{i, u} kernel[o, i, u] x[n, i, s p + d u]`` without padding, tap by tap."""
    taps = kernel.shape[2:]
    sizes = [
        (x.shape[axis + 2] - dilations[axis] * (taps[axis] - 1) - 1) // strides[axis] + 1 for axis in range(len(taps))
    ]
    per_group = kernel.shape[0] // groups
    inside = kernel.shape[1]
    y = np.zeros((x.shape[0], kernel.shape[0], *sizes))
    for tap in itertools.product(*map(range, taps)):
        window = tuple(
            slice(u * d, u * d + (size - 1) * s + 1, s)
            for u, d, s, size in zip(tap, dilations, strides, sizes, strict=True)
        )
        seen = x[(slice(None), slice(None), *window)]
        for group in range(groups):
            out = slice(group * per_group, (group + 1) * per_group)
            into = slice(group * inside, (group + 1) * inside)
            y[:, out] += np.einsum("oi,ni...->no...", kernel[(out, slice(None), *tap)], seen[:, into])
    return y


def apply(layer: LinearLayer, x: Array) -> Array:
    """What the layer makes of `x`, in float64, by its canonical kernel and bias alone."""
    kernel = layer.kernel_array().astype(np.float64)
    bias = layer.bias_array()
    b = np.zeros(layer.out_channels) if bias is None else bias.astype(np.float64)
    x = x.astype(np.float64)
    if layer.op in ("Gemm", "MatMul"):
        moved = np.moveaxis(x, layer.input_axis, -1)
        return np.moveaxis(moved @ kernel.T + b, -1, layer.output_axis)
    assert layer.pads is not None
    explicit = layer.pads.explicit
    assert explicit is not None
    begin, end = explicit
    axes = len(layer.kernel)
    strides = layer.strides
    if layer.op == "ConvTranspose":
        stuffed = np.zeros((*x.shape[:2], *[(n - 1) * s + 1 for n, s in zip(x.shape[2:], strides, strict=True)]))
        stuffed[(slice(None), slice(None), *[slice(None, None, s) for s in strides])] = x
        x = stuffed
        extent = [d * (k - 1) for d, k in zip(layer.dilations, layer.kernel, strict=True)]
        begin = tuple(e - p for e, p in zip(extent, begin, strict=True))
        end = tuple(e - p + o for e, p, o in zip(extent, end, layer.pads.output_padding, strict=True))
        strides = (1,) * axes
    crop = [(max(-p, 0), max(-q, 0)) for p, q in zip(begin, end, strict=True)]
    x = np.pad(x, [(0, 0), (0, 0), *[(max(p, 0), max(q, 0)) for p, q in zip(begin, end, strict=True)]])
    x = x[(slice(None), slice(None), *[slice(p, n - q) for (p, q), n in zip(crop, x.shape[2:], strict=True)])]
    y = correlate(x, kernel, strides, layer.dilations, layer.groups)
    return y + b.reshape(-1, *(1,) * axes)
