"""Every activation that exporters write, in every spelling met: one op, or the sub-graph it was before it was an op."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx

from tests.zoo.net import Net, Register

case = Register("activation")

Spelling = Callable[[Net, str], str]
"""Writes the activation of a value into a net, gives the name of the result."""


def net_with(spelling: Spelling, *, opset: int = 17, convolution: bool = False, seed: int = 0) -> onnx.ModelProto:
    """layer1 -> the activation -> layer2; Gemms, or 3x3 convolutions."""
    net = Net(opset=opset, seed=seed)
    if convolution:
        x = net.input("x", ["N", 4, "H", "W"])
        y = spelling(net, net.conv(x, 6, 4, name="layer1", pads=[1, 1, 1, 1]))
        net.output(net.conv(y, 3, 6, name="layer2", pads=[1, 1, 1, 1]), ["N", 3, "H", "W"])
    else:
        x = net.input("x", ["N", 4])
        y = spelling(net, net.gemm(x, 6, 4, name="layer1"))
        net.output(net.gemm(y, 3, 6, name="layer2"), ["N", 3])
    return net.model()


def plain(op: str, **attributes: Any) -> Spelling:
    return lambda net, x: net.node(op, [x], "act", **attributes)


def prelu(*shape: int) -> Spelling:
    def spell(net: Net, x: str) -> str:
        return net.node("PRelu", [x, net.weight("slope", abs(net.draw(*shape, scale=0.2)))], "act")

    return spell


def clip(low: float | None, high: float | None) -> Spelling:
    return lambda net, x: net.clip(x, "act", low, high)


def relu_by_max(net: Net, x: str) -> str:
    return net.node("Max", [x, net.scalar("zero", 0.0)], "act")


def relu6_by_min(net: Net, x: str) -> str:
    return net.node("Min", [net.node("Relu", [x], "r"), net.scalar("six", 6.0)], "act")


def silu(*, value_first: bool = True) -> Spelling:
    def spell(net: Net, x: str) -> str:
        s = net.node("Sigmoid", [x], "s")
        return net.node("Mul", [x, s] if value_first else [s, x], "act")

    return spell


def quick_gelu(net: Net, x: str) -> str:
    s = net.node("Sigmoid", [net.node("Mul", [x, net.scalar("c", 1.702)], "cx")], "s")
    return net.node("Mul", [x, s], "act")


def gelu_erf(order: str) -> Spelling:
    """`x/sqrt2 -> erf -> +1 -> *x -> *0.5` (torch), `*0.5` first, or by a product with 1/sqrt2."""

    def spell(net: Net, x: str) -> str:
        if order == "product":
            u = net.node("Mul", [x, net.scalar("rsqrt2", 1 / math.sqrt(2))], "u")
        else:
            u = net.node("Div", [x, net.scalar("sqrt2", math.sqrt(2))], "u")
        e = net.node("Add", [net.node("Erf", [u], "e"), net.scalar("one", 1.0)], "e1")
        half = net.scalar("half", 0.5)
        if order == "half_first":
            return net.node("Mul", [net.node("Mul", [x, half], "hx"), e], "act")
        if order == "half_inside":
            return net.node("Mul", [x, net.node("Mul", [half, e], "he")], "act")
        return net.node("Mul", [net.node("Mul", [x, e], "xe"), half], "act")

    return spell


def gelu_tanh(*, power: bool) -> Spelling:
    """0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), the cube by Pow or by products."""

    def spell(net: Net, x: str) -> str:
        if power:
            cube = net.node("Pow", [x, net.scalar("three", 3.0)], "cube")
        else:
            cube = net.node("Mul", [net.node("Mul", [x, x], "square"), x], "cube")
        inner = net.node("Add", [x, net.node("Mul", [net.scalar("k", 0.044715), cube], "kc")], "sum")
        t = net.node("Tanh", [net.node("Mul", [net.scalar("r", math.sqrt(2 / math.pi)), inner], "arg")], "t")
        t = net.node("Add", [t, net.scalar("one", 1.0)], "t1")
        return net.node("Mul", [net.node("Mul", [net.scalar("half", 0.5), x], "hx"), t], "act")

    return spell


def hard_swish_by_hard_sigmoid(net: Net, x: str) -> str:
    return net.node("Mul", [x, net.node("HardSigmoid", [x], "hs", alpha=1 / 6, beta=0.5)], "act")


def hard_swish_by_clip(*, divide_last: bool) -> Spelling:
    """x * clip(x + 3, 0, 6) / 6, the Paddle and TensorFlow spellings."""

    def spell(net: Net, x: str) -> str:
        c = net.clip(net.node("Add", [x, net.scalar("three", 3.0)], "x3"), "c", 0.0, 6.0)
        six = net.scalar("six", 6.0)
        if divide_last:
            return net.node("Div", [net.node("Mul", [x, c], "xc"), six], "act")
        return net.node("Mul", [x, net.node("Div", [c, six], "c6")], "act")

    return spell


def hard_sigmoid_by_clip(net: Net, x: str) -> str:
    c = net.clip(net.node("Add", [x, net.scalar("three", 3.0)], "x3"), "c", 0.0, 6.0)
    return net.node("Div", [c, net.scalar("six", 6.0)], "act")


def mish_by_softplus(net: Net, x: str) -> str:
    return net.node("Mul", [x, net.node("Tanh", [net.node("Softplus", [x], "sp")], "t")], "act")


def softplus_by_log(net: Net, x: str) -> str:
    e = net.node("Add", [net.node("Exp", [x], "e"), net.scalar("one", 1.0)], "e1")
    return net.node("Log", [e], "act")


def leaky_relu_by_max(net: Net, x: str) -> str:
    return net.node("Max", [x, net.node("Mul", [x, net.scalar("slope", 0.1)], "leak")], "act")


def sigmoid_by_tanh(net: Net, x: str) -> str:
    half = net.scalar("half", 0.5)
    t = net.node("Tanh", [net.node("Mul", [x, half], "hx")], "t")
    return net.node("Add", [net.node("Mul", [t, half], "ht"), half], "act")


def softmax(net: Net, x: str) -> str:
    """No elementwise function at all: whatever counts it as one is wrong."""
    return net.node("Softmax", [x], "act", axis=-1)


def square(net: Net, x: str) -> str:
    return net.node("Mul", [x, x], "act")


SPELLINGS: dict[str, tuple[Spelling, int]] = {
    "relu": (plain("Relu"), 17),
    "relu_by_clip": (clip(0.0, None), 17),
    "relu_by_max": (relu_by_max, 17),
    "relu6": (clip(0.0, 6.0), 17),
    "relu6_attributes": (clip(0.0, 6.0), 9),
    "relu6_by_min": (relu6_by_min, 17),
    "hardtanh": (clip(-1.0, 1.0), 17),
    "clip_from_below": (clip(-0.5, None), 17),
    "leaky_relu": (plain("LeakyRelu", alpha=0.1), 17),
    "leaky_relu_default": (plain("LeakyRelu"), 9),
    "leaky_relu_by_max": (leaky_relu_by_max, 17),
    "prelu_scalar": (prelu(1), 17),
    "sigmoid": (plain("Sigmoid"), 17),
    "sigmoid_by_tanh": (sigmoid_by_tanh, 17),
    "tanh": (plain("Tanh"), 17),
    "elu": (plain("Elu"), 17),
    "elu_alpha": (plain("Elu", alpha=0.5), 17),
    "selu": (plain("Selu"), 17),
    "celu": (plain("Celu", alpha=2.0), 17),
    "softplus": (plain("Softplus"), 17),
    "softplus_by_log": (softplus_by_log, 17),
    "softsign": (plain("Softsign"), 17),
    "thresholded_relu": (plain("ThresholdedRelu", alpha=0.7), 17),
    "hard_sigmoid": (plain("HardSigmoid"), 17),
    "hard_sigmoid_sixth": (plain("HardSigmoid", alpha=1 / 6, beta=0.5), 17),
    "hard_sigmoid_by_clip": (hard_sigmoid_by_clip, 17),
    "hard_swish": (plain("HardSwish"), 17),
    "hard_swish_by_hard_sigmoid": (hard_swish_by_hard_sigmoid, 11),
    "hard_swish_by_clip": (hard_swish_by_clip(divide_last=True), 11),
    "hard_swish_by_clip_inner": (hard_swish_by_clip(divide_last=False), 11),
    "silu": (silu(), 17),
    "silu_swapped": (silu(value_first=False), 9),
    "swish_op": (plain("Swish"), 24),
    "quick_gelu": (quick_gelu, 17),
    "gelu_op": (plain("Gelu"), 20),
    "gelu_op_tanh": (lambda net, x: net.node("Gelu", [x], "act", approximate="tanh"), 20),
    "gelu_erf": (gelu_erf("torch"), 17),
    "gelu_erf_half_first": (gelu_erf("half_first"), 13),
    "gelu_erf_half_inside": (gelu_erf("half_inside"), 11),
    "gelu_erf_product": (gelu_erf("product"), 17),
    "gelu_tanh_pow": (gelu_tanh(power=True), 17),
    "gelu_tanh_products": (gelu_tanh(power=False), 17),
    "mish": (plain("Mish"), 18),
    "mish_by_softplus": (mish_by_softplus, 17),
    "abs": (plain("Abs"), 17),
    "square": (square, 17),
    "softmax": (softmax, 17),
}
"""By name: how it is written, and in which opset."""


def _activation(name: str, spelling: Spelling, opset: int, *, convolution: bool) -> None:
    case.add(name, lambda: net_with(spelling, opset=opset, convolution=convolution), layers=2)


for _name, (_spelling, _opset) in SPELLINGS.items():
    _activation(_name, _spelling, _opset, convolution=False)
for _name in ("relu", "silu", "gelu_erf", "tanh", "hard_swish_by_clip", "relu6", "mish", "elu", "softplus"):
    _activation(f"{_name}_conv", *SPELLINGS[_name], convolution=True)
_activation("prelu_per_channel_conv", prelu(6, 1, 1), 17, convolution=True)
_activation("prelu_per_feature", prelu(6), 17, convolution=False)
