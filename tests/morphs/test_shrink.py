"""Shrinking: what goes without a trace goes first; beyond that it is refused, or said to be no morphism."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.graph.layers import layers
from onnxmorph.morphs import plan_from_record, plan_shrink, plan_widen
from onnxmorph.morphs.fold import fold
from onnxmorph.plan import apply
from tests.morphs.oracle import assert_same, from_proto, run
from tests.zoo_graphs import build, example_inputs, select

_LEFT_OUT = {"topology/random_noise", "weights/behind_constant_sparse"}


@pytest.fixture
def convolution() -> tuple[Any, ir.Model, Any]:
    proto = build("linear/conv_padded")
    model = from_proto(proto)
    return proto, model, layers(model)[0]


@pytest.mark.parametrize("fill", ["zero-out", "zero-in", "replicate"])
@pytest.mark.parametrize("theme", ["linear", "block", "weights"])
def test_what_was_widened_shrinks_back_to_a_model_that_computes_the_same(theme: str, fill: str) -> None:
    back = 0
    for case in select(f"{theme}/*", runnable=True)[::3]:
        if case.name in _LEFT_OUT:
            continue
        proto = case.build()
        model = from_proto(proto)
        for layer in layers(model):
            try:
                wide = plan_widen(model, layer, by=2, fill=fill).apply(model).model
                there = next(one for one in layers(wide) if one.key == layer.key)
                plan = plan_shrink(wide, there, to=layer.out_channels)
            except Refusal as refusal:
                assert refusal.reason and refusal.code
                continue
            assert plan.exact and plan.is_morph
            child = plan.apply(wide).model
            assert next(one for one in layers(child) if one.key == layer.key).out_channels == layer.out_channels
            assert_same(proto, child, roundings=1024)
            back += 1
    assert back >= 2


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**16), extra=st.integers(1, 6), keep=st.integers(0, 5))
def test_any_part_of_what_was_added_can_go(seed: int, extra: int, keep: int) -> None:
    proto = build("linear/conv_padded")
    model = from_proto(proto)
    layer = layers(model)[0]
    wide = plan_widen(model, layer, to=layer.out_channels + extra, seed=seed).apply(model).model
    to = layer.out_channels + min(keep, extra - 1)
    child = plan_shrink(wide, layers(wide)[0], to=to).apply(wide)
    assert layers(child.model)[0].out_channels == to
    assert_same(proto, child.model)


def test_channels_that_have_an_effect_are_refused_and_the_least_exact_size_is_named(convolution: Any) -> None:
    _, model, layer = convolution
    wide = plan_widen(model, layer, to=layer.out_channels + 3).apply(model).model
    with pytest.raises(Refusal, match=f"exact down to {layer.out_channels}") as caught:
        plan_shrink(wide, layers(wide)[0], to=layer.out_channels - 1)
    assert caught.value.code == "not-exact"


def test_inexact_says_so_and_drops_the_smallest(convolution: Any) -> None:
    proto, model, layer = convolution
    plan = plan_shrink(model, layer, to=layer.out_channels - 1, inexact=True)
    assert not plan.exact and "NOT exact" in plan.describe()
    child = plan.apply(model)
    assert not child.is_morph and any("not a morphism" in note for note in child.notes)
    first, second = (one.kernel_array().astype(np.float64) for one in layers(model)[:2])
    sizes = np.sqrt((first**2).sum(axis=(1, 2, 3)) * (second**2).sum(axis=(0, 2, 3)))
    gone = set(range(layer.out_channels)) - set(plan.keep)
    assert gone == {int(sizes.argmin())}
    assert layers(child.model)[0].kernel_array().shape[0] == layer.out_channels - 1
    feeds = example_inputs(proto)
    (expected,), (got,) = (list(run(one, feeds).values()) for one in (proto, ir.to_proto(child.model)))
    assert expected.shape == got.shape and not np.allclose(expected, got)


def test_kept_channels_are_the_parents_in_order(convolution: Any) -> None:
    _, model, layer = convolution
    child = plan_shrink(model, layer, keep=[0, 2], inexact=True).apply(model).model
    assert np.array_equal(layers(child)[0].kernel_array(), layer.kernel_array()[[0, 2]])
    assert np.array_equal(layers(child)[1].kernel_array(), layers(model)[1].kernel_array()[:, [0, 2]])
    same = plan_shrink(model, layer, drop=[one for one in range(layer.out_channels) if one not in (0, 2)], inexact=True)
    assert same.keep == (0, 2)


def test_constant_channels_go_into_the_next_bias() -> None:
    model = from_proto(build("linear/conv_valid"))
    layer = layers(model)[0]
    kernel = layer.kernel_array().copy()
    kernel[1] = 0
    weight = layer.node.inputs[1]
    assert weight is not None
    weight.const_value = ir.tensor(kernel, name=weight.name)
    plan = plan_shrink(model, layers(model)[0], to=layer.out_channels - 1)
    assert "constant" in plan.what or "without effect" in plan.what
    assert_same(ir.to_proto(model), plan.apply(model).model)


def test_the_record_replays(convolution: Any) -> None:
    _, model, layer = convolution
    child = plan_shrink(model, layer, by=0.5, inexact=True).apply(model)
    again = apply(model, [plan_from_record(plan.record()) for plan in child.plans])
    assert ir.to_proto(again.model).SerializeToString() == ir.to_proto(child.model).SerializeToString()


@pytest.mark.parametrize(
    "options", [{}, {"to": 2, "by": 0.5}, {"by": 1.5}, {"by": "half"}, {"keep": [99]}, {"drop": [-1]}, {"keep": []}]
)
def test_options_that_mean_nothing_are_usage_errors(convolution: Any, options: dict[str, Any]) -> None:
    _, model, layer = convolution
    with pytest.raises(SelectionError):
        plan_shrink(model, layer, **options)


def test_the_models_own_output_does_not_shrink(convolution: Any) -> None:
    _, model, _ = convolution
    with pytest.raises(Refusal, match="graph output"):
        plan_shrink(model, layers(model)[-1], to=1, inexact=True)


def _values(proto: Any, child: ir.Model) -> dict[str, tuple[Any, Any]]:
    """Every value of the main graph that parent and child both have under one name and in one shape."""
    made = ir.to_proto(child)
    feeds = example_inputs(proto, seed=0, size=9)
    names = {name for node in proto.graph.node for name in node.output}
    names &= {name for node in made.graph.node for name in node.output}
    for model in (proto, made):
        told = {output.name for output in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names - told))
    one, two = run(proto, feeds), run(made, feeds)
    return {name: (one[name], two[name]) for name in names if one[name].shape == two[name].shape}


@pytest.mark.parametrize("fill", ["zero-out", "replicate"])
@pytest.mark.parametrize("way", ["shrink", "fold"])
def test_channels_go_back_to_where_the_parent_had_them(fill: str, way: str) -> None:
    proto = build("block/squeeze_excite")
    model = from_proto(proto)
    layer = layers(model)[0]
    wide = plan_widen(model, layer, by=2, fill=fill, seed=3).apply(model)
    if way == "shrink":
        there = next(one for one in layers(wide.model) if one.key == layer.key)
        child = wide.then(plan_shrink(wide.model, there, to=layer.out_channels).apply(wide.model))
    else:
        child = wide.then(fold(wide.model))
    values = _values(build("block/squeeze_excite"), child.model)
    assert layer.output.name in values
    for name, (one, two) in values.items():
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("fill", ["zero-out", "replicate"])
def test_dead_channels_of_the_parent_stay_where_a_widening_is_taken_back(fill: str) -> None:
    # A mel filter bank reads nothing of the lowest and highest frequencies: which of the dead go must not be chance.
    draw = np.random.default_rng(0)
    first, second = (draw.standard_normal(shape).astype(np.float32) for shape in ((4, 9), (9, 3)))
    second[[0, 1, 8]] = 0
    graph = onnx.parser.parse_graph(
        "g (float[N,4] x) => (float[N,3] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
    )
    graph.initializer.extend([onnx.numpy_helper.from_array(first, "w"), onnx.numpy_helper.from_array(second, "v")])
    parent = from_proto(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8))
    wide = plan_widen(parent, "w", to=12, fill=fill).apply(parent)
    back = plan_shrink(wide.model, "w", to=9).apply(wide.model).model
    for before, after in zip(layers(parent), layers(back), strict=True):
        np.testing.assert_array_equal(after.kernel_array(), before.kernel_array())
