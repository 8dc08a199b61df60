"""Every spelling of a linear layer is read so that kernel and bias alone reproduce what ONNX Runtime computes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from onnxmorph.errors import Refusal
from onnxmorph.graph.layers import LinearLayer, layers
from tests.graph import reference
from tests.graph.small import Array, model, read, run

FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
rng = np.random.default_rng(0)


def node(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    return helper.make_node(op, inputs, outputs, **attributes)


def f32(*shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def only(proto: Any) -> LinearLayer:
    (layer,) = layers(read(proto))
    return layer


def agree(proto: Any, feeds: dict[str, Array], tolerance: float = 2e-5) -> LinearLayer:
    """The one layer of a model, after its output in ONNX Runtime was reproduced from kernel and bias."""
    layer = only(proto)
    assert layer.blocked is None
    (expected,) = run(proto, feeds, [layer.output.name or ""])
    got = reference.apply(layer, feeds["x"])
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected.astype(np.float64), atol=tolerance * max(1.0, np.abs(expected).max()))
    weight = layer.weight.array()
    back = layer.weight_from_kernel(layer.kernel_array())
    np.testing.assert_allclose(back.astype(np.float64), weight.astype(np.float64), rtol=1e-6, atol=1e-6)
    assert back.shape == weight.shape
    return layer


@st.composite
def convolutions(draw: st.DrawFn, transposed: bool) -> dict[str, Any]:
    axes = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    numbers = lambda low, high: [draw(st.integers(low, high)) for _ in range(axes)]  # noqa: E731
    kernel, strides, dilations = numbers(1, 3), numbers(1, 3), numbers(1, 2)
    auto_pad = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    attributes: dict[str, Any] = {"group": groups, "strides": strides}
    if auto_pad.startswith("SAME") and not transposed:
        dilations = [1] * axes  # ONNX Runtime has no SAME with dilations
    attributes["dilations"] = dilations
    if auto_pad != "NOTSET":
        attributes["auto_pad"] = auto_pad
    elif draw(st.booleans()):
        # ONNX Runtime wants pads smaller than the reach of the kernel.
        reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
        attributes["pads"] = [draw(st.integers(0, most)) for most in reach * 2]
    if draw(st.booleans()):
        attributes["kernel_shape"] = kernel
    sizes = [draw(st.integers((k - 1) * d + 1, (k - 1) * d + 5)) for k, d in zip(kernel, dilations, strict=True)]
    if transposed and draw(st.booleans()):
        attributes["output_padding"] = [draw(st.integers(0, stride - 1)) for stride in strides]
    per_in, per_out = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return {
        "attributes": attributes,
        "kernel": kernel,
        "sizes": sizes,
        "in": per_in * groups,
        "out": per_out * groups,
        "groups": groups,
        "bias": draw(st.booleans()),
        "dynamic": draw(st.booleans()),
    }


def convolution(op: str, case: dict[str, Any]) -> tuple[Any, dict[str, Array]]:
    if op == "Conv":
        weight = f32(case["out"], case["in"] // case["groups"], *case["kernel"])
    else:
        weight = f32(case["in"], case["out"] // case["groups"], *case["kernel"])
    stored = {"c.weight": weight}
    inputs = ["x", "c.weight"]
    if case["bias"]:
        stored["c.bias"] = f32(case["out"])
        inputs.append("c.bias")
    shape = [None if case["dynamic"] else 2, case["in"], *[None if case["dynamic"] else size for size in case["sizes"]]]
    proto = model([node(op, inputs, ["y"], **case["attributes"])], {"x": (np.float32, shape)}, ["y"], stored)
    return proto, {"x": f32(2, case["in"], *case["sizes"])}


@FEW
@given(convolutions(False))
def test_conv_of_any_form(case: dict[str, Any]) -> None:
    proto, feeds = convolution("Conv", case)
    layer = only(proto)
    assert layer.pads is not None
    if layer.pads.explicit is None:
        # Only a SAME with a stride and an unknown size may stay open.
        assert case["dynamic"] and layer.pads.auto_pad.startswith("SAME") and max(layer.strides) > 1
        case["dynamic"] = False
        proto, _ = convolution("Conv", case)
    layer = agree(proto, feeds)
    assert (layer.in_channels, layer.out_channels, layer.groups) == (case["in"], case["out"], case["groups"])
    assert layer.kernel == tuple(case["kernel"])
    assert layer.kernel_array().shape == (case["out"], case["in"] // case["groups"], *case["kernel"])


@FEW
@given(convolutions(True))
def test_conv_transpose_of_any_form(case: dict[str, Any]) -> None:
    proto, feeds = convolution("ConvTranspose", case)
    layer = agree(proto, feeds)
    assert layer.label == "c"
    assert layer.kernel_array().shape == (case["out"], case["in"] // case["groups"], *case["kernel"])


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("wanted", [[9, 8], [10, 11], [8, 9]])
def test_conv_transpose_with_an_output_shape(auto_pad: str, wanted: list[int]) -> None:
    attributes: dict[str, Any] = {"output_shape": wanted, "strides": [2, 2], "auto_pad": auto_pad}
    proto = model(
        [node("ConvTranspose", ["x", "w"], ["y"], **attributes)],
        {"x": (np.float32, [1, 2, 4, 4])},
        ["y"],
        {"w": f32(2, 3, 4, 4)},
    )
    layer = agree(proto, {"x": f32(1, 2, 4, 4)})
    assert layer.pads is not None and layer.pads.sized and layer.pads.output_shape == tuple(wanted)


def test_same_padding_with_a_stride_stays_open_while_the_size_is() -> None:
    def conv(size: int | None, kernel: int) -> LinearLayer:
        return only(
            model(
                [node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER", strides=[2])],
                {"x": (np.float32, [1, 1, size])},
                ["y"],
                {"w": f32(1, 1, kernel)},
            )
        )

    dynamic, static, pointwise = conv(None, 3).pads, conv(5, 3).pads, conv(None, 1).pads
    assert dynamic is not None and dynamic.explicit is None and dynamic.auto_pad == "SAME_UPPER" and dynamic.sized
    assert static is not None and static.explicit == ((1,), (1,)) and static.sized
    assert pointwise is not None and pointwise.explicit == ((0,), (0,)) and not pointwise.sized and pointwise.zero


@FEW
@given(
    trans_a=st.booleans(),
    trans_b=st.booleans(),
    alpha=st.sampled_from([None, 1.0, 0.5, -2.0, 3.0]),
    beta=st.sampled_from([None, 1.0, 0.25, -1.0, 0.0]),
    bias=st.sampled_from([None, "()", "(1,)", "(n,)", "(1,n)", "(1,1)"]),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
)
def test_gemm_of_any_form(
    trans_a: bool, trans_b: bool, alpha: float | None, beta: float | None, bias: str | None, sizes: tuple[int, int, int]
) -> None:
    m, k, n = sizes
    attributes: dict[str, Any] = {}
    if trans_a:
        attributes["transA"] = 1
    if trans_b:
        attributes["transB"] = 1
    if alpha is not None:
        attributes["alpha"] = alpha
    if beta is not None:
        attributes["beta"] = beta
    stored = {"w": f32(n, k) if trans_b else f32(k, n)}
    inputs = ["x", "w"]
    if bias is not None:
        stored["b"] = f32(*eval(bias, {"n": n}))
        inputs.append("b")
    shape = (k, m) if trans_a else (m, k)
    proto = model([node("Gemm", inputs, ["y"], **attributes)], {"x": (np.float32, shape)}, ["y"], stored)
    layer = agree(proto, {"x": f32(*shape)})
    assert (layer.in_channels, layer.out_channels, layer.kernel, layer.pads) == (k, n, (), None)
    assert layer.input_axis == (0 if trans_a else 1)


def test_gemm_bias_that_varies_along_the_rows_is_refused() -> None:
    for shape in [(3, 1), (3, 5)]:
        proto = model(
            [node("Gemm", ["x", "w", "b"], ["y"])],
            {"x": (np.float32, (3, 4))},
            ["y"],
            {"w": f32(4, 5), "b": f32(*shape)},
        )
        layer = only(proto)
        assert layer.blocked is not None and layer.blocked.code == "bias-not-per-channel"
        with pytest.raises(Refusal, match="one number per output channel"):
            layer.kernel_array()


@pytest.mark.parametrize("op", ["Add", "Sub"])
@pytest.mark.parametrize("shape", [(5,), (1, 5), (1, 1, 5)])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("x", [(2, 4), (2, 3, 4), (2, 3, 2, 4)])
def test_matmul_with_its_bias(op: str, shape: tuple[int, ...], first: bool, x: tuple[int, ...]) -> None:
    operands = ["m", "b"] if first else ["b", "m"]
    proto = model(
        [node("MatMul", ["x", "w"], ["m"]), node(op, operands, ["y"])],
        {"x": (np.float32, [None, *x[1:]])},
        ["y"],
        {"w": f32(4, 5), "b": f32(*shape)},
    )
    layer = only(proto)
    absorbed = len(shape) <= len(x) and (op == "Add" or first)
    assert (layer.bias is not None) == absorbed
    assert [each.op_type for each in layer.nodes] == (["MatMul", op] if absorbed else ["MatMul"])
    assert layer.output.name == ("y" if absorbed else "m")
    agree(proto, {"x": f32(*x)})


def test_an_addition_that_is_no_bias_is_left_alone() -> None:
    x = {"x": (np.float32, [2, 3, 4])}
    weights = {"w": f32(4, 4), "b": f32(4), "rows": f32(3, 1), "all": f32(3, 4), "one": f32(1), "wide": f32(7, 1, 1, 4)}
    matmul = node("MatMul", ["x", "w"], ["m"])
    for other in ("rows", "all", "one", "wide"):
        layer = agree(model([matmul, node("Add", ["m", other], ["y"])], x, ["y"], weights), {"x": f32(2, 3, 4)})
        assert layer.bias is None, other
    # Used twice, or an output of the model: taking the Add along would change what others see.
    shared = [matmul, node("Add", ["m", "b"], ["y"]), node("Relu", ["m"], ["z"])]
    assert only(model(shared, x, ["y", "z"], weights)).bias is None
    assert only(model([matmul, node("Add", ["m", "b"], ["y"])], x, ["y", "m"], weights)).bias is None
    assert only(model([matmul, node("Add", ["m", "m"], ["y"])], x, ["y"], weights)).bias is None
    # Within reach of the rank only: with x of unknown rank, a bias of two axes might add one.
    unknown = {"x": (np.float32, None)}
    assert only(model([matmul, node("Add", ["m", "b"], ["y"])], unknown, ["y"], weights)).bias is not None
    two = {**weights, "b": f32(1, 4)}
    assert only(model([matmul, node("Add", ["m", "b"], ["y"])], unknown, ["y"], two)).bias is None


def test_a_convolution_takes_the_bias_of_an_add() -> None:
    conv = node("Conv", ["x", "w"], ["m"])
    for shape in [(5, 1, 1), (1, 5, 1, 1)]:
        nodes = [conv, node("Add", ["b", "m"], ["y"])]
        proto = model(nodes, {"x": (np.float32, [1, 2, 4, 5])}, ["y"], {"w": f32(5, 2, 1, 1), "b": f32(*shape)})
        assert agree(proto, {"x": f32(1, 2, 4, 5)}).bias is not None
    for shape in [(5,), (1,), (4, 5), (1, 5)]:  # (5,) lies along the width
        proto = model(
            [conv, node("Add", ["b", "m"], ["y"])],
            {"x": (np.float32, [1, 2, 4, 5])},
            ["y"],
            {"w": f32(5, 2, 1, 1), "b": f32(*shape)},
        )
        assert agree(proto, {"x": f32(1, 2, 4, 5)}).bias is None


@pytest.mark.parametrize(
    "code, weight, x",
    [
        ("weight-on-the-left", (5, 4), (4,)),
        ("batched-weight", (2, 4, 5), (2, 3, 4)),
        ("vector-weight", (4,), (3, 4)),
    ],
)
def test_matmul_weights_that_are_no_plain_layer_are_named(
    code: str, weight: tuple[int, ...], x: tuple[int, ...]
) -> None:
    inputs = ["w", "x"] if code == "weight-on-the-left" else ["x", "w"]
    proto = model([node("MatMul", inputs, ["y"])], {"x": (np.float32, x)}, ["y"], {"w": f32(*weight)})
    layer = only(proto)
    assert layer.blocked is not None and layer.blocked.code == code and "'y'" in str(layer.blocked)
    run(proto, {"x": f32(*x)})


@pytest.mark.parametrize("x", [(4, 3), (2, 4, 3)])
@pytest.mark.parametrize("bias", [None, (5, 1), (1, 5, 1)])
def test_a_matmul_with_its_weight_on_the_left(x: tuple[int, ...], bias: tuple[int, ...] | None) -> None:
    nodes = [node("MatMul", ["w", "x"], ["m"]), node("Add", ["m", "b"], ["y"]) if bias else node("Relu", ["m"], ["y"])]
    stored = {"w": f32(5, 4), **({"b": f32(*bias)} if bias else {})}
    layer = agree(model(nodes, {"x": (np.float32, x)}, ["y"], stored), {"x": f32(*x)})
    assert layer.form.out_first and (layer.input_axis, layer.output_axis) == (-2, -2)
    assert (layer.bias is not None) == (bias is not None and len(bias) <= len(x))


def test_a_gemm_with_its_weight_on_the_left_is_named() -> None:
    proto = model([node("Gemm", ["w", "x"], ["y"], transB=1)], {"x": (np.float32, (3, 4))}, ["y"], {"w": f32(5, 4)})
    blocked = only(proto).blocked
    assert blocked is not None and blocked.code == "weight-on-the-left"


def test_attributes_of_another_type_are_named() -> None:
    x = {"x": (np.float32, [1, 2, 5])}
    for attributes in [{"group": "two"}, {"strides": 1}, {"pads": [0.5, 0.5]}, {"auto_pad": 3}]:
        blocked = only(model([node("Conv", ["x", "w"], ["y"], **attributes)], x, ["y"], {"w": f32(3, 2, 3)})).blocked
        assert blocked is not None and blocked.code == "malformed" and "its attribute" in str(blocked)


def test_two_activations_or_two_constants_make_no_layer() -> None:
    proto = model(
        [node("MatMul", ["x", "x"], ["y"]), node("MatMul", ["w", "w"], ["z"])],
        {"x": (np.float32, [4, 4])},
        ["y", "z"],
        {"w": f32(4, 4)},
    )
    assert layers(read(proto)) == []


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_float_types_are_read_and_kept(dtype: Any) -> None:
    weight = f32(3, 2, 3).astype(dtype)
    proto = model(
        [node("Conv", ["x", "w"], ["y"])],
        {"x": (helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [1, 2, 5])},
        ["y"],
        {"w": weight},
        opset=22,
    )
    layer = only(proto)
    assert layer.blocked is None and layer.dtype.numpy() == weight.dtype
    assert layer.kernel_array().dtype == weight.dtype
    np.testing.assert_array_equal(layer.kernel_array(), weight)


def test_other_types_are_refused_by_name() -> None:
    proto = model(
        [node("MatMul", ["x", "w"], ["y"])], {"x": (np.int32, [2, 4])}, ["y"], {"w": np.ones((4, 5), np.int32)}
    )
    blocked = only(proto).blocked
    assert blocked is not None and blocked.code == "dtype-unsupported" and "INT32" in str(blocked)


def test_empty_and_not_finite_weights() -> None:
    conv = [node("Conv", ["x", "w"], ["y"], name="c")]
    x = {"x": (np.float32, [1, 2, 5])}
    blocked = only(model(conv, x, ["y"], {"w": f32(0, 2, 3)})).blocked
    assert blocked is not None and blocked.code == "empty-weight"
    for bad in (np.nan, np.inf):
        weight = f32(3, 2, 3)
        weight[1, 1, 1] = bad
        layer = only(model(conv, x, ["y"], {"w": weight}))
        assert layer.blocked is None  # found when the numbers are looked at, not before
        with pytest.raises(Refusal, match="'w' of 'c' holds NaN or infinity"):
            layer.kernel_array()


def test_a_weight_that_disagrees_with_the_graph_is_refused() -> None:
    x = {"x": (np.float32, [1, 2, 5])}
    for attributes, shape in [
        ({"group": 2}, (3, 1, 3)),
        ({"kernel_shape": [5]}, (3, 2, 3)),
        ({"strides": [1, 1]}, (3, 2, 3)),
        ({}, (3, 4, 3)),
        ({}, (3, 2, 3, 3)),
        ({}, (3, 2)),
        ({"pads": [-1, 0]}, (3, 2, 3)),
        ({"strides": [0]}, (3, 2, 3)),
        ({"auto_pad": "SAME"}, (3, 2, 3)),
    ]:
        blocked = only(model([node("Conv", ["x", "w"], ["y"], **attributes)], x, ["y"], {"w": f32(*shape)})).blocked
        assert blocked is not None and blocked.code == "malformed", (attributes, shape)


def test_a_weight_from_the_caller_is_refused_and_old_files_are_not() -> None:
    conv = [node("Conv", ["x", "w"], ["y"])]
    x = {"x": (np.float32, [1, 2, 5])}
    stored = {"w": f32(3, 2, 3)}
    given = only(model(conv, {**x, "w": (np.float32, [3, 2, 3])}, ["y"])).blocked
    assert given is not None and given.code == "weight-not-constant"
    overridable = only(model(conv, x, ["y"], stored, ir_version=4, also_inputs=["w"])).blocked
    assert overridable is not None and overridable.code == "weight-overridable"
    assert only(model(conv, x, ["y"], stored, opset=8, ir_version=3, also_inputs=["w"])).blocked is None


@pytest.mark.parametrize("opset", [7, 11, 13, 17, 21, 24])
def test_weights_behind_nodes(opset: int) -> None:
    weight, x = f32(4, 5), f32(2, 4)
    half = node("Cast", ["h"], ["w"], to=TensorProto.FLOAT)
    flat = node("Reshape", ["f", "shape"], ["w"])
    shape = np.array([4, 5], np.int64)
    filled = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.5])
    spellings: list[tuple[list[Any], dict[str, Array], str]] = [
        ([node("Constant", [], ["w"], value=helper.make_tensor("v", 1, [4, 5], weight.ravel()))], {}, "w"),
        ([node("Transpose", ["t"], ["w"], perm=[1, 0])], {"t": weight.T.copy()}, "t"),
        ([node("Identity", ["i"], ["w"])], {"i": weight}, "i"),
        ([half], {"h": weight.astype(np.float16)}, "h"),
        ([flat], {"f": weight.reshape(-1), "shape": shape}, "f"),
        ([node("Mul", ["s", "u"], ["w"])], {"u": weight, "s": f32(1, 5)}, "u"),
    ]
    if opset >= 9:
        spellings.append(([node("ConstantOfShape", ["shape"], ["w"], value=filled)], {"shape": shape}, "w"))
    if opset >= 13:
        numbers = rng.integers(-100, 100, (4, 5)).astype(np.int8)
        dequantize = node("DequantizeLinear", ["q", "scale", "zero"], ["w"], axis=1)
        scales = {"q": numbers, "scale": np.abs(f32(5)), "zero": rng.integers(-9, 9, 5).astype(np.int8)}
        spellings.append(([dequantize], scales, "q"))
    for nodes, stored, root in spellings:
        proto = model(
            [*nodes, node("MatMul", ["x", "w"], ["y"])], {"x": (np.float32, [2, 4])}, ["y"], stored, opset=opset
        )
        layer = agree(proto, {"x": x})
        assert layer.weight.root is not None and layer.weight.root.name == root
        assert layer.weight.plain is False and layer.weight.quantized == (root == "q")
        assert (layer.in_channels, layer.out_channels) == (4, 5)


def test_shared_weights_name_each_other() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Transpose", ["w"], ["t"], perm=[1, 0]),
        node("MatMul", ["a", "t"], ["b"]),
        node("MatMul", ["b", "v"], ["y"]),
    ]
    proto = model(nodes, {"x": (np.float32, [2, 4])}, ["y"], {"w": f32(4, 5), "v": f32(4, 4)})
    first, second, third = layers(read(proto))
    assert first.shared_with == ("::b",) and second.shared_with == ("::a",) and third.shared_with == ()
    assert [user.op_type for user in first.weight.sharers] == ["MatMul", "Transpose"]


def test_layers_in_bodies_capture_outer_weights_and_shadowed_names_stay_apart() -> None:
    inner = f32(3, 2, 1)
    outer = f32(4, 2, 1)

    def body(output: str, nodes: list[Any], stored: dict[str, Array]) -> Any:
        info = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        from tests.graph.small import tensor

        return helper.make_graph(nodes, "b", [], [info], [tensor(array, name) for name, array in stored.items()])

    captured = body("p", [node("Conv", ["x", "w"], ["p"], name="captures")], {})
    own = body("q", [node("Conv", ["x", "own"], ["q"], name="owns")], {"own": inner})
    nodes = [node("If", ["c"], ["y"], name="choice", then_branch=captured, else_branch=own)]
    proto = model(nodes, {"x": (np.float32, [1, 2, 5]), "c": (np.bool_, [])}, ["y"], {"w": outer})
    found = layers(read(proto))
    assert {layer.scope for layer in found} == {"choice.then_branch", "choice.else_branch"}
    assert {layer.key for layer in found} == {"choice.then_branch::p", "choice.else_branch::q"}
    by_name = {layer.name: layer for layer in found}
    np.testing.assert_array_equal(by_name["captures"].kernel_array(), outer)
    np.testing.assert_array_equal(by_name["owns"].kernel_array(), inner)
    # Both names the same: the inner one hides the outer one in its body alone.
    own = body("q", [node("Conv", ["x", "w"], ["q"], name="owns")], {"w": inner})
    proto = model(
        [node("If", ["c"], ["y"], name="choice", then_branch=captured, else_branch=own)],
        {"x": (np.float32, [1, 2, 5]), "c": (np.bool_, [])},
        ["y"],
        {"w": outer},
    )
    by_name = {layer.name: layer for layer in layers(read(proto))}
    np.testing.assert_array_equal(by_name["captures"].kernel_array(), outer)
    np.testing.assert_array_equal(by_name["owns"].kernel_array(), inner)
    assert by_name["owns"].shared_with == ()


def test_layers_in_functions() -> None:
    weight = helper.make_tensor("v", TensorProto.FLOAT, [5, 2, 1], f32(5, 2, 1).ravel())
    function = helper.make_function(
        "local",
        "Block",
        ["fx", "fw"],
        ["fy"],
        [
            node("Constant", [], ["own"], value=weight),
            node("Conv", ["fx", "own"], ["h"], name="own_weight"),
            node("MatMul", ["h", "fw"], ["fy"], name="given_weight"),
        ],
        [helper.make_opsetid("", 17)],
    )
    nodes = [helper.make_node("Block", ["x", "w"], ["y"], domain="local")]
    proto = model(
        nodes, {"x": (np.float32, [1, 2, 4])}, ["y"], {"w": f32(4, 6)}, functions=[function], domains=["local"]
    )
    own, given_one = layers(read(proto))
    assert own.blocked is None and own.scope == "local::Block" and own.shapes.shape(own.output) == (1, 5, 4)
    assert given_one.blocked is not None and given_one.blocked.code == "weight-is-function-input"
    assert "'fw'" in str(given_one.blocked)


def test_attributes_of_a_function_are_not_guessed() -> None:
    conv = node("Conv", ["fx", "own"], ["fy"])
    reference_attribute = conv.attribute.add()
    reference_attribute.name, reference_attribute.ref_attr_name, reference_attribute.type = "strides", "s", 7
    weight = helper.make_tensor("v", TensorProto.FLOAT, [5, 2, 1], f32(5, 2, 1).ravel())
    function = helper.make_function(
        "local",
        "Block",
        ["fx"],
        ["fy"],
        [node("Constant", [], ["own"], value=weight), conv],
        [helper.make_opsetid("", 17)],
        attributes=["s"],
    )
    nodes = [helper.make_node("Block", ["x"], ["y"], domain="local", s=[2])]
    proto = model(nodes, {"x": (np.float32, [1, 2, 4])}, ["y"], functions=[function], domains=["local"])
    blocked = only(proto).blocked
    assert blocked is not None and blocked.code == "function-attribute"


def test_linear_operators_that_are_not_read_are_listed_with_the_reason() -> None:
    nodes = [
        helper.make_node("FusedConv", ["x", "w"], ["a"], domain="com.microsoft", activation="Relu"),
        helper.make_node("MatMulInteger", ["q", "v"], ["b"]),
        helper.make_node("Einsum", ["x", "w"], ["c"], equation="nct,oct->not"),
        helper.make_node("FusedMatMul", ["x", "x"], ["d"], domain="com.microsoft"),
    ]
    proto = model(
        nodes,
        {"x": (np.float32, [1, 2, 3]), "q": (np.uint8, [4, 4])},
        ["a", "b", "c", "d"],
        {"w": f32(3, 2, 3), "v": np.ones((4, 5), np.uint8)},
        domains=["com.microsoft"],
    )
    found = layers(read(proto))
    assert [layer.op for layer in found[:3]] == ["FusedConv", "MatMulInteger", "Einsum"]
    assert all(layer.blocked is not None and layer.blocked.code == "unsupported-op" for layer in found)
    assert (found[0].in_channels, found[0].out_channels, found[1].in_channels, found[1].out_channels) == (2, 3, 4, 5)


def test_reading_changes_nothing() -> None:
    proto = model(
        [node("Conv", ["x", "w"], ["m"]), node("Relu", ["m"], ["y"])],
        {"x": (np.float32, [1, 2, 5])},
        ["y"],
        {"w": f32(3, 2, 3)},
    )
    graph = read(proto)
    (layer,) = layers(graph)
    kernel = layer.kernel_array()
    assert not kernel.flags.writeable
    from onnxmorph._ir import ir

    assert ir.to_proto(graph).SerializeToString() == ir.to_proto(read(proto)).SerializeToString()
