"""Losses by name, and what they need of a graph: the numbers before a final softmax or sigmoid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from onnxmorph._ir import ir
from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.grow.data import Target

__all__ = ["LOSSES", "Loss", "Objective", "distillation", "objective", "trained_output"]

Tensor = torch.Tensor

Loss = str | Callable[[Any, Any], Tensor]
"""A name of `LOSSES`, or a function of outputs and targets that gives one number."""

LOSSES = ("cross-entropy", "binary-cross-entropy", "mse", "mae", "huber")
"""Names of losses. The first two are of classification, the others of regression."""

_IGNORED = -100
"""Class number of a target that does not count, as in torch."""
_SEEN_THROUGH = ("Identity", "Cast", "Reshape", "Squeeze", "Flatten")


@dataclass(frozen=True)
class Objective:
    """A loss that knows the outputs it is for.

    Attributes:
        name: As typed, or ``"own"`` for a function of the user's.
        class_axis: Of cross entropy, the axis of the outputs that holds classes.
        probabilities: Outputs are probabilities already, since the graph spells its softmax in a way of its own.
        smoothing: Label smoothing, 0 to 1.
        run: The user's function.
    """

    name: str
    class_axis: int = 1
    probabilities: bool = False
    smoothing: float = 0.0
    run: Callable[[Any, Any], Tensor] | None = None

    def __call__(self, outputs: Any, target: Any) -> Tensor:
        """The mean loss of a batch."""
        if self.run is not None:
            return self.run(outputs, target)
        if self.name == "cross-entropy":
            return self._cross_entropy(outputs, target)
        if self.name == "binary-cross-entropy":
            wanted = target.to(outputs.dtype).reshape(outputs.shape)
            if self.probabilities:
                return F.binary_cross_entropy(outputs, wanted)
            return F.binary_cross_entropy_with_logits(outputs, wanted)
        wanted = target.to(outputs.dtype).reshape(outputs.shape)
        if self.name == "mse":
            return F.mse_loss(outputs, wanted)
        return F.l1_loss(outputs, wanted) if self.name == "mae" else F.huber_loss(outputs, wanted)

    def logits(self, outputs: Tensor) -> Tensor:
        """Logarithms of probabilities up to a constant, classes on axis 1."""
        numbers = outputs.clamp(min=torch.finfo(outputs.dtype).tiny).log() if self.probabilities else outputs
        return numbers if self.class_axis == 1 else numbers.movedim(self.class_axis, 1)

    def _cross_entropy(self, outputs: Tensor, target: Tensor) -> Tensor:
        wanted = target
        if wanted.is_floating_point() and self.class_axis != 1:
            wanted = wanted.movedim(self.class_axis, 1)
        return F.cross_entropy(self.logits(outputs), wanted, label_smoothing=self.smoothing, ignore_index=_IGNORED)

    def hits(self, outputs: Any, target: Any) -> tuple[Tensor, Tensor] | None:
        """How many classes were right, of how many, left on the device; ``None`` where that makes no sense."""
        if self.run is not None or not isinstance(outputs, Tensor) or not isinstance(target, Tensor):
            return None
        if self.name == "cross-entropy":
            found = outputs.argmax(self.class_axis)
            wanted = target.argmax(self.class_axis) if target.is_floating_point() else target
            counted = wanted != _IGNORED
            return ((found == wanted) & counted).sum(), counted.sum()
        if self.name == "binary-cross-entropy":
            right = (outputs > (0.5 if self.probabilities else 0.0)) == (target.reshape(outputs.shape) > 0.5)
            return right.sum(), torch.tensor(outputs.numel(), device=outputs.device)
        return None


def trained_output(model: ir.Model, loss: Loss, output: str | None) -> str:
    """The value of the graph that a loss is computed on.

    By default the first floating-point output of the graph; for classification what lies before a final Softmax,
    LogSoftmax or Sigmoid, since the loss brings its own.

    Raises:
        SelectionError: The model has no such value.
        Refusal: It has no floating-point output.
    """
    if output is not None:
        names = {value.name for node in model.graph for value in node.outputs}
        if output not in names:
            raise SelectionError(f"the model has no value {output!r}")
        return output
    floats = [value for value in model.graph.outputs if value.dtype is None or value.dtype.is_floating_point()]
    if not floats:
        raise Refusal(
            "none of the model's outputs is of floating-point numbers",
            way_out="name an inner value to train on (output=, --output)",
            code="no-gradient",
        )
    value = floats[0]
    final = {"cross-entropy": ("Softmax", "LogSoftmax"), "binary-cross-entropy": ("Sigmoid",)}
    wanted = final.get(loss, ()) if isinstance(loss, str) else ()
    here: ir.Value | None = value
    while here is not None:
        node = here.producer()
        if node is None or not node.inputs:
            break
        if node.op_type in wanted and node.domain in ("", "ai.onnx") and node.inputs[0] is not None:
            before = node.inputs[0]
            same_shape = here is value
            if same_shape and before.name:
                return before.name
            break
        if node.op_type not in ("Identity", "Cast"):
            break
        value = here = node.inputs[0] if node.inputs[0] is not None else here
    return floats[0].name or ""


def objective(loss: Loss, outputs: Any, target: Target, *, smoothing: float, name: str) -> Objective:
    """A loss for outputs and targets like these.

    Args:
        loss: A name or a function.
        outputs: Of one batch.
        target: Of the same batch.
        smoothing: Label smoothing.
        name: Of the output, for messages.

    Raises:
        SelectionError: There is no loss of this name.
        Refusal: The targets do not fit the outputs (``target-shape``, ``target-type``, ``class-range``).
    """
    if callable(loss):
        return Objective("own", run=loss)
    if loss not in LOSSES:
        import difflib

        near = difflib.get_close_matches(loss, LOSSES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(LOSSES)}"
        raise SelectionError(f"no loss is called {loss!r}; {hint}")
    if not isinstance(outputs, Tensor) or not isinstance(target, Tensor):
        raise Refusal(f"the loss {loss!r} is of one output and one target", code="target-shape")
    if loss == "cross-entropy":
        axis = class_axis(outputs, target, name)
        inside = bool((outputs >= 0).all()) and bool(
            torch.allclose(outputs.sum(axis), torch.ones_like(outputs.sum(axis)), atol=1e-3)
        )
        return Objective(loss, axis, inside, smoothing)
    if outputs.numel() != target.numel() or outputs.shape[0] != target.shape[0]:
        raise Refusal(
            f"targets of shape {_sizes(target)} do not fit the output '{name}' of shape {_sizes(outputs)}",
            code="target-shape",
        )
    if loss == "binary-cross-entropy":
        inside = bool(((outputs >= 0) & (outputs <= 1)).all())
        return Objective(loss, probabilities=inside)
    return Objective(loss)


def class_axis(outputs: Tensor, target: Tensor, name: str) -> int:
    """The axis of outputs that holds classes: what is left when the target's axes are taken away.

    Raises:
        Refusal: The target does not fit, or is not of class numbers.
    """
    if target.is_floating_point():
        if target.shape != outputs.shape:
            raise Refusal(
                f"targets of shape {_sizes(target)} do not fit the output '{name}' of shape {_sizes(outputs)}",
                way_out="give class numbers as integers, or one probability per class",
                code="target-shape",
            )
        return 1 if outputs.dim() <= 2 else outputs.dim() - 1
    shape = list(outputs.shape)
    if outputs.dim() >= 2 and list(target.shape) == [shape[0], *shape[2:]]:
        return 1
    if outputs.dim() >= 2 and list(target.shape) == shape[:-1]:
        return outputs.dim() - 1
    raise Refusal(
        f"targets of shape {_sizes(target)} do not fit the output '{name}' of shape {_sizes(outputs)}:"
        " one class number per sample, pixel or step is needed",
        code="target-shape",
    )


def distillation(objective_: Objective, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """How far outputs are from a teacher's.

    For classification the divergence of softened probabilities (Hinton et al., 2015), times the temperature squared so
    that its gradient has the size of the other loss's; the mean squared difference otherwise.
    """
    if objective_.name != "cross-entropy":
        return F.mse_loss(outputs, teacher)
    mine = F.log_softmax(objective_.logits(outputs) / temperature, 1)
    theirs = F.log_softmax(objective_.logits(teacher) / temperature, 1)
    divergence = F.kl_div(mine, theirs, reduction="sum", log_target=True)
    return divergence * temperature**2 / (mine.numel() / mine.shape[1])


def _sizes(x: Tensor) -> str:
    return "x".join(map(str, x.shape)) or "scalar"
