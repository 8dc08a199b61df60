"""Where a model stores its floating-point tensors: initializers of every scope, and Constant nodes.

Exporters differ in where they put weights. Both places are addressed alike, by a key, so that nothing has to be moved
before training and values go back to where they came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxmorph._ir import ir
from onnxmorph.graph.constants import stored
from onnxmorph.graph.scopes import nodes, scopes

__all__ = ["FLOATS", "Site", "sites"]

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
"""Types that gradients are computed in."""


@dataclass(frozen=True, eq=False)
class Site:
    """One stored floating-point tensor.

    Attributes:
        key: Its name; for what lies in a body or a function, behind the path of its scope and ``::``.
        value: The initializer, or the output of the Constant node.
        tensor: What is stored.
    """

    key: str
    value: ir.Value
    tensor: ir.TensorProtocol


def sites(model: ir.Model) -> Mapping[ir.Value, Site]:
    """Every stored floating-point tensor of a model by its value, in the order of the file.

    Keys are the same for any model of the same graph, whatever its numbers are.
    """
    found: dict[ir.Value, Site] = {}
    taken: set[str] = set()

    def add(path: str, value: ir.Value) -> None:
        tensor = stored(value)
        if tensor is None or tensor.dtype not in FLOATS or value in found:
            return
        stem = f"{path}::{value.name}" if path else value.name or "unnamed"
        key, count = stem, 1
        while key in taken:
            count += 1
            key = f"{stem}#{count}"
        taken.add(key)
        found[value] = Site(key, value, tensor)

    for scope in scopes(model):
        if isinstance(scope.graph, ir.Graph):
            for value in scope.graph.initializers.values():
                add(scope.path, value)
    for scope, node in nodes(model):
        if node.op_type == "Constant" and node.outputs:
            add(scope.path, node.outputs[0])
    return found
