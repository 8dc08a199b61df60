"""``onnxmorph search``: a better network for the user's data, by morphs of a given one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ..learning import learning_options, percent, resumable
from ..options import model_argument, talk_options
from ..table import Table
from ..talk import Talk

if TYPE_CHECKING:
    from onnxmorph.grow.searching import Candidate, Found

__all__ = ["command"]


@click.command(name="search", short_help="Search for a better network by morphs.")
@model_argument("model")
@learning_options()
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True, help="Of each candidate.")
@click.option("--schedule", type=click.Choice(["cosine", "constant"]), default="cosine", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--trials", type=click.IntRange(min=1), metavar="N", help="Candidates in all, with those of earlier runs."
)
@click.option("--hours", type=click.FloatRange(min=0.0, min_open=True), metavar="H", help="Or time of this run.")
@click.option(
    "--sampler",
    type=click.Choice(["edit", "tpe", "random"]),
    default="edit",
    show_default=True,
    help="What chooses: Bayesian optimisation by the edit distance of networks, or a sampler of optuna.",
)
@click.option(
    "--objective",
    type=click.Choice(["loss", "accuracy"]),
    default="loss",
    show_default=True,
    help="Of the validation, what candidates are judged by.",
)
@click.option("--max-parameters", type=click.IntRange(min=1), metavar="N", help="Of a candidate, at most.")
@click.option(
    "--max-latency",
    type=click.FloatRange(min=0.0, min_open=True),
    metavar="MS",
    help="Milliseconds of one run of one sample, on one thread of the CPU.",
)
@click.option("--moves", type=click.IntRange(1, 8), default=2, show_default=True, help="Morphs a candidate, at most.")
@click.option("--prune/--no-prune", default=True, help="Give up candidates that do worse than most. [default: prune]")
@click.option("--no-inherit", is_flag=True, help="Train each candidate from fresh weights, to compare with.")
@click.option("--storage", metavar="URL", help="A database for workers on several machines. [default: a file in DIR]")
@click.option("--no-verify", is_flag=True, help="Do not verify candidates against what they grow from.")
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="For candidates, journal and leaderboard. [default: STEM.search]",
)
@talk_options
def command(
    *,
    model: Path,
    data: Path,
    settings: dict[str, Any],
    epochs: int,
    schedule: str,
    seed: int,
    trials: int | None,
    hours: float | None,
    sampler: Literal["edit", "tpe", "random"],
    objective: Literal["loss", "accuracy"],
    max_parameters: int | None,
    max_latency: float | None,
    moves: int,
    prune: bool,
    no_inherit: bool,
    storage: str | None,
    no_verify: bool,
    folder: Path | None,
    talk: Talk,
) -> None:
    """Search for a network that does better than MODEL on your data, growing it by morphs.

    MODEL is trained first. Each further candidate grows from one of those before by a few morphs, is shown to compute
    the same as that one, and is trained on: deeper, wider, with larger kernels and skips. Every candidate is an ONNX
    file in DIR/candidates, the best is DIR/best.onnx, and DIR/leaderboard.md lists them. The same command goes on with
    a search that was interrupted or has ended; several may work on one DIR at a time. By default a fifth of the data is
    held back to judge by. Needs the extras: pip install 'onnxmorph[train,search]'.

    Exit code 3: MODEL cannot be trained, or the data does not fit, with the reason; 4: a file cannot be read or
    written; 130: interrupted.
    """
    if trials is None and hours is None:
        raise click.UsageError("give --trials, --hours or both", click.get_current_context())
    place = folder if folder is not None else model.with_name(f"{model.stem}.search")
    with talk.step("loading"):
        from onnxmorph import model as files
        from onnxmorph import train

        parent = files.load(model)
    if settings["validation"] is None:
        del settings["validation"]  # the search then holds back a share of its own
        budget = train.Budget(max_parameters, max_latency)

    def told(candidate: Candidate) -> None:
        talk.detail(f"candidate {candidate.number}: {_line(candidate)}")

    with resumable(place):
        found = train.search(
            parent,
            data,
            place,
            trials=trials,
            hours=hours,
            sampler=sampler,
            objective=objective,
            budget=budget,
            most_moves=moves,
            prune=prune,
            inherit=not no_inherit,
            storage=storage,
            verify=not no_verify,
            seed=seed,
            told=told,
            epochs=epochs,
            schedule=schedule,
            **settings,
        )
    document = {
        "folder": found.folder,
        "best": found.folder / "best.onnx",
        "leaderboard": found.folder / "leaderboard.md",
        "candidates": [one.to_json() for one in found.candidates],
    }
    talk.result(document, lambda: _show(found), short=str(found.folder / "best.onnx"))


def _line(candidate: Candidate) -> str:
    parts = [f"loss {candidate.loss:.4f}"]
    parts += [] if candidate.accuracy is None else [f"accuracy {candidate.accuracy:.1%}"]
    parts += [f"{candidate.parameters:,} parameters", f"{candidate.seconds:.1f} s"]
    parts += ["given up"] if candidate.given_up else []
    return ", ".join([*parts, *candidate.moves])


def _show(found: Found) -> None:
    table = Table([">candidate", ">from", ">loss", ">accuracy", ">parameters", ">latency", "what was done"])
    for one in found.candidates:
        done = "; ".join(one.moves) or "the model that was given"
        table.add(
            str(one.number),
            "" if one.parent is None else str(one.parent),
            f"{one.loss:.4f}",
            percent(one.accuracy),
            f"{one.parameters:,}",
            f"{one.latency:.2f} ms",
            f"given up: {done}" if one.given_up else done,
        )
    table.show()
    click.echo(f"the best: {found.folder / 'best.onnx'}")
    click.echo(f"all of them: {found.folder / 'leaderboard.md'}")
