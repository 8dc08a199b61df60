"""Where a node lives: the main graph, the body of an If/Loop/Scan, or a model-local function.

onnx-ir gives a subgraph no way back to the node that holds it and its recursive iterator leaves functions out, so the
paths are kept here. A scope path is ``''`` for the main graph, ``node.attribute`` steps joined by ``/`` for bodies
(``If_3.then_branch/Loop_1.body``) and ``domain::name`` (with ``:overload``) for a function.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnxmorph._ir import ir

__all__ = ["Scope", "node_label", "nodes", "scopes", "subgraphs"]

GRAPH_ATTRIBUTES = ("GRAPH", "GRAPHS")


@dataclass(frozen=True, eq=False)
class Scope:
    """One list of nodes.

    Attributes:
        path: Where it is, ``''`` for the main graph.
        graph: The graph, or the function itself.
        function: The function it belongs to, however deep, or ``None``.
        repeated: True inside the body of a Loop or Scan: its nodes run any number of times.
    """

    path: str
    graph: ir.Graph | ir.Function
    function: ir.Function | None = None
    repeated: bool = False


def node_label(node: ir.Node) -> str:
    """The node's name, or the name of its first named output where it has none."""
    if node.name:
        return node.name
    return next((output.name for output in node.outputs if output.name), node.op_type)


def subgraphs(node: ir.Node) -> Iterator[tuple[str, ir.Graph]]:
    """Bodies held by a node's attributes as ``(attribute, graph)``; references to function attributes hold none."""
    for name, attribute in node.attributes.items():
        kind = attribute.type.name
        if kind not in GRAPH_ATTRIBUTES or attribute.is_ref():
            continue
        if kind == "GRAPH":
            yield name, attribute.as_graph()
        else:
            for position, graph in enumerate(attribute.as_graphs()):
                yield f"{name}[{position}]", graph


def _inside(scope: Scope) -> Iterator[tuple[Scope, ir.Node]]:
    # An explicit stack: bodies may be nested deeper than Python's recursion limit.
    stack: list[Iterator[tuple[Scope, ir.Node]]] = [((scope, node) for node in scope.graph)]
    while stack:
        step = next(stack[-1], None)
        if step is None:
            stack.pop()
            continue
        yield step
        here, node = step
        if not node.attributes:
            continue
        bodies = [
            Scope(
                f"{here.path}/{node_label(node)}.{attribute}".lstrip("/"),
                graph,
                here.function,
                here.repeated or node.op_type in ("Loop", "Scan"),
            )
            for attribute, graph in subgraphs(node)
        ]
        for body in reversed(bodies):
            stack.append((inner, inside) for inner in (body,) for inside in inner.graph)


def _function_path(function: ir.Function) -> str:
    return f"{function.domain}::{function.name}" + (f":{function.overload}" if function.overload else "")


def nodes(model: ir.Model) -> Iterator[tuple[Scope, ir.Node]]:
    """Every node with its scope: main graph in order, bodies right after the node that holds them, then functions."""
    yield from _inside(Scope("", model.graph))
    for function in model.functions.values():
        yield from _inside(Scope(_function_path(function), function, function))


def scopes(model: ir.Model) -> Iterator[Scope]:
    """Every scope once, the main graph first, an outer scope before its inner ones; empty bodies included."""
    roots = [Scope("", model.graph)]
    roots += [Scope(_function_path(function), function, function) for function in model.functions.values()]
    for root in roots:
        yield root
        for scope, node in _inside(root):
            for attribute, graph in subgraphs(node):
                yield Scope(
                    f"{scope.path}/{node_label(node)}.{attribute}".lstrip("/"),
                    graph,
                    scope.function,
                    scope.repeated or node.op_type in ("Loop", "Scan"),
                )
