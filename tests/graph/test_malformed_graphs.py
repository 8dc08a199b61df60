"""However a graph is damaged, reading it ends, and in no other error than ours."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from onnxmorph.errors import OnnxMorphError
from onnxmorph.graph.affine import Place, follow
from onnxmorph.graph.constants import chain, constant
from onnxmorph.graph.layers import layers
from onnxmorph.graph.scopes import nodes
from onnxmorph.graph.summary import summarise
from tests.graph.small import model, read

node = helper.make_node
rng = np.random.default_rng(5)


def whole() -> onnx.ModelProto:
    """A bit of everything that is read."""
    body = helper.make_graph([node("Neg", ["n"], ["neg"])], "b", [], [onnx.ValueInfoProto(name="neg")])
    chain_ = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2], group=1, dilations=[1, 1]),
        node("BatchNormalization", ["c", "g", "g", "g", "g"], ["n"], epsilon=1e-3),
        node("Relu", ["n"], ["r"]),
        node("ConvTranspose", ["r", "t"], ["u"], auto_pad="SAME_UPPER", strides=[2, 2]),
        node("Shape", ["u"], ["s"]),
        node("Gather", ["s", "zero"], ["batch"], axis=0),
        node("Concat", ["batch", "rest"], ["target"], axis=0),
        node("Reshape", ["u", "target"], ["flat"]),
        node("Constant", [], ["k"], value=helper.make_tensor("v", TensorProto.FLOAT, [6, 4], [0.5] * 24)),
        node("Transpose", ["k"], ["kt"], perm=[1, 0]),
        node("DequantizeLinear", ["q", "scale"], ["d"], axis=0),
        node("Gemm", ["flat", "d", "gb"], ["h"], alpha=0.5, beta=2.0, transB=1),
        node("MatMul", ["h", "k"], ["m"]),
        node("Add", ["m", "mb"], ["y"]),
        node("If", ["yes"], ["z"], then_branch=body, else_branch=body),
    ]
    stored = {
        "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "b": np.zeros(4, np.float32),
        "g": np.ones(4, np.float32),
        "t": rng.standard_normal((4, 2, 2, 2)).astype(np.float32),
        "zero": np.array([0]),
        "rest": np.array([128]),
        "q": np.ones((6, 128), np.int8),
        "scale": np.array(0.1, np.float32),
        "gb": np.zeros(6, np.float32),
        "mb": np.zeros(4, np.float32),
        "yes": np.array(True),
    }
    return model(chain_, {"x": (np.float32, ["N", 3, 8, 8])}, ["y", "z"], stored)


def damage(proto: onnx.ModelProto, dice: random.Random) -> None:
    """One thing wrong that a file may well hold."""
    graph = proto.graph
    hit = dice.choice(graph.node)
    names = [name for each in graph.node for name in [*each.input, *each.output]] + ["", "nowhere"]
    kind = dice.randrange(10)
    if kind == 0 and hit.input:
        hit.input[dice.randrange(len(hit.input))] = dice.choice(names)
    elif kind == 1 and hit.input:
        del hit.input[dice.randrange(len(hit.input)) :]
    elif kind == 2 and hit.attribute:
        attribute = dice.choice(hit.attribute)
        wrong: list[object] = ["text", 1.5, -7, [], [0, 0], [2**40, -1], [0.5], [9, 9, 9, 9, 9]]
        if not attribute.HasField("g"):
            value = dice.choice(wrong)
            kind_of_empty = None if value else onnx.AttributeProto.INTS
            attribute.CopyFrom(helper.make_attribute(attribute.name, value, attr_type=kind_of_empty))
    elif kind == 3 and hit.attribute:
        del hit.attribute[dice.randrange(len(hit.attribute))]
    elif kind == 4:
        tensor = dice.choice(graph.initializer)
        size = dice.choice([(), (1,), (0,), (3, 5), (4, 3, 3, 3, 3), (2, 0, 3)])
        kept = helper.make_tensor(tensor.name, dice.choice([1, 7, 10, 11, 9]), size, [1] * int(np.prod(size)))
        tensor.CopyFrom(kept)
    elif kind == 5:
        del graph.initializer[dice.randrange(len(graph.initializer))]
    elif kind == 6:
        hit.op_type = dice.choice([each.op_type for each in graph.node] + ["Einsum", "LSTM", "QLinearConv", "Mystery"])
    elif kind == 7 and hit.output:
        hit.output[0] = dice.choice(["fresh", hit.output[0]])
    elif kind == 8:
        proto.opset_import[0].version = dice.choice([1, 5, 7, 9, 13, 24, 99])
    elif kind == 9:
        shape = dice.choice([None, [], [3], ["N", 3, None, 8]])
        graph.input[0].CopyFrom(helper.make_tensor_value_info("x", dice.choice([1, 10, 7]), shape))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10**9), st.integers(1, 4))
def test_damaged_graphs_are_read_to_the_end(seed: int, wounds: int) -> None:
    dice = random.Random(seed)
    proto = whole()
    for _ in range(wounds):
        damage(proto, dice)
    try:
        graph = read(proto)
    except Exception:  # what onnx-ir itself cannot read does not come this far
        return
    summarise(graph)
    for layer in layers(graph):
        assert repr(layer)
        start = Place(layer.output, layer.output_axis, layer.shapes.rank(layer.output), layer.out_channels)
        for step in follow(start, layer.shapes, layer.dtype):
            assert step.scale is None or step.scale.shape == (layer.out_channels,)
        for ask in (layer.kernel_array, layer.bias_array):
            try:
                array = ask()
            except OnnxMorphError as refused:
                assert "\n" not in str(refused)
                continue
            assert array is None or array.shape[0] == layer.out_channels
    for _, each in nodes(graph):
        for value in each.outputs:
            constant(value)
            chain(value)


def test_the_undamaged_graph_is_read_whole() -> None:
    found = layers(read(whole()))
    assert [layer.op for layer in found] == ["Conv", "ConvTranspose", "Gemm", "MatMul"]
    assert all(layer.blocked is None for layer in found)
    with pytest.raises(StopIteration):
        next(layer for layer in found if layer.shapes.conflicts)
