"""``onnxmorph kernel``: a larger kernel."""

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


@click.command(name="kernel", short_help="Give a convolution a larger kernel.")
@model_argument("model")
@click.option(
    "--layer",
    "selectors",
    metavar="LAYER",
    multiple=True,
    required=True,
    help="The layer: node name, weight name, path component, glob, or #N of inspect; repeatable.",
)
@click.option("--each", is_flag=True, help="Let LAYER match several layers, and grow each.")
@click.option("--to", type=kernel, metavar="K|KxK", required=True, help="The new size, for all axes or per axis.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seeds what the verification draws."
)
@click.option("--dry-run", is_flag=True, help="Print the plan, write nothing.")
@output_options
@checking_options(skippable=True)
@talk_options
def command(
    *,
    model: Path,
    selectors: tuple[str, ...],
    each: bool,
    to: int | tuple[int, ...],
    seed: int,
    dry_run: bool,
    output: Output,
    checking: Checking,
    talk: Talk,
) -> None:
    """Give a convolution of MODEL a larger kernel, such that the child computes what its parent computes.

    The child is verified before it is put in place. Exit code 0: done; 1: not equivalent, and not written; 3: it cannot
    be done exactly, with the reason.
    """

    def plan(parent: ir.Model) -> Sequence[Plan]:
        from onnxmorph.graph.layers import layers
        from onnxmorph.morphs import plan_kernel

        return [plan_kernel(parent, layer, to=to) for layer in chosen_layers(layers(parent), selectors, each=each)]

    grow(model, "kernel", plan, output=output, checking=checking, seed=seed, dry_run=dry_run, talk=talk)
