"""Quantisation. The forward pass is ONNX's; no gradient passes through the rounding."""

from __future__ import annotations

from typing import Any

import torch

from onnxmorph._ir import ir
from onnxmorph.grow.call import Call
from onnxmorph.grow.registry import operator
from onnxmorph.grow.types import torch_type

Tensor = torch.Tensor

_RANGES = {
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT4: (0, 15),
    ir.DataType.INT2: (-2, 1),
    ir.DataType.UINT2: (0, 3),
}


def _laid(part: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """A scale or zero point so that it broadcasts: one for all, one per slice, or one per block of an axis."""
    if part.numel() == 1 and part.dim() <= 1:
        return part.reshape([])
    if part.dim() == 1:
        return part.reshape([-1 if place == axis % x.dim() else 1 for place in range(x.dim())])
    over = axis % x.dim()
    size = block or -(-x.shape[over] // part.shape[over])
    return part.repeat_interleave(size, over).narrow(over, 0, x.shape[over])


@operator("DequantizeLinear")
@operator("DequantizeLinear", domain="com.microsoft")
def dequantize_linear(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """``(x - zero) * scale``."""
    axis, block = call.integer("axis", 1), call.integer("block_size", 0)
    step = _laid(scale, x, axis, block)
    wide = x.float() if x.element_size() == 1 or x.dtype in (torch.int16, torch.uint16) else x.double()
    if zero is not None:
        offset = _laid(zero.float() if zero.element_size() == 1 else zero.double(), x, axis, block)
        wide = wide - offset.to(wide.dtype)
    given = call.attributes.get("output_dtype")
    target = scale.dtype if not given else torch_type(ir.DataType(given))
    return (wide.to(torch.float32) * step.float()).to(target)


@operator("QuantizeLinear", gradient=False)
@operator("QuantizeLinear", domain="com.microsoft", gradient=False)
def quantize_linear(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """``saturate(round(x / scale) + zero)``, to even."""
    axis, block = call.integer("axis", 1), call.integer("block_size", 0)
    given = call.attributes.get("output_dtype")
    target = torch_type(ir.DataType(given)) if given else zero.dtype if zero is not None else torch.uint8
    if x.dtype in (torch.float16, torch.bfloat16) and scale.dtype == x.dtype:
        divided = (x / _laid(scale, x, axis, block)).float()
    else:
        divided = x.float() / _laid(scale, x, axis, block).float()
    if target.is_floating_point:
        from onnxmorph.grow.ops.casts import eight_bits

        shifted = divided if zero is None else divided + _laid(zero.float(), x, axis, block)
        return eight_bits(shifted, target, saturate=call.flag("saturate", True))
    low, high = torch.iinfo(target).min, torch.iinfo(target).max
    types: list[Any] = call.attributes.get("_types") or []
    kind = ir.DataType(given) if given else types[2] if len(types) > 2 else None
    if kind in _RANGES:
        low, high = _RANGES[kind]
    whole = torch.round(divided).double()
    if zero is not None:
        whole = whole + _laid(zero.double(), x, axis, block)
    return whole.clamp(low, high).to(torch.int64).to(target)


@operator("DynamicQuantizeLinear", gradient=False)
def dynamic_quantize_linear(_call: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """To eight bits over the range of what is there, which always holds zero."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    safe = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round((0 - low / safe).clamp(0, 255))
    y = torch.round(x / safe) + zero
    return y.clamp(0, 255).to(torch.uint8), scale, zero.to(torch.uint8)


@operator("QLinearMatMul", gradient=False)
def qlinear_matmul(
    call: Call,
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
) -> Tensor:
    """A product of quantised matrices, quantised anew."""

    def rows(part: Tensor) -> Tensor:
        return part.reshape(*part.shape, 1) if part.dim() == 1 and part.numel() > 1 else part

    x = a.double() - rows(a_zero).double()
    w = b.double() - b_zero.double()
    scale = rows(a_scale).double() * b_scale.double() / y_scale.double()
    y = torch.round((torch.matmul(x, w) * scale).float()).double() + y_zero.double()
    limits = torch.iinfo(y_zero.dtype)
    del call
    return y.clamp(limits.min, limits.max).to(torch.int64).to(y_zero.dtype)


@operator("QLinearConv", gradient=False)
def qlinear_conv(
    call: Call,
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """A convolution of quantised numbers, quantised anew."""
    from onnxmorph.grow.ops.convolution import conv

    rank = w.dim()

    def per_output(part: Tensor) -> Tensor:
        return part.double().reshape([-1, *([1] * (rank - 1))]) if part.numel() > 1 else part.double().reshape([])

    total = conv(call, x.double() - x_zero.double(), w.double() - per_output(w_zero))
    channels = [1, -1, *([1] * (rank - 2))]
    if bias is not None:
        total = total + bias.double().reshape(channels)
    scale = x_scale.double() * (w_scale.double().reshape(channels) if w_scale.numel() > 1 else w_scale.double())
    y = torch.round((total * scale / y_scale.double()).float()).double() + y_zero.double()
    limits = torch.iinfo(y_zero.dtype)
    return y.clamp(limits.min, limits.max).to(torch.int64).to(y_zero.dtype)
