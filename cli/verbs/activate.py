"""``onnxmorph activate``: activations that learn."""

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


@click.command(name="activate", short_help="Make activations parametric.")
@model_argument("model")
@click.option(
    "--layer",
    "selectors",
    metavar="LAYER",
    multiple=True,
    help="A layer whose activation changes, or a node or output of one behind a sum, say; repeatable. [default: all]",
)
@click.option("--each", is_flag=True, help="Let LAYER match several, and change each.")
@click.option("--to", metavar="NAME", help="Grow toward this activation. [default: toward the identity]")
@click.option("--per-channel/--per-tensor", default=True, show_default=True, help="One parameter a channel, or one.")
@growth_options("what the verification draws")
def command(
    *,
    model: Path,
    selectors: tuple[str, ...],
    each: bool,
    to: str | None,
    per_channel: bool,
    growth: Growth,
) -> None:
    """Make activations of MODEL parametric, such that the child computes what its parent computes.

    The child is verified before it is put in place. Exit code 0: done; 1: not equivalent, and not written; 3: it cannot
    be done exactly, with the reason.
    """

    def plan(parent: ir.Model) -> Sequence[Plan]:
        from onnxmorph.errors import SelectionError
        from onnxmorph.graph.layers import layers
        from onnxmorph.graph.select import select
        from onnxmorph.morphs import plan_activate

        if not selectors:
            return plan_activate(parent, to=to, per_channel=per_channel)
        found = layers(parent)
        plans: list[Plan] = []
        for text in selectors:
            try:
                select(found, text)
            except SelectionError:
                named = plan_activate(parent, text, to=to, per_channel=per_channel)
                if len(named) > 1 and not each:
                    raise SelectionError(f"'{text}' names {len(named)} activations; add --each to take all") from None
                plans += named
                continue
            for layer in chosen_layers(found, [text], each=each):
                plans += plan_activate(parent, layer, to=to, per_channel=per_channel)
        return list({str(plan.record()): plan for plan in plans}.values())

    grow(model, "activate", plan, growth)
