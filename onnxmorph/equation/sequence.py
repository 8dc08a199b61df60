"""Sequential subnets (NM eq. 19): one kernel becomes ``n`` factors, ``Fn ⊛ ... ⊛ F1 = G~``.

Where one factor can hold all the parent's taps, the chain has a closed form. In every gap the hidden channels are of
three kinds: *core* channels, which carry the input before that factor and the output after it; *null* channels, which
are written at random and read by null channels only; *rim* channels, which are written by rim channels only, so that
they carry nothing, and are read at random by all. No path leads from the input through a filler to the output, so the
fillers may have any values and any taps, and a random mix of each gap's channels leaves no zeros::

    F_i = T_i^-1 L_i T_(i-1),    L_i block triangular in the order rim -> core -> null

Otherwise factors are split off one at a time, the rest composed, by the two-factor solver.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxmorph.equation.factorization import Factorization, diagnose, is_exact
from onnxmorph.equation.kernels import embed, extent, grouped, inner_offset, ungrouped, window
from onnxmorph.equation.mirror import mirror_inputs, mirror_order, mirror_outputs
from onnxmorph.equation.mixing import DenseMix, random_mix
from onnxmorph.equation.nothing import zero_factors
from onnxmorph.equation.precision import Array, float_type, significant_bits
from onnxmorph.equation.scales import target_ratio
from onnxmorph.equation.solve import MEMORY_LIMIT, check_finite, solve
from onnxmorph.equation.structured import powers_of_two
from onnxmorph.errors import Refusal

__all__ = ["sequence_bytes", "solve_sequence"]

_LEAST_RATIO = 0.62
_GROWTH_CAP = 16.0


@dataclass(frozen=True)
class _Chain:
    """Sizes of one problem, per group: ``channels`` has ``n + 1`` entries, inputs first and outputs last."""

    groups: int
    channels: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    taps: tuple[int, ...]
    offset: tuple[int, ...]
    mirrored: tuple[bool, ...]  # gap i stands between factor i and i + 1

    @property
    def length(self) -> int:
        return len(self.kernels)

    def he(self, index: int) -> float:
        """Sum of squares He's std would give factor ``index``; one read through a mirror has twice the fan-in."""
        halved = index > 0 and self.mirrored[index - 1]
        return 2.0 * self.channels[index + 1] / (2 if halved else 1)


def sequence_bytes(
    shape: Sequence[int], widths: Sequence[int], kernels: Sequence[Sequence[int]], groups: int = 1, itemsize: int = 4
) -> int:
    """Bound on the memory :func:`solve_sequence` takes beyond the parent's kernel, in bytes."""
    channels = [shape[1] * groups, *widths, shape[0]]
    float64 = factors = mixes = 0
    for index, taps in enumerate(kernels):
        entries = channels[index] // groups * channels[index + 1] * math.prod(taps)
        float64 = max(float64, 4 * 8 * entries)
        factors += entries * (8 + 2 * itemsize)
    for width in widths:
        mixes += 3 * 8 * width * width // groups
    # The diagnosis composes everything before and behind each gap.
    whole = math.prod(extent([tuple(k) for k in kernels]))
    largest = max((width * max(shape[1], shape[0] // groups) for width in widths), default=1)
    return int(float64 + factors + mixes + 4 * 8 * whole * largest + 6 * (1 << 26))


def solve_sequence(
    kernel: Array,
    widths: Sequence[int],
    kernels: Sequence[Sequence[int]],
    groups: int = 1,
    *,
    slopes: Sequence[float | None] | None = None,
    dtype: npt.DTypeLike | None = None,
    rng: np.random.Generator | int = 0,
    offset: Sequence[int] | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> Factorization:
    """``n`` factors whose composition is ``kernel`` zero-padded to their extent.

    Args:
        kernel: ``(out, in / groups, *taps)``.
        widths: hidden channels of the ``n - 1`` gaps, in all groups together.
        kernels: taps of the ``n`` factors, the first applied first.
        groups: groups of the parent and of every factor.
        slopes: per gap ``None``, or the slope ``c`` of an activation with ``phi(x) - phi(-x) = c x`` that stands there
            plainly: its channels come in pairs ``v, -v`` (see :func:`~onnxmorph.equation.mirror.mirror`).
        dtype, rng, offset, memory_limit: see :func:`~onnxmorph.equation.solve.solve`.

    Returns:
        ``factors`` in order of application; the gate is that of ``solve``, with one rounding for each factor.

    Raises:
        Refusal: sizes that cannot be met, NaN or infinite weights, or too much memory.
    """
    sizes = tuple(tuple(int(k) for k in size) for size in kernels)
    count = len(sizes)
    gaps = tuple(slopes) if slopes is not None else (None,) * (count - 1)
    _check(kernel, widths, sizes, groups, gaps)
    check_finite(kernel)
    kind = float_type(kernel.dtype if dtype is None else dtype)
    places = inner_offset(kernel.shape[2:], extent(sizes), offset)
    generator = rng if isinstance(rng, np.random.Generator) else np.random.Generator(np.random.PCG64(rng))
    needed = sequence_bytes(kernel.shape, widths, sizes, groups, kind.itemsize)
    if needed > memory_limit:
        raise Refusal(
            f"solving needs {needed / 2**30:.2f} GiB, more than the limit of {memory_limit / 2**30:.2f} GiB",
            way_out="choose smaller widths or kernels",
            code="memory",
        )
    slope = math.prod(c for c in gaps if c is not None)
    target = kernel if slope == 1 else kernel.astype(np.float64) / slope
    hidden = [w // groups // (1 if c is None else 2) for w, c in zip(widths, gaps, strict=True)]
    outputs, inputs = kernel.shape[0] // groups, kernel.shape[1]
    chain = _Chain(
        groups,
        (inputs, *hidden, outputs),
        sizes,
        tuple(kernel.shape[2:]),
        places,
        tuple(c is not None for c in gaps),
    )
    if not np.any(kernel):
        nothing = zero_factors(chain.channels, sizes, groups, kind, generator, mirrored=chain.mirrored)
        factors, pairs = _mirrored(list(nothing.factors), chain, generator)
        return replace(nothing, factors=tuple(factors), pairs=pairs[0] if len(pairs) == 1 else None)
    whole = grouped(target, groups)
    centre = _core_factor(chain)
    if count == 1:
        base = [grouped(embed(target, sizes[0], places).astype(kind), groups)]
        before, why = 0.0, "one factor: the kernel itself"
    elif centre is not None:
        exact = _closed_chain(whole, chain, centre, significant_bits(kind), generator)
        before = _before(exact, whole, places, generator)
        base = [factor.astype(kind) for factor in exact]
        why = f"factor {centre + 1} of {count} carries the parent's taps, the others pass its channels on"
    else:
        exact, why = _one_at_a_time(whole, chain, kind, generator, memory_limit)
        before = _before(exact, whole, places, generator)
        base = [factor.astype(kind) for factor in exact]
    flat = [ungrouped(factor) for factor in base]
    fan_ins = [
        math.prod(factor.shape[1:]) * (2 if index and chain.mirrored[index - 1] else 1)
        for index, factor in enumerate(flat)
    ]
    residual, worst, probed, shares, ratios, noise = diagnose(flat, target, places, groups, generator, before, fan_ins)
    verdict = is_exact(residual, before, noise, kind, count, max(chain.channels))
    if not verdict:
        why += f"; relative residual {residual:.2g}, not exact"
    factors, pairs = _mirrored(flat, chain, generator)
    return Factorization(
        factors=tuple(factors),
        residual=residual,
        residual_before_rounding=before,
        worst_row_residual=worst,
        method="sequence",
        occupancy=shares,
        scale_ratio=ratios,
        amplification=noise,
        bytes_needed=needed,
        exact=verdict,
        why=why,
        iterations=1,
        probed=probed,
        pairs=pairs[0] if len(pairs) == 1 else None,
    )


def _check(
    kernel: Array,
    widths: Sequence[int],
    sizes: Sequence[tuple[int, ...]],
    groups: int,
    gaps: Sequence[float | None],
) -> None:
    if not sizes or len(widths) != len(sizes) - 1 or len(gaps) != len(sizes) - 1:
        raise Refusal(
            f"{len(sizes)} factors have {max(0, len(sizes) - 1)} widths between them, {len(widths)} were given",
            code="width",
        )
    if any(len(size) != kernel.ndim - 2 or any(k < 1 for k in size) for size in sizes):
        raise Refusal(f"kernel sizes {list(sizes)} do not suit a layer with {kernel.ndim - 2} axes", code="kernel-size")
    if groups < 1 or kernel.shape[0] % groups:
        raise Refusal(f"{kernel.shape[0]} output channels are not divisible by {groups} groups", code="groups")
    for width, slope in zip(widths, gaps, strict=True):
        if slope is not None and not (math.isfinite(slope) and slope != 0):
            raise Refusal(f"no mirror for an activation whose odd part is {slope} x", code="no-mirror")
        unit = groups * (1 if slope is None else 2)
        if width < unit or width % unit:
            low = width // unit * unit
            what = f"{groups} groups" if slope is None else f"pairs in {groups} groups" if groups > 1 else "pairs"
            raise Refusal(
                f"a width of {width} is not divisible into {what}",
                way_out=f"{low} or {low + unit} is" if low else f"{unit} is",
                code="width-groups" if slope is None else "width-odd",
            )


def _core_factor(chain: _Chain) -> int | None:
    """The factor to hold the parent's taps, or ``None`` where none can: large enough, with gaps wide enough on both
    sides; of several the largest, and of those the first."""
    inputs, outputs = chain.channels[0], chain.channels[-1]
    suited = []
    for index, sizes in enumerate(chain.kernels):
        if any(k > size for k, size in zip(chain.taps, sizes, strict=True)):
            continue
        before, behind = chain.channels[1 : index + 1], chain.channels[index + 1 : -1]
        if all(w >= inputs for w in before) and all(w >= outputs for w in behind):
            suited.append(index)
    return max(suited, key=lambda index: (math.prod(chain.kernels[index]), -index), default=None)


def _core_taps(chain: _Chain, centre: int) -> list[tuple[int, ...]]:
    """For each factor the tap (the first, for the one that holds the parent's) its core stands on; they add up to the
    offset, each as near to its middle as that allows."""
    room = [
        tuple(s - k for s, k in zip(sizes, chain.taps, strict=True)) if index == centre else tuple(s - 1 for s in sizes)
        for index, sizes in enumerate(chain.kernels)
    ]
    taps = [[r // 2 for r in spare] for spare in room]
    for axis, wanted in enumerate(chain.offset):
        owed = wanted - sum(tap[axis] for tap in taps)
        for tap, spare in zip(taps, room, strict=True):
            move = max(-tap[axis], min(owed, spare[axis] - tap[axis]))
            tap[axis] += move
            owed -= move
    return [tuple(tap) for tap in taps]


def _fillers(chain: _Chain, centre: int) -> list[tuple[int, int]]:
    """Null and rim channels of each gap."""
    idle = [
        math.prod(sizes) > (math.prod(chain.taps) if index == centre else 1)
        for index, sizes in enumerate(chain.kernels)
    ]
    result: list[tuple[int, int]] = []
    for gap in range(1, chain.length):
        core = chain.channels[0] if gap <= centre else chain.channels[-1]
        free = chain.channels[gap] - core
        null = (free + 1) // 2
        if free == 1:
            # One channel can fill the factor before it or the one behind it: the one that has nothing else.
            served = gap > 1 and result[-1][1] > 0
            null = 0 if idle[gap] and (served or not idle[gap - 1]) else 1
        result.append((null, free - null))
    return result


def _closed_chain(whole: Array, chain: _Chain, centre: int, bits: int, rng: np.random.Generator) -> list[Array]:
    """The closed form, in float64: grouped factors."""
    groups, outputs, inputs = whole.shape[:3]
    count = chain.length
    energy = np.square(whole.astype(np.float64)).sum(axis=tuple(range(2, whole.ndim)))
    row_scale = powers_of_two(energy, bits)
    rows = row_scale.reshape(groups, outputs, *(1,) * (whole.ndim - 2))
    body = whole.astype(np.float64) / rows
    norm = float(np.square(body).sum()) / groups
    fillers = [(0, 0), *_fillers(chain, centre), (0, 0)]
    cores = [inputs if gap <= centre else outputs for gap in range(count + 1)]
    taps = _core_taps(chain, centre)
    ratio, growth = _common_ratio(chain, centre, cores, fillers, norm, bits)
    scales = [ratio * math.sqrt(chain.he(i) / cores[i + 1]) for i in range(count)]
    passed = math.prod(scale for i, scale in enumerate(scales) if i != centre)
    factors = []
    left: Array | None = None
    for index in range(count):
        sizes = chain.kernels[index]
        wide, many = chain.channels[index + 1], chain.channels[index]
        layer = np.zeros((groups, wide, many, *sizes))
        core_out, core_in = cores[index + 1], cores[index]
        null, rim = fillers[index + 1][0], fillers[index][1]
        null_in = fillers[index][0]
        if index == centre:
            block = layer[:, :core_out, :core_in]
            block[window(taps[index], chain.taps)] = body / passed
            core_energy = norm / passed**2
        else:
            diagonal = np.arange(core_out)
            where: Any = (slice(None), diagonal, diagonal, *taps[index])
            layer[where] = scales[index]
            core_energy = scales[index] ** 2 * core_out
        entries = (null * many + rim * core_out) * math.prod(sizes)
        if entries:
            missing = max(chain.he(index) * min(1.0, max(ratio, _LEAST_RATIO)) ** 2 - core_energy, 0.2 * core_energy)
            std = math.sqrt(missing / entries)
            if null:
                layer[:, core_out : core_out + null] = rng.standard_normal((groups, null, many, *sizes)) * std
            if rim:
                begin = core_in + null_in
                noise = rng.standard_normal((groups, core_out, rim, *sizes))
                layer[:, :core_out, begin:] += noise * std
                rim_out = fillers[index + 1][1]
                if rim_out:
                    noise = rng.standard_normal((groups, rim_out, rim, *sizes))
                    layer[:, core_out + null :, begin:] = noise * std
        if index == count - 1:
            layer *= rows[:, :, :1]
        flat = np.moveaxis(layer, 2, -1)
        if left is not None:
            flat = flat @ left.reshape(groups, *(1,) * (flat.ndim - 3), *left.shape[1:])
        if index < count - 1:
            mix = random_mix(groups, wide, growth, 53, rng)
            if isinstance(mix, DenseMix):
                mix.settle()
            flat = mix.undo(np.ascontiguousarray(flat).reshape(groups, wide, -1)).reshape(flat.shape)
            left = mix.rows(0, wide)
        factors.append(np.ascontiguousarray(np.moveaxis(flat, -1, 2)))
    return factors


def _common_ratio(
    chain: _Chain, centre: int, cores: Sequence[int], fillers: Sequence[tuple[int, int]], norm: float, bits: int
) -> tuple[float, float]:
    """The ratio to He's scale that all cores can have in common, and the growth of the mixes that lifts it where there
    are no fillers to do so."""
    count = chain.length
    if norm == 0:
        return 1.0, 1.0
    # The product of all ratios is fixed: ||G|| over He's norm of its factor, and sqrt(core / He) for every other.
    logarithm = math.log(norm / chain.he(centre))
    logarithm += sum(math.log(cores[i + 1] / chain.he(i)) for i in range(count) if i != centre)
    common = math.exp(logarithm / (2 * count))
    wanted = min(_LEAST_RATIO, target_ratio(common ** (-count), bits))
    bare = any(not fillers[i][1] and not fillers[i + 1][0] for i in range(count))
    if common >= wanted or not bare or min(chain.channels[1:-1]) < 2:
        return common, 1.0
    return common, min(_GROWTH_CAP, (wanted / common) ** (count / (count - 1)))


def _before(exact: Sequence[Array], whole: Array, places: tuple[int, ...], rng: np.random.Generator) -> float:
    from onnxmorph.equation.factorization import measure

    return measure(exact, whole, places, rng)[0]


def _one_at_a_time(
    whole: Array, chain: _Chain, kind: np.dtype[Any], rng: np.random.Generator, memory_limit: int
) -> tuple[list[Array], str]:
    """Splits the last or the first factor off, the rest composed, until two are left (NM section 3.4); float64."""
    if chain.length == 1:
        return [grouped(embed(ungrouped(whole), chain.kernels[0], chain.offset), chain.groups)], ""
    if chain.length == 2:
        found = solve(
            ungrouped(whole),
            chain.channels[1] * chain.groups,
            chain.kernels,
            chain.groups,
            dtype=np.float64,
            rng=rng,
            offset=chain.offset,
            memory_limit=memory_limit,
        )
        return [grouped(factor, chain.groups) for factor in found.factors], found.why
    best: tuple[float, list[Array], str] | None = None
    for last in (True, False):
        single = chain.kernels[-1] if last else chain.kernels[0]
        rest = chain.kernels[:-1] if last else chain.kernels[1:]
        reach = extent(rest)
        size = tuple(min(r, k) for r, k in zip(reach, chain.taps, strict=True))
        # Where the composed rest starts in its own reach, and the single factor's share of the offset.
        inner = []
        for o, r, s, k1 in zip(chain.offset, reach, size, single, strict=True):
            low, high = max(0, o - (k1 - 1)), min(r - s, o)
            inner.append(min(max(o - (k1 - 1) // 2, low), high))
        outer = tuple(o - n for o, n in zip(chain.offset, inner, strict=True))
        width = chain.channels[-2] if last else chain.channels[1]
        pair = (size, single) if last else (single, size)
        found = solve(
            ungrouped(whole),
            width * chain.groups,
            pair,
            chain.groups,
            dtype=np.float64,
            rng=rng,
            offset=outer,
            memory_limit=memory_limit,
        )
        body = grouped(found.factors[0 if last else 1], chain.groups)
        channels = chain.channels[:-1] if last else chain.channels[1:]
        mirrored = chain.mirrored[:-1] if last else chain.mirrored[1:]
        smaller = _Chain(chain.groups, channels, rest, size, tuple(inner), mirrored)
        place = _core_factor(smaller)
        if place is not None:
            others, why = _closed_chain(body, smaller, place, significant_bits(kind), rng), found.why
        else:
            others, why = _one_at_a_time(body, smaller, kind, rng, memory_limit)
        own = grouped(found.factors[1 if last else 0], chain.groups)
        complete = [*others, own] if last else [own, *others]
        left = _before(complete, whole, chain.offset, rng)
        if best is None or left < best[0]:
            best = (left, complete, f"one factor at a time: {why}")
        if left < 1e-10:
            break
    assert best is not None
    return best[1], best[2]


def _mirrored(flat: list[Array], chain: _Chain, rng: np.random.Generator) -> tuple[list[Array], list[Array]]:
    """Doubles the channels of every mirrored gap: ``[V; -V]`` before it and ``[Z, -Z]`` behind it."""
    pairs = []
    for gap, mirrored in enumerate(chain.mirrored):
        if not mirrored:
            continue
        order, partners = mirror_order(chain.groups, chain.channels[gap + 1], rng)
        flat[gap] = mirror_outputs(flat[gap], chain.groups, order)
        flat[gap + 1] = mirror_inputs(flat[gap + 1], chain.groups, order)
        pairs.append(partners)
    return flat, pairs
