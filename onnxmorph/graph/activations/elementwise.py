"""Elementwise operators on float64 arrays: enough of ONNX to run an activation that an exporter spelled out.

An operator that is not listed is not elementwise. The list is closed on purpose: guessing that an unknown operator
works element by element is how other tools get wrong children.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from onnxmorph.graph.activations.functions import KINDS as ACTIVATIONS
from onnxmorph.graph.activations.functions import SELU_ALPHA, SELU_GAMMA, Array, erf, sigmoid, softplus

if TYPE_CHECKING:
    from onnxmorph._ir import ir

__all__ = ["FLOAT_TYPES", "attribute", "is_elementwise", "run"]

FLOAT_TYPES = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")

_Rule: TypeAlias = Callable[["ir.Node", Sequence["Array | None"]], Array]


def attribute(node: ir.Node, name: str, default: float) -> float:
    """A numeric attribute, or its default."""
    found = node.attributes.get(name)
    return default if found is None else float(found.value)


def text_attribute(node: ir.Node, name: str, default: str) -> str:
    """A string attribute, or its default."""
    found = node.attributes.get(name)
    if found is None:
        return default
    return found.value.decode() if isinstance(found.value, bytes) else str(found.value)


def _unary(function: Callable[[Array], Array]) -> _Rule:
    return lambda _, inputs: function(_given(inputs, 0))


def _binary(function: Callable[[Array, Array], Array]) -> _Rule:
    return lambda _, inputs: function(_given(inputs, 0), _given(inputs, 1))


def _variadic(function: Callable[[Array, Array], Array]) -> _Rule:
    def rule(_: ir.Node, inputs: Sequence[Array | None]) -> Array:
        result = _given(inputs, 0)
        for place in range(1, len(inputs)):
            result = function(result, _given(inputs, place))
        return result

    return rule


def _known(name: str, **defaults: float) -> _Rule:
    """A row of the table of activations whose parameters are attributes of the same names."""
    function = ACTIVATIONS[name].function
    return lambda node, inputs: function(
        _given(inputs, 0), **{key: attribute(node, key, default) for key, default in defaults.items()}
    )


def _given(inputs: Sequence[Array | None], place: int) -> Array:
    value = inputs[place] if place < len(inputs) else None
    if value is None:
        raise ValueError("an input is missing")
    return value


def _clip(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    low, high = (attribute(node, key, default) for key, default in (("min", -math.inf), ("max", math.inf)))
    result = np.maximum(_given(inputs, 0), low if len(inputs) < 2 or inputs[1] is None else inputs[1])
    return np.asarray(np.minimum(result, high if len(inputs) < 3 or inputs[2] is None else inputs[2]))


def _gelu(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    name = "GeluTanh" if text_attribute(node, "approximate", "none") == "tanh" else "Gelu"
    return ACTIVATIONS[name].function(_given(inputs, 0))


def _where(_: ir.Node, inputs: Sequence[Array | None]) -> Array:
    return np.where(_given(inputs, 0).astype(bool), _given(inputs, 1), _given(inputs, 2))


def _cast(_: ir.Node, inputs: Sequence[Array | None]) -> Array:
    # Between float types a Cast only rounds; a Cast of a comparison makes 0 and 1 of it.
    return _given(inputs, 0).astype(np.float64)


def _first(_: ir.Node, inputs: Sequence[Array | None]) -> Array:
    return _given(inputs, 0)


_RULES: dict[tuple[str, str], _Rule] = {
    ("", "Relu"): _known("Relu"),
    ("", "LeakyRelu"): _known("LeakyRelu", alpha=0.01),
    ("", "PRelu"): _binary(ACTIVATIONS["PRelu"].function),
    ("", "Clip"): _clip,
    ("", "Sigmoid"): _unary(sigmoid),
    ("", "Tanh"): _unary(np.tanh),
    ("", "Elu"): _known("Elu", alpha=1.0),
    ("", "Selu"): _known("Selu", alpha=SELU_ALPHA, gamma=SELU_GAMMA),
    ("", "Celu"): _known("Celu", alpha=1.0),
    ("", "HardSigmoid"): _known("HardSigmoid", alpha=0.2, beta=0.5),
    ("", "HardSwish"): _known("HardSwish"),
    ("", "Softplus"): _unary(softplus),
    ("", "Softsign"): _known("Softsign"),
    ("", "Mish"): _known("Mish"),
    ("", "Gelu"): _gelu,
    ("", "Swish"): _known("QuickGelu", alpha=1.0),
    ("", "ThresholdedRelu"): _known("ThresholdedRelu", alpha=1.0),
    ("", "Shrink"): _known("Shrink", lambd=0.5, bias=0.0),
    ("com.microsoft", "Gelu"): _known("Gelu"),
    ("com.microsoft", "FastGelu"): _known("GeluTanh"),
    ("com.microsoft", "QuickGelu"): _known("QuickGelu", alpha=1.702),
    ("", "Erf"): _unary(erf),
    ("", "Exp"): _unary(np.exp),
    ("", "Log"): _unary(np.log),
    ("", "Neg"): _unary(np.negative),
    ("", "Abs"): _unary(np.abs),
    ("", "Sign"): _unary(np.sign),
    ("", "Sqrt"): _unary(np.sqrt),
    ("", "Reciprocal"): _unary(np.reciprocal),
    ("", "Sin"): _unary(np.sin),
    ("", "Cos"): _unary(np.cos),
    ("", "Not"): _unary(np.logical_not),
    ("", "Identity"): _first,
    ("", "Dropout"): _first,
    ("", "Cast"): _cast,
    ("", "Add"): _binary(np.add),
    ("", "Sub"): _binary(np.subtract),
    ("", "Mul"): _binary(np.multiply),
    ("", "Div"): _binary(np.divide),
    ("", "Pow"): _binary(np.power),
    ("", "Max"): _variadic(np.maximum),
    ("", "Min"): _variadic(np.minimum),
    ("", "Sum"): _variadic(np.add),
    ("", "Greater"): _binary(np.greater),
    ("", "GreaterOrEqual"): _binary(np.greater_equal),
    ("", "Less"): _binary(np.less),
    ("", "LessOrEqual"): _binary(np.less_equal),
    ("", "And"): _binary(np.logical_and),
    ("", "Or"): _binary(np.logical_or),
    ("", "Where"): _where,
}


def is_elementwise(node: ir.Node) -> bool:
    """Whether ``node`` is known to work element by element, as it stands (attributes included)."""
    if (node.domain, node.op_type) not in _RULES:
        return False
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return False  # an attribute of the enclosing function: another value at every call
    if len(node.outputs) > 1 and any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return False
    if node.op_type == "Dropout" and (len(node.inputs) > 2 and node.inputs[2] is not None):
        return False  # may train
    if node.op_type == "Cast":
        target = node.attributes.get("to")
        # Cast-1 spells its type out.
        return target is not None and target.type.name == "INT" and _type_name(target.as_int()) in FLOAT_TYPES
    # FastGelu with a bias is an Add and a GELU; the Add belongs to the layer.
    if node.op_type == "FastGelu" and len(node.inputs) > 1 and node.inputs[1] is not None:
        return False
    # Broadcasting by the attributes of opset 6 and before is not numpy's.
    return "axis" not in node.attributes and "broadcast" not in node.attributes


def _type_name(number: int) -> str:
    from onnxmorph._ir import ir

    known = {int(dtype) for dtype in ir.DataType}
    return ir.DataType(number).name if number in known else ""


def run(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    """The first output of an elementwise ``node`` for float64 (or bool) inputs."""
    with np.errstate(all="ignore"):
        return np.asarray(_RULES[node.domain, node.op_type](node, inputs))
