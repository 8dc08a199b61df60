"""Residual blocks: where a graph adds to a value what it has computed from it.

A *unit* is one sum ``s = t + f(t)`` with what is inside ``f``, and the activation behind it where there is one; its
*trunk* ``t`` reaches the sum as it is. Units follow each other along the trunk: a transformer block of two residual
adds is two of them. A *block* is a run of units, with one way in and one way out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from onnxmorph._ir import ir
from onnxmorph.errors import Refusal
from onnxmorph.graph.activations import Activation, recognise
from onnxmorph.graph.constants import is_constant
from onnxmorph.graph.layers import LinearLayer
from onnxmorph.graph.scopes import node_label, subgraphs

__all__ = ["ResidualBlock", "ResidualUnit", "find_block", "normalisation_behind", "normalises_inside", "residual_units"]

_SUMS = frozenset({"Add", "Sum"})
_PASSES = frozenset({"Identity", "Dropout"})
"""Give on what they are given (a Dropout that training left behind)."""

_NORMS = frozenset(
    {
        *("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "GroupNormalization"),
        *("InstanceNormalization", "BatchNormalization", "MeanVarianceNormalization"),
    }
)
_FUSED = frozenset({"SkipLayerNormalization", "EmbedLayerNormalization", "SkipSimplifiedLayerNormalization"})


@dataclass(frozen=True, eq=False)
class ResidualUnit:
    """One residual sum.

    Attributes:
        trunk: What is added to; also what the branches are computed from.
        sums: The Add and Sum nodes, the last one last.
        branches: What is added, one value a summand.
        total: The sum.
        activation: Element-wise and alone in reading the sum, or ``None``.
        exit: The output of the activation, or the sum.
        inside: Every node that depends on the trunk and leads to the exit.
    """

    trunk: ir.Value
    sums: tuple[ir.Node, ...]
    branches: tuple[ir.Value, ...]
    total: ir.Value
    activation: Activation | None
    exit: ir.Value
    inside: frozenset[ir.Node]

    @property
    def name(self) -> str:
        """For people: that of the sum."""
        return node_label(self.sums[-1])


@dataclass(frozen=True, eq=False)
class ResidualBlock:
    """A run of residual units, each with the exit of the one before as its trunk.

    Attributes:
        units: In order.
        nodes: Of all units, in the order of the graph.
    """

    units: tuple[ResidualUnit, ...]
    nodes: tuple[ir.Node, ...]

    @property
    def entry(self) -> ir.Value:
        """What comes in."""
        return self.units[0].trunk

    @property
    def exit(self) -> ir.Value:
        """What goes out."""
        return self.units[-1].exit


class _Order:
    """The nodes of one graph in order, and what lies between two values of it."""

    def __init__(self, graph: ir.Graph | ir.Function) -> None:
        self.nodes = list(graph)
        self.place = {node: place for place, node in enumerate(self.nodes)}

    def of(self, value: ir.Value) -> int:
        """Place of the node that makes ``value``; -1 where it comes from outside this graph."""
        node = value.producer()
        return -1 if node is None else self.place.get(node, -1)

    def between(self, start: ir.Value, ends: Iterable[ir.Value]) -> set[ir.Node]:
        """Nodes that depend on ``start`` and that one of ``ends`` depends on."""
        first = self.of(start)
        above: set[ir.Node] = set()
        waiting = [node for end in ends if (node := end.producer()) is not None]
        while waiting:
            node = waiting.pop()
            if node in above or self.place.get(node, -1) <= first:
                continue
            above.add(node)
            waiting.extend(made for value in _reads(node) if (made := value.producer()) is not None)
        found: set[ir.Node] = set()
        for node in sorted(above, key=self.place.__getitem__):
            if any(value is start or value.producer() in found for value in _reads(node)):
                found.add(node)
        return found


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """Inputs of a node, and what its bodies capture."""
    yield from (value for value in node.inputs if value is not None)
    waiting = [body for _, body in subgraphs(node)]
    while waiting:
        body = waiting.pop()
        for inner in body:
            yield from (value for value in inner.inputs if value is not None)
            waiting.extend(below for _, below in subgraphs(inner))
        yield from body.outputs


def _source(value: ir.Value) -> ir.Value:
    """The value that is passed on as it is to ``value``."""
    node = value.producer()
    while node is not None and node.op_type in _PASSES and node.domain in ("", "ai.onnx"):
        given = node.inputs[0] if node.inputs else None
        training = node.inputs[2] if len(node.inputs) > 2 else None
        if given is None or training is not None or node.outputs[0] is not value:
            break
        value = given
        node = value.producer()
    return value


def residual_units(graph: ir.Graph | ir.Function) -> list[ResidualUnit]:
    """Every residual unit of one graph, in the order of their sums; bodies of its nodes are graphs of their own."""
    order = _Order(graph)
    found = []
    for node in order.nodes:
        if _is_sum(node):
            unit = _unit(order, node, flatten=True) or _unit(order, node, flatten=False)
            if unit is not None:
                found.append(unit)
    parts = {node for unit in found for node in unit.sums[:-1]}
    return [unit for unit in found if unit.sums[-1] not in parts]


def _is_sum(node: ir.Node) -> bool:
    return node.op_type in _SUMS and node.domain in ("", "ai.onnx")


def _operands(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None and not is_constant(value)]


def _unit(order: _Order, last: ir.Node, *, flatten: bool) -> ResidualUnit | None:
    sums, summands = [last], _operands(last)
    if flatten:
        # (x + f(x)) + g(x): a sum that only this one reads is part of it.
        expanded: list[ir.Value] = []
        while summands:
            value = summands.pop(0)
            node = value.producer()
            alone = len(value.uses()) == 1 and not value.is_graph_output()
            if node is not None and alone and _is_sum(node) and len(_operands(node)) > 1:
                sums.insert(0, node)
                summands = _operands(node) + summands
            else:
                expanded.append(value)
        summands = expanded
    if len(summands) < 2:
        return None
    summands = sorted(summands, key=lambda value: order.of(_source(value)))
    trunk, branches = _source(summands[0]), summands[1:]
    if order.of(trunk) == -1 and trunk.producer() is not None:
        return None  # made in an outer graph: the body's own trunk it is not
    for branch in branches:
        made = branch.producer()
        if made is None or branch is trunk or made not in order.between(trunk, [branch]):
            return None
    total = last.outputs[0]
    activation = _alone(total)
    leaves = total if activation is None or activation.output is None else activation.output
    inside = frozenset(order.between(trunk, [leaves]))
    return ResidualUnit(trunk, tuple(sums), tuple(branches), total, activation, leaves, inside)


def _alone(total: ir.Value) -> Activation | None:
    """The activation that is all that reads ``total``."""
    if total.is_graph_output():
        return None
    activation = recognise(total)
    if activation is None or any(node not in activation.nodes for node in total.consumers()):
        return None
    return activation


def find_block(graph: ir.Graph | ir.Function, first: LinearLayer, last: LinearLayer) -> ResidualBlock:
    """The least block that holds two layers of ``graph``, which may be one.

    Raises:
        Refusal: One of them is in no residual branch, or what lies between them is no run of residual units.
    """
    order = _Order(graph)
    if order.place[first.node] > order.place[last.node]:
        first, last = last, first
    units = residual_units(graph)
    starts, ends = ([unit for unit in units if layer.node in unit.inside] for layer in (first, last))
    for layer, holding in ((first, starts), (last, ends)):
        if not holding:
            raise Refusal(_why_none(layer), way_out="name layers inside a block x + f(x)", code="not-residual")
    runs = [[unit] for unit in starts if last.node in unit.inside]
    runs += [run for start in starts if (run := _run(start, ends, units)) is not None]
    if not runs:
        raise Refusal(_why_apart(starts, first, last), way_out="name layers of one block", code="not-residual")
    units = min(runs, key=lambda run: len(order.between(run[0].trunk, [run[-1].exit])))
    block = order.between(units[0].trunk, [units[-1].exit])
    return ResidualBlock(tuple(units), tuple(sorted(block, key=order.place.__getitem__)))


def _run(start: ResidualUnit, ends: Sequence[ResidualUnit], units: Sequence[ResidualUnit]) -> list[ResidualUnit] | None:
    """The shortest run from ``start`` to one of ``ends``, breadth first."""
    following: dict[ir.Value, list[ResidualUnit]] = {}
    for unit in units:
        following.setdefault(unit.trunk, []).append(unit)
    goals = {id(unit) for unit in ends}
    waiting, seen = [[start]], {id(start)}
    while waiting:
        run = waiting.pop(0)
        if id(run[-1]) in goals:
            return run
        for unit in following.get(run[-1].exit, ()):
            if id(unit) not in seen:
                seen.add(id(unit))
                waiting.append([*run, unit])
    return None


def _why_none(layer: LinearLayer) -> str:
    """Why a layer is in no residual branch: what its output meets next."""
    waiting, seen = [layer.output], {layer.output}
    while waiting:
        value = waiting.pop(0)
        for node in value.consumers():
            if node.op_type in _FUSED:
                return f"{layer.name} leads to the {node.op_type} '{node_label(node)}', which holds its sum within it"
            if _is_sum(node) and len(_operands(node)) > 1:
                return (
                    f"{layer.name} is in no residual branch: no side of the sum '{node_label(node)}' it leads to is"
                    " passed on unchanged"
                )
            for output in node.outputs:
                if output not in seen:
                    seen.add(output)
                    waiting.append(output)
    return f"{layer.name} is in no residual branch: no sum follows it"


def _why_apart(starts: Sequence[ResidualUnit], first: LinearLayer, last: LinearLayer) -> str:
    """What stands between two units that do not follow each other."""
    unit = min(starts, key=lambda unit: len(unit.inside))
    norm = normalisation_behind(unit)
    if norm is not None:
        return (
            f"the sum '{unit.name}' is normalised by '{node_label(norm)}' before the next one (post-norm): on what it"
            " has given, a normalisation is not the identity"
        )
    return f"{first.name} and {last.name} lie in residual branches that do not follow each other"


def normalises_inside(unit: ResidualUnit) -> bool:
    """Whether something on the way from the trunk to the sum is normalised, as in a pre-norm block."""
    return any(node.op_type in _NORMS or node.op_type == "ReduceMean" for node in unit.inside)


def normalisation_behind(unit: ResidualUnit) -> ir.Node | None:
    """The normalisation that alone reads the sum, as one node or spelled out from a mean; ``None`` without one."""
    if unit.exit.is_graph_output():
        return None
    readers = list(dict.fromkeys(unit.exit.consumers()))
    if len(readers) == 1 and readers[0].op_type in _NORMS:
        return readers[0]
    ops = {node.op_type for node in readers}
    if "ReduceMean" in ops and ops & {"Sub", "Mul", "Pow"} and ops <= {"ReduceMean", "Sub", "Mul", "Pow", "Cast"}:
        return next(node for node in readers if node.op_type == "ReduceMean")
    return None
