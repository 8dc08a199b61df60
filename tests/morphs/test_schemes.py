"""Schemes: normalised channels, sums and attention scores get new channels that change nothing, or are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxmorph import model as files
from onnxmorph.errors import Refusal
from onnxmorph.graph.layers import LinearLayer, layers
from onnxmorph.morphs import plan_from_record, plan_widen
from onnxmorph.morphs.schemes import scheme_for
from onnxmorph.morphs.widen import coupled_groups
from onnxmorph.plan import apply
from tests.morphs.oracle import assert_same, from_proto
from tests.zoo.net import Net
from tests.zoo_graphs import build

WIDTH = 6


def normalised(net: Net, x: str, name: str, kind: str, width: int = WIDTH) -> str:
    """One normalisation of the last axis, with an epsilon large enough to matter."""
    gamma = net.weight(f"{name}.gamma", net.draw(width, scale=0.2) + 1)
    beta = net.weight(f"{name}.beta", net.draw(width))
    if kind == "LayerNormalization":
        return net.node(kind, [x, gamma, beta], f"{name}_out", axis=-1, epsilon=0.1)
    if kind in ("RMSNormalization", "SimplifiedLayerNormalization"):
        return net.node(kind, [x, gamma], f"{name}_out", axis=-1, epsilon=0.1)
    half = net.node("Mul", [x, net.scalar(f"{name}_half", 0.5)], f"{name}_halved")
    if kind == "SkipLayerNormalization":
        inputs = [half, half, gamma, beta, net.weight(f"{name}.bias", net.draw(width))]
        return net.node(kind, inputs, f"{name}_out", domain="com.microsoft", epsilon=0.1)
    if kind == "SkipSimplifiedLayerNormalization":
        return net.node(kind, [half, half, gamma], f"{name}_out", domain="com.microsoft", epsilon=0.1)
    centred = x
    if kind == "layer norm written out":
        centred = net.node("Sub", [x, net.reduce_mean(x, f"{name}_mean", [-1])], f"{name}_centred")
    square = net.node("Pow", [centred, net.scalar(f"{name}_two", 2.0)], f"{name}_square")
    variance = net.node(
        "Add", [net.reduce_mean(square, f"{name}_var", [-1]), net.scalar(f"{name}_eps", 0.1)], f"{name}_veps"
    )
    y = net.node("Div", [centred, net.node("Sqrt", [variance], f"{name}_std")], f"{name}_normed")
    y = net.node("Mul", [y, gamma], f"{name}_scaled")
    return net.node("Add", [y, beta], f"{name}_out") if kind == "layer norm written out" else y


KINDS = {
    "LayerNormalization": 17,
    "SkipLayerNormalization": 17,
    "layer norm written out": 11,
    "RMSNormalization": 23,
    "SimplifiedLayerNormalization": 17,
    "SkipSimplifiedLayerNormalization": 17,
    "rms norm written out": 13,
}


def stream(
    kind: str, *, layer_scale: bool = False, relu: bool = False, post: bool = False, dtype: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    """Two pre-norm residual blocks, and a head that reads the stream before the last norm and after it."""
    net = Net(opset=KINDS[kind], dtype=dtype)
    h = net.matmul(net.input("x", ["N", "T", 4]), WIDTH, 4, name="embed")
    if relu:
        h = net.node("Relu", [h], "embed_relu")
    for block in range(2):
        y = net.matmul(normalised(net, h, f"n{block}", kind), 10, WIDTH, name=f"up{block}")
        y = net.matmul(net.node("Relu", [y], f"hidden{block}"), WIDTH, 10, name=f"down{block}")
        if layer_scale:
            y = net.node("Mul", [y, net.weight(f"scale{block}", net.draw(WIDTH))], f"scaled{block}")
        h = net.node("Add", [h, y], f"stream{block}")
        if post:
            h = normalised(net, h, f"post{block}", kind)
    raw = net.matmul(h, 3, WIDTH, name="raw")
    head = net.matmul(normalised(net, h, "last", kind), 3, WIDTH, name="head")
    net.output(net.node("Add", [head, raw], "out"), ["N", "T", 3])
    return net.model()


def named(model: Any, name: str) -> LinearLayer:
    return next(layer for layer in layers(model) if name in layer.name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"layer_scale": True}], ids=["plain", "layer scale"])
def test_a_normalised_stream_takes_any_width(kind: str, options: dict[str, Any]) -> None:
    proto = stream(kind, **options)
    model = from_proto(proto)
    for to in (WIDTH + 1, 2 * WIDTH - 1, 2 * WIDTH, 2 * WIDTH + 3, 3 * WIDTH + 1):
        plan = plan_widen(model, named(model, "down1"), to=to)
        assert_same(proto, plan.apply(model).model, roundings=256)
        if to % WIDTH:
            assert plan.fill == ("zero-in" if "rms" in kind.lower() or "Simplified" in kind else "mean")


@settings(deadline=None, max_examples=25)
@given(to=st.integers(WIDTH + 1, 40), seed=st.integers(0, 2**16), kind=st.sampled_from(sorted(KINDS)))
def test_any_width_and_seed(to: int, seed: int, kind: str) -> None:
    proto = stream(kind)
    model = from_proto(proto)
    assert_same(proto, plan_widen(model, named(model, "embed"), to=to, seed=seed).apply(model).model, roundings=512)


@settings(deadline=None, max_examples=50)
@given(h=st.integers(1, 9), to=st.integers(1, 40), epsilon=st.floats(1e-6, 1.0), seed=st.integers(0, 2**16))
def test_the_equation_of_the_layer_norm_scheme(h: int, to: int, epsilon: float, seed: int) -> None:
    """(x - m)/sqrt(s v + s e) sqrt(s) = (x - m)/sqrt(v + e) with the mean in what copies leave over."""
    random = np.random.default_rng(seed)
    width = h + to
    x = random.standard_normal(h)
    child = np.concatenate([np.tile(x, width // h), np.full(width % h, x.mean())])
    s = (width // h) * h / width
    parent = (x - x.mean()) / np.sqrt(x.var() + epsilon)
    new = (child - child.mean()) / np.sqrt(child.var() + s * epsilon) * np.sqrt(s)
    assert np.allclose(new[:h], parent, atol=1e-9)
    assert np.allclose(new[(width // h) * h :], 0, atol=1e-6)


def test_float16_streams_keep_their_precision() -> None:
    proto = stream("LayerNormalization", dtype=TensorProto.FLOAT16)
    model = from_proto(proto)
    assert_same(proto, plan_widen(model, named(model, "embed"), to=9).apply(model).model, roundings=64)


def test_who_reads_the_stream_before_the_norm_has_zeros_and_after_it_has_not() -> None:
    model = from_proto(stream("LayerNormalization"))
    child = plan_widen(model, named(model, "embed"), to=9).apply(model).model
    raw, head = (np.abs(named(child, name).kernel_array()).sum(axis=0) for name in ("raw", "head"))
    assert (raw == 0).sum() == 3 and (head != 0).all()


def test_post_norm_and_a_relu_in_between_are_refused_by_name_with_the_sizes_that_work() -> None:
    for options, says in (({"post": True}, "post-norm"), ({"relu": True}, "Relu")):
        proto = stream("LayerNormalization", **options)
        model = from_proto(proto)
        with pytest.raises(Refusal, match=says) as caught:
            plan_widen(model, named(model, "embed"), to=9)
        assert "12 and 18" in str(caught.value)
        plan = plan_widen(model, named(model, "embed"), by=1.5)
        assert plan.to == 12 and plan.fill == "replicate"
        assert_same(proto, plan.apply(model).model, roundings=256)


def test_zeros_pass_a_relu_in_front_of_an_rms_norm() -> None:
    proto = stream("RMSNormalization", relu=True)
    model = from_proto(proto)
    assert_same(proto, plan_widen(model, named(model, "embed"), to=9).apply(model).model)


@pytest.mark.parametrize("name", ["transformer", "transformer_opset_11", "attention_op"])
@pytest.mark.parametrize("extra", [2, 6])
def test_the_size_of_a_head_grows_with_silent_keys_and_random_queries(name: str, extra: int) -> None:
    proto = build(f"block/{name}")
    model = from_proto(proto)
    for layer in ("/q/MatMul", "/k/MatMul"):
        plan = plan_widen(model, named(model, layer), to=8 + extra)
        assert "size of a head" in plan.describe() and plan.fill == "zero-in"
        child = plan.apply(model).model
        q, k = (np.abs(named(child, each).kernel_array()).sum(axis=1) for each in ("/q/MatMul", "/k/MatMul"))
        assert (q != 0).all() and (k == 0).sum() == extra
        assert_same(proto, child, roundings=256)


def test_of_a_fused_projection_only_the_keys_are_silent() -> None:
    proto = build("block/fused_qkv_reshape")
    model = from_proto(proto)
    child = plan_widen(model, named(model, "/qkv"), to=30).apply(model).model
    rows = np.abs(named(child, "/qkv").kernel_array()).sum(axis=1).reshape(3, 2, 5)
    assert [(part == 0).sum() for part in rows] == [0, 2, 0]
    assert_same(proto, child, roundings=256)


def test_whole_heads_come_first_and_the_plan_says_so() -> None:
    model = from_proto(build("block/transformer"))
    for layer in ("/q/MatMul", "/v/MatMul"):
        assert "heads 2 -> 3 of 4" in plan_widen(model, named(model, layer), to=12).describe()


def test_a_tied_embedding_holds_the_mean_and_is_read_after_the_norm() -> None:
    proto = tied_embedding()
    model = from_proto(proto)
    for to in (8, 15):
        plan = plan_widen(model, named(model, "inner"), to=to)
        assert plan.fill == "mean"
        assert_same(proto, plan.apply(model).model, roundings=256)


def test_what_no_scheme_serves_is_refused() -> None:
    net = Net(opset=17)
    y = net.node("Softmax", [net.matmul(net.input("x", ["N", 4]), WIDTH, 4, name="one")], "soft", axis=-1)
    net.output(net.matmul(y, 3, WIDTH, name="two"), ["N", 3])
    model = from_proto(net.model())
    with pytest.raises(Refusal, match="softmax") as caught:
        plan_widen(model, named(model, "one"), to=9)
    assert caught.value.code == "softmax"
    table = coupled_groups(model)
    (group,) = table.of_axis(named(model, "one").output, 1)
    with pytest.raises(Refusal):
        scheme_for(group, 9)


def tied_embedding() -> onnx.ModelProto:
    """A table that is looked up and, transposed, the head."""
    net = Net(opset=17)
    table = net.weight("table", net.draw(11, WIDTH))
    h = net.node("Gather", [table, net.input("ids", ["N", "T"], TensorProto.INT64)], "embedded", axis=0)
    y = net.matmul(normalised(net, h, "n", "LayerNormalization"), WIDTH, WIDTH, name="inner")
    y = normalised(net, net.node("Add", [h, y], "stream"), "last", "LayerNormalization")
    net.output(net.node("MatMul", [y, net.node("Transpose", [table], "head", perm=[1, 0])], "out"), ["N", "T", 11])
    return net.model()


def test_untied_users_change_each_on_its_own() -> None:
    proto = tied_embedding()
    model = from_proto(proto)
    with pytest.raises(Refusal, match="--untie") as caught:
        plan_widen(model, named(model, "inner"), by=2, fill="replicate")
    assert caught.value.code == "tied"
    plan = plan_widen(model, named(model, "inner"), by=2, fill="replicate", untie=True)
    assert plan.untied == ("table",) and "untied" in plan.describe()
    child = plan.apply(model)
    assert_same(proto, child.model, roundings=256)
    again = apply(model, [plan_from_record(one.record()) for one in child.plans])
    assert ir.to_proto(again.model).SerializeToString() == ir.to_proto(child.model).SerializeToString()
    parents = [entry["parent"] for entry in files.index_maps(child.model)[0]["tensors"].values()]
    assert parents.count("table") == 2


def test_grouped_queries_grow_by_whole_heads_of_keys() -> None:
    net = Net(opset=23)
    x = net.input("x", ["N", "T", 8])
    q = net.matmul(x, 16, 8, name="q", bias="none")
    k, v = (net.matmul(x, 8, 8, name=name, bias="none") for name in "kv")
    y = net.node("Attention", [q, k, v], "mixed", q_num_heads=4, kv_num_heads=2)
    net.output(net.matmul(y, 8, 16, name="out"), ["N", "T", 8])
    proto = net.model()
    model = from_proto(proto)
    says = {"/q/MatMul": "heads 4 -> 6 of 4", "/k/MatMul": "heads 2 -> 3 of 4", "/v/MatMul": "heads 2 -> 3 of 4"}
    for layer, unit in says.items():
        plan = plan_widen(model, named(model, layer), by=1.5)
        assert unit in plan.describe()
        assert_same(proto, plan.apply(model).model, roundings=256)
        assert_same(proto, plan_widen(model, named(model, layer), by=1.25).apply(model).model, roundings=256)


@pytest.mark.parametrize("size", [12, 16, 19])
def test_a_constant_that_is_concatenated_holds_a_mean_too(size: int) -> None:
    """A class token before the patches, a constant of the width of the stream, as exporters leave it after folding."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in (("w", (5, 8)), ("token", (2, 1, 8)), ("gamma", (8,)), ("beta", (8,)), ("head", (8, 3)))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["patches"], name="patches"),
        helper.make_node("Concat", ["token", "patches"], ["stream"], axis=1),
        helper.make_node("LayerNormalization", ["stream", "gamma", "beta"], ["normed"], axis=-1),
        helper.make_node("MatMul", ["normed", "head"], ["y"], name="last"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4, 5])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5, 3])
    graph = helper.make_graph(nodes, "token", [x], [y], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = from_proto(proto)
    assert_same(proto, plan_widen(model, "patches", to=size, fill="mean").apply(model).model)
