"""One training as a cached run: what it reached epoch by epoch, and where the trained model lies.

The key of a run is what it depends on: the content of the model it starts from, the data, every setting and the seed.
A run that is there is read; one that was interrupted goes on from its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import onnxmorph as om
from benchmarks.paper.datasets import Images
from onnxmorph._ir import ir
from onnxmorph.graph.summary import summarise
from onnxmorph.model import content_hash
from onnxmorph.verify import verify

__all__ = ["Certified", "Lab", "Run"]


@dataclass(frozen=True)
class Run:
    """What came of one training.

    Attributes:
        key: Of the cache.
        start: Share of test images that were classified right before the first step.
        curve: ``(step, the same share)`` after each epoch.
        macs: Multiply-accumulates for one image.
        parameters: Numbers in all layers.
        steps: Done.
        batch_size: Images per step.
        seconds: Of the training; for orientation only, since the machine had other work.
    """

    key: str
    start: float
    curve: tuple[tuple[int, float], ...]
    macs: int
    parameters: int
    steps: int
    batch_size: int
    seconds: float

    @property
    def final(self) -> float:
        """After the last step."""
        return self.curve[-1][1]

    @property
    def first(self) -> float:
        """After the first epoch."""
        return self.curve[0][1]

    @property
    def compute(self) -> float:
        """Multiply-accumulates of one forward pass over all images that it saw."""
        return float(self.macs) * self.steps * self.batch_size


@dataclass(frozen=True)
class Certified:
    """A child against its parent in ONNX Runtime.

    Attributes:
        equivalent: As `onnxmorph verify` has it.
        ratio: Largest difference in units of the parent's own rounding.
    """

    equivalent: bool
    ratio: float


class Lab:
    """Trains models on one data set and remembers.

    Args:
        data: What is learned.
        folder: Of the cache.
        device: As `om.train.fit` takes it.
        resume: Read runs that are there; otherwise they are made again.
    """

    def __init__(self, data: Images, folder: Path, *, device: str = "auto", resume: bool = True) -> None:
        self.data, self.folder, self.device, self.resume = data, folder, device, resume
        self._made: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def train(
        self,
        model: ir.Model,
        settings: Mapping[str, Any],
        *,
        seed: int,
        state_of: Run | None = None,
        fill: str = "zero",
        label: str = "",
    ) -> Run:
        """Train a model, or read what came of it.

        Args:
            model: What to start from.
            settings: Of `om.train.fit`; plain values.
            seed: Of the order of the images.
            state_of: The run whose optimizer goes on, moved through the morphs.
            fill: Of `om.train.transfer_optimizer`.
            label: For the progress that is printed.
        """
        origin = "" if state_of is None else f"{state_of.key} {fill}"
        key = _key(content_hash(model), self.data.key, dict(settings), seed, origin)
        record = self.folder / f"{key}.json"
        if record.exists() and (self.resume or key in self._made):
            return _read(record)
        self._made.add(key)
        started = time.monotonic()
        start = self.accuracy(model)
        checkpoint = self.folder / f"{key}.checkpoint"
        if not self.resume:
            checkpoint.unlink(missing_ok=True)
        state = None
        if state_of is not None:
            given = torch.load(self.folder / f"{state_of.key}.optimizer", weights_only=True)
            state = om.train.transfer_optimizer(given, model, parent=self.model(state_of), fill=fill)  # type: ignore[arg-type]
        fitted = om.train.fit(
            model,
            (self.data.train_x, self.data.train_y),
            validation=(self.data.test_x, self.data.test_y),
            keep="last",
            seed=seed,
            device=self.device,
            optimizer_state=state,
            checkpoint=checkpoint,
            **settings,
        )
        totals = summarise(model).totals
        run = Run(
            key,
            start,
            tuple((epoch.step, float(epoch.validation_accuracy or 0.0)) for epoch in fitted.history),
            totals.macs,
            totals.parameters,
            fitted.history[-1].step,
            int(settings["batch_size"]),
            round(time.monotonic() - started, 1),
        )
        om.save(fitted.model, self.folder / f"{key}.onnx", overwrite=True)
        torch.save(fitted.optimizer, self.folder / f"{key}.optimizer")
        _write(record, asdict(run))
        checkpoint.unlink(missing_ok=True)
        print(f"  {label}: {run.start:.4f} -> {run.final:.4f} in {run.seconds:.0f} s", file=sys.stderr, flush=True)
        return run

    def model(self, run: Run) -> ir.Model:
        """What a run ended with."""
        return om.load(self.folder / f"{run.key}.onnx")

    def accuracy(self, model: ir.Model) -> float:
        """Share of the test images that a model classifies right."""
        net = om.train.module(model, mode="eval")
        net.eval()
        right = 0
        with torch.no_grad():
            for start in range(0, len(self.data.test_y), 500):
                found = net(torch.from_numpy(self.data.test_x[start : start + 500])).argmax(1)
                right += int((found == torch.from_numpy(self.data.test_y[start : start + 500])).sum())
        return right / len(self.data.test_y)

    def certify(self, parent: ir.Model, child: ir.Model) -> Certified:
        """Compare a child with its parent in ONNX Runtime, on the CPU."""
        key = _key("certificate", content_hash(parent), content_hash(child))
        record = self.folder / f"{key}.json"
        if self.resume and record.exists():
            return Certified(**json.loads(record.read_text()))
        certificate = verify(parent, child, provider="cpu", faults=False, time_budget=3.0)
        ratio = max((one.ratio for one in certificate.outputs), default=0.0)
        found = Certified(bool(certificate.equivalent), float(ratio))
        _write(record, asdict(found))
        return found


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def _write(path: Path, content: Mapping[str, Any]) -> None:
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(content))
    unfinished.replace(path)


def _read(path: Path) -> Run:
    content = json.loads(path.read_text())
    return Run(**{**content, "curve": tuple((int(step), float(share)) for step, share in content["curve"])})
