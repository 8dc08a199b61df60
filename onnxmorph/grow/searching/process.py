"""A Gaussian process over candidates: what to expect of one that has not been trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from onnxmorph.grow.searching.distance import Descriptor, distance, embedding

__all__ = ["Process"]

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

_NOISE = 1e-2
"""Variance of a result around its mean, results being scaled to variance 1: training is random."""


@dataclass(frozen=True)
class Process:
    """What is known: descriptors of trained candidates and what they reached (less is better).

    The kernel is ``k(x, y) = exp(-|rho(x) - rho(y)|^2)`` with the embedding ``rho`` of the edit distances.

    Attributes:
        known: Descriptors.
        values: What each reached.
        beta: How much a candidate that little is known of is worth trying (the weight of the deviation).
    """

    known: Sequence[Descriptor]
    values: Sequence[float]
    beta: float = 2.5

    def lower_bounds(self, wanted: Sequence[Descriptor]) -> Vector:
        """``mean - beta deviation`` of each candidate, in units of the known values' deviation; the least is tried."""
        mean, deviation = self.predict(wanted)
        bounds: Vector = mean - self.beta * deviation
        return bounds

    def predict(self, wanted: Sequence[Descriptor]) -> tuple[Vector, Vector]:
        """Mean and deviation of each candidate, in units of the known values' deviation from their mean."""
        every = [*self.known, *wanted]
        apart = np.array([[0.0] * len(every) for _ in every])
        for row, one in enumerate(every):
            for column in range(row):
                apart[row, column] = apart[column, row] = distance(one, every[column])
        points = embedding(apart)
        kernel: Matrix = np.exp(-((points[:, None] - points[None]) ** 2).sum(-1))
        many = len(self.known)
        values = np.asarray(self.values, dtype=np.float64)
        spread = values.std()
        scaled = (values - values.mean()) / (spread if spread > 0 else 1.0)
        factor = cho_factor(kernel[:many, :many] + _NOISE * np.eye(many), lower=True)
        across = kernel[many:, :many]
        mean: Vector = across @ cho_solve(factor, scaled)
        variance = 1.0 - np.einsum("ij,ji->i", across, cho_solve(factor, across.T))
        return mean, np.sqrt(np.maximum(variance, 0.0))
