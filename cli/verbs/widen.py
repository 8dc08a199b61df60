"""``onnxmorph widen``: more channels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..flow import chosen_layers, grow
from ..options import Growth, growth_options, layer_options, model_argument

if TYPE_CHECKING:
    from onnxmorph._ir import ir
    from onnxmorph.plan import Plan

__all__ = ["command"]


@click.command(name="widen", short_help="Give a layer more channels.")
@model_argument("model")
@layer_options("widen")
@click.option("--to", type=click.IntRange(min=1), metavar="N", help="Channels of the child.")
@click.option("--by", metavar="X", help="Or times the layer's own, such as 1.5: the next size that is possible.")
@click.option(
    "--fill",
    type=click.Choice(["zero-out", "zero-in", "replicate", "pair", "mean"]),
    help="What new channels hold. [default: zero-out, or what is exact where channels are normalised]",
)
@click.option(
    "--interface", is_flag=True, help="Also where the channels are the model's own output: its shape changes."
)
@click.option("--untie", is_flag=True, help="Give every user of a shared weight its own copy first.")
@growth_options("the new weights")
def command(
    *,
    model: Path,
    selectors: tuple[str, ...],
    each: bool,
    to: int | None,
    by: str | None,
    fill: str | None,
    interface: bool,
    untie: bool,
    growth: Growth,
) -> None:
    """Give a layer of MODEL, and all that is coupled with it, more channels; the child computes what its parent does.

    The child is verified before it is put in place. Exit code 0: done; 1: not equivalent, and not written; 3: it cannot
    be done exactly, with the reason.
    """

    def plan(parent: ir.Model) -> Sequence[Plan]:
        from onnxmorph.graph.layers import layers
        from onnxmorph.morphs import plan_widen

        chosen = chosen_layers(layers(parent), selectors, each=each)
        return [
            plan_widen(parent, layer, to=to, by=by, fill=fill, interface=interface, untie=untie, seed=growth.seed)
            for layer in chosen
        ]

    grow(model, "widen", plan, growth)
