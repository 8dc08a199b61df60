"""MorphNet (Gordon et al., CVPR 2018) on trained models: shrink to a budget by training, expand to one exactly.

`expand` needs no torch; `shrink` does, and is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from onnxmorph.errors import Refusal

if TYPE_CHECKING:
    from onnxmorph.grow.morphnet.alternating import Cycle, cycle
    from onnxmorph.grow.morphnet.budget import Budget
    from onnxmorph.grow.morphnet.expanding import Expanded, expand
    from onnxmorph.grow.morphnet.shrinking import Shrunk, shrink

__all__ = ["Budget", "Cycle", "Expanded", "Shrunk", "cycle", "expand", "shrink"]

_HOMES = {
    "budget": ("Budget",),
    "alternating": ("Cycle", "cycle"),
    "expanding": ("Expanded", "expand"),
    "shrinking": ("Shrunk", "shrink"),
}
_WITH_TORCH = ("alternating", "shrinking")


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            if home in _WITH_TORCH:
                try:
                    importlib.import_module("torch")
                except ImportError as error:
                    raise Refusal(
                        "shrinking to a budget trains, which needs torch, which is not installed or does not load here",
                        way_out="pip install 'onnxmorph[train]'",
                        code="torch-missing",
                    ) from error
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
