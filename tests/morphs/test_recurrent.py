"""Hidden sizes of LSTM, GRU and RNN: every fill is exact in every layout, and shrinking takes it back."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxmorph.errors import Refusal
from onnxmorph.graph.layers import layers
from onnxmorph.graph.recurrent import GATES
from onnxmorph.morphs import plan_fold, plan_shrink, plan_widen
from onnxmorph.plan import apply
from onnxmorph.verify import verify
from tests.morphs.oracle import assert_same, from_proto
from tests.morphs.recurrent_nets import Layout, layouts, net

FILLS = ["zero-out", "zero-in", "replicate", "pair"]


def cell(model: Any, name: str = "cell0") -> Any:
    return next(layer for layer in layers(model) if layer.name == name)


@settings(deadline=None, max_examples=150)
@given(layouts(), st.sampled_from(FILLS), st.integers(0, 2**31), st.integers(1, 3))
def test_every_fill_is_exact_in_every_layout(layout: Layout, fill: str, seed: int, more: int) -> None:
    proto = net(layout, seed)
    model = from_proto(proto)
    layer = cell(model)
    to = layout.hidden + more * (2 if fill == "pair" else 1)
    keeps_zero = layout.candidate not in ("Sigmoid", "HardSigmoid")
    try:
        child = plan_widen(model, layer, to=to, fill=fill, seed=seed).apply(model).model
    except Refusal as refusal:
        assert fill == "zero-in" and not (keeps_zero and layout.initial != "stored"), refusal
        return
    assert cell(child).out_channels == to
    assert cell(child).node.attributes["hidden_size"].as_int() == to
    assert_same(proto, child, roundings=1024 if fill in ("replicate", "pair") else 128)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("layers_", [1, 2])
@pytest.mark.parametrize("initial", ["", "stored", "filled", "expanded"])
def test_shrinking_takes_every_fill_back(op: str, fill: str, layers_: int, initial: str) -> None:
    proto = net(Layout(op, "bidirectional", 6, initial=initial, reads="all", layers=layers_, lengths="input"), seed=3)
    model = from_proto(proto)
    grown = plan_widen(model, cell(model), to=8, fill=fill).apply(model).model
    if fill == "pair":
        # The halves of a pair are merged first, and what reads the merged unit is then 0.
        grown = plan_shrink(grown, cell(grown), to=7).apply(grown).model
    plan = plan_shrink(grown, cell(grown), to=6)
    assert plan.exact
    child = plan.apply(grown).model
    assert cell(child).out_channels == 6
    assert_same(proto, child, roundings=128)


def test_units_with_an_effect_are_not_dropped_unasked() -> None:
    model = from_proto(net(Layout("GRU", hidden=6)))
    with pytest.raises(Refusal, match="have an effect"):
        plan_shrink(model, cell(model), to=5)
    plan = plan_shrink(model, cell(model), to=5, inexact=True)
    assert not plan.exact
    assert cell(plan.apply(model).model).out_channels == 5


# -- what mixes units -------------------------------------------------------------------------------------------------


def attention(seed: int = 0, scored: str = "GRU") -> onnx.ModelProto:
    """An encoder, a decoder that starts from its last state, scores between the two, and a head on the context."""
    random = np.random.default_rng(seed)
    hidden, gates = 4, GATES[scored]
    stored: dict[str, tuple[int, ...]] = {"head": (hidden, 3)}
    for name, inputs in (("enc", 3), ("dec", 2)):
        stored[f"{name}.W"], stored[f"{name}.R"] = (1, gates * hidden, inputs), (1, gates * hidden, hidden)
        stored[f"{name}.B"] = (1, 2 * gates * hidden)
    nodes = [
        helper.make_node(scored, ["x", "enc.W", "enc.R", "enc.B"], ["enc.Y", "enc.h"], name="enc", hidden_size=hidden),
        helper.make_node(
            scored,
            ["t", "dec.W", "dec.R", "dec.B", "", "enc.h"],
            ["dec.Y"],
            name="dec",
            hidden_size=hidden,
        ),
        helper.make_node("Squeeze", ["enc.Y", "one"], ["enc.s"]),
        helper.make_node("Squeeze", ["dec.Y", "one"], ["dec.s"]),
        helper.make_node("Transpose", ["enc.s"], ["keys"], perm=[1, 2, 0]),
        helper.make_node("Transpose", ["enc.s"], ["values"], perm=[1, 0, 2]),
        helper.make_node("Transpose", ["dec.s"], ["queries"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["queries", "keys"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "values"], ["context"]),
        helper.make_node("Add", ["context", "queries"], ["both"]),
        helper.make_node("MatMul", ["both", "head"], ["y"]),
    ]
    tensors = [
        numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
        for name, shape in stored.items()
    ]
    tensors.append(numpy_helper.from_array(np.array([1]), "one"))
    given = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", "N", 3]),
        helper.make_tensor_value_info("t", TensorProto.FLOAT, ["S", "N", 2]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 3)]
    graph = helper.make_graph(nodes, "attention", given, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("name", ["enc", "dec"])
def test_scores_between_an_encoder_and_a_decoder_see_zeros(op: str, name: str) -> None:
    proto = attention(scored=op)
    model = from_proto(proto)
    plan = plan_widen(model, cell(model, name), to=7)
    assert plan.fill == "zero-in"
    child = plan.apply(model).model
    assert (cell(child, "enc").out_channels, cell(child, "dec").out_channels) == (7, 7)
    assert_same(proto, child)


def normalised(op: str, after: str, **attributes: Any) -> onnx.ModelProto:
    """A recurrent layer, something that mixes its units, and a MatMul."""
    proto = net(Layout(op, hidden=4, reads="squeezed"))
    graph = proto.graph
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [4], [1.5, 0.5, -1.0, 2.0])
    operands = ["cell0.out", "scale"] if after.endswith("Normalization") else ["cell0.out"]
    product = next(node for node in graph.node if node.op_type == "MatMul")
    made = helper.make_node(after, operands, ["mixed"], name="mix", **attributes)
    if after.endswith("Normalization"):
        graph.initializer.append(scale)
        product.input[0] = "mixed"
    else:
        product.input[0] = "divided"
        graph.node.insert(len(graph.node) - 1, helper.make_node("Div", ["cell0.out", "mixed"], ["divided"]))
    graph.node.insert(list(graph.node).index(product) - (0 if after.endswith("Normalization") else 1), made)
    return proto


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_behind_a_layer_norm_units_are_copied(op: str) -> None:
    proto = normalised(op, "LayerNormalization", axis=-1)
    model = from_proto(proto)
    plan = plan_widen(model, cell(model), to=8)
    assert plan.fill == "replicate"
    assert_same(proto, plan.apply(model).model, roundings=256)
    with pytest.raises(Refusal, match="cannot be made to hold"):
        plan_widen(model, cell(model), to=6)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_a_sum_over_units_sees_zeros(op: str) -> None:
    proto = normalised(op, "ReduceL2", axes=[-1], keepdims=1)
    model = from_proto(proto)
    plan = plan_widen(model, cell(model), to=6)
    assert plan.fill == "zero-in"
    assert_same(proto, plan.apply(model).model)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_units_that_are_scored_as_zeros_go_again(op: str) -> None:
    proto = attention(scored=op)
    model = from_proto(proto)
    grown = plan_widen(model, cell(model, "enc"), to=7).apply(model).model
    plan = plan_shrink(grown, cell(grown, "dec"), to=4)
    assert plan.exact
    assert_same(proto, plan.apply(grown).model)


def test_a_layer_and_the_one_that_reads_it_grow_in_one_go_and_are_folded_back() -> None:
    proto = net(Layout("LSTM", hidden=6, layers=2, initial="stored"))
    parent = from_proto(proto)
    plans = [plan_widen(parent, cell(parent, name), to=8) for name in ("cell0", "cell1")]
    child = apply(parent, plans)
    # What the second layer gives was at the border of the first change, but has another shape now.
    assert set(child.frontier) == {"y"}
    assert verify(parent, child.model, frontier=[(name, name) for name in child.frontier]).equivalent
    folded = apply(child.model, plan_fold(child.model))
    assert [layer.out_channels for layer in layers(folded.model)] == [6, 6, 2]
    assert set(folded.frontier) == {"y"}
    assert_same(proto, folded.model)
