"""Every form of Conv, ConvTranspose, Gemm and MatMul: padding, stride, dilation, groups, ranks, scalings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from tests.zoo.net import Net, Register, Store

case = Register("linear")


def conv_net(
    *,
    channels: tuple[int, int, int] = (4, 6, 6),
    kernel: Sequence[int] = (3, 3),
    op: str = "Conv",
    opset: int = 17,
    store: Store = "initializer",
    group: int = 1,
    bias: bool = True,
    size: Sequence[int | str] | None = None,
    seed: int = 0,
    kernel_shape: bool = True,
    **attributes: Any,
) -> onnx.ModelProto:
    """conv1 (as asked) -> ReLU -> 1x1 conv2, on `(N, channels, *size)`."""
    net = Net(opset=opset, seed=seed, store=store)
    first, middle, last = channels
    size = [f"d{i}" for i in range(len(kernel))] if size is None else size
    x = net.input("x", ["N", first, *size])
    y = net.conv(x, middle, first, kernel, op=op, group=group, bias=bias, kernel_shape=kernel_shape, **attributes)
    y = net.relu(y)
    y = net.conv(y, last, middle, [1] * len(kernel), name="conv2")
    net.output(y, ["N", last, *[None] * len(kernel)])
    return net.model("conv_net")


FORMS: dict[str, dict[str, Any]] = {
    "valid": {},
    "padded": {"pads": [1, 1, 1, 1]},
    "asymmetric_pads": {"pads": [0, 2, 1, 0]},
    "wide_pads": {"pads": [4, 4, 4, 4]},
    "stride_2": {"pads": [1, 1, 1, 1], "strides": [2, 2]},
    "stride_uneven": {"pads": [1, 1, 1, 1], "strides": [3, 1]},
    "stride_beyond_kernel": {"strides": [4, 4]},
    "same_upper": {"auto_pad": "SAME_UPPER"},
    "same_lower": {"auto_pad": "SAME_LOWER"},
    "same_upper_even": {"auto_pad": "SAME_UPPER", "kernel": (2, 4)},
    "same_lower_even": {"auto_pad": "SAME_LOWER", "kernel": (2, 4)},
    "same_upper_stride_2": {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    "same_lower_stride_2": {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    "same_upper_stride_2_static": {"auto_pad": "SAME_UPPER", "strides": [2, 2], "size": (9, 12)},
    "same_upper_dilated": {"auto_pad": "SAME_UPPER", "dilations": [2, 2]},
    "auto_pad_valid": {"auto_pad": "VALID"},
    "auto_pad_notset": {"auto_pad": "NOTSET", "pads": [1, 1, 1, 1]},
    "dilated": {"dilations": [2, 3], "pads": [2, 3, 2, 3]},
    "dilated_strided": {"dilations": [2, 2], "pads": [2, 2, 2, 2], "strides": [2, 2]},
    "pointwise": {"kernel": (1, 1)},
    "pointwise_strided": {"kernel": (1, 1), "strides": [2, 2]},
    "even_kernel": {"kernel": (2, 2)},
    "oblong_kernel": {"kernel": (1, 5), "pads": [0, 2, 0, 2]},
    "no_bias": {"bias": False, "pads": [1, 1, 1, 1]},
    "no_kernel_shape": {"kernel_shape": False, "pads": [1, 1, 1, 1]},
    "narrowing": {"channels": (8, 3, 4), "pads": [1, 1, 1, 1]},
    "one_channel": {"channels": (1, 1, 1), "pads": [1, 1, 1, 1]},
    "grouped": {"group": 2, "pads": [1, 1, 1, 1]},
    "grouped_no_bias": {"group": 2, "bias": False},
    "depthwise": {"channels": (6, 6, 4), "group": 6, "pads": [1, 1, 1, 1]},
    "depthwise_multiplier_2": {"channels": (3, 6, 4), "group": 3, "pads": [1, 1, 1, 1]},
    "depthwise_strided": {"channels": (6, 6, 4), "group": 6, "pads": [1, 1, 1, 1], "strides": [2, 2]},
    "one_d": {"kernel": (3,), "pads": [1, 1]},
    "one_d_causal": {"kernel": (3,), "pads": [4, 0], "dilations": [2]},
    "one_d_strided": {"kernel": (5,), "pads": [2, 2], "strides": [4]},
    "one_d_same_lower": {"kernel": (4,), "auto_pad": "SAME_LOWER"},
    "three_d": {"kernel": (3, 3, 3), "pads": [1] * 6},
    "three_d_oblong": {"kernel": (1, 3, 2), "pads": [0, 1, 0, 0, 1, 1], "strides": [1, 2, 1]},
}
"""Attributes of a Conv by name; whatever is not an attribute is an argument of `conv_net`."""

TRANSPOSED_FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stride_2": {"strides": [2, 2]},
    "stride_2_padded": {"strides": [2, 2], "pads": [1, 1, 1, 1]},
    "output_padding": {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    "output_padding_uneven": {"strides": [2, 3], "output_padding": [1, 2]},
    "kernel_4_stride_2": {"kernel": (4, 4), "strides": [2, 2], "pads": [1, 1, 1, 1]},
    "kernel_2_stride_2": {"kernel": (2, 2), "strides": [2, 2]},
    "dilated": {"dilations": [2, 2]},
    "dilated_strided": {"dilations": [2, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    "grouped": {"group": 2, "strides": [2, 2]},
    "depthwise": {"channels": (6, 6, 4), "group": 6, "strides": [2, 2]},
    "depthwise_multiplier_2": {"channels": (3, 6, 4), "group": 3},
    "same_upper": {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    "same_lower": {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    "auto_pad_valid": {"auto_pad": "VALID", "strides": [2, 2]},
    "output_shape": {"output_shape": [17, 17], "strides": [2, 2], "size": (8, 8)},
    "output_shape_same_upper": {"output_shape": [16, 16], "strides": [2, 2], "size": (8, 8), "auto_pad": "SAME_UPPER"},
    "asymmetric_pads": {"pads": [0, 1, 2, 0], "strides": [2, 2]},
    "pointwise": {"kernel": (1, 1)},
    "no_bias": {"bias": False, "strides": [2, 2]},
    "one_d": {"kernel": (4,), "strides": [2], "pads": [1, 1]},
    "three_d": {"kernel": (2, 2, 2), "strides": [2, 2, 2]},
}
"""The same for ConvTranspose."""


def _conv(name: str, op: str, form: dict[str, Any]) -> None:
    refused = "auto_pad" in form and "dilations" in form
    why = "ONNX Runtime has no auto_pad with dilations" if refused else ""
    case.add(name, lambda: conv_net(op=op, **form), layers=2, unrunnable=why)


for _name, _form in FORMS.items():
    _conv(f"conv_{_name}", "Conv", _form)
for _name, _form in TRANSPOSED_FORMS.items():
    _conv(f"convtranspose_{_name}", "ConvTranspose", _form)


def gemm_net(
    *,
    trans_a: int = 0,
    trans_b: int = 0,
    alpha: float = 1.0,
    beta: float = 1.0,
    bias_shape: Sequence[int] | None = (6,),
    opset: int = 17,
    rows: int | str = "N",
    seed: int = 0,
    store: Store = "initializer",
) -> onnx.ModelProto:
    """One Gemm (4 -> 6) in the scaling and transposition asked for, ReLU, and a plain Gemm (6 -> 3)."""
    net = Net(opset=opset, seed=seed, store=store)
    x = net.input("x", [4, rows] if trans_a else [rows, 4])
    inputs = [x, net.weight("fc1.weight", net.draw(*((6, 4) if trans_b else (4, 6)), scale=0.5))]
    if bias_shape is not None:
        inputs.append(net.weight("fc1.bias", net.draw(*bias_shape, scale=0.3)))
    attributes: dict[str, Any] = {}
    if trans_a:
        attributes["transA"] = 1
    if trans_b:
        attributes["transB"] = 1
    if alpha != 1.0:
        attributes["alpha"] = alpha
    if beta != 1.0:
        attributes["beta"] = beta
    y = net.node("Gemm", inputs, "fc1_out", name="/fc1/Gemm", **attributes)
    y = net.relu(y)
    y = net.gemm(y, 3, 6, name="fc2")
    net.output(y, [rows, 3])
    return net.model("gemm_net")


def _gemm(name: str, form: dict[str, Any]) -> None:
    case.add(f"gemm_{name}", lambda: gemm_net(**form), layers=2)


for _a in (0, 1):
    for _b in (0, 1):
        _gemm(f"trans_a{_a}_b{_b}", {"trans_a": _a, "trans_b": _b})
        _gemm(f"trans_a{_a}_b{_b}_scaled", {"trans_a": _a, "trans_b": _b, "alpha": 0.5, "beta": -2.0})
GEMM_FORMS: dict[str, dict[str, Any]] = {
    "no_bias": {"bias_shape": None},
    "bias_scalar": {"bias_shape": ()},
    "bias_one": {"bias_shape": (1,)},
    "bias_row": {"bias_shape": (1, 6)},
    "bias_column": {"bias_shape": (5, 1), "rows": 5},
    "bias_matrix": {"bias_shape": (5, 6), "rows": 5},
    "alpha_0": {"alpha": 0.0},
    "beta_0": {"beta": 0.0},
    "opset_7": {"opset": 7, "trans_b": 1, "store": "input"},
    "opset_9": {"opset": 9, "trans_b": 1, "store": "constant"},
}
for _name, _form in GEMM_FORMS.items():
    _gemm(_name, _form)


def matmul_net(
    *,
    bias: Any = "right",
    bias_shape: Sequence[int] | None = None,
    lead: Sequence[int | str] = ("N", "T"),
    opset: int = 17,
    seed: int = 0,
) -> onnx.ModelProto:
    """`x @ W (+ b)` from 4 to 6 features on `(*lead, 4)`, tanh, and `@ W2` from 6 to 3."""
    net = Net(opset=opset, seed=seed)
    x = net.input("x", [*lead, 4])
    y = net.matmul(x, 6, 4, bias=bias, bias_shape=bias_shape)
    y = net.node("Tanh", [y], "tanh1_out")
    y = net.matmul(y, 3, 6, name="head", bias="none")
    raised = max(0, len(bias_shape or ()) - len(lead) - 1)
    net.output(y, [*[1] * raised, *lead, 3])
    return net.model("matmul_net")


def _matmul(name: str, form: dict[str, Any]) -> None:
    case.add(f"matmul_{name}", lambda: matmul_net(**form), layers=2)


MATMUL_FORMS: dict[str, dict[str, Any]] = {
    "bias_right": {},
    "bias_left": {"bias": "left"},
    "bias_sub": {"bias": "sub"},
    "no_bias": {"bias": "none"},
    "bias_1n": {"bias_shape": (1, 6)},
    "bias_11n": {"bias_shape": (1, 1, 6)},
    "bias_scalar": {"bias_shape": ()},
    "bias_one": {"bias_shape": (1,)},
    "bias_per_row": {"bias_shape": (5, 6), "lead": ("N", 5)},
    "bias_raises_rank": {"bias_shape": (1, 1, 1, 6)},
    "two_d": {"lead": ("N",)},
    "four_d": {"lead": ("N", 2, "T")},
    "opset_7": {"opset": 7},
    "opset_26": {"opset": 26},
}
for _name, _form in MATMUL_FORMS.items():
    _matmul(_name, _form)


@case("matmul_vector_input", layers=1)
def matmul_vector_input() -> onnx.ModelProto:
    """A rank-1 left operand: the output loses the axis too."""
    net = Net()
    x = net.input("x", [4])
    net.output(net.matmul(x, 6, 4), [6])
    return net.model()


@case("matmul_weight_left", layers=1)
def matmul_weight_left() -> onnx.ModelProto:
    """W @ x: the weight is the left operand and the features are the rows."""
    net = Net()
    x = net.input("x", ["N", 4, "T"])
    w = net.weight("proj.weight", net.draw(6, 4, scale=0.5))
    y = net.node("MatMul", [w, x], "proj_out", name="/proj/MatMul")
    y = net.relu(y)
    net.output(y, ["N", 6, "T"])
    return net.model()


@case("matmul_weight_batched", layers=1)
def matmul_weight_batched() -> onnx.ModelProto:
    """A weight with a batch axis: one matrix per head."""
    net = Net()
    x = net.input("x", ["N", 3, "T", 4])
    w = net.weight("heads.weight", net.draw(3, 4, 6, scale=0.5))
    y = net.node("MatMul", [x, w], "heads_out", name="/heads/MatMul")
    net.output(net.relu(y), ["N", 3, "T", 6])
    return net.model()


@case("matmul_weight_batch_of_one", layers=1)
def matmul_weight_batch_of_one() -> onnx.ModelProto:
    """A `(1, in, out)` weight: a batch axis that says nothing, unless the input has a lower rank."""
    net = Net()
    x = net.input("x", ["N", "T", 4])
    w = net.weight("proj.weight", net.draw(1, 4, 6, scale=0.5))
    y = net.node("MatMul", [x, w], "proj_out", name="/proj/MatMul")
    net.output(net.relu(y), ["N", "T", 6])
    return net.model()


@case("matmul_weight_vector", layers=1)
def matmul_weight_vector() -> onnx.ModelProto:
    """A rank-1 weight: the output loses the feature axis."""
    net = Net()
    x = net.input("x", ["N", "T", 4])
    w = net.weight("score.weight", net.draw(4, scale=0.5))
    y = net.node("MatMul", [x, w], "score_out", name="/score/MatMul")
    net.output(net.node("Sigmoid", [y], "y"), ["N", "T"])
    return net.model()


@case("matmul_two_values", layers=1)
def matmul_two_values() -> onnx.ModelProto:
    """A product of two values next to a projection: the first is no linear layer."""
    net = Net()
    x = net.input("x", ["N", "T", 4])
    y = net.matmul(x, 4, 4)
    transposed = net.node("Transpose", [x], "xt", perm=[0, 2, 1])
    scores = net.node("MatMul", [y, transposed], "scores", name="/attn/MatMul")
    net.output(net.node("Softmax", [scores], "p", axis=-1), ["N", "T", "T"])
    return net.model()


@case("matmul_two_biases", layers=1)
def matmul_two_biases() -> onnx.ModelProto:
    """Two Adds in a row: the second is not this layer's bias, but may be folded by whoever wants to."""
    net = Net()
    x = net.input("x", ["N", 4])
    y = net.matmul(x, 6, 4)
    y = net.node("Add", [y, net.weight("extra", net.draw(6))], "shifted")
    net.output(net.relu(y), ["N", 6])
    return net.model()


@case("matmul_residual_add", layers=1)
def matmul_residual_add() -> onnx.ModelProto:
    """The Add after the product takes a value, not a bias."""
    net = Net()
    x = net.input("x", ["N", "T", 4])
    y = net.matmul(x, 4, 4, bias="none")
    net.output(net.node("Add", [y, x], "sum"), ["N", "T", 4])
    return net.model()


@case("gemm_weight_is_left_operand", layers=1)
def gemm_weight_is_left_operand() -> onnx.ModelProto:
    """A Gemm whose constant is A: it multiplies from the left, so the rows are the features."""
    net = Net()
    x = net.input("x", [4, "T"])
    w = net.weight("left.weight", net.draw(6, 4, scale=0.5))
    net.output(net.node("Gemm", [w, x], "y", name="/left/Gemm"), [6, "T"])
    return net.model()


@case("gemm_bias_is_value", layers=1)
def gemm_bias_is_value() -> onnx.ModelProto:
    """C is computed, not constant: a residual add inside the Gemm."""
    net = Net()
    x = net.input("x", ["N", 4])
    w = net.weight("fc1.weight", net.draw(4, 4, scale=0.5))
    net.output(net.node("Gemm", [x, w, x], "y", name="/fc1/Gemm"), ["N", 4])
    return net.model()


@case("conv_bias_is_value", layers=1)
def conv_bias_is_value() -> onnx.ModelProto:
    """A Conv whose bias is computed from the input."""
    net = Net()
    x = net.input("x", [1, 4, "H", "W"])
    pooled = net.node("GlobalAveragePool", [x], "pooled")
    bias = net.node("Reshape", [pooled, net.ints("flat", [4])], "bias")
    w = net.weight("conv1.weight", net.draw(4, 4, 3, 3, scale=0.2))
    net.output(net.node("Conv", [x, w, bias], "y", name="/conv1/Conv"), [1, 4, None, None])
    return net.model()


@case("conv_bias_by_add", layers=1)
def conv_bias_by_add() -> onnx.ModelProto:
    """A Conv without bias, then an Add of a `(1, C, 1, 1)` constant."""
    net = Net()
    x = net.input("x", ["N", 4, "H", "W"])
    y = net.conv(x, 6, 4, bias=False, pads=[1, 1, 1, 1])
    y = net.node("Add", [y, net.weight("conv1.shift", net.draw(1, 6, 1, 1))], "shifted")
    net.output(net.relu(y), ["N", 6, "H", "W"])
    return net.model()


@case("conv_explicit_pad_node", layers=2)
def conv_explicit_pad_node() -> onnx.ModelProto:
    """Padding by a Pad node of its own, reflected once and constant once."""
    net = Net()
    x = net.input("x", ["N", 4, "H", "W"])
    p = net.node("Pad", [x, net.ints("pads1", [0, 0, 1, 1, 0, 0, 1, 1])], "p1", mode="reflect")
    y = net.relu(net.conv(p, 6, 4))
    p = net.node("Pad", [y, net.ints("pads2", [0, 0, 1, 1, 0, 0, 1, 1]), net.scalar("value", 0.5)], "p2")
    net.output(net.conv(p, 4, 6, name="conv2"), ["N", 4, "H", "W"])
    return net.model()


@case("conv_bias_huge", layers=1)
def conv_bias_huge() -> onnx.ModelProto:
    """A bias far larger than the weights."""
    net = Net()
    x = net.input("x", ["N", 4, "H", "W"])
    w = net.weight("conv1.weight", net.draw(6, 4, 3, 3, scale=1e-3))
    b = net.weight("conv1.bias", net.draw(6, scale=1e3))
    y = net.node("Conv", [x, w, b], "conv1_out", name="/conv1/Conv", pads=[1, 1, 1, 1])
    net.output(net.relu(y), ["N", 6, "H", "W"])
    return net.model()


@case("conv_zero_kernel", layers=2)
def conv_zero_kernel() -> onnx.ModelProto:
    """All weights of conv1 are zero: only its bias speaks."""
    net = Net()
    x = net.input("x", ["N", 4, "H", "W"])
    w = net.weight("conv1.weight", np.zeros((6, 4, 3, 3), np.float32))
    b = net.weight("conv1.bias", net.draw(6))
    y = net.node("Conv", [x, w, b], "conv1_out", name="/conv1/Conv", pads=[1, 1, 1, 1])
    net.output(net.conv(net.relu(y), 4, 6, name="conv2"), ["N", 4, None, None])
    return net.model()


@case("conv_dead_rows", layers=2)
def conv_dead_rows() -> onnx.ModelProto:
    """Half of conv1's output channels and one of its input channels are zero; two channels are equal."""
    net = Net()
    x = net.input("x", ["N", 4, "H", "W"])
    kernel = net.draw(6, 4, 3, 3, scale=0.3)
    kernel[::2] = 0
    kernel[:, 1] = 0
    kernel[5] = kernel[3]
    w = net.weight("conv1.weight", kernel)
    y = net.node("Conv", [x, w], "conv1_out", name="/conv1/Conv", pads=[1, 1, 1, 1])
    net.output(net.conv(net.relu(y), 4, 6, name="conv2"), ["N", 4, None, None])
    return net.model()


@case("conv_rank_1_kernel", layers=2)
def conv_rank_1_kernel() -> onnx.ModelProto:
    """All of conv1's filters are multiples of one."""
    net = Net()
    x = net.input("x", ["N", 4, "H", "W"])
    kernel = net.draw(6, 1, 1, 1) * net.draw(1, 4, 3, 3, scale=0.3)
    y = net.node("Conv", [x, net.weight("conv1.weight", kernel)], "conv1_out", name="/conv1/Conv", pads=[1, 1, 1, 1])
    net.output(net.conv(net.relu(y), 4, 6, name="conv2"), ["N", 4, None, None])
    return net.model()


def _scaled(value: float) -> onnx.ModelProto:
    net = Net()
    x = net.input("x", ["N", 4, "H", "W"])
    w = net.weight("conv1.weight", net.draw(6, 4, 3, 3, scale=value))
    b = net.weight("conv1.bias", net.draw(6, scale=value))
    y = net.node("Conv", [x, w, b], "conv1_out", name="/conv1/Conv", pads=[1, 1, 1, 1])
    net.output(net.relu(y), ["N", 6, "H", "W"])
    return net.model()


case.add("conv_weights_tiny", lambda: _scaled(1e-20), layers=1)
case.add("conv_weights_huge", lambda: _scaled(1e15), layers=1)


def _poisoned(value: float) -> onnx.ModelProto:
    net = Net()
    x = net.input("x", ["N", 4, "H", "W"])
    kernel = net.draw(6, 4, 3, 3, scale=0.3)
    kernel[2, 1, 0, 0] = value
    y = net.node("Conv", [x, net.weight("conv1.weight", kernel)], "conv1_out", name="/conv1/Conv", pads=[1, 1, 1, 1])
    net.output(net.relu(y), ["N", 6, "H", "W"])
    return net.model()


case.add("conv_weights_nan", lambda: _poisoned(float("nan")), layers=1)
case.add("conv_weights_infinite", lambda: _poisoned(float("inf")), layers=1)
