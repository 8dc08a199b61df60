"""The training loop: steps, epochs, validation, checkpoints, interrupts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from onnxmorph._ir import ir
from onnxmorph.errors import Refusal, RuntimeFailure
from onnxmorph.grow.checkpoint import random_state, read_checkpoint, restore_random_state, write_checkpoint
from onnxmorph.grow.data import Samples, Target
from onnxmorph.grow.descent import Descent
from onnxmorph.grow.graph_module import GraphModule, write_back
from onnxmorph.grow.losses import Objective, distillation
from onnxmorph.grow.optimization import Rates, load_state, set_rates, state_by_name

__all__ = ["AfterStep", "Diverged", "Epoch", "Fitted", "Interrupted", "Progress", "Training", "placed"]

Tensor = torch.Tensor

_CHECKED_EVERY = 16
"""Steps between looks at the loss on a GPU, which each wait for it."""


@dataclass(frozen=True)
class Epoch:
    """One line of the history.

    Attributes:
        epoch: Counted from 1.
        step: Steps done since the start.
        loss: Mean over the epoch's batches.
        rate: The base rate at its end.
        accuracy: Share of right classes on the training batches, where the loss is of classification.
        validation_loss, validation_accuracy: On the validation data, where there is some.
        seconds: Of the epoch.
    """

    epoch: int
    step: int
    loss: float
    rate: float
    accuracy: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain numbers."""
        return {key: value for key, value in self.__dict__.items() if value is not None}


@dataclass(frozen=True)
class Progress:
    """What callbacks are told, after each step and, with ``finished``, after each epoch.

    Attributes:
        epoch, epochs: Of how many; from 1.
        step, steps: Of how many, since the start.
        loss: Of the last batch that was looked at.
        rate: The base rate.
        finished: The epoch that has just ended.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    rate: float
    finished: Epoch | None = None


class AfterStep(Protocol):
    """What changes parameters itself after each step of the optimizer, such as a proximal step of a regulariser.

    Its state goes into checkpoints, so that a training that is resumed goes on as if it had not been interrupted.
    """

    def __call__(self, net: GraphModule, step: int, rate: float) -> None:
        """After step ``step``, counted from 1, whose base rate was ``rate`` times the highest."""

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes: numbers, strings and tensors."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""

    def settings(self) -> dict[str, Any]:
        """What makes it what it is, as JSON: a checkpoint is only resumed with the same."""


@dataclass(frozen=True)
class Fitted:
    """A trained model and how it came about.

    Attributes:
        model: The trained model; the weights of the best epoch where there is validation, of the last where there is
            none or the last were asked for.
        history: One entry per epoch.
        best: The epoch whose weights these are.
        stopped: ``"finished"``, ``"early"``, ``"callback"``.
        optimizer: Its state by name; see `transfer_optimizer`.
        notes: What a user should know.
        trained: Names of what was trained.
    """

    model: ir.Model
    history: tuple[Epoch, ...]
    best: int
    stopped: str
    optimizer: dict[str, dict[str, Any]] = field(repr=False)
    notes: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()


class Diverged(RuntimeFailure):
    """The loss became NaN or infinite.

    Attributes:
        step: At which, from 1.
        fitted: What had been reached at the end of the last good epoch, or ``None``.
    """

    def __init__(self, text: str, step: int, fitted: Fitted | None) -> None:
        super().__init__(text)
        self.step = step
        self.fitted = fitted


class Interrupted(KeyboardInterrupt):
    """The training was interrupted, after the step that was under way and after its checkpoint was written.

    Attributes:
        checkpoint: Where to go on from, or ``None``.
        fitted: What had been reached.
    """

    def __init__(self, checkpoint: Path | None, fitted: Fitted) -> None:
        super().__init__("interrupted")
        self.checkpoint = checkpoint
        self.fitted = fitted


def placed(target: Target, device: torch.device) -> Any:
    """Targets on a device."""
    if isinstance(target, dict):
        return {name: value.to(device) for name, value in target.items()}
    return None if target is None else target.to(device)


@dataclass
class Training:
    """One training under way."""

    parent: ir.Model
    net: GraphModule
    mentor: GraphModule | None
    samples: Samples
    held: Samples | None
    goal: Objective
    plan: Rates
    mover: Descent
    settings: dict[str, Any]
    batch_size: int
    piece: int | None
    per_epoch: int
    total: int
    clip_norm: float | None
    teacher_weight: float
    temperature: float
    early_stopping: int | None
    keep_best: bool
    augment: Callable[[dict[str, Tensor], Target], tuple[dict[str, Tensor], Target]] | None
    seed: int
    device: torch.device
    amp: bool
    checkpoint: Path | None
    callbacks: Sequence[Callable[[Progress], bool | None]]
    after_step: AfterStep | None = None

    step: int = 0
    """Steps done."""
    history: list[Epoch] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    best_epoch: int = 0
    best_loss: float = math.inf
    sums: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    """Of the epoch so far: loss times samples, samples, right classes, classes."""
    stopped: str = ""
    last_loss: float = math.nan
    _interrupted: bool = False

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.amp and not self._bfloat16())
        self.sums = self.sums.to(self.device)

    def _bfloat16(self) -> bool:
        return self.device.type == "cuda" and torch.cuda.is_bf16_supported()

    @property
    def epochs(self) -> int:
        """All of them, the last perhaps in part."""
        return math.ceil(self.total / self.per_epoch)

    def run(self, *, resume: bool) -> Fitted:
        """From the start, or from the checkpoint."""
        torch.manual_seed(self.seed)
        if resume and self.checkpoint is not None and self.checkpoint.exists():
            self._restore(self.checkpoint)
        with self._listening():
            while self.step < self.total and not self.stopped:
                self._epoch()
        return self.result()

    def result(self) -> Fitted:
        """What has been reached."""
        lost = not math.isfinite(self.last_loss) and self.step > 0
        of_the_best = self.best is not None and ((self.held is not None and self.keep_best) or lost)
        values = self.best if of_the_best and self.best is not None else self.net.state_dict()
        note = {
            "loss": self.settings["loss"],
            "steps": self.step,
            "optimizer": self.settings["optimizer"],
            "rate": self.settings["rate"],
            "batch_size": self.batch_size,
            "seed": self.seed,
        }
        notes = [
            f"{name} is not trained: its gradient ends at {obstacle.label} ({obstacle.op})"
            for name, obstacle in self.net.without_gradient.items()
        ]
        return Fitted(
            write_back(values, self.parent, note=note),
            tuple(self.history),
            self.best_epoch if of_the_best and self.best_epoch else len(self.history),
            self.stopped or "finished",
            state_by_name(self.mover),
            tuple(notes),
            tuple(self.settings["trained"]),
        )

    # --- one epoch ---

    def _epoch(self) -> None:
        started = time.monotonic()
        number = self.step // self.per_epoch
        done = self.step - number * self.per_epoch
        if done == 0:
            self.sums.zero_()
        order = torch.randperm(
            len(self.samples), generator=torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        )
        self.net.train()
        for place in range(done, self.per_epoch):
            if self.step >= self.total:
                break
            chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
            rate = set_rates(self.mover, self.plan, self.step)
            loss = self._step(chosen)
            self.step += 1
            if self.after_step is not None:
                with torch.no_grad():
                    self.after_step(self.net, self.step, rate / self.plan.rate)
            self._look(loss)
            self._tell(number, rate)
            if self._interrupted:
                self._leave()
            if self.stopped:
                break
        self._end_of_epoch(number, time.monotonic() - started)

    def _step(self, chosen: Tensor) -> Tensor:
        pieces = [chosen] if self.piece is None else _pieces(chosen, self.piece)
        # The scaler asks of an optimizer only what a Descent has: groups, and a step.
        moving = cast(torch.optim.Optimizer, self.mover)
        self.mover.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for part in pieces:
            inputs, target = self.samples.batch(part)
            if self.augment is not None:
                inputs, target = self.augment(inputs, target)
            loss, outputs = self._loss(inputs, target)
            share = len(part) / sum(len(one) for one in pieces)
            self.scaler.scale(loss * share).backward()  # type: ignore[no-untyped-call]
            total = total + loss.detach() * share
            self._count(outputs, target)
        if self.clip_norm is not None:
            self.scaler.unscale_(moving)
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.clip_norm)
        if self.device.type == "cpu" and not math.isfinite(float(total)):
            return total  # told by the caller; the weights are still good
        self.scaler.step(moving)
        self.scaler.update()
        self.sums[0] += total * len(chosen)
        self.sums[1] += len(chosen)
        return total

    def _loss(self, inputs: dict[str, Tensor], target: Target) -> tuple[Tensor, Any]:
        given = {name: value.to(self.device, non_blocking=True) for name, value in inputs.items()}
        wanted = placed(target, self.device)
        kind = torch.bfloat16 if self._bfloat16() else torch.float16
        with torch.autocast(self.device.type, dtype=kind, enabled=self.amp):
            results = self.net._run((), given)
            outputs = results[0] if len(results) == 1 else dict(zip(self.net.output_names, results, strict=True))
            if self.amp and isinstance(outputs, Tensor):
                outputs = outputs.float()
            if self.mentor is None:
                return self.goal(outputs, wanted), outputs
            with torch.no_grad():
                taught: Tensor = self.mentor(**given)
            assert isinstance(outputs, Tensor)
            loss = self.teacher_weight * distillation(self.goal, outputs, taught.float(), self.temperature)
            if wanted is not None and self.teacher_weight < 1.0:
                loss = loss + (1.0 - self.teacher_weight) * self.goal(outputs, wanted)
        return loss, outputs

    def _count(self, outputs: Any, target: Target) -> None:
        if self.goal.name not in ("cross-entropy", "binary-cross-entropy") or not isinstance(target, Tensor):
            return
        with torch.no_grad():
            found = self.goal.hits(outputs.detach(), target.to(self.device)) if isinstance(outputs, Tensor) else None
        if found is not None:
            self.sums[2] += found[0]
            self.sums[3] += found[1]

    def _look(self, loss: Tensor) -> None:
        if self.device.type == "cpu" or self.step % _CHECKED_EVERY == 0 or self.step == self.total:
            self.last_loss = float(loss)
            if not math.isfinite(self.last_loss):
                self._diverged()

    def _diverged(self) -> None:
        epoch = (self.step - 1) // self.per_epoch + 1
        about = "at" if self.device.type == "cpu" else "at or before"
        kept = ""
        if self.checkpoint is not None and self.checkpoint.exists():
            kept = f"; the last good checkpoint is {self.checkpoint}"
        fitted = self.result() if self.best is not None else None
        raise Diverged(
            f"the loss became {self.last_loss} {about} step {self.step} (epoch {epoch}){kept}; try a lower rate"
            f" (it was {self.plan.rate:g})",
            self.step,
            fitted,
        )

    def _tell(self, number: int, rate: float, finished: Epoch | None = None) -> None:
        if not self.callbacks:
            return
        told = Progress(number + 1, self.epochs, self.step, self.total, self.last_loss, rate, finished)
        for callback in self.callbacks:
            if callback(told):
                self.stopped = "callback"

    def _end_of_epoch(self, number: int, seconds: float) -> None:
        loss, many, right, classes = self.sums.tolist()
        if not math.isfinite(loss):
            self.last_loss = loss
            self._diverged()
        checked: dict[str, float] = {} if self.held is None else self._validate(self.held)
        entry = Epoch(
            number + 1,
            self.step,
            loss / max(many, 1.0),
            self.plan.at(self.step - 1, warmed=False),
            right / classes if classes else None,
            checked.get("loss"),
            checked.get("accuracy"),
            seconds,
        )
        self.history.append(entry)
        if entry.validation_loss is None or entry.validation_loss < self.best_loss:
            self.best_loss = entry.validation_loss if entry.validation_loss is not None else math.inf
            self.best_epoch = entry.epoch
            self.best = {name: tensor.detach().clone() for name, tensor in self.net.state_dict().items()}
        elif self.early_stopping is not None and entry.epoch - self.best_epoch >= self.early_stopping:
            self.stopped = self.stopped or "early"
        self._tell(number, entry.rate, entry)
        self._save()
        if self._interrupted:
            self._leave()

    def _validate(self, held: Samples) -> dict[str, float]:
        self.net.eval()
        loss = many = right = classes = 0.0
        size = self.piece or self.batch_size
        with torch.no_grad():
            for start in range(0, len(held), size):
                inputs, target = held.batch(torch.arange(start, min(start + size, len(held))))
                count = next(iter(inputs.values())).shape[0]
                if self.piece is not None and count < self.piece:
                    break
                one, outputs = self._loss(inputs, target)
                loss, many = loss + float(one) * count, many + count
                found = None
                if isinstance(target, Tensor) and isinstance(outputs, Tensor):
                    found = self.goal.hits(outputs, target.to(self.device))
                if found is not None:
                    right, classes = right + float(found[0]), classes + float(found[1])
        self.net.train()
        if not many:
            raise Refusal("the validation data has fewer samples than the model's fixed batch", code="data-empty")
        return {"loss": loss / many, **({"accuracy": right / classes} if classes else {})}

    # --- stopping and going on ---

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """The first interrupt or request to end ends the training after the step under way; the second at once."""

        def noted(_signal: int, _frame: object) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True

        before: dict[int, Any] = {}
        try:
            for kind in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(ValueError):  # not the main thread
                    before[kind] = signal.signal(kind, noted)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _leave(self) -> None:
        self._save()
        raise Interrupted(self.checkpoint, self.result())

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        weights = self.net.state_dict()
        if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
            self.last_loss = math.nan
            self._diverged()
        write_checkpoint(
            self.checkpoint,
            {
                "fingerprint": _fingerprint(self.settings),
                "settings": json.dumps(self.settings),
                "weights": weights,
                "optimizer": state_by_name(self.mover),
                "scaler": self.scaler.state_dict(),
                "random": random_state(self.device),
                "step": self.step,
                "history": json.dumps([entry.to_json() for entry in self.history]),
                "sums": self.sums,
                "best": self.best,
                "best_epoch": self.best_epoch,
                "best_loss": self.best_loss,
                "stopped": self.stopped,
                "after_step": None if self.after_step is None else self.after_step.state_dict(),
            },
        )

    def _restore(self, path: Path) -> None:
        content = read_checkpoint(path)
        if content.get("fingerprint") != _fingerprint(self.settings):
            raise Refusal(
                f"{path} is the checkpoint of another training: {_difference(content, self.settings)}",
                way_out="name another checkpoint, or start anew over it (resume=False, --no-resume)",
                code="other-training",
            )
        self.net.load_state_dict(content["weights"])
        load_state(self.mover, content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        restore_random_state(content["random"], self.device)
        self.step = content["step"]
        self.history = [Epoch(**entry) for entry in json.loads(content["history"])]
        self.sums = content["sums"].to(self.device)
        self.best = content["best"]
        self.best_epoch, self.best_loss = content["best_epoch"], content["best_loss"]
        self.stopped = content["stopped"]
        if self.after_step is not None:
            self.after_step.load_state_dict(content["after_step"])


def _pieces(chosen: Tensor, size: int) -> list[Tensor]:
    """Whole pieces; what is left over of an epoch's last batch is filled up from its start."""
    rest = len(chosen) % size
    if rest:
        need = size - rest
        chosen = torch.cat([chosen, chosen.repeat(-(-need // len(chosen)))[:need]])
    return list(torch.split(chosen, size))


def _fingerprint(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _difference(content: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The first setting in which a checkpoint differs."""
    try:
        before = json.loads(content["settings"])
    except (KeyError, TypeError, ValueError):
        return "it does not say of which"
    now = json.loads(json.dumps(dict(settings)))
    for name, value in now.items():
        if before.get(name) != value:
            if name in ("model", "trained"):
                return f"{name} differs"
            return f"{name} was {before.get(name)}, and is {value}"
    return "its settings differ"
