"""Search over morphs (Jin, Song, Hu: Auto-Keras, KDD 2019): candidates inherit weights, and are trained on from there.

optuna is an optional part of the installation (``onnxmorph[search]``) and is imported by nothing else.
"""

from __future__ import annotations

from onnxmorph.grow.searching.distance import Descriptor, describe, distance
from onnxmorph.grow.searching.moves import Move, Recipe, grow, moves
from onnxmorph.grow.searching.running import Budget, Candidate, Found, search

__all__ = [
    "Budget",
    "Candidate",
    "Descriptor",
    "Found",
    "Move",
    "Recipe",
    "describe",
    "distance",
    "grow",
    "moves",
    "search",
]
