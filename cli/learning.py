"""What verbs that train have in common: options of one training, and how they are typed."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["LOSSES", "factors", "learning_options", "numbers", "picture_size", "share_or_path"]

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


def learning_options(epochs: str) -> Callable[[Verb], Verb]:
    """The data and the settings of single trainings, given to the verb as ``data``, ``validation`` and ``settings``.

    Args:
        epochs: Whose they are, for the help text.
    """

    def decorate(verb: Verb) -> Verb:
        @click.option(
            "--data",
            type=click.Path(path_type=Path),
            required=True,
            help="An .npz file with an array per input (or x) and target (or y), or a folder of images.",
        )
        @click.option(
            "--validation",
            metavar="PATH|SHARE",
            callback=share_or_path,
            help="Data to judge by, or the share of --data to hold back.",
        )
        @click.option("--loss", type=click.Choice(LOSSES), default="cross-entropy", show_default=True)
        @click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True, help=f"Of {epochs}.")
        @click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
        @click.option("--optimizer", type=click.Choice(["adamw", "sgd"]), default="adamw", show_default=True)
        @click.option("--rate", type=float, help="The learning rate. [default: 1e-3 for adamw, 1e-2 for sgd]")
        @click.option("--schedule", type=click.Choice(["cosine", "constant"]), default="cosine", show_default=True)
        @click.option("--weight-decay", type=float, default=0.01, show_default=True)
        @click.option(
            "--label-smoothing", type=click.FloatRange(0.0, 1.0, max_open=True), default=0.0, show_default=True
        )
        @click.option("--mean", callback=numbers, metavar="LIST", help="Of images, per channel, between 0 and 1.")
        @click.option("--std", callback=numbers, metavar="LIST", help="Of images, per channel.")
        @click.option("--image-size", callback=picture_size, metavar="HxW", help="Of images.")
        @click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
        @functools.wraps(verb)
        def with_learning(
            *args: Any,
            data: Path,
            validation: float | Path | None,
            seed: int,
            **kwargs: Any,
        ) -> Any:
            settings = {name: kwargs.pop(name) for name in _SETTINGS}
            return verb(*args, data=data, validation=validation, seed=seed, settings=settings, **kwargs)

        return with_learning  # type: ignore[return-value]

    return decorate


_SETTINGS = (
    *("loss", "epochs", "batch_size", "optimizer", "rate", "schedule", "weight_decay", "label_smoothing"),
    *("mean", "std", "image_size"),
)
