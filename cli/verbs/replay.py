"""``onnxmorph replay``: what a child records, carried out once more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxmorph.visible import visible_lines

from ..flow import child_path, failed_path
from ..options import Checking, Output, checking_options, model_argument, output_options, talk_options
from ..talk import Talk

if TYPE_CHECKING:
    from onnxmorph.delivery import Delivery
    from onnxmorph.replay import Replay

__all__ = ["command"]


@click.command(name="replay", short_help="Make a child again from its parent and its records.")
@model_argument("child")
@model_argument("parent")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seeds what the verification draws."
)
@click.option("--dry-run", is_flag=True, help="Replay and compare, write nothing.")
@output_options
@checking_options(skippable=True)
@talk_options
def command(
    *,
    child: Path,
    parent: Path,
    seed: int,
    dry_run: bool,
    output: Output,
    checking: Checking,
    talk: Talk,
) -> None:
    """Carry out on PARENT the morphs that CHILD records, and compare what comes of it with CHILD.

    What comes of it is verified against PARENT and written either way. Exit code 0: the same graph and weights as
    CHILD; 1: they differ (it says how), or it is not equivalent to PARENT; 3: a morph cannot be carried out on PARENT,
    or CHILD records none.
    """
    path = child_path(parent, "replay", output) if not dry_run else None
    with talk.step("loading"):
        from onnxmorph import delivery, model
        from onnxmorph.replay import replay_child

        known, ancestor = model.load(child), model.load(parent)
    with talk.step("replaying"):
        made = replay_child(known, ancestor)
    delivered = None
    if path is not None:
        check = delivery.Check(checking.provider, checking.inputs, checking.shapes, seed) if checking.verify else None
        with talk.step("writing and verifying" if check else "writing"):
            delivered = delivery.deliver(
                ancestor,
                made.child,
                path,
                check=check,
                overwrite=output.force,
                share_weights=output.share_weights,
                keep_failed=failed_path(path) if output.keep_failed else None,
            )
    certificate = None if delivered is None else delivered.certificate
    document = {
        "same": made.same,
        "child": None if delivered is None else delivered.path,
        "steps": [plan.record() for plan in made.child.plans],
        "parent_changed": made.parent_changed,
        "parent_sampled": made.parent_sampled,
        "hashes": {"replayed": made.hashes[0], "child": made.hashes[1]},
        "difference": None if made.difference is None else made.difference.to_json(),
        "certificate": None if certificate is None else certificate.to_json(),
    }
    talk.result(document, lambda: _show(made, delivered), short="same" if made.same else "differs")
    if not made.same or (delivered is not None and delivered.path is None):
        raise click.exceptions.Exit(1)


def _show(made: Replay, delivered: Delivery | None) -> None:
    from ..certificate import show

    for plan in made.child.plans:
        click.echo(visible_lines(plan.describe()))
    click.echo(made.describe())
    if made.difference is not None:
        for change in made.difference.tensors[:10]:
            far = "" if change.max_abs is None else f", by up to {change.max_abs:.3g} of {change.largest:.3g}"
            click.echo(f"  {change.kind}: {change.name}{far}")
        if len(made.difference.tensors) > 10:
            click.echo(f"  and {len(made.difference.tensors) - 10} more")
    if delivered is None:
        return
    if delivered.certificate is not None:
        click.echo()
        show(delivered.certificate)
    if delivered.path is not None:
        click.echo(f"written: {delivered.path}")
    else:
        click.echo("not written, since it is not equivalent to its parent")
