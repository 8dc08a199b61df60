"""Proof by algebra: new weights composed in float64 and compared with those they replace.

Running two models shows that they agree to rounding; it does not show whether what is left *is* rounding. Where a value
follows from values both models have by layers, activations and sums alone, its two definitions are written as
expressions (`onnxmorph.verify.expressions`) and compared: the *residual* is the largest difference of two coefficients
over the parent's largest, and the *rounding bound* what the rounding of the stored weights can explain of it.

Nothing is taken from the child's records. What has no algebra here (attention, recurrences, borders of padded layers)
is named and left to the runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.errors import OnnxMorphError
from onnxmorph.graph.constants import constant
from onnxmorph.graph.shapes import Shapes
from onnxmorph.verify.expressions import Algebra, Expression, Mirror, Offset, TooLarge, Unsupported

__all__ = ["prove"]

Array = np.ndarray[Any, Any]

_MULTIPLICATIONS = 1e9
_MOST_WEIGHTS = 1 << 23
_DEEPEST = 60
_LISTED = 16
_MARGIN = 2.0
"""How far the residual may be above what rounding is thought to explain."""

_CHANNELWISE = frozenset(
    {
        *("Elu", "Selu", "Celu", "Sigmoid", "Tanh", "Softplus", "Softsign", "HardSigmoid", "HardSwish", "Gelu", "Mish"),
        *("Erf", "Exp", "Log", "Sqrt", "Abs", "Swish", "ThresholdedRelu", "Clip", "Reciprocal", "Sign"),
        *("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool"),
    }
)
_IDEMPOTENT = frozenset({"Abs", "Sign", "Clip"})
_MIRRORS = {
    **dict.fromkeys(("Gelu", "Softplus"), Mirror(slope=1.0)),  # Gelu: that by Tanh; the other is a product
    **dict.fromkeys(("Tanh", "Erf", "Softsign", "Sign"), Mirror(factor=-1.0)),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool"), Mirror(factor=-1.0)),
    **dict.fromkeys(("Sigmoid", "HardSigmoid"), Mirror(factor=-1.0, shift=1.0)),
    "Abs": Mirror(),
}
_ZERO_AT_ZERO = frozenset(
    {
        *(
            "Elu",
            "Selu",
            "Celu",
            "Tanh",
            "Erf",
            "Softsign",
            "HardSwish",
            "Gelu",
            "Mish",
            "Swish",
            "Abs",
            "Sign",
            "Sqrt",
        ),
        *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"),
    }
)
_PASSES = frozenset({"Identity", "Dropout"})


@dataclass(frozen=True)
class _Place:
    """How the channels of a value lie: their axis (1 or -1), their number, and how many axes come after axis 1."""

    axis: int
    rows: int | None
    spatial: int


class _Reader:
    """Reads one model's definitions as expressions.

    Args:
        model: The model.
        bases: Names that expressions may rest on.
        shapes: Shapes that values had in a run.
    """

    def __init__(
        self, model: ir.Model, bases: Collection[str], shapes: Mapping[str, Sequence[int]], algebra: Algebra
    ) -> None:
        self._model = model
        self._inferred: Shapes | None = None
        self._algebra = algebra
        self._bases = bases
        self._shapes = shapes
        self._nodes = {output.name: node for node in model.graph for output in node.outputs if output.name}
        self._made: dict[tuple[str, _Place], Expression] = {}

    def definition(self, name: str, place: _Place) -> Expression:
        """The value of this name, one step or more from what it rests on."""
        node = self._nodes.get(name)
        if node is None:
            raise Unsupported("it is no node's output")
        return self._node(node, place, 0)

    def _value(self, value: ir.Value | None, place: _Place, depth: int) -> Expression:
        if value is None or not value.name:
            raise Unsupported("a missing input")
        name = value.name
        if name in self._bases or value.producer() is None:
            rows = place.rows if place.rows is not None else self._rows(value, place)
            return self._algebra.base(name, rows, place.spatial, place.axis)
        if depth > _DEEPEST:
            raise Unsupported("a very long chain")
        key = (name, place)
        if key not in self._made:
            node = value.producer()
            assert node is not None
            self._made[key] = self._node(node, place, depth + 1)
        return self._made[key]

    def _rows(self, value: ir.Value, place: _Place) -> int:
        shape = self._shapes.get(str(value.name))
        if shape is None:
            if self._inferred is None:
                self._inferred = Shapes.of(self._model)
            known = self._inferred.shape(value)
            shape = [dim if isinstance(dim, int) else -1 for dim in known] if known is not None else None
        if shape is None or len(shape) < 2 or shape[place.axis] < 1:
            raise Unsupported("an unknown number of channels")
        return int(shape[place.axis])

    # -- one node ------------------------------------------------------------------------------------------------------

    def _node(self, node: ir.Node, place: _Place, depth: int) -> Expression:
        if node.domain not in ("", "ai.onnx"):
            raise Unsupported(f"operator {node.domain}::{node.op_type}")
        op = node.op_type
        if op in _PASSES:
            return self._value(node.inputs[0], place, depth)
        if op == "Conv":
            return self._conv(node, depth)
        if op == "Gemm":
            return self._gemm(node, depth)
        if op == "MatMul":
            return self._matmul(node, depth)
        if op == "BatchNormalization":
            return self._batch_norm(node, place, depth)
        if op in ("Add", "Sub", "Sum"):
            return self._sum(node, place, depth)
        if op in ("Mul", "Div"):
            return self._product(node, place, depth)
        if op == "Neg":
            return self._algebra.scaled(self._value(node.inputs[0], place, depth), np.asarray(-1.0))
        if op == "Concat":
            return self._concat(node, place, depth)
        if op in ("Relu", "LeakyRelu", "PRelu"):
            return self._rectifier(node, place, depth)
        if op in _CHANNELWISE:
            return self._function(node, place, depth)
        raise Unsupported(f"operator {op}")

    def _conv(self, node: ir.Node, depth: int) -> Expression:
        weight = _weight(node.inputs[1])
        spatial = weight.ndim - 2
        groups = _int(node, "group", 1)
        strides, dilations = (_ints(node, key, [1] * spatial) for key in ("strides", "dilations"))
        pads = _pads(node, spatial, weight.shape[2:], strides, dilations)
        out, inner = weight.shape[0], weight.shape[1]
        taps: dict[Offset, Array] = {}
        for index in itertools.product(*(range(size) for size in weight.shape[2:])):
            tap = weight.reshape(out, inner, -1)[:, :, np.ravel_multi_index(index, weight.shape[2:]) if index else 0]
            tap = tap.astype(np.float64)
            if groups > 1:
                wide = np.zeros((out, inner * groups))
                per = out // groups
                for group in range(groups):
                    rows = slice(group * per, (group + 1) * per)
                    wide[rows, group * inner : (group + 1) * inner] = tap[rows]
                tap = wide
            if tap.any() or not any(index):
                move = tuple(i * d - p for i, d, p in zip(index, dilations, pads, strict=True))
                taps[move] = tap
        bias = _bias(node, 2)
        x = self._value(node.inputs[0], _Place(1, inner * groups, spatial), depth)
        made = self._algebra.linear(x, taps, tuple(strides), bias)
        made.axis = 1
        return made

    def _gemm(self, node: ir.Node, depth: int) -> Expression:
        if _int(node, "transA", 0):
            raise Unsupported("a Gemm with transA")
        weight = _weight(node.inputs[1]).astype(np.float64)
        matrix = (weight if _int(node, "transB", 0) else weight.T) * _float(node, "alpha", 1.0)
        bias = _bias(node, 2)
        if bias is not None:
            bias = np.broadcast_to(bias * _float(node, "beta", 1.0), (matrix.shape[0],))
        x = self._value(node.inputs[0], _Place(-1, matrix.shape[1], 0), depth)
        return self._algebra.linear(x, {(): matrix}, (), bias)

    def _matmul(self, node: ir.Node, depth: int) -> Expression:
        weight = _weight(node.inputs[1]).astype(np.float64)
        if weight.ndim != 2:
            raise Unsupported("a MatMul of another rank")
        x = self._value(node.inputs[0], _Place(-1, weight.shape[0], 0), depth)
        return self._algebra.linear(x, {(): weight.T}, (), None)

    def _batch_norm(self, node: ir.Node, place: _Place, depth: int) -> Expression:
        if _int(node, "training_mode", 0):
            raise Unsupported("a BatchNormalization that trains")
        scale, shift, mean, variance = (_weight(value).astype(np.float64) for value in node.inputs[1:5])
        factor = scale / np.sqrt(variance + _float(node, "epsilon", 1e-5))
        x = self._value(node.inputs[0], _Place(1, len(scale), place.spatial), depth)
        return self._algebra.scaled(x, factor, shift - mean * factor)

    def _sum(self, node: ir.Node, place: _Place, depth: int) -> Expression:
        sign = -1.0 if node.op_type == "Sub" else 1.0
        constants = [constant(value) for value in node.inputs]
        parts = [
            self._value(value, place, depth)
            for value, array in zip(node.inputs, constants, strict=True)
            if array is None
        ]
        if not parts:
            raise Unsupported("a constant")
        made: Expression | None = None
        for index, (value, array) in enumerate(zip(node.inputs, constants, strict=True)):
            factor = sign if index else 1.0
            if array is None:
                part = self._value(value, place, depth)
            else:
                rows = max(part.rows for part in parts)
                shift = factor * _per_channel(array, rows, place)
                part = Expression(rows, {}, shift, np.abs(shift), 0, parts[0].axis)
                factor = 1.0
            made = (
                self._algebra.scaled(part, np.asarray(factor))
                if made is None and factor != 1.0
                else part
                if made is None
                else self._algebra.total(made, part, factor)
            )
        assert made is not None
        return made

    def _product(self, node: ir.Node, place: _Place, depth: int) -> Expression:
        arrays = [constant(value) for value in node.inputs]
        if node.op_type == "Div" and arrays[1] is None:
            raise Unsupported("a quotient")
        if arrays[0] is None and arrays[1] is None:
            one, other = (self._value(value, place, depth) for value in node.inputs)
            return self._algebra.multiplied(one, other)
        which = 0 if arrays[0] is None else 1
        x = self._value(node.inputs[which], place, depth)
        array = arrays[1 - which]
        if array is None or arrays[which] is not None:
            raise Unsupported("a constant")
        factor = _per_channel(array, x.rows, place)
        return self._algebra.scaled(x, 1.0 / factor if node.op_type == "Div" else factor)

    def _concat(self, node: ir.Node, place: _Place, depth: int) -> Expression:
        axis = _int(node, "axis", 1)
        if axis != place.axis and not (place.spatial == 0 and axis in (1, -1)):
            raise Unsupported("a Concat of another axis")
        free = _Place(place.axis, None, place.spatial)
        return self._algebra.stacked([self._value(value, free, depth) for value in node.inputs])

    def _rectifier(self, node: ir.Node, place: _Place, depth: int) -> Expression:
        x = self._value(node.inputs[0], place, depth)
        if node.op_type == "PRelu":
            slopes = _per_channel(_weight(node.inputs[1]).astype(np.float64), x.rows, place)
        else:
            slopes = np.full(x.rows, 0.0 if node.op_type == "Relu" else _float(node, "alpha", 0.01))
        if (slopes == 1).all():
            return x
        if (slopes == 1).any():
            # Channels of slope 1 are passed on: the sum of both kinds, each with zeros where the other is.
            passed = self._algebra.scaled(x, (slopes == 1).astype(np.float64))
            bent = self._algebra.scaled(self._bent(x, np.where(slopes == 1, 0.0, slopes)), (slopes != 1) * 1.0)
            return self._algebra.total(passed, bent)
        return self._bent(x, slopes)

    def _bent(self, x: Expression, slopes: Array) -> Expression:
        kinds = {slope: (("Relu", _rounded(slope)), Mirror(slope=1.0 + slope)) for slope in set(slopes.tolist())}
        return self._algebra.applied(
            [kinds[slope][0] for slope in slopes.tolist()],
            x,
            mirror=[kinds[slope][1] for slope in slopes.tolist()],
            idempotent=bool((slopes == 0).all()),
            at_constant=lambda row, number: number if number > 0 else number * float(slopes[row]),
        )

    def _function(self, node: ir.Node, place: _Place, depth: int) -> Expression:
        x = self._value(node.inputs[0], place, depth)
        op, facts = node.op_type, _facts(node)
        # What is a product however it is spelled: its own mirror and zero follow.
        if op == "Gelu" and facts.get("approximate", b"none") == b"none":
            return self._algebra.multiplied(self._unary("Erf", {}, x, 0.5**0.5, (0.5, 0.5)), x)
        if op == "HardSwish":
            return self._algebra.multiplied(self._unary("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}, x), x)
        if op == "Swish":
            return self._algebra.multiplied(self._unary("Sigmoid", {}, x, float(facts.get("alpha", 1.0))), x)
        for place_of, value in enumerate(node.inputs[1:], 1):
            array = constant(value) if value is not None else None
            if value is not None and (array is None or array.size > 1):
                raise Unsupported(f"{op} with inputs that are no numbers")
            facts[f"input {place_of}"] = None if array is None else float(array.reshape(-1)[0])
        return self._unary(op, facts, x)

    def _unary(
        self,
        op: str,
        facts: Mapping[str, Any],
        x: Expression,
        inner: float = 1.0,
        outer: tuple[float, float] = (1.0, 0.0),
    ) -> Expression:
        """``outer[0] f(inner x) + outer[1]``."""
        if inner != 1.0:
            x = self._algebra.scaled(x, np.asarray(inner))
        mirror = None if op == "HardSigmoid" and facts.get("beta", 0.5) != 0.5 else _MIRRORS.get(op)
        made = self._algebra.applied(
            (op, *sorted((key, _rounded(value)) for key, value in facts.items())),
            x,
            mirror=mirror,
            idempotent=op in _IDEMPOTENT,
            at_constant=lambda _row, number: 0.0 if number == 0 and op in _ZERO_AT_ZERO else None,
        )
        if outer == (1.0, 0.0):
            return made
        return self._algebra.scaled(made, np.asarray(outer[0]), np.full(made.rows, outer[1]))


def prove(
    parent: ir.Model,
    child: ir.Model,
    values: Sequence[str],
    trusted: Collection[str],
    shapes: Mapping[str, Sequence[int]],
    *,
    unit: float,
) -> dict[str, Any]:
    """Compares the two definitions of each value.

    Args:
        parent: The parent.
        child: The child.
        values: Names of values that are defined otherwise in the child, of the same shape in both.
        trusted: Names of values of the same meaning and shape in both models, on which definitions may rest.
        shapes: Shapes that values had in a run.
        unit: Relative error of one rounding of the weights' type.

    Returns:
        ``proved`` of how many values (``of``), the largest ``residual`` with its ``rounding_bound``, and the values.
    """
    algebra = Algebra(unit, _MULTIPLICATIONS)
    entries: list[dict[str, Any]] = []
    for name in values:
        place = _place(parent, name, shapes)
        bases = set(trusted) - {name}
        try:
            if place is None:
                raise Unsupported("an unknown shape")
            before = _Reader(parent, bases, shapes, algebra).definition(name, place)
            after = _Reader(child, bases, shapes, algebra).definition(name, place)
            residual, bound = algebra.distance(before, after)
            if residual > _MARGIN * bound and algebra.respelled(before, after):
                raise Unsupported("values that may be the same in two spellings")
            entries.append({"value": name, "residual": residual, "rounding_bound": bound})
        except Unsupported as reason:
            entries.append({"value": name, "reason": str(reason)})
            if isinstance(reason, TooLarge):
                entries += [{"value": left, "reason": str(reason)} for left in values[len(entries) :]]
                break
        except (OnnxMorphError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            entries.append({"value": name, "reason": "shapes that the algebra does not follow"})
    done = [entry for entry in entries if "residual" in entry]
    worst = max(done, key=_off, default=None)
    listed = sorted(entries, key=_off, reverse=True)[:_LISTED]
    return {
        "proved": len(done),
        "of": len(entries),
        "residual": worst["residual"] if worst else 0.0,
        "rounding_bound": worst["rounding_bound"] if worst else 0.0,
        "values": [entry for entry in entries if entry in listed],
    }


def _off(entry: Mapping[str, Any]) -> float:
    """How many times what rounding explains a value is off by; less than nothing where that is not known."""
    return float(entry["residual"] / max(entry["rounding_bound"], 1e-300)) if "residual" in entry else -1.0


def _place(parent: ir.Model, name: str, shapes: Mapping[str, Sequence[int]]) -> _Place | None:
    """How the channels of a value lie, told by the layers it comes from."""
    shape = shapes.get(name)
    if shape is None or len(shape) < 2:
        return None
    node = next((node for node in parent.graph if any(output.name == name for output in node.outputs)), None)
    axis = 1 if len(shape) > 3 else -1
    for _ in range(8):
        if node is None:
            break
        if node.op_type in ("Conv", "BatchNormalization", "MaxPool", "AveragePool", "GlobalAveragePool"):
            axis = 1
            break
        if node.op_type in ("MatMul", "Gemm", "LayerNormalization"):
            axis = -1
            break
        value = next((value for value in node.inputs if value is not None and constant(value) is None), None)
        node = value.producer() if value is not None else None
    spatial = len(shape) - 2 if axis == 1 else 0
    return _Place(axis if spatial else -1, int(shape[axis]), spatial)


# -- attributes and constants -----------------------------------------------------------------------------------------


def _weight(value: ir.Value | None) -> Array:
    array = constant(value)
    if array is None:
        raise Unsupported("a weight that is no constant")
    if array.size > _MOST_WEIGHTS:
        raise TooLarge(f"a weight of {array.size} numbers")
    return array


def _bias(node: ir.Node, place: int) -> Array | None:
    if len(node.inputs) <= place or node.inputs[place] is None:
        return None
    array = _weight(node.inputs[place]).astype(np.float64)
    if array.size != max(array.shape, default=1):
        raise Unsupported("a bias of several rows")
    return array.reshape(-1)


def _per_channel(array: Array, rows: int, place: _Place) -> Array:
    """A constant that is broadcast against a value, as one number a channel."""
    array = np.asarray(array, np.float64)
    if array.size == 1:
        return np.full(rows, float(array.reshape(-1)[0]))
    behind = place.spatial + 1 if place.axis == 1 else 1
    if array.size != rows or array.ndim < behind or array.shape[array.ndim - behind] != rows:
        raise Unsupported("a constant that differs from place to place")
    return array.reshape(-1)


def _facts(node: ir.Node) -> dict[str, Any]:
    """Attributes of a node, those left out as their operator's definition has them."""
    import onnx

    facts: dict[str, Any] = {}
    try:
        for name, attribute in onnx.defs.get_schema(node.op_type, "").attributes.items():
            if attribute.default_value.type:
                facts[name] = onnx.helper.get_attribute_value(attribute.default_value)
    except onnx.defs.SchemaError:
        pass
    for name, given in node.attributes.items():
        facts[name] = given.as_string().encode() if given.type == ir.AttributeType.STRING else given.value
    return {name: list(value) if isinstance(value, tuple) else value for name, value in facts.items()}


def _rounded(value: Any) -> Any:
    """A parameter as it identifies a function: to the digits that float32 keeps."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _int(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _float(node: ir.Node, name: str, default: float) -> float:
    return float(node.attributes[name].as_float()) if name in node.attributes else default


def _ints(node: ir.Node, name: str, default: Sequence[int]) -> list[int]:
    return list(node.attributes[name].as_ints()) if name in node.attributes else list(default)


def _pads(
    node: ir.Node, spatial: int, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """Padding in front of each axis."""
    mode = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    if mode in ("NOTSET", ""):
        return _ints(node, "pads", [0] * (2 * spatial))[:spatial]
    if mode == "VALID":
        return [0] * spatial
    if any(stride != 1 for stride in strides):
        raise Unsupported("padding that depends on the size")
    widths = [(size - 1) * dilation for size, dilation in zip(kernel, dilations, strict=True)]
    return [width // 2 if mode == "SAME_UPPER" else width - width // 2 for width in widths]
