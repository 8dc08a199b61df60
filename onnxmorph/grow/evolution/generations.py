"""One generation after the other: train, keep the fit hypothesis, draw the rest anew, train again."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.errors import ModelError, Refusal, SelectionError
from onnxmorph.grow.data import Data
from onnxmorph.grow.evolution.slimming import slim
from onnxmorph.grow.evolution.split import Split, find_split, mark_evolved
from onnxmorph.grow.evolution.weights import fresh, reset
from onnxmorph.grow.fitting import fit
from onnxmorph.grow.losses import Loss
from onnxmorph.grow.scoring import held_back, mark_of, score
from onnxmorph.records import content_hash

__all__ = ["Evolved", "Generation", "evolve"]

_OURS = ("validation", "early_stopping", "keep", "checkpoint", "resume", "seed", "loss", "output")


@dataclass(frozen=True)
class Generation:
    """What one generation reached.

    Attributes:
        number: From 1.
        loss: Of the last epoch, on the training data.
        accuracy: Likewise, 0 to 1, where the loss is of classification.
        validation_loss, validation_accuracy: Of the whole network on the validation data, where there is some.
        slim_loss, slim_accuracy: Of the slim net there, where there is one.
        seconds: Of training.
    """

    number: int
    loss: float
    accuracy: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    slim_loss: float | None = None
    slim_accuracy: float | None = None
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain numbers."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Evolved:
    """A network after its last generation.

    Attributes:
        model: The whole network; its metadata tell of the split.
        split: Its fit hypothesis.
        generations: What each reached.
    """

    model: ir.Model
    split: Split
    generations: tuple[Generation, ...]


def evolve(
    model: ir.Model | str | os.PathLike[str],
    data: Data,
    *,
    split: Literal["kels", "wels"] | Split = "kels",
    share: float = 0.5,
    generations: int = 5,
    validation: Data | float | None = None,
    from_scratch: bool = False,
    loss: Loss = "cross-entropy",
    output: str | None = None,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    told: Callable[[Generation], None] | None = None,
    **settings: Any,
) -> Evolved:
    """Train a network for several generations, each starting from the fit hypothesis of the one before.

    The first generation goes on from the weights that the model has. Before each further one, all weights outside of
    the fit hypothesis are drawn anew (`onnxmorph.grow.evolution.weights.reset`).

    Args:
        model: Left as it is.
        data: See `onnxmorph.grow.data.read_samples`.
        split: ``"kels"`` (by channels; has a slim net), ``"wels"`` (by single weights), or a split of this graph.
        share: Of the channels or weights that is kept; above 0 and below 1.
        generations: How many.
        validation: Data that whole and slim network are judged on, or the share of ``data`` to hold back for that;
            nothing is chosen by it.
        from_scratch: The first generation starts from fresh weights.
        loss, output: As of `fit`.
        seed: Of all that is random; each generation has its own, made from it.
        folder: Where every finished generation is kept, and the training under way. An evolution that was interrupted
            goes on from there, to the same weights.
        told: Called after each generation.
        settings: Further ones of `fit`: ``epochs``, ``rate``, ``label_smoothing`` and so on.

    Raises:
        ModelError: A file cannot be read or written.
        Refusal: Nothing can be split; ``folder`` holds another evolution (``other-evolution``); see also `fit`.
        SelectionError: There is no such split, share or setting.
        Interrupted: By the keyboard.
    """
    if generations < 1:
        raise SelectionError(f"generations is {generations}, and must be at least 1")
    taken = next((name for name in settings if name in _OURS), None)
    if taken is not None:
        raise SelectionError(f"{taken} is not a setting of single generations")
    parent = model if isinstance(model, ir.Model) else files.load(model)
    chosen = split if isinstance(split, Split) else find_split(parent, split, share, seed=seed)
    place = None
    if folder is not None:
        marks = [mark_of(data), mark_of(validation)]
        place = _Place(Path(folder), _fingerprint(parent, chosen, from_scratch, loss, output, seed, marks, settings))
    pictures = {name: settings[name] for name in ("mean", "std", "image_size") if name in settings}
    if isinstance(validation, float):
        data, validation = held_back(parent, data, validation, seed, **pictures)
    now = fresh(parent, seed) if from_scratch else files.clone(parent)
    done: list[Generation] = []
    for number in range(1, generations + 1):
        kept = None if place is None else place.finished(number)
        if kept is not None:
            now, entry = kept
            done.append(entry)
            continue
        if number > 1:
            now = reset(now, chosen, _seed(seed, number))
        started = time.monotonic()
        fitted = fit(
            now,
            data,
            loss=loss,
            output=output,
            seed=_seed(seed, number),
            checkpoint=None if place is None else place.checkpoint(number),
            **settings,
        )
        now = fitted.model
        mark_evolved(now, chosen, number)
        last = fitted.history[-1]
        judged: dict[str, float | None] = {}
        if validation is not None:
            judged = _judge(now, chosen, validation, loss=loss, output=output, **pictures)
        seconds = time.monotonic() - started
        entry = Generation(number, last.loss, last.accuracy, **judged, seconds=seconds)
        if place is not None:
            place.keep(now, entry)
        done.append(entry)
        if told is not None:
            told(entry)
    return Evolved(now, chosen, tuple(done))


def _seed(seed: int, number: int) -> int:
    return seed * 1_009 + number


def _judge(model: ir.Model, split: Split, validation: Data, **how: Any) -> dict[str, float | None]:
    whole = score(model, validation, **how)
    judged = {"validation_loss": whole.loss, "validation_accuracy": whole.accuracy}
    if split.kind == "kels":
        cut = score(slim(model, split=split).model, validation, **how)
        judged |= {"slim_loss": cut.loss, "slim_accuracy": cut.accuracy}
    return judged


def _fingerprint(
    parent: ir.Model,
    split: Split,
    from_scratch: bool,
    loss: Loss,
    output: str | None,
    seed: int,
    marks: Sequence[str],
    settings: Mapping[str, Any],
) -> str:
    """Of all that the generations follow from."""
    told = {
        "model": content_hash(parent),
        **split.to_json(),
        "from_scratch": from_scratch,
        "loss": loss if isinstance(loss, str) else "own",
        "output": output,
        "random": seed,
        "data": list(marks),
        **{name: value for name, value in settings.items() if name not in ("callbacks", "augment", "device")},
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=lambda one: type(one).__name__).encode()).hexdigest()


class _Place:
    """A folder with the generations that are done: each a model, and an entry written after it."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelError(f"{folder}: cannot be made: {error.strerror}") from error

    def checkpoint(self, number: int) -> Path:
        return self.folder / f"generation-{number}.checkpoint"

    def _files(self, number: int) -> tuple[Path, Path]:
        return self.folder / f"generation-{number}.onnx", self.folder / f"generation-{number}.json"

    def finished(self, number: int) -> tuple[ir.Model, Generation] | None:
        model, entry = self._files(number)
        if not entry.exists():
            return None
        try:
            told = json.loads(entry.read_text(encoding="utf-8"))
            generation = Generation(**told["generation"])
            same = told["evolution"] == self.fingerprint
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{entry}: is damaged; remove it to train this generation again") from error
        if not same:
            raise Refusal(
                f"{self.folder} holds generations of another evolution (other model, split, seed or settings)",
                way_out="name another folder, or remove this one",
                code="other-evolution",
            )
        return files.load(model), generation

    def keep(self, model: ir.Model, entry: Generation) -> None:
        path, note = self._files(entry.number)
        files.save(model, path, overwrite=True)
        text = json.dumps({"evolution": self.fingerprint, "generation": entry.to_json()}, indent=1)
        aside = note.with_name(f".{note.name}.{os.getpid()}.part")
        try:
            aside.write_text(text + "\n", encoding="utf-8")
            aside.replace(note)
            self.checkpoint(entry.number).unlink(missing_ok=True)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise ModelError(f"{note}: cannot be written: {error.strerror}") from error
