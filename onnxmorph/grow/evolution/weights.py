"""What lies outside of the fit hypothesis: zeroed, or drawn anew."""

from __future__ import annotations

import math

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.graph.layers import layers
from onnxmorph.grow.evolution.split import WEIGHTS, Split
from onnxmorph.grow.roles import roles
from onnxmorph.grow.sites import Site, sites
from onnxmorph.grow.stored import with_values

__all__ = ["fresh", "reset", "zeroed"]

_AS_AT_FIRST = {"norm_scale": 1.0, "norm_bias": 0.0, "running_mean": 0.0, "running_var": 1.0}


def zeroed(model: ir.Model, split: Split) -> ir.Model:
    """A copy of ``model`` in which all weights outside of the fit hypothesis are zero: what its slim net computes.

    Raises:
        Refusal: The split is of another graph.
    """
    stored = {site.key: site for site in sites(model).values()}
    masks = split.masks(model)
    return with_values(model, {key: np.where(mask, _numbers(stored[key]), 0.0) for key, mask in masks.items()})


def reset(model: ir.Model, split: Split, seed: int) -> ir.Model:
    """A copy of ``model`` in which all weights outside of the fit hypothesis are drawn anew.

    Kernels and biases uniformly from ``[-b, b]``, ``b = 1 / sqrt(fan_in)``: Kaiming's with ``a = sqrt(5)``, as in the
    paper. Recurrent layers with ``b = 1 / sqrt(units)``, embeddings normally with the spread of what is kept. Norms and
    parameters of activations stay as they are.

    Raises:
        Refusal: The split is of another graph.
    """
    stored = {site.key: site for site in sites(model).values()}
    draw = _Draw(model, seed)
    values = {}
    for key, mask in split.masks(model).items():
        old = _numbers(stored[key])
        spread = float(old[mask].std()) if mask.any() else 1.0
        values[key] = np.where(mask, old, draw(stored[key], spread))
    return with_values(model, values)


def fresh(model: ir.Model, seed: int) -> ir.Model:
    """A copy of ``model`` as untrained: weights drawn as by `reset`, norms and their statistics as at first."""
    kinds = roles(model)
    draw = _Draw(model, seed)
    values = {}
    for site in sites(model).values():
        kind = kinds[site.key]
        shape = tuple(int(size) for size in site.tensor.shape.numpy())
        if kind in WEIGHTS:
            values[site.key] = draw(site, float(_numbers(site).std()))
        elif kind in _AS_AT_FIRST:
            values[site.key] = np.full(shape, _AS_AT_FIRST[kind])
    return with_values(model, values)


def _numbers(site: Site) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(site.tensor.numpy(), dtype=np.float64)


class _Draw:
    """New weights, the same for the same seed and key."""

    def __init__(self, model: ir.Model, seed: int) -> None:
        self.seed = seed
        self.kinds = roles(model)
        self.bounds: dict[ir.Value, float] = {}
        for layer in layers(model):
            if layer.cell is not None:
                fan_in = layer.out_channels
            else:
                fan_in = math.prod(layer.kernel) * max(1, layer.in_channels // max(1, layer.groups))
            for source in (layer.weight, layer.bias):
                for root in () if source is None else source.roots:
                    self.bounds.setdefault(root, 1 / math.sqrt(max(1, fan_in)))

    def __call__(self, site: Site, spread: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        shape = tuple(int(size) for size in site.tensor.shape.numpy())
        rng = np.random.default_rng([self.seed, *site.key.encode()])
        if self.kinds[site.key] == "embedding":
            return rng.normal(0.0, spread, shape)
        bound = self.bounds.get(site.value)
        if bound is None:  # of an operator that is no linear layer: rows are taken for outputs
            bound = 1 / math.sqrt(max(1, math.prod(shape[1:])))
        return rng.uniform(-bound, bound, shape)
