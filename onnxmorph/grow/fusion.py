"""Spelled-out functions put together again: one call of torch in the place of the many nodes that exporters write.

GELU by the error function, layer normalisation over the last axis, and attention. torch has each in one kernel, forward
and backward, and needs to keep one input for the gradient instead of every value in between. What is computed is the
same up to rounding; a value in between that something else reads, or that was asked for, keeps its nodes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from onnxmorph.grow.call import Call
from onnxmorph.grow.ops.normalization import layer_norm
from onnxmorph.grow.program import NOWHERE, Program, Step

__all__ = ["fuse"]

Tensor = torch.Tensor


def fuse(program: Program, tensors: Mapping[str, Tensor]) -> None:
    """Replace what can be put together, in place.

    Args:
        program: With its outputs set, before it is settled which value is let go when.
        tensors: Stored tensors by key, for their shapes.
    """
    for finder in (_find_gelu, _find_layer_norm, _find_attention):
        table = _Table(program, tensors)
        for step in list(program.steps):
            if step not in table.gone:
                found = finder(table, step)
                if found is not None:
                    table.replace(*found)
        table.finish()


class _Fused:
    """What a fused step needs beside its inputs."""

    __slots__ = ("epsilon", "scale")

    def __init__(self, *, epsilon: float = 0.0, scale: float = 1.0) -> None:
        self.epsilon = epsilon
        self.scale = scale


Found = tuple[Step, Sequence[Step], str, Sequence[int], Any]
"""The last step, the others, a name, slots of the inputs, and the function."""


class _Table:
    """Who makes and who reads each slot of a program."""

    def __init__(self, program: Program, tensors: Mapping[str, Tensor]) -> None:
        self.program = program
        self.makers = {slot: step for step in program.steps for slot in step.outputs if slot != NOWHERE}
        self.readers: dict[int, list[Step]] = {}
        for step in program.steps:
            for slot in step.inputs:
                self.readers.setdefault(slot, []).append(step)
        self.asked = set(program.outputs)
        self.known = dict(program.constants)
        self.stored = {slot: tensors[key] for slot, key in program.weights}
        self.moved = {step.inputs[place] for step in program.steps for place in step.moves}
        self.gone: set[Step] = set()
        self.new: dict[Step, Step] = {}

    def maker(self, slot: int, *ops: str) -> Step | None:
        """The step of one of these operators that makes a slot."""
        step = self.makers.get(slot)
        return (
            step if step is not None and step.call.op in ops and step not in self.gone and not step.remembered else None
        )

    def reader(self, slot: int, *ops: str) -> Step | None:
        """The only step that reads a slot, if it is of one of these operators."""
        steps = self.readers.get(slot, [])
        if len(steps) != 1 or slot in self.asked or steps[0] in self.gone or steps[0].remembered:
            return None
        return steps[0] if steps[0].call.op in ops else None

    def private(self, slot: int, *steps: Step) -> bool:
        """Only these steps read a slot."""
        return slot not in self.asked and all(step in steps for step in self.readers.get(slot, []))

    def number(self, slot: int) -> float | None:
        """The number of a slot that holds one known number."""
        value = self.known.get(slot)
        if isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point():
            return float(value.reshape(()))
        return None

    def with_number(self, step: Step) -> tuple[int, float] | None:
        """The slot and the number that a step puts together."""
        if len(step.inputs) != 2:
            return None
        for slot, other in (step.inputs, step.inputs[::-1]):
            value = self.number(other)
            if value is not None and (step.call.op in ("Add", "Mul") or other == step.inputs[1]):
                return slot, value
        return None

    def vector(self, slot: int) -> bool:
        """Whether a slot holds a stored vector."""
        value = self.stored.get(slot, self.known.get(slot))
        return isinstance(value, Tensor) and value.dim() == 1

    def replace(self, last: Step, others: Sequence[Step], name: str, inputs: Sequence[int], run: Any) -> None:
        old = last.call
        call = Call(name, old.label, old.version, {}, old.wanted, old.mode, len(inputs), {})
        moves = tuple(place for place, slot in enumerate(inputs) if slot in self.moved)
        self.new[last] = Step(run, call, tuple(inputs), last.outputs, moves=moves)
        self.gone.update((last, *others))

    def finish(self) -> None:
        self.program.steps = [
            self.new.get(step, step) for step in self.program.steps if step not in self.gone or step in self.new
        ]


def _near(number: float | None, wanted: float) -> bool:
    return number is not None and math.isclose(number, wanted, rel_tol=1e-6)


# --- GELU -----------------------------------------------------------------------------------------------------------


def _gelu(_call: Call, x: Tensor) -> Tensor:
    return F.gelu(x)


def _find_gelu(table: _Table, erf: Step) -> Found | None:
    """``x (1 + erf(x / sqrt 2)) / 2``, the factors in any order."""
    if erf.call.op != "Erf":
        return None
    scaling = table.maker(erf.inputs[0], "Div", "Mul")
    if scaling is None or not table.private(erf.inputs[0], erf):
        return None
    parts = table.with_number(scaling)
    if parts is None or not _near(parts[1], math.sqrt(2.0) if scaling.call.op == "Div" else math.sqrt(0.5)):
        return None
    x = parts[0]
    adding = table.reader(erf.outputs[0], "Add")
    if adding is None or not _near((table.with_number(adding) or (0, 0.0))[1], 1.0):
        return None
    first = table.reader(adding.outputs[0], "Mul")
    if first is None:
        return None
    other = first.inputs[1] if first.inputs[0] == adding.outputs[0] else first.inputs[0]
    steps = [scaling, erf, adding]
    if other == x or _near(table.number(other), 0.5):
        last = table.reader(first.outputs[0], "Mul")
        if last is None:
            return None
        rest = last.inputs[1] if last.inputs[0] == first.outputs[0] else last.inputs[0]
        if (other == x and not _near(table.number(rest), 0.5)) or (other != x != rest):
            return None
        return last, [*steps, first], "Gelu", [x], _gelu
    halving = table.maker(other, "Mul")
    half = None if halving is None else table.with_number(halving)
    if halving is None or half is None or half[0] != x or not _near(half[1], 0.5) or not table.private(other, first):
        return None
    return first, [*steps, halving], "Gelu", [x], _gelu


# --- layer normalisation --------------------------------------------------------------------------------------------


class _LayerNorm(_Fused):
    def __call__(self, _call: Call, x: Tensor, scale: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        return layer_norm(x, scale, bias, x.dim() - 1, self.epsilon)[0]


def _over_last_axis(table: _Table, mean: Step) -> bool:
    axes = mean.call.attributes.get("axes")
    if axes is None and len(mean.inputs) > 1:
        known = table.known.get(mean.inputs[1])
        axes = known.tolist() if isinstance(known, Tensor) else None
    return axes == [-1] and mean.call.flag("keepdims", True)


def _find_layer_norm(table: _Table, dividing: Step) -> Found | None:
    """``(x - mean) / sqrt(mean((x - mean)^2) + epsilon)``, and the scale and the bias behind it."""
    if dividing.call.op != "Div":
        return None
    centred, deviation = dividing.inputs
    root = table.maker(deviation, "Sqrt")
    centring = table.maker(centred, "Sub")
    adding = None if root is None else table.maker(root.inputs[0], "Add")
    epsilon = None if adding is None else table.with_number(adding)
    if root is None or centring is None or adding is None or epsilon is None:
        return None
    variance = table.maker(epsilon[0], "ReduceMean")
    square = None if variance is None else table.maker(variance.inputs[0], "Pow", "Mul")
    mean = table.maker(centring.inputs[1], "ReduceMean")
    if variance is None or square is None or mean is None:
        return None
    squared = square.inputs[0] == centred and (
        square.inputs[1] == centred if square.call.op == "Mul" else _near(table.number(square.inputs[1]), 2.0)
    )
    x = centring.inputs[0]
    inner = [(deviation, dividing), (root.inputs[0], root), (epsilon[0], adding), (variance.inputs[0], variance)]
    if (
        not squared
        or mean.inputs[0] != x
        or not (_over_last_axis(table, mean) and _over_last_axis(table, variance))
        or not table.private(centring.inputs[1], centring)
        or not table.private(centred, dividing, square)
        or not all(table.private(slot, step) for slot, step in inner)
    ):
        return None
    steps, last, inputs = [mean, centring, square, variance, adding, root], dividing, [x]
    for op in ("Mul", "Add"):
        following = table.reader(last.outputs[0], op)
        if following is None:
            break
        other = following.inputs[1] if following.inputs[0] == last.outputs[0] else following.inputs[0]
        if not table.vector(other):
            break
        inputs.append(other)
        steps.append(last)
        last = following
    return last, steps, "LayerNormalization", inputs, _LayerNorm(epsilon=epsilon[1])


# --- attention ------------------------------------------------------------------------------------------------------


class _Attention(_Fused):
    def __call__(self, _call: Call, q: Tensor, keys: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """``softmax(Q K scale + mask) V``, K with its steps last."""
        alike = q.dim() == 4 and q.shape[:2] == keys.shape[:2] == v.shape[:2] and q.is_floating_point()
        if not alike or (mask is not None and mask.dim() < 2):
            scores = torch.matmul(q, keys) * self.scale
            return torch.matmul(torch.softmax(scores if mask is None else scores + mask, -1), v)
        bias = None if mask is None else mask.to(q.dtype)
        return F.scaled_dot_product_attention(q, keys.transpose(-1, -2), v, bias, scale=self.scale)


def _scaled(table: _Table, slot: int, reader: Step) -> tuple[int, float, list[Step]]:
    """What a slot is a known multiple of, by which factor, and the step that multiplies."""
    step = table.maker(slot, "Mul", "Div")
    parts = None if step is None else table.with_number(step)
    if step is None or parts is None or not table.private(slot, reader) or parts[1] == 0.0:
        return slot, 1.0, []
    return parts[0], parts[1] if step.call.op == "Mul" else 1.0 / parts[1], [step]


def _find_attention(table: _Table, softmax: Step) -> Found | None:
    """A softmax over the last axis between two products, with a factor and a mask before it."""
    if softmax.call.op != "Softmax" or softmax.call.version < 13 or softmax.call.integer("axis", -1) != -1:
        return None
    last = table.reader(softmax.outputs[0], "MatMul")
    if last is None or last.inputs[0] != softmax.outputs[0] or last.inputs[1] == softmax.outputs[0]:
        return None
    steps, slot, reader, mask = [softmax], softmax.inputs[0], softmax, None
    adding = table.maker(slot, "Add")
    if adding is not None and table.private(slot, reader):
        for scores, other in (adding.inputs, adding.inputs[::-1]):
            before, _, scaling = _scaled(table, scores, adding)
            product = table.maker(before, "MatMul")
            if product is not None and table.private(before, scaling[0] if scaling else adding):
                slot, mask, reader = scores, other, adding
                steps.append(adding)
                break
        else:
            return None
    slot, factor, scaling = _scaled(table, slot, reader)
    product = table.maker(slot, "MatMul")
    if product is None or not table.private(slot, scaling[0] if scaling else reader):
        return None
    q, by_q, before_q = _scaled(table, product.inputs[0], product)
    keys, by_k, before_k = _scaled(table, product.inputs[1], product)
    inputs = [q, keys, last.inputs[1], *([] if mask is None else [mask])]
    run = _Attention(scale=factor * by_q * by_k)
    return last, [*steps, *scaling, product, *before_q, *before_k], "Attention", inputs, run
