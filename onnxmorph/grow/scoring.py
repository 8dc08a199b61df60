"""How good a model is on data it was not trained on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onnxmorph._ir import ir
from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.grow.data import Data, read_samples
from onnxmorph.grow.graph_module import module
from onnxmorph.grow.loop import placed
from onnxmorph.grow.losses import Loss, objective, trained_output

__all__ = ["Score", "held_back", "mark_of", "score"]


@dataclass(frozen=True)
class Score:
    """What a model reached.

    Attributes:
        loss: Mean over the samples.
        accuracy: Share of right classes, 0 to 1; ``None`` where the loss is not of classification.
    """

    loss: float
    accuracy: float | None


def score(
    model: ir.Model,
    data: Data,
    *,
    loss: Loss = "cross-entropy",
    output: str | None = None,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    image_size: tuple[int, int] | None = None,
) -> Score:
    """Run a model on data and compare with its targets.

    Args:
        model: Left as it is.
        data: See `onnxmorph.grow.data.read_samples`.
        loss: As of `onnxmorph.grow.fitting.fit`.
        output: Name of the value that the loss is computed on; default as there.
        batch_size: Samples at a time; a model whose batch is fixed is run by that many.
        device: ``auto`` takes CUDA where it is.
        mean, std, image_size: Of folders of images.

    Raises:
        ModelError: The data cannot be read.
        Refusal: It does not fit the model.
    """
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)
    wanted = None if callable(loss) and output is None else [trained_output(model, loss, output)]
    net = module(model, mode="eval", outputs=wanted, precision="float32").to(where)
    inputs = [value for value in model.graph.inputs if value.name in net.input_names]
    samples = read_samples(data, inputs, wide=True, mean=mean, std=std, image_size=image_size)
    sizes = {int(one.shape[0]) for one in inputs if one.shape is not None and isinstance(one.shape[0], int)}
    size = min(sizes) if sizes else batch_size
    total = many = right = classes = 0.0
    goal = None
    with torch.inference_mode():
        for start in range(0, len(samples), size):
            numbers = torch.arange(start, min(start + size, len(samples)))
            if sizes and len(numbers) < size:
                break
            given, target = samples.batch(numbers)
            results = net._run((), {name: values.to(where) for name, values in given.items()})
            outputs = results[0] if len(results) == 1 else dict(zip(net.output_names, results, strict=True))
            sought = placed(target, where)
            if sought is None:
                raise Refusal("the data has no targets", way_out="give an array called target or y", code="data-name")
            if goal is None:
                goal = objective(loss, outputs, sought, smoothing=0.0, name=net.output_names[0])
            total, many = total + float(goal(outputs, sought)) * len(numbers), many + len(numbers)
            hits = goal.hits(outputs, sought)
            if hits is not None:
                right, classes = right + float(hits[0]), classes + float(hits[1])
    if not many:
        raise Refusal("the data has fewer samples than the model's fixed batch", code="data-empty")
    return Score(total / many, right / classes if classes else None)


def held_back(
    model: ir.Model,
    data: Data,
    share: float,
    seed: int,
    *,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    image_size: tuple[int, int] | None = None,
) -> tuple[Data, Data]:
    """Data in two parts, to train on and to judge by, each read into memory.

    Args:
        model: What the data is for.
        data: See `onnxmorph.grow.data.read_samples`.
        share: Of the samples that goes into the second part, above 0 and below 1.
        seed: Of the draw.
        mean, std, image_size: Of folders of images.

    Raises:
        ModelError: The data cannot be read.
        Refusal: It does not fit the model, or one part would be empty.
        SelectionError: There is no such share.
    """
    if not 0.0 < share < 1.0:
        raise SelectionError(f"validation is {share}, and as a share must lie between 0 and 1")
    inputs = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    samples = read_samples(data, inputs, wide=True, mean=mean, std=std, image_size=image_size)
    many = len(samples)
    held = max(1, round(many * share))
    if held >= many:
        raise Refusal(f"of {many} samples none is left to train on", code="data-empty")
    order = torch.randperm(many, generator=torch.Generator().manual_seed(seed))
    return samples.batch(order[held:].sort().values), samples.batch(order[:held].sort().values)


def mark_of(data: Data | float | None) -> str:
    """What tells data from other data: name, size and time of a file, the content of arrays."""
    if data is None or isinstance(data, float):
        return str(data)
    if isinstance(data, str | os.PathLike):
        path = Path(data)
        try:
            told = path.stat()
        except OSError:
            return str(path)
        return f"{path.resolve()} {told.st_size} {told.st_mtime_ns}"
    found = hashlib.sha256()
    waiting: list[Any] = [data]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            waiting += [part for name in sorted(one, key=str) for part in (one[name], str(name))]
        elif isinstance(one, tuple | list):
            waiting += one
        elif isinstance(one, np.ndarray | torch.Tensor):
            array = np.ascontiguousarray(one.detach().cpu().numpy() if isinstance(one, torch.Tensor) else one)
            found.update(f"{array.dtype}{array.shape}".encode())
            found.update(array.tobytes())
        else:
            found.update((one if isinstance(one, str) else type(one).__name__).encode())
    return found.hexdigest()
