"""A graph made ready to run in torch: nodes in order as steps over numbered slots.

Everything that can be settled once is settled when a program is compiled: operators are looked up, attributes read,
what depends on no weight and no input is computed, functions are taken apart into their nodes, and each value has a
step after which it is let go. Values that depend on sizes alone, not on what is in the inputs, are computed on the CPU
and remembered until a size changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from onnxmorph.errors import OnnxMorphError, RuntimeFailure
from onnxmorph.grow.call import Call, Mode

__all__ = ["NOWHERE", "Program", "Step"]

Tensor = torch.Tensor

NOWHERE = -1
"""The slot of inputs that are left out and of outputs that nobody wants; it always holds ``None`` when read."""


@dataclass(eq=False)
class Step:
    """One node of a program.

    Attributes:
        run: The operator's function.
        call: Its first argument.
        inputs: Slots of its inputs.
        outputs: Slots of its outputs; ``NOWHERE`` for those nobody wants.
        free: Slots let go after this step.
        moves: Positions of inputs that may be on the CPU and are wanted where the weights are.
        remembered: The result depends on sizes alone.
        gradient: Whether a gradient passes.
    """

    run: Callable[..., Any]
    call: Call
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    free: tuple[int, ...] = ()
    moves: tuple[int, ...] = ()
    remembered: bool = False
    gradient: bool = True
    last_inputs: tuple[Any, ...] | None = None
    last_result: Any = None
    sent: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


class Program:
    """A compiled graph.

    Attributes:
        steps: In order.
        inputs: Slots of the graph's inputs.
        outputs: Slots of the wanted outputs.
        weights: Slot and key of the stored tensors it uses.
        constants: Slot and tensor of what is known before a run.
        captured: Slots of values of the graph around it.
        size: How many slots there are.
    """

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.steps: list[Step] = []
        self.inputs: list[int] = []
        self.outputs: list[int] = []
        self.weights: list[tuple[int, str]] = []
        self.constants: list[tuple[int, Any]] = []
        self.captured: list[int] = []
        self.size = 0

    def run(self, arguments: Sequence[Any], captured: Sequence[Any] = ()) -> list[Any]:
        """Compute the outputs.

        Args:
            arguments: One value per input of the graph.
            captured: One per value that it takes from the graph around it.

        Raises:
            RuntimeFailure: An operator failed, named with its node.
        """
        values: list[Any] = [None] * (self.size + 1)  # the last one is what NOWHERE reads
        for slot, constant in self.constants:
            values[slot] = constant
        stored_tensors = self.mode.weights
        for slot, key in self.weights:
            values[slot] = stored_tensors[key]
        for slot, value in zip(self.inputs, arguments, strict=True):
            values[slot] = value
        for slot, value in zip(self.captured, captured, strict=True):
            values[slot] = value
        values[NOWHERE] = None
        on_cpu = self.mode.device.type == "cpu"
        step: Step | None = None
        try:
            for step in self.steps:
                given = [values[slot] for slot in step.inputs]
                if step.remembered:
                    result = _remembered(step, given)
                else:
                    if step.moves and not on_cpu:
                        _move(given, step, self.mode.device)
                    result = step.run(step.call, *given)
                if type(result) is tuple:
                    for slot, value in zip(step.outputs, result, strict=False):
                        values[slot] = value
                    values[NOWHERE] = None
                else:
                    values[step.outputs[0]] = result
                for slot in step.free:
                    values[slot] = None
        except (OnnxMorphError, MemoryError, KeyboardInterrupt):
            raise
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            assert step is not None
            text = " ".join(str(error).split())[:300] or type(error).__name__
            raise RuntimeFailure(f"{step.call.label} ({step.call.op}) failed: {text}") from error
        return [values[slot] for slot in self.outputs]

    def forget(self) -> None:
        """Let go of everything that was remembered."""
        for step in self.steps:
            step.last_inputs = step.last_result = None
            step.sent.clear()
            for program, _ in step.call.bodies.values():
                program.forget()


def _remembered(step: Step, given: list[Any]) -> Any:
    """The result of the last time where the inputs are the same objects; a Shape remembers by the sizes."""
    key: tuple[Any, ...]
    if step.call.op in ("Shape", "Size") and isinstance(given[0], Tensor):
        key = tuple(given[0].shape)
        if key == step.last_inputs:
            return step.last_result
    else:
        key = tuple(given)
        last = step.last_inputs
        if last is not None and all(a is b for a, b in zip(key, last, strict=True)):
            return step.last_result
    step.last_result = step.run(step.call, *given)
    step.last_inputs = key
    return step.last_result


def _move(given: list[Any], step: Step, device: torch.device) -> None:
    """Bring constants and what was computed from sizes to where the weights are; each is sent once."""
    for place in step.moves:
        value = given[place]
        if isinstance(value, Tensor) and value.device != device:
            sent = step.sent.get(place)
            if sent is None or sent[0] is not value or sent[1].device != device:
                sent = step.sent[place] = (value, value.to(device))
            given[place] = sent[1]
