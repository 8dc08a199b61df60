"""``onnxmorph activate``: activations that learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..flow import chosen_layers, grow
from ..options import Checking, Output, checking_options, model_argument, output_options, talk_options
from ..talk import Talk

if TYPE_CHECKING:
    from onnxmorph._ir import ir
    from onnxmorph.plan import Plan

__all__ = ["command"]


@click.command(name="activate", short_help="Make activations parametric.")
@model_argument("model")
@click.option(
    "--layer",
    "selectors",
    metavar="LAYER",
    multiple=True,
    help="A layer whose activation changes; repeatable. [default: every one]",
)
@click.option("--each", is_flag=True, help="Let LAYER match several layers, and change each.")
@click.option("--to", metavar="NAME", help="Grow toward this activation. [default: toward the identity]")
@click.option("--per-channel/--per-tensor", default=True, show_default=True, help="One parameter a channel, or one.")
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
    to: str | None,
    per_channel: bool,
    seed: int,
    dry_run: bool,
    output: Output,
    checking: Checking,
    talk: Talk,
) -> None:
    """Make activations of MODEL parametric, such that the child computes what its parent computes.

    The child is verified before it is put in place. Exit code 0: done; 1: not equivalent, and not written; 3: it cannot
    be done exactly, with the reason.
    """

    def plan(parent: ir.Model) -> Sequence[Plan]:
        from onnxmorph.graph.layers import layers
        from onnxmorph.morphs import plan_activate

        if not selectors:
            return plan_activate(parent, to=to, per_channel=per_channel)
        chosen = chosen_layers(layers(parent), selectors, each=each)
        return [plan for layer in chosen for plan in plan_activate(parent, layer, to=to, per_channel=per_channel)]

    grow(model, "activate", plan, output=output, checking=checking, seed=seed, dry_run=dry_run, talk=talk)
