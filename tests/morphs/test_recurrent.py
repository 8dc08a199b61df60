"""Hidden sizes of LSTM, GRU and RNN: every fill is exact in every layout, and shrinking takes it back."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxmorph.errors import Refusal
from onnxmorph.graph.cost import Sample, cost
from onnxmorph.graph.layers import layers
from onnxmorph.graph.recurrent import GATES
from onnxmorph.graph.shapes import Shapes
from onnxmorph.graph.summary import summarise
from onnxmorph.morphs import MORPHS, plan_fold, plan_shrink, plan_widen
from onnxmorph.plan import apply
from onnxmorph.verify import verify
from tests.morphs.oracle import assert_same, from_proto, run
from tests.morphs.recurrent_nets import Layout, layouts, net
from tests.zoo_graphs import example_inputs

FILLS = ["zero-out", "zero-in", "replicate", "pair"]


def cell(model: Any, name: str = "cell0") -> Any:
    return next(layer for layer in layers(model) if layer.name == name)


@settings(deadline=None, max_examples=100)
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
        assert fill == "zero-in" and not (keeps_zero and layout.initial not in ("stored", "ones")), refusal
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


@pytest.mark.parametrize("fill", FILLS)
def test_weights_whose_gates_are_put_in_order_on_the_way(fill: str) -> None:
    """As torch.export has it: R and W are sliced, stacked in ONNX's order of gates, and given their first axis."""
    proto = net(Layout("LSTM", hidden=4))
    graph = proto.graph
    before = len(graph.node)
    for name in ("cell0.W", "cell0.R"):
        stored = next(one for one in graph.initializer if one.name == name)
        array = numpy_helper.to_array(stored)[0].reshape(4, 4, -1)
        stored.CopyFrom(numpy_helper.from_array(array[[0, 2, 3, 1]].reshape(16, -1), f"{name}.torch"))
        nodes = []
        for gate in range(4):
            for what, at in (("from", 4 * gate), ("to", 4 * gate + 4)):
                graph.initializer.append(numpy_helper.from_array(np.array([at]), f"{name}.{what}{gate}"))
            bounds = [f"{name}.from{gate}", f"{name}.to{gate}", "axis"]
            nodes.append(helper.make_node("Slice", [f"{name}.torch", *bounds], [f"{name}.{gate}"]))
        parts = [f"{name}.{gate}" for gate in (0, 3, 1, 2)]
        nodes.append(helper.make_node("Concat", parts, [f"{name}.rows"], axis=0))
        nodes.append(helper.make_node("Unsqueeze", [f"{name}.rows", "axis"], [name]))
        for node in reversed(nodes):
            graph.node.insert(0, node)
    graph.initializer.append(numpy_helper.from_array(np.array([0]), "axis"))
    assert len(graph.node) == before + 12
    model = from_proto(proto)
    grown = plan_widen(model, cell(model), to=6, fill=fill).apply(model).model
    assert_same(proto, grown, roundings=512)
    if fill != "pair":
        assert_same(proto, plan_shrink(grown, cell(grown), to=4).apply(grown).model, roundings=512)


def test_units_with_an_effect_are_not_dropped_unasked() -> None:
    model = from_proto(net(Layout("GRU", hidden=6)))
    with pytest.raises(Refusal, match="have an effect"):
        plan_shrink(model, cell(model), to=5)
    plan = plan_shrink(model, cell(model), to=5, inexact=True)
    assert not plan.exact
    assert cell(plan.apply(model).model).out_channels == 5


# -- what mixes units -------------------------------------------------------------------------------------------------


def attention(seed: int = 0, scored: str = "GRU", swapped: bool = False) -> onnx.ModelProto:
    """An encoder, a decoder that starts from its last state, scores between the two, and a head on the context."""
    random = np.random.default_rng(seed)
    hidden, gates = 4, GATES[scored]
    stored: dict[str, tuple[int, ...]] = {"head": (hidden, 3)}
    for name, inputs in (("enc", 3), ("dec", 2)):
        stored[f"{name}.W"], stored[f"{name}.R"] = (1, gates * hidden, inputs), (1, gates * hidden, hidden)
        stored[f"{name}.B"] = (1, 2 * gates * hidden)
    scores = [
        helper.make_node("Transpose", ["dec.s" if swapped else "enc.s"], ["keys"], perm=[1, 2, 0]),
        helper.make_node("MatMul", ["values" if swapped else "queries", "keys"], ["scored" if swapped else "scores"]),
    ]
    if swapped:
        scores.append(helper.make_node("Transpose", ["scored"], ["scores"], perm=[0, 2, 1]))
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
        helper.make_node("Transpose", ["enc.s"], ["values"], perm=[1, 0, 2]),
        helper.make_node("Transpose", ["dec.s"], ["queries"], perm=[1, 0, 2]),
        *scores,
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
@pytest.mark.parametrize("swapped", [False, True])
def test_scores_between_an_encoder_and_a_decoder_see_zeros(op: str, name: str, swapped: bool) -> None:
    proto = attention(scored=op, swapped=swapped)
    model = from_proto(proto)
    plan = plan_widen(model, cell(model, name), to=7)
    assert plan.fill == "zero-in"
    child = plan.apply(model).model
    assert (cell(child, "enc").out_channels, cell(child, "dec").out_channels) == (7, 7)
    assert_same(proto, child)
    # What reads a unit of zeros is random, so that it learns; the decoder's are zeros too where they are the keys, and
    # so are those of the encoder, whose last state it starts from.
    columns = np.asarray(child.graph.initializers["enc.R"].const_value.numpy())  # type: ignore[union-attr]
    assert np.count_nonzero(np.abs(columns).sum(axis=(0, 1))) == 7


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


# -- signatures, bodies, and what is left alone ------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_states_of_the_models_own_are_left_alone_unless_asked(op: str) -> None:
    proto = net(Layout(op, "bidirectional", initial="input", reads="all"))
    proto.graph.output.append(helper.make_tensor_value_info("cell0.Y_h", TensorProto.FLOAT, [2, "N", 4]))
    model = from_proto(proto)
    with pytest.raises(Refusal, match=r"graph input 'cell0\.h0'"):
        plan_widen(model, cell(model), to=6)
    copied = plan_widen(model, cell(model), to=6, interface=True, fill="replicate").apply(model)
    assert "feed copies in 'cell0.h0' what their originals are fed" in copied.notes
    child = ir.to_proto(plan_widen(model, cell(model), to=6, interface=True).apply(model).model)
    onnx.checker.check_model(child, full_check=True)
    feeds = example_inputs(proto)
    wider = example_inputs(child, seed=1)
    for name, array in feeds.items():
        wider[name][..., : array.shape[-1]] = array
    expected, got = run(proto, feeds), run(child, wider)
    assert got["cell0.Y_h"].shape == (2, 2, 6)
    # Whatever the new units start from, nobody sees them.
    assert np.allclose(got["cell0.Y_h"][..., :4], expected["cell0.Y_h"], atol=1e-6)
    assert np.allclose(got["y"], expected["y"], atol=1e-6)


def stepwise(op: str) -> onnx.ModelProto:
    """A recurrent layer in the body of a Scan, one step at a time, whose states the Scan carries."""
    random = np.random.default_rng(0)
    hidden, gates = 4, GATES[op]
    states = ["h", "c"] if op == "LSTM" else ["h"]
    info = helper.make_tensor_value_info
    inner = [
        helper.make_node("Unsqueeze", ["xt", "zero"], ["x3"]),
        helper.make_node(
            op,
            ["x3", "W", "R", "B", "", *states],
            ["", *(f"{state}2" for state in states)],
            name="cell0",
            hidden_size=hidden,
        ),
        helper.make_node("Squeeze", ["h2", "zero"], ["yt"]),
    ]
    body = helper.make_graph(
        inner,
        "body",
        [
            *(info(state, TensorProto.FLOAT, [1, "N", hidden]) for state in states),
            info("xt", TensorProto.FLOAT, ["N", 3]),
        ],
        [
            *(info(f"{state}2", TensorProto.FLOAT, [1, "N", hidden]) for state in states),
            info("yt", TensorProto.FLOAT, ["N", hidden]),
        ],
    )
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["batch"]),
        helper.make_node("Concat", ["one", "batch", "hidden"], ["sizes"], axis=0),
        helper.make_node("ConstantOfShape", ["sizes"], ["h0"]),
        helper.make_node(
            "Scan", ["h0"] * len(states) + ["x"], [*(f"{s}T" for s in states), "ys"], body=body, num_scan_inputs=1
        ),
        helper.make_node("MatMul", ["ys", "head"], ["y"], name="head"),
    ]
    weights = {"W": (1, gates * hidden, 3), "R": (1, gates * hidden, hidden), "B": (1, 2 * gates * hidden)}
    stored = [
        numpy_helper.from_array((random.standard_normal(shape) * 0.5).astype(np.float32), name)
        for name, shape in {**weights, "head": (hidden, 2)}.items()
    ]
    stored += [
        numpy_helper.from_array(np.array([n]), name) for n, name in ((0, "zero"), (1, "one"), (hidden, "hidden"))
    ]
    graph = helper.make_graph(
        nodes,
        "stepwise",
        [info("x", TensorProto.FLOAT, ["T", "N", 3])],
        [info("y", TensorProto.FLOAT, [None] * 3)],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("fill", ["zero-out", "replicate", "pair"])
def test_in_the_body_of_a_scan_the_carried_states_grow_with_the_layer(op: str, fill: str) -> None:
    proto = stepwise(op)
    model = from_proto(proto)
    child = plan_widen(model, cell(model), to=6, fill=fill).apply(model).model
    assert cell(child).repeated and cell(child).out_channels == 6
    assert_same(proto, child, roundings=64 if fill == "zero-out" else 512)


@pytest.mark.parametrize("fill", ["zero-out", "zero-in", "replicate"])
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_a_batch_that_comes_first(op: str, fill: str) -> None:
    # ONNX Runtime's CPU provider does not run layout 1; ONNX's own reference does, in one direction.
    random = np.random.default_rng(0)
    gates = GATES[op]
    shapes = {"W": (1, gates * 4, 3), "R": (1, gates * 4, 4), "B": (1, 8 * gates), "h0": (2, 1, 4), "head": (4, 2)}
    tensors = [numpy_helper.from_array(random.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node(op, ["x", "W", "R", "B", "", "h0"], ["Y"], name="cell0", hidden_size=4, layout=1),
        helper.make_node("MatMul", ["Y", "head"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "batch_first",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 5, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5, 1, 2])],
        tensors,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = from_proto(proto)
    assert cost(cell(model), Sample(model, Shapes.of(model))).macs == 5 * gates * 4 * (3 + 4)
    child = ir.to_proto(plan_widen(model, cell(model), to=7, fill=fill).apply(model).model)
    x = random.standard_normal((2, 5, 3)).astype(np.float32)
    given: list[Any] = [ReferenceEvaluator(each).run(None, {"x": x}) for each in (proto, child)]
    assert np.allclose(given[1][0], given[0][0], rtol=1e-5, atol=1e-5)


def test_other_morphs_refuse_by_name_and_say_what_can() -> None:
    model = from_proto(net(Layout("GRU")))
    for morph in ("deepen", "kernel", "subnet"):
        refusal = MORPHS[morph](model)(cell(model))
        assert refusal is not None and "only its hidden size can be morphed; widen and shrink do that" in str(refusal)
    assert MORPHS["widen"](model)(cell(model)) is None


def test_weights_that_are_not_constant_are_refused_by_name() -> None:
    for tensor, what in (("cell0.W", "weight"), ("cell0.R", "recurrence weight"), ("cell0.B", "bias")):
        proto = net(Layout("LSTM"))
        stored = next(one for one in proto.graph.initializer if one.name == tensor)
        proto.graph.initializer.remove(stored)
        proto.graph.input.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, list(stored.dims)))
        model = from_proto(proto)
        with pytest.raises(Refusal, match=f"its {what} .*is not known before a run"):
            plan_widen(model, cell(model), to=6)


def test_sizes_that_contradict_each_other_are_refused() -> None:
    proto = net(Layout("LSTM"))
    next(one for one in proto.graph.node[0].attribute if one.name == "hidden_size").i = 5
    model = from_proto(proto)
    with pytest.raises(Refusal, match="hidden_size 5 is not that of its weight, 4"):
        plan_widen(model, cell(model), to=6)


@pytest.mark.parametrize(("op", "inputs"), [("DynamicQuantizeLSTM", 12), ("AttnLSTM", 10)])
def test_fused_variants_are_refused_by_name(op: str, inputs: int) -> None:
    proto = net(Layout("LSTM"))
    node = proto.graph.node[0]
    node.op_type, node.domain = op, "com.microsoft"
    node.input.extend([""] * (inputs - len(node.input)))
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model = from_proto(proto)
    with pytest.raises(Refusal, match=op):
        plan_widen(model, cell(model), to=6)


@pytest.mark.parametrize(
    ("layout", "parameters"),
    [
        (Layout("LSTM", "bidirectional", 4, peepholes=True), 2 * (16 * 3 + 16 * 4 + 32 + 12)),
        (Layout("GRU", "forward", 5, bias=False), 15 * 3 + 15 * 5),
        (Layout("RNN", "reverse", 2), 2 * 3 + 2 * 2 + 4),
    ],
)
def test_cost_counts_every_step_and_direction(layout: Layout, parameters: int) -> None:
    model = from_proto(net(layout))
    summary = summarise(model)
    row = next(row for row in summary.rows if row.layer.cell is not None)
    assert row.cost.parameters == parameters
    multiplied = layout.directions * GATES[layout.op] * layout.hidden * (3 + layout.hidden)
    assert row.cost.macs == 5 * multiplied
    assert summary.totals.parameters == parameters + layout.directions * layout.hidden * 2
