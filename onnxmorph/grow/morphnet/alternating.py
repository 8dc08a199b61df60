"""Shrink and expand in turn: MorphNet's outer loop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.errors import SelectionError
from onnxmorph.grow.data import Data
from onnxmorph.grow.morphnet.budget import Budget
from onnxmorph.grow.morphnet.expanding import Expanded, expand
from onnxmorph.grow.morphnet.pricing import Pricing
from onnxmorph.grow.morphnet.report import Row, rows
from onnxmorph.grow.morphnet.shrinking import Shrunk, shrink
from onnxmorph.grow.morphnet.widths import Network
from onnxmorph.plan import Child

__all__ = ["Cycle", "cycle"]


@dataclass(frozen=True)
class Cycle:
    """What came of several rounds.

    Attributes:
        child: The model in the end, and all that was done to its structure.
        rounds: What each round's two halves gave.
        rows: Layer by layer, from the first model to the last.
    """

    child: Child
    rounds: tuple[tuple[Shrunk, Expanded], ...]
    rows: tuple[Row, ...]

    @property
    def model(self) -> ir.Model:
        """The model in the end."""
        return self.child.model

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "rounds": [{"shrunk": one.to_json(), "expanded": two.to_json()} for one, two in self.rounds],
            "layers": [row.to_json() for row in self.rows],
        }


def cycle(
    model: ir.Model | str | Path,
    data: Data,
    budget: Budget | str,
    *,
    rounds: int = 1,
    shrink_by: float = 0.5,
    fill: str | None = None,
    multiple: int = 1,
    seed: int = 0,
    threads: int = 1,
    checkpoint: str | Path | None = None,
    **training: Any,
) -> Cycle:
    """Shrink by the regulariser to a share of a budget, expand to the budget, and again.

    Structure goes where the training found it worth its price: the shrunk widths differ in their proportions from the
    model's own, and the expansion keeps these proportions.

    Args:
        model: Left as it is.
        data: See `shrink`.
        budget: What the model may cost in the end; shares are of the first model's own cost.
        rounds: How often.
        shrink_by: Each round shrinks to this share of the budget, or of what the model costs where that is less.
        fill, multiple: See `expand`.
        seed: Of training and of new channels.
        threads: That a latency is measured with.
        checkpoint: A file beside which the trainings keep theirs.
        training: Further arguments of `shrink`.

    Raises:
        SelectionError: What is asked for makes no sense.
        Refusal: See `shrink` and `expand`.
    """
    if rounds < 1:
        raise SelectionError(f"rounds is {rounds}, and must be at least 1")
    if not 0.0 < shrink_by < 1.0:
        raise SelectionError(f"the share to shrink to is {shrink_by}, and must lie between 0 and 1")
    wanted = Budget.parse(budget) if isinstance(budget, str) else budget
    first = model if isinstance(model, ir.Model) else files.load(model)
    network = Network(first)
    start = _cost(network, wanted.metric, threads)
    limit = replace(wanted, share=None, amount=wanted.of(start))
    child = Child(files.clone(first), ())
    done = []
    for number in range(rounds):
        now = start if number == 0 else _cost(Network(child.model), wanted.metric, threads)
        target = Budget(wanted.metric, amount=shrink_by * min(now, limit.of(now)))
        where = None if checkpoint is None else f"{checkpoint}.{number + 1}"
        shrunk = shrink(child.model, data, target, seed=seed, threads=threads, checkpoint=where, **training)
        expanded = expand(shrunk.model, limit, fill=fill, multiple=multiple, seed=seed, threads=threads)
        child = child.then(shrunk.child).then(expanded.child)
        done.append((shrunk, expanded))
    return Cycle(child, tuple(done), rows(network, Network(child.model)))


def _cost(network: Network, metric: str, threads: int) -> float:
    if metric != "latency":
        return Pricing(network, metric).total({})
    from onnxmorph.grow.morphnet.latency import measure

    return measure(network.model, threads=threads)
