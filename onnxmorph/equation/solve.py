"""The morphism equation for two factors (NM eq. 6): ``F2 ⊛ F1 = G~``, chosen, solved and judged.

``solve`` looks for the form that is exact at the width asked for and leaves no zeros, cheapest first:

1. ``fix-second`` / ``fix-first``: closed form through one small mix (see :mod:`~onnxmorph.equation.structured`); serves
   K2 = 1, K1 = 1, both halves larger than 1, separable kernels (3x1 then 1x3), and widths far beyond condition (7).
2. ``low-rank``: fewer hidden channels than rows, but the parent's rank is no more.
3. ``alternating``: Algorithm 1, where the others cannot be exact (both kernels smaller than the parent's).
4. ``practical``: Algorithm 2; exact, with zeros on the taps that were padded back.

Whether a result is exact is measured, never deduced from condition (7), which is not sufficient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from onnxmorph.equation.alternating import alternating_bytes, has_unknowns, one_half_step, solve_alternating
from onnxmorph.equation.factorization import Factorization, diagnose, is_exact, occupancy, scale_ratio, sum_of_squares
from onnxmorph.equation.kernels import embed, extent, grouped, inner_offset, ungrouped
from onnxmorph.equation.nothing import zero_factors
from onnxmorph.equation.precision import Array, float_type
from onnxmorph.equation.structured import share_free, solve_structured, structured_bytes
from onnxmorph.equation.tilings import Tiling, tilings
from onnxmorph.errors import Refusal

__all__ = ["MEMORY_LIMIT", "Method", "bytes_needed", "default_width", "least_width", "solve"]

MEMORY_LIMIT = 4 << 30
Method = Literal["auto", "structured", "alternating", "practical"]


@dataclass(frozen=True)
class _Form:
    """One way to solve in closed form: which factor is fixed, and how taps are shared."""

    fix_second: bool
    tiling: Tiling
    outer: int
    inner: int

    @property
    def core(self) -> int:
        """Hidden channels per group that carry the parent."""
        return self.outer * self.tiling.rows

    @property
    def bound(self) -> int:
        """What the parent's rank cannot exceed in this form."""
        return min(self.core, self.inner * self.tiling.columns)

    def fills(self, width: int, core: int | None = None) -> bool:
        """No tap of either factor stays zero at this width."""
        rim, null = share_free(width - (self.core if core is None else core), self.tiling)
        return (rim > 0 or not self.tiling.fixed_border) and (null > 0 or not self.tiling.solved_border)


@dataclass(frozen=True)
class _Problem:
    shape: tuple[int, ...]
    groups: int
    first: tuple[int, ...]
    second: tuple[int, ...]
    offset: tuple[int, ...]

    @property
    def outputs(self) -> int:
        return self.shape[0] // self.groups

    @property
    def inputs(self) -> int:
        return self.shape[1]

    def forms(self) -> list[_Form]:
        taps = self.shape[2:]
        second = [
            _Form(True, tiling, self.outputs, self.inputs)
            for tiling in tilings(taps, self.second, self.first, self.offset)
        ]
        first = [
            _Form(False, tiling, self.inputs, self.outputs)
            for tiling in tilings(taps, self.first, self.second, self.offset)
        ]
        return second + first


def _problem(
    shape: Sequence[int], kernels: Sequence[Sequence[int]], groups: int, offset: Sequence[int] | None
) -> _Problem:
    shape = tuple(int(size) for size in shape)
    if len(shape) < 2 or min(shape) < 1:
        raise Refusal(f"a kernel of shape {list(shape)} is not (out, in / groups, *taps)", code="kernel-size")
    if groups < 1 or shape[0] % groups:
        raise Refusal(f"{shape[0]} output channels are not divisible by {groups} groups", code="groups")
    if len(kernels) != 2:
        raise Refusal(f"two kernel sizes are needed, {len(kernels)} were given", code="kernel-size")
    first, second = (tuple(int(k) for k in sizes) for sizes in kernels)
    if any(len(sizes) != len(shape) - 2 or any(k < 1 for k in sizes) for sizes in (first, second)):
        raise Refusal(
            f"kernel sizes {first} and {second} do not suit a layer with {len(shape) - 2} kernel axes",
            code="kernel-size",
        )
    places = inner_offset(shape[2:], extent((first, second)), offset)
    return _Problem(shape, groups, first, second, places)


def _shape_of(kernel: Array | Sequence[int]) -> tuple[int, ...]:
    return tuple(kernel.shape) if isinstance(kernel, np.ndarray) else tuple(kernel)


def _centred(shape: Sequence[int], kernels: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """An offset for questions of width, where an odd difference need not be refused."""
    return tuple(max(0, outer - inner) // 2 for inner, outer in zip(shape[2:], extent(kernels), strict=True))


def least_width(
    kernel: Array | Sequence[int],
    kernels: Sequence[Sequence[int]],
    groups: int = 1,
    *,
    mirrored: bool = False,
    offset: Sequence[int] | None = None,
) -> int:
    """The least total width at which an exact factorisation is certain for *any* weights of this shape.

    With K2 = 1 that is Cj (or Ci K~ where that is less), with K1 = 1 it is Ci, in general the least rank bound over all
    ways to share the taps. Weights of lower rank do with less, and Algorithm 1 sometimes does.

    Args:
        kernel: the parent's kernel or its shape ``(out, in / groups, *taps)``.
        kernels: taps of the two factors.
        groups: groups of all of them.
        mirrored: for :func:`~onnxmorph.equation.mirror.mirror`, which needs two hidden channels for one.
        offset: see :func:`solve`.
    """
    shape = _shape_of(kernel)
    problem = _problem(shape, kernels, groups, _centred(shape, kernels) if offset is None else offset)
    return groups * min(form.bound for form in problem.forms()) * (2 if mirrored else 1)


def default_width(
    kernel: Array | Sequence[int],
    kernels: Sequence[Sequence[int]],
    groups: int = 1,
    *,
    mirrored: bool = False,
    offset: Sequence[int] | None = None,
) -> int:
    """The least total width at which the result is exact, dense and near He's scale for any weights of this shape.

    :func:`least_width`, and an eighth of it more (at least one channel a group) for each factor with taps that the
    parent's do not reach. With the weights themselves given, one more where they need it: where the parent has dead
    channels or pruned taps, which would leave zeros in the solved factor, and where a single small channel a group
    cannot come near He's scale.
    """
    shape = _shape_of(kernel)
    problem = _problem(shape, kernels, groups, _centred(shape, kernels) if offset is None else offset)
    whole = grouped(kernel, groups) if isinstance(kernel, np.ndarray) else None
    best = None
    for form in problem.forms():
        if form.core > form.bound:
            continue
        extra = max(1, math.ceil(form.core / 8))
        width = form.core + extra * (int(form.tiling.fixed_border) + int(form.tiling.solved_border))
        if width == form.core and whole is not None and (best is None or width < best) and _is_bare(whole, form):
            width += 1
        best = width if best is None else min(best, width)
    assert best is not None
    return groups * best * (2 if mirrored else 1)


def _is_bare(whole: Array, form: _Form) -> bool:
    """At ``form.core`` channels a group these weights leave zeros, or a scale that nothing can lift.

    A dead channel does not double the width of a layer of one or two channels a group: there its zeros stay.
    """
    if form.core >= 4:
        return bool(np.any(whole)) and _has_empty_column(whole, form)
    if form.core > 1:
        return False
    rows = np.sqrt(float(sum_of_squares(whole)) / (whole.shape[0] * form.outer))
    return bool(0 < rows < 0.5)


def bytes_needed(
    kernel: Array | Sequence[int],
    width: int,
    kernels: Sequence[Sequence[int]],
    groups: int = 1,
    *,
    dtype: npt.DTypeLike = np.float32,
    offset: Sequence[int] | None = None,
) -> int:
    """Bound on the memory :func:`solve` would take beyond the parent's kernel, factors included, in bytes."""
    shape = _shape_of(kernel)
    problem = _problem(shape, kernels, groups, _centred(shape, kernels) if offset is None else offset)
    form, rank = _choose(problem, width // groups, None)[0]
    return _form_bytes(problem, form, width // groups, float_type(dtype).itemsize, rank)


def _form_bytes(problem: _Problem, form: _Form, width: int, itemsize: int, rank: int | None) -> int:
    return structured_bytes(problem.groups, form.outer, form.inner, width, form.tiling, itemsize, rank or 0)


def _choose(problem: _Problem, width: int, parent: Array | None) -> list[tuple[_Form, int | None]]:
    """Forms to try, best first: exact and dense, exact, by rank; ``(form, rank to keep or None)``."""
    forms = problem.forms()

    def key(form: _Form) -> tuple[bool, bool, int, bool]:
        starved = not form.fills(width)
        if not starved and parent is not None and width == form.core:
            starved = _has_empty_column(parent, form)
        return (starved, form.tiling.fixed_border and form.tiling.solved_border, form.core, not form.fix_second)

    fitting: list[tuple[_Form, int | None]] = [(form, None) for form in sorted(forms, key=key) if form.core <= width]
    if fitting:
        return fitting
    return [(min(forms, key=lambda form: (form.bound, key(form))), width)]


def _has_empty_column(parent: Array, form: _Form) -> bool:
    """A column of ``M`` is zero: without null-space channels the solved factor would be zero there too."""
    kept = 2 if form.fix_second else 1
    used: Array = np.asarray(np.any(parent != 0, axis=3 - kept))
    if form.tiling.columns == 1:
        used = np.asarray(used.reshape(*used.shape[:2], -1).any(axis=2))
    return not bool(used.all())


def solve(
    kernel: Array,
    width: int,
    kernels: Sequence[Sequence[int]],
    groups: int = 1,
    *,
    dtype: npt.DTypeLike | None = None,
    rng: np.random.Generator | int = 0,
    offset: Sequence[int] | None = None,
    method: Method = "auto",
    memory_limit: int = MEMORY_LIMIT,
) -> Factorization:
    """Two factors whose composition is ``kernel`` zero-padded to their extent (NM eq. 6, Algorithms 1 and 2, beyond).

    Args:
        kernel: the parent's, ``(out, in / groups, *taps)``, any float type.
        width: hidden channels in all groups together.
        kernels: taps ``(K1, K2)`` of the first and of the second factor, per axis; ``((), ())`` for Gemm and MatMul.
        groups: groups of the parent and of both factors: block-diagonal, each block solved for itself.
        dtype: type of the factors; the kernel's own by default.
        rng: a generator, or a seed for ``Generator(PCG64(seed))``. Same seed, same machine: same bytes. Another BLAS
            may differ in last bits.
        offset: where the parent's first tap lies in the composition; centred by default (even differences).
        method: ``auto``, or one form by name.
        memory_limit: bytes the solver may take beyond ``kernel``, factors included.

    Returns:
        A :class:`~onnxmorph.equation.factorization.Factorization`; ``exact`` says whether it may be used, and
        ``least_width`` what would be exact where it may not.

    Raises:
        Refusal: sizes that cannot be met (with the nearest that can), NaN or infinite weights, or too much memory.
    """
    return solve_scaled(
        kernel, width, kernels, groups, dtype=dtype, rng=rng, offset=offset, method=method, memory_limit=memory_limit
    )


def solve_scaled(
    kernel: Array,
    width: int,
    kernels: Sequence[Sequence[int]],
    groups: int = 1,
    *,
    dtype: npt.DTypeLike | None = None,
    rng: np.random.Generator | int = 0,
    offset: Sequence[int] | None = None,
    method: Method = "auto",
    memory_limit: int = MEMORY_LIMIT,
    fan_in_factor: int = 1,
) -> Factorization:
    """:func:`solve` for a second factor that will be read ``fan_in_factor`` times over (mirror depth: twice)."""
    problem = _problem(kernel.shape, kernels, groups, offset)
    kind = float_type(kernel.dtype if dtype is None else dtype)
    float_type(kernel.dtype)
    if width < groups or width % groups:
        low = width // groups * groups
        nearest = f"{low} or {low + groups}" if low else f"{groups}"
        raise Refusal(
            f"a width of {width} is not divisible by {groups} groups", way_out=f"{nearest} is", code="width-groups"
        )
    check_finite(kernel)
    generator = rng if isinstance(rng, np.random.Generator) else np.random.Generator(np.random.PCG64(rng))
    hidden = width // groups
    if not np.any(kernel):
        channels = (problem.inputs, hidden, problem.outputs)
        return zero_factors(
            channels, (problem.first, problem.second), groups, kind, generator, mirrored=[fan_in_factor == 2]
        )
    whole = grouped(kernel, groups)
    reasons: list[str] = []
    best: Factorization | None = None
    if method == "practical":
        return _practical(kernel, problem, width, kind, generator, memory_limit, fan_in_factor)
    structured = _choose(problem, hidden, whole)[0]
    if method != "alternating":
        form, rank = structured
        needed = _form_bytes(problem, form, hidden, kind.itemsize, rank)
        if needed > memory_limit:
            if rank is not None:
                least = least_width(kernel, kernels, groups, offset=problem.offset)
                raise Refusal(
                    f"{width} hidden channels are too few, and the layer is too large to see whether its rank allows",
                    way_out=f"{least} are exact for any weights",
                    code="width-too-small",
                )
            reasons.append(_too_much(needed, memory_limit))
        else:
            best = _closed_form(problem, form, rank, whole, hidden, kind, generator, fan_in_factor, needed)
            if best.exact and not best.dense and rank is None:
                best = _denser(best, problem, form, whole, hidden, kind, generator, fan_in_factor, memory_limit)
    asked = method == "alternating"
    starved = best is None or not best.exact or (best.method == "practical" and not best.dense)
    if asked or (method == "auto" and starved):
        sizes = (problem.outputs, problem.inputs, hidden, problem.first, problem.second)
        enough = has_unknowns(*sizes) if best is None or not best.exact else one_half_step(*sizes)
        needed = alternating_bytes(problem.shape, groups, hidden, problem.first, problem.second)
        if not asked and not enough:
            reasons.append("Algorithm 1 has too few unknowns at this width")
        elif needed > memory_limit:
            reasons.append(_too_much(needed, memory_limit))
        else:
            found = _by_turns(problem, whole, hidden, kind, generator, fan_in_factor, needed)
            if best is None or _merit(found) > _merit(best):
                best = found
    if best is None:
        raise Refusal(
            reasons[0] if reasons else "no form suits",
            way_out="choose fewer channels between or a smaller kernel",
            code="memory",
        )
    if best.exact:
        return best
    least = least_width(kernel, kernels, groups, offset=problem.offset)
    why = f"{best.why}; a width of {least} is exact for any weights of this shape" if least > width else best.why
    return replace(best, least_width=least, why=why)


def _practical(
    kernel: Array,
    problem: _Problem,
    width: int,
    kind: np.dtype[Any],
    rng: np.random.Generator,
    memory_limit: int,
    fan_in_factor: int,
) -> Factorization:
    """Algorithm 2 of NM: shrinks K2 by 2, centred, until a solution is exact, and pads it back with zeros."""
    second, place = problem.second, problem.offset
    while True:
        kernels = (problem.first, second)
        hidden = width // problem.groups
        by_turns = one_half_step(problem.outputs, problem.inputs, hidden, problem.first, second)
        found = solve_scaled(
            kernel,
            width,
            kernels,
            problem.groups,
            dtype=kind,
            rng=rng,
            offset=place,
            method="alternating" if by_turns and max(second, default=1) > 1 else "structured",
            memory_limit=memory_limit,
            fan_in_factor=fan_in_factor,
        )
        smaller = tuple(max(k - 2, 2 - k % 2) for k in second)
        moved = tuple(o - (k - s) // 2 for o, k, s in zip(place, second, smaller, strict=True))
        room = (k + s - 1 - o for k, s, o in zip(problem.first, smaller, moved, strict=True))
        fits = all(o >= 0 for o in moved) and all(r >= k for r, k in zip(room, problem.shape[2:], strict=True))
        if found.exact or smaller == second or not fits:
            break
        second, place = smaller, moved
    padded = embed(found.factors[1], problem.second)
    shares = (found.occupancy[0], occupancy(padded))
    ratios = (found.scale_ratio[0], scale_ratio(padded, math.prod(padded.shape[1:]) * fan_in_factor))
    why = f"{found.why}; second kernel shrunk from {problem.second} to {second} and padded back"
    return replace(
        found, factors=(found.factors[0], padded), method="practical", occupancy=shares, scale_ratio=ratios, why=why
    )


def _merit(found: Factorization) -> tuple[bool, bool, float]:
    return (found.exact, found.dense, -found.residual)


def check_finite(kernel: Array) -> None:
    """Raises a :class:`Refusal` for NaN or infinite weights, block by block."""
    flat = kernel.reshape(-1)
    for start in range(0, flat.size, 1 << 22):
        if not np.isfinite(flat[start : start + (1 << 22)].astype(np.float64, copy=False)).all():
            raise Refusal("the kernel holds NaN or infinite weights", code="not-finite")


def _too_much(needed: int, limit: int) -> str:
    return f"solving needs {needed / 2**30:.2f} GiB, more than the limit of {limit / 2**30:.2f} GiB"


def _closed_form(
    problem: _Problem,
    form: _Form,
    rank: int | None,
    whole: Array,
    hidden: int,
    kind: np.dtype[Any],
    rng: np.random.Generator,
    fan_in_factor: int,
    needed: int,
) -> Factorization:
    he_first, he_second = 2.0 * hidden, 2.0 * problem.outputs / fan_in_factor
    parent = whole if form.fix_second else whole.swapaxes(1, 2)
    solution = solve_structured(
        parent,
        form.tiling,
        hidden,
        problem.offset,
        kind,
        rng,
        he_fixed=he_second if form.fix_second else he_first,
        he_solved=he_first if form.fix_second else he_second,
        rank=rank,
        swapped=not form.fix_second,
    )
    if form.fix_second:
        first, second = solution.solved, solution.fixed
    else:
        first, second = solution.fixed.swapaxes(1, 2), solution.solved.swapaxes(1, 2)
    factors = (ungrouped(first), ungrouped(second))
    if rank is not None:
        name = "low-rank"
        why = f"the parent's rank was kept up to {rank} per group"
    else:
        name = "fix-second" if form.fix_second else "fix-first"
        half = "second" if form.fix_second else "first"
        why = f"the {half} factor was fixed, the other solved: {form.core} of {hidden} hidden channels carry the parent"
        if not form.fills(hidden):
            why += ", too few are left to fill the taps that the parent does not reach"
            name = "practical"
    return judged(
        factors,
        whole,
        problem,
        kind,
        rng,
        solution.residual_before_rounding,
        method=name,
        why=why,
        needed=needed,
        fan_in_factor=fan_in_factor,
    )


def _denser(
    found: Factorization,
    problem: _Problem,
    form: _Form,
    whole: Array,
    hidden: int,
    kind: np.dtype[Any],
    rng: np.random.Generator,
    fan_in_factor: int,
    memory_limit: int,
) -> Factorization:
    """Where too few channels are left to fill every tap: a parent of lower rank may leave more of them."""
    needed = _form_bytes(problem, form, hidden, kind.itemsize, hidden)
    if needed > memory_limit or form.bound > 1024:
        return found
    matrix = form.tiling.matrix(whole if form.fix_second else whole.swapaxes(1, 2))
    values = np.linalg.svd(matrix, compute_uv=False)
    rank = int((values > 2.0**-30 * values.max(initial=0.0)).sum(axis=1).max(initial=1))
    if rank >= form.core or not form.fills(hidden, max(1, rank)):
        return found
    other = _closed_form(problem, form, max(1, rank), whole, hidden, kind, rng, fan_in_factor, needed)
    return other if other.exact and other.dense else found


def _by_turns(
    problem: _Problem,
    whole: Array,
    hidden: int,
    kind: np.dtype[Any],
    rng: np.random.Generator,
    fan_in_factor: int,
    needed: int,
) -> Factorization:
    solution = solve_alternating(
        whole,
        hidden,
        problem.first,
        problem.second,
        problem.offset,
        kind,
        rng,
        he_first=2.0 * hidden,
        he_second=2.0 * problem.outputs / fan_in_factor,
    )
    return judged(
        (ungrouped(solution.first), ungrouped(solution.second)),
        whole,
        problem,
        kind,
        rng,
        solution.residual_before_rounding,
        method="alternating",
        why=f"both factors random, then {solution.iterations} least-squares half-steps",
        needed=needed,
        fan_in_factor=fan_in_factor,
        iterations=solution.iterations,
    )


def judged(
    factors: tuple[Array, Array],
    whole: Array,
    problem: _Problem,
    kind: np.dtype[Any],
    rng: np.random.Generator,
    before: float,
    *,
    method: str,
    why: str,
    needed: int,
    fan_in_factor: int = 1,
    iterations: int = 1,
) -> Factorization:
    """The result with its diagnosis and the verdict of the gate."""
    fan_ins = (math.prod(factors[0].shape[1:]), math.prod(factors[1].shape[1:]) * fan_in_factor)
    found = diagnose(factors, ungrouped(whole), problem.offset, problem.groups, rng, before, fan_ins)
    residual, worst, probed, shares, ratios, noise = found
    exact = is_exact(residual, before, noise, kind, len(factors), factors[0].shape[0] // problem.groups)
    if not exact:
        why += f"; relative residual {residual:.2g}, not exact"
    return Factorization(
        factors=factors,
        residual=residual,
        residual_before_rounding=before,
        worst_row_residual=worst,
        method=method,
        occupancy=shares,
        scale_ratio=ratios,
        amplification=noise,
        bytes_needed=needed,
        exact=exact,
        why=why,
        iterations=iterations,
        probed=probed,
    )
