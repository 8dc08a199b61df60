"""Recognise one activation, however an exporter spelled it.

Exporters differ in the order of factors, in opset, in constants rounded to the model's type, and new ones come every
year, so nodes are not matched by pattern. An elementwise region behind the value is *run*, in float64, on points of
both signs from 1e-8 to 1e30 and around every constant in it; what it computes is compared with the table of known
activations, whose free parameters (slope, alpha, bounds) are read off the same function. The largest region that agrees
with a row is the activation; of several that agree with the same row (a Dropout behind it), the smallest.

A region that agrees with nothing is not an activation for our purposes, though it is elementwise: it might as well be a
scale and shift of a normalisation. The answer is then ``None``, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from onnxmorph.graph.activations.activation import Activation, canonical
from onnxmorph.graph.activations.elementwise import attribute, text_attribute
from onnxmorph.graph.activations.functions import KINDS, SELU_ALPHA, SELU_GAMMA, Array, Parameter
from onnxmorph.graph.activations.regions import Region, is_float, regions

if TYPE_CHECKING:
    from onnxmorph._ir import ir

__all__ = ["match", "recognise"]

_Fit: TypeAlias = "Mapping[str, Parameter]"

_FAR = 1e30
_HALF_LINE = np.concatenate(
    [
        [1e-8, 1e-4, 1e-3, 1e-2],
        np.arange(1, 65) / 8.0,
        [8.6, 9.3, 10.0, 13.0, 20.0, 37.0, 50.0, 80.0, 127.5, 1e3, 1e4, 1e6, 1e12, _FAR],
    ]
)
_POINTS = np.concatenate([-_HALF_LINE[::-1], [0.0], _HALF_LINE])
_GLANCE = np.array([-_FAR, -3.7, -1.3, -0.4, 0.0, 0.3, 0.9, 2.2, 4.6])
"""A few points that tell most functions apart, before all are looked at."""

_TOLERANCES = {"DOUBLE": 5e-5, "FLOAT": 5e-5, "FLOAT16": 2e-3, "BFLOAT16": 1.6e-2}
"""How far a spelled-out function may be from the exact one, relative to its size.

1/6, sqrt(2), 0.044715 stored in float16 are off by up to 5e-4 and in bfloat16 by 4e-3; in float32, exporters write
0.16667 or 0.7071.
"""


def recognise(
    value: ir.Value, *, shape: Sequence[object] | None = None, ir_version: int | None = None
) -> Activation | None:
    """The activation that consumes ``value``, if any; ``value`` may have other consumers too.

    Args:
        value: What the activation would be applied to, typically the output of a layer or of its normalisation.
        shape: Shape of ``value`` where the caller knows it better than the file does.
        ir_version: The model's. Before 4 every initializer is a graph input, and only then does such a one count as
            constant.

    Returns:
        The activation with ``input``, ``output`` and ``nodes`` set, or ``None`` when nothing, something unknown, or two
        different activations consume the value.
    """
    if not is_float(value):
        return None
    found: list[Activation] = []
    for region in regions(value, shape=shape, ir_version=ir_version):
        activation = _of_one_node(region) if len(region.nodes) == 1 else _matched_before(region)
        if activation is not None:
            found.append(Activation(activation.name, activation.parameters, region.input, region.output, region.nodes))
    if not found:
        return None
    best = max(found, key=lambda activation: len(activation.nodes))
    if any(not set(other.nodes) <= set(best.nodes) and not other.same_as(best) for other in found):
        return None
    same = [other for other in found if set(other.nodes) <= set(best.nodes) and other.same_as(best)]
    smallest = min(same, key=lambda activation: len(activation.nodes))
    # An Identity or Dropout alone is no activation.
    return None if smallest.name == "Identity" else smallest


def _of_one_node(region: Region) -> Activation | None:
    """An operator that is an activation by itself, its parameters read from where they are written."""
    (node,) = region.nodes
    name = node.op_type
    if name == "PRelu":
        slope = next(iter(region.constants.values()), None)
        if slope is None or node.inputs[0] is not region.input:
            return None
        return canonical("PRelu", {"slope": _number(slope)})
    if name == "Clip":
        bounds = {}
        for place, (key, default) in enumerate((("min", -math.inf), ("max", math.inf)), start=1):
            given = node.inputs[place] if len(node.inputs) > place else None
            if given is region.input or (given is not None and region.constants[given].size != 1):
                return None
            # Opset 6 writes the bounds as the largest float32 where there is none.
            bound = attribute(node, key, default) if given is None else float(region.constants[given].reshape(()))
            bounds[key] = default if abs(bound) >= _largest(region.input) else bound
        return None if bounds["min"] >= bounds["max"] else canonical("Clip", bounds)
    if name == "Gelu":
        tanh = text_attribute(node, "approximate", "none") == "tanh"
        return Activation("GeluTanh" if tanh else "Gelu")
    if name == "FastGelu":
        return Activation("GeluTanh")
    if name in {"QuickGelu", "Swish"}:
        return canonical("QuickGelu", {"alpha": attribute(node, "alpha", 1.702 if name == "QuickGelu" else 1.0)})
    if name in _BY_ATTRIBUTES:
        return canonical(name, {key: attribute(node, key, default) for key, default in _BY_ATTRIBUTES[name].items()})
    # Max(x, 0), Min(x, 6), Mul(x, x) ... : by what it computes.
    return _matched_before(region)


_BY_ATTRIBUTES: dict[str, dict[str, float]] = {
    "Relu": {},
    "LeakyRelu": {"alpha": 0.01},
    "Sigmoid": {},
    "Tanh": {},
    "Elu": {"alpha": 1.0},
    "Selu": {"alpha": SELU_ALPHA, "gamma": SELU_GAMMA},
    "Celu": {"alpha": 1.0},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "HardSwish": {},
    "Softsign": {},
    "Mish": {},
    "ThresholdedRelu": {"alpha": 1.0},
    "Shrink": {"lambd": 0.5, "bias": 0.0},
    "Abs": {},
    "Sin": {},
}


def _largest(value: ir.Value) -> float:
    """Largest number of the value's type; float32's where it is not known."""
    if value.dtype is not None and value.dtype.name == "FLOAT16":
        return 65504.0
    return 3.4028234e38


def _number(array: Array) -> Parameter:
    return float(array.reshape(())) if array.size == 1 else array


_matches: dict[tuple[object, ...], Activation | None] = {}
_MOST_MATCHES = 4096


def _matched_before(region: Region) -> Activation | None:
    """`match`, once per spelling."""
    signature = region.signature()
    if signature is None:
        return match(region)
    if signature not in _matches:
        if len(_matches) >= _MOST_MATCHES:
            _matches.clear()
        try:
            _matches[signature] = match(region)
        except (IndexError, KeyError, TypeError, ValueError):
            # An operator with inputs or attributes that it does not allow is no activation; ONNX Runtime says so later.
            _matches[signature] = None
    return _matches[signature]


def match(region: Region) -> Activation | None:
    """The row of the table that ``region`` computes, or ``None``."""
    name = region.input.dtype.name if region.input.dtype is not None else "FLOAT"
    tolerance = _TOLERANCES.get(name, 5e-5)
    numbers = region.numbers()
    glance = region(_GLANCE)
    if region.trailing_shape:
        flat = glance.reshape(len(_GLANCE), -1)
        if not bool(np.all(flat == flat[:, :1])):
            return _per_channel(region, tolerance)

    def function(x: float) -> float:
        return float(region(np.array([x])).reshape(-1)[0])

    points = np.unique(np.concatenate([_POINTS, _around(numbers)]))
    everywhere: Array | None = None
    best: tuple[float, Activation] | None = None
    for kind, parameters in _candidates(function, numbers):
        activation = Activation(kind, parameters)
        if _error(_GLANCE, glance.reshape(len(_GLANCE), -1)[:, 0], activation) > 4 * tolerance:
            continue
        if everywhere is None:
            computed = region(points).reshape(len(points), -1)
            if not bool(np.all((computed == computed[:, :1]) | np.isnan(computed))):
                return None
            everywhere = computed[:, 0]
        error = _error(points, everywhere, activation)
        if error <= tolerance and (best is None or error < best[0]):
            best = (error, activation)
    if best is None:
        return None
    return canonical(best[1].name, best[1].parameters)


def _around(numbers: Sequence[float]) -> Array:
    """Both signs of every number, and points close by."""
    near = [number * factor for number in numbers for factor in (-1.0, 1.0)]
    return np.array([point * (1.0 + step) for point in near for step in (-1e-3, 0.0, 1e-3)])


def _error(points: Array, computed: Array, activation: Activation) -> float:
    """Largest distance from the table's function, relative to ``max(|phi(x)|, s)``, s the largest value on [-8, 8].

    Far from 0 a spelled-out form may overflow where the function does not (``log(1 + exp(x))``); beyond 80, where that
    begins, what is not finite is left out, and nothing else is.
    """
    usual = float(np.max(np.abs(computed[np.abs(points) <= 8.0])))
    if not math.isfinite(usual):
        return math.inf
    with np.errstate(all="ignore"):
        exact = activation(points)
        scale = np.maximum(np.abs(exact), max(usual, 1e-30))
        distance = np.abs(computed - exact) / scale
    # phi(0) is stated exactly (a dead channel gives it), and no rounded constant moves it in any spelling.
    if bool(np.any(distance[points == 0.0] > 1e-9)):
        return math.inf
    overflow = ~np.isfinite(computed) & (np.abs(points) > 80.0)
    distance[overflow | (computed == exact)] = 0.0
    return float("inf") if bool(np.isnan(distance).any()) else float(distance.max())


def _per_channel(region: Region, tolerance: float) -> Activation | None:
    """The one activation with parameters per channel: PReLU, ``x`` above 0 and ``s_c x`` below."""
    slope = -region(np.array([-1.0]))[0]
    activation = canonical("PRelu", {"slope": slope})
    points = np.unique(np.concatenate([_POINTS, _around(region.numbers())]))
    computed = region(points)
    with np.errstate(all="ignore"):
        exact = activation(points.reshape(points.shape + (1,) * slope.ndim))
        agrees = np.abs(computed - exact) <= tolerance * np.abs(exact)
    return activation if bool(np.all(agrees)) else None


def _candidates(function: Callable[[float], float], numbers: Sequence[float]) -> Iterator[tuple[str, _Fit]]:
    """Every row of the table with the parameters it would need to agree with ``function``."""
    for name, kind in KINDS.items():
        if not kind.defaults:
            yield name, {}
    low, high = function(-_FAR), function(_FAR)
    at_0, at_1, at_minus_1 = function(0.0), function(1.0), function(-1.0)
    if math.isfinite(at_minus_1):
        yield "LeakyRelu", {"alpha": _snap(-at_minus_1, numbers)}
    bounds = {"min": -math.inf if low <= -_FAR / 2 else low, "max": math.inf if high >= _FAR / 2 else high}
    if bounds["min"] < bounds["max"] and low < _FAR / 2 and high > -_FAR / 2:
        yield "Clip", bounds
    if math.isfinite(low) and low < 0.0:
        yield "Elu", {"alpha": _snap(-low, numbers)}
        yield "Celu", {"alpha": _snap(-low, numbers)}
        if at_1 > 0.0:
            yield "Selu", {"alpha": _snap(-low / at_1, numbers), "gamma": _snap(at_1, numbers)}
    if 0.0 < at_0 < 1.0:
        step = 1e-3
        slope = (function(step) - function(-step)) / (2.0 * step)
        if slope > 0.0:
            yield "HardSigmoid", {"alpha": _snap(slope, numbers), "beta": _snap(at_0, numbers)}
    if 0.0 < at_0 < 1e3:
        yield "Softplus", {"beta": _snap(math.log(2.0) / at_0, numbers)}
    if 0.0 < at_1 < 1.0 and at_1 != 0.5:  # at a half, alpha would be 0 and the function a line
        yield "QuickGelu", {"alpha": _snap(math.log(at_1 / (1.0 - at_1)), numbers)}
    for number in numbers:
        yield "ThresholdedRelu", {"alpha": number}
        if number > 0.0:
            far = 4.0 * number
            yield "Shrink", {"lambd": number, "bias": _snap(far - function(far), numbers)}


def _snap(fitted: float, numbers: Sequence[float]) -> float:
    """The number written in the graph (or its inverse, or its negative) that a fitted parameter can only be."""
    for number in (1.0, *numbers):
        for written in (number, -number, 1.0 / number if number else 0.0):
            if written and math.isclose(fitted, written, rel_tol=1e-9):
                return written
    return fitted
