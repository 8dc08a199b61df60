"""Algorithm 1 of NM: both factors random, one solved by least squares while the other is held, in turns.

Each half-step decouples: solving for F1 shares one matrix ``(Cj K~) x (Cl K1)`` over all inputs, solving for F2 one
``(Ci K~) x (Cl K2)`` over all outputs, so it is factored once for many right-hand sides; the Kronecker product with an
identity that the naive system carries never exists. Where a half has at least as many unknowns as equations, one
half-step is exact; the random start is kept in the null space (``F1 = F1r + A+ (g - A F1r)``), which keeps its scale.

Where neither half suffices but both together have unknowns enough, the turns go on, and for small kernels
Levenberg-Marquardt steps on both factors at once follow, which converge quadratically where turns crawl.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxmorph.equation.kernels import compose_pair, embed, extent, taps_of
from onnxmorph.equation.precision import Array, significant_bits
from onnxmorph.equation.scales import target_ratio
from onnxmorph.equation.structured import powers_of_two

__all__ = ["AlternatingSolution", "alternating_bytes", "has_unknowns", "one_half_step", "solve_alternating"]

# Residual at which the turns stop: float64 has nothing more to give.
_CONVERGED = 1e-14
_MOST_TURNS = 400
# Multiply-adds that all turns together may take.
_WORK = 2e11
# Equations up to which both factors are solved for at once.
_JOINT_UP_TO = 700
_JOINT_STEPS = 150
_RESTARTS = 4
# A direction of the half-step's matrix this far below the largest is taken as null.
_NULL = 1e-7


@dataclass(frozen=True, eq=False)
class AlternatingSolution:
    """Grouped factors, rounded; residual before the last rounding; half-steps taken."""

    first: Array
    second: Array
    residual_before_rounding: float
    iterations: int


def has_unknowns(outputs: int, inputs: int, width: int, first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Enough unknowns in both factors together (less the freedom to mix hidden channels) for all equations."""
    many1, many2, many = math.prod(first), math.prod(second), math.prod(extent((first, second)))
    freedom = width * (inputs * many1 + outputs * many2) - width * width
    return freedom >= outputs * inputs * many


def one_half_step(outputs: int, inputs: int, width: int, first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Condition (7) of NM read per half: unknowns enough in one factor alone. Not sufficient by itself."""
    many = math.prod(extent((first, second)))
    return width * math.prod(first) >= outputs * many or width * math.prod(second) >= inputs * many


def alternating_bytes(
    shape: tuple[int, ...], groups: int, width: int, first: tuple[int, ...], second: tuple[int, ...]
) -> int:
    """Bound on the memory of a half-step, in float64: the system, its Gram matrix and factor, and all kernels."""
    outputs, inputs = shape[0] // groups, shape[1]
    many1, many2, many = math.prod(first), math.prod(second), math.prod(extent((first, second)))
    systems = []
    for outer, solved in ((outputs, many1), (inputs, many2)):
        rows, columns = outer * many, width * solved
        small = min(rows, columns)
        systems.append(rows * columns + 3 * small * small)
    kernels = width * (inputs * many1 + outputs * many2)
    return int(groups * 8 * (max(systems) + 5 * outputs * inputs * many + 5 * kernels)) + (1 << 20)


def system_matrix(fixed: Array, solved_taps: tuple[int, ...]) -> Array:
    """``A[(a, w), (l, u)] = fixed[a, l, w - u]``, ``(g, a K~, l K_solved)``: ``A vec(solved) = vec(G~)``."""
    groups, outer, width = fixed.shape[:3]
    taps = fixed.shape[3:]
    size = extent((taps, solved_taps))
    matrix = np.zeros((groups, outer, *size, width, *solved_taps))
    for u in taps_of(solved_taps):
        window: Any = tuple(slice(start, start + length) for start, length in zip(u, taps, strict=True))
        matrix[(slice(None), slice(None), *window, slice(None), *u)] = np.moveaxis(fixed, 2, -1)
    return matrix.reshape(groups, outer * math.prod(size), width * math.prod(solved_taps))


def _symmetric_solver(gram: Array) -> Callable[[Array], Array]:
    """``b -> S+ b`` for one large Gram matrix: by Cholesky, or by its eigenvectors where it is singular."""
    from scipy.linalg import cho_factor, cho_solve

    try:
        factor, lower = cho_factor(gram, lower=True, check_finite=False)
        if float(np.diagonal(factor).min()) ** 2 >= 1e-12 * float(np.trace(gram)) / len(gram):
            return lambda b: np.asarray(cho_solve((factor, lower), b, check_finite=False))
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(gram)
    inverse = np.where(values > _NULL**2 * values[-1], 1 / np.maximum(values, 1e-300), 0.0)
    return lambda b: np.asarray(vectors @ (inverse[:, None] * (vectors.T @ b)))


def _pseudo_inverse(matrix: Array) -> Callable[[Array], Array]:
    """``b -> A+ b`` through the smaller Gram matrix, factored once."""
    rows, columns = matrix.shape[1:]
    wide = columns >= rows
    transposed = matrix.swapaxes(1, 2)
    gram = matrix @ transposed if wide else transposed @ matrix
    size = gram.shape[1]
    solvers: list[Callable[[Array], Array]] = []
    if size > 192:
        solvers = [_symmetric_solver(part) for part in gram]
    else:
        values, vectors = np.linalg.eigh(gram)
        keep = values > _NULL**2 * np.maximum(values[:, -1:], 1e-300)
        inverse = np.where(keep, 1 / np.maximum(values, 1e-300), 0.0)

    def inner(b: Array) -> Array:
        if solvers:
            return np.stack([solver(part) for solver, part in zip(solvers, b, strict=True)])
        return np.asarray(vectors @ (inverse[:, :, None] * (vectors.swapaxes(1, 2) @ b)))

    return (lambda b: np.asarray(transposed @ inner(b))) if wide else (lambda b: inner(transposed @ b))


def half_step(fixed: Array, target: Array, start: Array) -> Array:
    """The factor nearest to ``start`` that makes ``fixed ⊛ solved`` come nearest to ``target``.

    Args:
        fixed: ``(g, a, l, *K_fixed)`` float64.
        target: ``(g, a, b, *K~)``.
        start: ``(g, l, b, *K_solved)``, kept in the null space.
    """
    groups, width, inner = start.shape[:3]
    taps = start.shape[3:]
    matrix = system_matrix(fixed, taps)
    inverse = _pseudo_inverse(matrix)
    right = np.moveaxis(target, 2, -1).reshape(groups, matrix.shape[1], inner)
    flat = np.ascontiguousarray(np.moveaxis(start, 2, -1).reshape(groups, matrix.shape[2], inner))
    size = float(np.linalg.norm(right))
    before = math.inf
    for _ in range(4):  # refinement: the Gram matrix squares the condition, these steps take that back
        shortfall = right - matrix @ flat
        left = float(np.linalg.norm(shortfall))
        if left > 0.3 * before:
            break
        before = left
        flat = flat + inverse(shortfall)
        if left <= _CONVERGED * size:
            break
    return np.moveaxis(flat.reshape(groups, width, *taps, inner), -1, 2)


def _flip(kernel: Array) -> Array:
    return kernel.swapaxes(1, 2)


def solve_alternating(
    parent: Array,
    width: int,
    first: tuple[int, ...],
    second: tuple[int, ...],
    offset: tuple[int, ...],
    dtype: np.dtype[Any],
    rng: np.random.Generator,
    *,
    he_first: float,
    he_second: float,
) -> AlternatingSolution:
    """Algorithm 1 for a grouped parent ``(g, j, i, *taps)`` and ``width`` hidden channels per group.

    Args:
        parent: the kernel.
        width: hidden channels per group.
        first: taps of F1.
        second: taps of F2.
        offset: where the parent starts in the composition.
        dtype: type the factors are rounded to.
        rng: source of all randomness.
        he_first: sum of squares He's std would give F1, per group.
        he_second: the same for F2.
    """
    groups, outputs, inputs = parent.shape[:3]
    bits = significant_bits(dtype)
    whole = parent.astype(np.float64)
    row_scale = powers_of_two(np.square(whole).sum(axis=tuple(range(2, whole.ndim))), bits)
    shape = (groups, outputs, *(1,) * (whole.ndim - 2))
    scaled = whole / row_scale.reshape(shape)
    size = extent((first, second))
    flat = scaled.reshape(groups * outputs, inputs, *parent.shape[3:])
    target = embed(flat, size, offset).reshape(groups, outputs, inputs, *size)
    norm = float(np.square(scaled).sum()) / groups
    ratio = target_ratio(math.sqrt(he_first * he_second / (width * norm)), bits) if norm else 1.0
    many1, many2, many = math.prod(first), math.prod(second), math.prod(size)
    f1 = rng.standard_normal((groups, width, inputs, *first)) * (ratio * math.sqrt(he_first / (width * inputs * many1)))
    f2 = rng.standard_normal((groups, outputs, width, *second)) * (
        ratio * math.sqrt(he_second / (width * outputs * many2))
    )
    if width * many1 >= outputs * many:
        f2 = f2.astype(dtype).astype(np.float64)
        f1 = half_step(f2, target, f1)
        turns = 1
    elif width * many2 >= inputs * many:
        f1 = f1.astype(dtype).astype(np.float64)
        f2 = _flip(half_step(_flip(f1), _flip(target), _flip(f2)))
        turns = 1
    else:
        f1, f2, turns = _take_turns(f1, f2, target)
    before = _residual(f1, f2, target)
    if before > 1e-12 and outputs * inputs * many <= _JOINT_UP_TO:
        f1, f2, more = _with_restarts(f1, f2, target, rng)
        turns += more
        before = _residual(f1, f2, target)
    share1 = float(np.linalg.norm(f1)) / math.sqrt(groups * he_first)
    share2 = float(np.linalg.norm(f2)) / math.sqrt(groups * he_second)
    if share1 > 0 and share2 > 0:  # a power of two: nothing that was rounded is rounded again
        shift = 2.0 ** round(math.log2(share1 / share2) / 2)
        f1, f2 = f1 / shift, f2 * shift
    f2 = f2 * row_scale.reshape(groups, outputs, *(1,) * (f2.ndim - 2))
    return AlternatingSolution(f1.astype(dtype), f2.astype(dtype), before, turns)


def _residual(f1: Array, f2: Array, target: Array) -> float:
    size = float(np.linalg.norm(target))
    return float(np.linalg.norm(compose_pair(f1, f2) - target)) / (size or 1.0)


def _take_turns(f1: Array, f2: Array, target: Array) -> tuple[Array, Array, int]:
    """Half-steps in turns until they are exact, stall, or have cost enough."""
    groups, width = f1.shape[:2]
    many = math.prod(target.shape[3:])
    rows1, columns1 = target.shape[1] * many, width * math.prod(f1.shape[3:])
    rows2, columns2 = target.shape[2] * many, width * math.prod(f2.shape[3:])
    work = groups * (
        rows1 * columns1 * (min(rows1, columns1) + 3 * target.shape[2])
        + rows2 * columns2 * (min(rows2, columns2) + 3 * target.shape[1])
    )
    most = int(max(2, min(_MOST_TURNS, _WORK / max(1, work))))
    if target.size // groups <= _JOINT_UP_TO:
        most = min(most, 10)
    history: list[float] = []
    for turn in range(most):
        f1 = half_step(f2, target, f1)
        f2 = _flip(half_step(_flip(f1), _flip(target), _flip(f2)))
        balance = math.sqrt(float(np.linalg.norm(f1)) / max(1e-300, float(np.linalg.norm(f2))))
        f1, f2 = f1 / balance, f2 * balance
        history.append(_residual(f1, f2, target))
        if history[-1] < _CONVERGED * 10 or (turn >= 20 and history[-1] > 0.98 * history[-11]):
            break
    return f1, f2, 2 * len(history)


def _with_restarts(f1: Array, f2: Array, target: Array, rng: np.random.Generator) -> tuple[Array, Array, int]:
    """Joint steps, and again from other random factors for the groups that were caught in a valley."""
    f1, f2, steps = _solve_jointly(f1, f2, target)
    rms1, rms2 = float(np.sqrt(np.square(f1).mean())), float(np.sqrt(np.square(f2).mean()))
    for _ in range(_RESTARTS):
        error = np.square(target - compose_pair(f1, f2)).reshape(len(f1), -1).sum(axis=1)
        caught = np.flatnonzero(error > 1e-24 * np.square(target).reshape(len(f1), -1).sum(axis=1))
        if not caught.size:
            break
        new1 = rng.standard_normal(f1[caught].shape) * rms1
        new2 = rng.standard_normal(f2[caught].shape) * rms2
        new1, new2, more = _solve_jointly(new1, new2, target[caught])
        steps += more
        better = (
            np.square(target[caught] - compose_pair(new1, new2)).reshape(caught.size, -1).sum(axis=1) < error[caught]
        )
        f1[caught[better]], f2[caught[better]] = new1[better], new2[better]
    return f1, f2, steps


def _solve_jointly(f1: Array, f2: Array, target: Array) -> tuple[Array, Array, int]:
    """Levenberg-Marquardt on both factors of every group at once: ``d(F2 ⊛ F1) = F2 ⊛ dF1 + dF2 ⊛ F1``."""
    groups, width, inputs = f1.shape[:3]
    outputs = f2.shape[1]
    taps1, taps2, size = f1.shape[3:], f2.shape[3:], target.shape[3:]
    many1, many2, many = math.prod(taps1), math.prod(taps2), math.prod(size)
    damping = np.full(groups, 1e-2)
    error = target - compose_pair(f1, f2)
    squares = np.square(error).reshape(groups, -1).sum(axis=1)
    goal = np.square(target).reshape(groups, -1).sum(axis=1) * 1e-28
    steps = 0
    for steps in itertools.count(1):
        # Columns of the Jacobian: (l, u) for every input i, then (l, v) for every output j.
        left = system_matrix(f2, taps1).reshape(groups, outputs, many, width * many1)
        right = system_matrix(_flip(f1), taps2).reshape(groups, inputs, many, width * many2)
        jacobian = np.zeros((groups, outputs, inputs, many, width * (inputs * many1 + outputs * many2)))
        for i in range(inputs):
            jacobian[:, :, i, :, i * width * many1 : (i + 1) * width * many1] = left
        begin = inputs * width * many1
        for j in range(outputs):
            place = slice(begin + j * width * many2, begin + (j + 1) * width * many2)
            jacobian[:, j, :, :, place] = right
        flat = jacobian.reshape(groups, outputs * inputs * many, -1)
        gram = flat @ flat.swapaxes(1, 2)
        scale = np.trace(gram, axis1=1, axis2=2) / gram.shape[1]
        gram += (damping * scale + 1e-300)[:, None, None] * np.eye(gram.shape[1])
        step = (flat.swapaxes(1, 2) @ np.linalg.solve(gram, error.reshape(groups, -1, 1)))[:, :, 0]
        d1 = step[:, :begin].reshape(groups, inputs, width, *taps1).swapaxes(1, 2)
        d2 = step[:, begin:].reshape(groups, outputs, width, *taps2)
        new1, new2 = f1 + d1, f2 + d2
        new_error = target - compose_pair(new1, new2)
        new_squares = np.square(new_error).reshape(groups, -1).sum(axis=1)
        better = new_squares < squares
        pick = better.reshape(groups, *(1,) * (f1.ndim - 1))
        f1, f2 = np.where(pick, new1, f1), np.where(pick, new2, f2)
        error = np.where(pick, new_error, error)
        squares = np.where(better, new_squares, squares)
        damping = np.clip(np.where(better, damping * 0.2, damping * 5), 1e-15, 1e6)
        if steps >= _JOINT_STEPS or bool((squares <= goal).all()):
            break
    return f1, f2, steps
