"""The equation of an Einsum with a constant operand, read as that of a linear layer.

Labels fall into three kinds: *taken* ones are contracted with the weight, *made* ones come from it, and all others run
along in data and output. ``btd,dhk->bthk`` takes ``d`` and makes ``h`` and ``k``: its kernel is ``(h k, d)``. Factors
in its place pass one label ``z`` on to each other: ``btd,dz->btz`` and ``btz,zhk->bthk``.
"""

from __future__ import annotations

import math
import string
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Equation", "read"]

Array = np.ndarray[Any, Any]

_ELLIPSIS = "."
"""Stands for ``...``, which is any number of axes, as one label."""


@dataclass(frozen=True)
class Equation:
    """``data,weight->output`` where the weight is a matrix from the taken labels to the made ones.

    Attributes:
        data: Labels of what is not constant; a leading ``.`` stands for the ellipsis.
        weight: Labels of the constant operand.
        output: Labels of the result.
        data_position: Which of the two operands the data is.
        dims: Sizes of the weight, label by label.
    """

    data: str
    weight: str
    output: str
    data_position: int
    dims: tuple[int, ...]

    @property
    def taken(self) -> str:
        """Contracted labels, in the order of the data."""
        return "".join(label for label in self.data if label in self.weight)

    @property
    def made(self) -> str:
        """Labels of the output channels, in the order of the output."""
        return "".join(label for label in self.output if label in self.weight)

    @property
    def plain(self) -> bool:
        """One axis in and one out, as a MatMul has them."""
        return len(self.weight) == 2

    @property
    def in_place(self) -> bool:
        """Plain, with the channels where they were: any number of such layers follow each other by one equation."""
        return self.plain and self.output == self.data.replace(self.taken, self.made)

    @property
    def in_channels(self) -> int:
        """Product of the taken sizes."""
        return math.prod(self._sizes(self.taken))

    @property
    def out_channels(self) -> int:
        """Product of the made sizes."""
        return math.prod(self._sizes(self.made))

    @property
    def input_axis(self) -> int:
        """Axis of the last taken label, from the end."""
        return self.data.index(self.taken[-1]) - len(self.data)

    @property
    def output_axis(self) -> int:
        """Axis of the last made label, from the end."""
        return self.output.index(self.made[-1]) - len(self.output)

    def kernel(self, weight: Array) -> Array:
        """The kernel ``(out, in)`` of a stored weight."""
        order = [self.weight.index(label) for label in self.made + self.taken]
        shape = [weight.shape[place] for place in order]
        return weight.transpose(order).reshape(math.prod(shape[: len(self.made)]), -1)

    def factor(self, kernel: Array, *, first: bool, last: bool) -> tuple[str, Array]:
        """Equation and weight of one of several factors, data first; between them stands one axis of channels.

        Args:
            kernel: ``(out, in)``; of the first factor ``in`` is the layer's, of the last ``out`` is.
            first: It reads the layer's input.
            last: It gives the layer's output.
        """
        used = self.data + self.weight + self.output
        before, after = [label for label in string.ascii_letters if label not in used][:2]
        taken, made = self.taken if first else before, self.made if last else after
        data = self.data if first else self._between(before)
        output = self.output if last else self._between(after)
        sizes = [
            *(self._sizes(made) if last and not self.plain else kernel.shape[:1]),
            *(self._sizes(taken) if first and not self.plain else kernel.shape[1:]),
        ]
        weight, array = made + taken, kernel.reshape(sizes)
        if first and last:
            weight, array = self.weight, array.transpose([weight.index(label) for label in self.weight])
        elif self.weight[0] in self.taken:
            weight, array = taken + made, np.moveaxis(array, range(len(made)), range(-len(made), 0))
        return f"{data},{weight}->{output}".replace(_ELLIPSIS, "..."), array

    def further(self, kernel: Array) -> tuple[str, Array]:
        """Equation and weight of a layer on the output of a plain one, channels where they are."""
        return self.factor(kernel, first=False, last=True)

    def _between(self, label: str) -> str:
        """Labels of what stands between factors: the channels as far from the end as the output's last made label."""
        kept = [one for one in self.output if one not in self.made]
        kept.insert(len(kept) + 1 + self.output_axis, label)
        return "".join(kept)

    def _sizes(self, labels: str) -> tuple[int, ...]:
        return tuple(self.dims[self.weight.index(label)] for label in labels)


def read(text: str, weight_position: int, dims: tuple[int, ...]) -> Equation | str:
    """The equation of an Einsum of two operands whose weight has shape ``dims``, or why it is no linear layer's."""
    compact = text.replace(" ", "").replace("...", _ELLIPSIS)
    left, arrow, output = compact.partition("->")
    operands = left.split(",")
    if len(operands) != 2:
        return f"its equation '{text}' is not one of two operands"
    if not arrow:
        once = sorted(label for label in set(left) if left.count(label) == 1 and label not in f",{_ELLIPSIS}")
        output = (_ELLIPSIS if _ELLIPSIS in left else "") + "".join(once)
    weight, data = operands[weight_position], operands[1 - weight_position]
    if any(len(set(term)) != len(term) for term in (weight, data, output)):
        return f"its equation '{text}' takes a diagonal"
    if len(weight) != len(dims):
        return f"its equation '{text}' does not fit a weight of shape {dims}"
    if _ELLIPSIS in weight or _ELLIPSIS in data[1:] or (_ELLIPSIS in data) != output.startswith(_ELLIPSIS):
        return f"its equation '{text}' has an ellipsis that does not lead data and output alone"
    shared = [label for label in weight if label in data and label in output]
    if shared:
        return f"its equation '{text}' has a matrix of its own for every '{shared[0]}'"
    summed = [label for label in weight if label not in data + output] + [
        label for label in data if label not in weight + output
    ]
    if summed:
        return f"its equation '{text}' sums over '{summed[0]}' of one operand alone"
    equation = Equation(data, weight, output, 1 - weight_position, dims)
    if not equation.taken or not equation.made:
        return f"its equation '{text}' has no channels {'in' if not equation.taken else 'out'}"
    return equation
