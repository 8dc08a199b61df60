"""MorphNet (Gordon et al., CVPR 2018) on trained models: shrink to a budget by training, expand to one exactly.

`expand` needs no torch; `shrink` does, and is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxmorph._on_use import names_on_use, needed

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


def _check_installed(home: str) -> None:
    if home in ("alternating", "shrinking"):
        needed("torch", "training to a budget", extra="train")


__getattr__, __dir__ = names_on_use(__name__, _HOMES, before=_check_installed)
