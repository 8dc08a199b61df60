"""The operators by family; importing this package registers them all."""

from __future__ import annotations

from onnxmorph.grow.ops import (
    attention,
    casts,
    com_microsoft,
    control_flow,
    convolution,
    elementwise,
    generators,
    indexing,
    linear,
    losses,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resampling,
    shape,
    signal,
    sklearn,
)

__all__ = [
    "attention",
    "casts",
    "com_microsoft",
    "control_flow",
    "convolution",
    "elementwise",
    "generators",
    "indexing",
    "linear",
    "losses",
    "normalization",
    "pooling",
    "quantization",
    "recurrent",
    "reduction",
    "resampling",
    "shape",
    "signal",
    "sklearn",
]
