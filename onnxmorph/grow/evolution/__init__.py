"""Knowledge Evolution (Taha, Shrivastava, Davis: Knowledge Evolution in Neural Networks, CVPR 2021).

A network is split into a *fit hypothesis*, which is kept from one generation to the next, and the rest, which is drawn
anew before each. What the fit hypothesis has to learn to do alone can be cut out as a small network of its own.
"""

from __future__ import annotations

from onnxmorph.grow.evolution.generations import Evolved, Generation, evolve
from onnxmorph.grow.evolution.slimming import Slim, deliver_slim, slim
from onnxmorph.grow.evolution.split import EVOLUTION_KEY, Slice, Split, find_split, split_of
from onnxmorph.grow.evolution.weights import fresh, reset, zeroed

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
