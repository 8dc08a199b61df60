"""Untying: a stored tensor with several users becomes one tensor for each, so that each can change on its own."""

from __future__ import annotations

from collections.abc import Sequence

from onnxmorph._ir import ir
from onnxmorph.edit import Builder, all_graphs
from onnxmorph.errors import Refusal
from onnxmorph.graph.axes import GroupTable
from onnxmorph.graph.constants import stored
from onnxmorph.graph.layers import LinearLayer

__all__ = ["shared_weights", "untie"]

_WEIGHTS = frozenset({"produced", "contracted", "embedding"})


def shared_weights(table: GroupTable, layer: LinearLayer) -> tuple[str, ...]:
    """Names of the weights with several users that are coupled with the output of a layer."""
    names: dict[str, None] = {}
    for group in table.of_axis(layer.output, layer.output_axis):
        for member in group.stored:
            value = member.value
            if member.use is None and member.roles & _WEIGHTS and len(value.uses()) > 1 and value.name:
                names[value.name] = None
    return tuple(names)


def untie(model: ir.Model, names: Sequence[str]) -> dict[str, str]:
    """Give every user of these tensors its own, in place; the first keeps the name.

    Returns:
        For every new tensor the name of the one it is a copy of. They share their numbers until one is changed.

    Raises:
        Refusal: There is no such tensor, or a caller may set it.
    """
    copies: dict[str, str] = {}
    for name in names:
        value = _find(model, name)
        tensor = None if value is None else stored(value)
        if value is None or tensor is None:
            raise Refusal(f"the model has no stored tensor '{name}'", code="tensor-gone")
        if value.is_graph_input() and model.ir_version >= 4:
            raise Refusal(f"'{name}' is a graph input too, which a caller may set", code="overridable")
        for node, position in list(value.uses())[1:]:
            graph = node.graph
            if graph is None:
                continue
            build = Builder(model, graph, before=node)
            twin = build.initializer(name, tensor.numpy(), tensor.dtype)
            node.replace_input_with(position, twin)
            copies[twin.name or ""] = name
    return copies


def _find(model: ir.Model, name: str) -> ir.Value | None:
    for graph, _, _ in all_graphs(model):
        if name in graph.initializers:
            return graph.initializers[name]
        for node in graph:
            for output in node.outputs:
                if output.name == name and node.op_type == "Constant":
                    return output
    return None
