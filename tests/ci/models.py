"""Models by which every way of failing in CI is shown, made from a sample in a folder of the test's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["SAMPLES", "equal_child", "make", "wrong_child"]

SAMPLES = Path(__file__).resolve().parents[2] / "models"


def wrong_child(path: Path, to: Path) -> None:
    """A copy in which one bias of ``features.conv3`` moved."""
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        if tensor.name == "features.conv3.bias":
            array = numpy_helper.to_array(tensor).copy()
            array[3] += 0.1
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(proto, to)


def equal_child(path: Path, to: Path) -> None:
    """A copy with an Identity in front of its last node."""
    proto = onnx.load(path)
    last = proto.graph.node[-1]
    proto.graph.node.insert(
        len(proto.graph.node) - 1, helper.make_node("Identity", [last.input[0]], ["between"], name="between")
    )
    proto.graph.node[-1].input[0] = "between"
    onnx.save(proto, to)


def make(folder: Path) -> Path:
    """Fills a folder: ``parent``, ``child`` (equivalent), ``wrong`` (not) and ``broken`` (no model), all ``.onnx``;
    recipes ``good.toml`` and ``refused.toml``."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(SAMPLES / "digits_cnn.onnx", folder / "parent.onnx")
    equal_child(folder / "parent.onnx", folder / "child.onnx")
    wrong_child(folder / "parent.onnx", folder / "wrong.onnx")
    (folder / "broken.onnx").write_bytes(b"no model")
    (folder / "good.toml").write_text('[[step]]\nmorph = "deepen"\nlayers = "conv2"\n')
    (folder / "refused.toml").write_text('[[step]]\nmorph = "kernel"\nlayers = "conv2"\nto = 2\n')
    return folder


def int_model(path: Path) -> None:
    """A model that only gives integers, the smallest there is."""
    graph = helper.make_graph(
        [helper.make_node("ArgMax", ["x"], ["y"], axis=1, keepdims=0)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, ["n"])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
