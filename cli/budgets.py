"""Options of verbs that bring a model to a budget, and the table they show."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .learning import epoch_line, learning_options, resumable, typed
from .table import Table
from .talk import Talk

if TYPE_CHECKING:
    from onnxmorph.grow.morphnet.report import Row

__all__ = ["show_layers", "trained_beside", "training_options"]

Verb = TypeVar("Verb", bound=Callable[..., Any])


def training_options(verb: Verb) -> Verb:
    """``--data``, ``--checkpoint`` and the settings of `onnxmorph.grow.morphnet.shrink`: ``data``, ``checkpoint`` and
    ``settings``, the latter only what was typed."""

    @learning_options(budget=True)
    @click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True, help="With the regulariser.")
    @click.option("--finetune", type=click.IntRange(min=0), help="Epochs after channels are out. [default: half]")
    @click.option("--freeze", metavar="WHAT", multiple=True, help="A role, a name or a glob that is not trained.")
    @click.option(
        "--strength",
        type=float,
        help="Of the regulariser on all channels at once, as in the paper. [default: its reach is annealed]",
    )
    @click.option(
        "--threshold",
        type=click.FloatRange(0.0, 1.0, max_open=True),
        default=0.01,
        show_default=True,
        help="Below this share of an ordinary channel's gate, a channel is dead.",
    )
    @click.option(
        "--l1",
        type=click.FloatRange(0.0, 1.0),
        default=0.0,
        show_default=True,
        help="Share of the l1 norm in the group lasso.",
    )
    @click.option(
        "--checkpoint", type=click.Path(path_type=Path), help="Kept after each epoch. [default: OUT.checkpoint]"
    )
    @functools.wraps(verb)
    def with_training(
        *args: Any, data: Path | None, checkpoint: Path | None, settings: dict[str, Any], **kwargs: Any
    ) -> Any:
        own = {name: kwargs.pop(name) for name in _OWN}
        settings |= {name: value for name, value in own.items() if typed(name)}
        return verb(*args, data=data, checkpoint=checkpoint, settings=settings, **kwargs)

    return with_training  # type: ignore[return-value]


_OWN = ("epochs", "finetune", "freeze", "strength", "threshold", "l1")


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
    where = checkpoint if checkpoint is not None else out.with_name(f"{out.name}.checkpoint")

    def told(progress: Any) -> None:
        if progress.finished is not None:
            talk.detail(f"epoch {progress.epoch}/{progress.epochs}: {epoch_line(progress.finished)}")

    with resumable(where):
        yield where, told
    if checkpoint is None:
        for file in where.parent.glob(f"{where.name}.*"):
            file.unlink(missing_ok=True)
