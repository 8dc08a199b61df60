"""A child with more outputs than its parent, cut to what the parent has: to compare the two by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.edit import Builder, opset_of, take_name
from onnxmorph.plan import LongerOutput

__all__ = ["at_the_parents_size"]

_SLICE_TAKES_INPUTS = 10


def at_the_parents_size(parent: ir.Model, child: ir.Model, longer: Sequence[LongerOutput]) -> None:
    """Cut outputs of ``child``, in place, to the parent's indices, which come first.

    Args:
        parent: Gives the shapes that they have then.
        child: A child that nobody else holds.
        longer: Which outputs, on which axis, and how many indices the parent has.
    """
    declared = {value.name: value.shape for value in parent.graph.outputs}
    for cut in longer:
        place = next(place for place, value in enumerate(child.graph.outputs) if value.name == cut.name)
        whole = child.graph.outputs[place]
        build = Builder(child, child.graph)
        if opset_of(child) < _SLICE_TAKES_INPUTS:
            kept = build.node("Slice", [whole], axes=[cut.axis], starts=[0], ends=[cut.parent_size])
        else:
            name = f"{cut.name}.parent"
            bounds = [
                build.initializer(f"{name}.{kind}", np.array([number], np.int64))
                for kind, number in (("starts", 0), ("ends", cut.parent_size), ("axes", cut.axis))
            ]
            kept = build.node("Slice", [whole, *bounds])
        child.graph.outputs[place] = kept
        take_name(child, kept, whole)
        shape = declared.get(cut.name)
        kept.shape = None if shape is None else shape.copy()
