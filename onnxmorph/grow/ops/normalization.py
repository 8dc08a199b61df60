"""Normalisations and softmax."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from onnxmorph.grow.call import Call
from onnxmorph.grow.ops.reading import along, axis_of
from onnxmorph.grow.registry import operator

__all__ = ["layer_norm", "rms_norm"]

Tensor = torch.Tensor


@operator("BatchNormalization", pure=False)
def batch_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> object:
    """With the stored statistics; in training with those of the batch, which the stored ones follow.

    ONNX's convention for both: ``running = momentum * running + (1 - momentum) * batch``, with the population's
    variance.
    """
    momentum, epsilon = call.floating("momentum", 0.9), call.floating("epsilon", 1e-5)
    asked = call.flag("training_mode") if call.version >= 14 else call.outputs > 1
    follows = call.mode.batch_statistics and {id(mean), id(var)} <= call.mode.followed
    numbers = x.numel() // max(1, x.shape[1])
    if not asked and (not follows or numbers <= 1):  # one number has no variance: nothing to learn from
        return F.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)
    # With a momentum of one the running statistics are the batch's; the variance is torch's, over n - 1.
    batch_mean, batch_var = torch.zeros_like(mean), torch.zeros_like(var)
    y = F.batch_norm(x, batch_mean, batch_var, scale, bias, True, 1.0, epsilon)
    with torch.no_grad():
        population = batch_var * ((numbers - 1) / numbers)
        if follows:
            mean.lerp_(batch_mean, 1.0 - momentum)
            var.lerp_(population, 1.0 - momentum)
            return (y, mean.clone(), var.clone()) if asked else y
        return y, torch.lerp(mean, batch_mean, 1.0 - momentum), torch.lerp(var, population, 1.0 - momentum)


@operator("InstanceNormalization")
def instance_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Over the spatial axes of each channel of each sample."""
    axes = list(range(2, x.dim()))
    if not axes or math.prod(x.shape[2:]) == 1:
        # A single number is its own mean; torch refuses it.
        mean = x.mean(axes, keepdim=True) if axes else x
        return (x - mean) * along(scale, 1, x.dim()) + along(bias, 1, x.dim())
    return F.instance_norm(x, weight=scale, bias=bias, eps=call.floating("epsilon", 1e-5))


@operator("GroupNormalization")
def group_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Over groups of channels; until opset 20 scale and bias were per group."""
    groups = call.integer("num_groups")
    if call.version < 21 and scale.numel() == groups:
        each = x.shape[1] // groups
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return F.group_norm(x, groups, scale, bias, call.floating("epsilon", 1e-5))


def layer_norm(
    x: Tensor, scale: Tensor | None, bias: Tensor | None, axis: int, epsilon: float
) -> tuple[Tensor, Callable[[], tuple[Tensor, Tensor]]]:
    """Normalised over the axes from ``axis`` on; and what gives mean and inverse deviation."""
    shape = x.shape[axis:]

    def statistics() -> tuple[Tensor, Tensor]:
        axes = list(range(axis, x.dim()))
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        mean = wide.mean(axes, keepdim=True)
        return mean, torch.rsqrt(wide.var(axes, correction=0, keepdim=True) + epsilon)

    whole = all(
        part is None or (part.shape == shape and part.dtype == x.dtype) or part.numel() == math.prod(shape)
        for part in (scale, bias)
    )
    if whole and (scale is None or scale.dtype == x.dtype):
        weight = None if scale is None else scale.reshape(shape)
        return F.layer_norm(x, shape, weight, None if bias is None else bias.reshape(shape), epsilon), statistics
    y = F.layer_norm(x, shape, None, None, epsilon)
    y = y if scale is None else (y * scale).to(x.dtype)
    return (y if bias is None else (y + bias).to(x.dtype)), statistics


def rms_norm(x: Tensor, scale: Tensor | None, axis: int, epsilon: float) -> Tensor:
    """``x / sqrt(mean(x^2) + epsilon)`` over the axes from ``axis`` on, scaled."""
    shape = x.shape[axis:]
    if scale is None or (scale.numel() == math.prod(shape) and scale.dtype == x.dtype):
        return F.rms_norm(x, shape, None if scale is None else scale.reshape(shape), epsilon)
    return (F.rms_norm(x, shape, None, epsilon) * scale).to(x.dtype)


@operator("LayerNormalization")
@operator("LayerNormalization", domain="com.microsoft")
def layer_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> object:
    """Mean and inverse standard deviation are further outputs."""
    axis = axis_of(call.integer("axis", -1), x.dim())
    y, statistics = layer_norm(x, scale, bias, axis, call.floating("epsilon", 1e-5))
    if not any(call.wanted[1:]):
        return y
    return y, *statistics()


@operator("RMSNormalization")
def rms_normalization(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    """Without a mean."""
    return rms_norm(x, scale, axis_of(call.integer("axis", -1), x.dim()), call.floating("epsilon", 1e-5))


@operator("LpNormalization")
def lp_normalization(call: Call, x: Tensor) -> Tensor:
    """``x / |x|_p`` along an axis; a vector of zeros stays."""
    p, axis = call.integer("p", 2), call.integer("axis", -1)
    size = x.abs().sum(axis, keepdim=True) if p == 1 else x.square().sum(axis, keepdim=True).sqrt()
    return torch.where(size == 0, torch.zeros_like(x), x / torch.where(size == 0, torch.ones_like(size), size))


@operator("MeanVarianceNormalization")
def mean_variance_normalization(call: Call, x: Tensor) -> Tensor:
    """``(x - mean) / (deviation + 1e-9)``."""
    axes = call.integers("axes", [0, 2, 3])
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)


@operator("LRN")
def local_response_normalization(call: Call, x: Tensor) -> Tensor:
    """``x / (bias + alpha / size * sum of squares over neighbouring channels)^beta``."""
    size = call.integer("size")
    alpha, beta, bias = call.floating("alpha", 1e-4), call.floating("beta", 0.75), call.floating("bias", 1.0)
    before = (size - 1) // 2
    squares = F.pad(x.square().movedim(1, -1), (before, size - 1 - before))
    total = squares.unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    return x / (bias + alpha / size * total) ** beta


def _over_axis(name: str, run: Callable[[Tensor, int], Tensor], *, gradient: bool = True) -> None:
    @operator(name, since=13, gradient=gradient)
    def along_axis(call: Call, x: Tensor) -> Tensor:
        return run(x, call.integer("axis", -1))

    @operator(name, until=12, gradient=gradient)
    def flattened(call: Call, x: Tensor) -> Tensor:
        # Everything from the axis on was one.
        axis = axis_of(call.integer("axis", 1), x.dim())
        flat = x.reshape(math.prod(x.shape[:axis]), -1)
        return run(flat, 1).reshape(x.shape)


def _hardmax(x: Tensor, axis: int) -> Tensor:
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)


_over_axis("Softmax", torch.softmax)
_over_axis("LogSoftmax", torch.log_softmax)
_over_axis("Hardmax", _hardmax, gradient=False)
