"""``onnxmorph deepen``: a layer more, after a layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..flow import chosen_layers, grow
from ..options import Checking, Output, checking_options, kernel, model_argument, output_options, talk_options
from ..talk import Talk

if TYPE_CHECKING:
    from onnxmorph._ir import ir
    from onnxmorph.plan import Plan

__all__ = ["command"]


@click.command(name="deepen", short_help="Insert a layer after a layer.")
@model_argument("model")
@click.option(
    "--after",
    "selectors",
    metavar="LAYER",
    multiple=True,
    required=True,
    help="The layer: node name, weight name, path component, glob, or #N of inspect; repeatable.",
)
@click.option("--each", is_flag=True, help="Let LAYER match several layers, and deepen each.")
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
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seeds the new weights.")
@click.option("--dry-run", is_flag=True, help="Print the plan, write nothing.")
@output_options
@checking_options(skippable=True)
@talk_options
def command(
    *,
    model: Path,
    selectors: tuple[str, ...],
    each: bool,
    kernel: int | tuple[int, ...] | None,
    width: str | None,
    method: str,
    activation: str,
    seed: int,
    dry_run: bool,
    output: Output,
    checking: Checking,
    talk: Talk,
) -> None:
    """Insert a layer after a layer of MODEL, such that the child computes what its parent computes.

    The child is verified before it is put in place. Exit code 0: done; 1: not equivalent, and not written; 3: it cannot
    be done exactly, with the reason.
    """

    def plan(parent: ir.Model) -> Sequence[Plan]:
        from onnxmorph.graph.layers import layers
        from onnxmorph.morphs import plan_deepen

        return [
            plan_deepen(parent, layer, method=method, kernel=kernel, width=width, activation=activation, seed=seed)
            for layer in chosen_layers(layers(parent), selectors, each=each)
        ]

    grow(model, "deepen", plan, output=output, checking=checking, seed=seed, dry_run=dry_run, talk=talk)
