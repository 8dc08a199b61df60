"""``onnxmorph expand``: wider, as far as a budget goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..budgets import show_layers, trained_beside, training_options
from ..flow import Besides, child_path, grow
from ..options import Growth, growth_options, model_argument

if TYPE_CHECKING:
    from onnxmorph._ir import ir
    from onnxmorph.plan import Child

__all__ = ["command"]


@click.command(name="expand", short_help="Widen all layers to a budget.")
@model_argument("model")
@click.option(
    "--budget",
    metavar="WHAT=HOW_MUCH",
    required=True,
    help="What the child may cost: flops=2x, macs=10M, params=300k, latency=5ms.",
)
@click.option(
    "--fill",
    type=click.Choice(["zero-out", "zero-in", "replicate", "pair", "mean"]),
    help="What new channels hold. [default: zero-out, or what is exact where channels are normalised]",
)
@click.option(
    "--multiple", type=click.IntRange(min=1), default=1, show_default=True, help="Round widths to multiples of it."
)
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="That a latency is measured with."
)
@click.option(
    "--cycle",
    type=click.IntRange(min=1),
    metavar="N",
    help="Before, shrink by training, and do both N times; needs --data. The child is then no morphism.",
)
@click.option(
    "--shrink-by",
    type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
    help="With --cycle: shrink to this share of the budget, or of the model where that is less. [default: 0.5]",
)
@training_options
@growth_options("what new channels hold, the training of --cycle and the verification")
def command(
    *,
    model: Path,
    budget: str,
    fill: str | None,
    multiple: int,
    threads: int,
    cycle: int | None,
    shrink_by: float | None,
    data: Path | None,
    checkpoint: Path | None,
    settings: dict[str, Any],
    growth: Growth,
) -> None:
    """Widen all layers of MODEL by one factor, the largest that a budget allows; the child computes what MODEL does.

    With --cycle and --data, MorphNet as a whole: shrink by training to a share of the budget, expand to the budget, N
    times. Width goes where the training found it worth its price; what comes of it computes something else, and its
    certificate says so.

    Exit code 1: not equivalent, and not written; 3: it cannot be done, with the reason.
    """
    context = click.get_current_context()
    besides = Besides()
    if cycle is None:
        if data is not None or checkpoint is not None or settings or shrink_by is not None:
            raise click.UsageError("--data and options of training go with --cycle", context)

        def widened(parent: ir.Model) -> Child:
            from onnxmorph.grow.morphnet import expand
            from onnxmorph.grow.morphnet.budget import amount_text

            expanded = expand(parent, budget, fill=fill, multiple=multiple, seed=growth.seed, threads=threads)

            def show() -> None:
                show_layers(expanded.rows)
                before, limit, after = (
                    amount_text(expanded.metric, cost) for cost in (expanded.before, expanded.limit, expanded.after)
                )
                click.echo(f"{before} -> {after}, the budget is {limit}; widths times {expanded.factor:.3f}, rounded")

            besides.document["budget"], besides.show = expanded.to_json(), show
            return expanded.child

        grow(model, "expand", widened, growth, besides=besides)
        return
    if data is None:
        raise click.UsageError("--cycle trains: give --data", context)
    if growth.dry_run:
        raise click.UsageError("which channels go is found by training, so --dry-run cannot tell", context)
    out = child_path(model, "expand", growth.output)

    def both(parent: ir.Model) -> Child:
        from onnxmorph.grow import morphnet

        run = morphnet.cycle
        with trained_beside(checkpoint, out, growth.talk) as (where, told):
            done = run(
                parent,
                data,
                budget,
                rounds=cycle,
                shrink_by=0.5 if shrink_by is None else shrink_by,
                fill=fill,
                multiple=multiple,
                seed=growth.seed,
                threads=threads,
                checkpoint=where,
                callbacks=[told],
                **settings,
            )
        besides.document["budget"] = done.to_json()
        besides.show = lambda: show_layers(done.rows)
        return done.child

    grow(model, "expand", both, growth, besides=besides)
