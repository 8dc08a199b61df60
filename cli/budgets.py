"""Options of verbs that bring a model to a budget, and the table they show."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .learning import LOSSES, numbers, picture_size, share_or_path
from .table import Table
from .talk import Talk

if TYPE_CHECKING:
    from onnxmorph.grow.morphnet.report import Row

__all__ = ["show_layers", "trained_beside", "training_options"]

Verb = TypeVar("Verb", bound=Callable[..., Any])

_TRAINING: Mapping[str, Any] = {
    "validation": None,
    "loss": "cross-entropy",
    "epochs": 10,
    "finetune": None,
    "batch_size": 32,
    "optimizer": "adamw",
    "rate": None,
    "weight_decay": 0.01,
    "label_smoothing": 0.0,
    "freeze": (),
    "strength": None,
    "threshold": 0.01,
    "l1": 0.0,
    "device": "auto",
    "mean": (),
    "std": (),
    "image_size": None,
}
"""Settings of a training to a budget, with their defaults."""


def training_options(verb: Verb) -> Verb:
    """``--data``, ``--checkpoint`` and the settings of `onnxmorph.grow.morphnet.shrink`: ``data``, ``checkpoint`` and
    ``settings``, the latter only what was typed."""

    @click.option(
        "--data",
        type=click.Path(path_type=Path),
        help="To train on: an .npz with an array per input (or x) and target (or y), or a folder of images.",
    )
    @click.option(
        "--validation",
        metavar="PATH|SHARE",
        callback=share_or_path,
        help="Data to judge by, or the share of --data to hold back.",
    )
    @click.option("--loss", type=click.Choice(LOSSES), help="[default: cross-entropy]")
    @click.option("--epochs", type=click.IntRange(min=1), help="With the regulariser. [default: 10]")
    @click.option("--finetune", type=click.IntRange(min=0), help="Epochs after channels are out. [default: half]")
    @click.option("--batch-size", type=click.IntRange(min=1), help="[default: 32]")
    @click.option("--optimizer", type=click.Choice(["adamw", "sgd"]), help="[default: adamw]")
    @click.option("--rate", type=float, help="The learning rate. [default: 1e-3 for adamw, 1e-2 for sgd]")
    @click.option("--weight-decay", type=float, help="[default: 0.01]")
    @click.option("--label-smoothing", type=click.FloatRange(0.0, 1.0, max_open=True), help="[default: 0]")
    @click.option("--freeze", metavar="WHAT", multiple=True, help="A role, a name or a glob that is not trained.")
    @click.option(
        "--strength",
        type=float,
        help="Of the regulariser on all channels at once, as in the paper. [default: its reach is annealed]",
    )
    @click.option(
        "--threshold",
        type=click.FloatRange(0.0, 1.0, max_open=True),
        help="Below this share of an ordinary channel's gate, a channel is dead. [default: 0.01]",
    )
    @click.option("--l1", type=click.FloatRange(0.0, 1.0), help="Share of the l1 norm in the group lasso. [default: 0]")
    @click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="[default: auto]")
    @click.option("--mean", callback=numbers, metavar="LIST", help="Of images, per channel, between 0 and 1.")
    @click.option("--std", callback=numbers, metavar="LIST", help="Of images, per channel.")
    @click.option("--image-size", callback=picture_size, metavar="HxW", help="Of images.")
    @click.option(
        "--checkpoint", type=click.Path(path_type=Path), help="Kept after each epoch. [default: OUT.checkpoint]"
    )
    @functools.wraps(verb)
    def with_training(*args: Any, data: Path | None, checkpoint: Path | None, **kwargs: Any) -> Any:
        typed = {name: value for name in _TRAINING if (value := kwargs.pop(name)) not in (None, ())}
        return verb(*args, data=data, checkpoint=checkpoint, settings=typed, **kwargs)

    return with_training  # type: ignore[return-value]


def show_layers(rows: Sequence[Row]) -> None:
    """Layer by layer, before and after."""
    table = Table(["layer", "op", ">channels", ">parameters", ">MACs"])
    for row in rows:
        table.add(row.name, row.op, _both(row.channels), _both(row.parameters), _both(row.macs))
    totals: list[tuple[int | None, int | None]] = []
    for name in ("parameters", "macs"):
        pairs = [getattr(row, name) for row in rows]
        totals.append((sum(one or 0 for one, _ in pairs), sum(two or 0 for _, two in pairs)))
    table.add("all", "", "", *(_both(total) for total in totals))
    table.show()


def _both(pair: tuple[int | None, int | None]) -> str:
    before, after = ("?" if one is None else f"{one:,}" for one in pair)
    return before if before == after else f"{before} -> {after}"


@contextlib.contextmanager
def trained_beside(checkpoint: Path | None, out: Path, talk: Talk) -> Iterator[tuple[Path, Callable[[Any], None]]]:
    """Around trainings: where their checkpoints go, and who is told how they get on.

    Checkpoints go when all is done, unless they were asked for by name; they stay when it is interrupted.

    Raises:
        click.exceptions.Exit: With code 130, after telling, when it was interrupted.
    """
    from onnxmorph import train

    where = checkpoint if checkpoint is not None else out.with_name(f"{out.name}.checkpoint")

    def told(progress: Any) -> None:
        entry = progress.finished
        if entry is not None:
            accuracy = "" if entry.accuracy is None else f", accuracy {entry.accuracy:.1%}"
            judged = "" if entry.validation_accuracy is None else f", validation {entry.validation_accuracy:.1%}"
            talk.detail(f"epoch {progress.epoch}/{progress.epochs}: loss {entry.loss:.4f}{accuracy}{judged}")

    try:
        yield where, told
    except train.Interrupted as stop:
        click.echo(f"onnxmorph: interrupted; go on with the same command, from {stop.checkpoint}", err=True)
        raise click.exceptions.Exit(130) from None
    if checkpoint is None:
        for file in where.parent.glob(f"{where.name}.*"):
            file.unlink(missing_ok=True)
