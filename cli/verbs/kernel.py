"""``onnxmorph kernel``: a larger kernel."""

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


@click.command(name="kernel", short_help="Give a convolution a larger kernel.")
@model_argument("model")
@layer_options("grow")
@click.option("--to", type=kernel, metavar="K|KxK", required=True, help="The new size, for all axes or per axis.")
@growth_options("what the verification draws")
def command(
    *,
    model: Path,
    selectors: tuple[str, ...],
    each: bool,
    to: int | tuple[int, ...],
    growth: Growth,
) -> None:
    """Give a convolution of MODEL a larger kernel, such that the child computes what its parent computes.

    The child is verified before it is put in place. Exit code 0: done; 1: not equivalent, and not written; 3: it cannot
    be done exactly, with the reason.
    """

    def plan(parent: ir.Model) -> Sequence[Plan]:
        from onnxmorph.graph.layers import layers
        from onnxmorph.morphs import plan_kernel

        return [plan_kernel(parent, layer, to=to) for layer in chosen_layers(layers(parent), selectors, each=each)]

    grow(model, "kernel", plan, growth)
