"""The leaderboard: every candidate of a search, as JSON and as a page."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from onnxmorph.errors import ModelError

__all__ = ["Candidate", "write_leaderboard"]


@dataclass(frozen=True)
class Candidate:
    """One candidate of a search.

    Attributes:
        number: Its number in the journal.
        parent: Of the candidate it was grown from; ``None`` for the first, which is the model that was given.
        value: What is made small.
        loss: On the validation data, of the epoch whose weights are kept.
        accuracy: Likewise, 0 to 1, where the loss is of classification.
        parameters: Numbers in its stored weights.
        latency: Milliseconds of one run of one sample.
        moves: What was done to the parent, in words.
        given_up: Whether its training was ended early, since it did worse than others.
        epochs: It was trained for.
        seconds: Of making, verifying and training it.
        file: Its file, in the folder of the search.
        descriptor: What the edit distance looks at.
    """

    number: int
    parent: int | None
    value: float
    loss: float
    accuracy: float | None
    parameters: int
    latency: float
    moves: tuple[str, ...]
    given_up: bool
    epochs: int
    seconds: float
    file: str
    descriptor: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "moves": list(self.moves)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Candidate:
        """The inverse of `to_json`.

        Raises:
            ModelError: It is not what `to_json` wrote.
        """
        try:
            values = {one.name: data[one.name] for one in fields(cls)}
            return cls(**{**values, "moves": tuple(values["moves"])})
        except (KeyError, TypeError) as error:
            raise ModelError(f"the journal of the search is damaged: {error}") from error


def write_leaderboard(folder: Path, candidates: Sequence[Candidate], objective: str) -> None:
    """Write ``leaderboard.json`` and ``leaderboard.md``.

    Args:
        folder: Of the search.
        candidates: The best first.
        objective: What they are ordered by.

    Raises:
        ModelError: They cannot be written; the ones before are kept.
    """
    document = {"schema": 1, "objective": objective, "candidates": [one.to_json() for one in candidates]}
    _write(folder / "leaderboard.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    _write(folder / "leaderboard.md", _page(candidates))


def _page(candidates: Sequence[Candidate]) -> str:
    lines = [
        "| rank | candidate | grown from | loss | accuracy | parameters | latency | epochs | what was done |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for rank, one in enumerate(candidates, start=1):
        moves = "; ".join(one.moves) if one.moves else "the model that was given"
        cells = (
            "given up" if one.given_up else str(rank),
            f"[{one.number}]({one.file})",
            "" if one.parent is None else str(one.parent),
            f"{one.loss:.4f}",
            "" if one.accuracy is None else f"{one.accuracy:.1%}",
            f"{one.parameters:,}",
            f"{one.latency:.2f} ms",
            str(one.epochs),
            moves.replace("|", "\\|"),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise ModelError(f"{path}: cannot be written: {error.strerror}") from error
