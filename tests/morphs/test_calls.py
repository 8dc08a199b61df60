"""Functions of the model's own, called more than once: a change goes through a call, and through that call alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import NodeProto, helper, numpy_helper

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.graph.layers import layers
from onnxmorph.morphs import plan_shrink, plan_widen
from onnxmorph.morphs.calls import merge_copies, own_copies
from onnxmorph.morphs.widen import check_widen
from onnxmorph.plan import apply
from onnxmorph.replay import replay
from tests.graph.axes import nets
from tests.graph.axes.nets import Net

OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid("here", 1)]


def _function(net: Net, name: str, inputs: list[str], output: str, nodes: list[NodeProto]) -> None:
    net.functions.append(helper.make_function("here", name, inputs, [output], nodes, OPSETS))


def _constant(name: str, array: object) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(array), name))


def _call(net: Net, name: str, *inputs: str) -> str:
    return net.one(name, *inputs, domain="here")


def _swish(net: Net) -> None:
    nodes = [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["a", "s"], ["b"])]
    _function(net, "Swish", ["a"], "b", nodes)


def activations() -> ir.Model:
    net = Net()
    _swish(net)
    x = _call(net, "Swish", net.dense(net.input(["N", 4]), 4, 8))
    x = _call(net, "Swish", net.dense(x, 8, 6))
    return net.model(net.dense(x, 6, 3))


def own_weights() -> ir.Model:
    net = Net()
    _swish(net)
    up, down = (_constant(name, net.random.normal(size=size).astype(np.float32)) for name, size in _SIZES)
    nodes = [
        up,
        down,
        helper.make_node("MatMul", ["a", "w1"], ["h"], name="up"),
        helper.make_node("Swish", ["h"], ["r"], domain="here"),
        helper.make_node("MatMul", ["r", "w2"], ["o"], name="down"),
        helper.make_node("Add", ["o", "a"], ["d"]),
    ]
    _function(net, "Block", ["a"], "d", nodes)
    x = net.dense(net.input(["N", 4]), 4, 8)
    for _ in range(2):
        x = _call(net, "Block", x)
    return net.model(net.dense(_call(net, "Swish", x), 8, 3))


_SIZES = (("w1", (8, 16)), ("w2", (16, 8)))


def weights_given() -> ir.Model:
    net = Net()
    nodes = [
        helper.make_node("MatMul", ["a", "w1"], ["h"], name="up"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["o"], name="down"),
        helper.make_node("Add", ["o", "a"], ["d"]),
    ]
    _function(net, "Block", ["a", "w1", "w2"], "d", nodes)
    x = net.dense(net.input(["N", 4]), 4, 8)
    for _ in range(2):
        x = _call(net, "Block", x, net.weight(8, 16), net.weight(16, 8))
    return net.model(net.dense(x, 8, 3))


def spelled_norm() -> ir.Model:
    net = Net()
    nodes = [
        _constant("axis", np.array([-1])),
        _constant("epsilon", np.float32(1e-5)),
        helper.make_node("Mul", ["a", "a"], ["q"]),
        helper.make_node("ReduceMean", ["q", "axis"], ["m"]),
        helper.make_node("Add", ["m", "epsilon"], ["e"]),
        helper.make_node("Sqrt", ["e"], ["s"]),
        helper.make_node("Div", ["a", "s"], ["n"]),
        helper.make_node("Mul", ["n", "g"], ["b"]),
    ]
    _function(net, "Norm", ["a", "g"], "b", nodes)
    x = net.dense(net.input(["N", 4]), 4, 8)
    inner = net.op("Relu", net.dense(_call(net, "Norm", x, net.positive(8)), 8, 12))
    x = net.op("Add", x, net.dense(inner, 12, 8))
    return net.model(net.dense(_call(net, "Norm", x, net.positive(8)), 8, 3))


def shuffles() -> ir.Model:
    net = Net()
    nodes = [
        _constant("rows", np.array([0, 2, -1])),
        _constant("flat", np.array([0, 8])),
        helper.make_node("Reshape", ["a", "rows"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Reshape", ["t", "flat"], ["b"]),
    ]
    _function(net, "Shuffle", ["a"], "b", nodes)
    x = _call(net, "Shuffle", net.dense(net.input(["N", 4]), 4, 8))
    x = _call(net, "Shuffle", net.dense(net.op("Relu", x), 8, 8))
    return net.model(net.dense(x, 8, 3))


def shapes_given() -> ir.Model:
    net = Net()
    _function(net, "View", ["a", "shape"], "b", [helper.make_node("Reshape", ["a", "shape"], ["b"])])
    x = _call(net, "View", net.dense(net.input(["N", 5, 4]), 4, 8), net.ints(-1, 40))
    x = _call(net, "View", net.op("Relu", net.dense(x, 40, 8)), net.ints(-1, 2, 4))
    return net.model(net.dense(x, 4, 3))


MODELS = [activations, own_weights, weights_given, spelled_norm, shuffles, shapes_given]


@pytest.mark.parametrize("build", MODELS)
def test_every_layer_but_the_last_is_widened_and_shrinks_back(build: Callable[[], ir.Model]) -> None:
    parent = build()
    why_not = check_widen(parent)
    reasons = [(layer, why_not(layer)) for layer in layers(parent)]
    assert [refusal.code for _, refusal in reasons if refusal is not None] == ["graph-output"]
    found = [layer for layer, refusal in reasons if refusal is None]
    for layer in found:
        child = apply(parent, [plan_widen(parent, layer, by=1.5, seed=1)])
        nets.assert_same(parent, child.model, 1e-4)
        assert len(child.model.functions) <= len(parent.functions) + 1
        again = replay(parent, files.records(child.model)).model
        assert files.content_hash(again) == files.content_hash(child.model)
    if build is spelled_norm:
        return  # under a norm, channels go by its scheme alone
    layer = found[0]
    wide = apply(parent, [plan_widen(parent, layer, by=1.5, fill="zero-out")])
    twin = next(one for one in layers(wide.model) if one.key == layer.key)
    size = plan_widen(parent, layer, by=1.5).before
    nets.assert_same(parent, apply(wide.model, [plan_shrink(wide.model, twin, to=size)]).model, 1e-4)


def test_a_layer_behind_one_call_changes_alone_and_the_function_stays_one() -> None:
    parent = activations()
    child = apply(parent, [plan_widen(parent, "#0", to=12)]).model
    assert [function.name for function in child.functions.values()] == ["Swish"]
    assert [layer.out_channels for layer in layers(child)] == [12, 6, 3]


def test_weights_in_the_body_grow_for_all_calls_at_once() -> None:
    parent = own_weights()
    child = apply(parent, [plan_widen(parent, "up", to=24)]).model
    assert sorted(function.name for function in child.functions.values()) == ["Block", "Swish"]
    assert {layer.name: layer.out_channels for layer in layers(child)}["up"] == 24
    nets.assert_same(parent, child)


def test_sizes_in_the_body_differ_from_call_to_call_by_copies() -> None:
    parent = shuffles()
    child = apply(parent, [plan_widen(parent, "#0", to=12)]).model
    assert sorted(function.name for function in child.functions.values()) == ["Shuffle", "Shuffle_2"]
    assert [layer.out_channels for layer in layers(child)] == [12, 8, 3]


def test_copies_that_nobody_changed_are_one_function_again() -> None:
    for build in MODELS:
        model = build()
        before = files.content_hash(model)
        merge_copies(model, own_copies(model))
        assert files.content_hash(model) == before
