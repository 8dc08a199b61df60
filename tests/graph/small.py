"""Small models for tests: built with onnx, run in ONNX Runtime, read with onnx-ir."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxmorph._ir import ir

Array = np.ndarray[Any, Any]
IR_VERSION = {7: 3, 8: 3, 9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10}


def tensor(array: Array, name: str) -> onnx.TensorProto:
    if array.dtype.name == "bfloat16":
        return helper.make_tensor(name, TensorProto.BFLOAT16, array.shape, array.tobytes(), raw=True)
    if array.dtype.name in ("int4", "uint4", "float8_e4m3fn", "float8_e5m2"):
        return helper.make_tensor(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array.ravel())
    return numpy_helper.from_array(array.copy(), name)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[Any, Sequence[int | str | None] | None]],
    outputs: Sequence[str],
    initializers: Mapping[str, Array] | None = None,
    *,
    opset: int = 17,
    ir_version: int | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
    also_inputs: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model; `inputs` gives numpy type and shape by name, `also_inputs` lists initializers among the inputs."""
    stored = dict(initializers or {})

    def info(name: str, dtype: Any, shape: Any) -> onnx.ValueInfoProto:
        element = dtype if isinstance(dtype, int) else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return helper.make_tensor_value_info(name, element, shape)

    taken = [info(name, *given) for name, given in inputs.items()]
    taken += [info(name, stored[name].dtype, stored[name].shape) for name in also_inputs]
    graph = helper.make_graph(
        list(nodes),
        "small",
        taken,
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [tensor(array, name) for name, array in stored.items()],
    )
    imports = [helper.make_opsetid("", opset), *[helper.make_opsetid(domain, 1) for domain in domains]]
    return helper.make_model(
        graph, opset_imports=imports, ir_version=ir_version or IR_VERSION.get(opset, 10), functions=list(functions)
    )


def run(proto: onnx.ModelProto, feeds: Mapping[str, Array], outputs: Sequence[str] = ()) -> list[Array]:
    """Run as it stands, without graph optimisations; extra inner values on request."""
    import onnxruntime as ort

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    have = {output.name for output in copy.graph.output}
    copy.graph.output.extend([onnx.ValueInfoProto(name=name) for name in outputs if name not in have])
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = list(outputs) or [output.name for output in copy.graph.output]
    return [np.asarray(array) for array in session.run(wanted, dict(feeds))]


def read(proto: onnx.ModelProto) -> ir.Model:
    return ir.from_proto(onnx.ModelProto.FromString(proto.SerializeToString()))
