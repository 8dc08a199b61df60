"""What needs training: an ONNX graph as a torch module, the loop that trains it, and the way back.

torch is an optional part of the installation (``onnxmorph[train]``) and is imported when a name of this package that
needs it is first used; nothing outside of this package imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxmorph._on_use import names_on_use, needed

if TYPE_CHECKING:
    from onnxmorph.grow.evolution.generations import Evolved, Generation, evolve
    from onnxmorph.grow.evolution.slimming import deliver_slim, slim
    from onnxmorph.grow.fitting import fit
    from onnxmorph.grow.graph_module import GraphModule, module, trainings, write_back
    from onnxmorph.grow.loop import Diverged, Epoch, Fitted, Interrupted, Progress
    from onnxmorph.grow.scoring import Score, score
    from onnxmorph.grow.searching import Budget, Candidate, Found, search
    from onnxmorph.grow.transfer import transfer_optimizer

__all__ = [
    "Budget",
    "Candidate",
    "Diverged",
    "Epoch",
    "Evolved",
    "Fitted",
    "Found",
    "Generation",
    "GraphModule",
    "Interrupted",
    "Progress",
    "Score",
    "deliver_slim",
    "evolve",
    "fit",
    "module",
    "score",
    "search",
    "slim",
    "trainings",
    "transfer_optimizer",
    "write_back",
]

_HOMES = {
    "evolution.generations": ("Evolved", "Generation", "evolve"),
    "evolution.slimming": ("deliver_slim", "slim"),
    "searching": ("Budget", "Candidate", "Found", "search"),
    "scoring": ("Score", "score"),
    "fitting": ("fit",),
    "loop": ("Diverged", "Epoch", "Fitted", "Interrupted", "Progress"),
    "graph_module": ("GraphModule", "module", "trainings", "write_back"),
    "transfer": ("transfer_optimizer",),
}

_WITHOUT_TORCH = frozenset({"evolution.slimming"})
"""Homes of what cuts weights and trains nothing."""


def _check_installed(home: str) -> None:
    if home not in _WITHOUT_TORCH:
        needed("torch", "training", extra="train")
    if home == "searching":
        needed("optuna", "the search", extra="search")


__getattr__, __dir__ = names_on_use(__name__, _HOMES, before=_check_installed)
