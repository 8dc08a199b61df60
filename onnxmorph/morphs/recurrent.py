"""Hidden sizes: what the fills of `onnxmorph.morphs.widen` need where a layer reads its own units, one step later.

A unit of an LSTM, GRU or RNN has a row of W, of R and of B per gate, a peephole, an initial state, and a column of R,
by which every unit reads it. So R is both what feeds new units and what reads them, on two axes, and the fills hold:

* ``zero-out``: new rows are random, new columns are 0; no old unit sees a new one, and the new ones not each other.
* ``zero-in``: new rows are 0, and so are new initial states; a unit of zeros stays at 0 if its activations take 0 to 0
  (:func:`onnxmorph.graph.recurrent.keeps_zero`). Columns are random.
* ``replicate``: rows are copied, columns are split over the copies.
* ``pair``: rows are the same for two units, columns opposite.

Where new rows meet new columns, other numbers would be exact too, or nearly. They hold 0: a unit of zeros then has rows
of nothing but zeros and the rows of a pair are equal to the last bit, which is what ``shrink`` and ``fold`` know them
by, and no rounding is fed back. The same holds of W where one group is the units of a stack of layers, as in exports of
PyTorch, which slices all initial states from one tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmorph._ir import ir
from onnxmorph.graph.axes import AxisEdit, Fill, Group
from onnxmorph.graph.axes.analysis import CoupledAxes, Operand
from onnxmorph.graph.recurrent import LENGTHS, RECURRENCE, WEIGHT, is_recurrent, keeps_zero

__all__ = ["cells", "siblings", "without_own_feedback", "zero_units"]


def siblings(value: ir.Value) -> list[ir.Value]:
    """The outputs of the recurrent node that gives a value, itself among them: they hold the same units.

    Of a value that something else gives, or nobody, itself.
    """
    node = value.producer()
    if node is None or not is_recurrent(node):
        return [value]
    return [output for output in node.outputs if output.name]


def cells(group: Group) -> list[ir.Node]:
    """The recurrent nodes whose units a group is."""
    found: dict[ir.Node, None] = {}
    for member in group.members:
        node = member.value.producer()
        if node is not None and is_recurrent(node):
            found[node] = None
    return list(found)


def without_own_feedback(fill: Fill, group: Group) -> Fill:
    """The fill, but new units of recurrent layers do not read new units.

    Args:
        fill: Sees the rows of a weight before its columns, as `onnxmorph.graph.axes.apply` has it.
        group: The group that grows.
    """
    weights = {
        root
        for node in cells(group)
        for place in (WEIGHT, RECURRENCE)
        for root in _roots(group.coupled, node.inputs[place])
    }
    if not weights:
        return fill
    rows: dict[tuple[ir.Value, Operand | None], tuple[int, NDArray[np.bool_]]] = {}

    def filled(edit: AxisEdit) -> None:
        fill(edit)
        key = (edit.member.value, edit.member.use)
        if edit.member.value not in weights:
            return
        if "contracted" not in edit.roles:
            rows[key] = (edit.member.axis, edit.fed)
        elif key in rows:
            axis, new = rows[key]
            both = np.moveaxis(edit.array, (axis, edit.axis), (0, 1))
            both[np.ix_(new, edit.read)] = edit.zero

    return filled


def zero_units(group: Group, node: ir.Node, numbers: Mapping[ir.Value, NDArray[Any]]) -> NDArray[np.bool_]:
    """Which units of a recurrent layer are 0 at every time step, whatever it reads: bool, per index of the group.

    Args:
        group: The units.
        node: The layer.
        numbers: Per computed value and index its one number, NaN for none: what is known of its initial states.
    """
    zero = np.full(group.size, keeps_zero(node))
    operands: set[ir.Value] = set()
    for place, read in enumerate(node.inputs):
        if read is None or place in (0, LENGTHS):
            continue
        if group.coupled.is_constant(read):
            operands.update(_roots(group.coupled, read))
        else:
            zero &= numbers[read] == 0 if read in numbers else False
    for member in group.stored:
        tensor = group.coupled.tensor(member.value)
        if member.value not in operands or tensor is None or member.roles == {"contracted"}:
            continue
        array = tensor.numpy()
        rows = np.any(array, axis=tuple(axis for axis in range(array.ndim) if axis != member.axis))
        places = group.coupled.factors.coordinate(member.expr, group.atom)
        zero[places[rows & (places >= 0)]] = False
    return zero


def _roots(coupled: CoupledAxes, value: ir.Value | None) -> list[ir.Value]:
    """The stored tensors that an operand is made of."""
    found: dict[ir.Value, None] = {}
    waiting, seen = [value], {value}
    while waiting:
        here = waiting.pop()
        if here is None:
            continue
        if coupled.is_root(here):
            found[here] = None
            continue
        producer = here.producer()
        for read in producer.inputs if producer is not None else ():
            if read not in seen:
                seen.add(read)
                waiting.append(read)
    return list(found)
