"""Parameters and multiply-accumulates, against sums done by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from onnxmorph._ir import ir
from onnxmorph.graph.summary import Summary, summarise
from tests.graph import reference
from tests.graph.small import Array, model, read

node = helper.make_node


def zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


def summary(nodes: list[Any], x: Any, stored: dict[str, Array], **options: Any) -> Summary:
    return summarise(read(model(nodes, {"x": (np.float32, x)}, ["y"], stored, **options)))


@pytest.mark.parametrize("batch", ["N", None, 1, 4])
@pytest.mark.parametrize(
    "op, attributes, x, weight, bias, macs",
    [
        ("Conv", {"strides": [2, 2]}, [6, 9, 9], (8, 6, 3, 3), 8, 4 * 4 * 8 * 6 * 9),
        ("Conv", {"group": 3}, [6, 9, 9], (9, 2, 3, 3), 9, 7 * 7 * 9 * 2 * 9),
        ("Conv", {"pads": [1, 1]}, [6, 9], (8, 6, 3), 0, 9 * 8 * 6 * 3),
        ("ConvTranspose", {"strides": [2, 2]}, [6, 5, 5], (6, 4, 2, 2), 4, 5 * 5 * 6 * 4 * 4),
        ("Gemm", {"transB": 1}, [7], (3, 7), 3, 21),
        ("MatMul", {}, [5, 7], (7, 3), 0, 5 * 21),
    ],
)
def test_costs(
    batch: Any, op: str, attributes: dict[str, Any], x: list[int], weight: tuple[int, ...], bias: int, macs: int
) -> None:
    stored = {"w": zeros(*weight), **({"b": zeros(bias)} if bias else {})}
    inputs = ["x", "w", *(["b"] if bias else [])]
    got = summary([node(op, inputs, ["y"], **attributes)], [batch, *x], stored)
    assert got.rows[0].cost.macs == macs
    assert got.rows[0].cost.parameters == int(np.prod(weight)) + bias == got.totals.parameters == got.totals.stored


def test_a_size_that_is_not_known_gives_no_number() -> None:
    got = summary([node("Conv", ["x", "w"], ["y"])], ["N", 3, "H", "W"], {"w": zeros(4, 3, 3, 3)})
    assert got.rows[0].cost.macs is None and got.totals.macs == 0 and got.totals.unknown == 1
    assert got.rows[0].cost.parameters == 108


def test_a_batch_folded_into_the_rows_counts_the_rows_of_one_sample() -> None:
    nodes = [node("Reshape", ["x", "t"], ["r"]), node("Gemm", ["r", "w"], ["y"])]
    for batch in ("N", 4):
        got = summary(nodes, [batch, 16, 7], {"t": np.array([-1, 7]), "w": zeros(7, 3)})
        assert got.rows[0].cost.macs == 16 * 21


def test_a_shared_weight_counts_once() -> None:
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("MatMul", ["m", "w"], ["a"]), node("Add", ["a", "b"], ["y"])]
    got = summary(nodes, ["N", 4], {"w": zeros(4, 4), "b": zeros(4)})
    assert [row.cost.parameters for row in got.rows] == [16, 20]
    assert got.totals.parameters == 20 == got.totals.stored and got.totals.macs == 32


def test_a_summary_says_what_the_model_is() -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": (np.float16, ["N", None, 3])}, ["y"], opset=13)
    proto.producer_name, proto.producer_version = "maker", "1.2"
    got = summarise(read(proto))
    assert (got.opsets, got.ir_version, got.producer, got.nodes, got.rows) == ({"ai.onnx": 13}, 7, "maker 1.2", 1, ())
    assert [(port.name, port.dtype, port.shape) for port in got.inputs] == [("x", "float16", ("N", None, 3))]
    assert got.outputs[0].name == "y" and got.notes == ()


PAIRS = ("gpt2_tiny", "tcn_1d", "convnext_slim", "unet", "bert_tiny", "resnet20_cifar", "densenet_slim", "vgg16_slim")


@pytest.mark.skipif(not reference.ZOO.is_dir(), reason="the shared zoo is not here")
@pytest.mark.parametrize("name", PAIRS)
def test_two_exporters_of_one_network_cost_the_same(name: str) -> None:
    legacy, dynamo = (
        summarise(ir.load(reference.ZOO / f"{name}.{exporter}.onnx")) for exporter in ("legacy", "dynamo")
    )
    assert legacy.totals.macs == dynamo.totals.macs and legacy.totals.unknown == dynamo.totals.unknown == 0
    assert legacy.totals.parameters == dynamo.totals.parameters
