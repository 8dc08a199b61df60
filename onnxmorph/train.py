"""Training in place, as ``om.train``: ``om.train.module(model)``, ``om.train.fit(...)``, ``om.train.write_back(...)``.

The names are those of :mod:`onnxmorph.grow`, imported when they are first used: torch with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxmorph import grow

if TYPE_CHECKING:
    from onnxmorph.grow import *  # noqa: F403 - what its __all__ lists

__all__ = grow.__all__


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(grow, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
