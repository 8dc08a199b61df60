"""``onnxmorph shrink``: fewer channels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..budgets import show_layers, trained_beside, training_options
from ..flow import Besides, child_path, chosen_layers, grow
from ..options import Growth, growth_options, layer_options, model_argument

if TYPE_CHECKING:
    from onnxmorph._ir import ir
    from onnxmorph.grow.morphnet import Shrunk
    from onnxmorph.plan import Child, Plan

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


@click.command(name="shrink", short_help="Take channels from a layer, or train a model down to a budget.")
@model_argument("model")
@layer_options("shrink", required=False)
@click.option("--to", type=click.IntRange(min=1), metavar="N", help="Channels of the child.")
@click.option("--by", metavar="X", help="Or times the layer's own, such as 0.75: the next size that is possible.")
@click.option("--keep", metavar="LIST", callback=_channels, help="Or the channels that stay, such as 0-7,12.")
@click.option("--drop", metavar="LIST", callback=_channels, help="Or the channels that go.")
@click.option(
    "--inexact", is_flag=True, help="Also drop channels that have an effect: the child computes something else."
)
@click.option(
    "--budget",
    metavar="WHAT=HOW_MUCH",
    help="Or the whole model, by training: flops=50%, macs=10M, params=300k, latency=5ms.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="That a latency is measured with."
)
@training_options
@growth_options("the verification, and the training to a budget")
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
    budget: str | None,
    threads: int,
    data: Path | None,
    checkpoint: Path | None,
    settings: dict[str, Any],
    growth: Growth,
) -> None:
    """Take channels from a layer of MODEL, and from all that is coupled with it; or train MODEL down to a budget.

    Channels go that are dead, that double others, or that are constant: then the child computes what its parent does,
    and is verified before it is put in place. Others go only with --inexact, the smallest first; the certificate then
    holds how far the child is off, and the exit code is 0. Exit code 1: not equivalent, and not written; 3: it cannot
    be done, with the reason.

    With --budget and --data, MODEL is trained with MorphNet's regulariser until what it costs is within the budget:
    channels die that are dear and do little, are taken out, and the rest is trained on. The child computes something
    else, and its certificate says so. Needs the extra: pip install 'onnxmorph[train]'. Interrupted (exit code 130), it
    goes on where it was when the same command is given again.
    """
    context = click.get_current_context()
    listed = any(option is not None for option in (to, by, keep, drop)) or inexact or each
    if budget is None:
        if data is not None or checkpoint is not None or settings:
            raise click.UsageError("--data and options of training go with --budget", context)
        if not selectors:
            raise click.UsageError("Missing option '--layer' (or '--budget').", context)

        def plan(parent: ir.Model) -> Sequence[Plan]:
            from onnxmorph.graph.layers import layers
            from onnxmorph.morphs import plan_shrink

            chosen = chosen_layers(layers(parent), selectors, each=each)
            return [plan_shrink(parent, layer, to=to, by=by, keep=keep, drop=drop, inexact=inexact) for layer in chosen]

        grow(model, "shrink", plan, growth)
        return
    if selectors or listed:
        raise click.UsageError("--budget is of the whole model: leave out --layer and how many channels", context)
    if data is None:
        raise click.UsageError("--budget is met by training: give --data", context)
    if growth.dry_run:
        raise click.UsageError("which channels go is found by training, so --dry-run cannot tell", context)
    besides = Besides()
    out = child_path(model, "shrink", growth.output)

    def trained(parent: ir.Model) -> Child:
        from onnxmorph.grow import morphnet

        shrink = morphnet.shrink
        with trained_beside(checkpoint, out, growth.talk) as (where, told):
            shrunk = shrink(
                parent, data, budget, threads=threads, checkpoint=where, callbacks=[told], seed=growth.seed, **settings
            )
        besides.document["budget"] = shrunk.to_json()
        besides.show = lambda: _show(shrunk)
        for note in shrunk.notes:
            growth.talk.note(note)
        return shrunk.child

    grow(model, "shrink", trained, growth, besides=besides)


def _show(shrunk: Shrunk) -> None:
    from onnxmorph.grow.morphnet.budget import amount_text

    show_layers(shrunk.rows)
    before, limit, after = (amount_text(shrunk.metric, cost) for cost in (shrunk.before, shrunk.limit, shrunk.after))
    click.echo(f"{before} -> {after} ({shrunk.after / shrunk.before:.1%}), the budget is {limit}")
    if shrunk.measured is not None:
        was, now = (amount_text("latency", seconds) for seconds in shrunk.measured)
        click.echo(f"measured: {was} -> {now}")
    dead = shrunk.removed - shrunk.alive
    click.echo(
        f"{shrunk.removed} channels taken out, {dead} of them dead; that changed the outputs by"
        f" {shrunk.removal_error:.2g} of their norm, before the training that followed"
    )
    judged = [entry.validation_accuracy for part in shrunk.history for entry in part]
    if judged and judged[-1] is not None:
        click.echo(f"validation accuracy after the last epoch: {judged[-1]:.1%}")
