"""The operators by family; importing this package registers them all."""

from __future__ import annotations

from onnxmorph.grow.ops import (
    casts,
    control_flow,
    convolution,
    elementwise,
    generators,
    indexing,
    linear,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    shape,
)

__all__ = [
    "casts",
    "control_flow",
    "convolution",
    "elementwise",
    "generators",
    "indexing",
    "linear",
    "normalization",
    "pooling",
    "quantization",
    "recurrent",
    "reduction",
    "shape",
]
