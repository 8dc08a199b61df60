"""Editing: names stay unique, scopes see their constants, names keep their meaning, what is the user's stays."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmorph._ir import ir
from onnxmorph.edit import (
    Builder,
    all_graphs,
    drop_unused,
    forget_shapes_downstream,
    opset_of,
    rename_value,
    replace_uses,
    set_initializer,
    take_name,
)
from onnxmorph.errors import Refusal

X = np.array([[1.0, -2.0, 3.0, -4.0]], dtype=np.float32)


def parse(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(text))


def run(model: ir.Model, **inputs: np.ndarray) -> list[np.ndarray]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, inputs)]


def value_names(model: ir.Model) -> list[str]:
    """Every value name once per value, over all scopes."""
    names: list[str] = []
    for graph, _, _ in all_graphs(model):
        values = {*graph.inputs, *graph.initializers.values(), *(out for node in graph for out in node.outputs)}
        names += [value.name for value in values if value.name]
    return names


def small(ir_version: int = 8, opset: int = 17) -> ir.Model:
    return parse(
        f"""<ir_version: {ir_version}, opset_import: ["": {opset}]>
        g (float[N, 4] x) => (float[N, 4] y) {{
            [first] h = Relu(x)
            [second] y = Neg(h)
        }}"""
    )


NESTED = """<ir_version: %d, opset_import: ["": 17, "local": 1]>
g (float[N, 4] x, bool c) => (float[N, 4] y, float[N, 4] z) {
    h = local.f(x)
    y = If (c) <
        then_branch = yes () => (float[N, 4] t1) { t1 = Relu(h) },
        else_branch = no () => (float[N, 4] e1) { e0 = Neg(h) e1 = Abs(e0) }
    >
    three = Constant <value: tensor = int64 {3}> ()
    go = Constant <value: tensor = bool {1}> ()
    z = Loop (three, go, h) <
        body = loop (int64 i, bool cond, float[N, 4] carried) => (bool again, float[N, 4] next) {
            again = Identity(cond)
            next = Neg(carried)
        }
    >
}
<domain: "local", opset_import: ["": 17]>
f (a) => (b) { s = Relu(a) b = Identity(s) }"""


# ------------------------------------------------------------------------------------------------------------- names


def test_new_names_are_unique_in_the_whole_model() -> None:
    model = parse(NESTED % 8)
    body = model.graph[1].attributes["then_branch"].as_graph()
    build = Builder(model, body, after=body[0])
    taken = set(value_names(model))
    for name in ("e0", "x", "s", "again", "t1"):  # of another branch, the main graph, a function, another body
        assert name in taken
        value = build.node("Neg", [body[0].outputs[0]], output=name)
        assert value.name not in taken and value.name == f"{name}_1"
        assert build.initializer(name, np.zeros(1)).name == f"{name}_2"
    assert len(value_names(model)) == len(set(value_names(model)))
    assert build.unique("t1") == "t1_3" and build.unique("fresh") == "fresh"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["h", "x", "h_1", "w", "first", "first_1"]), max_size=12))
def test_any_sequence_of_wanted_names_stays_unique(wanted: list[str]) -> None:
    model = small()
    build = Builder(model, model.graph, after=model.graph[0])
    for place, name in enumerate(wanted):
        if place % 3 == 2:
            build.initializer(name, np.zeros(1, np.float32))
        elif place % 3 == 1:
            rename_value(model, model.graph[0].outputs[0], name)
        else:
            build.node("Neg", [model.graph[0].outputs[0]], name=name)
    names = value_names(model)
    assert len(names) == len(set(names))
    nodes = [node.name for node in model.graph]
    assert len(nodes) == len(set(nodes))
    assert run(model, x=X)[0].shape == (1, 4)


def test_a_node_with_a_body_brings_its_names_and_scope_along() -> None:
    model, other = parse(NESTED % 8), small()
    condition = Builder(other, other.graph, other.graph[0]).node("Constant", [], value=np.array(True), name="condition")
    branches = {
        name: attribute.as_graph().clone(allow_outer_scope_values=True)
        for name, attribute in model.graph[1].attributes.items()
    }
    for branch in branches.values():
        for node in branch:
            for place, value in enumerate(node.inputs):
                if value is not None and value.name == "h":
                    node.replace_input_with(place, other.graph.inputs[0])
    build = Builder(other, other.graph)
    build.node("If", [condition], output="chosen", **branches)
    assert build.unique("t1") == "t1_1"
    yes = build.nodes[0].attributes["then_branch"].as_graph()
    assert Builder(other, yes, after=yes[0]).node("Neg", [yes[0].outputs[0]], output="e1").name == "e1_1"
    run(other, x=X)


def test_two_builders_and_a_change_behind_them_do_not_collide() -> None:
    model = small()
    x, one, two = model.graph.inputs[0], Builder(model, model.graph), Builder(model, model.graph)
    one.node("Abs", [x], name="n")
    model.graph.append(ir.node("Neg", [x], outputs=[ir.Value(name="n_1")], name="n_1"))
    assert two.node("Abs", [x], name="n").name == "n_2"
    assert one.node("Abs", [x], name="n").name == "n_3"


def test_a_quantization_annotation_stays_with_the_name() -> None:
    model = small()
    relu, neg = model.graph
    relu.outputs[0].meta["quant_parameter_tensor_names"] = {"SCALE_TENSOR": "s"}
    multiply_after(model, model.graph, relu, 2.0)
    (annotation,) = ir.to_proto(model).graph.quantization_annotation
    assert annotation.tensor_name == "h" and neg.inputs[0] is not None and neg.inputs[0].name == "h"


def test_nodes_made_behind_the_builders_back_are_seen() -> None:
    model = small()
    first = Builder(model, model.graph)
    model.graph.insert_after(model.graph[0], ir.node("Neg", [model.graph[0].outputs[0]], outputs=[ir.Value(name="q")]))
    assert Builder(model, model.graph).node("Neg", [model.graph.inputs[0]], output="q").name == "q_1"
    assert first.unique("fresh") == "fresh"


# ------------------------------------------------------------------------------------------------------------ places


def test_nodes_go_where_they_are_wanted_in_the_order_they_are_made() -> None:
    model = small()
    x, (relu, neg) = model.graph.inputs[0], list(model.graph)
    before, after = Builder(model, model.graph, neg), Builder(model, model.graph, after=relu)
    before.node("Abs", [x], name="b1")
    before.node("Abs", [x], name="b2")
    after.node("Abs", [x], name="a1")
    after.node("Abs", [x], name="a2")
    Builder(model, model.graph).node("Abs", [x], name="end")
    assert [node.name for node in model.graph] == ["first", "a1", "a2", "b1", "b2", "second", "end"]
    with pytest.raises(ValueError, match="not in the graph"):
        Builder(model, parse(NESTED % 8).graph, neg)
    with pytest.raises(ValueError, match="not part of the model"):
        Builder(small(), model.graph)
    with pytest.raises(ValueError, match="either"):
        Builder(model, model.graph, relu, after=neg)


def multiply_after(model: ir.Model, graph: ir.Graph | ir.Function, node: ir.Node, factor: float) -> None:
    """Put ``* factor`` behind the first output of ``node``, which keeps its name."""
    build = Builder(model, graph, after=node)
    old = node.outputs[0]
    new = build.node("Mul", [old, build.initializer("factor", np.array([factor]), ir.DataType.FLOAT)], name="scaled")
    replace_uses(old, new, except_nodes=build.nodes)
    take_name(model, new, old)


@pytest.mark.parametrize("ir_version", [8, 10])
def test_every_scope_can_be_edited_and_runs(ir_version: int) -> None:
    parent = parse(NESTED % ir_version)
    plain = [run(parent, x=X, c=np.array(c)) for c in (True, False)]
    model = parse(NESTED % ir_version)
    (function,) = model.functions.values()
    call, branch, *_, loop = list(model.graph)
    yes, no = (branch.attributes[name].as_graph() for name in ("then_branch", "else_branch"))
    body = loop.attributes["body"].as_graph()
    multiply_after(model, function, function[0], 2.0)
    multiply_after(model, model.graph, call, 3.0)
    multiply_after(model, yes, yes[0], 5.0)
    multiply_after(model, no, no[0], 7.0)
    multiply_after(model, body, body[1], 11.0)
    assert not any(graph.initializers for graph, owner, of in all_graphs(model) if owner is not None or of is not None)
    assert [node.op_type for node in function] == ["Relu", "Constant", "Mul", "Identity"]
    changed = [run(model, x=X, c=np.array(c)) for c in (True, False)]
    np.testing.assert_array_equal(changed[0][0], plain[0][0] * 2 * 3 * 5)
    np.testing.assert_array_equal(changed[1][0], plain[1][0] * 2 * 3 * 7)
    np.testing.assert_array_equal(changed[0][1], plain[0][1] * 2 * 3 * 11**3)
    assert [value.name for value in yes.outputs] == ["t1"] and [value.name for value in body.outputs] == [
        "again",
        "next",
    ]


@pytest.mark.parametrize(("ir_version", "opset"), [(3, 8), (4, 9), (8, 17), (12, 26)])
def test_an_initializer_is_a_graph_input_too_only_where_the_ir_version_wants_it(ir_version: int, opset: int) -> None:
    model = small(ir_version, opset)
    multiply_after(model, model.graph, model.graph[0], 2.0)
    assert ("factor" in [value.name for value in model.graph.inputs]) == (ir_version < 4)
    np.testing.assert_array_equal(run(model, x=X)[0], -2 * np.maximum(X, 0))


# ------------------------------------------------------------------------------------------------- nodes, attributes


def test_attributes_get_the_kind_the_operator_declares() -> None:
    model = small()
    build = Builder(model, model.graph)
    h = model.graph[0].outputs[0]
    build.node("LeakyRelu", [h], alpha=1)
    build.node("Gemm", [h, h], transB=True, alpha=np.float32(2), beta=None)
    build.node("Transpose", [h], perm=(1, 0))
    build.node("Constant", [], value=np.arange(3))
    build.node("Cast", [h], to=ir.DataType.DOUBLE)
    leaky, gemm, transpose, constant, cast = build.nodes
    assert leaky.attributes["alpha"].type == ir.AttributeType.FLOAT
    assert gemm.attributes["transB"].type == ir.AttributeType.INT and "beta" not in gemm.attributes
    assert transpose.attributes["perm"].type == ir.AttributeType.INTS
    assert constant.attributes["value"].type == ir.AttributeType.TENSOR
    assert cast.attributes["to"].value == int(ir.DataType.DOUBLE)
    run(model, x=X)
    with pytest.raises(ValueError, match="no attribute 'slope'"):
        build.node("LeakyRelu", [h], slope=0.1)


def test_an_operator_newer_than_the_opset_is_refused() -> None:
    model = small(opset=17)
    with pytest.raises(Refusal, match="Gelu does not exist in opset 17") as caught:
        Builder(model, model.graph).node("Gelu", [model.graph.inputs[0]])
    assert caught.value.code == "opset-too-old"
    assert Builder(model, model.graph).has_op("HardSwish") and not Builder(model, model.graph).has_op("Mish")


def test_the_opset_is_that_of_the_scope() -> None:
    model = parse(
        (NESTED % 8).replace('<domain: "local", opset_import: ["": 17]>', '<domain: "local", opset_import: ["": 16]>')
    )
    (function,) = model.functions.values()
    branch = model.graph[1].attributes["then_branch"].as_graph()
    assert Builder(model, function).opset == 16 and Builder(model, branch).opset == 17
    assert opset_of(model) == 17
    with pytest.raises(Refusal, match="does not import"):
        opset_of(model, domain="com.microsoft")
    Builder(model, function).node("Gelu", [function.inputs[0]], domain="com.microsoft")
    assert opset_of(model, domain="com.microsoft") == opset_of(model, function, "com.microsoft") == 1


def test_opset_may_be_imported_under_its_long_name() -> None:
    model = small()
    model.graph.opset_imports["ai.onnx"] = model.graph.opset_imports.pop("")
    assert Builder(model, model.graph).opset == 17


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE])
def test_tensor_shape_and_type_of_an_initializer_agree(dtype: ir.DataType) -> None:
    model = small()
    value = Builder(model, model.graph).initializer("w", np.full((2, 3), 0.1), dtype)
    assert value.const_value is not None and value.shape == ir.Shape([2, 3]) and value.dtype == dtype
    assert value.const_value.numpy().dtype == dtype.numpy() and value.const_value.shape == value.shape
    set_initializer(value, np.float64(2.0))
    assert value.shape == ir.Shape([]) and value.dtype == dtype and float(value.const_value.numpy()) == 2.0
    with pytest.raises(ValueError, match="not an initializer"):
        set_initializer(model.graph[0].outputs[0], np.zeros(1))


def test_a_number_beyond_the_type_is_refused_not_made_infinite() -> None:
    model = small()
    with pytest.raises(Refusal, match="beyond the range of FLOAT16"):
        Builder(model, model.graph).initializer("w", np.array([7e4]), ir.DataType.FLOAT16)
    value = Builder(model, model.graph).initializer("w", np.array([np.inf]), ir.DataType.FLOAT16)
    assert value.const_value is not None and np.isinf(value.const_value.numpy()).all()


def test_a_copied_node_keeps_its_attributes() -> None:
    model = small()
    build = Builder(model, model.graph)
    build.node("LeakyRelu", [model.graph.inputs[0]], alpha=0.3, name="a")
    build.copy(build.nodes[0], [model.graph[0].outputs[0]], name="a")
    assert [node.name for node in build.nodes] == ["a", "a_1"]
    assert build.nodes[1].attributes["alpha"].value == pytest.approx(0.3)


# -------------------------------------------------------------------------------------- rewiring and what is left over


def test_a_renamed_initializer_leaves_the_shared_tensor_its_name() -> None:
    model = small()
    value = Builder(model, model.graph).initializer("w", np.zeros(4, np.float32))
    tensor = value.const_value
    assert tensor is not None
    assert rename_value(model, value, "h") == "h_1"
    assert value.name == "h_1" and value.const_value is tensor and tensor.name == "w"
    assert list(model.graph.initializers) == ["h_1"]


def test_a_graph_output_keeps_its_name_place_and_declared_shape() -> None:
    model = small()
    multiply_after(model, model.graph, model.graph[1], 2.0)
    (y,) = model.graph.outputs
    assert y.name == "y" and y.producer() is model.graph[2] and str(y.shape) == "[N,4]"
    assert model.graph[1].outputs[0].name == "y_inner"
    np.testing.assert_array_equal(run(model, x=X)[0], -2 * np.maximum(X, 0))


def test_an_input_keeps_its_name_and_an_output_is_not_doubled() -> None:
    model = small()
    relu, neg = model.graph
    with pytest.raises(ValueError, match="not free"):
        take_name(model, relu.outputs[0], model.graph.inputs[0])
    model.graph.outputs.append(relu.outputs[0])
    with pytest.raises(ValueError, match="already"):
        replace_uses(neg.outputs[0], relu.outputs[0])


def test_only_what_lost_its_use_is_dropped() -> None:
    model = parse(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[N, 4] x, float[4] given) => (float[N, 4] y)
        <float[4] w = {1, 2, 3, 4}, float[4] shared = {1, 1, 1, 1},
         float[4] never = {0, 0, 0, 0}, float[4] given = {1, 1, 1, 1}> {
            half = Constant <value: tensor = float {0.5}> ()
            scaled = Mul(w, half)
            both = Add(scaled, shared)
            all = Add(both, given)
            dead = Add(x, never)
            p = Mul(x, all)
            y = Mul(p, shared)
        }"""
    )
    p, y = list(model.graph)[-2:]
    old = p.inputs[1]
    assert old is not None
    p.replace_input_with(1, Builder(model, model.graph, p).initializer("w2", np.ones(4, np.float32)))
    removed = drop_unused(model, [old, p, y.outputs[0], model.graph.initializers["never"]])
    assert sorted(removed) == ["all", "both", "half", "scaled", "w"]
    # 'given' is a graph input: part of the interface, though nothing reads it now; 'dead' is the user's.
    assert {"shared", "never", "given", "w2"} == set(model.graph.initializers)
    assert [value.name for value in model.graph.inputs] == ["x", "given"]
    assert "dead" in [node.outputs[0].name for node in model.graph]
    np.testing.assert_array_equal(run(model, x=X)[0], X)


def test_a_name_that_two_branches_use_is_free_when_both_have_given_it_up() -> None:
    bodies = [
        onnx.helper.make_graph(
            [onnx.helper.make_node("Mul", ["x", "w"], ["p"], name="product")],
            "body",
            [],
            [onnx.helper.make_tensor_value_info("p", onnx.TensorProto.FLOAT, None)],
            [onnx.numpy_helper.from_array(np.full(4, factor, np.float32), "w")],
        )
        for factor in (2, 3)
    ]
    signature = onnx.parser.parse_graph("g (bool c, float[N, 4] x) => (float[N, 4] y) {}")
    signature.node.append(onnx.helper.make_node("If", ["c"], ["y"], then_branch=bodies[0], else_branch=bodies[1]))
    imports = [onnx.helper.make_opsetid("", 17)]
    model = ir.from_proto(onnx.helper.make_model(signature, opset_imports=imports, ir_version=8))
    names = []
    for body in [graph for graph, owner, _ in all_graphs(model) if owner is not None]:
        build, old = Builder(model, body, body[0]), body[0].inputs[1]
        assert old is not None
        new = build.initializer("w.larger", np.full(4, 5, np.float32))
        body[0].replace_input_with(1, new)
        assert drop_unused(model, [old]) == ["w"]
        names.append(rename_value(model, new, "w"))
        # A name of the main graph that a body has too would hide it there; ONNX Runtime refuses such a model.
        run(model, c=np.array(True), x=X)
    assert names == ["w_1", "w"]
    for branch in (True, False):
        np.testing.assert_array_equal(run(model, c=np.array(branch), x=X)[0], X * 5)


def test_a_dropped_initializer_takes_its_input_along_where_the_ir_version_paired_them() -> None:
    model = small(3, 8)
    multiply_after(model, model.graph, model.graph[0], 2.0)
    scaled = model.graph[1]
    (neg,) = scaled.outputs[0].consumers()
    neg.replace_input_with(0, scaled.inputs[0])
    assert drop_unused(model, [scaled]) == ["scaled", "factor"]
    assert [value.name for value in model.graph.inputs] == ["x"] and not model.graph.initializers
    run(model, x=X)


def test_dropping_a_node_frees_what_its_bodies_used() -> None:
    model = parse(NESTED % 8)
    branch = model.graph[1]
    multiply_after(
        model, branch.attributes["then_branch"].as_graph(), branch.attributes["then_branch"].as_graph()[0], 2.0
    )
    replacement = Builder(model, model.graph, after=branch).node("Neg", [model.graph[0].outputs[0]], name="instead")
    old = branch.outputs[0]
    replace_uses(old, replacement)
    take_name(model, replacement, old)
    assert set(drop_unused(model, [old])) == {"y_inner", "factor"}
    run(model, x=X, c=np.array(True))


def test_shapes_downstream_are_forgotten_but_not_those_of_the_interface() -> None:
    model = parse(NESTED % 8)
    proto = onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True)
    model = ir.from_proto(proto)
    call, branch, *_, loop = list(model.graph)
    body, no = loop.attributes["body"].as_graph(), branch.attributes["else_branch"].as_graph()
    forget_shapes_downstream(model, call.outputs[0])
    assert no[0].outputs[0].shape is None and no.outputs[0].shape is None
    assert body.outputs[1].shape is None and body.inputs[2].shape is None
    assert all(str(value.shape) == "[N,4]" for value in model.graph.outputs)
    assert model.graph.inputs[0].shape is not None
    run(model, x=X, c=np.array(False))


def test_a_stale_shape_no_longer_reaches_shape_inference() -> None:
    model = parse(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[N, 4] x) => (float[N, 4] y)
        <float[4, 1] a = {0, 0, 0, 0}, float[1, 4] b = {0, 0, 0, 0}, float[N, 1] h, float[N, 1] r> {
            h = MatMul(x, a)
            r = Relu(h)
            y = MatMul(r, b)
        }"""
    )
    set_initializer(model.graph.initializers["a"], np.ones((4, 5)))
    set_initializer(model.graph.initializers["b"], np.ones((5, 4)))
    with pytest.raises(Exception, match="hape"):
        run(model, x=X)
    forget_shapes_downstream(model, model.graph.initializers["a"])
    np.testing.assert_array_equal(run(model, x=np.abs(X))[0], np.full((1, 4), 50.0))
