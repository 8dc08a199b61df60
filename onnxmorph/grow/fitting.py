"""The loop that trains a graph."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.errors import Refusal, RuntimeFailure, SelectionError
from onnxmorph.grow.data import Data, Samples, Target, read_samples
from onnxmorph.grow.graph_module import GraphModule, Trainable, module
from onnxmorph.grow.lineage import new_tensors
from onnxmorph.grow.loop import AfterStep, Fitted, Progress, Training, placed
from onnxmorph.grow.losses import LOSSES, Loss, Objective, objective, trained_output
from onnxmorph.grow.optimization import SCHEDULES, Rates, load_state, make_optimizer

__all__ = ["fit"]

Tensor = torch.Tensor


def fit(
    model: ir.Model | str | os.PathLike[str],
    data: Data,
    *,
    loss: Loss = "cross-entropy",
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 32,
    optimizer: Literal["sgd", "adamw"] = "adamw",
    rate: float | None = None,
    a_rate: float = 100.0,
    rates: Mapping[str, float] | None = None,
    schedule: Literal["cosine", "constant"] = "cosine",
    warmup: int | None = None,
    new: Sequence[str] | ir.Model | None = None,
    weight_decay: float = 0.01,
    momentum: float = 0.9,
    label_smoothing: float = 0.0,
    clip_norm: float | None = None,
    trainable: Trainable | None = None,
    freeze: Sequence[str] = (),
    output: str | None = None,
    teacher: ir.Model | str | os.PathLike[str] | None = None,
    teacher_weight: float = 0.5,
    temperature: float = 2.0,
    validation: Data | float | None = None,
    early_stopping: int | None = None,
    keep: Literal["best", "last"] = "best",
    batch_norm: Literal["update", "keep"] = "update",
    augment: Callable[[dict[str, Tensor], Target], tuple[dict[str, Tensor], Target]] | None = None,
    optimizer_state: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    amp: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = True,
    callbacks: Sequence[Callable[[Progress], bool | None]] = (),
    after_step: AfterStep | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    image_size: tuple[int, int] | None = None,
) -> Fitted:
    """Train a model in place: same graph, same names, other numbers.

    The same arguments give the same weights, bit for bit, on the same machine with the same number of threads on the
    CPU; also when the training was interrupted and resumed from its checkpoint.

    Args:
        model: Left as it is.
        data: See `onnxmorph.grow.data.read_samples`.
        loss: ``cross-entropy`` (class numbers, or one probability per class), ``binary-cross-entropy``, ``mse``,
            ``mae``, ``huber``, or a function of outputs and targets.
        epochs: Passes over the data; default 10 unless ``steps`` is given.
        steps: Or steps of the optimizer in all.
        batch_size: Samples per step. A model that works with its own fixed batch only is run in pieces of that size,
            and their gradients added up.
        optimizer: ``sgd`` (with Nesterov's momentum) or ``adamw``.
        rate: Default 1e-3 for AdamW, 1e-2 for SGD.
        a_rate: Times the rate, for the parameters ``a`` of parametric activations.
        rates: Further factors by role, name or glob.
        schedule: ``cosine`` to zero, or ``constant``.
        warmup: Steps over which the rate of new parameters rises from zero. Default: a tenth of the steps, at most 100,
            for a child of a morph; otherwise 0.
        new: What is new: names, or the parent to compare with. Default: what the model's records say; everything where
            they say nothing and ``warmup`` is given.
        weight_decay: Of kernels, recurrent weights and embeddings.
        momentum: Of SGD.
        label_smoothing: Of cross entropy.
        clip_norm: Longest gradient; longer ones are scaled down.
        trainable: See `onnxmorph.grow.graph_module.module`.
        freeze: Names, globs or roles that are not trained.
        output: Name of the value that the loss is computed on. Default: the first output of floats; for classification
            what lies before a final softmax or sigmoid.
        teacher: A model whose outputs are learned too (distillation), and alone where the data has no targets.
        teacher_weight: Its share of the loss.
        temperature: By which both are softened.
        validation: Data like ``data``, or the share of it to hold back.
        early_stopping: Epochs without a better validation loss, after which it ends.
        keep: With validation data, the weights of the ``best`` epoch by its loss, or of the ``last``.
        batch_norm: ``keep`` leaves the stored statistics alone and uses them in training too.
        augment: Changes a batch before it is used: ``augment(inputs, target) -> (inputs, target)``; what it draws from
            torch's random numbers is repeatable.
        optimizer_state: To start from, by name; see `transfer_optimizer`.
        seed: Of the order of samples, of dropout and of augmentation.
        device: ``auto`` takes CUDA where it is.
        amp: Mixed precision, on CUDA only.
        checkpoint: A file, written after each epoch and when interrupted.
        resume: Go on from the checkpoint if it is there.
        callbacks: Told after each step and each epoch; one that gives ``True`` ends the training.
        after_step: Changes parameters after each step of the optimizer; see `onnxmorph.grow.loop.AfterStep`.
        mean, std, image_size: Of folders of images; see `onnxmorph.grow.data.Pictures`.

    Raises:
        ModelError: A file cannot be read or written.
        Refusal: The data does not fit the graph; the model cannot be trained (see `module`); a checkpoint is of another
            training; what was asked for contradicts itself.
        Diverged: The loss is no number any more.
        Interrupted: By the keyboard; a `KeyboardInterrupt`.
    """
    parent = model if isinstance(model, ir.Model) else files.load(model)
    _check_settings(loss, epochs, steps, batch_size, schedule, rate, early_stopping, validation, keep)
    where = _device(device)
    if amp and where.type != "cuda":
        raise Refusal("mixed precision needs CUDA", way_out="leave amp out on the CPU", code="no-cuda")
    net = _trained_module(parent, loss, output, trainable, freeze)
    net.batch_statistics = batch_norm == "update"
    inputs = [value for value in parent.graph.inputs if value.name in net.input_names]
    samples = read_samples(data, inputs, wide=True, mean=mean, std=std, image_size=image_size)
    held: Samples | None
    if isinstance(validation, float):
        samples, held = _split(samples, validation, seed)
    else:
        held = None
        if validation is not None:
            held = read_samples(validation, inputs, wide=True, mean=mean, std=std, image_size=image_size)
    mentor = None
    if teacher is not None:
        mentor = _teacher(teacher, loss, net)
    net.to(where)
    if mentor is not None:
        mentor.to(where)
    piece = _piece(net, inputs, samples, batch_size)
    goal = _judge(net, mentor, samples, held, loss, label_smoothing, where, piece or min(batch_size, len(samples)))
    per_epoch = max(1, math.ceil(len(samples) / batch_size))
    total = steps if steps is not None else (epochs if epochs is not None else 10) * per_epoch
    fresh = _new(new, parent)
    ramp = warmup if warmup is not None else (min(100, total // 10) if fresh or files.records(parent) else 0)
    plan = Rates(
        rate=rate if rate is not None else (1e-3 if optimizer == "adamw" else 1e-2),
        a_rate=a_rate,
        factors=rates,
        schedule=schedule,
        steps=total,
        warmup=ramp,
        warmed=fresh or None,
    )
    mover = make_optimizer(net, optimizer, plan, weight_decay=weight_decay, momentum=momentum)
    if optimizer_state is not None:
        load_state(mover, optimizer_state)
    settings = {
        "model": files.content_hash(parent),
        "samples": len(samples),
        "loss": loss if isinstance(loss, str) else "own",
        "batch_size": batch_size,
        "steps": total,
        "optimizer": optimizer,
        "rate": plan.rate,
        "a_rate": a_rate,
        "rates": dict(rates or {}),
        "schedule": schedule,
        "warmup": ramp,
        "weight_decay": weight_decay,
        "momentum": momentum,
        "label_smoothing": label_smoothing,
        "clip_norm": clip_norm,
        "trained": sorted(name for name, tensor in net.named_parameters() if tensor.requires_grad),
        "output": net.output_names[0],
        "teacher": mentor is not None,
        "teacher_weight": teacher_weight,
        "temperature": temperature,
        "validation": 0 if held is None else len(held),
        "early_stopping": early_stopping,
        "batch_norm": batch_norm,
        "seed": seed,
        "amp": amp,
    }
    if after_step is not None:
        settings["after_step"] = after_step.settings()
    training = Training(
        parent=parent,
        net=net,
        mentor=mentor,
        samples=samples,
        held=held,
        goal=goal,
        plan=plan,
        mover=mover,
        settings=settings,
        batch_size=batch_size,
        piece=piece,
        per_epoch=per_epoch,
        total=total,
        clip_norm=clip_norm,
        teacher_weight=teacher_weight if samples_have_targets(samples) else 1.0,
        temperature=temperature,
        early_stopping=early_stopping,
        keep_best=keep == "best",
        augment=augment,
        seed=seed,
        device=where,
        amp=amp,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        callbacks=callbacks,
        after_step=after_step,
    )
    with _own_random_numbers(where):
        return training.run(resume=resume)


# --- what is settled before the first step --------------------------------------------------------------------------


def _check_settings(
    loss: Loss,
    epochs: int | None,
    steps: int | None,
    batch_size: int,
    schedule: str,
    rate: float | None,
    early_stopping: int | None,
    validation: Any,
    keep: str,
) -> None:
    if isinstance(loss, str) and loss not in LOSSES:
        import difflib

        near = difflib.get_close_matches(loss, LOSSES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(LOSSES)}"
        raise SelectionError(f"no loss is called {loss!r}; {hint}")
    if schedule not in SCHEDULES:
        raise SelectionError(f"no schedule is called {schedule!r}; there are {', '.join(SCHEDULES)}")
    if epochs is not None and steps is not None:
        raise SelectionError("give epochs or steps, not both")
    for name, number in (("epochs", epochs), ("steps", steps), ("batch_size", batch_size)):
        if number is not None and number < 1:
            raise SelectionError(f"{name} is {number}, and must be at least 1")
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise SelectionError(f"the rate is {rate}, and must be a positive number")
    if isinstance(validation, float) and not 0.0 < validation < 1.0:
        raise SelectionError(f"validation is {validation}, and as a share must lie between 0 and 1")
    if early_stopping is not None and validation is None:
        raise SelectionError("early stopping needs validation data")
    if keep not in ("best", "last"):
        raise SelectionError(f"keep is {keep!r}; there are best and last")


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = torch.device(device)
    if found.type == "cuda" and not torch.cuda.is_available():
        raise Refusal("there is no CUDA here", way_out="train on the CPU", code="no-cuda")
    return found


def _trained_module(
    model: ir.Model, loss: Loss, output: str | None, trainable: Trainable | None, freeze: Sequence[str]
) -> GraphModule:
    outputs = None
    if not callable(loss) or output is not None:
        outputs = [trained_output(model, loss, output)]
    net = module(model, trainable=trainable, outputs=outputs)
    if freeze:
        for tensor in net.group(*freeze).values():
            tensor.requires_grad_(False)
        if not any(tensor.requires_grad for tensor in net.parameters()):
            raise Refusal(
                "everything is frozen, so there is nothing to train", way_out="freeze less", code="no-gradient"
            )
    return net


def _teacher(teacher: ir.Model | str | os.PathLike[str], loss: Loss, student: GraphModule) -> GraphModule:
    loaded = teacher if isinstance(teacher, ir.Model) else files.load(teacher)
    if callable(loss):
        raise SelectionError("a teacher goes with a loss by name")
    net = module(loaded, mode="eval", outputs=[trained_output(loaded, loss, None)])
    net.eval()
    if set(net.input_names) != set(student.input_names):
        raise Refusal(
            f"the teacher's inputs are {', '.join(net.input_names)}, the model's are {', '.join(student.input_names)}",
            code="other-model",
        )
    for tensor in net.parameters():
        tensor.requires_grad_(False)
    return net


def _new(new: Sequence[str] | ir.Model | None, model: ir.Model) -> frozenset[str]:
    if new is None:
        return new_tensors(model)
    if isinstance(new, ir.Model):
        return new_tensors(model, new)
    return frozenset(new)


def _piece(net: GraphModule, inputs: Sequence[ir.Value], samples: Samples, batch_size: int) -> int | None:
    """The batch that the graph is fixed to, or ``None`` where it takes any."""
    fixed = {
        int(value.shape[0])
        for value in inputs
        if value.shape is not None and len(value.shape) > 0 and isinstance(value.shape[0], int)
    }
    if not fixed:
        return None
    if len(fixed) > 1:
        raise Refusal("the model's inputs have batches of different fixed sizes", code="data-shape")
    (size,) = fixed
    if _takes_more(net, samples, size):
        return None
    if batch_size % size or len(samples) < size:
        raise Refusal(
            f"the model takes batches of {size} only, and the batch size is {batch_size}",
            way_out=f"choose a multiple of {size} (batch_size=, --batch-size)",
            code="data-shape",
        )
    return size


def _takes_more(net: GraphModule, samples: Samples, size: int) -> bool:
    """Whether a graph that declares its batch computes two batches put together as it computes each."""
    if len(samples) < 2 * size:
        return False
    training, device = net.training, next(net.parameters()).device
    net.eval()
    results = []
    try:
        with torch.no_grad():
            for numbers in (torch.arange(size), torch.arange(size, 2 * size), torch.arange(2 * size)):
                inputs, _ = samples.batch(numbers)
                results.append(net.run(**{name: value.to(device) for name, value in inputs.items()}))
    except RuntimeFailure:
        return False
    finally:
        net.train(training)
    first, second, both = (list(result.values()) for result in results)
    return all(
        isinstance(b, Tensor)
        and b.dim() > 0
        and b.shape[0] == 2 * size
        and a.shape[0] == size
        and torch.allclose(torch.cat([a, c]).float(), b.float(), rtol=1e-4, atol=1e-5)
        for a, c, b in zip(first, second, both, strict=True)
    )


def _split(samples: Samples, share: float, seed: int) -> tuple[Samples, Samples]:
    many = len(samples)
    held = max(1, round(many * share))
    if held >= many:
        raise Refusal(f"of {many} samples none is left to train on", code="data-empty")
    order = torch.randperm(many, generator=torch.Generator().manual_seed(seed))
    return _Part(samples, order[held:].sort().values), _Part(samples, order[:held].sort().values)


class _Part:
    """Some of the samples of others."""

    def __init__(self, samples: Samples, numbers: Tensor) -> None:
        self.samples, self.numbers = samples, numbers
        self.classes = samples.classes

    def __len__(self) -> int:
        return len(self.numbers)

    def batch(self, numbers: Tensor) -> tuple[dict[str, Tensor], Target]:
        """See `Samples.batch`."""
        return self.samples.batch(self.numbers[numbers])


def samples_have_targets(samples: Samples) -> bool:
    """Whether there is something besides inputs."""
    return samples.batch(torch.tensor([0]))[1] is not None


def _judge(
    net: GraphModule,
    mentor: GraphModule | None,
    samples: Samples,
    held: Samples | None,
    loss: Loss,
    smoothing: float,
    device: torch.device,
    count: int,
) -> Objective:
    """Run one batch, without changing anything, to see that data and graph fit."""
    inputs, target = samples.batch(torch.arange(count))
    training = net.training
    net.eval()
    try:
        with torch.no_grad():
            outputs = net(**{name: value.to(device) for name, value in inputs.items()})
            taught = None if mentor is None else mentor(**{name: value.to(device) for name, value in inputs.items()})
    finally:
        net.train(training)
    name = net.output_names[0]
    if mentor is not None and (not isinstance(outputs, Tensor) or taught is None or taught.shape != outputs.shape):
        raise Refusal("the teacher's outputs have another shape than the model's", code="other-model")
    if target is None:
        if mentor is None:
            raise Refusal(
                "the data has no targets",
                way_out="give an array called target or y, or a teacher to learn from",
                code="data-name",
            )
        axis = 1
        target = outputs.argmax(axis) if loss == "cross-entropy" else outputs
    wanted = placed(target, device)
    goal = objective(loss, outputs, wanted, smoothing=smoothing, name=name)
    if goal.name == "cross-entropy" and isinstance(wanted, Tensor) and not wanted.is_floating_point():
        for part, what in ((samples, "data"), (held, "validation data")):
            if part is not None:
                _check_classes(part, outputs.shape[goal.class_axis], what)
    return goal


def _check_classes(samples: Samples, classes: int, what: str) -> None:
    """Class numbers that the output has no place for."""
    if samples.classes:
        if len(samples.classes) > classes:
            raise Refusal(
                f"the {what} has {len(samples.classes)} classes, and the output {classes}", code="class-range"
            )
        return
    whole = samples
    numbers = None
    while isinstance(whole, _Part):
        numbers = whole.numbers if numbers is None else whole.numbers[numbers]
        whole = whole.samples
    target = getattr(whole, "target", None)
    if not isinstance(target, Tensor):
        return
    counted = target if numbers is None else target[numbers]
    wrong = (counted != -100) & ((counted < 0) | (counted >= classes))
    if bool(wrong.any()):
        row = int(wrong.reshape(len(counted), -1).any(1).nonzero()[0])
        found = int(counted[row][wrong[row]].reshape(-1)[0]) if counted.dim() > 1 else int(counted[row])
        raise Refusal(
            f"the {what} has class {found} at sample {row}, and the output has classes 0 to {classes - 1}",
            code="class-range",
        )


@contextlib.contextmanager
def _own_random_numbers(device: torch.device) -> Iterator[None]:
    """Whatever is drawn here leaves the caller's random numbers as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
