"""The morphism equation on arrays ``(out, in / groups, *taps)``: no ONNX here."""

from __future__ import annotations

from onnxmorph.equation.beside import beside
from onnxmorph.equation.factorization import Factorization, occupancy, scale_ratio
from onnxmorph.equation.kernels import compose, embed, extent, identity_kernel, inner_offset, outer_bias
from onnxmorph.equation.mirror import mirror
from onnxmorph.equation.paths import split
from onnxmorph.equation.sequence import sequence_bytes, solve_sequence
from onnxmorph.equation.solve import MEMORY_LIMIT, bytes_needed, default_width, least_width, solve

__all__ = [
    "MEMORY_LIMIT",
    "Factorization",
    "beside",
    "bytes_needed",
    "compose",
    "default_width",
    "embed",
    "extent",
    "identity_kernel",
    "inner_offset",
    "least_width",
    "mirror",
    "occupancy",
    "outer_bias",
    "scale_ratio",
    "sequence_bytes",
    "solve",
    "solve_sequence",
    "split",
]
