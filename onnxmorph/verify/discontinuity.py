"""Values behind a jump: where rounding, however small, may move a number by a whole step.

A quantizer rounds to the nearest step, a comparison picks one of two, ArgMax one of many. What lies close to the border
falls to one side or the other by the last bit, and two ways of computing the same number fall apart there: seldom, and
by no more than a step. The parent does the same to itself when its weights move by more than a rounding: that shows
how large a step is. That such falls are seldom is what tells them from an error.
"""

from __future__ import annotations

from collections.abc import Collection

from onnxmorph._ir import ir

__all__ = ["jumping", "jumping_nodes"]

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)

_ALWAYS = frozenset(
    {
        *("QuantizeLinear", "DynamicQuantizeLinear", "Round", "Floor", "Ceil", "Sign", "Hardmax", "Multinomial"),
        *("ArgMax", "ArgMin", "TopK", "NonMaxSuppression", "RoiAlign"),
    }
)
_OF_FLOATS = frozenset(
    {"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Cast", "NonZero", "Mod", "Unique"}
)
"""Operators that jump where they are given floating-point numbers."""

_GIVE_INTEGERS = frozenset(
    {
        *("Shape", "Size", "NonZero", "ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
        *("IsNaN", "IsInf", "QuantizeLinear", "NonMaxSuppression"),
    }
)


def jumping_nodes(model: ir.Model) -> frozenset[ir.Node]:
    """Nodes of the main graph that jump, or have a node that does in their bodies or function."""
    floating = _floating(model)
    within = {key: any(_jumps(node, None) for node in _nodes(function)) for key, function in model.functions.items()}
    return frozenset(
        node
        for node in model.graph
        if _jumps(node, floating)
        or within.get(node.op_identifier(), False)
        or any(_jumps(inner, None) for body in _bodies(node) for inner in _nodes(body))
    )


def jumping(
    model: ir.Model, changed: Collection[ir.Node] | None = None, *, nodes: Collection[ir.Node] | None = None
) -> frozenset[str]:
    """Names of values of the main graph that an operator with jumps, fed with what the model computes, leads to.

    Args:
        changed: Nodes where another model differs. With them only jumps count that they are or lead to: what comes
            before is the same to the bit in both, and falls to the same side.
        nodes: The `jumping_nodes` of the model, where they are known.
    """
    nodes = jumping_nodes(model) if nodes is None else nodes
    if not nodes:
        return frozenset()
    behind: set[ir.Value] = set()
    touched: set[ir.Value] = set()
    for node in model.graph:
        taken = _taken(node)
        if changed is None or node in changed or any(value in touched for value in taken):
            touched.update(node.outputs)
            if node in nodes or any(value in behind for value in taken):
                behind.update(node.outputs)
    return frozenset(str(value.name) for value in behind if value.name)


def _taken(node: ir.Node) -> list[ir.Value]:
    """What a node is given, its bodies' captures included."""
    taken = [value for value in node.inputs if value is not None]
    for body in _bodies(node):
        taken += [value for inner in _nodes(body) for value in inner.inputs if value is not None]
    return taken


def _bodies(node: ir.Node) -> list[ir.Graph]:
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def _nodes(graph: ir.Graph | ir.Function) -> list[ir.Node]:
    """The nodes of a graph and of all bodies in it."""
    return [inner for node in graph for inner in (node, *(n for body in _bodies(node) for n in _nodes(body)))]


def _floating(model: ir.Model) -> set[ir.Value]:
    """Values of the main graph that may be floating-point numbers, where the file does not say."""
    found = {value for value in (*model.graph.inputs, *model.graph.initializers.values()) if _is_float(value)}
    for node in model.graph:
        for output in node.outputs:
            if output.dtype is not None:
                floats = output.dtype in _FLOATS
            elif node.op_type in ("Cast", "Constant", "ConstantOfShape"):
                floats = _makes_floats(node)
            else:
                floats = node.op_type not in _GIVE_INTEGERS and any(value in found for value in node.inputs)
            if floats:
                found.add(output)
    return found


def _is_float(value: ir.Value) -> bool:
    return (value.dtype if value.const_value is None else value.const_value.dtype) in _FLOATS


def _makes_floats(node: ir.Node) -> bool:
    if node.op_type == "Cast":
        return node.attributes["to"].as_int() in tuple(int(dtype) for dtype in _FLOATS)
    value = node.attributes.get("value")
    if value is None or value.is_ref():
        return node.op_type != "Constant" or any(name.startswith("value_float") for name in node.attributes)
    # Not as_tensor(): it asks the tensor for every member of a protocol, which takes longer than the rest.
    return value.type == ir.AttributeType.TENSOR and value.value.dtype in _FLOATS


def _jumps(node: ir.Node, floating: set[ir.Value] | None) -> bool:
    """Whether a node jumps; ``floating`` is what may be floating-point, where that is known."""
    computed = [value for value in node.inputs[:2] if value is not None and not _constant(value)]
    if not computed:
        return False
    if node.domain not in ("", "ai.onnx"):
        return "Quantize" in node.op_type or node.op_type.startswith(("QLinear", "QGemm", "QAttention"))
    if node.op_type in _ALWAYS or node.op_type in ("QLinearConv", "QLinearMatMul"):
        return floating is None or node.op_type.startswith("QLinear") or any(value in floating for value in computed)
    if node.op_type not in _OF_FLOATS or (node.op_type == "Cast" and _makes_floats(node)):
        return False
    return any(value.dtype in (*_FLOATS, None) if floating is None else value in floating for value in computed)


def _constant(value: ir.Value) -> bool:
    producer = value.producer()
    return value.is_initializer() or (producer is not None and producer.op_type == "Constant")
