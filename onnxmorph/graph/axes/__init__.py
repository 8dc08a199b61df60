"""Coupled axes: what changes together when the width of one layer changes, and index maps that change it.

Typical use::

    coupled = CoupledAxes.of(model)                # one walk over the model, nothing is edited
    table = GroupTable(coupled)
    group = group_of(table, layer_output, 1)       # print(group.describe())
    apply(clone, {group: IndexMap.widen(group.size, 96)}, zero_out())

See docs/coupled_axes.md.
"""

from __future__ import annotations

from onnxmorph.graph.axes.analysis import CoupledAxes
from onnxmorph.graph.axes.fills import AxisEdit, Fill, keep_zero, replicate, zero_out
from onnxmorph.graph.axes.group import Group, GroupTable, Member, decompose, group_of, groups, groups_of, resize
from onnxmorph.graph.axes.index_map import NEW, IndexMap
from onnxmorph.graph.axes.notes import Block, Condition, Constraint, Note, Pin
from onnxmorph.graph.axes.rewrite import Applied, apply
from onnxmorph.graph.axes.trace import reaching

__all__ = [
    "NEW",
    "Applied",
    "AxisEdit",
    "Block",
    "Condition",
    "Constraint",
    "CoupledAxes",
    "Fill",
    "Group",
    "GroupTable",
    "IndexMap",
    "Member",
    "Note",
    "Pin",
    "apply",
    "decompose",
    "group_of",
    "groups",
    "groups_of",
    "keep_zero",
    "reaching",
    "replicate",
    "resize",
    "zero_out",
]
