"""The widths of a model that are free to change: one number for each coupled group, and a layer to name it by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnxmorph._ir import ir
from onnxmorph.errors import Refusal
from onnxmorph.graph.axes import Group, GroupTable
from onnxmorph.graph.cost import Sample
from onnxmorph.graph.layers import LinearLayer, layers
from onnxmorph.graph.shapes import Shapes
from onnxmorph.morphs.widen import coupled_groups

__all__ = ["Network", "Width", "Widths"]

Widths = Mapping[int, int]
"""Sizes of groups by their atom; what is not listed is as it is."""

_ZEROS = frozenset({"sum", "l1", "l2", "bilinear"})
"""Reductions over channels that zeros leave as they are. Under any other (a LayerNorm, a softmax, a mean) even a
channel of zeros counts, and taking it away changes what the others become."""


@dataclass(frozen=True, eq=False)
class Width:
    """One width that is free: a group, seen from the first layer whose output it is.

    Attributes:
        group: Of the network's table.
        layer: The layer.
        members: All layers whose outputs it is, or is part of.
    """

    group: Group
    layer: LinearLayer
    members: tuple[LinearLayer, ...]

    @property
    def size(self) -> int:
        """Indices of the group."""
        return self.group.size

    @property
    def place(self) -> int:
        """Which of the groups of the layer's output axis it is."""
        return self.group.table.of_axis(self.layer.output, self.layer.output_axis).index(self.group)

    @property
    def is_whole_axis(self) -> bool:
        """Whether it is all of the layer's output axis."""
        return len(self.group.table.of_axis(self.layer.output, self.layer.output_axis)) == 1 and (
            self.of_axis(self.size) == self.size
        )

    def of_axis(self, size: int) -> int | None:
        """The outputs that `layer` has when the group has ``size`` indices."""
        axes = self.group.coupled.axes(self.layer.output)
        assert axes is not None
        return self.group.coupled.factors.size(axes[self.layer.output_axis], {self.group.atom: size})

    def indices(self, kept: Sequence[int] | NDArray[np.int64]) -> list[int]:
        """The outputs of `layer` that stay when these indices of the group do."""
        axes = self.group.coupled.axes(self.layer.output)
        assert axes is not None
        chosen = np.asarray(kept, dtype=np.int64)
        return [
            int(place)
            for place in self.group.coupled.factors.gather(axes[self.layer.output_axis], {self.group.atom: chosen})
        ]


class Network:
    """A model with its layers and coupled groups, analysed once."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.shapes = Shapes.of(model)
        self.layers: list[LinearLayer] = layers(model, self.shapes)
        self.table: GroupTable = coupled_groups(model)
        self.sample = Sample(model, self.shapes)

    @cached_property
    def widths(self) -> list[Width]:
        """Every group of two and more that may change and is the output of a layer, in the order of the layers."""
        found: dict[Group, list[LinearLayer]] = {}
        for layer in self.layers:
            axes = None if layer.fixed_width is not None else self.table.coupled.axes(layer.output)
            if axes is None or not -len(axes) <= layer.output_axis < len(axes):
                continue
            for group in self.table.of_axis(layer.output, layer.output_axis):
                if group.size > 0 and group.refusal() is None:
                    found.setdefault(group, []).append(layer)
        return [
            Width(group, next((one for one in members if self._is_alone(one)), members[0]), tuple(members))
            for group, members in found.items()
        ]

    def _is_alone(self, layer: LinearLayer) -> bool:
        axes = self.table.coupled.axes(layer.output)
        return (
            axes is not None
            and len(self.table.coupled.factors.factors(axes[layer.output_axis])) == 1
            and (len(self.table.of_axis(layer.output, layer.output_axis)) == 1)
        )

    def again(self, width: Width) -> Width:
        """The same width in the analysis of an edited model: the same place on the axis of the same layer.

        Raises:
            Refusal: It is not there any more.
        """
        place = width.place
        for layer in self.layers:
            if layer.key == width.layer.key:
                groups = self.table.of_axis(layer.output, layer.output_axis)
                if place < len(groups):
                    return Width(groups[place], layer, (layer,))
        raise Refusal(f"the width of {width.layer.name} cannot be found again", code="layer-changed")

    @cached_property
    def prunable(self) -> list[Width]:
        """The widths whose channels can be taken away once they are zero, without a trace in the others."""
        return [
            width
            for width in self.widths
            if width.size > 1
            and width.of_axis(width.size) is not None
            and width.group.symmetric
            and {condition.kind for condition in width.group.conditions} <= _ZEROS
        ]

    def why_none(self) -> str:
        """What stands in the way of the outputs of the layers, the most frequent reason first."""
        reasons: dict[str, int] = {}
        for layer in self.layers:
            if layer.fixed_width is not None:
                reasons[layer.fixed_width.reason] = reasons.get(layer.fixed_width.reason, 0) + 1
                continue
            if self.table.coupled.axes(layer.output) is None:
                continue
            for group in self.table.of_axis(layer.output, layer.output_axis):
                refusal = group.refusal()
                text = refusal.reason if refusal is not None else ""
                if not text and group.conditions:
                    text = group.conditions[0].text
                if text:
                    reasons[text] = reasons.get(text, 0) + 1
        if not reasons:
            return "it has no layer whose width is known"
        return max(reasons, key=lambda text: reasons[text])
