"""Weights that are graph inputs too: defaults, which a caller may replace, become constants."""

from __future__ import annotations

from collections.abc import Iterator

from onnxmorph._ir import ir
from onnxmorph.morphs.folds.finding import Edited, Finding, Rule, View

__all__ = ["FreezeRule"]

_FIRST_IR_WITH_FREE_INITIALIZERS = 4


class FreezeRule(Rule):
    """``f(x, w = W)`` becomes ``f(x)``: whoever gives no ``w`` of his own gets the same.

    Files of old exporters list every weight among the inputs. From IR version 4 on this means that callers may replace
    it, so that no morph may count on its numbers. What callers may do changes here, and so it is done only when asked.
    """

    kind = "freeze"

    def find(self, view: View) -> Iterator[Finding]:
        """See :meth:`Rule.find`."""
        if view.model.ir_version < _FIRST_IR_WITH_FREE_INITIALIZERS:
            return  # every initializer had to be listed as an input then, and nobody could replace one
        for value in [value for value in view.model.graph.inputs if value.is_initializer()]:
            near: set[object] = set(value.consumers())
            near.update(node for layer in view.layers if value in layer.weight.roots for node in layer.nodes)
            yield Finding(
                f"::{value.name}",
                f"{value.name}: callers could replace it, now it is a constant",
                frozenset((value,)),
                lambda value=value: _freeze(view.model, value),  # type: ignore[misc]
                frozenset(near),
            )


def _freeze(model: ir.Model, value: ir.Value) -> Edited:
    model.graph.inputs.remove(value)
    return Edited()
