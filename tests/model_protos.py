"""Comparing model files field by field, apart from how they store their tensors; and small models to try things on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper

from onnxmorph.wire import varint

_UNORDERED = {"metadata_props", "quant_parameter_tensor_names", "external_data"}


def canonical(message: Message, names: set[str] | None = None) -> Any:
    """A message as nested dictionaries: unset and empty fields left out, tensors as type, dims and values."""
    if isinstance(message, onnx.TensorProto):
        if message.data_type == TensorProto.STRING:
            data: Any = list(message.string_data)
        else:
            data = numpy_helper.to_array(message).tobytes()
        entry = {"dims": list(message.dims), "type": message.data_type, "data": data}
        entry |= {"name": message.name, "doc": message.doc_string}
        entry["metadata"] = sorted((e.key, e.value) for e in message.metadata_props)
        return entry
    if isinstance(message, onnx.GraphProto):
        names = {v.name for v in (*message.input, *message.initializer)} | {o for n in message.node for o in n.output}
    out: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.name == "value_info" and isinstance(message, onnx.GraphProto):
            # What describes no value of this graph is stale and may go; functions of old files are described here too.
            assert names is not None
            infos = {i.name: canonical(i) for i in value if i.name in names or "::" in i.name}
            out[field.name] = {name: info for name, info in infos.items() if set(info) != {"name"}}
        elif field.name in _UNORDERED:
            out[field.name] = sorted((e.key, e.value) for e in value)
        elif field.name == "quantization_annotation":
            out[field.name] = sorted((canonical(a) for a in value), key=lambda a: str(a["tensor_name"]))
        elif field.name == "domain" and value == "ai.onnx" and isinstance(message, onnx.NodeProto):
            continue
        elif isinstance(value, Message):
            out[field.name] = canonical(value)
        elif hasattr(value, "__len__") and not isinstance(value, (str, bytes)):
            out[field.name] = [canonical(v) if isinstance(v, Message) else v for v in value]
        elif value not in ("", b"", 0) or field.name in ("i", "f", "s", "dim_value", "type"):
            out[field.name] = value
    return {key: value for key, value in out.items() if value not in ([], {})} if out else out


def same_model(first: Path, second: Path) -> None:
    """Assert that two files are the same model, apart from storage."""
    a, b = (canonical(onnx.load(path)) for path in (first, second))
    # Compare part by part: the difference of two whole models is unreadable.
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, dict):
            assert value.keys() == b[key].keys(), key
            for inner, part in value.items():
                assert part == b[key][inner], f"{key}.{inner}"
        else:
            assert value == b[key], key


def array(*shape: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def two_layers(*, width: int = 32, typed: bool = False) -> onnx.ModelProto:
    """x (n, 16) -> MatMul, Add, Relu, MatMul -> y (n, 8); weights of 2 KiB and 1 KiB, a bias, metadata everywhere."""
    first, second = array(16, width), array(width, 8, seed=1)
    weights = [numpy_helper.from_array(first, "w1"), numpy_helper.from_array(second, "w2")]
    if typed:
        weights = [helper.make_tensor(t.name, t.data_type, t.dims, numpy_helper.to_array(t).ravel()) for t in weights]
    weights.append(numpy_helper.from_array(array(width, seed=2), "b1"))
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h0"], name="first", doc_string="the first layer"),
        helper.make_node("Add", ["h0", "b1"], ["h1"], name="bias"),
        helper.make_node("Relu", ["h1"], ["h"], name="relu"),
        helper.make_node("MatMul", ["h", "w2"], ["y"], name="second"),
    ]
    graph = helper.make_graph(
        nodes,
        "two layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        weights,
        doc_string="a graph",
        value_info=[helper.make_tensor_value_info("h", TensorProto.FLOAT, ["n", width])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.producer_name, model.producer_version = "somebody", "1.2"
    model.domain, model.model_version, model.doc_string = "org.example", 7, "a model"
    for holder, key in ((model, "model"), (graph_of(model), "graph"), (graph_of(model).node[0], "node")):
        holder.metadata_props.add(key=key, value="kept é")
    graph_of(model).initializer[0].metadata_props.add(key="tensor", value="kept")
    graph_of(model).initializer[2].metadata_props.add(key="small tensor", value="kept")
    graph_of(model).value_info[0].metadata_props.add(key="value", value="kept")
    graph_of(model).initializer[0].doc_string = "a weight"
    return model


def graph_of(model: onnx.ModelProto) -> onnx.GraphProto:
    graph: onnx.GraphProto = model.graph
    return graph


def external(model: onnx.ModelProto, path: Path, *, location: str | None = None, threshold: int = 0) -> Path:
    """Write a model with its initializers as external data, the way exporters do."""
    data_name = location or f"{path.name}.data"
    data = bytearray()
    for tensor in model.graph.initializer:
        raw = numpy_helper.to_array(tensor).tobytes()
        if len(raw) < threshold:
            continue
        data += bytes(-len(data) % 64)
        for field in ("raw_data", "float_data"):
            tensor.ClearField(field)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", data_name), ("offset", len(data)), ("length", len(raw))):
            tensor.external_data.add(key=key, value=str(value))
        data += raw
    (path.parent / data_name).parent.mkdir(parents=True, exist_ok=True)
    (path.parent / data_name).write_bytes(data)
    path.write_bytes(model.SerializeToString())
    return path


def block(number: int, value: bytes) -> bytes:
    """A field of wire type 2 in protobuf's wire format."""
    return varint(number << 3 | 2) + varint(len(value)) + value
