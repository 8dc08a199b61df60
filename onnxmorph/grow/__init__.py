"""What needs training: an ONNX graph as a torch module, the loop that trains it, and the way back.

torch is an optional part of the installation (``onnxmorph[train]``) and is imported when a name of this package is
first used; nothing outside of this package imports it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from onnxmorph.errors import Refusal

if TYPE_CHECKING:
    from onnxmorph.grow.evolution import Evolved, Generation, deliver_slim, evolve, slim
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
    "evolution": ("Evolved", "Generation", "deliver_slim", "evolve", "slim"),
    "searching": ("Budget", "Candidate", "Found", "search"),
    "scoring": ("Score", "score"),
    "fitting": ("fit",),
    "loop": ("Diverged", "Epoch", "Fitted", "Interrupted", "Progress"),
    "graph_module": ("GraphModule", "module", "trainings", "write_back"),
    "transfer": ("transfer_optimizer",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            try:
                importlib.import_module("torch")
            except ImportError as error:
                raise Refusal(
                    "training needs torch, which is not installed or does not load here",
                    way_out="pip install 'onnxmorph[train]'",
                    code="torch-missing",
                ) from error
            if home == "searching":
                try:
                    importlib.import_module("optuna")
                except ImportError as error:
                    raise Refusal(
                        "the search needs optuna, which is not installed or does not load here",
                        way_out="pip install 'onnxmorph[search]'",
                        code="optuna-missing",
                    ) from error
            value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
