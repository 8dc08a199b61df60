"""What an operator function sees of its node: attributes, opset version, the mode the module is in, bodies to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from onnxmorph.errors import Refusal

if TYPE_CHECKING:
    from onnxmorph.grow.program import Program

__all__ = ["Call", "Mode"]

Tensor = torch.Tensor

_FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


@dataclass
class Mode:
    """What holds for one run of a whole module; the same object is shared by all of its calls.

    Attributes:
        training: Dropout drops.
        batch_statistics: Batch norms take the statistics of the batch, and the stored ones follow.
        device: Where the weights are.
        wide: What narrower floating-point types are computed in; ``None``: each in its own.
        followed: Identities of the running statistics that may follow the batches.
        weights: Stored tensors by key, set anew for each run.
    """

    training: bool = False
    batch_statistics: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    wide: torch.dtype | None = None
    followed: frozenset[int] = frozenset()
    weights: dict[str, Tensor] = field(default_factory=dict)

    def widened(self, dtype: torch.dtype) -> torch.dtype:
        """What numbers of a type are computed in."""
        if self.wide is None or dtype not in _FLOATS or dtype.itemsize >= self.wide.itemsize:
            return dtype
        return self.wide


class Call:
    """One node as its operator function sees it.

    Attributes:
        op: Operator type.
        label: The node's name, for messages.
        version: Version of the operator's opset that the model imports.
        outputs: How many outputs the node lists.
        wanted: Per output, whether anything uses it.
        explicit: How many inputs the node itself has; what follows them are values that its bodies capture.
        mode: Shared by all calls of a module.
    """

    __slots__ = ("attributes", "bodies", "explicit", "label", "mode", "op", "outputs", "version", "wanted")

    def __init__(
        self,
        op: str,
        label: str,
        version: int,
        attributes: Mapping[str, Any],
        wanted: Sequence[bool],
        mode: Mode,
        explicit: int,
        bodies: Mapping[str, tuple[Program, tuple[int, ...]]],
    ) -> None:
        self.op = op
        self.label = label
        self.version = version
        self.attributes = dict(attributes)
        self.outputs = len(wanted)
        self.wanted = tuple(wanted)
        self.mode = mode
        self.explicit = explicit
        self.bodies = dict(bodies)

    def body(self, name: str, arguments: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        """Run the body in attribute ``name``.

        Args:
            name: Such as ``"then_branch"``.
            arguments: One value per input of the body.
            inputs: All inputs of this call; those that the body captures are taken from them.

        Raises:
            Refusal: The node has no such body.
        """
        if name not in self.bodies:
            raise Refusal(f"{self.label} ({self.op}) has no {name}", code="malformed-node")
        program, captured = self.bodies[name]
        return program.run(arguments, [inputs[place] for place in captured])

    def integer(self, name: str, default: int | None = None) -> int:
        """A whole number; without a default the attribute must be there."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int):
            raise self._wrong(name, "a whole number")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """A whole number that is 0 or 1."""
        return bool(self.integer(name, int(default)))

    def floating(self, name: str, default: float | None = None) -> float:
        """A number; without a default the attribute must be there."""
        value = self.attributes.get(name, default)
        if not isinstance(value, (float, int)):
            raise self._wrong(name, "a number")
        return float(value)

    def text(self, name: str, default: str | None = None) -> str:
        """A string; without a default the attribute must be there."""
        value = self.attributes.get(name, default)
        if not isinstance(value, str):
            raise self._wrong(name, "a string")
        return value

    def integers(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        """Whole numbers; empty counts as absent, as some exporters write the default."""
        value = self.attributes.get(name) or default
        if value is None or not all(isinstance(number, int) for number in value):
            raise self._wrong(name, "a list of whole numbers")
        return list(value)

    def numbers(self, name: str, default: Sequence[float] = ()) -> list[float]:
        """Numbers."""
        value = self.attributes.get(name, default)
        if not isinstance(value, (list, tuple)):
            raise self._wrong(name, "a list of numbers")
        return [float(number) for number in value]

    def texts(self, name: str, default: Sequence[str] = ()) -> list[str]:
        """Strings."""
        value = self.attributes.get(name, default)
        if not isinstance(value, (list, tuple)):
            raise self._wrong(name, "a list of strings")
        return [str(word) for word in value]

    def tensor(self, name: str) -> Tensor | None:
        """A tensor, or ``None`` where it is absent."""
        value = self.attributes.get(name)
        if value is not None and not isinstance(value, Tensor):
            raise self._wrong(name, "a tensor")
        return value

    def refuse(self, what: str) -> Refusal:
        """What to raise where the node asks for something that cannot be done here."""
        return Refusal(f"{self.label} ({self.op}): {what}", code="unsupported-operator")

    def _wrong(self, name: str, kind: str) -> Refusal:
        state = "is missing" if name not in self.attributes else f"is not {kind}"
        return Refusal(f"{self.label} ({self.op}): its attribute '{name}' {state}", code="malformed-node")
