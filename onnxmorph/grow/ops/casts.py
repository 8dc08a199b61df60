"""Changes of element type."""

from __future__ import annotations

from typing import Any

import torch

from onnxmorph._ir import ir
from onnxmorph.grow.call import Call
from onnxmorph.grow.registry import operator
from onnxmorph.grow.types import NARROW, torch_type

Tensor = torch.Tensor

_EIGHT_BIT_FLOATS = frozenset({torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz})
_SMALL = {
    ir.DataType.INT4: (4, True),
    ir.DataType.UINT4: (4, False),
    ir.DataType.INT2: (2, True),
    ir.DataType.UINT2: (2, False),
}


def _cast(call: Call, x: Tensor, target: torch.dtype, *, saturate: bool) -> Tensor:
    if call.mode.wide and target in NARROW:
        target = torch.float32
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
    infinite = x.isinf()
    if saturate:
        x = torch.where(x.isnan(), x, x.clamp(-largest, largest))
        return x.to(target)
    rounded = x.clamp(-2 * largest, 2 * largest).to(target).float()
    over = (rounded.abs() > largest) | rounded.isnan() | infinite
    outside = (
        torch.full_like(x, float("inf")) * x.sign() if target == torch.float8_e5m2 else torch.full_like(x, float("nan"))
    )
    return torch.where(over, outside, x).to(target)


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
