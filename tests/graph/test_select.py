"""From what a person types to layers: every kind of match, their order, and messages that help."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxmorph._ir import ir
from onnxmorph.errors import SelectionError
from onnxmorph.graph.layers import LinearLayer, layers
from onnxmorph.graph.select import select, select_one


def network() -> list[LinearLayer]:
    """stem -> ReLU -> two convs of a block -> Gemm, named as the usual exporter does; one MatMul and its Add."""
    random = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def draw(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    def conv(name: str, weight: str, source: str, target: str, inputs: int, outputs: int) -> str:
        weights.append(onnx.numpy_helper.from_array(draw(outputs, inputs, 3, 3), weight))
        nodes.append(helper.make_node("Conv", [source, weight], [target], name=name, pads=[1, 1, 1, 1]))
        return target

    def matrix(name: str, rows: int, columns: int) -> str:
        weights.append(onnx.numpy_helper.from_array(draw(rows, columns), name))
        return name

    y = conv("/features/conv3/Conv", "features.conv3.weight", "x", "/features/conv3/Conv_output_0", 3, 4)
    nodes.append(helper.make_node("Relu", [y], ["/features/act/Relu_output_0"], name="/features/act/Relu"))
    y = conv("/layer1/layer1.0/conv1/Conv", "onnx::Conv_7", "/features/act/Relu_output_0", "block1", 4, 4)
    y = conv("/layer1/layer1.0/conv2/Conv", "onnx::Conv_9", y, "block2", 4, 4)
    nodes.append(helper.make_node("GlobalAveragePool", [y], ["pooled"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", matrix("head.W", 4, 5)], ["head_product"], name="head_matmul"))
    weights.append(onnx.numpy_helper.from_array(draw(5), "head.bias"))
    nodes.append(helper.make_node("Add", ["head_product", "head.bias"], ["head_sum"], name="head_add"))
    nodes.append(helper.make_node("MatMul", ["head_sum", matrix("conv3", 5, 2)], ["scores"], name="last"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["N", 2])],
        weights,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto, full_check=True)
    return layers(ir.from_proto(proto))


@pytest.fixture(scope="module")
def found() -> list[LinearLayer]:
    return network()


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("/features/conv3/Conv", 0),
        (" /features/conv3/Conv ", 0),
        ("/features/conv3/Conv_output_0", 0),
        ("block2", 2),
        ("features.conv3.weight", 0),
        ("features.conv3", 0),
        ("onnx::Conv_7", 1),
        ("head_matmul", 3),
        ("head_add", 3),
        ("head_product", 3),
        ("head_sum", 3),
        ("head", 3),
        ("scores", 4),
        ("layer1.0.conv1", 1),
        ("layer1.0/conv2", 2),
        ("conv2", 2),
        ("features", 0),
        ("*conv1*", 1),
        ("/layer1/*/conv2/*", 2),
        ("#0", 0),
        ("#4", 4),
        ("#-1", 4),
        ("#-5", 0),
    ],
)
def test_what_people_type_finds_the_layer(found: list[LinearLayer], text: str, index: int) -> None:
    assert select_one(found, text) is found[index]


def test_an_earlier_kind_of_match_wins(found: list[LinearLayer]) -> None:
    # 'conv3' is the whole name of one weight and a path component of another layer.
    assert select_one(found, "conv3").name == "last"
    assert [layer.index for layer in select(found, "*conv3*")] == [0, 4]


def test_the_key_finds_its_layer(found: list[LinearLayer]) -> None:
    for layer in found:
        assert select_one(found, layer.key) is layer


def test_a_glob_gives_all_in_order(found: list[LinearLayer]) -> None:
    assert [layer.index for layer in select(found, "*")] == [0, 1, 2, 3, 4]
    assert [layer.index for layer in select(found, "/layer1/*")] == [1, 2]
    assert [layer.index for layer in select(found, "*conv[12]*")] == [1, 2]


def test_a_glob_of_a_component_finds_layers_below_paths(found: list[LinearLayer]) -> None:
    assert [layer.index for layer in select(found, "conv[12]")] == [1, 2]
    with pytest.raises(SelectionError):
        select(found, "onv?")


def test_components_must_follow_each_other(found: list[LinearLayer]) -> None:
    with pytest.raises(SelectionError):
        select(found, "layer1.conv1")
    with pytest.raises(SelectionError):
        select(found, "onv1")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "layer1",
            ["'layer1' names 2 layers", "#1 /layer1/layer1.0/conv1/Conv", "such as '/layer1/layer1.0/conv1/Conv'"],
        ),
        ("/features/cnv3/Conv", ["names no layer", "did you mean", "/features/conv3/Conv"]),
        ("Conv9", ["names no layer"]),
        ("zzz", ["names no layer; there are #0 /features/conv3/Conv"]),
        ("/features/act/Relu", ["is a Relu", "the layer that feeds it is #0 /features/conv3/Conv"]),
        ("/features/act/Relu_output_0", ["is a Relu's output", "#0"]),
        ("flat", ["Flatten", "#2"]),
        ("head.bias", ["is the bias of #3 head_matmul"]),
        ("x", ["is an input"]),
        ("#5", ["no layer #5", "#0 to #4"]),
        ("#-6", ["no layer #-6"]),
        ("", ["no layer is named"]),
    ],
)
def test_messages_say_what_to_do(found: list[LinearLayer], text: str, parts: list[str]) -> None:
    with pytest.raises(SelectionError) as caught:
        select_one(found, text)
    for part in parts:
        assert part in str(caught.value), caught.value
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_a_model_without_layers_is_said_to_have_none() -> None:
    for text in ("conv", "#0"):
        with pytest.raises(SelectionError, match="has no linear layers"):
            select([], text)


def test_layers_of_one_name_are_told_apart_by_number(found: list[LinearLayer]) -> None:
    with pytest.raises(SelectionError, match="#0"):
        select_one([found[0], found[0]], "conv3/Conv")
