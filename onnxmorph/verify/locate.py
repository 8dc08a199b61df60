"""Where two models part: the first value, in the order of the child, that differs on an input known to show it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.errors import RuntimeFailure
from onnxmorph.verify.feeds import Feeds
from onnxmorph.verify.noise import is_floating, moved_tensors
from onnxmorph.verify.reference import Reference
from onnxmorph.verify.runner import Stage

__all__ = ["common_values", "describe_value", "first_apart"]

_AT_ONCE = 32
_MOST_MOVED_BYTES = 1 << 27


def common_values(parent: ir.Model, child: ir.Model) -> list[str]:
    """Names of values that both main graphs compute, in the child's order."""
    known = {output.name for node in parent.graph if node.op_type != "Constant" for output in node.outputs}
    return [
        output.name
        for node in child.graph
        if node.op_type != "Constant"
        for output in node.outputs
        if output.name and output.name in known
    ]


def first_apart(
    parent: ir.Model,
    child: ir.Model,
    feeds: Feeds,
    stage: Callable[[Sequence[str]], Stage],
    *,
    limit: float,
    seed: int = 0,
    out_of_time: Callable[[], bool] = lambda: False,
) -> str | None:
    """Name of the first value of both main graphs that differs beyond the parent's noise; ``None`` where none does.

    Values that changed their shape or are no floats are passed over. A few values are looked at at a time, so that
    memory stays small and what lies behind the first difference is never computed twice.

    Args:
        feeds: Inputs that show the difference.
        stage: Makes a stage that looks at these inner values.
    """
    names = common_values(parent, child)
    generator = np.random.default_rng([seed, 5])
    for start in range(0, len(names), _AT_ONCE):
        if out_of_time():
            return None
        chunk = names[start : start + _AT_ONCE]
        try:
            here = stage(chunk)
            running, other = here.open(parent), here.open(child, child=True)
            reference = Reference(feeds, chunk, running.values(feeds, chunk))
            moved = moved_tensors(parent, generator, most_bytes=_MOST_MOVED_BYTES)
            reference.near.append(here.varied(running, parent, moved).values(feeds, chunk))
            values = other.values(feeds, chunk)
        except RuntimeFailure:
            return None
        for name in chunk:
            before, after = reference.values.get(name), values.get(name)
            if before is None or after is None or before.shape != after.shape or not is_floating(before):
                continue
            if reference.measure(name, after).worst() > limit:
                return name
    return None


def describe_value(model: ir.Model, name: str, kind: str) -> dict[str, Any]:
    """A value with the node of the main graph that computes it, as JSON values."""
    document: dict[str, Any] = {"value": name, "kind": kind}
    for node in model.graph:
        if any(output.name == name for output in node.outputs):
            document["op"] = node.op_type
            if node.name:
                document["node"] = node.name
    return document
