"""Changes of element type."""

from __future__ import annotations

import math
from typing import Any

import torch

from onnxmorph._ir import ir
from onnxmorph.grow.call import Call
from onnxmorph.grow.registry import operator
from onnxmorph.grow.types import torch_type

Tensor = torch.Tensor

_EIGHT_BIT_FLOATS = frozenset({torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz})
_OVERFLOW = {
    torch.float8_e4m3fn: (464.0, False),
    torch.float8_e4m3fnuz: (248.0, True),
    torch.float8_e5m2: (61440.0, True),
    torch.float8_e5m2fnuz: (61440.0, True),
}
"""Halfway to what would be the next number, and whether that rounds up."""
_SMALL = {
    ir.DataType.INT4: (4, True),
    ir.DataType.UINT4: (4, False),
    ir.DataType.INT2: (2, True),
    ir.DataType.UINT2: (2, False),
}


def _cast(call: Call, x: Tensor, target: torch.dtype, *, saturate: bool) -> Tensor:
    target = call.mode.widened(target)
    if x.dtype == target:
        return x
    if x.dtype in _EIGHT_BIT_FLOATS:
        x = x.float()
    if target in _EIGHT_BIT_FLOATS:
        return eight_bits(x.float(), target, saturate=saturate)
    if target == torch.bool:
        return x != 0
    if x.is_floating_point() and not target.is_floating_point and not target.is_complex:
        # By way of 64 bits: what does not fit wraps around as in ONNX Runtime, and is not left to the processor.
        return x.to(torch.int64).to(target) if target != torch.int64 else x.to(target)
    return x.to(target)


def eight_bits(x: Tensor, target: torch.dtype, *, saturate: bool) -> Tensor:
    largest = torch.finfo(target).max
    if saturate:
        x = torch.where(x.isnan(), x, x.clamp(-largest, largest))
        return x.to(target)
    bound, tie_overflows = _OVERFLOW[target]
    over = x.abs() >= bound if tie_overflows else x.abs() > bound
    lost = x.sign() * math.inf if target == torch.float8_e5m2 else torch.full_like(x, math.nan)
    return torch.where(over, lost, x.clamp(-largest, largest)).to(target)


def _small(x: Tensor, to: ir.DataType) -> Tensor:
    """Whole numbers of a few bits, wrapped around, held in eight."""
    bits, signed = _SMALL[to]
    whole = x.float().round() if x.is_floating_point() or x.dtype in _EIGHT_BIT_FLOATS else x
    kept = whole.to(torch.int64) & ((1 << bits) - 1)
    if signed:
        kept = torch.where(kept >= 1 << (bits - 1), kept - (1 << bits), kept)
    return kept.to(torch_type(to))


@operator("Cast")
def cast(call: Call, x: Any) -> Any:
    """To the type that attribute ``to`` names; no gradient passes to or from whole numbers."""
    to = ir.DataType(_numbered(call))
    if isinstance(x, list):
        raise call.refuse("strings cannot be computed with here")
    if to in _SMALL:
        return _small(x, to)
    return _cast(call, x, torch_type(to), saturate=call.flag("saturate", True))


def _numbered(call: Call) -> int:
    """The type's number; opset 1 wrote its name."""
    to = call.attributes.get("to")
    if isinstance(to, str):
        return int(ir.DataType[to.upper()])
    return call.integer("to")


@operator("CastLike")
def cast_like(call: Call, x: Tensor, like: Tensor) -> Tensor:
    """To the type of the second input."""
    types: list[Any] = call.attributes.get("_types") or []
    if len(types) > 1 and types[1] in _SMALL:
        return _small(x, types[1])
    return _cast(call, x, like.dtype, saturate=call.flag("saturate", True))


@operator("BitCast", gradient=False)
def bit_cast(call: Call, x: Tensor) -> Tensor:
    """The same bits under another type of the same size."""
    return x.view(torch_type(ir.DataType(call.integer("to"))))
