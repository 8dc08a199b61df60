"""Activations: found however they are spelled, named as people type, spelled exactly in every opset."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxmorph._ir import ir
from onnxmorph.edit import Builder
from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.graph.activations import Activation, emit, emit_parametric, named, recognise, why_not_emit
from onnxmorph.graph.activations.functions import ALIASES, KINDS
from onnxmorph.graph.layers import layers

OPSETS = (7, 9, 11, 13, 14, 17, 18, 20, 22, 24, 26)
EXAMPLES = [
    "relu", "leaky_relu(0.1)", "leaky_relu(-0.5)", "prelu(0.3)", "relu6", "clip(-1, 2)", "clip(max=3)", "sigmoid",
    "tanh", "elu", "elu(0.7)", "selu", "celu(0.5)", "hard_sigmoid", "hardsigmoid(0.25, 0.4)", "hardswish", "softplus",
    "softplus(2)", "log_sigmoid", "softsign", "mish", "gelu", "gelu_tanh", "silu", "quick_gelu", "quick_gelu(2.5)",
    "thresholded_relu(0.8)", "shrink(0.5, 0.25)", "shrink(0.7, 0)", "tanhshrink", "squared_relu", "square", "abs",
    "sin",
]  # fmt: skip
POINTS = np.array(
    [
        0,
        1e-30,
        -1e-40,
        1e-40,
        3,
        -3,
        6,
        -6,
        1,
        -1,
        0.5,
        -0.5,
        2.5,
        -2.5,
        100,
        -100,
        1e4,
        -1e4,
        0.1,
        -0.1,
        7,
        -7,
        0.85,
        -0.7,
    ],
    dtype=np.float32,
).reshape(-1, 3)
HUGE = np.array([[3.4e38, -3.4e38, 1e30]], dtype=np.float32)


def ir_version(opset: int) -> int:
    return 3 if opset < 9 else 4 if opset < 11 else 8 if opset < 21 else 10 if opset < 24 else 12


def empty_model(opset: int, dtype: ir.DataType = ir.DataType.FLOAT, channels: int = 3) -> ir.Model:
    x = ir.Value(name="x", type=ir.TensorType(dtype), shape=ir.Shape(["N", channels]))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": opset}, name="g")
    return ir.Model(graph, ir_version=ir_version(opset))


def add_output(model: ir.Model, value: ir.Value) -> None:
    x = model.graph.inputs[0]
    value.type, value.shape = x.type, x.shape
    model.graph.outputs.append(value)


def run(model: ir.Model, x: np.ndarray) -> list[np.ndarray]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(y) for y in session.run(None, {"x": x})]


def spellable(opset: int, dtype: ir.DataType = ir.DataType.FLOAT) -> list[str]:
    return [name for name in EXAMPLES if why_not_emit(named(name), opset, dtype) is None]


def assert_near(y: np.ndarray, exact: np.ndarray, tolerance: float, what: str) -> None:
    with np.errstate(over="ignore"):
        rounded = exact.astype(y.dtype)
    agrees = (np.abs(y.astype(float) - exact) <= tolerance * np.maximum(1.0, np.abs(exact))) | (y == rounded)
    assert agrees.all(), (what, y[~agrees], exact[~agrees])


# ---------------------------------------------------------------------------------------------------------- emission


@pytest.mark.parametrize("opset", OPSETS)
def test_every_activation_is_emitted_exactly_in_every_opset(opset: int) -> None:
    model = empty_model(opset)
    x = model.graph.inputs[0]
    names = spellable(opset)
    for name in names:
        add_output(model, emit(Builder(model, model.graph), named(name), x, label=name, output_name=f"{name}.out"))
    assert [value.name for value in model.graph.outputs] == [f"{name}.out" for name in names]
    with np.errstate(over="ignore"):
        for points in (POINTS, HUGE):
            for name, y in zip(names, run(model, points), strict=True):
                finite = np.isfinite(y)
                assert finite.all() or named(name).overflows(float(np.finfo(np.float32).max))
                assert_near(y[finite], named(name)(points)[finite], 2e-6, f"{name} in opset {opset}")


@pytest.mark.parametrize("opset", OPSETS)
def test_parametric_form_is_exactly_phi_at_0_and_exactly_x_at_1(opset: int) -> None:
    model = empty_model(opset)
    x = model.graph.inputs[0]
    names, starts = spellable(opset), (0.0, 1.0, 0.3)
    for name in names:
        phi = named(name)
        add_output(model, emit(Builder(model, model.graph), phi, x, label=name))
        for a in starts:
            build = Builder(model, model.graph)
            per_channel = a != 1.0
            add_output(
                model,
                emit_parametric(
                    build,
                    phi,
                    x,
                    a=a,
                    per_channel=per_channel,
                    channels=3,
                    channel_axis=-1,
                    rank=2,
                    label=f"{name}.{a}",
                ),
            )
            assert f"{name}.{a}.a" in model.graph.initializers
    for points in (POINTS, HUGE):
        results = iter(run(model, points))
        for name in names:
            phi_x, at_0, at_1, between = (next(results) for _ in range(4))
            np.testing.assert_array_equal(at_0, phi_x, err_msg=f"{name}, a=0, opset {opset}")
            np.testing.assert_array_equal(at_1, points, err_msg=f"{name}, a=1, opset {opset}")
            if points is POINTS:
                assert_near(between, 0.7 * named(name)(points) + 0.3 * points.astype(float), 2e-6, name)


@pytest.mark.parametrize("opset", [9, 14, 22])
def test_float16_at_the_edges_of_its_range(opset: int) -> None:
    model = empty_model(opset, ir.DataType.FLOAT16)
    x = model.graph.inputs[0]
    names = spellable(opset, ir.DataType.FLOAT16)
    assert set(names) == set(EXAMPLES)
    for name in names:
        build = Builder(model, model.graph)
        add_output(model, emit(build, named(name), x, label=name))
        for a in (0.0, 1.0):
            add_output(
                model,
                emit_parametric(build, named(name), x, a=a, per_channel=False, channels=3, channel_axis=1, rank=2),
            )
    points = np.array([0, 6e-8, -6e-8, 65504, -65504, 300, -300, 3, -3, 1, -1, 0.5], dtype=np.float16).reshape(-1, 3)
    results = iter(run(model, points))
    for name in names:
        phi_x, at_0, at_1 = (next(results) for _ in range(3))
        finite = np.isfinite(phi_x)
        assert_near(phi_x[finite], named(name)(points)[finite], 4e-3, name)
        np.testing.assert_array_equal(at_0, phi_x, err_msg=name)
        np.testing.assert_array_equal(at_1, points, err_msg=name)


def test_exact_gelu_is_refused_where_there_is_no_erf_rather_than_replaced_by_the_tanh_form() -> None:
    refusal = why_not_emit(named("gelu"), 8, ir.DataType.FLOAT)
    assert refusal is not None and "Erf" in refusal.reason and refusal.code == "opset-too-old"
    assert why_not_emit(named("gelu_tanh"), 8, ir.DataType.FLOAT) is None


def test_an_operator_that_does_not_take_the_type_is_not_used() -> None:
    assert why_not_emit(named("softplus"), 13, ir.DataType.BFLOAT16) is not None
    assert why_not_emit(named("hardswish"), 14, ir.DataType.BFLOAT16) is None
    model = empty_model(14, ir.DataType.BFLOAT16)
    build = Builder(model, model.graph)
    emit(build, named("hardswish"), model.graph.inputs[0])
    assert "HardSwish" not in {node.op_type for node in build.nodes}


def test_per_channel_a_lies_along_the_channel_axis() -> None:
    model = empty_model(13)
    x = ir.Value(name="image", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["N", 4, "H", "W"]))
    model.graph.inputs.append(x)
    for axis, shape in ((1, (4, 1, 1)), (-1, (4,)), (-3, (4, 1, 1)), (2, (4, 1))):
        build = Builder(model, model.graph)
        emit_parametric(
            build, named("relu"), x, a=[0.0, 0.1, 0.2, 1.0], per_channel=True, channels=4, channel_axis=axis, rank=4,
            label=f"axis{axis}",
        )  # fmt: skip
        array = model.graph.initializers[f"axis{axis}.a"].const_value.numpy()  # type: ignore[union-attr]
        assert array.shape == shape and array.dtype == np.float32
    with pytest.raises(ValueError, match="outside rank"):
        emit_parametric(
            Builder(model, model.graph), named("relu"), x, a=0, per_channel=True, channels=4, channel_axis=4, rank=4
        )


def test_parameters_per_channel_that_do_not_fit_are_refused() -> None:
    model = empty_model(13)
    phi = Activation("PRelu", {"slope": np.array([0.1, 0.2])})
    with pytest.raises(Refusal, match="2 channels, not for 3"):
        emit(Builder(model, model.graph), phi, model.graph.inputs[0], channels=3)
    assert phi.uniform().parameters["slope"] == pytest.approx(0.15)


@pytest.mark.parametrize("name", ["relu", "gelu", "relu6", "leaky_relu(0.1)", "celu(0.5)", "silu"])
def test_activations_can_be_emitted_inside_bodies_and_functions(name: str) -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[N, 3] x, bool c) => (float[N, 3] y, float[N, 3] z) {
        y = If (c) <then_branch = t () => (float[N, 3] t1) { t1 = Identity(x) },
                    else_branch = e () => (float[N, 3] e1) { e1 = Neg(x) }>
        z = local.f(x)
    }
    <domain: "local", opset_import: ["": 16]>
    f (p) => (q) { q = Identity(p) }"""
    phi = named(name)
    for a in (None, 0.0, 1.0):
        model = ir.from_proto(onnx.parser.parse_model(text))
        body = model.graph[0].attributes["then_branch"].as_graph()
        (function,) = model.functions.values()
        for scope, last in ((body, body[0]), (function, function[0])):
            build, x = Builder(model, scope, before=last), last.inputs[0]
            assert x is not None
            if a is None:
                value = emit(build, phi, x, dtype=ir.DataType.FLOAT)
            else:
                value = emit_parametric(
                    build, phi, x, a=a, per_channel=True, channels=3, channel_axis=-1, rank=2, dtype=ir.DataType.FLOAT
                )
            last.replace_input_with(0, value)
        proto = ir.to_proto(model)
        onnx.checker.check_model(proto, full_check=True)
        session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        for y in session.run(None, {"x": POINTS, "c": np.array(True)}):
            if a == 1.0:
                np.testing.assert_array_equal(y, POINTS)
            else:
                assert_near(np.asarray(y), phi(POINTS), 2e-6, name)


def test_growing_from_one_activation_toward_another_starts_as_the_first() -> None:
    model = empty_model(17)
    x, build = model.graph.inputs[0], Builder(model, model.graph)
    first = emit(build, named("gelu"), x, label="first")
    add_output(model, first)
    for goal in ("relu", "selu", "squared_relu", "tanh"):
        add_output(
            model,
            emit_parametric(
                build,
                named(goal),
                x,
                a=1.0,
                per_channel=True,
                channels=3,
                channel_axis=1,
                rank=2,
                label=goal,
                kept=first,
            ),
        )
    for points in (POINTS, HUGE):
        y, *grown = run(model, points)
        for value in grown:
            np.testing.assert_array_equal(value, y)


# ------------------------------------------------------------------------------------------------------- recognition


@pytest.mark.parametrize("opset", OPSETS)
def test_what_is_emitted_is_recognised(opset: int) -> None:
    for name in spellable(opset):
        model = empty_model(opset)
        y = emit(Builder(model, model.graph), named(name), model.graph.inputs[0])
        add_output(model, y)
        found = recognise(model.graph.inputs[0], ir_version=model.ir_version)
        assert found is not None and found.same_as(named(name)), (name, opset, found)
        assert found.output is y and found.input is model.graph.inputs[0]
        assert set(found.nodes) == set(model.graph)


def spelled(
    lines: Sequence[str],
    constants: dict[str, object],
    *,
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
    shape: Sequence[object] = ("N", 3),
    as_nodes: bool = False,
    extra_outputs: Sequence[str] = (),
    more: str = "",
) -> onnx.ModelProto:
    """A model from lines like ``y = Mul(x, s)``; constants as initializers or as Constant nodes."""
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == TensorProto.BFLOAT16 else helper.tensor_dtype_to_np_dtype(dtype)
    tensors = {name: numpy_helper.from_array(np.asarray(value, dtype=kind), name) for name, value in constants.items()}
    nodes = []
    if as_nodes:
        nodes = [helper.make_node("Constant", [], [name], value=tensor) for name, tensor in tensors.items()]
    for line in lines:
        left, _, right = line.partition("=")
        op, _, rest = right.strip().partition("(")
        operands, _, attributes = rest.rpartition(")")
        given = eval(f"dict({attributes})", {}) if attributes else {}
        domain = given.pop("domain", "")
        nodes.append(
            helper.make_node(
                op, [o.strip() for o in operands.split(",")] if operands else [], [left.strip()], domain=domain, **given
            )
        )
    outputs = [helper.make_tensor_value_info(name, dtype, list(shape)) for name in ("y", *extra_outputs)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, list(shape))],
        outputs,
        [] if as_nodes else list(tensors.values()),
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8 if opset < 20 else 10)


SQRT2 = math.sqrt(2.0)
GELU_TANH = {"h": 0.5, "c": 0.044715, "k": math.sqrt(2 / math.pi), "o": 1.0, "three": 3.0}
SELU = {"l": 1.0507009873554805, "la": 1.0507009873554805 * 1.6732632423543772, "z": 0.0, "o": 1.0}
SPELLINGS: list[tuple[str, list[str], dict[str, object]]] = [
    ("silu", ["s = Sigmoid(x)", "y = Mul(x, s)"], {}),
    ("silu", ["s = Sigmoid(x)", "y = Mul(s, x)"], {}),
    ("silu", ["n = Neg(x)", "e = Exp(n)", "d = Add(e, o)", "y = Div(x, d)"], {"o": 1.0}),
    ("silu", ["n = Neg(x)", "e = Exp(n)", "d = Add(o, e)", "r = Reciprocal(d)", "y = Mul(x, r)"], {"o": 1.0}),
    ("quick_gelu", ["t = Mul(x, k)", "s = Sigmoid(t)", "y = Mul(x, s)"], {"k": 1.702}),
    ("quick_gelu(2.5)", ["t = Mul(k, x)", "s = Sigmoid(t)", "y = Mul(s, x)"], {"k": 2.5}),
    ("gelu", ["d = Div(x, r)", "e = Erf(d)", "a = Add(e, o)", "m = Mul(x, a)", "y = Mul(m, h)"],
     {"r": SQRT2, "o": 1.0, "h": 0.5}),
    ("gelu", ["d = Mul(x, r)", "e = Erf(d)", "a = Add(o, e)", "m = Mul(x, h)", "y = Mul(m, a)"],
     {"r": 0.70710678, "o": 1.0, "h": 0.5}),
    ("gelu", ["d = Mul(x, r)", "e = Erf(d)", "a = Add(o, e)", "m = Mul(h, a)", "y = Mul(x, m)"],
     {"r": 0.7071, "o": 1.0, "h": 0.5}),
    ("gelu", ["d = Div(x, r)", "e = Erf(d)", "a = Add(e, o)", "b = Div(a, two)", "y = Mul(b, x)"],
     {"r": SQRT2, "o": 1.0, "two": 2.0}),
    ("gelu_tanh", ["p = Pow(x, three)", "q = Mul(p, c)", "s = Add(x, q)", "t = Mul(s, k)", "u = Tanh(t)",
                   "v = Add(u, o)", "w = Mul(x, v)", "y = Mul(w, h)"], GELU_TANH),
    ("gelu_tanh", ["x2 = Mul(x, x)", "x3 = Mul(x2, x)", "q = Mul(c, x3)", "s = Add(q, x)", "t = Mul(k, s)",
                   "u = Tanh(t)", "v = Add(o, u)", "w = Mul(h, x)", "y = Mul(w, v)"], GELU_TANH),
    ("hardswish", ["s = HardSigmoid(x) alpha=1/6, beta=0.5", "y = Mul(x, s)"], {}),
    ("hardswish", ["a = Add(x, t)", "c = Clip(a, z, s)", "m = Mul(x, c)", "y = Div(m, s)"], {"t": 3, "z": 0, "s": 6}),
    ("hardswish", ["a = Add(x, t)", "c = Clip(a, z, s)", "d = Div(c, s)", "y = Mul(d, x)"], {"t": 3, "z": 0, "s": 6}),
    ("hardswish", ["a = Add(t, x)", "c = Clip(a, z, s)", "m = Mul(x, w)", "y = Mul(c, m)"],
     {"t": 3, "z": 0, "s": 6, "w": 0.16666667}),
    ("hardswish", ["a = Add(x, t)", "r = Relu(a)", "c = Min(r, s)", "m = Mul(c, w)", "y = Mul(x, m)"],
     {"t": 3, "s": 6, "w": 1 / 6}),
    ("mish", ["p = Softplus(x)", "t = Tanh(p)", "y = Mul(x, t)"], {}),
    ("mish", ["e = Exp(x)", "a = Add(e, o)", "l = Log(a)", "t = Tanh(l)", "y = Mul(x, t)"], {"o": 1.0}),
    ("relu", ["y = Max(x, z)"], {"z": 0.0}),
    ("relu", ["y = Max(z, x)"], {"z": [[0.0, 0.0, 0.0]]}),
    ("relu", ["y = Clip(x, z)"], {"z": 0.0}),
    ("relu", ["g = Greater(x, z)", "y = Where(g, x, z)"], {"z": 0.0}),
    ("relu", ["g = Greater(x, z)", "f = Cast(g) to=1", "y = Mul(x, f)"], {"z": 0.0}),
    ("relu", ["a = Abs(x)", "s = Add(x, a)", "y = Mul(s, h)"], {"h": 0.5}),
    ("leaky_relu(0.1)", ["g = Greater(x, z)", "m = Mul(x, a)", "y = Where(g, x, m)"], {"z": 0.0, "a": 0.1}),
    ("leaky_relu(0.1)", ["g = Less(x, z)", "m = Mul(x, a)", "y = Where(g, m, x)"], {"z": 0.0, "a": 0.1}),
    ("leaky_relu(0.1)", ["m = Mul(x, a)", "y = Max(x, m)"], {"a": 0.1}),
    ("leaky_relu(0.1)", ["r = Relu(x)", "n = Neg(x)", "s = Relu(n)", "m = Mul(s, a)", "y = Sub(r, m)"], {"a": 0.1}),
    ("leaky_relu(0.00001)", ["m = Mul(x, a)", "y = Max(x, m)"], {"a": 1e-5}),
    ("relu6", ["r = Relu(x)", "y = Min(r, six)"], {"six": 6.0}),
    ("relu6", ["r = Relu(x)", "y = Clip(r, z, six)"], {"z": 0.0, "six": 6.0}),
    ("relu6", ["m = Min(six, x)", "y = Max(m, z)"], {"z": 0.0, "six": 6.0}),
    ("clip(0, 20)", ["m = Min(x, b)", "y = Relu(m)"], {"b": 20.0}),
    ("elu(0.7)", ["g = Greater(x, z)", "e = Exp(x)", "s = Sub(e, o)", "m = Mul(s, a)", "y = Where(g, x, m)"],
     {"z": 0.0, "o": 1.0, "a": 0.7}),
    ("elu", ["r = Relu(x)", "n = Min(x, z)", "e = Exp(n)", "s = Sub(e, o)", "y = Add(r, s)"], {"z": 0.0, "o": 1.0}),
    ("selu", ["e = Exp(x)", "s = Sub(e, o)", "m = Mul(s, la)", "n = Min(m, z)", "p = Max(x, z)", "q = Mul(p, l)",
              "y = Add(q, n)"], SELU),
    ("celu(0.5)", ["d = Div(x, a)", "e = Exp(d)", "s = Sub(e, o)", "m = Mul(s, a)", "n = Min(m, z)", "p = Max(x, z)",
                   "y = Add(p, n)"], {"a": 0.5, "o": 1.0, "z": 0.0}),
    ("softplus", ["e = Exp(x)", "a = Add(e, o)", "y = Log(a)"], {"o": 1.0}),
    ("softplus(2)", ["m = Mul(x, b)", "p = Softplus(m)", "y = Div(p, b)"], {"b": 2.0}),
    ("log_sigmoid", ["s = Sigmoid(x)", "y = Log(s)"], {}),
    ("softsign", ["a = Abs(x)", "d = Add(o, a)", "y = Div(x, d)"], {"o": 1.0}),
    ("hardsigmoid(0.2, 0.5)", ["m = Mul(x, a)", "b = Add(m, h)", "y = Clip(b, z, o)"],
     {"a": 0.2, "h": 0.5, "z": 0.0, "o": 1.0}),
    ("hsigmoid", ["a = Add(x, t)", "c = Clip(a, z, s)", "y = Div(c, s)"], {"t": 3, "z": 0, "s": 6}),
    ("squared_relu", ["r = Relu(x)", "y = Mul(r, r)"], {}),
    ("square", ["y = Pow(x, two)"], {"two": 2.0}),
    ("sigmoid", ["h = Mul(x, f)", "t = Tanh(h)", "u = Mul(t, f)", "y = Add(u, f)"], {"f": 0.5}),
    ("squared_relu", ["r = Relu(x)", "y = Pow(r, two)"], {"two": 2.0}),
    ("tanhshrink", ["t = Tanh(x)", "y = Sub(x, t)"], {}),
    ("thresholded_relu(0.8)", ["g = Greater(x, t)", "y = Where(g, x, z)"], {"t": 0.8, "z": 0.0}),
    ("gelu", ["y = Gelu(x) domain='com.microsoft'"], {}),
    ("gelu_tanh", ["y = FastGelu(x) domain='com.microsoft'"], {}),
    ("quick_gelu(1.5)", ["y = QuickGelu(x) domain='com.microsoft', alpha=1.5"], {}),
    ("relu", ["i = Identity(x)", "y = Relu(i)"], {}),
]  # fmt: skip
IDS = [f"{place}-{name}" for place, (name, _, _) in enumerate(SPELLINGS)]


@pytest.mark.parametrize(("name", "lines", "constants"), SPELLINGS, ids=IDS)
@pytest.mark.parametrize("as_nodes", [False, True], ids=["initializers", "constants"])
def test_spellings_are_one_activation(
    name: str, lines: list[str], constants: dict[str, object], as_nodes: bool
) -> None:
    proto = spelled(lines, constants, as_nodes=as_nodes)
    model = ir.from_proto(proto)
    found = recognise(model.graph.inputs[0])
    assert found is not None and found.same_as(named(name), tolerance=1e-5), found
    assert found.output is model.graph.outputs[0]
    with np.errstate(all="ignore"):
        assert_near(run(model, POINTS)[0][np.abs(POINTS) < 50], found(POINTS)[np.abs(POINTS) < 50], 1e-4, name)


HALF_PRECISION = [case for case in SPELLINGS if "0.00001" not in case[0] and "domain" not in str(case[1])]


@pytest.mark.parametrize(("name", "lines", "constants"), HALF_PRECISION)
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.BFLOAT16], ids=["float16", "bfloat16"])
def test_constants_rounded_to_half_precision_are_seen_through(
    name: str, lines: list[str], constants: dict[str, object], dtype: int
) -> None:
    lines = [line.replace("to=1", f"to={dtype}") for line in lines]
    model = ir.from_proto(spelled(lines, constants, dtype=dtype))
    found = recognise(model.graph.inputs[0])
    assert found is not None and found.same_as(named(name), tolerance=2e-2), found


@pytest.mark.parametrize("place", range(len(SPELLINGS)), ids=IDS)
def test_parametric_form_of_a_spelled_activation_keeps_its_bits(place: int) -> None:
    name, lines, constants = SPELLINGS[place]
    model = ir.from_proto(spelled(lines, constants, opset=17))
    x, graph = model.graph.inputs[0], model.graph
    found = recognise(x)
    assert found is not None
    for a in (0.0, 1.0):
        value = emit_parametric(
            Builder(model, graph), found, x, a=a, per_channel=True, channels=3, channel_axis=1, rank=2
        )
        add_output(model, value)
    points = POINTS if "Exp" not in str(lines) else POINTS[np.all(np.abs(POINTS) < 80, axis=1)]
    y, at_0, at_1 = run(model, points)
    np.testing.assert_array_equal(at_1, points)
    if len(found.nodes) > 1:
        np.testing.assert_array_equal(at_0, y)
    else:
        assert_near(at_0, y.astype(float), 2e-6, name)


UNARY = ["Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Exp", "Softplus", "Identity", "Erf", "HardSigmoid", "Elu"]
BINARY = ["Add", "Sub", "Mul", "Div", "Max", "Min"]
NUMBERS = [0.0, 1.0, -1.0, 0.5, 2.0, 3.0, 6.0, 1 / 6, 0.1, 1e-5, 1.702, SQRT2, 0.7978845608, 100.0]
DENSE = (
    np.concatenate([np.linspace(-12, 12, 4801), [-100.5, -77.0, 77.0, 100.5, 6.0, -6.0]])
    .astype(np.float32)
    .reshape(-1, 1)
)


@st.composite
def programs(draw: st.DrawFn) -> tuple[list[str], dict[str, object]]:
    """A few elementwise nodes on x, earlier results and numbers."""
    lines: list[str] = []
    constants: dict[str, object] = {}
    values = ["x"]
    count = draw(st.integers(1, 6))
    for place in range(count):
        name = "y" if place == count - 1 else f"v{place}"
        if draw(st.booleans()):
            lines.append(f"{name} = {draw(st.sampled_from(UNARY))}({values[-1]})")
        else:
            constant = f"c{place}"
            constants[constant] = draw(st.sampled_from(NUMBERS))
            other = draw(st.sampled_from([*values, constant, constant]))
            pair = draw(st.permutations([values[-1], other]))
            lines.append(f"{name} = {draw(st.sampled_from(BINARY))}({', '.join(pair)})")
        values.append(name)
    used = {part.strip() for line in lines for part in line.partition("(")[2].rstrip(")").split(",")}
    return lines, {name: value for name, value in constants.items() if name in used}


@settings(max_examples=80, deadline=None)
@given(programs())
def test_what_is_recognised_in_any_elementwise_program_is_what_runs(
    program: tuple[list[str], dict[str, object]],
) -> None:
    lines, constants = program
    model = ir.from_proto(spelled(lines, constants, shape=["N", 1]))
    found = recognise(model.graph.inputs[0])
    if found is None or found.output is None:
        return
    if not found.output.is_graph_output():
        add_output(model, found.output)
    outputs = [value.name for value in model.graph.outputs]
    y = run(model, DENSE)[outputs.index(found.output.name)].astype(np.float64)
    exact = found(DENSE)
    # Rounding in float32 grows with what the program subtracts and divides; a wrong kind is off by far more.
    finite = np.isfinite(y)
    assert finite[np.abs(DENSE) < 50].all()
    size = np.maximum(np.abs(exact), max(1e-30, float(np.max(np.abs(exact[np.abs(DENSE) < 8])))))
    assert (np.abs(y - exact)[finite] <= 2e-4 * size[finite]).all(), (lines, constants, found)


CHANNEL = np.array([0.1, 0.0, -0.4], dtype=np.float32)


@pytest.mark.parametrize(
    "lines",
    [
        ["y = PRelu(x, a)"],
        ["z2 = Sub(x, x1)", "m = Mul(z2, a)", "hh = Mul(m, h)", "r = Relu(x)", "y = Add(r, hh)"],
        ["n = Neg(x)", "s = Relu(n)", "m = Mul(s, a)", "r = Relu(x)", "y = Sub(r, m)"],
        ["m = Min(x, z)", "q = Mul(m, a)", "r = Relu(x)", "y = Add(q, r)"],
    ],
)
def test_slopes_per_channel_are_found_with_their_axis(lines: list[str]) -> None:
    if "x1" in str(lines):
        lines = ["x1 = Abs(x)", *lines]
    constants = {"a": CHANNEL.reshape(3, 1, 1), "h": 0.5, "z": 0.0}
    model = ir.from_proto(spelled(lines, constants, shape=["N", 3, "H", "W"]))
    found = recognise(model.graph.inputs[0])
    assert found is not None and found.name == "PRelu" and found.channel_axis == -3 and found.channels == 3
    slope = found.parameters["slope"]
    assert isinstance(slope, np.ndarray)
    np.testing.assert_allclose(slope.reshape(-1), CHANNEL, rtol=1e-6)
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    assert_near(run(model, x)[0], found(x), 1e-6, "PRelu")
    odd = found.odd_slope
    assert isinstance(odd, np.ndarray)
    np.testing.assert_allclose(found(x) - found(-x), odd * x, atol=1e-12)
    taken = found.take([2, 2, 0]).parameters["slope"]
    assert isinstance(taken, np.ndarray) and taken.shape == (3, 1, 1)
    np.testing.assert_allclose(taken.reshape(-1), CHANNEL[[2, 2, 0]])


@pytest.mark.parametrize("opset", [7, 9, 10])
def test_clip_bounds_written_as_attributes(opset: int) -> None:
    for bounds, name in (
        ("min=0.0, max=6.0", "relu6"),
        ("min=0.0", "relu"),
        ("min=0.0, max=3.4028234663852886e38", "relu"),
    ):
        model = ir.from_proto(spelled([f"y = Clip(x) {bounds}"], {}, opset=opset))
        found = recognise(model.graph.inputs[0])
        assert found is not None and found.same_as(named(name))


def test_newer_operators_are_read() -> None:
    for line, opset, name in (
        ("y = Gelu(x)", 20, "gelu"),
        ("y = Gelu(x) approximate='tanh'", 20, "gelu_tanh"),
        ("y = Swish(x)", 24, "silu"),
        ("y = Swish(x) alpha=1.5", 24, "quick_gelu(1.5)"),
        ("y = Mish(x)", 18, "mish"),
        ("y = HardSwish(x)", 14, "hardswish"),
    ):
        found = recognise(ir.from_proto(spelled([line], {}, opset=opset)).graph.inputs[0])
        assert found is not None and found.same_as(named(name))


NOT_ACTIVATIONS: list[tuple[str, list[str], dict[str, object], dict[str, object]]] = [
    ("residual", ["r = Relu(x)", "y = Add(x, r)"], {}, {"inner": "relu"}),
    ("inner value used outside", ["s = Sigmoid(x)", "m = Mul(x, s)", "t = Exp(s)", "y = Add(m, t)"], {},
     {"inner": "sigmoid"}),
    ("scale and shift", ["m = Mul(x, g)", "a = Add(m, b)", "y = Relu(a)"],
     {"g": [0.5, 2.0, 1.5], "b": [0.1, 0.2, -1.0]}, {}),
    ("scaled tanh", ["t = Tanh(x)", "y = Mul(t, k)"], {"k": 1e-5}, {"inner": "tanh"}),
    ("gate of two", ["t = Tanh(x)", "s = Sigmoid(x)", "y = Mul(t, s)"], {}, {}),
    ("unknown operator", ["t = Softmax(x)", "y = Mul(x, t)"], {}, {}),
    ("bias inside", ["y = FastGelu(x, b) domain='com.microsoft'"], {"b": [0.1, 0.2, 0.3]}, {}),
    ("not elementwise", ["t = Softmax(x)", "y = Relu(t)"], {}, {}),
    ("almost gelu", ["d = Mul(x, r)", "e = Erf(d)", "a = Add(o, e)", "m = Mul(x, h)", "y = Mul(m, a)"],
     {"r": 0.72, "o": 1.0, "h": 0.5}, {}),
    ("almost hardswish", ["a = Add(x, t)", "c = Clip(a, z, s)", "m = Mul(x, c)", "y = Div(m, s)"],
     {"t": 2.9, "z": 0, "s": 6}, {}),
    ("a line", ["y = Mul(x, k)"], {"k": 0.3}, {}),
    ("greater or equal", ["g = GreaterOrEqual(x, t)", "y = Where(g, x, z)"], {"t": 0.8, "z": 0.0}, {}),
    ("slopes in two axes", ["y = PRelu(x, a)"], {"a": np.arange(6).reshape(2, 3)}, {"shape": [2, 3]}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "constants", "more"), [case[1:] for case in NOT_ACTIVATIONS], ids=[c[0] for c in NOT_ACTIVATIONS]
)
def test_what_is_no_activation_is_not_taken_for_one(
    lines: list[str], constants: dict[str, object], more: dict[str, object]
) -> None:
    shape = more.get("shape", ["N", 3])
    assert isinstance(shape, list)
    model = ir.from_proto(spelled(lines, constants, shape=shape))
    found = recognise(model.graph.inputs[0])
    inner = more.get("inner")
    if inner is None:
        assert found is None, found
    else:
        assert found is not None and found.same_as(named(str(inner))) and len(found.nodes) == 1


def test_a_value_at_zero_is_never_rounded_away() -> None:
    for op in ("Relu", "Tanh", "HardSwish"):
        model = ir.from_proto(spelled([f"r = {op}(x)", "y = Add(r, k)"], {"k": 1e-5}))
        found = recognise(model.graph.inputs[0])
        assert found is not None
        exact = 1e-5 if len(found.nodes) == 2 else 0.0
        assert found.at_zero == pytest.approx(exact, rel=1e-6)


def test_an_inner_value_that_is_an_output_of_the_graph_ends_the_region() -> None:
    lines = ["s = Sigmoid(x)", "y = Mul(x, s)"]
    found = recognise(ir.from_proto(spelled(lines, {}, extra_outputs=["s"])).graph.inputs[0])
    assert found is not None and found.name == "Sigmoid"
    found = recognise(ir.from_proto(spelled(lines, {})).graph.inputs[0])
    assert found is not None and found.name == "Silu"


def test_an_inner_value_captured_by_a_body_ends_the_region() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3] x, bool c) => (float[N, 3] y, float[N, 3] w) {
        s = Sigmoid(x)
        y = Mul(x, s)
        w = If (c) <then_branch = t () => (float[N, 3] t1) { t1 = Neg(s) },
                    else_branch = e () => (float[N, 3] e1) { e1 = Neg(x) }>
    }"""
    found = recognise(ir.from_proto(onnx.parser.parse_model(text)).graph.inputs[0])
    assert found is not None and found.name == "Sigmoid"


def test_an_activation_inside_a_body_belongs_to_values_of_that_body() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3] x, bool c) => (float[N, 3] y) {
        y = If (c) <then_branch = t () => (float[N, 3] t1) { t0 = Neg(x) t2 = Sigmoid(t0) t1 = Mul(t0, t2) },
                    else_branch = e () => (float[N, 3] e1) { e1 = Relu(x) }>
    }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    assert recognise(model.graph.inputs[0]) is None
    body = model.graph[0].attributes["then_branch"].as_graph()
    found = recognise(body[0].outputs[0])
    assert found is not None and found.name == "Silu"


def test_an_overridable_constant_is_no_constant() -> None:
    proto = spelled(["y = PRelu(x, a)"], {"a": [0.25]})
    proto.graph.input.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [1]))
    value = ir.from_proto(proto).graph.inputs[0]
    assert recognise(value) is None
    found = recognise(value, ir_version=3)
    assert found is not None and found.parameters == {"slope": 0.25}


def test_an_attribute_of_the_enclosing_function_is_not_known() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[N, 3] x) => (float[N, 3] y) { y = local.f <alpha = 0.3> (x) }
    <domain: "local", opset_import: ["": 17]>
    f <alpha> (a) => (b) { b = LeakyRelu <alpha: float = @alpha> (a) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    (function,) = model.functions.values()
    assert recognise(function.inputs[0]) is None


def test_a_constant_that_would_enlarge_the_value_is_no_parameter() -> None:
    lines, constants = ["m = Mul(x, a)", "y = Max(x, m)"], {"a": np.full((3, 1, 1), 0.1)}
    assert recognise(ir.from_proto(spelled(lines, constants, shape=["N", 3, 4, 4])).graph.inputs[0]) is not None
    assert recognise(ir.from_proto(spelled(lines, constants, shape=["N", 1, 4, 4])).graph.inputs[0]) is None
    assert recognise(ir.from_proto(spelled(lines, constants, shape=["N", "C", 4, 4])).graph.inputs[0]) is None


def test_the_value_may_have_other_consumers_but_not_two_activations() -> None:
    found = recognise(ir.from_proto(spelled(["y = Relu(x)", "w = Neg(x)"], {}, extra_outputs=["w"])).graph.inputs[0])
    assert found is not None and found.name == "Relu"
    assert (
        recognise(ir.from_proto(spelled(["y = Relu(x)", "w = Tanh(x)"], {}, extra_outputs=["w"])).graph.inputs[0])
        is None
    )


def test_a_dropout_or_identity_behind_is_left_out() -> None:
    found = recognise(ir.from_proto(spelled(["r = Relu(x)", "i = Identity(r)", "y = Dropout(i)"], {})).graph.inputs[0])
    assert found is not None and found.name == "Relu" and [node.op_type for node in found.nodes] == ["Relu"]


def test_a_mixed_precision_activation_is_seen_through_its_casts() -> None:
    lines = ["f = Cast(x) to=1", "s = Sigmoid(f)", "b = Cast(s) to=10", "y = Mul(x, b)"]
    model = ir.from_proto(onnx.shape_inference.infer_shapes(spelled(lines, {}, dtype=TensorProto.FLOAT16)))
    found = recognise(model.graph.inputs[0])
    assert found is not None and found.name == "Silu"


# -------------------------------------------------------------------------------------------------------- properties

SIGNED = np.concatenate([np.linspace(-9, 9, 721), [-1e4, -123.4, 77.7, 1e4]])


@pytest.mark.parametrize("name", [*EXAMPLES, "clip(max=0)", "leaky_relu(-1)", "identity", "prelu(-0.2)"])
def test_odd_slope_and_idempotence_hold_where_stated_and_fail_where_not(name: str) -> None:
    phi = named(name)
    odd = phi(SIGNED) - phi(-SIGNED)
    if phi.odd_slope is not None:
        np.testing.assert_allclose(odd, phi.odd_slope * SIGNED, rtol=1e-12, atol=1e-12)
    else:
        nonzero = SIGNED != 0
        ratio = odd[nonzero] / SIGNED[nonzero]
        assert np.ptp(ratio) > 1e-3 or np.allclose(ratio, 0.0)
    twice = phi(phi(SIGNED))
    assert np.allclose(twice, phi(SIGNED), rtol=1e-12, atol=1e-12) == phi.idempotent
    assert phi.at_zero == float(phi(np.zeros(1))[0])
    tail = phi(np.array([-1e6, -1e5, 1e5, 1e6]))
    assert phi.saturates == (name != "sin" and bool(np.allclose(tail[::3], tail[1:3], atol=1e-3)))


@settings(max_examples=50, deadline=None)
@given(st.floats(-4, 4, allow_subnormal=False), st.floats(-1e3, 1e3))
def test_odd_slope_of_any_leaky_slope(slope: float, x: float) -> None:
    phi = named("leaky_relu", alpha=slope)
    point = np.array([x])
    if phi.odd_slope is not None:
        assert phi(point)[0] - phi(-point)[0] == pytest.approx(phi.odd_slope * x, rel=1e-9, abs=1e-9)
    else:
        assert slope == -1.0


@pytest.mark.parametrize("name", EXAMPLES)
def test_overflow_is_stated_for_every_activation_that_can(name: str) -> None:
    phi = named(name)
    largest = float(np.finfo(np.float32).max)
    points = np.array([largest, -largest, largest / 2, 1e20, -1e20])
    model = empty_model(22)
    add_output(model, emit(Builder(model, model.graph), phi, model.graph.inputs[0]))
    finite = bool(np.isfinite(run(model, np.resize(points, (2, 3)).astype(np.float32))[0]).all())
    assert finite or phi.overflows(largest)


# ------------------------------------------------------------------------------------------------------------- names


def test_names_as_people_type_them() -> None:
    for typed, expected in (
        ("ReLU", "Relu"), ("leaky_relu", "LeakyRelu(0.01)"), ("Leaky ReLU(0.2)", "LeakyRelu(0.2)"), ("SiLU", "Silu"),
        ("swish", "Silu"), ("GELU", "Gelu"), ("gelu-tanh", "GeluTanh"), ("relu6", "Clip(0, 6)"), ("none", "Identity"),
        ("hard_swish", "HardSwish"), ("h_swish", "HardSwish"), ("clip(min=-1, max=1)", "Clip(-1, 1)"),
        ("clip(0)", "Relu"), ("quickgelu(1)", "Silu"),
    ):  # fmt: skip
        assert named(typed).same_as(named(expected)), typed
    for alias in ALIASES:
        assert named(alias).name in KINDS


@pytest.mark.parametrize("name", [*EXAMPLES, "hsigmoid", "clip(max=-0.1)"])
def test_the_text_of_an_activation_names_it(name: str) -> None:
    phi = named(name)
    assert named(phi.text).same_as(phi, tolerance=0.0) and named(phi.text).text == phi.text


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("swich", "did you mean swish"),
        ("rellu", "did you mean Relu"),
        ("qwertz", "known are"),
        ("relu(3)", "takes no parameters"),
        ("elu(beta=3)", "takes alpha, not 'beta'"),
        ("elu(x)", "not a number"),
        ("clip", "needs bounds"),
    ],
)
def test_names_that_do_not_exist_say_what_does(typed: str, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        named(typed)


@pytest.mark.parametrize("typed", ["clip(3, 1)", "celu(0)", "softplus(0)", "elu(nan)", "elu(inf)"])
def test_parameters_without_meaning_are_refused(typed: str) -> None:
    with pytest.raises(Refusal):
        named(typed)


# ------------------------------------------------------------------------------------------------------- real models

ZOO = Path(__file__).resolve().parents[2] / ".." / "shared" / "zoo" / "models"


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("mobilenet_v3_small.legacy", {"HardSwish": 19, "Relu": 14, "HardSigmoid": 9}),
        ("convnext_slim.legacy", {"Gelu": 6}),
        ("convnext_slim.dynamo", {"Gelu": 6}),
        ("squeezenet1_1.dynamo", {"Relu": 26}),
        ("light_squeezenet.rand", {"Relu": 26}),
        ("gpt2_tiny.legacy", {"GeluTanh": 3}),
        ("vit_tiny.dynamo.constw", {"Gelu": 4}),
        ("keras_cnn", {"Relu": 1, "Gelu": 1, "Silu": 1, "Tanh": 1}),
        ("resnet20_cifar.legacy.fp16", {"Relu": 10}),
    ],
)
def test_activations_of_the_zoo(stem: str, expected: dict[str, int]) -> None:
    path = ZOO / f"{stem}.onnx"
    if not path.exists():
        pytest.skip("the zoo is not here")
    found = Counter(layer.activation.name for layer in layers(ir.load(path)) if layer.activation is not None)
    assert found == expected
