"""``onnxmorph skip``: a short way between two layers."""

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


@click.command(name="skip", short_help="Add a short way between two layers.")
@model_argument("model")
@click.option("--from", "source", metavar="LAYER", required=True, help="The earlier layer.")
@click.option("--to", "target", metavar="LAYER", required=True, help="The later layer.")
@click.option(
    "--mode",
    type=click.Choice(["add", "concat"]),
    default="add",
    show_default=True,
    help="Add to the later layer's output, or give it further inputs.",
)
@growth_options("what the verification draws")
def command(
    *,
    model: Path,
    source: str,
    target: str,
    mode: str,
    growth: Growth,
) -> None:
    """Let what an earlier layer of MODEL computes reach a later one, at first without effect.

    The child is verified before it is put in place. Exit code 0: done; 1: not equivalent, and not written; 3: it cannot
    be done exactly, with the reason.
    """

    def plan(parent: ir.Model) -> Sequence[Plan]:
        from onnxmorph.graph.layers import layers
        from onnxmorph.morphs import plan_skip

        found = layers(parent)
        first, last = (chosen_layers(found, [text], each=False)[0] for text in (source, target))
        return [plan_skip(parent, source=first, target=last, mode=mode)]

    grow(model, "skip", plan, growth)
