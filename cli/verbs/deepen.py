"""``onnxmorph deepen``: a layer more, after a layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..flow import chosen_layers, grow
from ..options import Growth, growth_options, kernel, layer_options, model_argument

if TYPE_CHECKING:
    from onnxmorph._ir import ir
    from onnxmorph.plan import Plan

__all__ = ["command"]


@click.command(name="deepen", short_help="Insert a layer after a layer.")
@model_argument("model")
@layer_options("deepen", flag="--after")
@click.option("--kernel", type=kernel, metavar="K|KxK", help="Kernel of the new layer. [default: 1]")
@click.option("--width", metavar="N|xM", help="Channels between the two layers, or times the layer's own.")
@click.option(
    "--method",
    type=click.Choice(["auto", "mirror", "netmorph", "identity", "residual"]),
    default="auto",
    show_default=True,
    help="How it is kept exact; auto takes mirror where the activation allows it.",
)
@click.option(
    "--activation",
    metavar="same|NAME",
    default="same",
    show_default=True,
    help="Between the two; same: the layer's own, ReLU where it has none.",
)
@growth_options("the new weights")
def command(
    *,
    model: Path,
    selectors: tuple[str, ...],
    each: bool,
    kernel: int | tuple[int, ...] | None,
    width: str | None,
    method: str,
    activation: str,
    growth: Growth,
) -> None:
    """Insert a layer after a layer of MODEL, such that the child computes what its parent computes.

    The child is verified before it is put in place. Exit code 0: done; 1: not equivalent, and not written; 3: it cannot
    be done exactly, with the reason.
    """

    def plan(parent: ir.Model) -> Sequence[Plan]:
        from onnxmorph.graph.layers import layers
        from onnxmorph.morphs import plan_deepen

        return [
            plan_deepen(
                parent, layer, method=method, kernel=kernel, width=width, activation=activation, seed=growth.seed
            )
            for layer in chosen_layers(layers(parent), selectors, each=each)
        ]

    grow(model, "deepen", plan, growth)
