"""Skips: without effect at first, whatever the shapes; or refused with the reason."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.graph.layers import layers
from onnxmorph.morphs import plan_from_record, plan_skip
from onnxmorph.plan import apply
from tests.morphs.oracle import assert_same, from_proto
from tests.zoo_graphs import select

CASES = [case for case in select(runnable=True) if case.name.startswith(("linear/", "block/"))]


@pytest.mark.parametrize("mode", ["add", "concat"])
def test_skips_between_any_two_layers_are_without_effect(mode: str) -> None:
    done = 0
    for case in CASES:
        proto = case.build()
        model = from_proto(proto)
        for first, last in itertools.combinations(layers(model), 2):
            try:
                plan = plan_skip(model, source=first, target=last, mode=mode)
            except Refusal as refusal:
                assert refusal.code
                continue
            assert_same(proto, plan.apply(model).model)
            done += 1
    assert done > 50


def strided(stride: int, pad: int, kernel: int) -> object:
    """conv -> relu -> strided conv -> relu on maps of any size."""
    random = np.random.default_rng(0)
    first = random.standard_normal((4, 3, 3, 3)).astype(np.float32)
    second = random.standard_normal((6, 4, kernel, kernel)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "first.weight"], ["a"], name="first", pads=[1] * 4),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node(
                "Conv", ["b", "second.weight"], ["c"], name="second", pads=[pad] * 4, strides=[stride] * 2
            ),
            helper.make_node("Relu", ["c"], ["y"]),
        ],
        "strided",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(first, "first.weight"), numpy_helper.from_array(second, "second.weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("stride", "pad", "kernel", "bridge"), [(2, 1, 3, "pool-ceil:2x2"), (2, 0, 2, "pool:2x2")])
def test_pooling_bridges_a_stride_at_every_size(stride: int, pad: int, kernel: int, bridge: str) -> None:
    proto = strided(stride, pad, kernel)
    proto.graph.output[0].type.tensor_type.shape.SetInParent()  # type: ignore[attr-defined]
    for _ in range(4):
        proto.graph.output[0].type.tensor_type.shape.dim.add()  # type: ignore[attr-defined]
    model = from_proto(proto)  # type: ignore[arg-type]
    plan = plan_skip(model, source="first", target="second")
    assert plan.bridge == bridge
    assert_same(proto, plan.apply(model).model)  # type: ignore[arg-type]
    replayed = apply(model, [plan_from_record(plan.record())]).model
    assert ir.to_proto(replayed).SerializeToString() == ir.to_proto(plan.apply(model).model).SerializeToString()


def test_maps_that_no_whole_factor_relates_are_refused_with_their_shapes() -> None:
    model = from_proto(strided(1, 0, 3))  # type: ignore[arg-type]
    with pytest.raises(Refusal, match="whole factor") as caught:
        plan_skip(model, source="first", target="second")
    assert caught.value.code == "skip-shape"


def test_wrong_ways_round_and_modes_are_named() -> None:
    model = from_proto(strided(2, 1, 3))  # type: ignore[arg-type]
    with pytest.raises(Refusal, match="before"):
        plan_skip(model, source="second", target="first")
    with pytest.raises(SelectionError, match="itself"):
        plan_skip(model, source="first", target="first")
    with pytest.raises(SelectionError, match="add or concat"):
        plan_skip(model, source="first", target="second", mode="sum")


@pytest.mark.parametrize("mode", ["add", "concat"])
@pytest.mark.parametrize("width", [1, 5])
@pytest.mark.parametrize("length", [1, 9, 12])
def test_channels_on_another_axis_are_no_channels(mode: str, width: int, length: int) -> None:
    """A 1-D convolution gives (batch, channels, positions), a MatMul behind a Transpose (batch, positions, channels):
    sizes of 1, or as many positions as channels, must not make them look alike."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in (("c.weight", (12, 6, 3)), ("a.weight", (12, 8)), ("v.weight", (8, width)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "c.weight"], ["c"], name="c", pads=[1, 1]),
        helper.make_node("Transpose", ["c"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["t", "a.weight"], ["a"], name="a"),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "v.weight"], ["y"], name="v"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6, length])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", length, width])
    graph = helper.make_graph(nodes, "axes", [x], [y], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = from_proto(proto)
    with pytest.raises(Refusal) as raised:
        plan_skip(model, source="c", target="v", mode=mode)
    assert raised.value.code == "skip-shape"
    assert_same(proto, plan_skip(model, source="a", target="v", mode=mode).apply(model).model)
