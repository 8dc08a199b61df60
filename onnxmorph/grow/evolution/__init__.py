"""Knowledge Evolution (Taha, Shrivastava, Davis: Knowledge Evolution in Neural Networks, CVPR 2021).

A network is split into a *fit hypothesis*, which is kept from one generation to the next, and the rest, which is drawn
anew before each. What the fit hypothesis has to learn to do alone can be cut out as a small network of its own.

Cutting and splitting need numpy alone; names that train are imported when they are first used, and torch with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxmorph._on_use import names_on_use
from onnxmorph.grow.evolution.slimming import Slim, deliver_slim, slim
from onnxmorph.grow.evolution.split import EVOLUTION_KEY, Slice, Split, find_split, split_of
from onnxmorph.grow.evolution.weights import fresh, reset, zeroed

if TYPE_CHECKING:
    from onnxmorph.grow.evolution.generations import Evolved, Generation, evolve

__all__ = [
    "EVOLUTION_KEY",
    "Evolved",
    "Generation",
    "Slice",
    "Slim",
    "Split",
    "deliver_slim",
    "evolve",
    "find_split",
    "fresh",
    "reset",
    "slim",
    "split_of",
    "zeroed",
]

__getattr__, __dir__ = names_on_use(__name__, {"generations": ("Evolved", "Generation", "evolve")})
