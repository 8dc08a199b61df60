"""Values whose rounding is that of a wider range than their own.

Sigmoid, Tanh and Erf are computed by approximations good to about one unit in the last place *of one*: close to zero,
as behind a detector's Sigmoid with a strongly negative bias, they move in steps of that size while their inputs move
smoothly. What such values may differ by is told by the range of the function, not by their own size.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxmorph._ir import ir

__all__ = ["reach"]

_RANGES: Mapping[str, float] = {"Sigmoid": 1.0, "Tanh": 1.0, "Erf": 1.0}

_CARRIES = frozenset(
    {
        *("Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile"),
        *("Slice", "Split", "Concat", "Gather", "GatherElements", "GatherND"),
        *("MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin"),
        *("AveragePool", "GlobalAveragePool", "ReduceMean"),
    }
)
"""Operators that give numbers they were given, or means of them."""


def reach(model: ir.Model) -> dict[str, float]:
    """Per value of the main graph that such a function computes, or carried from one, the largest magnitude it has."""
    spans: dict[ir.Value, float] = {}
    _walk(model.graph, spans)
    return {value.name: span for value, span in spans.items() if value.name and value.graph is model.graph}


def _walk(graph: ir.Graph, spans: dict[ir.Value, float]) -> None:
    for node in graph:
        if node.domain not in ("", "ai.onnx"):
            continue
        span = _RANGES.get(node.op_type, 0.0)
        if node.op_type in _CARRIES:
            span = max((spans.get(value, 0.0) for value in node.inputs if value is not None), default=0.0)
        if span:
            spans.update((output, span) for output in node.outputs)
        if node.op_type == "If":
            for name in ("then_branch", "else_branch"):
                branch = node.attributes[name].as_graph()
                _walk(branch, spans)
                for output, given in zip(node.outputs, branch.outputs, strict=False):
                    if spans.get(given, 0.0) > spans.get(output, 0.0):
                        spans[output] = spans[given]
