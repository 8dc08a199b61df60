"""Models that draw random numbers: both are given the same draws.

A parent that draws noise differs from itself from run to run, so nothing downstream of the draw could be judged. Where
a node of the main graph draws, in both models under the same name, the node is cut out and its output becomes an input,
fed in both with what the parent drew.
"""

from __future__ import annotations

from collections.abc import Collection

from onnxmorph._ir import ir

__all__ = ["cut", "draws"]

_DRAW = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}


def draws(parent: ir.Model, child: ir.Model) -> list[str]:
    """Names of the values that both main graphs draw at random by the same operator."""
    drawn = [_drawn(model) for model in (parent, child)]
    ends = {value.name for model in (parent, child) for value in model.graph.outputs}
    return [name for name, op in drawn[0].items() if drawn[1].get(name) == op and name not in ends]


def _drawn(model: ir.Model) -> dict[str, str]:
    return {
        str(node.outputs[0].name): node.op_type
        for node in model.graph
        if node.op_type in _DRAW and node.domain in ("", "ai.onnx") and node.outputs[0].name
    }


def cut(model: ir.Model, names: Collection[str]) -> ir.Model:
    """A copy of the model in which the nodes that draw these values are gone and the values are graph inputs."""
    if not names:
        return model
    from onnxmorph.model import clone

    copy = clone(model)
    for node in list(copy.graph):
        if not node.outputs or node.outputs[0].name not in names:
            continue
        old = node.outputs[0]
        dtype = old.dtype if old.dtype not in (None, ir.DataType.UNDEFINED) else _drawn_type(node)
        fed = ir.Value(name=old.name, shape=old.shape, type=ir.TensorType(dtype or ir.DataType.FLOAT))
        old.replace_all_uses_with(fed)
        old.name = None
        copy.graph.remove(node, safe=True)
        copy.graph.inputs.append(fed)
    return copy


def _drawn_type(node: ir.Node) -> ir.DataType | None:
    if "dtype" in node.attributes:
        return ir.DataType(node.attributes["dtype"].as_int())
    if node.op_type == "Multinomial":
        return ir.DataType.INT32
    source = node.inputs[0] if node.inputs else None
    return source.dtype if source is not None else None
