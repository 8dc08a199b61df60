"""Names that a rewriter has put on another value.

A tool that folds a normalisation into the layer before it may let the layer keep its name: what is called ``h`` in the
child is then what the normalisation gave in the parent, under the name that is gone. Who reads it tells: the nodes that
read ``h`` in the child read the other value in the parent.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxmorph._ir import ir
from onnxmorph.verify.definitions import Definitions

__all__ = ["reused_names"]


def reused_names(parent: ir.Model, child: ir.Model, definitions: Definitions) -> dict[ir.Value, ir.Value]:
    """For values of the child's main graph that stand in the place of a value of the parent of another name, which the
    child does not have: that value. Nothing is claimed of their numbers.

    All nodes that read the child's value must have a counterpart by name and operator in the parent, and read one and
    the same value there.
    """
    before: dict[str | None, ir.Value] = {output.name: output for node in parent.graph for output in node.outputs}
    after = {output.name for node in child.graph for output in node.outputs}
    found: dict[ir.Value, ir.Value] = {}
    for node in child.graph:
        for output in node.outputs:
            if not output.name or output.name not in before or output.is_graph_output() or definitions.static(output):
                continue
            roles = [_role(use.node, use.idx, before) for use in output.uses()]
            role = roles[0] if roles else None
            if role is None or role.name in after or role.producer() is None or definitions.static(role):
                continue
            if all(other is role for other in roles):
                found[output] = role
    return found


def _role(reader: ir.Node, place: int, before: Mapping[str | None, ir.Value]) -> ir.Value | None:
    """What the parent's node of the same name and operator is given in this place."""
    counterpart = before.get(reader.outputs[0].name) if reader.outputs else None
    node = counterpart.producer() if counterpart is not None else None
    # It may have got another input, such as the bias that came from a normalisation behind it.
    if node is None or node.op_identifier() != reader.op_identifier() or len(node.inputs) <= place:
        return None
    return node.inputs[place]
