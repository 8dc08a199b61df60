"""``onnxmorph fold``: the inverse of every morph."""

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

KINDS = (
    "freeze",
    "batch-norm",
    "activation",
    "identity",
    "skip",
    "kernel",
    "linear",
    "mirror",
    "sum",
    "duplicate",
    "dead",
)
"""Those of :data:`onnxmorph.morphs.fold.FOLDS`, written out so that ``--help`` need not import it; a test compares."""


@click.command(name="fold", short_help="Fold what is linear, without effect, dead or double.")
@model_argument("model")
@click.option(
    "--layer",
    "selectors",
    metavar="LAYER",
    multiple=True,
    help="Only what touches this layer: node name, weight name, path component, glob, or #N of inspect; repeatable."
    " [default: all of the model]",
)
@click.option(
    "--only",
    "kinds",
    type=click.Choice(KINDS),
    multiple=True,
    help="Only this kind; repeatable. [default: all but freeze]",
)
@growth_options("what the verification draws")
def command(
    *,
    model: Path,
    selectors: tuple[str, ...],
    kinds: tuple[str, ...],
    growth: Growth,
) -> None:
    """Fold what MODEL need not have: the inverse of every morph, until nothing more folds.

    Batch norms go into layers, parametric activations that have come to an end become plain, layers with nothing but
    the linear between them become one, branches and channels without effect go. Weights that are graph inputs too,
    which callers may replace, become constants with --only freeze. The child computes what its parent
    computes, and is verified before it is put in place. Exit code 0: done; 1: not equivalent, and not written; 3:
    nothing folds.
    """

    def plan(parent: ir.Model) -> Child:
        from onnxmorph.morphs.fold import fold

        return fold(parent, list(selectors) or None, only=kinds or None)

    grow(model, "fold", plan, growth)
