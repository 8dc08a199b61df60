"""``onnxmorph shrink``: fewer channels."""

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


_MOST = 1 << 20
"""Channels in one range."""


def _channels(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """A list of channels and ranges: ``0-7,12,15``."""
    if text is None:
        return None
    channels: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) - int(first) > _MOST:
            raise click.BadParameter(f"no list of channels: {text!r}; write 0-7,12,15", context, parameter)
        channels += range(int(first), int(last or first) + 1)
    return tuple(channels)


@click.command(name="shrink", short_help="Take channels from a layer.")
@model_argument("model")
@layer_options("shrink")
@click.option("--to", type=click.IntRange(min=1), metavar="N", help="Channels of the child.")
@click.option("--by", metavar="X", help="Or times the layer's own, such as 0.75: the next size that is possible.")
@click.option("--keep", metavar="LIST", callback=_channels, help="Or the channels that stay, such as 0-7,12.")
@click.option("--drop", metavar="LIST", callback=_channels, help="Or the channels that go.")
@click.option(
    "--inexact", is_flag=True, help="Also drop channels that have an effect: the child computes something else."
)
@growth_options("the verification")
def command(
    *,
    model: Path,
    selectors: tuple[str, ...],
    each: bool,
    to: int | None,
    by: str | None,
    keep: tuple[int, ...] | None,
    drop: tuple[int, ...] | None,
    inexact: bool,
    growth: Growth,
) -> None:
    """Take channels from a layer of MODEL, and from all that is coupled with it.

    Channels go that are dead, that double others, or that are constant: then the child computes what its parent does,
    and is verified before it is put in place. Others go only with --inexact, the smallest first; the certificate then
    holds how far the child is off, and the exit code is 0. Exit code 1: not equivalent, and not written; 3: it cannot
    be done, with the reason.
    """

    def plan(parent: ir.Model) -> Sequence[Plan]:
        from onnxmorph.graph.layers import layers
        from onnxmorph.morphs import plan_shrink

        chosen = chosen_layers(layers(parent), selectors, each=each)
        return [plan_shrink(parent, layer, to=to, by=by, keep=keep, drop=drop, inexact=inexact) for layer in chosen]

    grow(model, "shrink", plan, growth)
