"""Einsum layers: deepened, replaced by subnets, widened and folded like the MatMul they are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxmorph.errors import Refusal
from onnxmorph.graph.layers import layers
from onnxmorph.morphs import plan_deepen, plan_shrink, plan_skip, plan_subnet, plan_widen
from onnxmorph.morphs.fold import fold
from onnxmorph.morphs.template import TemplateError
from tests.morphs.oracle import assert_same, from_proto

CASES: dict[str, tuple[str, tuple[str | int, ...], tuple[int, ...]]] = {
    "last axis": ("...i,ji->...j", ("N", 5, 6), (8, 6)),
    "weight first": ("ij,bti->btj", ("N", 5, 6), (6, 8)),
    "second axis": ("bct,oc->bot", (2, 6, "T"), (8, 6)),
    "moved": ("bct,co->bto", (2, 6, "T"), (6, 8)),
    "heads out": ("btd,dhk->bhtk", ("N", 5, 6), (6, 2, 4)),
    "heads in": ("bthk,hkd->btd", ("N", 5, 2, 3), (2, 3, 8)),
}


def einsum(case: str, activation: str = "Relu") -> onnx.ModelProto:
    text, shape, dims = CASES[case]
    weight = np.random.default_rng(3).standard_normal(dims).astype(np.float32) * np.float32(0.4)
    operands = ["w", "x"] if case == "weight first" else ["x", "w"]
    nodes = [
        helper.make_node("Einsum", operands, ["h"], equation=text),
        helper.make_node(activation, ["h"], ["a"]),
        helper.make_node("Mul", ["a", "two"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.asarray(2, np.float32), "two")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", ["mirror", "netmorph", "identity", "residual"])
def test_depth(case: str, method: str) -> None:
    proto = einsum(case)
    model = from_proto(proto)
    if case.startswith("heads") and method in ("identity", "residual"):
        with pytest.raises(Refusal, match="several axes"):
            plan_deepen(model, "#0", method=method)
        return
    child = plan_deepen(model, "#0", method=method).apply(model)
    assert_same(proto, child.model)
    if method == "netmorph" and case in ("last axis", "weight first", "second axis"):
        assert [layer.op for layer in layers(fold(child.model).model)] == ["Einsum"]


@pytest.mark.parametrize("case", CASES)
def test_depth_with_new_channels_beside_an_identity(case: str) -> None:
    proto = einsum(case)
    model = from_proto(proto)
    child = plan_deepen(model, "#0", method="identity", width="x2").apply(model)
    assert_same(proto, child.model)


@pytest.mark.parametrize("case", CASES)
def test_subnets(case: str) -> None:
    proto = einsum(case)
    model = from_proto(proto)
    for template in ("(1:32)(1:8)", "(1:32)(1:8)|(1:8)"):
        assert_same(proto, plan_subnet(model, "#0", template=template).apply(model).model)
    normed = "(1:32,relu,bn)(1:8)"
    if case == "second axis":
        assert_same(proto, plan_subnet(model, "#0", template=normed).apply(model).model)
    else:
        with pytest.raises(TemplateError, match="not on axis 1"):
            plan_subnet(model, "#0", template=normed)


def test_a_batch_norm_goes_between_two_matrices_of_a_plain_mlp() -> None:
    weight = np.random.default_rng(3).standard_normal((6, 8)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 6))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 8))],
        [numpy_helper.from_array(weight, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = from_proto(proto)
    child = plan_subnet(model, "#0", template="(1:32,relu,bn)(1:8)").apply(model).model
    assert_same(proto, child)
    assert layers(child)[0].batch_norm is not None and str(layers(child)[0].activation) == "Relu"
    assert [node.op_type for node in fold(child).model.graph] == ["MatMul", "Relu"]


def attention() -> onnx.ModelProto:
    """Multi-head attention as Keras writes it, then a feed-forward part."""
    random = np.random.default_rng(5)
    shapes = {"wq": (12, 3, 4), "wk": (12, 3, 4), "wv": (12, 3, 4), "bq": (3, 4), "wo": (3, 4, 12)}
    shapes |= {"wu": (12, 24), "wd": (24, 12)}
    weights = {name: random.standard_normal(shape).astype(np.float32) * 0.3 for name, shape in shapes.items()}
    project = "abc,cde->abde"
    nodes = [
        helper.make_node("Einsum", ["x", "wq"], ["q0"], equation=project),
        helper.make_node("Add", ["q0", "bq"], ["q"]),
        helper.make_node("Einsum", ["x", "wk"], ["k"], equation=project),
        helper.make_node("Einsum", ["x", "wv"], ["v"], equation=project),
        helper.make_node("Einsum", ["k", "q"], ["s"], equation="aecd,abcd->acbe"),
        helper.make_node("Softmax", ["s"], ["p"], axis=-1),
        helper.make_node("Einsum", ["p", "v"], ["o"], equation="acbe,aecd->abcd"),
        helper.make_node("Einsum", ["o", "wo"], ["z"], equation="abcd,cde->abe"),
        helper.make_node("Add", ["z", "x"], ["r"]),
        helper.make_node("Einsum", ["r", "wu"], ["u"], equation="abc,cd->abd"),
        helper.make_node("Relu", ["u"], ["ur"]),
        helper.make_node("Einsum", ["ur", "wd"], ["y"], equation="abc,cd->abd"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 5, 12))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 5, 12))],
        [numpy_helper.from_array(weight.astype(np.float32), name) for name, weight in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_attention_of_einsums_widens_and_deepens_everywhere() -> None:
    proto = attention()
    model = from_proto(proto)
    names = ["q0", "k", "v", "z", "u", "y"]
    assert [layer.name for layer in layers(model)] == names
    for name in names:
        assert_same(proto, plan_deepen(model, name).apply(model).model)
    for name in ("q0", "k", "v", "u"):
        assert_same(proto, plan_widen(model, name, by=1.5, seed=1).apply(model).model)


def test_sizes_count_all_outputs_where_they_lie_on_several_axes() -> None:
    model = from_proto(attention())
    child = plan_widen(model, "v", to=18).apply(model).model
    assert next(layer for layer in layers(child) if layer.name == "v").out_channels == 18
    with pytest.raises(Refusal, match="15 and 18 are"):
        plan_widen(model, "v", to=17)
    back = plan_shrink(child, "v", to=12).apply(child).model
    assert next(layer for layer in layers(back) if layer.name == "v").out_channels == 12


def test_a_skip_between_channels_on_several_axes_is_refused() -> None:
    with pytest.raises(Refusal, match="several axes"):
        plan_skip(from_proto(attention()), source="q0", target="z")
