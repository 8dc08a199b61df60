"""``onnxmorph apply``: several morphs in one go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..flow import grow
from ..options import Growth, growth_options, model_argument

if TYPE_CHECKING:
    from onnxmorph._ir import ir
    from onnxmorph.plan import Child

__all__ = ["command"]


@click.command(name="apply", short_help="Carry out a recipe of several morphs.")
@click.argument("recipe", type=click.Path(path_type=Path))
@model_argument("model")
@growth_options("what the verification draws")
def command(
    *,
    recipe: Path,
    model: Path,
    growth: Growth,
) -> None:
    """Carry out the morphs that RECIPE lists on MODEL, verified once at the end.

    A child that is not equivalent is bisected to the step that broke it. Exit code 0: done; 1: not equivalent, and not
    written; 2: the recipe cannot be read; 3: a step cannot be done exactly, with the reason.
    """

    def plan(parent: ir.Model) -> Child:
        from onnxmorph.recipe import carry_out, read_recipe

        return carry_out(parent, read_recipe(recipe))

    grow(model, "apply", plan, growth)
