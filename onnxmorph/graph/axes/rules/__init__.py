"""One rule per operator; importing this package registers them all.

A rule reads the axes of its operands (`Site.axes`), couples them (`unify`, `broadcast`, `rows`, `columns`), says what
is pinned or mixed (`pin`, `condition`), where sizes are spelled out (`size_operand`, `size_attribute`), and gives the
axes of the outputs. An operator without a rule is a barrier; so is one whose rule raises `Barrier`.
"""

from __future__ import annotations

from onnxmorph.graph.axes.rules import (
    attention,
    control,
    elementwise,
    indexing,
    layout,
    linear,
    normalise,
    pooling,
    quantise,
    recurrent,
    reduce,
    reshape,
)

__all__ = [
    "attention",
    "control",
    "elementwise",
    "indexing",
    "layout",
    "linear",
    "normalise",
    "pooling",
    "quantise",
    "recurrent",
    "reduce",
    "reshape",
]
