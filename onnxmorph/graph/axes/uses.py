"""Where a model spells out a size: shape operands, attributes, index lists. What an index map may have to rewrite.

Each use says what it must be in the child (`wanted`) and whether what the child's own chain gives will do (`accepts`).
So a Reshape target of ``-1``, a ``0`` that copies, or a Shape/Gather/Concat chain stays as it is where it comes out
right, and only the rest is edited.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from onnxmorph._ir import ir
from onnxmorph.graph.axes.contents import Content, Number, Scalar, SizeOf
from onnxmorph.graph.axes.factors import Expr

__all__ = ["AttributeUse", "Frozen", "IndexUse", "SizeUse", "SplitUse", "ViewUse", "Wanted"]

Accepts = Callable[[Scalar, Scalar, SizeOf], bool]


@dataclass(frozen=True, eq=False)
class Wanted:
    """What one element must say: the sum of the sizes of ``parts`` (negated when counted from the end).

    Args:
        parts: Axes whose sizes add up to the element.
        accepts: Whether an element that says something else means the same, given (found, wanted, sizes).
        negative: The element counts from the end: minus the sum.
        infer: The element may be given as -1 (one of a Reshape target).
    """

    parts: tuple[Expr, ...]
    accepts: Accepts | None = None
    negative: bool = False
    infer: bool = False

    def value(self, size: SizeOf) -> int | None:
        """The element under given sizes, ``None`` when one is unknown."""
        sizes = [size(part) for part in self.parts]
        if any(one is None for one in sizes):
            return None
        total = sum(one or 0 for one in sizes)
        return -total if self.negative else total


@dataclass(frozen=True, eq=False)
class SizeUse:
    """A shape operand (input ``position``, or attribute ``name``) whose elements are sizes; ``None``: left alone."""

    node: ir.Node
    position: int | None
    attribute: str | None
    content: Content
    wanted: tuple[Wanted | None, ...]

    def numbers(self) -> list[Number]:
        """The elements in order."""
        return list(self.content.reshape(-1))


@dataclass(frozen=True, eq=False)
class Frozen:
    """A number computed from sizes that enters the computation itself (such as an attention scale 1/sqrt(d)).

    It must stay what it was in the parent, or the child would compute something else.
    """

    node: ir.Node
    position: int
    content: Content


@dataclass(frozen=True, eq=False)
class AttributeUse:
    """An integer attribute that is the size of an axis: group, hidden_size, num_heads, num_groups."""

    node: ir.Node
    name: str
    axis: Expr


@dataclass(frozen=True, eq=False)
class SplitUse:
    """A Split: the sizes of its outputs, however it says them (attribute, operand, or equal parts by default)."""

    node: ir.Node
    axis: Expr
    parts: tuple[Expr, ...]
    content: Content | None


@dataclass(frozen=True, eq=False)
class IndexUse:
    """Constant indices (input ``position``) into an axis: they follow the entries they name."""

    node: ir.Node
    position: int
    axis: Expr
    indices: Sequence[int] = field(default_factory=tuple)


@dataclass(frozen=True, eq=False)
class ViewUse:
    """Computed indices that read all of ``source`` in its own order: in the child, ``source`` itself."""

    node: ir.Node
    source: ir.Value
    axes: tuple[Expr, ...]
