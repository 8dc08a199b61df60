"""Random invertible mixes of the hidden channels.

Between two linear factors any invertible ``T`` may stand, ``F2 T`` and ``T^-1 F1``: it spreads a solution with zeros
in it over all channels. A mix here is orthogonal up to two chosen singular values, has no zeros, and is cheap to
undo: small ones are dense, large ones are Kronecker products of two small ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onnxmorph.equation.precision import Array, round_bits

__all__ = ["DENSE_UP_TO", "DenseMix", "KroneckerMix", "kronecker_sizes", "orthogonal", "random_mix"]

# Beyond this many channels a Kronecker product is taken where n can be split: four times faster at 256 channels, where
# QR and inverse are n^3 each; its price is a scale that is a power of two, so up to sqrt(2) off the best.
DENSE_UP_TO = 160
# The larger of the two in a Kronecker product.
_PART_UP_TO = 768
# Candidates drawn for very small mixes, of which the one with the largest smallest entry is kept.
_CANDIDATES = 12


def orthogonal(groups: int, size: int, rng: np.random.Generator) -> Array:
    """``(groups, size, size)`` random orthogonal matrices (Haar; sign-fixed QR of normals).

    For ``size <= 8`` the best of a few draws is kept, so that no entry is close to zero by bad luck.
    """
    if size == 1:
        return rng.choice(np.array([-1.0, 1.0]), size=(groups, 1, 1))
    best: Array | None = None
    for _ in range(_CANDIDATES if size <= 8 else 1):
        q, r = np.linalg.qr(rng.standard_normal((groups, size, size)))
        signs = np.sign(np.diagonal(r, axis1=1, axis2=2))
        q *= np.where(signs == 0, 1.0, signs)[:, None, :]
        if best is None:
            best = q
        else:
            better = np.abs(q).min(axis=(1, 2)) > np.abs(best).min(axis=(1, 2))
            best = np.where(better[:, None, None], q, best)
    assert best is not None
    return best


def spread_values(size: int, growth: float, rng: np.random.Generator) -> Array:
    """``size`` positive numbers, half of them ``y`` and half ``1/y``, with mean square ``growth`` both of them and of
    their inverses: of all spectra with that growth the one with the smallest condition number."""
    pairs = size // 2
    if growth <= 1 or pairs == 0:
        return np.ones(size)
    # pairs (a + 1/a) + odd = growth * size  with a = y^2
    total = (growth * size - (size - 2 * pairs)) / pairs
    square = (total + math.sqrt(max(0.0, total * total - 4))) / 2
    y = math.sqrt(square)
    values = np.concatenate([np.full(pairs, y), np.full(pairs, 1 / y), np.ones(size - 2 * pairs)])
    return rng.permutation(values)


def spread_matrix(groups: int, size: int, growth: float, rng: np.random.Generator) -> Array:
    """Orthogonal for ``growth`` 1, else ``U diag(y) V`` with :func:`spread_values`: rows of mean square ``growth``."""
    left = orthogonal(groups, size, rng)
    if growth <= 1 or size < 2:
        return left
    return (left * spread_values(size, growth, rng)) @ orthogonal(groups, size, rng)


def kronecker_sizes(size: int) -> tuple[int, int] | None:
    """The most balanced ``(a, b)`` with ``a b = size``, or ``None`` where none is worth it."""
    for small in range(math.isqrt(size), 1, -1):
        if size % small == 0:
            return (small, size // small) if size // small <= _PART_UP_TO else None
    return None


@dataclass(eq=False)
class DenseMix:
    """``matrix`` is ``(groups, n, n)``; :meth:`settle` must be called once its rows are final.

    ``refine`` is for answers that are kept in float64; a shorter type needs no better than a plain inverse gives.
    """

    matrix: Array
    refine: bool = False
    inverse: Array | None = None

    @property
    def size(self) -> int:
        return int(self.matrix.shape[1])

    def settle(self) -> None:
        """Inverts the matrix as it now stands: mild condition, so a plain inverse is accurate."""
        self.inverse = np.linalg.inv(self.matrix)

    def rows(self, start: int, stop: int) -> Array:
        return np.asarray(self.matrix[:, start:stop])

    def undo(self, rhs: Array) -> Array:
        """``T^-1 rhs`` where only the first ``rhs.shape[1]`` rows of the right-hand side are not zero."""
        assert self.inverse is not None
        count = rhs.shape[1]
        solution = self.inverse[:, :, :count] @ rhs
        if self.refine:  # the last bits of float64 then no longer depend on the condition of the mix
            solution -= self.inverse @ _shortfall(self.matrix, solution, rhs)
        return np.asarray(solution)


def _shortfall(matrix: Array, solution: Array, rhs: Array) -> Array:
    remainder = matrix @ solution
    remainder[:, : rhs.shape[1]] -= rhs
    return np.asarray(remainder)


@dataclass(eq=False)
class KroneckerMix:
    """``T = A (x) B`` with entries of so few bits that every product is exact in the model's type: rounding ``T``
    changes nothing, and its inverse is the product of two small inverses."""

    outer: Array
    inner: Array

    def __post_init__(self) -> None:
        self._outer_inverse = np.linalg.inv(self.outer)
        self._inner_inverse = np.linalg.inv(self.inner)

    @property
    def size(self) -> int:
        return int(self.outer.shape[1] * self.inner.shape[1])

    def rows(self, start: int, stop: int) -> Array:
        groups, many = self.inner.shape[:2]
        index = np.arange(start, stop)
        left = self.outer[:, index // many]
        right = self.inner[:, index % many]
        return np.asarray((left[..., :, None] * right[..., None, :]).reshape(groups, stop - start, -1))

    def undo(self, rhs: Array) -> Array:
        groups, count, columns = rhs.shape
        many_outer, many = self.outer.shape[1], self.inner.shape[1]
        if count < self.size:
            full = np.zeros((groups, self.size, columns))
            full[:, :count] = rhs
            rhs = full
        half = self._inner_inverse[:, None] @ rhs.reshape(groups, many_outer, many, columns)
        whole = self._outer_inverse @ half.reshape(groups, many_outer, many * columns)
        return np.asarray(whole.reshape(groups, self.size, columns))


def random_mix(groups: int, size: int, growth: float, bits: int, rng: np.random.Generator) -> DenseMix | KroneckerMix:
    """A mix of ``size`` channels in each group with rows of mean square ``growth`` (1: orthogonal).

    Args:
        groups: how many independent mixes.
        size: channels of each.
        growth: mean square norm of rows, and of the columns of the inverse.
        bits: significant bits of the model's type.
        rng: source of all randomness.
    """
    sizes = kronecker_sizes(size) if size > DENSE_UP_TO else None
    if sizes is None:
        return DenseMix(spread_matrix(groups, size, growth, rng), refine=bits > 24)
    outer = round_bits(orthogonal(groups, sizes[0], rng), bits // 2)
    inner = round_bits(spread_matrix(groups, sizes[1], growth, rng), bits - bits // 2)
    return KroneckerMix(outer, inner)
