"""Parametric activations: what they compute at first is what was there, for every activation and layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.graph.layers import layers
from onnxmorph.morphs import plan_activate, plan_from_record
from onnxmorph.morphs.standing_activations import standing_activations
from onnxmorph.plan import apply
from tests.morphs.oracle import assert_same, from_proto
from tests.zoo_graphs import build, select

CASES = [case for case in select(runnable=True) if case.name.startswith(("activation/", "block/", "linear/gemm"))]


@pytest.mark.parametrize("options", [{}, {"to": "gelu"}, {"to": "relu6", "per_channel": False}, {"to": "prelu"}])
def test_every_activation_of_the_zoo_becomes_parametric_exactly(options: dict[str, Any]) -> None:
    done = 0
    for case in CASES:
        proto = case.build()
        model = from_proto(proto)
        try:
            child = apply(model, plan_activate(model, **options))
        except Refusal as refusal:
            assert refusal.code in {"no-activation", "opset-too-old", "weight-not-finite", "axis-not-known"}
            continue
        assert_same(proto, child.model)
        done += 1
    assert done > 40


def test_the_parameter_is_an_initializer_per_channel_or_one_and_the_record_replays() -> None:
    model = from_proto(next(case for case in CASES if case.name == "activation/relu").build())
    before = set(model.graph.initializers)
    for per_channel, count in ((True, layers(model)[0].out_channels), (False, 1)):
        child = apply(model, plan_activate(model, "#0", per_channel=per_channel))
        (name,) = set(child.model.graph.initializers) - before
        value = child.model.graph.initializers[name].const_value
        assert value is not None and value.size == count
        assert np.all(value.numpy() == 0)
        again = apply(model, [plan_from_record(plan.record()) for plan in child.plans])
        assert ir.to_proto(again.model).SerializeToString() == ir.to_proto(child.model).SerializeToString()


def test_a_goal_keeps_its_parameters() -> None:
    model = from_proto(next(case for case in CASES if case.name == "activation/relu").build())
    (plan,) = plan_activate(model, "#0", to="leaky_relu(0.3)")
    assert plan_from_record(plan.record()) == plan
    assert "0.3" in plan.describe()


def test_what_is_not_there_is_named() -> None:
    model = from_proto(next(case for case in CASES if case.name == "activation/relu").build())
    with pytest.raises(SelectionError):
        plan_activate(model, "#0", to="sausage")
    with pytest.raises(SelectionError):
        plan_activate(model, "sausage")
    with pytest.raises(Refusal, match="no activation"):
        plan_activate(model, "#-1")


@pytest.mark.parametrize("name", ["topology/residual", "block/concat_dense", "topology/pre_activation"])
def test_an_activation_behind_a_sum_is_found_by_its_own_name_and_with_all(name: str) -> None:
    case = next(case for case in select(runnable=True) if case.name == name)
    proto = case.build()
    model = from_proto(proto)
    own = {id(layer.activation.output) for layer in layers(model) if layer.activation is not None}
    standing = [one for one in standing_activations(model, layers(model)) if id(one.activation.output) not in own]
    assert standing
    everything = plan_activate(model)
    for one in standing:
        output = one.activation.output
        assert output is not None and output.name is not None
        for text in (one.name, output.name):
            (plan,) = plan_activate(model, text)
            assert plan in everything
            child = plan.apply(model)
            assert_same(proto, child.model)
            again = apply(model, [plan_from_record(plan.record())])
            assert ir.to_proto(again.model).SerializeToString() == ir.to_proto(child.model).SerializeToString()
    grown = apply(model, everything)
    assert_same(proto, grown.model)
    slopes = [value for label, value in grown.model.graph.initializers.items() if label.endswith(".a")]
    assert len(slopes) == len(everything)


def test_channels_of_a_standing_activation_are_those_of_the_layer_before_the_sum() -> None:
    model = from_proto(build("topology/residual"))
    standing = standing_activations(model, layers(model))[0]
    out = {layer.out_channels for layer in layers(model)}
    assert standing.channels in out and standing.channel_axis == 1


@pytest.mark.parametrize(("goal", "works"), [("gelu", False), ("silu", True), ("elu", False), (None, True)])
def test_what_the_runtime_lacks_in_double_is_refused_or_spelled_otherwise(goal: str | None, works: bool) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["n", 3])
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(4, 3)), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    graph = helper.make_graph(nodes, "double", [x], [y], [weight])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    model = from_proto(proto)
    if not works:
        with pytest.raises(Refusal, match=r"ONNX Runtime has no .* for double"):
            plan_activate(model, to=goal)
        return
    assert_same(proto, apply(model, plan_activate(model, to=goal)).model)


def test_two_gelus_of_one_value_can_be_loaded_with_optimisations_on() -> None:
    """ONNX Runtime makes one of two equal products with a half and loses it when it fuses the first GELU."""
    import onnx
    import onnxruntime as ort

    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,8] x) => (float[N,8] y)
    <float half={0.5}, float one={1.0}, float three={3.0}, float c={0.044715}, float d={0.7978846}> {
        r = MatMul(x, w)  m0 = Mul(r, half)  p = Pow(r, three)  m1 = Mul(c, p)  s = Add(r, m1)
        m2 = Mul(d, s)  t = Tanh(m2)  a = Add(t, one)  y = Mul(m0, a)
    }"""
    proto = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    child = apply(from_proto(proto), plan_activate(from_proto(proto), to="gelu")).model
    ort.InferenceSession(ir.to_proto(child).SerializeToString(), providers=["CPUExecutionProvider"])
    assert_same(proto, child)
