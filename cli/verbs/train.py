"""``onnxmorph train``: other numbers in the same graph."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..flow import child_path
from ..learning import epoch_line, factors, learning_options, loss_text, percent, resumable
from ..options import Output, file_options, model_argument, talk_options
from ..table import Table
from ..talk import Talk

if TYPE_CHECKING:
    from onnxmorph._ir import ir
    from onnxmorph.train import Fitted, Progress

__all__ = ["command"]


@click.command(name="train", short_help="Train a model in place.")
@model_argument("model")
@learning_options()
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the data. [default: 10]")
@click.option("--steps", type=click.IntRange(min=1), help="Or steps in all.")
@click.option(
    "--a-rate",
    type=float,
    default=100.0,
    show_default=True,
    help="Times the rate, for the a of parametric activations.",
)
@click.option(
    "--rate-of",
    "rates",
    metavar="WHAT=FACTOR",
    multiple=True,
    callback=factors,
    help="Times the rate, for a role, a name or a glob; repeatable.",
)
@click.option("--schedule", type=click.Choice(["cosine", "constant"]), default="cosine", show_default=True)
@click.option(
    "--warmup",
    type=click.IntRange(min=0),
    metavar="STEPS",
    help="Steps over which the rate of new parameters rises. [default: up to 100 for a child]",
)
@click.option("--clip-norm", type=click.FloatRange(min=0.0, min_open=True), help="Longest gradient.")
@click.option(
    "--freeze", metavar="WHAT", multiple=True, help="A role, a name or a glob that is not trained; repeatable."
)
@click.option(
    "--only", "trainable", metavar="WHAT", multiple=True, help="Train only this role, name or glob; repeatable."
)
@click.option("--keep-batch-norm", is_flag=True, help="Leave the statistics of batch norms alone.")
@click.option(
    "--output-value",
    "value",
    metavar="NAME",
    help="The value the loss is computed on. [default: the first output, before a final softmax]",
)
@click.option("--teacher", type=click.Path(path_type=Path), help="A model whose outputs are learned too.")
@click.option("--teacher-weight", type=click.FloatRange(0.0, 1.0), default=0.5, show_default=True)
@click.option("--temperature", type=click.FloatRange(min=0.0, min_open=True), default=2.0, show_default=True)
@click.option(
    "--early-stopping",
    type=click.IntRange(min=1),
    metavar="EPOCHS",
    help="End after so many epochs without a better validation.",
)
@click.option("--amp", is_flag=True, help="Mixed precision, on CUDA.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Kept after each epoch. [default: OUT.checkpoint, gone when all is done]",
)
@click.option("--resume/--no-resume", default=True, help="Go on from the checkpoint if it is there. [default: resume]")
@click.option("--fold", "folding", is_flag=True, help="Afterwards fold what can be folded, verified.")
@file_options("The trained model's file. [default: STEM.train.onnx]")
@talk_options
def command(
    *,
    model: Path,
    data: Path,
    settings: dict[str, Any],
    value: str | None,
    trainable: tuple[str, ...],
    keep_batch_norm: bool,
    checkpoint: Path | None,
    folding: bool,
    output: Output,
    talk: Talk,
    **further: Any,
) -> None:
    """Train MODEL on your own data: the same graph with the same names, and other numbers.

    What is trained is chosen by role: weights and biases of layers, norms, embeddings, recurrent weights, parameters of
    activations. After each epoch a checkpoint is written; a training that was interrupted (Ctrl-C) goes on where it
    was, to the same weights, when the same command is given again. Needs the extra: pip install 'onnxmorph[train]'.

    Exit code 3: the data does not fit the model, or the model cannot be trained, with the reason; 4: the loss became
    NaN, or a file cannot be read or written; 130: interrupted.
    """
    out = child_path(model, "train", output)
    kept = checkpoint is not None
    where = checkpoint if checkpoint is not None else out.with_name(f"{out.name}.checkpoint")
    with talk.step("loading"):
        from onnxmorph import model as files
        from onnxmorph import train

        parent = files.load(model)
        fit = train.fit  # imports torch, which takes far longer than to find that a file is no model
    with resumable(where), _progress(talk) as told:
        fitted = fit(
            parent,
            data,
            output=value,
            trainable=trainable or None,
            batch_norm="keep" if keep_batch_norm else "update",
            checkpoint=where,
            callbacks=[told],
            **settings,
            **further,
        )
    for note in fitted.notes:
        talk.note(note)
    document = _document(fitted)
    folded = _fold(fitted.model, out, output.force, talk) if folding else None
    if folded is None:
        with talk.step("writing"):
            files.save(fitted.model, out, overwrite=output.force)
    if not kept:
        where.unlink(missing_ok=True)
    document |= {"trained": out, "checkpoint": where if kept else None, "folded": folded}
    talk.result(document, lambda: _show(fitted, out, folded), short=str(out))


def _fold(trained: ir.Model, out: Path, force: bool, talk: Talk) -> list[str] | None:
    """Folds what can be folded and puts the verified child in place; ``None`` where nothing was folded."""
    from onnxmorph.errors import Refusal

    with talk.step("folding and verifying"):
        from onnxmorph import delivery
        from onnxmorph.morphs.fold import fold

        try:
            child = fold(trained)
        except Refusal as refusal:
            if refusal.code != "nothing-to-fold":
                raise
            return None
        delivered = delivery.deliver(trained, child, out, check=delivery.Check(), overwrite=force)
    if delivered.path is None:
        talk.note("the folded model is not equivalent to the trained one and was not kept; the trained one is written")
        return None
    return [plan.describe() for plan in child.plans]


def _document(fitted: Fitted) -> dict[str, Any]:
    return {
        "history": [entry.to_json() for entry in fitted.history],
        "best": fitted.best,
        "stopped": fitted.stopped,
        "parameters": list(fitted.trained),
        "notes": list(fitted.notes),
    }


def _show(fitted: Fitted, out: Path, folded: list[str] | None) -> None:
    table = Table([">epoch", ">step", ">loss", ">accuracy", ">validation", ">accuracy", ">rate"])
    for entry in fitted.history:
        table.add(
            str(entry.epoch),
            str(entry.step),
            f"{entry.loss:.4f}",
            percent(entry.accuracy),
            loss_text(entry.validation_loss),
            percent(entry.validation_accuracy),
            f"{entry.rate:.2g}",
        )
    table.show()
    ended = {"early": "stopped early", "callback": "stopped"}.get(fitted.stopped)
    judged = fitted.history and fitted.history[-1].validation_loss is not None
    told = [ended] if ended else []
    told += [f"the weights of epoch {fitted.best} are kept"] if judged else []
    if told:
        click.echo("; ".join(told))
    for line in folded or []:
        click.echo(f"folded: {line}")
    click.echo(f"trained: {len(fitted.trained)} tensors")
    click.echo(f"written: {out}")


@contextlib.contextmanager
def _progress(talk: Talk) -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, a line an epoch under ``-v``."""
    if talk.quiet or talk.verbose or not sys.stderr.isatty():

        def told(progress: Progress) -> None:
            if progress.finished is not None:
                talk.detail(f"epoch {progress.epoch}/{progress.epochs}: {epoch_line(progress.finished)}")

        yield told
        return
    import rich.console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=rich.console.Console(stderr=True), transient=True) as bar:
        task = bar.add_task("training", total=None)

        def drawn(progress: Progress) -> None:
            text = f"epoch {progress.epoch}/{progress.epochs}  loss {progress.loss:.4f}"
            bar.update(task, completed=progress.step, total=progress.steps, description=text)
            if progress.finished is not None:
                bar.console.print(f"epoch {progress.epoch}/{progress.epochs}: {epoch_line(progress.finished)}")

        yield drawn
