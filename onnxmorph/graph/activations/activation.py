"""One activation: its name, its parameters, where it stands in a graph, and what is true of it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.graph.activations.functions import ALIASES, KINDS, Array, Kind, Parameter

if TYPE_CHECKING:
    from onnxmorph._ir import ir

__all__ = ["Activation", "named"]


@dataclass(frozen=True, eq=False)
class Activation:
    """An elementwise non-linearity, however many nodes the exporter spelled it with.

    Attributes:
        name: Its name in the table of known activations (`onnxmorph.graph.activations.functions.KINDS`).
        parameters: Every parameter. An array has the shape in which it broadcasts against the trailing axes of x, with
            one axis that is not 1, such as ``(C, 1, 1)`` for NCHW.
        input: The value it is applied to, ``None`` for one that was only named.
        output: The value it gives.
        nodes: The nodes that spell it, in order.
    """

    name: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    input: ir.Value | None = None
    output: ir.Value | None = None
    nodes: tuple[ir.Node, ...] = ()

    def __post_init__(self) -> None:
        if set(self.parameters) != set(self.kind.defaults):
            raise ValueError(f"{self.name} takes the parameters {sorted(self.kind.defaults)}")

    @property
    def kind(self) -> Kind:
        """The row of the table this activation is."""
        return KINDS[self.name]

    def __call__(self, x: Array) -> Array:
        """``phi(x)`` in float64, any shape."""
        x = np.asarray(x, dtype=np.float64)
        return np.asarray(self.kind.function(x, **self.parameters), dtype=np.float64)

    def __str__(self) -> str:
        shown = ", ".join(
            f"{value:g}" if isinstance(value, float) else f"per channel, {value.size}"
            for value in self.parameters.values()
        )
        defaults = all(
            isinstance(value, float) and math.isclose(value, self.kind.defaults[key], rel_tol=1e-6)
            for key, value in self.parameters.items()
        )
        return self.name if defaults else f"{self.name}({shown})"

    @property
    def text(self) -> str:
        """What `named` reads back as the same function, parameters to the last digit: ``Clip(min=0.0, max=6.0)``.

        Raises:
            Refusal: A parameter differs per channel (`uniform` has one for all).
        """
        if self.channels is not None:
            raise Refusal(f"{self.name} with a parameter per channel has no short name", code="activation-channels")
        written = ", ".join(f"{key}={value!r}" for key, value in self.parameters.items())
        return f"{self.name}({written})" if written else self.name

    @property
    def odd_slope(self) -> Parameter | None:
        """``c`` with ``phi(x) - phi(-x) = c x`` for all x, else ``None`` (also where c is 0); an array per channel.

        What makes mirror depth exact: ``Z (phi(V x) - phi(-V x)) / c = Z V x``. Proofs stand at the functions in
        `onnxmorph.graph.activations.functions` that give it.
        """
        return self.kind.odd_slope(self.parameters)

    @property
    def idempotent(self) -> bool:
        """``phi(phi(x)) = phi(x)`` for all x: an identity layer with the same activation may follow it."""
        return self.kind.idempotent(self.parameters)

    @property
    def at_zero(self) -> float:
        """``phi(0)``; what a dead channel gives."""
        return float(np.max(self(np.zeros(()))))

    @property
    def saturates(self) -> bool:
        """Whether phi tends to constants at both ends."""
        return self.kind.saturates or (
            self.name == "Clip" and all(math.isfinite(float(bound)) for bound in self.parameters.values())
        )

    def overflows(self, largest: float) -> bool:
        """Whether some finite x gives an infinite ``phi(x)`` in a type whose largest number is ``largest``."""
        return self.kind.overflows(self.parameters, largest)

    @property
    def channels(self) -> int | None:
        """How many channels its parameters are given for, ``None`` when one set serves all."""
        return next((value.size for value in self.parameters.values() if isinstance(value, np.ndarray)), None)

    @property
    def channel_axis(self) -> int | None:
        """The axis of x along which its parameters differ, counted from the end (-3 for NCHW), or ``None``."""
        for value in self.parameters.values():
            if isinstance(value, np.ndarray):
                return next((axis - value.ndim for axis, size in enumerate(value.shape) if size != 1), -value.ndim)
        return None

    def take(self, channels: Sequence[int] | Array) -> Activation:
        """The activation of a child whose channel ``i`` is this one's ``channels[i]``; itself when not per channel."""
        axis = self.channel_axis
        if axis is None:
            return self
        taken = {
            key: np.take(value, np.asarray(channels), axis=axis) if isinstance(value, np.ndarray) else value
            for key, value in self.parameters.items()
        }
        return Activation(self.name, taken)

    def means(self) -> dict[str, float]:
        """Its parameters, one number each: of those per channel the mean, for layers of another width."""
        return {name: float(np.mean(value)) for name, value in self.parameters.items()}

    def uniform(self) -> Activation:
        """The same activation with one parameter for all channels, see `means`."""
        return Activation(self.name, {**self.means()})

    def same_as(self, other: Activation | None, *, tolerance: float = 1e-6) -> bool:
        """Whether both are the same function, parameters compared relative to ``tolerance``."""
        if other is None or other.name != self.name:
            return False
        for key, value in self.parameters.items():
            mine, theirs = np.asarray(value), np.asarray(other.parameters[key])
            if mine.size != 1 and theirs.size != 1 and mine.shape != theirs.shape:
                return False
            if not np.allclose(mine, theirs, rtol=tolerance, atol=tolerance):
                return False
        return True


def canonical(name: str, parameters: Mapping[str, Parameter]) -> Activation:
    """An activation under its simplest name: a Clip from 0 is ReLU, a slope of 0 too, QuickGelu at 1 is SiLU."""
    if name in {"LeakyRelu", "PRelu"}:
        (slope,) = parameters.values()
        if not isinstance(slope, np.ndarray) or slope.size == 1:
            slope = float(np.asarray(slope).reshape(()))
            simple = {0.0: "Relu", 1.0: "Identity", -1.0: "Abs"}.get(slope) if name == "LeakyRelu" else None
            if simple is not None:
                return Activation(simple)
        return Activation(name, {"alpha" if name == "LeakyRelu" else "slope": slope})
    if name == "Clip":
        if parameters["min"] == 0.0 and parameters["max"] == math.inf:
            return Activation("Relu")
        if parameters["min"] == -math.inf and parameters["max"] == math.inf:
            return Activation("Identity")
    if name == "QuickGelu" and parameters["alpha"] == 1.0:
        return Activation("Silu")
    return Activation(name, dict(parameters))


def named(name: str, **parameters: float) -> Activation:
    """An activation from what a person types: ``relu``, ``leaky_relu``, ``silu`` = ``swish``, ``gelu-tanh``, ``relu6``.

    Upper and lower case, ``_``, ``-`` and blanks make no difference. Parameters may be written behind the name, by
    place or by name: ``leaky_relu(0.1)``, ``clip(min=0, max=6)``.

    Raises:
        SelectionError: No such activation (the nearest names are given), or no such parameter.
        Refusal: A parameter outside what makes sense (a Clip with min above max, a Celu with alpha 0).
    """
    text = name.strip()
    written = re.fullmatch(r"\s*([^()]*?)\s*\((.*)\)\s*", text)
    inside = ""
    if written is not None:
        text, inside = written.group(1), written.group(2)
    key = re.sub(r"[\s_\-.]", "", text).lower()
    by_key = {known.lower(): known for known in KINDS}
    if key in by_key:
        found, preset = by_key[key], dict[str, float]()
    elif key in ALIASES:
        found, preset = ALIASES[key][0], dict(ALIASES[key][1])
    else:
        import difflib

        nearest = difflib.get_close_matches(key, [*by_key, *ALIASES], n=3, cutoff=0.6)
        names = [by_key.get(near, near) for near in nearest]
        hint = f"; did you mean {' or '.join(names)}?" if names else f"; known are {', '.join(KINDS)}"
        raise SelectionError(f"no activation is called '{name}'{hint}")
    kind = KINDS[found]
    order = list(kind.defaults)
    given: dict[str, float] = {}
    for place, part in enumerate(filter(None, (piece.strip() for piece in inside.split(",")))):
        label, _, number = part.rpartition("=")
        label = label.strip() or (order[place] if place < len(order) else "")
        try:
            given[label] = float(number)
        except ValueError:
            raise SelectionError(f"'{part}' in '{name}' is not a number") from None
    given.update(parameters)
    strange = sorted(set(given) - set(order))
    if strange:
        takes = f"takes {', '.join(order)}" if order else "takes no parameters"
        raise SelectionError(f"activation {found} {takes}, not '{strange[0] or inside}'")
    values = {key: float(value) for key, value in {**kind.defaults, **preset, **given}.items()}
    _check(found, values)
    return canonical(found, values)


def _check(name: str, values: Mapping[str, float]) -> None:
    if any(math.isnan(value) for value in values.values()):
        raise Refusal(f"a parameter of {name} is not a number", code="bad-activation")
    if name == "Clip":
        if values["min"] == -math.inf and values["max"] == math.inf:
            raise SelectionError("Clip needs bounds: write clip(0, 6), or clip(min=0)")
        if values["min"] > values["max"]:
            raise Refusal(f"Clip from {values['min']:g} to {values['max']:g} is empty", code="bad-activation")
        return
    if any(math.isinf(value) for value in values.values()):
        raise Refusal(f"a parameter of {name} is infinite", code="bad-activation")
    if (name == "Celu" and values["alpha"] == 0.0) or (name == "Softplus" and values["beta"] <= 0.0):
        raise Refusal(f"{name} divides by its parameter, which is {min(values.values()):g}", code="bad-activation")
