"""Convolutions, and the paddings that they share with pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from onnxmorph.grow.call import Call
from onnxmorph.grow.registry import operator

__all__ = ["flat_pads", "spatial_pads"]

Tensor = torch.Tensor
Pads = list[tuple[int, int]]

_CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


def spatial_pads(
    call: Call, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Pads:
    """Padding before and after each spatial axis, with ``auto_pad`` worked out for these sizes."""
    automatic = call.text("auto_pad", "NOTSET")
    rank = len(kernel)
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        pads = []
        for size, taps, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
            total = max(0, (math.ceil(size / stride) - 1) * stride + (taps - 1) * dilation + 1 - size)
            small, large = total // 2, total - total // 2
            pads.append((small, large) if automatic == "SAME_UPPER" else (large, small))
        return pads
    if automatic == "VALID":
        return [(0, 0)] * rank
    given = call.integers("pads", [0] * (2 * rank))
    if len(given) != 2 * rank:
        raise call.refuse(f"has {len(given)} pads for {rank} axes")
    return list(zip(given[:rank], given[rank:], strict=True))


def flat_pads(pads: Sequence[tuple[int, int]]) -> list[int]:
    """As ``torch.nn.functional.pad`` wants them: the last axis first."""
    return [amount for before, after in reversed(pads) for amount in (before, after)]


@operator("Conv")
def conv(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Cross-correlation over any number of spatial axes up to three."""
    rank = weight.dim() - 2
    if rank not in _CONVOLVE:
        raise call.refuse(f"a convolution over {rank} spatial axes")
    ones = [1] * rank
    strides, dilations = call.integers("strides", ones), call.integers("dilations", ones)
    pads = spatial_pads(call, x.shape[2:], weight.shape[2:], strides, dilations)
    if all(before == after >= 0 for before, after in pads):
        return _CONVOLVE[rank](
            x, weight, bias, strides, [before for before, _ in pads], dilations, call.integer("group", 1)
        )
    return _CONVOLVE[rank](F.pad(x, flat_pads(pads)), weight, bias, strides, 0, dilations, call.integer("group", 1))


@operator("ConvTranspose")
def conv_transpose(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The adjoint of a convolution; ``output_shape`` and ``auto_pad`` decide the pads where they are given."""
    rank = weight.dim() - 2
    if rank not in _TRANSPOSED:
        raise call.refuse(f"a transposed convolution over {rank} spatial axes")
    ones, kernel = [1] * rank, list(weight.shape[2:])
    strides, dilations = call.integers("strides", ones), call.integers("dilations", ones)
    extra = call.integers("output_padding", [0] * rank)
    groups = call.integer("group", 1)
    full = [strides[i] * (x.shape[2 + i] - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1 for i in range(rank)]
    automatic = call.text("auto_pad", "NOTSET")
    wanted = call.attributes.get("output_shape")
    if wanted or automatic.startswith("SAME"):
        target = list(wanted)[-rank:] if wanted else [x.shape[2 + i] * strides[i] for i in range(rank)]
        pads = []
        for size, goal in zip(full, target, strict=True):
            total = max(0, size - goal)
            small, large = total // 2, total - total // 2
            pads.append((small, large) if automatic == "SAME_UPPER" else (large, small))
        grown = [max(0, goal - size) for size, goal in zip(full, target, strict=True)]
        full = [size + more for size, more in zip(full, grown, strict=True)]
        extra = [e + g for e, g in zip(extra, grown, strict=True)]
    else:
        pads = spatial_pads(call, x.shape[2:], kernel, strides, dilations)
    convolve = _TRANSPOSED[rank]
    fits = all(e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))
    if fits and all(before == after >= 0 for before, after in pads):
        return convolve(x, weight, bias, strides, [before for before, _ in pads], extra, groups, dilations)
    y = convolve(x, weight, bias, strides, 0, 0, groups, dilations)
    # Beyond the last tap there is nothing but the bias; then the pads are cut off.
    missing = [(0, size - have) for size, have in zip(full, y.shape[2:], strict=True)]
    if any(after for _, after in missing):
        y = F.pad(y, flat_pads(missing))
        if bias is not None:
            beyond = torch.ones_like(y[:1, :1])
            for axis, (_, after) in enumerate(missing):
                if after:
                    beyond = beyond.clone()
                    beyond.narrow(2 + axis, y.shape[2 + axis] - after, after).zero_()
            y = y + (1 - beyond) * bias.reshape([1, -1, *ones])
    return F.pad(y, flat_pads([(-before, -after) for before, after in pads]))


@operator("ConvInteger", gradient=False)
def conv_integer(
    call: Call, x: Tensor, weight: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None
) -> Tensor:
    """A convolution of eight-bit numbers in 32 bits."""
    a, w = x.double(), weight.double()
    if x_zero is not None:
        a = a - x_zero.double()
    if w_zero is not None:
        zero = w_zero.double()
        w = w - (zero.reshape([-1, *([1] * (w.dim() - 1))]) if zero.dim() else zero)
    return conv(call, a, w).to(torch.int32)


@operator("DeformConv")
def deformable_conv(
    call: Call, x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """A convolution whose taps are moved by learned offsets (Dai et al., 2017; Zhu et al., 2019 with a mask)."""
    if weight.dim() != 4:
        raise call.refuse("a deformable convolution over other than two spatial axes")
    kh, kw = weight.shape[2:]
    strides, dilations = call.integers("strides", [1, 1]), call.integers("dilations", [1, 1])
    pads = spatial_pads(call, x.shape[2:], (kh, kw), strides, dilations)
    groups, offset_groups = call.integer("group", 1), call.integer("offset_group", 1)
    batch, channels, height, width = x.shape
    out_h, out_w = offset.shape[2:]
    moved = offset.reshape(batch, offset_groups, kh * kw, 2, out_h, out_w)
    rows = torch.arange(out_h, device=x.device).reshape(1, -1, 1) * strides[0] - pads[0][0]
    columns = torch.arange(out_w, device=x.device).reshape(1, 1, -1) * strides[1] - pads[1][0]
    taps = torch.arange(kh * kw, device=x.device).reshape(-1, 1, 1)
    y = moved[:, :, :, 0] + (rows + (taps // kw) * dilations[0]).to(x.dtype)
    z = moved[:, :, :, 1] + (columns + (taps % kw) * dilations[1]).to(x.dtype)
    grid = torch.stack([2 * z / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], -1)
    # A size of one has no scale of its own: shift by whole pixels instead.
    if width == 1:
        grid = torch.stack([2 * z, grid[..., 1]], -1)
    if height == 1:
        grid = torch.stack([grid[..., 0], 2 * y], -1)
    per_group = channels // offset_groups
    sampled = F.grid_sample(
        x.reshape(batch * offset_groups, per_group, height, width),
        grid.reshape(batch * offset_groups, kh * kw * out_h, out_w, 2),
        align_corners=True,
    ).reshape(batch, offset_groups, per_group, kh * kw, out_h, out_w)
    if mask is not None:
        sampled = sampled * mask.reshape(batch, offset_groups, 1, kh * kw, out_h, out_w)
    columns_of = sampled.reshape(batch, groups, channels // groups * kh * kw, out_h * out_w)
    kernel = weight.reshape(groups, weight.shape[0] // groups, -1)
    result = torch.matmul(kernel, columns_of).reshape(batch, weight.shape[0], out_h, out_w)
    return result if bias is None else result + bias.reshape(1, -1, 1, 1)


@operator("Col2Im", host=(1, 2))
def col2im(call: Call, x: Tensor, image: Tensor, block: Tensor) -> Tensor:
    """Sum of sliding blocks put back in their places."""
    from onnxmorph.grow.ops.reading import integers

    sizes, kernel = integers(image), integers(block)
    rank = len(sizes)
    strides, dilations = call.integers("strides", [1] * rank), call.integers("dilations", [1] * rank)
    pads = spatial_pads(call, sizes, kernel, strides, dilations)
    batch, taps = x.shape[0], math.prod(kernel)
    channels = x.shape[1] // taps
    counts = [
        (size + before + after - dilation * (k - 1) - 1) // stride + 1
        for size, (before, after), k, stride, dilation in zip(sizes, pads, kernel, strides, dilations, strict=True)
    ]
    blocks = x.reshape(batch, channels, taps, *counts)
    padded = [size + before + after for size, (before, after) in zip(sizes, pads, strict=True)]
    # A transposed convolution with a one-hot kernel puts each tap where it belongs.
    onehot = torch.eye(taps, dtype=x.dtype, device=x.device).reshape(taps, 1, *kernel)
    full = _TRANSPOSED[rank](blocks.reshape(batch * channels, taps, *counts), onehot, None, strides, 0, 0, 1, dilations)
    missing = [(0, size - have) for size, have in zip(padded, full.shape[2:], strict=True)]
    full = F.pad(full, flat_pads([(0, max(0, after)) for _, after in missing]))
    cut = F.pad(full, flat_pads([(-before, -after) for before, after in pads]))
    return cut.reshape(batch, channels, *sizes)
