"""The moves of the search: single morphs, of which a recipe makes a candidate out of an earlier one.

They are the operators of AutoKeras (deeper, twice as wide, a skip that adds or concatenates) and a larger kernel. All
of them are morphs: a candidate computes at first what the candidate before computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxmorph._ir import ir
from onnxmorph.errors import ModelError, OnnxMorphError
from onnxmorph.graph.layers import LinearLayer, layers
from onnxmorph.morphs import MORPHS, plan_deepen, plan_kernel, plan_skip, plan_widen
from onnxmorph.morphs.target import layer_by_key
from onnxmorph.plan import Child, Plan

__all__ = ["KINDS", "Move", "Recipe", "grow", "moves"]

KINDS = ("widen", "deepen", "kernel", "skip-add", "skip-concat")
"""What a move can be."""

_LARGEST_KERNEL = 5
_FARTHEST = 4
"""Layers that a skip passes over at most."""


@dataclass(frozen=True)
class Move:
    """One morph of one layer.

    Attributes:
        kind: One of `KINDS`.
        layer: Key of the layer; of a skip, of the one it ends at.
        source: Of a skip, key of the layer it begins at.
    """

    kind: str
    layer: str
    source: str = ""

    def to_json(self) -> list[str]:
        """As plain data."""
        return [self.kind, self.layer, self.source]

    def plan(self, model: ir.Model, seed: int) -> Plan:
        """What it would do to a model.

        Raises:
            Refusal: It cannot be done exactly, with the reason.
            SelectionError: The model has no such layer.
        """
        layer = layer_by_key(model, self.layer)
        if self.kind == "widen":
            return plan_widen(model, layer, by=2, seed=seed)
        if self.kind == "deepen":
            return plan_deepen(model, layer, kernel=_kernel_of_new(layer), seed=seed)
        if self.kind == "kernel":
            return plan_kernel(model, layer, to=[size + 2 for size in layer.kernel])
        mode = self.kind.removeprefix("skip-")
        return plan_skip(model, source=layer_by_key(model, self.source), target=layer, mode=mode)


@dataclass(frozen=True)
class Recipe:
    """How a candidate is made.

    Attributes:
        parent: Number of the candidate it grows from; ``None`` for the model that was given.
        moves: What is done to it, in order.
        texts: The same for people.
    """

    parent: int | None
    moves: tuple[Move, ...] = ()
    texts: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"parent": self.parent, "moves": [one.to_json() for one in self.moves], "texts": list(self.texts)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recipe:
        """The inverse of `to_json`.

        Raises:
            ModelError: It is not what `to_json` wrote.
        """
        try:
            moves_ = tuple(Move(str(kind), str(layer), str(source)) for kind, layer, source in data["moves"])
            parent = None if data["parent"] is None else int(data["parent"])
            return cls(parent, moves_, tuple(str(text) for text in data["texts"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the journal of the search is damaged: {error}") from error


def moves(model: ir.Model) -> dict[str, list[Move]]:
    """The moves that a model seems to take, by kind and in the order of its layers; planning has the last word."""
    found = layers(model)
    checks = {kind: MORPHS[kind](model) for kind in ("widen", "deepen", "kernel")}
    out: dict[str, list[Move]] = {kind: [] for kind in KINDS}
    open_ = [layer for layer in found if layer.blocked is None]
    for layer in open_:
        if checks["widen"](layer) is None:
            out["widen"].append(Move("widen", layer.key))
        if checks["deepen"](layer) is None:
            out["deepen"].append(Move("deepen", layer.key))
        if layer.kernel and max(layer.kernel) + 2 <= _LARGEST_KERNEL and checks["kernel"](layer) is None:
            out["kernel"].append(Move("kernel", layer.key))
    for source, target in _pairs(open_):
        for kind in ("skip-add", "skip-concat"):
            out[kind].append(Move(kind, target.key, source.key))
    return {kind: some for kind, some in out.items() if some}


def _pairs(found: Sequence[LinearLayer]) -> Iterator[tuple[LinearLayer, LinearLayer]]:
    for place, source in enumerate(found):
        for target in found[place + 1 : place + 1 + _FARTHEST]:
            if source.scope == target.scope:
                yield source, target


def grow(model: ir.Model, steps: Sequence[Move], *, seed: int = 0) -> Child:
    """A candidate: a model with moves carried out, one after the other.

    Raises:
        Refusal: A move cannot be done exactly.
        SelectionError: The model has no such layer.
    """
    child = Child(model, ())
    for move in steps:
        child = child.then(move.plan(child.model, seed).apply(child.model))
    return child


def try_move(model: ir.Model, move: Move, *, seed: int) -> tuple[ir.Model, str] | None:
    """The child by one move, with the words for it; ``None`` where it cannot be done exactly."""
    try:
        plan = move.plan(model, seed)
        return plan.apply(model).model, plan.describe().splitlines()[0]
    except OnnxMorphError:
        return None


def _kernel_of_new(layer: LinearLayer) -> int | None:
    """A convolution is followed by one that sees its neighbours, where it saw some itself."""
    return 3 if layer.kernel and max(layer.kernel) > 1 else None
