"""Between ONNX's element types, numpy's arrays and torch's tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from onnxmorph._ir import ir
from onnxmorph.errors import Refusal

__all__ = ["NARROW", "from_torch", "to_torch", "torch_type"]

_T = ir.DataType

_TORCH_TYPES: dict[ir.DataType, torch.dtype] = {
    _T.FLOAT: torch.float32,
    _T.DOUBLE: torch.float64,
    _T.FLOAT16: torch.float16,
    _T.BFLOAT16: torch.bfloat16,
    _T.FLOAT8E4M3FN: torch.float8_e4m3fn,
    _T.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    _T.FLOAT8E5M2: torch.float8_e5m2,
    _T.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    _T.BOOL: torch.bool,
    _T.INT8: torch.int8,
    _T.INT16: torch.int16,
    _T.INT32: torch.int32,
    _T.INT64: torch.int64,
    _T.UINT8: torch.uint8,
    _T.UINT16: torch.uint16,
    _T.UINT32: torch.uint32,
    _T.UINT64: torch.uint64,
    _T.COMPLEX64: torch.complex64,
    _T.COMPLEX128: torch.complex128,
    # Four- and two-bit numbers are held in eight bits.
    _T.INT4: torch.int8,
    _T.UINT4: torch.uint8,
    _T.INT2: torch.int8,
    _T.UINT2: torch.uint8,
}

NARROW = frozenset({torch.float16, torch.bfloat16})
"""Types too coarse for the small steps of training."""

_OF_ML_DTYPES = frozenset(
    {torch.bfloat16, torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz}
)
"""Types that numpy has from elsewhere: only their bits can be handed over."""
_BY_BITS = {2: np.uint16, 1: np.uint8}


def torch_type(dtype: ir.DataType) -> torch.dtype:
    """The torch type of the same numbers.

    Raises:
        Refusal: There is none, as for strings.
    """
    found = _TORCH_TYPES.get(dtype)
    if found is None:
        raise Refusal(f"tensors of type {dtype.name.lower()} cannot be computed with here", code="unsupported-type")
    return found


def to_torch(tensor: ir.TensorProtocol) -> torch.Tensor:
    """A copy of a stored tensor, on the CPU.

    Raises:
        Refusal: Its type has no counterpart.
    """
    wanted = torch_type(tensor.dtype)
    array = np.array(tensor.numpy(), copy=True, order="C")
    if tensor.dtype in (_T.INT4, _T.UINT4, _T.INT2, _T.UINT2):
        return torch.from_numpy(array.astype(np.int8 if wanted is torch.int8 else np.uint8))
    if wanted not in _OF_ML_DTYPES:
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False)).to(wanted)
    bits = torch.from_numpy(array.reshape(-1).view(_BY_BITS[array.dtype.itemsize]).copy())
    return bits.view(wanted).reshape(array.shape)


def from_torch(tensor: torch.Tensor, dtype: ir.DataType) -> npt.NDArray[Any]:
    """The numbers of a tensor as an array of an ONNX type, rounded where that is narrower."""
    plain = tensor.detach().to("cpu").contiguous()
    wanted = torch_type(dtype)
    if plain.dtype is not wanted:
        plain = plain.to(wanted)
    if wanted is torch.bfloat16:
        bits = plain.view(torch.uint16).numpy()
        return bits.view(dtype.numpy()).copy()
    return plain.numpy().copy()
