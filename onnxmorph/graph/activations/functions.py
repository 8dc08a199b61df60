"""The activations that are known, each as a function with its properties; arrays only, no graph.

A property is stated where it can be proved; the proof stands in the docstring of the function that states it. The one
that matters most is the linear odd part: ``phi(x) - phi(-x) = c x`` for all x. It lets a non-linear layer be inserted
exactly with the plain activation (mirror depth).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

__all__ = ["ALIASES", "KINDS", "Array", "Kind", "Parameter", "Parameters", "erf"]

Array: TypeAlias = "np.ndarray"
Parameter: TypeAlias = "float | np.ndarray"
Parameters: TypeAlias = "Mapping[str, Parameter]"

SELU_ALPHA = 1.67326319217681884765625
SELU_GAMMA = 1.05070102214813232421875
QUICK_GELU_ALPHA = 1.702
SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
GELU_CUBIC = 0.044715

_erf_of_each = np.frompyfunc(math.erf, 1, 1)


def erf(x: Array) -> Array:
    """The error function, elementwise in float64 (a table of scipy's would cost half a second of start-up)."""
    return np.asarray(_erf_of_each(np.asarray(x, dtype=np.float64))).astype(np.float64)


def sigmoid(x: Array) -> Array:
    """``1 / (1 + exp(-x))`` without overflow."""
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, small) / (1.0 + small))


def softplus(x: Array) -> Array:
    """``log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|))``, without overflow."""
    return np.asarray(np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x))))


def _prelu(x: Array, slope: Parameter) -> Array:
    return np.where(x < 0, slope * x, x)


def _leaky_relu(x: Array, alpha: Parameter) -> Array:
    return _prelu(x, alpha)


def _elu(x: Array, alpha: Parameter) -> Array:
    return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0.0)), x)


def _celu(x: Array, alpha: Parameter) -> Array:
    return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0.0) / alpha), x)


def _selu(x: Array, alpha: Parameter, gamma: Parameter) -> Array:
    return gamma * _elu(x, alpha)


def _hard_sigmoid(x: Array, alpha: Parameter, beta: Parameter) -> Array:
    return np.clip(alpha * x + beta, 0.0, 1.0)


def _gelu(x: Array) -> Array:
    return 0.5 * x * (1.0 + erf(x / math.sqrt(2.0)))


def _gelu_tanh(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(0.5 * x * (1.0 + np.tanh(SQRT_2_OVER_PI * (x + GELU_CUBIC * x * x * x))))


def _shrink(x: Array, lambd: Parameter, bias: Parameter) -> Array:
    return np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0.0))


def _odd_relu_like(parameters: Parameters) -> Parameter | None:
    """``phi(x) = x`` for x >= 0 and ``s x`` below. For x > 0: ``phi(x) - phi(-x) = x - s(-x) = (1+s) x``; odd in x."""
    slope = parameters.get("slope", parameters.get("alpha", 0.0))
    odd = 1.0 + slope
    return None if bool(np.any(np.asarray(odd) == 0.0)) else odd


def _odd_gated(_: Parameters) -> Parameter | None:
    """``phi(x) = x g(x)`` with ``g(x) + g(-x) = 1``: ``phi(x) - phi(-x) = x g(x) + x g(-x) = x``.

    g is the normal distribution function (GELU: ``(1+erf(x/sqrt 2))/2``), ``(1+tanh(u))/2`` with odd u (tanh GELU), a
    sigmoid (SiLU, QuickGelu: ``s(kx) + s(-kx) = 1``) or ``clip(x/6 + 1/2, 0, 1)`` (HardSwish).
    """
    return 1.0


def _odd_softplus(_: Parameters) -> Parameter | None:
    """``log(1+e^(bx))/b - log(1+e^(-bx))/b = log(e^(bx))/b = x``; the same for ``-softplus(-x)`` (LogSigmoid)."""
    return 1.0


def _odd_identity(_: Parameters) -> Parameter | None:
    """``x - (-x) = 2 x``."""
    return 2.0


def _odd_clip(parameters: Parameters) -> Parameter | None:
    """One-sided at 0 only: ``max(x, 0)`` is ReLU, and ``min(x, 0) - min(-x, 0) = x``; other bounds break the line."""
    low, high = parameters["min"], parameters["max"]
    return 1.0 if (low, high) in {(0.0, math.inf), (-math.inf, 0.0)} else None


def _never(_: Parameters) -> Parameter | None:
    """No c exists: phi(x) - phi(-x) grows otherwise than linearly (bounded, exponential or cubic near 0)."""
    return None


def _idempotent_prelu(parameters: Parameters) -> bool:
    """``phi(phi(x)) = s s x`` below 0 for s >= 0, so s must be 0 or 1; a negative s flips the sign: ``s x >= 0`` stays.

    For s < 0 and x < 0, ``phi(x) = s x > 0`` and ``phi(phi(x)) = s x = phi(x)``: idempotent as well (s = -1 is abs).
    """
    slope = np.asarray(parameters.get("slope", parameters.get("alpha", 0.0)))
    return bool(np.all((slope <= 0.0) | (slope == 1.0)))


def _always(_: Parameters) -> bool:
    return True


def _not_idempotent(_: Parameters) -> bool:
    return False


def _idempotent_thresholded(parameters: Parameters) -> bool:
    """Values are 0 or above alpha. 0 stays 0 unless alpha < 0 (then 0 > alpha, kept as 0): always idempotent."""
    return bool(np.all(np.isfinite(np.asarray(parameters["alpha"]))))


def _idempotent_shrink(parameters: Parameters) -> bool:
    """Hard shrinkage (no bias) keeps what it kept."""
    return bool(np.all(np.asarray(parameters["bias"]) == 0.0))


def _bounded(_: Parameters, __: float) -> bool:
    """``|phi(x)| <= max(|x|, C)`` with C in range: a finite number never becomes infinite."""
    return False


def _overflow_slope(parameters: Parameters, _: float) -> bool:
    """``s x`` leaves the range for the largest x where ``|s| > 1``."""
    return bool(np.any(np.abs(np.asarray(parameters.get("slope", parameters.get("alpha", 0.0)))) > 1.0))


def _overflow_selu(parameters: Parameters, _: float) -> bool:
    """``gamma x`` leaves the range within 5 % of its end where ``gamma > 1``."""
    return bool(np.any(np.abs(np.asarray(parameters["gamma"])) > 1.0))


def _overflow_shrink(parameters: Parameters, _: float) -> bool:
    """``x + bias`` moves away from 0 where bias < 0."""
    return bool(np.any(np.asarray(parameters["bias"]) < 0.0))


def _overflow_softplus(parameters: Parameters, _: float) -> bool:
    """``beta x`` leaves the range for the largest x where ``beta > 1``, before it is divided by beta again."""
    return bool(np.any(np.asarray(parameters["beta"]) > 1.0))


def _overflow_square(_: Parameters, __: float) -> bool:
    """``x²`` leaves float16 from x = 256 and float32 from 1.8e19."""
    return True


@dataclass(frozen=True)
class Kind:
    """One known activation.

    Attributes:
        name: Its name: the ONNX operator where there is one.
        function: Float64 reference ``(x, **parameters)``; per-channel parameters broadcast against the trailing axes.
        defaults: Every parameter with its default.
        odd_slope: ``c`` with ``phi(x) - phi(-x) = c x`` for all x, or ``None``.
        idempotent: Whether ``phi(phi(x)) = phi(x)`` for all x.
        overflows: Whether a finite x can give an infinite phi(x), given the largest number of the type.
        saturates: Whether phi is constant (or tends to a constant) at both ends, so that gradients die there.
    """

    name: str
    function: Callable[..., Array]
    defaults: Mapping[str, float] = field(default_factory=dict)
    odd_slope: Callable[[Parameters], Parameter | None] = _never
    idempotent: Callable[[Parameters], bool] = _not_idempotent
    overflows: Callable[[Parameters, float], bool] = _bounded
    saturates: bool = False


_TABLE = (
    Kind("Identity", lambda x: x + 0.0, odd_slope=_odd_identity, idempotent=_always),
    Kind("Relu", lambda x: np.maximum(x, 0.0), odd_slope=_odd_relu_like, idempotent=_always),
    Kind(
        "LeakyRelu",
        _leaky_relu,
        {"alpha": 0.01},
        odd_slope=_odd_relu_like,
        idempotent=_idempotent_prelu,
        overflows=_overflow_slope,
    ),
    Kind(
        "PRelu",
        _prelu,
        {"slope": 0.25},
        odd_slope=_odd_relu_like,
        idempotent=_idempotent_prelu,
        overflows=_overflow_slope,
    ),
    Kind(
        "Clip",
        lambda x, min, max: np.minimum(np.maximum(x, min), max),
        {"min": -math.inf, "max": math.inf},
        odd_slope=_odd_clip,
        # What lies between the bounds stays there.
        idempotent=_always,
    ),
    Kind("Sigmoid", sigmoid, saturates=True),
    Kind("Tanh", np.tanh, saturates=True),
    Kind("Elu", _elu, {"alpha": 1.0}),
    Kind("Selu", _selu, {"alpha": SELU_ALPHA, "gamma": SELU_GAMMA}, overflows=_overflow_selu),
    Kind("Celu", _celu, {"alpha": 1.0}),
    Kind("HardSigmoid", _hard_sigmoid, {"alpha": 0.2, "beta": 0.5}, saturates=True),
    Kind("HardSwish", lambda x: x * _hard_sigmoid(x, 1.0 / 6.0, 0.5), odd_slope=_odd_gated),
    Kind(
        "Softplus",
        lambda x, beta: softplus(beta * x) / beta,
        {"beta": 1.0},
        odd_slope=_odd_softplus,
        overflows=_overflow_softplus,
    ),
    Kind("LogSigmoid", lambda x: -softplus(-x), odd_slope=_odd_softplus),
    Kind("Softsign", lambda x: x / (1.0 + np.abs(x)), saturates=True),
    Kind("Mish", lambda x: x * np.tanh(softplus(x))),
    Kind("Gelu", _gelu, odd_slope=_odd_gated),
    Kind("GeluTanh", _gelu_tanh, odd_slope=_odd_gated),
    Kind("Silu", lambda x: x * sigmoid(x), odd_slope=_odd_gated),
    Kind("QuickGelu", lambda x, alpha: x * sigmoid(alpha * x), {"alpha": QUICK_GELU_ALPHA}, odd_slope=_odd_gated),
    Kind(
        "ThresholdedRelu",
        lambda x, alpha: np.where(x > alpha, x, 0.0),
        {"alpha": 1.0},
        idempotent=_idempotent_thresholded,
    ),
    Kind("Shrink", _shrink, {"lambd": 0.5, "bias": 0.0}, idempotent=_idempotent_shrink, overflows=_overflow_shrink),
    Kind("Tanhshrink", lambda x: x - np.tanh(x)),
    Kind("SquaredRelu", lambda x: np.square(np.maximum(x, 0.0)), overflows=_overflow_square),
    Kind("Square", np.square, overflows=_overflow_square),
    Kind("Abs", np.abs, idempotent=_always),
    Kind("Sin", np.sin),
)

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _TABLE}

ALIASES: Mapping[str, tuple[str, Mapping[str, float]]] = {
    "none": ("Identity", {}),
    "linear": ("Identity", {}),
    "relu6": ("Clip", {"min": 0.0, "max": 6.0}),
    "hardtanh": ("Clip", {"min": -1.0, "max": 1.0}),
    "lrelu": ("LeakyRelu", {}),
    "swish": ("Silu", {}),
    "gelunew": ("GeluTanh", {}),
    "fastgelu": ("GeluTanh", {}),
    "gelufast": ("GeluTanh", {}),
    "gelupytorchtanh": ("GeluTanh", {}),
    "geluexact": ("Gelu", {}),
    "geluerf": ("Gelu", {}),
    "quickgelu": ("QuickGelu", {}),
    "hswish": ("HardSwish", {}),
    "hsigmoid": ("HardSigmoid", {"alpha": 1.0 / 6.0}),
    "relu2": ("SquaredRelu", {}),
    "logistic": ("Sigmoid", {}),
}
"""What people type, lower case without ``_``, ``-`` and blanks, beside the names themselves."""
