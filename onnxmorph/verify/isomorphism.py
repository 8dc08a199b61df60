"""Nodes of two models that take the same part, whatever their names: told by operators and wiring alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from onnxmorph._ir import ir

__all__ = ["twins"]


def twins(parent: ir.Model, child: ir.Model) -> dict[ir.Node, ir.Node]:
    """For nodes of the parent's main graph the node of the child's that stands in the same place.

    Two nodes are twins where operator and inputs agree: inputs of the graphs by name, constants by nothing at all (they
    may have changed), and computed values by being outputs of twins. Among several that agree, the first is the twin of
    the first. Nothing is claimed of what twins compute; attributes and constants are the caller's to compare.
    """
    known: dict[Hashable, int] = {}
    before, after = _places(parent, known), _places(child, known)
    return {node: after[place] for place, node in before.items() if place in after}


def _places(model: ir.Model, known: dict[Hashable, int]) -> dict[int, ir.Node]:
    """Every node of the main graph but constants, by a number that its twin has too."""
    number: dict[ir.Value, int] = {}
    seen: Counter[int] = Counter()
    found: dict[int, ir.Node] = {}

    def numbered(key: Hashable) -> int:
        return known.setdefault(key, len(known))

    for value in model.graph.inputs:
        if value.name not in model.graph.initializers:
            number[value] = numbered(("input", value.name))
    for node in model.graph:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            continue
        kind = numbered(
            (node.op_identifier(), tuple(-1 if value is None else number.get(value, -2) for value in node.inputs))
        )
        place = numbered((kind, seen[kind]))
        seen[kind] += 1
        found[place] = node
        for output in node.outputs:
            number[output] = numbered((place, output.index()))
    return found
