"""Which candidate comes next: optuna's own samplers by way of parameters, or ours by the edit distance.

Every candidate is also a point of a fixed space, so that any sampler of optuna can choose one: from which of the best
candidates it grows (``parent``), by how many moves (``steps``), of which kinds (``kind_0`` ...) and where in the
network (``place_0`` ..., a share of the moves of that kind).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from onnxmorph._ir import ir
from onnxmorph.grow.searching.distance import Descriptor, describe
from onnxmorph.grow.searching.moves import KINDS, Move, Recipe, moves, try_move
from onnxmorph.grow.searching.process import Process

__all__ = ["EditSampler", "Known", "Proposal", "choose", "space"]

_BEST = 4
"""Of so many of the best candidates a sampler of optuna chooses one to grow from."""


@dataclass(frozen=True)
class Known:
    """A trained candidate: its number, what it reached (less is better), and how to get it."""

    number: int
    value: float
    descriptor: Descriptor
    load: Callable[[], ir.Model] = field(compare=False)


@dataclass(frozen=True)
class Proposal:
    """A candidate that was grown in memory."""

    recipe: Recipe
    model: ir.Model
    descriptor: Descriptor
    params: Mapping[str, Any] = field(default_factory=dict)


def space(most_moves: int) -> dict[str, BaseDistribution]:
    """The fixed space in which every candidate is a point."""
    found: dict[str, BaseDistribution] = {
        "parent": IntDistribution(0, _BEST - 1),
        "steps": IntDistribution(1, most_moves),
    }
    for step in range(most_moves):
        found[f"kind_{step}"] = CategoricalDistribution(KINDS)
        found[f"place_{step}"] = FloatDistribution(0.0, 1.0)
    return found


def choose(
    params: Mapping[str, Any],
    known: Sequence[Known],
    tried: frozenset[Descriptor],
    fits: Callable[[ir.Model], bool],
    seed: int,
) -> Proposal | None:
    """The candidate of a point: where the move that it names cannot be done, is too costly or was tried, the next one.

    Args:
        params: The point.
        known: Trained candidates, the best first.
        tried: What has been trained already.
        fits: Whether a model is within the budget.
        seed: Of new weights.

    Returns:
        ``None`` where no move is left.
    """
    parent = known[min(int(params["parent"]), len(known) - 1)]
    model, done, texts = parent.load(), list[Move](), list[str]()
    steps = int(params["steps"])
    for step in range(steps):
        by_kind = moves(model)
        kind, place = str(params[f"kind_{step}"]), float(params[f"place_{step}"])
        own = by_kind.get(kind, [])
        others = [move for other, some in by_kind.items() if other != kind for move in some]
        first = min(int(place * len(own)), max(len(own) - 1, 0))
        last = step == steps - 1
        for move in [*own[first:], *own[:first], *others]:
            grown = try_move(model, move, seed=seed)
            if grown is None or not fits(grown[0]) or (last and describe(grown[0]) in tried):
                continue
            model = grown[0]
            done.append(move)
            texts.append(grown[1])
            break
        else:
            break
    descriptor = describe(model)
    if not done or descriptor in tried:
        return None
    return Proposal(Recipe(parent.number, tuple(done), tuple(texts)), model, descriptor, dict(params))


@dataclass(order=True)
class _Node:
    """A candidate in the queue of the tree search."""

    bound: float
    order: int
    known: Known = field(compare=False)
    model: ir.Model | None = field(compare=False)
    steps: tuple[Move, ...] = field(compare=False, default=())
    texts: tuple[str, ...] = field(compare=False, default=())


class EditSampler(optuna.samplers.BaseSampler):
    """Bayesian optimisation over candidates, by the edit distance (AutoKeras, algorithm 1).

    The acquisition function, a lower bound of what a candidate may reach, is minimised by a tree search with simulated
    annealing: the most promising candidate is taken from a queue, some of its moves are tried, and what comes of them
    goes into the queue if it is better than the best, or by chance, the less so the colder it is.

    Args:
        known: Gives the trained candidates.
        tried: Gives those that are not to be proposed.
        fits: Whether a model is within the budget.
        most_moves: Of one recipe.
        seed: The same seed and the same known candidates give the same proposal.
        startup: So many candidates are drawn at random before.
        beta: See `Process`.
        expansions: Candidates that are taken from the queue.
        breadth: Moves that are tried of each.
    """

    def __init__(
        self,
        known: Callable[[], Sequence[Known]],
        tried: Callable[[], frozenset[Descriptor]],
        fits: Callable[[ir.Model], bool],
        *,
        most_moves: int = 2,
        seed: int = 0,
        startup: int = 3,
        beta: float = 2.5,
        expansions: int = 6,
        breadth: int = 5,
    ) -> None:
        self._known = known
        self._tried = tried
        self._fits = fits
        self._most_moves = most_moves
        self._seed = seed
        self._startup = startup
        self._beta = beta
        self._expansions = expansions
        self._breadth = breadth
        self.proposed: dict[int, Proposal] = {}
        """By number of the trial, what was proposed for it."""

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """See optuna: everything is sampled together."""
        del study, trial
        return space(self._most_moves)

    def sample_relative(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See optuna: the point of the proposal, or of a random one at first."""
        del study
        known = list(self._known())
        rng = np.random.default_rng([self._seed, trial.number])
        proposal = None if len(known) < self._startup else self.propose(known, rng)
        if proposal is None:
            return {name: _draw(one, rng) for name, one in search_space.items()}
        self.proposed[trial.number] = proposal
        return dict(proposal.params)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """See optuna: for what is not sampled together, at random."""
        del study
        rng = np.random.default_rng([self._seed, trial.number, *param_name.encode()])
        return _draw(param_distribution, rng)

    def propose(self, known: Sequence[Known], rng: np.random.Generator) -> Proposal | None:
        """The candidate that promises most, of those the tree search comes by; ``None`` where no move is left."""
        process = Process([one.descriptor for one in known], [one.value for one in known], self._beta)
        tried = self._tried() | {one.descriptor for one in known}
        bounds = process.lower_bounds([one.descriptor for one in known])
        queue = [
            _Node(float(bound), place, one, None) for place, (bound, one) in enumerate(zip(bounds, known, strict=True))
        ]
        heapq.heapify(queue)
        best: tuple[float, _Node, Descriptor] | None = None
        temperature, order = 1.0, len(queue)
        for _ in range(self._expansions):
            if not queue:
                break
            node = heapq.heappop(queue)
            temperature *= 0.8
            children = self._children(node, tried, rng)
            if not children:
                continue
            found = process.lower_bounds([descriptor for _, descriptor in children])
            for bound, (child, descriptor) in zip(found.tolist(), children, strict=True):
                order += 1
                grown = _Node(bound, order, child.known, child.model, child.steps, child.texts)
                least = math.inf if best is None else best[0]
                # A worse one comes into the queue by chance, the less so the worse and the colder.
                if bound <= least or math.exp((least - bound) / temperature) > rng.random():
                    heapq.heappush(queue, grown)
                if bound < least:
                    best = (bound, grown, descriptor)
        if best is None:
            return None
        _, node, descriptor = best
        assert node.model is not None
        recipe = Recipe(node.known.number, node.steps, node.texts)
        return Proposal(recipe, node.model, descriptor, self._point(known, node))

    def _children(
        self, node: _Node, tried: frozenset[Descriptor], rng: np.random.Generator
    ) -> list[tuple[_Node, Descriptor]]:
        if len(node.steps) >= self._most_moves:
            return []
        model = node.known.load() if node.model is None else node.model
        by_kind = moves(model)
        children: list[tuple[_Node, Descriptor]] = []
        waiting = [by_kind[kind][place] for kind in by_kind for place in rng.permutation(len(by_kind[kind]))[:2]]
        for place in rng.permutation(len(waiting)):
            if len(children) >= self._breadth:
                break
            grown = try_move(model, waiting[place], seed=self._seed)
            if grown is None or not self._fits(grown[0]):
                continue
            descriptor = describe(grown[0])
            if descriptor in tried:
                continue
            steps, texts = (*node.steps, waiting[place]), (*node.texts, grown[1])
            children.append((_Node(0.0, 0, node.known, grown[0], steps, texts), descriptor))
        return children

    def _point(self, known: Sequence[Known], node: _Node) -> dict[str, Any]:
        """The point of a recipe, as near as the space has one: for the journal, and other samplers to learn from."""
        rank = next(place for place, one in enumerate(known) if one.number == node.known.number)
        point: dict[str, Any] = {"parent": min(rank, _BEST - 1), "steps": len(node.steps)}
        for step in range(self._most_moves):
            move = node.steps[step] if step < len(node.steps) else None
            point[f"kind_{step}"] = KINDS[0] if move is None else move.kind
            point[f"place_{step}"] = 0.5
        return point


def _draw(distribution: BaseDistribution, rng: np.random.Generator) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(rng.integers(len(distribution.choices)))]
    if isinstance(distribution, IntDistribution):
        return int(rng.integers(distribution.low, distribution.high + 1))
    assert isinstance(distribution, FloatDistribution)
    return float(rng.uniform(distribution.low, distribution.high))
