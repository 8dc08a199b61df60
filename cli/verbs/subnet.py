"""``onnxmorph subnet``: a small network in place of a layer."""

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


@click.command(name="subnet", short_help="Replace a layer by a small network.")
@model_argument("model")
@layer_options("replace")
@click.option(
    "--template",
    metavar="TEXT",
    required=True,
    help="The network, such as '(3:64x4,relu)(1:64)'; [...]x2 repeats, | stands between stacked paths.",
)
@growth_options("the new weights")
def command(
    *,
    model: Path,
    selectors: tuple[str, ...],
    each: bool,
    template: str,
    growth: Growth,
) -> None:
    """Replace a layer of MODEL by a small network that computes the same.

    The child is verified before it is put in place. Exit code 0: done; 1: not equivalent, and not written; 3: it cannot
    be done exactly, with the reason.
    """

    def plan(parent: ir.Model) -> Sequence[Plan]:
        from onnxmorph.graph.layers import layers
        from onnxmorph.morphs import plan_subnet

        chosen = chosen_layers(layers(parent), selectors, each=each)
        return [plan_subnet(parent, layer, template=template, seed=growth.seed) for layer in chosen]

    grow(model, "subnet", plan, growth)
