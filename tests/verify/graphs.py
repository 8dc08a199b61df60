"""Small models for the tests of this folder, written as ONNX text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.parser

from onnxmorph._ir import ir

__all__ = ["replaced", "small_model", "weights"]


def weights(*shape: int, seed: int = 0, scale: float = 0.5) -> np.ndarray[Any, Any]:
    """Signed float32 numbers of this shape."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def small_model(
    signature: str,
    body: str,
    tensors: Mapping[str, np.ndarray[Any, Any]] | None = None,
    *,
    opset: int = 17,
    more: str = "",
) -> ir.Model:
    """A model ``signature => {body}`` with these initializers.

    Args:
        signature: Inputs and outputs, such as ``"(float[N,4] x) => (float[N,2] y)"``.
        body: Nodes, one a line.
        tensors: Initializers by name.
        more: Further opset imports, such as ``', "com.example" : 1'``.
    """
    text = f'<ir_version: 8, opset_import: ["" : {opset}{more}]> g {signature} {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    for name, array in (tensors or {}).items():
        tensor = onnx.TensorProto(
            name=name, dims=array.shape, data_type=int(ir.DataType.from_numpy(array.dtype)), raw_data=array.tobytes()
        )
        proto.graph.initializer.append(tensor)
    return ir.from_proto(proto)


def replaced(model: ir.Model, name: str, array: np.ndarray[Any, Any]) -> ir.Model:
    """A copy of the model with another tensor in one initializer."""
    from onnxmorph.model import clone

    copy = clone(model)
    copy.graph.initializers[name].const_value = ir.Tensor(array, name=name)
    return copy
