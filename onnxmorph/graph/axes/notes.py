"""What is known about a degree of freedom: who pins, blocks, conditions or constrains it.

All four are values with equality, so that the same remark made twice is kept once.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Block", "Condition", "Constraint", "Note", "Pin"]


@dataclass(frozen=True)
class Note:
    """A remark on an atom; `kind` is a stable slug to count by, `text` a sentence with the user's own names."""

    kind: str
    text: str


@dataclass(frozen=True)
class Pin(Note):
    """The size and order have a meaning outside the network's own weights.

    Kinds: ``graph-input``, ``graph-output``, ``overridable`` (an initializer that is a graph input too),
    ``vocabulary`` (rows of an embedding), ``index`` (sampled at fixed or computed indices), ``spatial``, ``kernel``,
    ``structure`` (a factor such as the 4 gates of an LSTM), ``broadcast`` (1 against n).
    """

    @property
    def interface(self) -> bool:
        """Whether it is the model's own signature, which an explicit request may change."""
        return self.kind in {"graph-input", "graph-output", "overridable"}


@dataclass(frozen=True)
class Block(Note):
    """Something the rules cannot follow: an unknown operator, an unknown size, radices that do not nest."""


@dataclass(frozen=True)
class Condition(Note):
    """An operator mixes the indices, so new ones need a scheme.

    Kinds: ``layernorm``, ``rmsnorm``, ``groupnorm``, ``instancenorm``, ``l2``, ``softmax``, ``mean``, ``sum``,
    ``prod``, ``max``, ``min``, ``l1``, ``logsumexp``, ``bilinear`` (contracted between two activations), ``attention``
    (scale depends on the head size), ``self-product`` (an axis is a product of the group with itself, so that copies
    and pairs split in two places), ``dynamic-quantisation``, and with ``order`` set, where even a permutation changes
    the result: ``cumsum``, ``lrn``, ``topk``, ``argmax``, ``resize``, ``reverse``.
    """

    node: str = ""
    operands: tuple[str, ...] = ()
    """For ``bilinear``: the names of the two activations contracted with each other."""
    order: bool = False


@dataclass(frozen=True)
class Constraint(Note):
    """An axis that holds the atom moves in steps of ``step``: groups, heads, block sizes."""

    step: int = 1
