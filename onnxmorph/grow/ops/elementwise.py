"""Operators that work element by element, with ONNX's (numpy's) broadcasting."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from onnxmorph.grow.call import Call
from onnxmorph.grow.ops.reading import number
from onnxmorph.grow.registry import operator

Tensor = torch.Tensor

_UNSIGNED = frozenset({torch.uint16, torch.uint32, torch.uint64})
"""Types that torch stores but hardly computes with."""


def _through_int64(run: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Compute on 64-bit integers where torch has no kernel for the type."""
    dtype = inputs[0].dtype
    result = run(*(x.to(torch.int64) for x in inputs))
    return result.to(dtype) if result.dtype == torch.int64 else result


def _unary(name: str, run: Callable[[Tensor], Tensor], *, gradient: bool = True) -> None:
    @operator(name, gradient=gradient)
    def compute(_call: Call, x: Tensor) -> Tensor:
        return run(x)


_SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Neg": torch.neg,
    "Reciprocal": torch.reciprocal,
    "Erf": torch.erf,
    "Softsign": F.softsign,
    "Mish": F.mish,
    "HardSwish": F.hardswish,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Asin": torch.asin,
    "Acos": torch.acos,
    "Atan": torch.atan,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Asinh": torch.asinh,
    "Acosh": torch.acosh,
    "Atanh": torch.atanh,
}
_STEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Sign": torch.sign,
    "Not": torch.logical_not,
    "IsNaN": torch.isnan,
}
for _name, _run in _SMOOTH.items():
    _unary(_name, _run)
for _name, _run in _STEPS.items():
    _unary(_name, _run, gradient=False)


@operator("Identity")
def identity(_call: Call, x: Tensor) -> Tensor:
    """The same value, of any type."""
    return x


@operator("Abs")
def absolute(_call: Call, x: Tensor) -> Tensor:
    """Unsigned types are their own absolute."""
    return x if x.dtype in _UNSIGNED or x.dtype == torch.uint8 else torch.abs(x)


@operator("BitwiseNot", gradient=False)
def bitwise_not(_call: Call, x: Tensor) -> Tensor:
    """Of whole numbers."""
    return _through_int64(torch.bitwise_not, x) if x.dtype in _UNSIGNED else torch.bitwise_not(x)


@operator("IsInf", gradient=False)
def is_infinite(call: Call, x: Tensor) -> Tensor:
    """Either sign may be left out."""
    positive, negative = call.flag("detect_positive", True), call.flag("detect_negative", True)
    return (torch.isposinf(x) if positive else torch.zeros_like(x, dtype=torch.bool)) | (
        torch.isneginf(x) if negative else torch.zeros_like(x, dtype=torch.bool)
    )


def _binary(name: str, run: Callable[[Tensor, Tensor], Tensor], *, gradient: bool = True) -> None:
    @operator(name, gradient=gradient)
    def compute(call: Call, a: Tensor, b: Tensor) -> Tensor:
        if call.version < 7 and a.dim() != b.dim():
            b = _as_before_opset_7(call, a, b)
        if a.dtype in _UNSIGNED:
            return _through_int64(run, a, b)
        return run(a, b)


def _as_before_opset_7(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Broadcasting was asked for by attributes: ``b`` lies along axes of ``a`` from ``axis`` on, or at its end."""
    if not call.flag("broadcast"):
        return b
    axis = call.attributes.get("axis")
    if axis is None:
        return b
    start = int(axis) % a.dim()
    return b.reshape([*b.shape, *([1] * (a.dim() - start - b.dim()))])


def _divide(a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point() or a.is_complex():
        return torch.div(a, b)
    return torch.div(a, b, rounding_mode="trunc")


_ARITHMETIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": _divide,
}
_DECISIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Equal": torch.eq,
    "Greater": torch.gt,
    "Less": torch.lt,
    "GreaterOrEqual": torch.ge,
    "LessOrEqual": torch.le,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}
for _name, _pair in _ARITHMETIC.items():
    _binary(_name, _pair)
for _name, _pair in _DECISIONS.items():
    _binary(_name, _pair, gradient=False)


@operator("BitShift", gradient=False)
def bit_shift(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Unsigned types only."""
    shift = torch.bitwise_left_shift if call.text("direction") == "LEFT" else torch.bitwise_right_shift
    if a.dtype == torch.uint8:
        return shift(a.to(torch.int32), b.to(torch.int32)).to(torch.uint8)
    return _through_int64(shift, a, b)


@operator("Pow")
def power(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """The type of the base is kept; the exponent may have another."""
    if call.version < 7 and a.dim() != b.dim():
        b = _as_before_opset_7(call, a, b)
    if b.dim() == 0 and not b.requires_grad and b.device.type == "cpu":
        exponent = number(b)
        if exponent == 2:
            return torch.square(a)
        if a.is_floating_point():
            return torch.pow(a, exponent)
    if not a.is_floating_point() and b.is_floating_point():
        return torch.pow(a.double(), b).to(a.dtype)
    return torch.pow(a, b).to(a.dtype)


@operator("Mod")
def modulo(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """``fmod=1`` has the sign of the dividend, as in C; otherwise that of the divisor, as in Python."""
    run = torch.fmod if call.flag("fmod") else torch.remainder
    return _through_int64(run, a, b) if a.dtype in _UNSIGNED else run(a, b)


def _variadic(name: str, run: Callable[[Tensor, Tensor], Tensor]) -> None:
    @operator(name)
    def compute(_call: Call, *inputs: Tensor) -> Tensor:
        if inputs[0].dtype in _UNSIGNED:
            return _through_int64(lambda *wide: functools.reduce(run, wide), *inputs)
        return functools.reduce(run, inputs)


_variadic("Sum", torch.add)
_variadic("Max", torch.maximum)
_variadic("Min", torch.minimum)


@operator("Mean")
def mean(_call: Call, *inputs: Tensor) -> Tensor:
    """Of any number of tensors, element by element."""
    return functools.reduce(torch.add, inputs) / len(inputs)


@operator("Where")
def where(_call: Call, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``a`` where the condition holds."""
    if a.dtype in _UNSIGNED:
        return torch.where(condition, a.to(torch.int64), b.to(torch.int64)).to(a.dtype)
    return torch.where(condition, a, b)


# --- activations ----------------------------------------------------------------------------------------------------


@operator("LeakyRelu")
def leaky_relu(call: Call, x: Tensor) -> Tensor:
    """``max(x, 0) + alpha min(x, 0)``."""
    return F.leaky_relu(x, call.floating("alpha", 0.01))


@operator("PRelu")
def parametric_relu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    """A slope of one dimension lay along axis 1 before opset 7."""
    if call.version < 7 and slope.dim() == 1 and x.dim() > 2 and slope.shape[0] == x.shape[1]:
        slope = slope.reshape([-1, *([1] * (x.dim() - 2))])
    if not x.is_floating_point():
        return torch.where(x > 0, x, x * slope)
    if slope.numel() == 1:
        return F.prelu(x, slope.reshape(1))
    if x.dim() >= 2 and slope.dim() <= x.dim() and _along_axis_1(slope, x):
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x > 0, x, x * slope)


def _along_axis_1(slope: Tensor, x: Tensor) -> bool:
    channels = x.shape[1]
    sizes = [1] * (x.dim() - slope.dim()) + list(slope.shape)
    return sizes[1] == channels and slope.numel() == channels


@operator("Elu")
def elu(call: Call, x: Tensor) -> Tensor:
    """``alpha (exp(x) - 1)`` below 0."""
    return F.elu(x, call.floating("alpha", 1.0))


@operator("Celu")
def celu(call: Call, x: Tensor) -> Tensor:
    """``alpha (exp(x / alpha) - 1)`` below 0."""
    return F.celu(x, call.floating("alpha", 1.0))


@operator("Selu")
def selu(call: Call, x: Tensor) -> Tensor:
    """``gamma alpha (exp(x) - 1)`` below 0, ``gamma x`` above; opset 1 had other constants."""
    old = call.version < 6
    alpha = call.floating("alpha", 1.6732 if old else 1.67326319217681884765625)
    gamma = call.floating("gamma", 1.0507 if old else 1.05070102214813232421875)
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


@operator("Softplus")
def softplus(_call: Call, x: Tensor) -> Tensor:
    """``log(1 + exp(x))``; never replaced by x, which torch's own does above a threshold."""
    return torch.logaddexp(x, torch.zeros((), dtype=x.dtype, device=x.device))


@operator("ThresholdedRelu")
def thresholded_relu(call: Call, x: Tensor) -> Tensor:
    """x above alpha, else 0."""
    return torch.where(x > call.floating("alpha", 1.0), x, torch.zeros((), dtype=x.dtype, device=x.device))


@operator("Shrink")
def shrink(call: Call, x: Tensor) -> Tensor:
    """Toward 0 by ``bias`` outside of ``lambd``, 0 within."""
    bound, bias = call.floating("lambd", 0.5), call.floating("bias", 0.0)
    if not x.is_floating_point():
        wide = x.double()
        kept = torch.where(wide < -bound, wide + bias, torch.where(wide > bound, wide - bias, torch.zeros_like(wide)))
        return kept.to(x.dtype)
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    return torch.where(x < -bound, x + bias, torch.where(x > bound, x - bias, zero))


@operator("HardSigmoid")
def hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    """``max(0, min(1, alpha x + beta))``."""
    return torch.clamp(call.floating("alpha", 0.2) * x + call.floating("beta", 0.5), 0, 1)


@operator("Gelu")
def gelu(call: Call, x: Tensor) -> Tensor:
    """By the error function, or its approximation by tanh."""
    return F.gelu(x, approximate=call.text("approximate", "none"))


@operator("Swish")
def swish(call: Call, x: Tensor) -> Tensor:
    """``x sigmoid(alpha x)``."""
    alpha = call.floating("alpha", 1.0)
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


@operator("Clip", host=(1, 2))
def clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Between two bounds, attributes before opset 11 and inputs since."""
    if call.version < 11:
        lowest, highest = call.floating("min", -math.inf), call.floating("max", math.inf)
        return torch.clamp(x, lowest if lowest > -math.inf else None, highest if highest < math.inf else None)
    if (low is not None and low.requires_grad) or (high is not None and high.requires_grad):
        x = x if low is None else torch.maximum(x, low.to(x.device))
        return x if high is None else torch.minimum(x, high.to(x.device))
    smallest = None if low is None or not low.numel() else number(low)
    largest = None if high is None or not high.numel() else number(high)
    if smallest is None and largest is None:
        return x
    if x.dtype in _UNSIGNED:
        return torch.clamp(x.to(torch.int64), smallest, largest).to(x.dtype)
    if smallest is not None and largest is not None and smallest > largest:
        return torch.full_like(x, largest)
    return torch.clamp(x, smallest, largest)


@operator("Dropout", pure=False, host=(1, 2))
def dropout(call: Call, x: Tensor, ratio: Tensor | None = None, mode: Tensor | None = None) -> object:
    """Drops while the module is in training; a node that says ``training_mode`` drops always.

    In a model that was exported for inference, ``training_mode`` is left out or false: there the module decides.
    """
    share = call.floating("ratio", 0.5) if ratio is None or call.version < 12 else float(number(ratio))
    asked = mode is not None and bool(number(mode))
    active = (call.mode.training or asked) and share > 0.0
    if call.outputs == 1 or not call.wanted[1]:
        return F.dropout(x, share, active)
    kept = torch.rand(x.shape, device=x.device) >= share if active else torch.ones_like(x, dtype=torch.bool)
    y = torch.where(kept, x / (1.0 - share), torch.zeros_like(x)) if active else x
    return y, kept if call.version >= 10 else kept.to(x.dtype)
