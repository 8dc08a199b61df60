"""Values of two models that are the same by the way they are computed, and weights alone that make the difference.

Two models are walked side by side from their inputs. A node of the child with the operator, the attributes, the
constants and the inputs of a node of the parent computes the same value, whatever it is called: the two are *tied*.
Where all of that agrees but numbers in a weight, ``f(x; w)`` and ``f(x; w')`` are two functions, and that is known
without a run: inputs only decide whether anybody ever sees it.

What is a weight, and when its numbers are others: `onnxmorph.verify.weights_apart`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from onnxmorph._ir import ir
from onnxmorph.verify.definitions import Definitions
from onnxmorph.verify.weights_apart import Apart, weights_apart

__all__ = ["Ties", "WeightDifference"]

_DEEPEST = 16


@dataclass(frozen=True)
class WeightDifference:
    """A weight whose numbers are others in the child, at a node where all else is the same.

    Attributes:
        value: The parent's value that is computed with it; where the node lies in a body, that of the main graph.
        child_value: The child's.
        op: Operator of the node.
        weight: Name of the child's constant.
        parents: Name of the parent's.
        place: Index of the number that differs most.
        before: That number in the parent.
        after: And in the child.
        differing: How many of its numbers differ by more than rounding.
        size: How many it has.
        within: The node of the main graph, or the function, in whose body it lies; empty in the main graph.
        named: Whether what the node computes has one name in both models.
        alone: Whether all else in both models is tied: nothing can make up for it.
    """

    value: str
    child_value: str
    op: str
    weight: str
    parents: str
    place: tuple[int, ...]
    before: float
    after: float
    differing: int
    size: int
    within: str
    named: bool
    alone: bool = False

    def __str__(self) -> str:
        index = f"[{', '.join(map(str, self.place))}]" if self.place else ""
        text = f"weight {self.weight!r}{index} is {self.after:.6g} in the child and {self.before:.6g} in the parent"
        others = f", {self.differing} of its {self.size} numbers differ" if self.differing > 1 else ""
        return text + others + f" ({self.op} that gives {self.child_value!r})"

    def to_json(self) -> dict[str, Any]:
        """The difference as JSON values."""
        document: dict[str, Any] = {
            "value": self.value,
            "child_value": self.child_value,
            "op": self.op,
            "weight": self.weight,
            "index": list(self.place),
            "parent": self.before,
            "child": self.after,
            "differing": self.differing,
            "size": self.size,
        }
        return document | ({"within": self.within} if self.within else {})


class Ties:
    """The walk through both models.

    Args:
        parent: The parent.
        child: The child.
        definitions: Of these two.
        reused: Values of the child's main graph whose name says nothing, and the parent's in whose place they stand.
        agreed: Whether two values of the main graphs of one name are the same although they are computed otherwise.
            Without it names are believed, and what follows from a weight that differs is tied as if it did not: so
            two models that have one and the same structure are walked to the end.

    Attributes:
        tied: The parent's value for values of the child, those of bodies included.
        differences: Weights whose numbers differ at tied inputs, upstream first.
        changed: Values of the main graphs, ``(parent's, child's)``, whose nodes stand in the same place and are not the
            same, upstream first.
        reordered: Values of the main graphs of one name, ``(parent's, child's)``, computed from the same values in
            another order, or the same value with its axes in another order.
        untied: How many nodes of the child's main graph that lead to an output stand in no place of the parent's.
    """

    def __init__(
        self,
        parent: ir.Model,
        child: ir.Model,
        definitions: Definitions,
        reused: Mapping[ir.Value, ir.Value],
        agreed: Callable[[ir.Value, ir.Value], bool] | None = None,
    ) -> None:
        self.tied: dict[ir.Value, ir.Value] = {}
        self.differences: list[WeightDifference] = []
        self.changed: list[tuple[ir.Value, ir.Value]] = []
        self.reordered: list[tuple[ir.Value, ir.Value]] = []
        self.untied = 0
        self._strict = agreed is not None
        self._definitions = definitions
        self._reused = reused
        self._functions = (parent.functions, child.functions)
        self._walked: dict[tuple[int, int], bool] = {}
        named = {value.name: value for value in parent.graph.inputs}
        for value in child.graph.inputs:
            if value.name in named:
                self.tied[value] = named[value.name]
        self._walk(parent.graph, child.graph, agreed or _by_its_name, (), 0)

    def parents_name(self, value: ir.Value) -> str | None:
        """Name of the parent's value that a value of the child is tied to."""
        before = self.tied.get(value)
        return before.name if before is not None else None

    def same(self, before: ir.Graph, after: ir.Graph) -> bool:
        """Whether two bodies of nodes in the same place do the same."""
        return self._walked.get((id(before), id(after)), False)

    # -- one graph against another -------------------------------------------------------------------------------------

    def _walk(
        self,
        before: ir.Graph | ir.Function,
        after: ir.Graph | ir.Function,
        agreed: Callable[[ir.Value, ir.Value], bool],
        owner: tuple[ir.Value, ir.Value, str] | tuple[()],
        depth: int,
    ) -> bool:
        """Ties what can be tied; ``owner`` is the pair of values in the main graphs that a body is the body of.

        Returns:
            Whether the outputs are tied and nothing differed on the way.
        """
        live_before, live_after = _live(before), _live(after)
        by_name: dict[str | None, ir.Value] = {output.name: output for node in before for output in node.outputs}
        by_name.pop(None, None)
        by_name.pop("", None)
        kept = {output.name for node in after for output in node.outputs}
        waiting: dict[Hashable, list[ir.Node]] = defaultdict(list)
        for node in before:
            if node in live_before and not self._is_constant(node):
                waiting[self._wiring(node, lambda value: value)].append(node)
        taken: set[ir.Node] = set()
        found = len(self.differences)
        changed = untied = 0
        for node in after:
            if node not in live_after or self._is_constant(node):
                continue
            partner = self._partner(node, by_name, waiting, taken, kept)
            same = noted = False
            if partner is None:
                untied += 1
                if not owner:
                    self._note_order(node, by_name)
            else:
                taken.add(partner)
                noted_before = len(self.differences)
                same = self._compare(partner, node, owner, depth)
                noted = len(self.differences) > noted_before
                changed += not same
                if not same and not owner:
                    self.changed.append((partner.outputs[0], node.outputs[0]))
                    if node.op_type == "Transpose" and partner.outputs[0].name == node.outputs[0].name:
                        self.reordered.append((partner.outputs[0], node.outputs[0]))
            for place, output in enumerate(node.outputs):
                if partner is not None and place < len(partner.outputs) and (same or (noted and not self._strict)):
                    self.tied[output] = partner.outputs[place]
                    continue
                other = self._counterpart(output, by_name)
                if other is not None and agreed(other, output):
                    self.tied[output] = other
        if not owner:
            self.untied = untied
        if untied or changed > 1:
            self.differences[found:] = [replace(difference, alone=False) for difference in self.differences[found:]]
        ends = list(zip(before.outputs, after.outputs, strict=False))
        return (
            len(before.outputs) == len(after.outputs)
            and not changed
            and all(self._same_end(one, other) for one, other in ends)
        )

    def _counterpart(self, value: ir.Value, by_name: Mapping[str | None, ir.Value]) -> ir.Value | None:
        """What stands in the place of a value in the parent, where names are to be believed."""
        return self._reused.get(value) or by_name.get(value.name)

    def _same_end(self, before: ir.Value, after: ir.Value) -> bool:
        if self._definitions.static(after):
            return self._definitions.static(before) and self._definitions.same_input(before, after)
        return self.tied.get(after) is before

    def _is_constant(self, node: ir.Node) -> bool:
        return all(self._definitions.static(output) for output in node.outputs)

    def _wiring(self, node: ir.Node, parents: Callable[[ir.Value], ir.Value | None]) -> Hashable:
        """Operator and computed inputs of a node, these as the parent's values; ``None`` where one is not tied."""
        places: list[Hashable] = []
        for value in node.inputs:
            if value is None or self._definitions.static(value):
                places.append(value is None)
                continue
            tied = parents(value)
            if tied is None:
                return None
            places.append(id(tied))
        return (node.op_identifier(), tuple(places), len(node.outputs))

    def _partner(
        self,
        node: ir.Node,
        by_name: Mapping[str | None, ir.Value],
        waiting: Mapping[Hashable, list[ir.Node]],
        taken: set[ir.Node],
        kept: set[str | None],
    ) -> ir.Node | None:
        """The parent's node in the same place: that of the same name, else the first that is free and the same, else
        the first that is free."""
        key = self._wiring(node, self.tied.get)
        candidates = waiting.get(key, []) if key is not None else []
        free = [other for other in candidates if other not in taken]
        named = by_name.get(node.outputs[0].name) if node.outputs else None
        if named is not None and node.outputs[0] not in self._reused:
            producer = named.producer()
            return producer if producer in free else None
        free = [other for other in free if other.outputs[0].name not in kept]
        return next((other for other in free if self._definitions.alike(other, node)), free[0] if free else None)

    def _note_order(self, node: ir.Node, by_name: Mapping[str | None, ir.Value]) -> None:
        """Notes a node that takes what the parent's of the same name takes, in another order."""
        before = self._counterpart(node.outputs[0], by_name)
        partner = before.producer() if before is not None else None
        if before is None or partner is None or len(partner.outputs) != 1 or len(node.inputs) != len(partner.inputs):
            return
        if any(value is None or self._definitions.static(value) for value in node.inputs):
            return
        tied = sorted(id(self.tied.get(value)) for value in node.inputs if value is not None)
        if partner.op_identifier() == node.op_identifier() and tied == sorted(map(id, partner.inputs)):
            attributes = _attributes(partner), _attributes(node)
            if attributes[0].keys() == attributes[1].keys() and all(
                self._definitions.same_attribute(attribute, attributes[1][name])
                for name, attribute in attributes[0].items()
            ):
                self.reordered.append((before, node.outputs[0]))

    # -- one node against another --------------------------------------------------------------------------------------

    def _compare(
        self, before: ir.Node, after: ir.Node, owner: tuple[ir.Value, ir.Value, str] | tuple[()], depth: int
    ) -> bool:
        """Whether two nodes in the same place do the same; notes weights whose numbers alone differ."""
        definitions = self._definitions
        plain, bodies = _attributes(before), _bodies(before)
        new_plain, new_bodies = _attributes(after), _bodies(after)
        pair = (before.outputs[0], after.outputs[0])
        same = plain.keys() == new_plain.keys() and all(
            definitions.same_attribute(attribute, new_plain[name]) for name, attribute in plain.items()
        )
        apart = [
            place
            for place, (one, other) in enumerate(zip(before.inputs, after.inputs, strict=True))
            if one is not None and other is not None and definitions.static(other)
            if not definitions.same_input(one, other)
        ]
        if same and apart:
            differing = weights_apart(before, after, apart)
            same = differing is not None
            for difference in differing or ():
                self._note(difference, owner or (*pair, ""), named=pair[0].name == pair[1].name)
            same = same and not differing
        if same and bodies.keys() == new_bodies.keys():
            label = after.name or str(pair[1].name)
            inner = owner or (*pair, label)
            for name, body in bodies.items():
                same = self._inside(body, new_bodies[name], inner, depth) and same
        functions = [
            known.get(node.op_identifier()) for known, node in zip(self._functions, (before, after), strict=True)
        ]
        if functions[0] is not None and functions[1] is not None:
            inner = owner or (*pair, after.op_type)
            same = self._inside(functions[0], functions[1], inner, depth) and same
        elif functions[0] is not functions[1]:
            same = False
        return same

    def _inside(
        self,
        before: ir.Graph | ir.Function,
        after: ir.Graph | ir.Function,
        owner: tuple[ir.Value, ir.Value, str],
        depth: int,
    ) -> bool:
        """Two bodies, or two functions, whose formal inputs go by their places."""
        key = (id(before), id(after))
        if key in self._walked:
            return self._walked[key]
        if depth >= _DEEPEST or len(before.inputs) != len(after.inputs):
            return False
        self._walked[key] = True
        for one, other in zip(before.inputs, after.inputs, strict=True):
            self.tied[other] = one
        # Runs do not look into bodies: there, a name is taken for what it says.
        self._walked[key] = self._walk(before, after, _by_its_name, owner, depth + 1)
        return self._walked[key]

    def _note(self, apart: Apart, owner: tuple[ir.Value, ir.Value, str], *, named: bool) -> None:
        value, child_value, within = owner
        self.differences.append(
            WeightDifference(
                str(value.name), str(child_value.name), **vars(apart), within=within, named=named, alone=True
            )
        )


def _by_its_name(_before: ir.Value, _after: ir.Value) -> bool:
    return True


def _attributes(node: ir.Node) -> dict[str, ir.Attr]:
    return {
        name: attribute
        for name, attribute in node.attributes.items()
        if attribute.is_ref() or attribute.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    }


def _bodies(node: ir.Node) -> dict[str, ir.Graph]:
    return {
        name: attribute.as_graph()
        for name, attribute in node.attributes.items()
        if not attribute.is_ref() and attribute.type == ir.AttributeType.GRAPH
    }


def _live(graph: ir.Graph | ir.Function) -> set[ir.Node]:
    """Nodes that lead to an output of the graph, and those of their bodies."""
    ends = set(graph.outputs)
    live: set[ir.Node] = set()
    for node in reversed(list(graph)):
        if any(output in ends or any(use.node in live for use in output.uses()) for output in node.outputs):
            live.add(node)
            pending = list(_bodies(node).values())
            while pending:
                for inner in pending.pop():
                    live.add(inner)
                    pending.extend(_bodies(inner).values())
    return live
