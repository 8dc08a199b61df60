"""``onnxmorph duplicate``: a residual block once more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..flow import chosen_layers, grow
from ..options import Growth, growth_options, model_argument

if TYPE_CHECKING:
    from onnxmorph._ir import ir
    from onnxmorph.plan import Plan

__all__ = ["command"]


@click.command(name="duplicate", short_help="Copy a residual block after itself.")
@model_argument("model")
@click.option("--from", "first", metavar="LAYER", required=True, help="A layer in the block.")
@click.option("--to", "last", metavar="LAYER", help="Another, at its end. [default: the same]")
@click.option("--times", type=click.IntRange(1, 100), default=1, show_default=True, help="How many copies.")
@growth_options("what the verification draws")
def command(
    *,
    model: Path,
    first: str,
    last: str | None,
    times: int,
    growth: Growth,
) -> None:
    """Copy a residual block of MODEL after itself, the copy beginning as the identity.

    The block is the least run of residual adds that holds both layers. The child is verified before it is put in place.
    Exit code 0: done; 1: not equivalent, and not written; 3: it cannot be done exactly, with the reason.
    """

    def plan(parent: ir.Model) -> Sequence[Plan]:
        from onnxmorph.graph.layers import layers
        from onnxmorph.morphs import plan_duplicate

        found = layers(parent)
        one, two = (chosen_layers(found, [text], each=False)[0] for text in (first, last or first))
        return [plan_duplicate(parent, one, last=two, times=times)]

    grow(model, "duplicate", plan, growth)
