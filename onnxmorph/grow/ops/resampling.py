"""Resize and sampling by a grid."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from onnxmorph.grow.call import Call
from onnxmorph.grow.ops.reading import axis_of, integers
from onnxmorph.grow.registry import operator

Tensor = torch.Tensor


@operator("Resize", since=11, host=(1, 2, 3))
def resize(
    call: Call, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    """To other sizes along any axes, each on its own; all of ONNX's ways to place and weigh."""
    over = [axis_of(axis, x.dim()) for axis in call.attributes.get("axes") or range(x.dim())]
    mode = call.text("mode", "nearest")
    placing = call.text("coordinate_transformation_mode", "half_pixel")
    if sizes is not None and sizes.numel():
        wanted = integers(sizes)
        factors = [size / x.shape[axis] for size, axis in zip(wanted, over, strict=True)]
        policy = call.text("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            factor = min(factors) if policy == "not_larger" else max(factors)
            factors = [factor] * len(over)
            wanted = [math.floor(factor * x.shape[axis] + 0.5) for axis in over]
    else:
        assert scales is not None
        factors = [float(factor) for factor in scales.tolist()]
        wanted = [math.floor(x.shape[axis] * factor) for axis, factor in zip(over, factors, strict=True)]
    regions = [(0.0, 1.0)] * len(over)
    if placing == "tf_crop_and_resize" and roi is not None:
        edges = [float(edge) for edge in roi.tolist()]
        regions = list(zip(edges[: len(over)], edges[len(over) :], strict=True))
    quick = _by_torch(call, x, over, wanted, factors, mode, placing)
    if quick is not None:
        return quick
    dtype = x.dtype
    y = x if x.is_floating_point() else x.float()
    outside: Tensor | None = None
    for axis, size, factor, region in zip(over, wanted, factors, regions, strict=True):
        if size == x.shape[axis] and factor == 1.0 and region == (0.0, 1.0):
            continue
        places, weights, beyond = _taps(
            mode,
            placing,
            call.text("nearest_mode", "round_prefer_floor"),
            x.shape[axis],
            size,
            factor,
            region,
            call.floating("cubic_coeff_a", -0.75),
            call.flag("exclude_outside"),
            call.flag("antialias"),
        )
        y = _weighted(y, axis, places, weights)
        if any(beyond):
            here = torch.tensor(beyond, device=x.device).reshape([-1 if i == axis else 1 for i in range(x.dim())])
            outside = here if outside is None else outside | here
    if outside is not None:
        y = torch.where(outside, torch.full_like(y, call.floating("extrapolation_value", 0.0)), y)
    return y if dtype == y.dtype else torch.round(y).to(dtype)


@operator("Resize", until=10, host=(1,))
@operator("Upsample", host=(1,))
def upsample(call: Call, x: Tensor, scales: Tensor | None = None) -> Tensor:
    """Before opset 11: corners are aligned at the beginning, and nearest means the one before."""
    factors = call.numbers("scales") if scales is None else [float(factor) for factor in scales.tolist()]
    if "height_scale" in call.attributes:
        factors = [1.0, 1.0, call.floating("height_scale"), call.floating("width_scale")]
    mode = {"nearest": "nearest", "linear": "linear", "bilinear": "linear"}.get(call.text("mode", "nearest"))
    if mode is None:
        raise call.refuse(f"mode {call.text('mode')!r}")
    y = x
    for axis, factor in enumerate(factors):
        if factor == 1.0:
            continue
        size = math.floor(x.shape[axis] * factor)
        places, weights, _ = _taps(
            mode, "asymmetric", "floor", x.shape[axis], size, factor, (0.0, 1.0), 0.0, False, False
        )
        y = _weighted(y, axis, places, weights)
    return y


def _by_torch(
    call: Call, x: Tensor, over: Sequence[int], wanted: Sequence[int], factors: Sequence[float], mode: str, placing: str
) -> Tensor | None:
    """Linear interpolation of images that torch does alike, and faster."""
    if not x.is_floating_point() or not 3 <= x.dim() <= 5 or mode != "linear" or call.flag("antialias"):
        return None
    sizes = dict(zip(over, wanted, strict=True))
    exact = all(factor * x.shape[axis] == size for axis, size, factor in zip(over, wanted, factors, strict=True))
    images = all(sizes.get(axis, x.shape[axis]) == x.shape[axis] for axis in (0, 1))
    if not exact or not images or call.flag("exclude_outside") or placing not in ("half_pixel", "align_corners"):
        return None
    target = [sizes.get(axis, x.shape[axis]) for axis in range(2, x.dim())]
    name = {3: "linear", 4: "bilinear", 5: "trilinear"}[x.dim()]
    return F.interpolate(x, target, mode=name, align_corners=placing == "align_corners")


def _weighted(
    x: Tensor, axis: int, places: tuple[tuple[int, ...], ...], weights: tuple[tuple[float, ...], ...]
) -> Tensor:
    """A sum of shifted copies; one copy, and no product, where every weight is one."""
    total: Tensor | None = None
    for at, weight in zip(places, weights, strict=True):
        taken = x.index_select(axis, torch.tensor(at, device=x.device))
        if len(places) > 1:
            factor = torch.tensor(weight, dtype=x.dtype, device=x.device)
            taken = taken * factor.reshape([-1 if place == axis else 1 for place in range(x.dim())])
        total = taken if total is None else total + taken
    assert total is not None
    return total


@functools.lru_cache(maxsize=256)
def _taps(
    mode: str,
    placing: str,
    nearest: str,
    length: int,
    size: int,
    factor: float,
    region: tuple[float, float],
    cubic: float,
    exclude: bool,
    antialias: bool,
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[float, ...], ...], tuple[bool, ...]]:
    """For each of the taps of an axis, where it takes from and with which weight; and which places lie outside."""
    columns, rows, outside = [], [], []
    for place in range(size):
        x = _source(placing, place, length, size, factor, region)
        outside.append(placing == "tf_crop_and_resize" and not 0 <= x <= length - 1)
        if mode == "nearest":
            rounded = {
                "floor": math.floor(x),
                "ceil": math.ceil(x),
                "round_prefer_floor": math.ceil(x - 0.5),
                "round_prefer_ceil": math.floor(x + 0.5),
            }[nearest]
            columns.append([rounded])
            rows.append([1.0])
            continue
        shrink = min(factor, 1.0) if antialias else 1.0
        reach = (1 if mode == "linear" else 2) / shrink
        first, last = math.floor(x - reach) + 1, math.ceil(x + reach) - 1
        if not antialias:
            first = math.floor(x) - (0 if mode == "linear" else 1)
            last = first + (1 if mode == "linear" else 3)
        taps = list(range(first, last + 1))
        weights = [
            max(0.0, 1 - abs(tap - x) * shrink) if mode == "linear" else _cubic((tap - x) * shrink, cubic)
            for tap in taps
        ]
        if exclude:
            weights = [weight if 0 <= tap < length else 0.0 for tap, weight in zip(taps, weights, strict=True)]
        if exclude or antialias:
            weights = [weight / sum(weights) for weight in weights]
        columns.append(taps)
        rows.append(weights)
    widest = max((len(taps) for taps in columns), default=1)
    clamped = [[min(max(tap, 0), length - 1) for tap in [*taps, *[0] * (widest - len(taps))]] for taps in columns]
    filled = [[*weights, *[0.0] * (widest - len(weights))] for weights in rows]
    return tuple(zip(*clamped, strict=True)), tuple(zip(*filled, strict=True)), tuple(outside)


def _source(placing: str, place: int, length: int, size: int, factor: float, region: tuple[float, float]) -> float:
    """Where a place of the output lies in the input."""
    wide = factor * length
    if placing == "align_corners":
        return 0.0 if wide == 1 else place * (length - 1) / (wide - 1)
    if placing == "asymmetric":
        return place / factor
    if placing == "tf_crop_and_resize":
        start, end = region
        if wide == 1:
            return (start + end) * (length - 1) / 2
        return start * (length - 1) + place * (end - start) * (length - 1) / (wide - 1)
    if placing == "pytorch_half_pixel" and wide == 1:
        return -0.5
    middle = (place + 0.5) / factor - 0.5
    if placing == "half_pixel_symmetric":
        return length / 2 * (1 - size / wide) + middle
    return middle


def _cubic(distance: float, a: float) -> float:
    x = abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


@operator("GridSample")
def grid_sample(call: Call, x: Tensor, grid: Tensor) -> Tensor:
    """Samples of an image or a volume at places between -1 and 1."""
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(text := call.text("mode", "linear"), text)
    padding = call.text("padding_mode", "zeros")
    aligned = call.flag("align_corners")
    if mode == "bicubic" and x.dim() != 4:
        raise call.refuse("cubic sampling of other than images")
    return F.grid_sample(x, grid, mode=mode, padding_mode=padding, align_corners=aligned)


@operator("AffineGrid", host=(1,))
def affine_grid(call: Call, theta: Tensor, sizes: Tensor) -> Tensor:
    """Places for `grid_sample` by an affine map."""
    return F.affine_grid(theta, integers(sizes), align_corners=call.flag("align_corners"))
