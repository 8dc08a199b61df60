"""Where two models differ as graphs, and which inner values therefore have to be compared.

A value of the same name in both main graphs whose node is defined alike (operator, attributes, constants, names of its
inputs) follows from its inputs. One whose node is defined otherwise does not follow from anything: it is on the
*frontier* of what changed. If every frontier value and every output agrees, so does all that lies in between.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.verify.definitions import PACKED, Definitions
from onnxmorph.verify.isomorphism import twins

__all__ = ["Changes", "changes"]

_QUANTIZED = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT32)
_GIVE_QUANTIZED = (
    *("MatMulInteger", "ConvInteger", "QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"),
)


@dataclass(frozen=True)
class Changes:
    """Frontier of what changed between a parent and a child.

    Attributes:
        frontier: Names of inner values, upstream first in the child, that both have and that are defined differently.
        outputs: Names of graph outputs that are defined differently.
        tensors: Values of the child that carry constants the parent does not have (new or changed weights).
        region: Names of the parent's weights where it differs from the child, or next upstream of there.
        at_inputs: Some of what changed has no weights upstream of it: it works on the graph inputs themselves.
        replaced: Names of constants of the parent that the child does not have as they are.
        nodes: Nodes of the parent's main graph that are defined otherwise in the child, or missing there.
        rows: By name of a constant that kept its shape: indices along axis 0 where its content changed.
    """

    frontier: list[str]
    outputs: list[str]
    tensors: list[ir.Value]
    region: set[str]
    replaced: set[str]
    at_inputs: bool
    nodes: frozenset[ir.Node]
    rows: dict[str, np.ndarray[tuple[int], np.dtype[np.intp]]]


def _quantized(value: ir.Value, node: ir.Node) -> bool:
    """Whether a node gives quantized numbers, as far as the file tells."""
    if value.dtype is not None:
        return value.dtype in _QUANTIZED
    if node.op_type == "Gather":
        table = node.inputs[0].const_value if node.inputs[0] is not None else None
        return table is not None and table.dtype in PACKED
    return node.op_type in _GIVE_QUANTIZED


def _with_unpacked(child: ir.Model, frontier: Sequence[str], known: Collection[str | None]) -> list[str]:
    """The frontier, and behind quantized numbers, which cannot be measured, the first values that can."""
    found = dict.fromkeys(frontier)
    pending = [output for node in child.graph for output in node.outputs if output.name in found]
    while pending:
        value = pending.pop()
        node = value.producer()
        if node is None or not _quantized(value, node):
            continue
        following = [output for use in value.uses() for output in use.node.outputs if output.name in known]
        pending += [output for output in following if output.name not in found]
        found.update((str(output.name), None) for output in following)
    return [str(output.name) for node in child.graph for output in node.outputs if output.name in found]


def changes(parent: ir.Model, child: ir.Model, definitions: Definitions | None = None) -> Changes:
    """What differs between two models, as far as names tie them together.

    Args:
        parent: The parent.
        child: The child.
        definitions: Of these two, where they have been looked at before.
    """
    comparison = definitions or Definitions(parent, child)
    before = {
        output.name: (node, output) for node in parent.graph for output in node.outputs if output.name is not None
    }
    ends = {value.name for value in child.graph.outputs}
    frontier: list[str] = []
    changed_ends: list[str] = []
    parents_nodes: list[ir.Node] = []
    for node in child.graph:
        for index, output in enumerate(node.outputs):
            if not output.name or output.name not in before:
                continue
            old_node, old_output = before[output.name]
            if comparison.static(output) and comparison.static(old_output):
                comparison.same_input(old_output, output)  # known before their consumers ask: chains stay shallow
                continue
            if old_output.index() != index or not comparison.same_node(old_node, node):
                parents_nodes.append(old_node)
                (changed_ends if output.name in ends else frontier).append(output.name)
    frontier = _with_unpacked(child, frontier, set(before) - ends)
    kept = {output.name for node in child.graph for output in node.outputs}
    renamed = [node for node in parent.graph if not any(output.name in kept for output in node.outputs)]
    twin = twins(parent, child) if renamed else {}
    parents_nodes = [
        node for node in parents_nodes + renamed if node not in twin or not comparison.alike(node, twin[node])
    ]
    region, at_inputs = comparison.region(parents_nodes)
    replaced = {str(value.name) for value in comparison.changed_tensors(0)}
    region |= replaced
    changed = comparison.changed_tensors(1)
    return Changes(
        frontier,
        changed_ends,
        changed,
        region,
        replaced,
        at_inputs,
        frozenset(parents_nodes),
        comparison.changed_rows(changed),
    )
