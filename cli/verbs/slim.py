"""``onnxmorph slim``: the fit hypothesis of an evolved model as a network of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..flow import child_path
from ..options import Checking, Output, checking_options, file_options, model_argument, talk_options
from ..talk import Talk

if TYPE_CHECKING:
    from onnxmorph.delivery import Delivery
    from onnxmorph.grow.evolution import Slim

__all__ = ["command"]


@click.command(name="slim", short_help="Cut the part that evolve keeps out of a model.")
@model_argument("model")
@click.option(
    "--share",
    type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
    help="Of the channels that is kept. [default: what the model was evolved with]",
)
@click.option("--zeroed", type=click.Path(path_type=Path), help="Also write the network that the slim net equals.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seeds the verification.")
@file_options("The slim net's file. [default: STEM.slim.onnx]")
@checking_options(skippable=True)
@talk_options
def command(
    *,
    model: Path,
    share: float | None,
    zeroed: Path | None,
    seed: int,
    output: Output,
    checking: Checking,
    talk: Talk,
) -> None:
    """Cut the slim net out of MODEL: the first channels of each layer, which evolve kept through its generations.

    This is no morphism: the slim net computes what MODEL computes with all other weights set to zero, and is verified
    against that.

    Exit code 1: not equal to the zeroed network, and not written; 2: MODEL was not evolved, and --share is not given;
    3: it cannot be cut, with the reason.
    """
    out = child_path(model, "slim", output)
    if zeroed is not None:
        child_path(model, "slim", Output(zeroed, output.force))
    with talk.step("loading"):
        from onnxmorph import delivery, train
        from onnxmorph import model as files

        evolved = files.load(model)
    with talk.step("cutting"):
        cut = train.slim(evolved, share=share)
    check = delivery.Check(checking.provider, checking.inputs, checking.shapes, seed) if checking.verify else None
    with talk.step("writing and verifying" if check else "writing"):
        delivered = train.deliver_slim(cut, out, check=check, overwrite=output.force, zeroed_path=zeroed)
    certificate = delivered.certificate
    document: dict[str, Any] = {
        "slim": delivered.path,
        "zeroed": zeroed if delivered.path is not None else None,
        "split": cut.split.to_json(),
        "morphism": False,
        "certificate": None if certificate is None else certificate.to_json(),
    }
    short = None if delivered.path is None else str(delivered.path)
    talk.result(document, lambda: _show(cut, delivered, zeroed), short=short)
    if delivered.path is None:
        raise click.exceptions.Exit(1)


def _show(cut: Slim, delivered: Delivery, zeroed: Path | None) -> None:
    from ..certificate import show

    click.echo(cut.describe())
    click.echo()
    if delivered.certificate is None:
        click.echo("not verified (--no-verify), as the metadata say")
    else:
        show(delivered.certificate)
        click.echo("no morphism: compared is the model with all weights outside of the slim net zero")
    if delivered.path is None:
        click.echo("not written, since it is not equal to the zeroed network")
        return
    click.echo(f"written: {delivered.path}" + (f" and {zeroed}" if zeroed is not None else ""))
