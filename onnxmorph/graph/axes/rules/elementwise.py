"""Operators that work index by index: every axis is carried, operands broadcast."""

from __future__ import annotations

from onnxmorph.graph.axes.site import Barrier, Site, rule

__all__: list[str] = []

_UNARY = """
    Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid
    HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh
    Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu
"""
_MANY = """
    Add Sub Mul Div Mod Pow And Or Xor Equal Less Greater LessOrEqual GreaterOrEqual BitShift BitwiseAnd BitwiseOr
    BitwiseXor Min Max Sum Mean Where
"""
_OLD_BROADCAST = 7
"""Before opset 7 operators broadcast by attributes, unless they did not."""


@rule(*_UNARY.split())
def unary(site: Site) -> None:
    """y = f(x). Clip's bounds (from opset 11) are scalars."""
    site.give(0, site.axes(0))


@rule("FastGelu", "QuickGelu", "Gelu", "BiasGelu", "BiasAdd", "BiasSplitGelu", domain="com.microsoft")
def fused_activation(site: Site) -> None:
    """y = f(x + bias)."""
    if site.node.op_type == "BiasSplitGelu":
        raise Barrier(f"no rule for operator com.microsoft.{site.node.op_type}", "unknown-op")
    operands = [site.axes(position) for position in range(len(site.node.inputs)) if site.has(position)]
    site.give(0, site.broadcast(operands))
    if site.has(1) and len(operands) > 1:
        site.role(1, len(site.axes(1)) - 1, "bias")


@rule(*_MANY.split())
def several(site: Site) -> None:
    """Multidirectional broadcasting."""
    positions = [position for position in range(len(site.node.inputs)) if site.has(position)]
    operands = [site.axes(position) for position in positions]
    if site.opset < _OLD_BROADCAST and len({len(axes) for axes in operands}) > 1:
        raise Barrier(f"{site.label} of opset {site.opset} broadcasts by attributes")
    site.give(0, site.broadcast(operands))
    for position, axes in zip(positions, operands, strict=True):
        if site.constant(position):
            for axis in range(len(axes)):
                site.role(position, axis, "bias" if site.node.op_type in {"Add", "Sub"} else "parameter")


@rule("PRelu")
def prelu(site: Site) -> None:
    """The slope broadcasts to x (unidirectional)."""
    site.give(0, site.broadcast([site.axes(0), site.axes(1)]))
    for axis in range(site.rank(1)):
        site.role(1, axis, "slope")


@rule("Dropout")
def dropout(site: Site) -> None:
    """Carried, and so is the mask; in training mode it draws by position."""
    if site.has(2):
        training = site.array(2)
        if training is None or bool(training.reshape(-1)[0]):
            site.pin(site.axes(0), "random", f"{site.label} draws at random by position")
    for output in range(len(site.node.outputs)):
        site.give(output, site.axes(0))


@rule("CastLike")
def cast_like(site: Site) -> None:
    """Carried; only the type of the second operand is read."""
    site.give(0, site.axes(0))
