"""Shrinking to a budget: train with MorphNet's regulariser, take out what died, train on.

The result is no morphism, and says so. What is exact is the removal of a channel that is zero; the rest is training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.grow.data import Data, read_samples
from onnxmorph.grow.fitting import fit
from onnxmorph.grow.graph_module import GraphModule, module, write_back
from onnxmorph.grow.loop import Epoch, Fitted
from onnxmorph.grow.losses import trained_output
from onnxmorph.grow.morphnet.budget import Budget, amount_text
from onnxmorph.grow.morphnet.gates import Gates, gates_of
from onnxmorph.grow.morphnet.pricing import Pricing
from onnxmorph.grow.morphnet.regulariser import Regulariser
from onnxmorph.grow.morphnet.report import AtBudget, rows
from onnxmorph.grow.morphnet.widths import Network, Width
from onnxmorph.morphs.shrink import ShrinkPlan
from onnxmorph.plan import Child, apply

__all__ = ["Shrunk", "shrink"]

_JUDGED = 64
"""Samples on which the removal is judged."""


@dataclass(frozen=True, kw_only=True)
class Shrunk(AtBudget):
    """A model that was shrunk to a budget; its plans are not exact, by their own word.

    Attributes:
        removed: Channels that went.
        alive: Those of them that were above the threshold: what took them was the budget.
        removal_error: By how much taking them out changed the outputs: the norm of the difference over the norm of
            the outputs, on some of the data, before the training that followed.
        strength: Of the regulariser.
        history: Epochs with the regulariser, and those after.
        measured: Seconds of a run before and after, where the budget is of latency.
        fitted: The training after the channels were out; where there was none, the one before.
    """

    removed: int
    alive: int
    removal_error: float
    strength: float
    history: tuple[tuple[Epoch, ...], tuple[Epoch, ...]]
    measured: tuple[float, float] | None = None
    fitted: Fitted | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            **super().to_json(),
            "removed": self.removed,
            "removed_alive": self.alive,
            "removal_error": self.removal_error,
            "strength": self.strength,
            "history": [[entry.to_json() for entry in part] for part in self.history],
            "measured": None if self.measured is None else list(self.measured),
        }


def shrink(
    model: ir.Model | str | Path,
    data: Data,
    budget: Budget | str,
    *,
    epochs: int = 10,
    finetune: int | None = None,
    batch_size: int = 32,
    strength: float | None = None,
    threshold: float = 1e-2,
    l1: float = 0.0,
    threads: int = 1,
    validation: Data | float | None = None,
    checkpoint: str | Path | None = None,
    **training: Any,
) -> Shrunk:
    """Shrink a model to a budget by training it with MorphNet's regulariser (Gordon et al., CVPR 2018).

    Args:
        model: Left as it is.
        data: See `onnxmorph.grow.fitting.fit`.
        budget: Such as ``"flops=50%"``; see `Budget.parse`.
        epochs: With the regulariser.
        finetune: After channels were taken out; default: half as many. 0 for none.
        batch_size: Samples per step.
        strength: Of the regulariser. Given, it reaches all channels until the budget is met, as in the paper; by
            default its reach is annealed towards the budget, see `onnxmorph.grow.morphnet.regulariser`.
        threshold: A channel whose gate is below this share of an ordinary channel's is dead.
        l1: Share of the mean of absolute values in the group lasso of layers without batch norm, 0 to 1.
        threads: That a latency is measured with.
        validation: See `fit`.
        checkpoint: A file beside which both trainings keep theirs.
        training: Further arguments of `fit`.

    Raises:
        SelectionError: What is asked for makes no sense.
        Refusal: No width is free (``no-free-group``), the budget is met already (``within-budget``) or below what can
            be reached (``budget-too-small``, with the least), or the model or data does not suit `fit`.
        Diverged: The loss is no number any more.
    """
    wanted = Budget.parse(budget) if isinstance(budget, str) else budget
    _check(threshold, l1, strength, epochs, finetune)
    parent = model if isinstance(model, ir.Model) else files.load(model)
    network = Network(parent)
    pricing = Pricing.measure(network, wanted.metric, threads=threads)
    before = pricing.total({})
    limit = wanted.of(before)
    frozen = training.get("freeze", ())
    net = _net(parent, training)
    gates = _gates(network, pricing, net, frozen, l1)
    _check_reach(wanted.metric, pricing, gates, before, limit)
    weights: dict[str, torch.Tensor] = net.state_dict()
    for one in gates:
        one.measure_ordinary(weights)
    pictures: dict[str, Any] = {name: training[name] for name in ("mean", "std", "image_size") if name in training}
    steps = training.pop("steps", None)
    many = (
        steps
        if steps is not None
        else epochs * _per_epoch(parent, net.input_names, data, validation, batch_size, pictures)
    )
    regulariser = Regulariser(gates, pricing, limit=limit, steps=many, threshold=threshold, strength=strength)
    length = {"steps": steps} if steps is not None else {"epochs": epochs}
    common = {"batch_size": batch_size, "validation": validation, **training}
    fitted = fit(
        parent,
        data,
        **{**common, **length, "keep": "last"},
        after_step=regulariser,
        checkpoint=_beside(checkpoint, "shrinking"),
    )
    removal = _remove(fitted.model, regulariser, net.output_names)
    error = _removal_error(fitted.model, removal.child.model, removal.outputs, data, pictures)
    after_training = epochs // 2 if finetune is None else finetune
    final, recovered = removal.child.model, None
    if after_training:
        recovered = fit(
            final,
            data,
            **{**common, "epochs": after_training, "warmup": training.get("warmup", 0)},
            checkpoint=_beside(checkpoint, "after"),
        )
        final = recovered.model
    after = pricing.total(removal.sizes)
    notes = [*pricing.notes(), *fitted.notes]
    measured = None
    if pricing.measured is not None:
        from onnxmorph.grow.morphnet.latency import measure

        measured = (pricing.measured, measure(final, threads=threads))
        if measured[1] > limit:
            notes.append(
                f"measured again, the child takes {amount_text('latency', measured[1])}, over the budget; its operators"
                f" were expected to take {amount_text('latency', after)}"
            )
    return Shrunk(
        child=Child(final, removal.child.plans, removal.child.changes),
        metric=wanted.metric,
        before=before,
        limit=limit,
        after=after,
        rows=rows(network, Network(final)),
        notes=tuple(notes),
        removed=removal.removed,
        alive=removal.alive,
        removal_error=error,
        strength=regulariser.strength,
        history=(fitted.history, () if recovered is None else recovered.history),
        measured=measured,
        fitted=recovered or fitted,
    )


def _net(parent: ir.Model, training: Mapping[str, Any]) -> GraphModule:
    """The module whose weights are trained: with the outputs that the loss is computed on."""
    loss, output = training.get("loss", "cross-entropy"), training.get("output")
    outputs = None if callable(loss) and output is None else [trained_output(parent, loss, output)]
    return module(parent, trainable=training.get("trainable"), outputs=outputs)


def _gates(network: Network, pricing: Pricing, net: GraphModule, frozen: Sequence[str], l1: float) -> list[Gates]:
    """What turns the channels of each width down that can shrink, those with a price where there are any."""
    held = set(net.group(*frozen)) if frozen else set()
    trained = [name for name, one in net.named_parameters() if one.requires_grad and name not in held]
    found = gates_of(network, network.prunable, trained, l1=l1)
    if not found:
        raise Refusal(
            f"no width of the model can shrink: {network.why_none()}"
            + ("; or what makes its channels is frozen" if frozen else ""),
            code="no-free-group",
        )
    return [one for one in found if pricing.price(one.width, {}) > 0] or found


def _check_reach(metric: str, pricing: Pricing, gates: Sequence[Gates], before: float, limit: float) -> None:
    if limit >= before:
        raise Refusal(
            f"the model costs {amount_text(metric, before)} already, within the budget of {amount_text(metric, limit)}",
            way_out="to use what is left, expand",
            code="within-budget",
        )
    least = pricing.least(one.width for one in gates)
    if limit < least:
        raise Refusal(
            f"{amount_text(metric, limit)} cannot be reached: with one channel in each of the {len(gates)}"
            f" widths that can shrink, the model costs {amount_text(metric, least)}",
            way_out=f"the least is {metric}={least / before:.1%} of its own",
            code="budget-too-small",
        )


def _check(threshold: float, l1: float, strength: float | None, epochs: int, finetune: int | None) -> None:
    if not 0.0 <= threshold < 1.0:
        raise SelectionError(f"the threshold is {threshold}, and must lie between 0 and 1")
    if not 0.0 <= l1 <= 1.0:
        raise SelectionError(f"l1 is {l1}, and must lie between 0 and 1")
    if strength is not None and not (math.isfinite(strength) and strength > 0):
        raise SelectionError(f"the strength is {strength}, and must be a positive number")
    if epochs < 1:
        raise SelectionError(f"epochs is {epochs}, and must be at least 1")
    if finetune is not None and finetune < 0:
        raise SelectionError(f"finetune is {finetune}, and must not be negative")


def _beside(checkpoint: str | Path | None, what: str) -> Path | None:
    return None if checkpoint is None else Path(f"{checkpoint}.{what}")


def _per_epoch(
    model: ir.Model,
    names: Sequence[str],
    data: Data,
    validation: Data | float | None,
    batch_size: int,
    pictures: Mapping[str, Any],
) -> int:
    inputs = [value for value in model.graph.inputs if value.name in names]
    many = len(read_samples(data, inputs, wide=True, **pictures))
    if isinstance(validation, float):
        many -= max(1, round(many * validation))
    return max(1, math.ceil(many / batch_size))


@dataclass(frozen=True)
class _Removal:
    child: Child
    sizes: dict[int, int]
    removed: int
    alive: int
    outputs: tuple[str, ...]


def _remove(trained: ir.Model, regulariser: Regulariser, outputs: tuple[str, ...]) -> _Removal:
    """Take out the dead channels, and if that is not enough the weakest others."""
    weights = module(trained, mode="eval", outputs=list(outputs), precision="float32").state_dict()
    gates, threshold = regulariser.gates, regulariser.threshold
    kept = [np.flatnonzero(~gone.numpy()) for gone in regulariser.going(weights)]
    values = [one.values(weights).numpy() for one in gates]
    for one, stay in zip(gates, kept, strict=True):
        gone = torch.ones(one.width.size, dtype=torch.bool)
        gone[torch.from_numpy(stay)] = False
        with torch.no_grad():
            one.close(weights, gone)
    child = Child(write_back(weights, trained), ())
    removed = alive = 0
    going: list[tuple[Width, NDArray[np.int64], str]] = []
    for one, stay, value in zip(gates, kept, values, strict=True):
        if stay.size == one.width.size:
            continue
        gone_values = np.delete(value, stay)
        living_gone = int((gone_values >= threshold).sum())
        removed, alive = removed + gone_values.size, alive + living_gone
        dead = gone_values.size - living_gone
        words = [f"{dead} dead by training"] if dead else []
        words += [f"{living_gone} weakest, for the budget"] if living_gone else []
        going.append((one.width, stay, f"what goes: {', '.join(words)}"))
    whole = [_plan(width, stay, what) for width, stay, what in going if width.is_whole_axis]
    child = child.then(apply(child.model, whole))
    for width, stay, what in going:
        if not width.is_whole_axis:
            # A part of an axis, such as heads or a branch of a concatenation: the other parts may have changed.
            child = child.then(apply(child.model, [_plan(Network(child.model).again(width), stay, what)]))
    sizes = {one.width.group.atom: int(stay.size) for one, stay in zip(gates, kept, strict=True)}
    return _Removal(child, sizes, removed, alive, outputs)


def _plan(width: Width, stay: NDArray[np.int64], what: str) -> ShrinkPlan:
    before = width.of_axis(width.size)
    assert before is not None
    return ShrinkPlan(width.layer.key, width.layer.name, before, tuple(width.indices(stay)), False, what)


def _removal_error(
    trained: ir.Model, smaller: ir.Model, outputs: tuple[str, ...], data: Data, pictures: Mapping[str, Any]
) -> float:
    """The relative difference of the outputs, on the first samples."""
    first = module(trained, mode="eval", outputs=list(outputs), precision="float32").eval()
    second = module(smaller, mode="eval", outputs=list(outputs), precision="float32").eval()
    inputs = [value for value in trained.graph.inputs if value.name in first.input_names]
    samples = read_samples(data, inputs, wide=True, **pictures)
    fixed = [value.shape[0] for value in inputs if value.shape is not None and len(value.shape) > 0]
    size = next((int(one) for one in fixed if isinstance(one, int)), min(_JUDGED, len(samples)))
    given, _ = samples.batch(torch.arange(min(size, len(samples))))
    with torch.no_grad():
        one, two = first(**given), second(**given)
    pairs = zip(one if isinstance(one, tuple) else (one,), two if isinstance(two, tuple) else (two,), strict=True)
    difference = norm = 0.0
    for left, right in pairs:
        if not isinstance(left, torch.Tensor) or not left.is_floating_point() or left.shape != right.shape:
            continue
        difference += float((left.double() - right.double()).square().sum())
        norm += float(left.double().square().sum())
    return math.sqrt(difference / norm) if norm else math.sqrt(difference)
