"""Spell an activation in a model's own opset and type, with standard operators only.

`emit` writes the function itself. `emit_parametric` writes ``phi_a(x) = (1-a) phi(x) + a x`` (Network Morphism, Wei et
al., ICML 2016, eq. 9), where ``a`` is an initializer that can be trained: a = 1 is the identity, a = 0 is phi.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxmorph.errors import Refusal
from onnxmorph.graph.activations.activation import Activation
from onnxmorph.graph.activations.functions import GELU_CUBIC, SQRT_2_OVER_PI, Array, Parameter
from onnxmorph.graph.constants import chain

if TYPE_CHECKING:
    from onnxmorph._ir import ir
    from onnxmorph.edit import Builder

__all__ = ["emit", "emit_parametric", "why_not_emit"]


_NOT_IN_DOUBLE = frozenset(
    {
        *("Erf", "Gelu", "Elu", "Selu", "Softplus", "Softsign", "HardSigmoid", "HardSwish", "Mish"),
        *("PRelu", "LeakyRelu", "ThresholdedRelu"),
    }
)
"""Operators that ONNX defines for double and ONNX Runtime does not run in it: a child with one could not be loaded."""


def why_not_emit(activation: Activation, opset: int, dtype: ir.DataType) -> Refusal | None:
    """Why `emit` could not spell ``activation`` in this opset and type, or ``None`` when it can; changes nothing.

    For plans, which must know before anything is edited. Tried on a model of one value.
    """
    from onnxmorph._ir import ir
    from onnxmorph.edit import Builder

    x = ir.Value(name="x", type=ir.TensorType(dtype))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": opset}, name="trial")
    try:
        emit(Builder(ir.Model(graph, ir_version=8), graph), activation, x)
    except Refusal as refusal:
        return refusal
    return None


def emit(
    build: Builder,
    activation: Activation,
    x: ir.Value,
    *,
    output_name: str | None = None,
    channels: int | None = None,
    label: str | None = None,
    dtype: ir.DataType | None = None,
) -> ir.Value:
    """Insert ``phi(x)``, exact to the rounding of the type.

    Args:
        build: Where the nodes go.
        activation: Which function; the parent's own spelling is not copied, only the function.
        x: What it is applied to.
        output_name: Wanted name of the result.
        channels: Channels of x, where the caller knows them; per-channel parameters must be as many.
        label: Stem for the names of new nodes and initializers; default, the wanted output's name or x's.
        dtype: Element type of x, where x does not say.

    Raises:
        Refusal: The scope's opset cannot spell the function in this type, or the channels do not fit.
    """
    if channels is not None and activation.channels not in (None, channels):
        raise Refusal(
            f"{activation.name} has parameters for {activation.channels} channels, not for {channels}",
            way_out="use one parameter for all channels",
            code="activation-channels",
        )
    spell = _Speller(build, x, label or output_name or _name(x), dtype, output_name)
    return spell.activation(activation)


def emit_parametric(
    build: Builder,
    activation: Activation,
    x: ir.Value,
    *,
    a: float | Array,
    per_channel: bool,
    channels: int,
    channel_axis: int,
    rank: int,
    label: str | None = None,
    output_name: str | None = None,
    dtype: ir.DataType | None = None,
    kept: ir.Value | None = None,
) -> ir.Value:
    """Insert ``phi_a(x) = (1-a) phi(x) + a x`` with a trainable initializer ``{label}.a``.

    Forms, by activation:

    * ReLU: ``PRelu(x, slope=a)``, since ``(1-a) max(x,0) + a x`` is x above 0 and ``a x`` below.
    * LeakyReLU, PReLU of slope s: ``PRelu(x, slope = a + (1-a) s)``; a = 1 gives slope 1, a = 0 gives s, exactly.
    * every other: ``(1-a) * phi(x) + a * x``. At a = 1 this is ``0 * phi(x) + x``, exactly x wherever phi(x) is finite.
      Where phi can overflow for a finite x (SELU, squared ReLU, Shrink, a steep Softplus), phi(x) is clipped to the
      finite numbers of the type when a starts at 1. At a = 0 it is ``phi(x) + 0 * x``, exactly phi(x) for finite x.
      The often-seen ``x + (1-a)(phi(x) - x)`` is not used: at a = 0 it rounds twice.

    Everywhere d/da = x - phi(x). For infinite x, ``0 * inf`` is not a number in every form, as in training frameworks.

    Where the activation was found in a graph as a region of several nodes and ``a`` starts below 1, those nodes are
    copied, so that a = 0 keeps the parent's function to the last bit, rounded constants and all. At a = 1 phi does not
    count yet, and the plain spelling is used, which is known to give no NaN for any finite x.

    Args:
        build: Where the nodes go.
        activation: phi.
        x: What it is applied to.
        a: Start value; an array has one number per channel.
        per_channel: One ``a`` per channel, or one for all (of shape ``(1,)``).
        channels: Channels of x.
        channel_axis: Which axis of x they are, negative from the end allowed.
        rank: Rank of x.
        label: Stem of the names; default, the wanted output's name or x's.
        output_name: Wanted name of the result.
        dtype: Element type of x, where x does not say.
        kept: What ``a`` weighs instead of x, shaped like x: with the output of another activation psi of x, this is
            ``(1-a) phi(x) + a psi(x)``, which grows from psi at a = 1 toward phi.

    Raises:
        Refusal: The scope's opset cannot spell it in this type.
        ValueError: ``a`` has another number of elements than there are channels, or the axis is outside the rank.
    """
    axis = channel_axis + rank if channel_axis < 0 else channel_axis
    if not 0 <= axis < rank:
        raise ValueError(f"axis {channel_axis} is outside rank {rank}")
    start = np.asarray(a, dtype=np.float64)
    if per_channel:
        shape = (channels,) + (1,) * (rank - 1 - axis)
        start = np.array(np.broadcast_to(start.reshape(-1), (channels,))).reshape(shape)
    elif start.size == 1:
        start = start.reshape(1)
    else:
        raise ValueError("one number is needed where a is shared by all channels")
    if activation.channels not in (None, channels):
        raise Refusal(
            f"{activation.name} has parameters for {activation.channels} channels, not for {channels}",
            code="activation-channels",
        )
    spell = _Speller(build, x, label or output_name or _name(x), dtype, output_name)
    return spell.parametric(activation, start, kept)


def _name(value: ir.Value) -> str:
    return value.name or "activation"


def _type_of(value: ir.Value) -> ir.DataType | None:
    """The element type of ``value``: its own, else that of a float operand of the nodes that make it."""
    waiting, seen = [value], 0
    while waiting and seen < 64:
        here = waiting.pop(0)
        seen += 1
        if here.dtype is not None:
            if here.dtype.is_floating_point():
                return here.dtype
            continue
        if here.const_value is not None and here.const_value.dtype.is_floating_point():
            return here.const_value.dtype
        node = here.producer()
        if node is None or node.op_type in {"Cast", "CastLike", "Gather", "If", "Loop", "Scan"}:
            continue
        waiting.extend(given for given in node.inputs if given is not None)
    return None


class _Speller:
    """Writes the nodes of one activation: names them by its label, takes constants in the type of x."""

    def __init__(
        self, build: Builder, x: ir.Value, label: str, dtype: ir.DataType | None, output_name: str | None
    ) -> None:
        found = dtype or _type_of(x)
        if found is None:
            raise Refusal(f"the type of '{x.name}' is not known", code="type-unknown")
        self.build = build
        self.x = x
        self.label = label
        self.dtype = found
        self.output_name = output_name
        self._constants: dict[tuple[str, bytes], ir.Value] = {}

    def number(self, name: str, value: Parameter) -> ir.Value:
        """A constant in the type of x; a scalar has rank 0, so that it never adds an axis."""
        array = np.asarray(value, dtype=np.float64)
        key = (name, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.build.initializer(f"{self.label}.{name}", array, self.dtype)
        return self._constants[key]

    def op(self, op: str, *inputs: ir.Value | None, last: bool = False, **attributes: Any) -> ir.Value:
        """One node on values shaped like x; the last one carries the wanted output name."""
        self.require(op)
        name = f"{self.label}.{op}"
        return self.build.node(
            op,
            list(inputs),
            name=name,
            output=self.output_name if last and self.output_name else name,
            like=self._like(inputs),
            **attributes,
        )

    def _like(self, inputs: tuple[ir.Value | None, ...]) -> ir.Value | None:
        # Constants never enlarge x, so a result with x among its inputs looks like x.
        looks = [value for value in inputs if value is not None and value.const_value is None]
        return self.x if looks and all(value is self.x or value.type == self.x.type for value in looks) else None

    def has(self, op: str) -> bool:
        """Whether ``op`` exists in the scope's opset and takes the type of x, here and in ONNX Runtime."""
        return self.build.has_op(op, self.dtype) and not self._lacks(op) and not self.build.was_inlined(op)

    def _lacks(self, op: str) -> bool:
        return self.dtype.name == "DOUBLE" and op in _NOT_IN_DOUBLE

    def require(self, op: str) -> None:
        if self._lacks(op):
            raise Refusal(
                f"ONNX Runtime has no {op} for double, so the activation cannot be spelled in it",
                way_out="take relu, silu, tanh or gelu_tanh",
                code="activation-type",
            )
        if not self.has(op):
            if self.build.was_inlined(op):
                raise Refusal(
                    f"ONNX Runtime has written {op} out in this model by names that it would use again, so that it"
                    f" takes no further {op}",
                    way_out="morph the model that this one was optimised from, or take another activation",
                    code="activation-inlined",
                )
            known = self.build.has_op(op)
            why = f"takes no {self.dtype.name.lower()}" if known else "does not exist"
            raise Refusal(
                f"operator {op} {why} in opset {self.build.opset}, so the activation cannot be spelled there",
                code="opset-too-old",
            )

    def activation(self, activation: Activation, *, last: bool = True) -> ir.Value:
        """The function itself. ``last`` says that its result carries the wanted output name."""
        x, p = self.x, dict(activation.parameters)
        match activation.name:
            case "Identity" | "Relu" | "Sigmoid" | "Tanh" | "Softsign" | "Abs" | "Sin":
                return self.op(activation.name, x, last=last)
            case "LeakyRelu" | "Elu" | "Selu" | "Shrink":
                return self.op(activation.name, x, last=last, **{key: _scalar(value) for key, value in p.items()})
            case "PRelu":
                return self.op("PRelu", x, self.slope(p["slope"]), last=last)
            case "Clip":
                return self.clip(x, _scalar(p["min"]), _scalar(p["max"]), last=last)
            case "HardSigmoid":
                return self.hard_sigmoid(_scalar(p["alpha"]), _scalar(p["beta"]), last=last)
            case "HardSwish":
                if self.has("HardSwish"):
                    return self.op("HardSwish", x, last=last)
                return self.op("Mul", x, self.hard_sigmoid(1.0 / 6.0, 0.5), last=last)
            case "Softplus":
                beta = _scalar(p["beta"])
                if beta == 1.0:
                    return self.op("Softplus", x, last=last)
                scale = self.number("beta", beta)
                return self.op("Div", self.op("Softplus", self.op("Mul", x, scale)), scale, last=last)
            case "LogSigmoid":
                return self.op("Neg", self.op("Softplus", self.op("Neg", x)), last=last)
            case "Mish":
                if self.has("Mish"):
                    return self.op("Mish", x, last=last)
                return self.op("Mul", x, self.op("Tanh", self.op("Softplus", x)), last=last)
            case "Gelu":
                return self.gelu(last=last)
            case "GeluTanh":
                return self.gelu_tanh(last=last)
            case "Silu":
                return self.op("Mul", x, self.op("Sigmoid", x), last=last)
            case "QuickGelu":
                gate = self.op("Sigmoid", self.op("Mul", x, self.number("alpha", p["alpha"])))
                return self.op("Mul", x, gate, last=last)
            case "ThresholdedRelu":
                return self.thresholded(_scalar(p["alpha"]), last=last)
            case "Celu":
                return self.celu(_scalar(p["alpha"]), last=last)
            case "Tanhshrink":
                return self.op("Sub", x, self.op("Tanh", x), last=last)
            case "Square":
                return self.op("Mul", x, x, last=last)
            case "SquaredRelu":
                positive = self.op("Relu", x)
                return self.op("Mul", positive, positive, last=last)
        raise Refusal(f"activation {activation.name} cannot be spelled", code="opset-too-old")

    def slope(self, slope: Parameter) -> ir.Value:
        return self.number("slope", slope if isinstance(slope, np.ndarray) else np.array([slope]))

    def clip(self, x: ir.Value, low: float, high: float, *, last: bool = False) -> ir.Value:
        """Bounds as attributes before opset 11, as inputs since; a bound that is infinite is left out."""
        bounds = {"min": low, "max": high}
        if self.build.opset < 11:
            return self.op(
                "Clip", x, last=last, **{key: value for key, value in bounds.items() if math.isfinite(value)}
            )
        inputs = [self.number(key, value) if math.isfinite(value) else None for key, value in bounds.items()]
        while inputs and inputs[-1] is None:
            inputs.pop()
        return self.op("Clip", x, *inputs, last=last)

    def hard_sigmoid(self, alpha: float, beta: float, *, last: bool = False) -> ir.Value:
        """``clip(alpha x + beta, 0, 1)``; spelled out where HardSigmoid does not take bfloat16 (opset < 22)."""
        if self.has("HardSigmoid"):
            return self.op("HardSigmoid", self.x, last=last, alpha=alpha, beta=beta)
        scaled = self.op("Mul", self.x, self.number("alpha", alpha))
        return self.clip(self.op("Add", scaled, self.number("beta", beta)), 0.0, 1.0, last=last)

    def halved(self) -> ir.Value:
        """``x / 2``, its operands in an order that no other product of x has.

        Where two spelled-out GELUs read one x, ONNX Runtime (1.31 at least) makes one of two equal halves and then
        takes it away with the first that it fuses: such a model cannot be loaded.
        """
        operands = [self.x, self.number("half", 0.5)]
        if any(use.node.op_type == "Mul" and use.idx == 0 for use in self.x.uses()):
            operands.reverse()
        return self.op("Mul", *operands)

    def gelu(self, *, last: bool) -> ir.Value:
        """GELU since opset 20, by Erf since 9. The Tanh form is another function, so below 9 this is refused."""
        x = self.x
        if self.has("Gelu"):
            return self.op("Gelu", x, last=last)
        erf = self.op("Erf", self.op("Div", x, self.number("sqrt2", math.sqrt(2.0))))
        # The half goes to x first: x (1 + erf) would overflow in the upper half of the range.
        half = self.halved()
        return self.op("Mul", half, self.op("Add", erf, self.number("one", 1.0)), last=last)

    def gelu_tanh(self, *, last: bool) -> ir.Value:
        x = self.x
        if self.has("Gelu"):
            return self.op("Gelu", x, last=last, approximate="tanh")
        cube = self.op("Mul", self.op("Mul", x, x), x)
        inner = self.op("Add", x, self.op("Mul", cube, self.number("cubic", GELU_CUBIC)))
        tanh = self.op("Tanh", self.op("Mul", inner, self.number("scale", SQRT_2_OVER_PI)))
        half = self.halved()
        return self.op("Mul", half, self.op("Add", tanh, self.number("one", 1.0)), last=last)

    def thresholded(self, alpha: float, *, last: bool) -> ir.Value:
        """ThresholdedRelu since opset 10, by Where since 9, before by a comparison cast to 0 and 1."""
        x = self.x
        if self.has("ThresholdedRelu"):
            return self.op("ThresholdedRelu", x, last=last, alpha=alpha)
        above = self.build.node("Greater", [x, self.number("alpha", alpha)], name=f"{self.label}.Greater")
        if self.has("Where"):
            return self.op("Where", above, x, self.number("zero", 0.0), last=last)
        kept = self.build.node("Cast", [above], name=f"{self.label}.Cast", to=int(self.dtype), like=x)
        return self.op("Mul", x, kept, last=last)

    def celu(self, alpha: float, *, last: bool) -> ir.Value:
        """Celu since opset 12 (float32 only), else ``max(x,0) + alpha elu(min(x,0)/alpha)``."""
        x = self.x
        if self.has("Celu"):
            return self.op("Celu", x, last=last, alpha=alpha)
        scale = self.number("alpha", alpha)
        negative = self.op("Neg", self.op("Relu", self.op("Neg", x)))
        bent = self.op("Mul", self.op("Elu", self.op("Div", negative, scale), alpha=1.0), scale)
        return self.op("Add", self.op("Relu", x), bent, last=last)

    def parametric(self, activation: Activation, start: Array, kept: ir.Value | None) -> ir.Value:
        """``(1-a) phi(x) + a kept`` with ``a`` starting at ``start`` (shaped to broadcast against x)."""
        name = f"{self.label}.a"
        if kept is None and self.bends_by_slope(activation):
            slope = a = self.build.initializer(name, start, self.dtype)
            if activation.name != "Relu":
                (given,) = activation.parameters.values()
                left = self.between("Sub", self.number("one", np.ones(1)), a)
                slope = self.between("Add", a, self.between("Mul", left, self.slope(given)))
            return self.op("PRelu", self.x, slope, last=True)
        own = None if bool(np.all(start == 1.0)) else self.own_spelling(activation)
        phi = own or self.activation(activation, last=False)
        largest = float(np.finfo(self.dtype.numpy()).max) if self.dtype.name != "BFLOAT16" else 3.3895e38
        if bool(np.any(start == 1.0)) and (own is not None or activation.overflows(largest)):
            phi = self.clip(phi, -largest, largest)
        a = self.build.initializer(name, start, self.dtype)
        left = self.between("Sub", self.number("one", np.ones(1)), a)
        return self.op("Add", self.op("Mul", phi, left), self.op("Mul", kept or self.x, a), last=True)

    def bends_by_slope(self, activation: Activation) -> bool:
        """Whether ``PRelu`` with a slope in the type of x is the same function to the last bit.

        LeakyRelu's slope is a float32 attribute, which a float16 slope may have to round.
        """
        if activation.name == "Relu":
            return self.has("PRelu")
        if activation.name not in {"LeakyRelu", "PRelu"} or not self.has("PRelu"):
            return False
        (slope,) = (np.asarray(value, dtype=np.float32) for value in activation.parameters.values())
        return bool(np.all(slope.astype(self.dtype.numpy()).astype(np.float32) == slope))

    def between(self, op: str, *inputs: ir.Value) -> ir.Value:
        """A node on parameters alone; its result is not shaped like x."""
        return self.build.node(op, list(inputs), name=f"{self.label}.a.{op}")

    def own_spelling(self, activation: Activation) -> ir.Value | None:
        """A copy of the nodes the activation was found as, its constants stored anew; ``None`` where that cannot be.

        A single standard operator is not copied, since it has no constants that could be rounded otherwise.
        """
        if len(activation.nodes) < 2 or activation.input is None or activation.output is None:
            return None
        known: dict[ir.Value, ir.Value] = {activation.input: self.x}
        for node in activation.nodes:
            if not self.build.accepts(node):
                return None
        for node in activation.nodes:
            inputs: list[ir.Value | None] = []
            for given in node.inputs:
                if given is not None and given not in known:
                    array = np.asarray(chain(given).array())
                    known[given] = self.build.initializer(f"{self.label}.{node.op_type}.constant", array)
                inputs.append(None if given is None else known[given])
            copied = self.build.copy(node, inputs, name=f"{self.label}.{node.op_type}")
            known[node.outputs[0]] = copied
        return known[activation.output]


def _scalar(value: Parameter) -> float:
    """An attribute's value; attributes hold one number, so a parameter per channel cannot be written there."""
    if isinstance(value, np.ndarray):
        raise Refusal("this activation takes one parameter, not one per channel", code="activation-channels")
    return value
