"""Activations that stand by themselves: behind a residual add, a concatenation, a pooling, an input.

Those right behind a linear layer are the layer's own (:attr:`LinearLayer.activation`); these are all others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from onnxmorph._ir import ir
from onnxmorph.errors import SelectionError
from onnxmorph.graph.activations import Activation, recognise
from onnxmorph.graph.layers import LinearLayer
from onnxmorph.graph.scopes import Scope, node_label, nodes
from onnxmorph.graph.shapes import Shapes

__all__ = ["StandingActivation", "named_activations", "standing_activation", "standing_activations"]

_ARITHMETIC = frozenset({"Square", "Abs", "Sin", "Identity"})
"""Functions that are steps of a calculation (a variance, a position code) more often than activations."""

_CHANNELS_STAY = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "BatchNormalization", "InstanceNormalization", "GroupNormalization"),
        *("LayerNormalization", "RMSNormalization", "Dropout", "Identity", "Cast", "MaxPool", "AveragePool"),
        *("GlobalAveragePool", "Resize", "Upsample", "Pad", "Relu", "LeakyRelu", "PRelu", "Clip", "Concat"),
    }
)
"""Operators whose output has its channels on the axis where their first inputs have theirs."""

_FARTHEST = 32
"""Nodes looked at on the way back to a layer."""


@dataclass(frozen=True, eq=False)
class StandingActivation:
    """One of them.

    Attributes:
        activation: What it computes, with its input, output and nodes.
        scope: Where it lives.
        key: Scope path and name of its output value, stable across edits elsewhere.
        name: Of its last node, or of its output where that has none.
        channels: Of its input; ``None`` where no layer tells which axis they are on.
        channel_axis: That axis.
        rank: Of its input.
    """

    activation: Activation
    scope: Scope
    key: str
    name: str
    channels: int | None
    channel_axis: int
    rank: int | None

    @property
    def is_plain(self) -> bool:
        """Whether it looks like an activation of a network rather than a step of a calculation."""
        phi = self.activation
        if phi.name == "Clip":
            return phi.parameters.get("min") == 0
        return phi.name not in _ARITHMETIC


def standing_activations(
    model: ir.Model, layers: Sequence[LinearLayer], shapes: Shapes | None = None
) -> list[StandingActivation]:
    """Every activation of the model that is no layer's own, in the order of the graph.

    Args:
        model: The model.
        layers: Its linear layers.
        shapes: Its shapes, where they are known already.
    """
    shapes = Shapes.of(model) if shapes is None else shapes
    taken = {node for layer in layers if layer.activation is not None for node in layer.activation.nodes}
    outputs = {layer.output: layer for layer in layers}
    found: list[StandingActivation] = []
    for scope, value in _values(model):
        if all(use.node in taken for use in value.uses()) or value in outputs:
            continue
        phi = recognise(value, shape=shapes.shape(value), ir_version=model.ir_version)
        if phi is None or phi.output is None or phi.output.name is None or not taken.isdisjoint(phi.nodes):
            continue
        taken.update(phi.nodes)
        found.append(_described(phi, scope, shapes, outputs))
    return found


def standing_activation(
    model: ir.Model, key: str, source: str, layers: Sequence[LinearLayer], shapes: Shapes
) -> StandingActivation | None:
    """The one of a key, found again without looking at all others.

    Args:
        model: The model.
        key: See :class:`StandingActivation`.
        source: Name of its input.
        layers: The model's linear layers.
        shapes: Its shapes.
    """
    for scope, value in _values(model):
        if value.name != source or not key.startswith(f"{scope.path}::"):
            continue
        phi = recognise(value, shape=shapes.shape(value), ir_version=model.ir_version)
        if phi is not None and phi.output is not None and key == f"{scope.path}::{phi.output.name}":
            return _described(phi, scope, shapes, {layer.output: layer for layer in layers})
    return None


def _described(
    phi: Activation, scope: Scope, shapes: Shapes, outputs: dict[ir.Value, LinearLayer]
) -> StandingActivation:
    assert phi.input is not None and phi.output is not None
    shape = shapes.shape(phi.input)
    axis = None if shape is None else _channel_axis(phi.input, outputs, len(shape))
    size = None if axis is None or shape is None else shape[axis]
    return StandingActivation(
        phi,
        scope,
        f"{scope.path}::{phi.output.name}",
        node_label(phi.nodes[-1]),
        size if isinstance(size, int) else None,
        axis if axis is not None else -1,
        None if shape is None else len(shape),
    )


def named_activations(found: Sequence[StandingActivation], what: str) -> list[StandingActivation]:
    """Those that a person names: by a node or an output, exactly, else by a glob.

    Raises:
        SelectionError: There is none.
    """
    text = what.strip()
    exact = [one for one in found if text in _names(one)]
    globbed = [one for one in found if any(fnmatchcase(name, text) for name in _names(one))]
    if not exact and not globbed:
        raise SelectionError(f"'{text}' names no activation")
    return exact or globbed


def _names(one: StandingActivation) -> Collection[str]:
    output = one.activation.output
    names = {one.key, one.name, *(node.name or "" for node in one.activation.nodes)}
    return names | ({output.name or ""} if output is not None else set())


def _values(model: ir.Model) -> Iterator[tuple[Scope, ir.Value]]:
    """Inputs and computed values, each with the scope that it is made in."""
    seen: set[int] = set()
    for scope, node in nodes(model):
        if id(scope.graph) not in seen:
            seen.add(id(scope.graph))
            yield from ((scope, value) for value in scope.graph.inputs)
        yield from ((scope, value) for value in node.outputs)


def _channel_axis(value: ir.Value, outputs: dict[ir.Value, LinearLayer], rank: int) -> int | None:
    """Where the channels are: where the nearest layer before it puts them, through operators that leave them there."""
    waiting, seen = [value], {value}
    for _ in range(_FARTHEST):
        if not waiting:
            return None
        here = waiting.pop(0)
        layer = outputs.get(here)
        if layer is not None:
            axis = layer.output_axis
            return axis % rank if -rank <= axis < rank else None
        node = here.producer()
        if node is None or node.op_type not in _CHANNELS_STAY:
            continue
        for given in node.inputs:
            if given is not None and given not in seen and given.const_value is None:
                seen.add(given)
                waiting.append(given)
    return None
