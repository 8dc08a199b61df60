"""The index maps of a change, tensor by tensor: what a state dict, an EMA copy or an optimizer's moments follow by.

For a stored tensor that was rewritten, one map per axis: entry ``i`` of the child's axis comes from entry
``sources[i]`` of the parent's, and from nowhere (it is new) where that is -1. Where a fill splits what reads copies, or
scales a normalisation, the child's numbers differ from the gathered ones by that factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxmorph._ir import ir
from onnxmorph.graph.axes import Group, IndexMap
from onnxmorph.graph.axes.analysis import Operand

__all__ = ["TensorMaps"]


class TensorMaps:
    """The maps of every stored tensor that maps of groups touch.

    Args:
        maps: Of groups of one analysis, before they are applied.
        copies: For tensors that were made before, as copies of one of the parent's, the name of that.
    """

    def __init__(self, maps: Mapping[Group, IndexMap], copies: Mapping[str, str] | None = None) -> None:
        self._copies = dict(copies or {})
        self._axes: dict[tuple[ir.Value, Operand | None], dict[int, dict[str, Any]]] = {}
        self._names: dict[ir.Value, str] = {}
        sources = {group.atom: index_map.sources for group, index_map in maps.items()}
        same: dict[tuple[int, bytes], dict[str, Any]] = {}
        for group in maps:
            factors = group.coupled.factors
            for member in group.stored:
                axes = self._axes.setdefault((member.value, member.use), {})
                if member.axis in axes:
                    continue
                gathered = IndexMap(factors.size(member.expr) or 0, factors.gather(member.expr, sources))
                key = (gathered.parent_size, gathered.sources.tobytes())
                axes[member.axis] = same.setdefault(key, gathered.to_json())
                self._names[member.value] = member.value.name or ""

    def to_json(self) -> dict[str, Any]:
        """``{child's tensor: {"parent": parent's tensor, "axes": {axis: {"parent_size", "sources"}}}}``.

        To be called after the maps were applied: a tensor of which every user got its own copy is named anew then.
        """
        out: dict[str, Any] = {}
        for (value, use), axes in self._axes.items():
            parent = self._names[value]
            now = None if use is None else use[0].inputs[use[1]]
            name = parent if now is None else now.name or parent
            out[name] = {
                "parent": self._copies.get(parent, parent),
                "axes": {str(axis): axes[axis] for axis in sorted(axes)},
            }
        return out
