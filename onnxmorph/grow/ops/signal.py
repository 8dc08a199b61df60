"""Fourier transforms and mel filters."""

from __future__ import annotations

import math

import torch

from onnxmorph._ir import ir
from onnxmorph.grow.call import Call
from onnxmorph.grow.ops.reading import axis_of, integer, number
from onnxmorph.grow.registry import operator
from onnxmorph.grow.types import torch_type

Tensor = torch.Tensor


@operator("DFT", host=(1, 2))
def fourier(call: Call, x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    """Discrete Fourier transform along an axis; complex numbers are pairs in the last one."""
    default = 1 if call.version < 20 else -2
    over = axis_of(call.integer("axis", default) if axis is None else integer(axis), x.dim())
    inverse, half = call.flag("inverse"), call.flag("onesided")
    many = None if length is None or not length.numel() else integer(length)
    values = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x.squeeze(-1)
    if inverse and half:
        y: Tensor = torch.fft.irfft(values, many, over)
        return y.unsqueeze(-1)
    if inverse:
        result = torch.fft.ifft(values, many, over)
    elif half:
        result = torch.fft.rfft(values.real if values.is_complex() else values, many, over)
    else:
        result = torch.fft.fft(values, many, over)
    pairs: Tensor = torch.view_as_real(result)
    return pairs


@operator("STFT", host=(1, 3))
def short_time_fourier(
    call: Call, x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None
) -> Tensor:
    """Transforms of overlapping windows."""
    size = integer(length) if length is not None else 0 if window is None else window.shape[0]
    if not size:
        raise call.refuse("neither a window nor its length")
    half = call.flag("onesided", True)
    values = torch.view_as_complex(x.contiguous()) if x.dim() == 3 and x.shape[-1] == 2 else x.reshape(x.shape[0], -1)
    frames = values.unfold(1, size, integer(step))
    frames = frames if window is None else frames * window
    result = torch.fft.rfft(frames.real if frames.is_complex() else frames) if half else torch.fft.fft(frames)
    pairs: Tensor = torch.view_as_real(result)
    return pairs


@operator("MelWeightMatrix", gradient=False, host=(0, 1, 2, 3, 4))
def mel_weights(call: Call, bins: Tensor, length: Tensor, rate: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Triangular filters, evenly spaced in mel."""
    many, spectrum = integer(bins), integer(length) // 2 + 1

    def mel(hertz: float) -> float:
        return 2595.0 * math.log10(1 + hertz / 700.0)

    start, end = mel(float(number(low))), mel(float(number(high)))
    points = [start + place * (end - start) / (many + 2) for place in range(many + 2)]
    edges = [int((integer(length) + 1) * (700 * (10 ** (point / 2595.0) - 1)) // integer(rate)) for point in points]
    weights = torch.zeros(spectrum, many, dtype=torch.float64)
    for place in range(many):
        lower, middle, upper = edges[place : place + 3]
        if middle == lower:
            weights[middle, place] = 1.0
        else:
            for row in range(lower, middle + 1):
                weights[row, place] = (row - lower) / (middle - lower)
        if upper > middle:
            for row in range(middle, upper):
                weights[row, place] = (upper - row) / (upper - middle)
    return weights.to(torch_type(ir.DataType(call.integer("output_datatype", int(ir.DataType.FLOAT)))))
