"""Small models for the tests of training, and ONNX Runtime to hold them against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from onnxmorph import model as files
from onnxmorph._ir import ir

Array = np.ndarray[Any, Any]

SAMPLES = Path(__file__).resolve().parents[2] / "models"


def tensor(name: str, *shape: int, seed: int = 0, scale: float = 1.0) -> onnx.TensorProto:
    """Normal numbers."""
    numbers = np.random.default_rng([seed, len(name), *name.encode()]).standard_normal(shape) * scale
    return numpy_helper.from_array(numbers.astype(np.float32), name)


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str],
    stored: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = 20,
    kinds: Mapping[str, int] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model of these nodes; outputs are of floats and of unknown shape unless `kinds` says otherwise."""
    kinds = kinds or {}
    made = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), list(s)) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), None) for n in outputs],
        list(stored),
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(made, opset_imports=imports, ir_version=9, functions=list(functions))


def loaded(proto: onnx.ModelProto, folder: Path) -> ir.Model:
    """The model by way of a file."""
    path = folder / "model.onnx"
    onnx.save(proto, path)
    return files.load(path)


def reference(proto: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """What ONNX Runtime computes, with optimisations off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def mlp(*, hidden: int = 12, classes: int = 3, features: int = 6, softmax: bool = False) -> onnx.ModelProto:
    """x (n, features) -> Gemm, Relu, Gemm -> y (n, classes)."""
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="first", transB=1),
        helper.make_node("Relu", ["h"], ["a"], name="relu"),
        helper.make_node("Gemm", ["a", "w2", "b2"], ["z"], name="second", transB=1),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["z"], ["y"], name="softmax", axis=1))
    stored = [
        tensor("w1", hidden, features, scale=0.4),
        tensor("b1", hidden, scale=0.1),
        tensor("w2", classes, hidden, scale=0.3),
        tensor("b2", classes, scale=0.1),
    ]
    return graph(nodes, {"x": ["n", features]}, ["y" if softmax else "z"], stored)


def normed() -> onnx.ModelProto:
    """x (n, 2, 6, 6) -> Conv, BatchNormalization, Relu, Dropout, GlobalAveragePool, Flatten, Gemm -> y (n, 3)."""
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "bn.weight", "bn.bias", "bn.mean", "bn.var"], ["n"], name="bn"),
        helper.make_node("Relu", ["n"], ["r"], name="relu"),
        helper.make_node("Dropout", ["r", "ratio"], ["d"], name="drop"),
        helper.make_node("GlobalAveragePool", ["d"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["y"], name="fc", transB=1),
    ]
    stored = [
        tensor("conv.weight", 5, 2, 3, 3, scale=0.3),
        tensor("bn.weight", 5),
        tensor("bn.bias", 5),
        tensor("bn.mean", 5, scale=0.1),
        numpy_helper.from_array(np.linspace(0.5, 1.5, 5, dtype=np.float32), "bn.var"),
        numpy_helper.from_array(np.float32(0.5), "ratio"),
        tensor("fc.weight", 3, 5),
        tensor("fc.bias", 3),
    ]
    return graph(nodes, {"x": ["n", 2, 6, 6]}, ["y"], stored)


def blobs(*, samples: int = 120, features: int = 6, classes: int = 3, seed: int = 0) -> tuple[Array, Array]:
    """Points around a centre per class."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((classes, features)) * 2
    labels = random.integers(0, classes, samples)
    points = centres[labels] + random.standard_normal((samples, features)) * 0.7
    return points.astype(np.float32), labels.astype(np.int64)
