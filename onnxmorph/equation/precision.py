"""What each float type can hold, and rounding to it.

A factor is solved in float64 and stored in the model's own type. How many significant bits that type keeps decides
how exact the result can be, and which products of shorter numbers it holds without any rounding at all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxmorph.errors import Refusal

__all__ = ["Array", "float_type", "round_bits", "significant_bits", "unit_roundoff"]

Array = npt.NDArray[Any]

_SIGNIFICANT_BITS = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}


def float_type(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """``dtype`` as a NumPy type; knows ``bfloat16`` by name.

    Raises:
        Refusal: for anything but float64, float32, float16 and bfloat16.
    """
    if isinstance(dtype, str) and dtype == "bfloat16":
        import ml_dtypes

        kind: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return kind
    kind = np.dtype(dtype)
    if kind.name not in _SIGNIFICANT_BITS:
        raise Refusal(f"weights of type {kind.name} cannot be factorised; float types only", code="not-float")
    return kind


def significant_bits(dtype: npt.DTypeLike) -> int:
    """Bits of the significand, the hidden one included: 53, 24, 11, 8."""
    return _SIGNIFICANT_BITS[float_type(dtype).name]


def unit_roundoff(dtype: npt.DTypeLike) -> float:
    """Largest relative error of one rounding to nearest: ``2**-bits``."""
    return float(2.0 ** -significant_bits(dtype))


def round_bits(x: Array, bits: int) -> Array:
    """``x`` (float64) with ``bits`` significant bits each; the product of a ``p``-bit and a ``q``-bit number is exact
    in any type of ``p + q`` bits. Never turns a non-zero into a zero."""
    mantissa, exponent = np.frexp(x)
    return np.asarray(np.ldexp(np.round(np.ldexp(mantissa, bits)), exponent - bits))
