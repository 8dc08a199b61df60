"""Operators that make tensors from sizes or from chance."""

from __future__ import annotations

import math

import torch

from onnxmorph._ir import ir
from onnxmorph.grow.call import Call
from onnxmorph.grow.ops.reading import integers, number
from onnxmorph.grow.registry import operator
from onnxmorph.grow.types import torch_type

Tensor = torch.Tensor


def _dtype(call: Call, name: str, default: torch.dtype) -> torch.dtype:
    given = call.attributes.get(name)
    return call.mode.widened(default if given is None else torch_type(ir.DataType(given)))


@operator("ConstantOfShape", gradient=False, host=(0,))
def constant_of_shape(call: Call, sizes: Tensor) -> Tensor:
    """One number everywhere, the float 0 unless told otherwise."""
    value = call.tensor("value")
    shape = integers(sizes) if sizes.numel() else []
    if value is None:
        return torch.zeros(shape, dtype=call.mode.widened(torch.float32))
    return value.reshape(1).expand(math.prod(shape)).reshape(shape).clone()


@operator("Range", gradient=False, host=(0, 1, 2))
def range_(_call: Call, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """From ``start`` up to, not including, ``limit``; each number is computed from the start, not from the last."""
    first, last, step = number(start), number(limit), number(delta)
    count = max(math.ceil((last - first) / step), 0)
    steps = torch.arange(count, dtype=torch.float64 if start.is_floating_point() else torch.int64)
    return (steps * step + first).to(start.dtype)


@operator("EyeLike", gradient=False)
def eye_like(call: Call, x: Tensor) -> Tensor:
    """Ones on a diagonal of a matrix of the same size."""
    rows, columns = x.shape
    shift = call.integer("k", 0)
    on = torch.arange(columns, device=x.device).reshape(1, -1) - torch.arange(rows, device=x.device).reshape(-1, 1)
    return (on == shift).to(_dtype(call, "dtype", x.dtype))


@operator("RandomNormal", gradient=False, pure=False)
def random_normal(call: Call) -> Tensor:
    """Normal numbers."""
    made = torch.randn(call.attributes.get("shape") or [], device=call.mode.device)
    return (made * call.floating("scale", 1.0) + call.floating("mean", 0.0)).to(_dtype(call, "dtype", torch.float32))


@operator("RandomNormalLike", gradient=False, pure=False)
def random_normal_like(call: Call, x: Tensor) -> Tensor:
    """Normal numbers in the shape of another tensor."""
    made = torch.randn(x.shape, device=x.device)
    return (made * call.floating("scale", 1.0) + call.floating("mean", 0.0)).to(_dtype(call, "dtype", x.dtype))


@operator("RandomUniform", gradient=False, pure=False)
def random_uniform(call: Call) -> Tensor:
    """Uniform numbers."""
    low, high = call.floating("low", 0.0), call.floating("high", 1.0)
    made = torch.rand(call.attributes.get("shape") or [], device=call.mode.device)
    return (made * (high - low) + low).to(_dtype(call, "dtype", torch.float32))


@operator("RandomUniformLike", gradient=False, pure=False)
def random_uniform_like(call: Call, x: Tensor) -> Tensor:
    """Uniform numbers in the shape of another tensor."""
    low, high = call.floating("low", 0.0), call.floating("high", 1.0)
    return (torch.rand(x.shape, device=x.device) * (high - low) + low).to(_dtype(call, "dtype", x.dtype))


@operator("Bernoulli", gradient=False, pure=False)
def bernoulli(call: Call, x: Tensor) -> Tensor:
    """One with the probability that the input says."""
    return (torch.rand(x.shape, device=x.device) < x).to(_dtype(call, "dtype", x.dtype))


@operator("Multinomial", gradient=False, pure=False)
def multinomial(call: Call, x: Tensor) -> Tensor:
    """Classes drawn with the probabilities whose logarithms the input holds."""
    drawn = torch.multinomial(torch.softmax(x.float(), -1), call.integer("sample_size", 1), replacement=True)
    return drawn.to(_dtype(call, "dtype", torch.int32))
