"""Ways from a parent to a child, one function each: morphs of ours, Net2Net as its paper has it, and from scratch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import onnxmorph as om
from benchmarks.paper.parents import drawn_anew
from onnxmorph._ir import ir
from onnxmorph.edit import set_initializer
from onnxmorph.model import clone
from onnxmorph.records import index_maps

__all__ = [
    "Growth",
    "deepen",
    "evenly_replicated",
    "from_scratch",
    "grow_kernel",
    "stay",
    "subnet",
    "then",
    "widen",
]

Growth = Callable[[ir.Model, int], ir.Model]
"""From a parent and a seed to a child."""


def stay(parent: ir.Model, _seed: int) -> ir.Model:
    """No growth: the parent is trained on."""
    return parent


def deepen(layer: str, method: str, *, width: int | str | None = None, activation: str = "same") -> Growth:
    """`plan_deepen`."""

    def grow(parent: ir.Model, seed: int) -> ir.Model:
        plan = om.plan_deepen(parent, layer, method=method, width=width, activation=activation, seed=seed)
        return plan.apply(parent).model

    return grow


def subnet(layer: str, template: str) -> Growth:
    """`plan_subnet`."""
    return lambda parent, seed: om.plan_subnet(parent, layer, template=template, seed=seed).apply(parent).model


def widen(layer: str, to: int, fill: str) -> Growth:
    """`plan_widen`."""
    return lambda parent, seed: om.plan_widen(parent, layer, to=to, fill=fill, seed=seed).apply(parent).model


def grow_kernel(layer: str, to: int) -> Growth:
    """`plan_kernel`."""
    return lambda parent, _seed: om.plan_kernel(parent, layer, to=to).apply(parent).model


def then(*growths: Growth) -> Growth:
    """One after the other."""

    def grow(parent: ir.Model, seed: int) -> ir.Model:
        for growth in growths:
            parent = growth(parent, seed)
        return parent

    return grow


def from_scratch(growth: Growth) -> Growth:
    """The network that a growth leads to, as nothing has trained it."""
    return lambda parent, seed: drawn_anew(growth(parent, seed), seed)


def evenly_replicated(layer: str, to: int, *, noise: float) -> Growth:
    """Net2WiderNet (N2N, section 2.2): copies of random channels, what reads them divided by how many there are.

    Args:
        layer: Whose outputs are widened.
        to: How many there will be.
        noise: Of the copies' fan-in, times the standard deviation of the weight; without it copies have the same
            gradients for ever. With it the child is no longer exact: N2N add it nevertheless.
    """

    def grow(parent: ir.Model, seed: int) -> ir.Model:
        grown = om.plan_widen(parent, layer, to=to, fill="replicate", seed=seed).apply(parent).model
        child = clone(grown)
        random = np.random.default_rng([seed, 11])
        for name, maps in index_maps(grown)[-1]["tensors"].items():
            before = parent.graph.initializers[maps["parent"]].const_value
            assert before is not None
            array = before.numpy()
            scale = float(array.std())
            for axis, one in sorted((int(axis), one) for axis, one in maps["axes"].items()):
                array = _copied(array, axis, np.asarray(one["sources"]), noise * scale, random)
            set_initializer(child.graph.initializers[name], array)
        return child

    return grow


def _copied(
    array: np.ndarray[Any, Any],
    axis: int,
    sources: np.ndarray[Any, Any],
    noise: float,
    random: np.random.Generator,
) -> np.ndarray[Any, Any]:
    """Entries along an axis copied. Weights lie (out, in, ...) here: axis 0 makes channels, axis 1 reads them."""
    many = np.bincount(sources, minlength=array.shape[axis])
    taken = array.take(sources, axis)
    if axis == 1:
        shape = [-1 if place == axis else 1 for place in range(array.ndim)]
        shared: np.ndarray[Any, Any] = (taken / many[sources].reshape(shape)).astype(array.dtype)
        return shared
    if array.ndim > 1:
        seen: set[int] = set()
        for place, source in enumerate(sources.tolist()):
            if source in seen:
                taken[place] += noise * random.standard_normal(taken[place].shape).astype(array.dtype)
            seen.add(source)
    return taken
