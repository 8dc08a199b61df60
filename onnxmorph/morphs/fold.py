"""Fold: the inverse of every morph. What is still linear, without effect, dead or double becomes less.

Kinds of folds, in the order they are tried; the whole order is repeated until nothing more folds:

==============  ======================================================================================================
``freeze``      weights that callers may replace, since they are graph inputs too: constants; only when asked for
``batch-norm``  a batch normalisation in any spelling, into the linear layer before it or after it
``activation``  a parametric activation at an end of its parameter: phi, or the identity
``identity``    a layer whose kernel is the identity; the same idempotent activation twice
``skip``        a summand that is zero; further inputs of a layer that it reads with zeros
``kernel``      zero rims of kernels
``linear``      linear layers with nothing between them: one layer
``mirror``      linear layers with an activation over mirrored channels between them: one layer
``sum``         two linear layers of the same input that only their sum is used of: one layer
``duplicate``   channels that hold what another channel holds
``dead``        channels that nothing reads, and channels of zeros
==============  ======================================================================================================

Every fold is exact to rounding for finite inputs, or is not done. A child of a morph folds back to its parent: same
layers, same shapes, and the parent's names where the child's names tell them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.graph.layers import LinearLayer, layers
from onnxmorph.graph.select import select
from onnxmorph.morphs.folds import Finding, Rule, View
from onnxmorph.morphs.folds.activations import ActivationRule
from onnxmorph.morphs.folds.batch_norm import BatchNormRule
from onnxmorph.morphs.folds.branches import SkipRule
from onnxmorph.morphs.folds.chains import ChainRule
from onnxmorph.morphs.folds.channels import DeadRule, DuplicateRule
from onnxmorph.morphs.folds.defaults import FreezeRule
from onnxmorph.morphs.folds.identities import IdentityRule
from onnxmorph.morphs.folds.rims import KernelRule
from onnxmorph.morphs.folds.sums import SumRule
from onnxmorph.plan import Change, Child, Plan

__all__ = ["FOLDS", "FoldPlan", "fold", "plan_fold"]

_RULES: Mapping[str, Callable[[], Rule]] = {
    "freeze": FreezeRule,
    "batch-norm": BatchNormRule,
    "activation": ActivationRule,
    "identity": IdentityRule,
    "skip": SkipRule,
    "kernel": KernelRule,
    "linear": lambda: ChainRule(mirrored=False),
    "mirror": lambda: ChainRule(mirrored=True),
    "sum": SumRule,
    "duplicate": DuplicateRule,
    "dead": DeadRule,
}

FOLDS = tuple(_RULES)
"""The kinds of folds, in the order they are tried."""

_WHEN_ASKED = frozenset({"freeze"})
"""Kinds that change what a caller may do, and so are not tried unless they are named."""


def plan_fold(
    model: ir.Model,
    layer: str | LinearLayer | Sequence[str | LinearLayer] | None = None,
    *,
    only: str | Collection[str] | None = None,
) -> list[FoldPlan]:
    """Find everything that folds, until nothing more does; the model stays as it is.

    Args:
        model: The parent.
        layer: Only what touches these layers, as a person types them; default all of the model.
        only: Kinds to fold, one or several of :data:`FOLDS`; default all but ``freeze``.

    Returns:
        One plan for each sweep of one kind, in order; together they are the child.

    Raises:
        SelectionError: No such kind or layer.
        Refusal: Nothing folds (code ``nothing-to-fold``).
    """
    return [plan for plan in fold(model, layer, only=only).plans if isinstance(plan, FoldPlan)]


def fold(
    model: ir.Model,
    layer: str | LinearLayer | Sequence[str | LinearLayer] | None = None,
    *,
    only: str | Collection[str] | None = None,
) -> Child:
    """The child of :func:`plan_fold`, which finding everything that folds has made already; arguments as there."""
    kinds = _kinds(only)
    folder = _Folder(model, _chosen(model, layer))
    folder.run(kinds)
    if not folder.plans:
        named = f" of the kinds {', '.join(kinds)}" if only is not None else ""
        raise Refusal(f"nothing{named} folds here", code="nothing-to-fold")
    return Child(folder.model, tuple(folder.plans), tuple(folder.changes))


@dataclass(frozen=True)
class FoldPlan(Plan):
    """Folds of one kind that touch nothing in common, decided.

    Attributes:
        kind: One of :data:`FOLDS`.
        places: What each is about, as :attr:`Finding.place` has it.
        texts: What each is, for a person.
    """

    morph: ClassVar[str] = "fold"

    kind: str
    places: tuple[str, ...]
    texts: tuple[str, ...]

    def options(self) -> dict[str, Any]:
        """See :meth:`Plan.options`."""
        return {"kind": self.kind, "places": list(self.places), "texts": list(self.texts)}

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> FoldPlan:
        """The plan that :meth:`options` came from."""
        kind = options["kind"]
        if kind not in _RULES:
            raise KeyError(f"kind of fold {kind!r}")
        return cls(kind, tuple(options["places"]), tuple(options["texts"]))

    def describe(self) -> str:
        """See :meth:`Plan.describe`."""
        return "\n".join(f"{self.kind}: {text}" for text in self.texts)

    def edit(self, child: ir.Model) -> Change:
        """See :meth:`Plan.edit`."""
        view, rule = View(child), _RULES[self.kind]()
        wanted = set(self.places)
        found: dict[str, Finding] = {}
        for finding in rule.find(view):
            if finding.place in wanted:
                found.setdefault(finding.place, finding)
        missing = next((place for place in self.places if place not in found), None)
        if missing is not None:
            name = missing.rpartition("::")[2]
            raise Refusal(f"there is no {self.kind} to fold at '{name}' any more", code="fold-gone")
        edited = rule.carry_out(view, [found[place] for place in self.places])
        names = tuple(dict.fromkeys(name for name in edited.frontier if name))
        return Change((), 0.0, names, edited.notes, edited.index_maps, edited.resized)


def _kinds(only: str | Collection[str] | None) -> tuple[str, ...]:
    if only is None:
        return tuple(kind for kind in FOLDS if kind not in _WHEN_ASKED)
    asked = [only] if isinstance(only, str) else list(only)
    for kind in asked:
        if kind not in _RULES:
            raise SelectionError(f"no kind of fold {kind!r}: choose from {', '.join(FOLDS)}")
    return tuple(kind for kind in FOLDS if kind in asked)


def _chosen(model: ir.Model, layer: str | LinearLayer | Sequence[str | LinearLayer] | None) -> frozenset[str] | None:
    """Keys of the layers asked for; ``None`` for all."""
    if layer is None:
        return None
    asked = [layer] if isinstance(layer, str | LinearLayer) else list(layer)
    found = layers(model)
    keys: set[str] = set()
    for one in asked:
        keys.update(match.key for match in ([one] if isinstance(one, LinearLayer) else select(found, one)))
    return frozenset(keys)


class _Folder:
    """Sweeps over a clone until nothing folds any more."""

    def __init__(self, model: ir.Model, chosen: frozenset[str] | None) -> None:
        self._parent = model
        self.model = files.clone(model)
        self.plans: list[FoldPlan] = []
        self.changes: list[Change] = []
        self._refused: set[tuple[str, str]] = set()
        self._around: set[ir.Node] | None = None
        self._chosen = chosen
        if chosen is not None:
            self._around = set(_neighbourhoods(layers(self.model), chosen))

    def run(self, kinds: Sequence[str]) -> None:
        """Every kind in order, and the whole order again as long as something folded."""
        view = View(self.model)
        folded = True
        while folded:
            folded = False
            for kind in kinds:
                while True:
                    rule = _RULES[kind]()
                    sweep = self._sweep(rule, view)
                    if not sweep:
                        break
                    if self._carry_out(rule, view, sweep):
                        folded = True
                    view = View(self.model)

    def _sweep(self, rule: Rule, view: View) -> list[Finding]:
        """Findings that touch nothing in common, each place once."""
        taken: set[object] = set()
        places: set[str] = set()
        sweep = []
        for finding in rule.find(view):
            if (rule.kind, finding.place) in self._refused or finding.place in places:
                continue
            if self._around is not None and not self._around & (finding.touches | finding.near):
                continue
            if taken & finding.touches:
                continue
            taken |= finding.touches
            places.add(finding.place)
            sweep.append(finding)
        return sweep

    def _carry_out(self, rule: Rule, view: View, sweep: list[Finding]) -> bool:
        plan = FoldPlan(rule.kind, tuple(one.place for one in sweep), tuple(one.text for one in sweep))
        try:
            edited = rule.carry_out(view, sweep)
        except Refusal:
            self._give_up(rule.kind, sweep)
            return False
        names = tuple(dict.fromkeys(name for name in edited.frontier if name))
        self.plans.append(plan)
        self.changes.append(Change((), 0.0, names, edited.notes, edited.index_maps, edited.resized))
        files.add_record(self.model, plan.record())
        if edited.index_maps:
            files.add_index_maps(self.model, edited.index_maps)
        if self._around is not None and any(self._around & (one.touches | one.near) for one in sweep):
            self._around.update(edited.nodes)
        return True

    def _give_up(self, kind: str, sweep: list[Finding]) -> None:
        """A fold that refuses half way leaves a model that nobody may use: it is made again without that sweep."""
        self._refused.update((kind, finding.place) for finding in sweep)
        self.model = files.clone(self._parent)
        if self._around is not None and self._chosen is not None:
            self._around = set(_neighbourhoods(layers(self.model), self._chosen))
        for plan in self.plans:
            plan.edit(self.model)
            files.add_record(self.model, plan.record())


def _neighbourhoods(found: Sequence[LinearLayer], keys: Collection[str]) -> Iterator[ir.Node]:
    """The nodes by which a fold touches one of the layers: its own, and all behind them up to the next layers."""
    others = {node for layer in found for node in layer.nodes}
    for layer in found:
        if layer.key not in keys:
            continue
        yield from layer.nodes
        waiting, seen = [layer.output], set(layer.nodes)
        while waiting and len(seen) < _NEIGHBOURS:
            for node in waiting.pop(0).consumers():
                if node not in seen and node not in others:
                    seen.add(node)
                    yield node
                    waiting.extend(node.outputs)


_NEIGHBOURS = 64
"""How many nodes behind a layer count as touching it, at most."""
