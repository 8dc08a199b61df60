"""What verbs that train have in common: options of one training, and how they are typed."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from onnxmorph.train import Epoch

__all__ = [
    "LOSSES",
    "epoch_line",
    "factors",
    "learning_options",
    "loss_text",
    "numbers",
    "percent",
    "picture_size",
    "resumable",
    "share_or_path",
    "typed",
]

Verb = TypeVar("Verb", bound=Callable[..., Any])

LOSSES = ("cross-entropy", "binary-cross-entropy", "mse", "mae", "huber")
"""Those of :data:`onnxmorph.grow.losses.LOSSES`, written out: ``--help`` must not import torch. A test compares."""


def factors(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, float]:
    """``NAME=FACTOR``, repeated."""
    found: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        try:
            factor = float(number)
        except ValueError:
            factor = math.nan
        if not (equals and name) or not (math.isfinite(factor) and factor >= 0):
            raise click.BadParameter(
                f"{text!r}: write a role, a name or a glob and a factor: norm_scale=0.1", context, parameter
            )
        found[name] = factor
    return found


def share_or_path(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float | Path | None:
    """A number between 0 and 1 is a share of the data, anything else a path."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return Path(text)


def numbers(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float, ...]:
    """``0.485,0.456,0.406``."""
    if text is None:
        return ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r}: write numbers: 0.485,0.456,0.406", context, parameter) from None


def picture_size(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """``224`` or ``192x256``."""
    if text is None:
        return None
    parts = text.split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise click.BadParameter(f"{text!r}: write height and width: 224x224", context, parameter)
    return int(parts[0]), int(parts[-1])


def learning_options(*, budget: bool = False) -> Callable[[Verb], Verb]:
    """The data and the settings that all trainings have, given to the verb as ``data`` and ``settings``.

    Args:
        budget: The verb trains only where it is given a budget: ``data`` may be missing, and ``settings`` are those
            that were typed, so that the verb can tell.
    """

    def decorate(verb: Verb) -> Verb:
        @click.option(
            "--data",
            type=click.Path(path_type=Path),
            required=not budget,
            help="To train on: an .npz file with an array per input (or x) and target (or y), or a folder of images, a"
            " folder per class.",
        )
        @click.option(
            "--validation",
            metavar="PATH|SHARE",
            callback=share_or_path,
            help="Data to judge by, or the share of --data to hold back.",
        )
        @click.option("--loss", type=click.Choice(LOSSES), default="cross-entropy", show_default=True)
        @click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
        @click.option("--optimizer", type=click.Choice(["adamw", "sgd"]), default="adamw", show_default=True)
        @click.option("--rate", type=float, help="The learning rate. [default: 1e-3 for adamw, 1e-2 for sgd]")
        @click.option("--weight-decay", type=float, default=0.01, show_default=True)
        @click.option(
            "--label-smoothing", type=click.FloatRange(0.0, 1.0, max_open=True), default=0.0, show_default=True
        )
        @click.option("--mean", callback=numbers, metavar="LIST", help="Of images, per channel, between 0 and 1.")
        @click.option("--std", callback=numbers, metavar="LIST", help="Of images, per channel.")
        @click.option(
            "--image-size", callback=picture_size, metavar="HxW", help="Of images, where the model leaves it open."
        )
        @click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
        @functools.wraps(verb)
        def with_learning(*args: Any, data: Path | None, **kwargs: Any) -> Any:
            settings = {name: kwargs.pop(name) for name in _SETTINGS}
            if budget:
                settings = {name: value for name, value in settings.items() if typed(name)}
            return verb(*args, data=data, settings=settings, **kwargs)

        return with_learning  # type: ignore[return-value]

    return decorate


_SETTINGS = (
    *("validation", "loss", "batch_size", "optimizer", "rate", "weight_decay", "label_smoothing"),
    *("mean", "std", "image_size", "device"),
)


def typed(name: str) -> bool:
    """Whether an option of the verb that runs was given, rather than left to its default."""
    source = click.get_current_context().get_parameter_source(name)
    return source is not click.core.ParameterSource.DEFAULT


@contextlib.contextmanager
def resumable(place: Path) -> Iterator[None]:
    """Around what goes on from ``place`` when the same command is given again.

    Raises:
        click.exceptions.Exit: With code 130, after telling, when it was interrupted with something in place.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        where = place if place.exists() else getattr(stop, "checkpoint", None)
        if where is None:
            raise
        click.echo(f"onnxmorph: interrupted; go on with the same command, from {where}", err=True)
        raise click.exceptions.Exit(130) from None


def epoch_line(entry: Epoch) -> str:
    """One epoch of a training in a line."""
    parts = [f"loss {entry.loss:.4f}"]
    parts += [f"accuracy {entry.accuracy:.1%}"] if entry.accuracy is not None else []
    parts += [f"validation {entry.validation_loss:.4f}"] if entry.validation_loss is not None else []
    parts += [f"accuracy {entry.validation_accuracy:.1%}"] if entry.validation_accuracy is not None else []
    return ", ".join([*parts, f"{entry.seconds:.1f} s"])


def percent(share: float | None) -> str:
    """A share for a table; nothing where there is none."""
    return "" if share is None else f"{share:.1%}"


def loss_text(loss: float | None) -> str:
    """A loss for a table; nothing where there is none."""
    return "" if loss is None else f"{loss:.4f}"
