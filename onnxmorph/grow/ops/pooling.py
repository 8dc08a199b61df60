"""Pooling: over windows and over everything."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from onnxmorph.grow.call import Call
from onnxmorph.grow.ops.convolution import flat_pads, spatial_pads
from onnxmorph.grow.registry import operator

Tensor = torch.Tensor
Pads = list[tuple[int, int]]

_MAX: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def _windows(call: Call, x: Tensor) -> tuple[list[int], list[int], list[int], Pads, list[int]]:
    """Kernel, strides, dilations, pads and the output's sizes."""
    kernel = call.integers("kernel_shape")
    rank = len(kernel)
    if rank != x.dim() - 2 or rank not in _MAX:
        raise call.refuse(f"pooling over {rank} axes of an input of rank {x.dim()}")
    strides, dilations = call.integers("strides", [1] * rank), call.integers("dilations", [1] * rank)
    pads = spatial_pads(call, x.shape[2:], kernel, strides, dilations)
    ceil = call.flag("ceil_mode") and not call.text("auto_pad", "NOTSET").startswith("SAME")
    sizes = []
    for size, taps, stride, dilation, (before, after) in zip(
        x.shape[2:], kernel, strides, dilations, pads, strict=True
    ):
        reach = size + before + after - dilation * (taps - 1) - 1
        count = (math.ceil(reach / stride) if ceil else reach // stride) + 1
        if ceil and (count - 1) * stride >= size + before:
            count -= 1  # a window that would start behind the input
        sizes.append(count)
    return kernel, strides, dilations, pads, sizes


def _extended(
    x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Pads, sizes: Sequence[int]
) -> Pads:
    """Pads such that the windows end exactly at the end."""
    return [
        (before, (count - 1) * stride + dilation * (taps - 1) + 1 - size - before)
        for size, taps, stride, dilation, (before, _), count in zip(
            x.shape[2:], kernel, strides, dilations, pads, sizes, strict=True
        )
    ]


def _plain(pads: Pads, kernel: Sequence[int], call: Call) -> bool:
    """Whether torch pads alike itself."""
    even = all(before == after and 2 * before <= taps for (before, after), taps in zip(pads, kernel, strict=True))
    return even and not call.flag("ceil_mode")


@operator("MaxPool")
def max_pool(call: Call, x: Tensor) -> object:
    """The largest of each window; the second output says where it lay in the whole flattened input."""
    kernel, strides, dilations, pads, sizes = _windows(call, x)
    pool = _MAX[len(kernel)]
    if call.outputs > 1 and call.wanted[1]:
        return _max_pool_with_indices(call, x)
    if not x.is_floating_point():
        extended = _extended(x, kernel, strides, dilations, pads, sizes)
        return pool(F.pad(x.double(), flat_pads(extended), value=-math.inf), kernel, strides, 0, dilations).to(x.dtype)
    if _plain(pads, kernel, call):
        return pool(x, kernel, strides, [before for before, _ in pads], dilations)
    extended = _extended(x, kernel, strides, dilations, pads, sizes)
    return pool(F.pad(x, flat_pads(extended), value=-math.inf), kernel, strides, 0, dilations)


def _max_pool_with_indices(call: Call, x: Tensor) -> tuple[Tensor, Tensor]:
    kernel, strides, dilations, pads, sizes = _windows(call, x)
    rank = len(kernel)
    wide = x if x.is_floating_point() else x.double()
    extended = _extended(x, kernel, strides, dilations, pads, sizes)
    padded = F.pad(wide, flat_pads(extended), value=-math.inf)
    y, index = _MAX[rank](padded, kernel, strides, 0, dilations, return_indices=True)
    place = torch.zeros_like(index)
    rest = index
    factors, total = [], 1
    for axis in reversed(range(rank)):
        factors.append((axis, total))
        total *= x.shape[2 + axis]
    if call.integer("storage_order", 0) == 1:  # column-major over the spatial axes
        factors, total = [], 1
        for axis in range(rank):
            factors.append((axis, total))
            total *= x.shape[2 + axis]
    weights = dict(factors)
    for axis in reversed(range(rank)):
        size = padded.shape[2 + axis]
        place = place + (rest % size - extended[axis][0]) * weights[axis]
        rest = rest // size
    images = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(x.shape[0], x.shape[1], *([1] * rank))
    return y.to(x.dtype), place + images * math.prod(x.shape[2:])


@operator("AveragePool")
def average_pool(call: Call, x: Tensor) -> Tensor:
    """The mean of each window, over what lies in the input or, when asked, over the padding too."""
    kernel, strides, dilations, pads, sizes = _windows(call, x)
    included = call.flag("count_include_pad")
    rank = len(kernel)
    if _plain(pads, kernel, call) and all(dilation == 1 for dilation in dilations):
        return _AVERAGE[rank](x, kernel, strides, [before for before, _ in pads], count_include_pad=included)
    extended = _extended(x, kernel, strides, dilations, pads, sizes)
    ones = torch.ones([1, 1, *x.shape[2:]], dtype=x.dtype, device=x.device)
    if included:
        ones = F.pad(ones, flat_pads([(before, max(0, after)) for before, after in pads]), value=1.0)
        rest = [(0, whole[1] - max(0, after)) for whole, (_, after) in zip(extended, pads, strict=True)]
        ones = F.pad(ones, flat_pads(rest))
    else:
        ones = F.pad(ones, flat_pads(extended))
    taps = torch.ones([1, 1, *kernel], dtype=x.dtype, device=x.device)
    convolve = _CONVOLVE[rank]
    flat = F.pad(x, flat_pads(extended)).reshape(
        -1, 1, *[size + sum(pad) for size, pad in zip(x.shape[2:], extended, strict=True)]
    )
    total = convolve(flat, taps, None, strides, 0, dilations).reshape(*x.shape[:2], *sizes)
    return total / convolve(ones, taps, None, strides, 0, dilations)


@operator("LpPool")
def lp_pool(call: Call, x: Tensor) -> Tensor:
    """``(sum |x|^p)^(1/p)`` over each window."""
    kernel, strides, dilations, pads, sizes = _windows(call, x)
    p = call.integer("p", 2)
    extended = _extended(x, kernel, strides, dilations, pads, sizes)
    powered = F.pad(x.abs() ** p, flat_pads(extended))
    taps = torch.ones([1, 1, *kernel], dtype=x.dtype, device=x.device)
    flat = powered.reshape(-1, 1, *powered.shape[2:])
    total = _CONVOLVE[len(kernel)](flat, taps, None, strides, 0, dilations)
    return total.reshape(*x.shape[:2], *sizes) ** (1.0 / p)


@operator("GlobalAveragePool")
def global_average_pool(_call: Call, x: Tensor) -> Tensor:
    """Over all spatial axes."""
    return x.mean(tuple(range(2, x.dim())), keepdim=True) if x.dim() > 2 else x


@operator("GlobalMaxPool")
def global_max_pool(_call: Call, x: Tensor) -> Tensor:
    """Over all spatial axes."""
    return x.amax(tuple(range(2, x.dim())), keepdim=True) if x.dim() > 2 else x


@operator("GlobalLpPool")
def global_lp_pool(call: Call, x: Tensor) -> Tensor:
    """Over all spatial axes."""
    p = call.integer("p", 2)
    return (x.abs() ** p).sum(tuple(range(2, x.dim())), keepdim=True) ** (1.0 / p)


@operator("MaxUnpool", host=(2,))
def max_unpool(call: Call, x: Tensor, index: Tensor, shape: Tensor | None = None) -> Tensor:
    """Each number back to the place that `max_pool` found it in."""
    kernel = call.integers("kernel_shape")
    rank = len(kernel)
    strides = call.integers("strides", [1] * rank)
    pads = call.integers("pads", [0] * (2 * rank))
    natural = [
        (size - 1) * stride + taps - before - after
        for size, stride, taps, before, after in zip(
            x.shape[2:], strides, kernel, pads[:rank], pads[rank:], strict=True
        )
    ]
    target = [*x.shape[:2], *natural] if shape is None else [int(size) for size in shape.tolist()]
    # Places count in the natural size; a larger output has them in its corner.
    flat = torch.zeros(math.prod(x.shape[:2]) * math.prod(natural), dtype=x.dtype, device=x.device)
    filled = flat.index_put((index.reshape(-1),), x.reshape(-1)).reshape(*x.shape[:2], *natural)
    return F.pad(filled, flat_pads([(0, size - have) for size, have in zip(target[2:], natural, strict=True)]))


@operator("MaxRoiPool")
def max_roi_pool(call: Call, x: Tensor, rois: Tensor) -> Tensor:
    """The largest in each cell of a grid laid over each region."""
    height, width = call.integers("pooled_shape")
    scale = call.floating("spatial_scale", 1.0)
    results = []
    for roi in rois:
        image = int(roi[0])
        left, top, right, bottom = (int(torch.floor(edge * scale + 0.5)) for edge in roi[1:])
        rows, columns = max(bottom - top + 1, 1) / height, max(right - left + 1, 1) / width
        cells = []
        for i in range(height):
            for j in range(width):
                y0, y1 = (
                    min(max(edge + top, 0), x.shape[2]) for edge in (math.floor(i * rows), math.ceil((i + 1) * rows))
                )
                x0, x1 = (
                    min(max(edge + left, 0), x.shape[3])
                    for edge in (math.floor(j * columns), math.ceil((j + 1) * columns))
                )
                cell = x[image, :, y0:y1, x0:x1]
                cells.append(cell.amax((1, 2)) if cell.numel() else x.new_zeros(x.shape[1]))
        results.append(torch.stack(cells, -1).reshape(x.shape[1], height, width))
    return torch.stack(results) if results else x.new_zeros(0, x.shape[1], height, width)


@operator("RoiAlign")
def roi_align(call: Call, x: Tensor, rois: Tensor, images: Tensor) -> Tensor:
    """Bilinear samples averaged, or their largest taken, in each cell of a grid over each region (He et al., 2017)."""
    mode = call.text("mode", "avg")
    height, width = call.integer("output_height", 1), call.integer("output_width", 1)
    ratio, scale = call.integer("sampling_ratio", 0), call.floating("spatial_scale", 1.0)
    default = "half_pixel" if call.version >= 16 else "output_half_pixel"
    half = call.text("coordinate_transformation_mode", default) == "half_pixel"
    results = []
    for roi, image in zip(rois, images.tolist(), strict=True):
        left, top, right, bottom = (roi * scale - (0.5 if half else 0.0)).unbind()
        wide, high = right - left, bottom - top
        if not half:
            wide, high = wide.clamp(min=1.0), high.clamp(min=1.0)
        rows = ratio if ratio > 0 else math.ceil(float(high) / height)
        columns = ratio if ratio > 0 else math.ceil(float(wide) / width)
        y = top + (torch.arange(height * rows, device=x.device).to(x.dtype) + 0.5) * high / (height * rows)
        z = left + (torch.arange(width * columns, device=x.device).to(x.dtype) + 0.5) * wide / (width * columns)
        samples = _bilinear(x[image], y, z, largest=mode == "max")
        cells = samples.reshape(x.shape[1], height, rows, width, columns)
        results.append(cells.amax((2, 4)) if mode == "max" else cells.mean((2, 4)))
    return torch.stack(results) if results else x.new_zeros(0, x.shape[1], height, width)


def _bilinear(image: Tensor, y: Tensor, z: Tensor, *, largest: bool) -> Tensor:
    """Samples on a grid; a point more than one pixel outside is 0. ``largest``: of the four weighted corners."""
    height, width = image.shape[1:]
    inside = ((y >= -1) & (y <= height)).reshape(-1, 1) & ((z >= -1) & (z <= width)).reshape(1, -1)
    y, z = y.clamp(0, height - 1), z.clamp(0, width - 1)
    y0, z0 = y.floor().long(), z.floor().long()
    y1, z1 = (y0 + 1).clamp(max=height - 1), (z0 + 1).clamp(max=width - 1)
    v, u = (y - y0).reshape(-1, 1), (z - z0).reshape(1, -1)
    corners = [
        image[:, y0][:, :, z0] * ((1 - v) * (1 - u)),
        image[:, y0][:, :, z1] * ((1 - v) * u),
        image[:, y1][:, :, z0] * (v * (1 - u)),
        image[:, y1][:, :, z1] * (v * u),
    ]
    stacked = torch.stack(corners)
    return (stacked.amax(0) if largest else stacked.sum(0)) * inside
