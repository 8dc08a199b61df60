"""``onnxmorph evolve``: generations of training that keep a fit hypothesis."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ..flow import child_path
from ..learning import learning_options, loss_text, percent, resumable
from ..options import Output, file_options, model_argument, talk_options
from ..table import Table
from ..talk import Talk

if TYPE_CHECKING:
    from onnxmorph.grow.evolution import Evolved, Generation

__all__ = ["command"]


@click.command(name="evolve", short_help="Train over generations that keep a part of the weights.")
@model_argument("model")
@learning_options()
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True, help="Of each generation.")
@click.option("--schedule", type=click.Choice(["cosine", "constant"]), default="cosine", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--split",
    type=click.Choice(["kels", "wels"]),
    default="kels",
    show_default=True,
    help="Keep the first channels of each layer, or single weights at random.",
)
@click.option(
    "--share",
    type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
    default=0.5,
    show_default=True,
    help="Of the channels or weights that is kept.",
)
@click.option("--generations", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--from-scratch", is_flag=True, help="Start from fresh weights instead of those of MODEL.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Where generations are kept. [default: OUT.evolution, gone when all is done]",
)
@file_options("The evolved model's file. [default: STEM.evolve.onnx]")
@talk_options
def command(
    *,
    model: Path,
    data: Path,
    settings: dict[str, Any],
    epochs: int,
    schedule: str,
    seed: int,
    split: Literal["kels", "wels"],
    share: float,
    generations: int,
    from_scratch: bool,
    folder: Path | None,
    output: Output,
    talk: Talk,
) -> None:
    """Train MODEL over generations: each keeps a part of the weights and draws the others anew (Knowledge Evolution).

    On little data the network generalises better from one generation to the next, and the part that is kept (with
    --split kels) becomes a small network of its own: onnxmorph slim cuts it out. With --validation, both are judged
    after each generation. Interrupted (Ctrl-C), it goes on where it was when the same command is given again. Needs the
    extra: pip install 'onnxmorph[train]'.

    Exit code 3: nothing of the model can be split, it cannot be trained, or the data does not fit, with the reason; 4:
    the loss became NaN, or a file cannot be read or written; 130: interrupted.
    """
    out = child_path(model, "evolve", output)
    place = folder if folder is not None else out.with_name(f"{out.name}.evolution")
    with talk.step("loading"):
        from onnxmorph import model as files
        from onnxmorph import train

        parent = files.load(model)

    def told(generation: Generation) -> None:
        talk.detail(f"generation {generation.number} of {generations}: {_line(generation)}")

    with resumable(place):
        evolved = train.evolve(
            parent,
            data,
            split=split,
            share=share,
            generations=generations,
            from_scratch=from_scratch,
            seed=seed,
            folder=place,
            told=told,
            epochs=epochs,
            schedule=schedule,
            **settings,
        )
    with talk.step("writing"):
        files.save(evolved.model, out, overwrite=output.force)
    if folder is None:
        shutil.rmtree(place, ignore_errors=True)
    document = {
        "evolved": out,
        "split": evolved.split.to_json(),
        "whole": [list(one) for one in evolved.split.whole],
        "generations": [one.to_json() for one in evolved.generations],
    }
    talk.result(document, lambda: _show(evolved, out), short=str(out))


def _line(generation: Generation) -> str:
    parts = [f"loss {generation.loss:.4f}"]
    parts += [] if generation.accuracy is None else [f"accuracy {generation.accuracy:.1%}"]
    parts += [] if generation.validation_accuracy is None else [f"validation {generation.validation_accuracy:.1%}"]
    parts += [] if generation.slim_accuracy is None else [f"slim {generation.slim_accuracy:.1%}"]
    return ", ".join([*parts, f"{generation.seconds:.1f} s"])


def _show(evolved: Evolved, out: Path) -> None:
    for name, why in evolved.split.whole:
        click.echo(f"{name} stays whole: {why}")
    table = Table([">generation", ">loss", ">accuracy", ">validation", ">accuracy", ">slim net", ">accuracy"])
    for one in evolved.generations:
        table.add(
            str(one.number),
            f"{one.loss:.4f}",
            percent(one.accuracy),
            loss_text(one.validation_loss),
            percent(one.validation_accuracy),
            loss_text(one.slim_loss),
            percent(one.slim_accuracy),
        )
    table.show()
    click.echo(f"written: {out}")
    if evolved.split.kind == "kels":
        click.echo(f"the slim net: onnxmorph slim {out}")
