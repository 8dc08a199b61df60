from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxmorph.equation import bytes_needed, compose, default_width, embed, extent, least_width, solve
from onnxmorph.errors import Refusal
from tests.equation.oracle import composition, convolve, distance, he_kernel, padded, trained_kernel

UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
TYPES = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@st.composite
def problems(draw: st.DrawFn):
    """Kernel, kernel sizes and offset: any axes, groups, odd and even sizes, off-centre."""
    axes = draw(st.integers(0, 3))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    outputs, inputs = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    limit = 2 if axes == 3 else 3
    kernels = tuple(tuple(draw(st.integers(1, limit)) for _ in range(axes)) for _ in range(2))
    reach = extent(kernels)
    taps = tuple(draw(st.integers(1, r)) for r in reach)
    offset = tuple(draw(st.integers(0, r - t)) for r, t in zip(reach, taps, strict=True))
    kind = draw(st.sampled_from(["float32", "float32", "float16", "bfloat16", "float64"]))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    make = draw(st.sampled_from([he_kernel, trained_kernel]))
    return make(rng, (groups * outputs, inputs, *taps), dtype=TYPES[kind]), kernels, groups, offset, kind


@settings(max_examples=150, deadline=None)
@given(problems(), st.integers(0, 3))
def test_the_default_width_and_more_is_exact_and_dense(problem, extra: int) -> None:
    kernel, kernels, groups, offset, kind = problem
    assume(np.any(kernel != 0))
    width = default_width(kernel, kernels, groups, offset=offset) + extra * groups
    found = solve(kernel, width, kernels, groups, rng=extra, offset=offset)
    first, second = found.factors
    assert first.shape == (width, kernel.shape[1], *kernels[0])
    assert second.shape == (kernel.shape[0], width // groups, *kernels[1])
    assert first.dtype == second.dtype == kernel.dtype
    wanted = padded(kernel, extent(kernels), offset)
    error = distance(composition(first, second, groups), wanted)
    assert found.exact, found.why
    assert error == pytest.approx(found.residual, rel=1e-3, abs=1e-15)
    assert error < 4 * UNIT[kind] * found.amplification + 1e-14
    if np.all(np.any(kernel != 0, axis=tuple(range(1, kernel.ndim)))):  # (a dead channel can starve a narrow factor)
        assert found.dense, (found.occupancy, found.why)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_the_least_width_is_exact_for_any_weights(problem) -> None:
    kernel, kernels, groups, offset, kind = problem
    width = least_width(kernel, kernels, groups, offset=offset)
    found = solve(kernel, width, kernels, groups, offset=offset)
    assert found.exact, found.why
    error = distance(composition(*found.factors, groups), padded(kernel, extent(kernels), offset))
    assert error < 4 * UNIT[kind] * max(1, found.amplification) + 1e-14


@pytest.mark.parametrize(
    ("shape", "kernels"),
    [
        ((64, 64, 3, 3), ((3, 3), (1, 1))),
        ((64, 64, 3, 3), ((1, 1), (3, 3))),
        ((64, 64, 3, 3), ((3, 3), (3, 3))),
        ((64, 32, 3, 3), ((5, 5), (3, 3))),
        ((32, 32, 5, 5), ((3, 3), (3, 3))),
        ((48, 48, 3, 3), ((3, 1), (1, 3))),
        ((128, 300), ((), ())),
        ((300, 128), ((), ())),
        ((40, 24, 7), ((7,), (1,))),
    ],
)
@pytest.mark.parametrize("gain", [0.1, 0.4, 1.0])
def test_both_factors_are_near_the_scale_of_he(shape: tuple[int, ...], kernels, gain: float) -> None:
    kernel = he_kernel(np.random.default_rng(0), shape, gain)
    found = solve(kernel, default_width(kernel, kernels), kernels)
    assert found.exact and found.dense
    assert found.residual < 3e-7
    for factor, ratio in zip(found.factors, found.scale_ratio, strict=True):
        fan_in = math.prod(factor.shape[1:])
        assert ratio == pytest.approx(float(factor.astype(np.float64).std()) / math.sqrt(2 / fan_in), rel=0.02)
        assert 0.5 <= ratio <= 2


def test_tiny_weights_are_not_blown_up_until_rounding_drowns_them() -> None:
    kernel = he_kernel(np.random.default_rng(0), (64, 64, 3, 3), 1e-5)
    for kernels in (((3, 3), (1, 1)), ((3, 3), (3, 3))):
        found = solve(kernel, 80, kernels)
        assert found.exact and found.amplification < 40 and found.residual < 2e-6


@pytest.mark.parametrize("kernels", [((3, 3), (1, 1)), ((1, 1), (3, 3)), ((3, 3), (3, 3))])
def test_small_output_channels_keep_their_own_accuracy(kernels) -> None:
    kernel = trained_kernel(np.random.default_rng(0), (64, 48, 3, 3))
    found = solve(kernel, default_width(kernel, kernels), kernels)
    difference = compose(found.factors) - embed(kernel, extent(kernels)).astype(np.float64)
    norms = np.linalg.norm(kernel.reshape(64, -1).astype(np.float64), axis=1)
    errors = np.linalg.norm(difference.reshape(64, -1), axis=1)
    alive = norms > 0
    assert norms[alive].max() > 50 * norms[alive].min()
    worst = (errors[alive] / norms[alive]).max()
    assert worst < 1e-6
    assert found.worst_row_residual >= worst * 0.999
    assert errors[~alive].max() < 1e-7 * norms.mean()


def test_one_rounding_is_left_beyond_condition_7() -> None:
    """64 -> 64 channels through 66 by 3x3 and 3x3: condition (7) would want 178."""
    kernel = he_kernel(np.random.default_rng(0), (64, 64, 3, 3))
    for width in (65, 66, 72):
        found = solve(kernel, width, ((3, 3), (3, 3)))
        assert found.exact and found.dense
        assert found.residual_before_rounding < 1e-14  # the fixed factor is rounded by then
        assert found.residual < 2.0**-24


@pytest.mark.parametrize("stride", [1, 2])
def test_the_factors_compute_the_layer_at_its_borders(stride: int) -> None:
    """All padding on the first factor, none on the second, the stride on the last (MORPHISMS section 1)."""
    rng = np.random.default_rng(0)
    kernel = he_kernel(rng, (4, 3, 3, 3))
    x = rng.standard_normal((3, 9, 9))
    first, second = solve(kernel, 7, ((3, 3), (3, 3))).factors
    wanted = convolve(np.pad(x, [(0, 0), (1, 1), (1, 1)]), kernel)[:, ::stride, ::stride]
    hidden = convolve(np.pad(x, [(0, 0), (2, 2), (2, 2)]), first)
    assert distance(convolve(hidden, second)[:, ::stride, ::stride], wanted) < 5e-7


def test_condition_7_is_not_sufficient() -> None:
    """One channel, three hidden, 3x3 and 3x3: 27 unknowns, 25 equations, rank 24 whatever the fixed factor is."""
    from onnxmorph.equation.alternating import half_step, system_matrix

    rng = np.random.default_rng(0)
    fixed = rng.standard_normal((1, 1, 3, 3, 3))
    assert system_matrix(fixed, (3, 3)).shape == (1, 25, 27)
    assert np.linalg.matrix_rank(system_matrix(fixed, (3, 3))[0]) == 24
    target = rng.standard_normal((1, 1, 1, 5, 5))
    solved = half_step(fixed, target, np.zeros((1, 3, 1, 3, 3)))
    left = distance(composition(solved[0], fixed[0]), target[0])
    assert 1e-3 < left < 1
    kernel = target[0].astype(np.float32)
    found = solve(kernel, 3, ((3, 3), (3, 3)))  # the gate goes by what was measured, and turns go on
    assert found.exact == (found.residual_before_rounding < 1e-12)


def test_a_narrow_first_kernel_growth_leaves_a_residual_and_says_so() -> None:
    """MORPHISMS: Cl = 6, Cj = 8, K = 3, K1 = 5 leaves 37 %."""
    kernel = he_kernel(np.random.default_rng(0), (8, 8, 3, 3))
    found = solve(kernel, 6, ((5, 5), (1, 1)))
    assert not found.exact
    assert 0.05 < found.residual < 0.5
    assert found.least_width == 8
    assert "not exact" in found.why and "8" in found.why
    assert distance(composition(*found.factors), padded(kernel, (5, 5), (1, 1))) == pytest.approx(
        found.residual, rel=1e-3
    )


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_a_parent_of_low_rank_fits_through_its_rank(kind: str) -> None:
    rng = np.random.default_rng(0)
    kernel = (rng.standard_normal((24, 5)) @ rng.standard_normal((5, 16 * 9))).reshape(24, 16, 3, 3).astype(kind)
    assert solve(kernel, 5, ((3, 3), (1, 1))).exact
    assert solve(kernel, 5, ((3, 3), (1, 1))).method == "low-rank"
    assert not solve(kernel, 4, ((3, 3), (1, 1))).exact


def test_a_zero_kernel_leaves_one_factor_to_learn() -> None:
    found = solve(np.zeros((8, 8, 3, 3), np.float32), 8, ((3, 3), (1, 1)))
    assert found.exact and found.residual == 0
    assert max(found.occupancy) == 1


def test_a_dead_input_costs_no_density_where_a_channel_is_free() -> None:
    kernel = he_kernel(np.random.default_rng(0), (8, 8, 3, 3))
    kernel[:, 3] = 0
    assert solve(kernel, 9, ((3, 3), (1, 1))).dense


def test_depthwise_layers_are_solved_all_at_once() -> None:
    kernel = he_kernel(np.random.default_rng(0), (1000, 1, 3, 3))
    found = solve(kernel, 2000, ((3, 3), (3, 3)), 1000)
    assert found.exact and found.dense and found.worst_row_residual < 1e-6


@pytest.mark.parametrize(
    ("shape", "kernels", "width", "groups"),
    [
        ((8, 8, 3, 3), ((3, 3), (3, 3)), 24, 1),
        ((8, 8, 5, 5), ((3, 3), (3, 3)), 24, 1),
        ((6, 6, 5), ((3,), (3,)), 10, 1),
        ((30, 1, 5, 5), ((3, 3), (3, 3)), 90, 30),
        ((4, 3, 5, 5), ((3, 3), (3, 3)), 8, 1),
    ],
)
def test_algorithm_1_is_exact_where_it_has_unknowns_enough(shape, kernels, width: int, groups: int) -> None:
    kernel = he_kernel(np.random.default_rng(0), shape)
    kernel[::2] *= 0.05  # output channels of two scales
    found = solve(kernel, width, kernels, groups, method="alternating")
    assert found.method == "alternating" and found.exact and found.dense
    offset = tuple((r - k) // 2 for r, k in zip(extent(kernels), shape[2:], strict=True))
    assert distance(composition(*found.factors, groups), padded(kernel, extent(kernels), offset)) < 1e-6


def test_algorithm_1_keeps_the_scale_of_its_random_start() -> None:
    kernel = he_kernel(np.random.default_rng(0), (16, 16, 3, 3))
    found = solve(kernel, 80, ((3, 3), (3, 3)), method="alternating")
    assert found.exact and all(0.5 <= ratio <= 2 for ratio in found.scale_ratio)


def test_algorithm_2_shrinks_until_exact_and_pads_back_with_zeros() -> None:
    kernel = he_kernel(np.random.default_rng(0), (8, 8, 3, 3))
    found = solve(kernel, 8, ((3, 3), (5, 5)), method="practical")
    assert found.exact and found.method == "practical"
    assert found.factors[1].shape == (8, 8, 5, 5)
    assert found.occupancy[1] == pytest.approx(1 / 25)
    assert distance(composition(*found.factors), padded(kernel, (7, 7), (2, 2))) < 1e-6
    assert solve(kernel, 10, ((3, 3), (5, 5))).dense  # the same request with two channels more


@pytest.mark.parametrize("width", [1536, 1550])
def test_wide_layers_take_a_kronecker_mix_that_no_type_rounds(width: int) -> None:
    rng = np.random.default_rng(0)
    for kind in ("float32", "bfloat16"):
        kernel = (
            he_kernel(rng, (1500, 40), dtype=TYPES[kind])
            if width > 1536
            else he_kernel(rng, (1536, 40), dtype=TYPES[kind])
        )
        from onnxmorph.equation.structured import solve_structured
        from onnxmorph.equation.tilings import tilings

        solution = solve_structured(
            kernel[None],
            tilings((), (), (), ())[0],
            width,
            (),
            np.dtype(TYPES[kind]),
            np.random.default_rng(1),
            he_fixed=3000.0,
            he_solved=2.0 * width,
        )
        assert solution.residual_before_rounding < 1e-13
        assert np.count_nonzero(solution.fixed) == solution.fixed.size
        product = solution.fixed[0].astype(np.float64) @ solution.solved[0].astype(np.float64)
        assert distance(product, kernel) < UNIT[kind]


def test_the_same_seed_gives_the_same_bytes() -> None:
    kernel = he_kernel(np.random.default_rng(0), (16, 8, 3, 3))
    for kernels, method in ((((3, 3), (3, 3)), "auto"), (((3, 3), (3, 3)), "alternating")):
        one, two, other = (
            solve(kernel, 48, kernels, rng=seed, method=method).factors  # type: ignore[arg-type]
            for seed in (5, 5, 6)
        )
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one, two, strict=True))
        assert one[0].tobytes() != other[0].tobytes()


def test_the_parent_is_not_touched() -> None:
    kernel = he_kernel(np.random.default_rng(0), (16, 8, 3, 3), dtype=np.float64)
    copy = kernel.copy()
    kernel.flags.writeable = False
    solve(kernel, 20, ((3, 3), (3, 3)))
    solve(kernel, 40, ((3, 3), (3, 3)), method="alternating")
    assert np.array_equal(kernel, copy)


def test_what_cannot_be_met_is_refused_with_the_nearest_that_can() -> None:
    kernel = he_kernel(np.random.default_rng(0), (10, 2, 3, 3))
    with pytest.raises(Refusal, match="48 is not divisible by 5 groups; 45 or 50 is"):
        solve(kernel, 48, ((3, 3), (1, 1)), 5)
    with pytest.raises(Refusal, match="does not fit"):
        solve(kernel, 50, ((1, 1), (1, 1)), 5)
    with pytest.raises(Refusal, match="odd"):
        solve(kernel, 50, ((4, 3), (1, 1)), 5)
    with pytest.raises(Refusal, match="2 kernel axes"):
        solve(kernel, 50, ((3,), (1,)), 5)
    with pytest.raises(Refusal, match="not divisible by 3 groups"):
        solve(kernel, 50, ((3, 3), (1, 1)), 3)
    broken = kernel.copy()
    broken[0, 0, 0, 0] = np.nan
    with pytest.raises(Refusal, match="NaN"):
        solve(broken, 50, ((3, 3), (1, 1)), 5)
    with pytest.raises(Refusal, match="float types only"):
        solve(np.ones((4, 4), np.int8), 4, ((), ()))


def test_memory_beyond_the_limit_is_refused_before_anything_is_solved() -> None:
    kernel = he_kernel(np.random.default_rng(0), (64, 64, 3, 3))
    needed = bytes_needed(kernel, 64, ((3, 3), (1, 1)))
    with pytest.raises(Refusal, match="more than the limit") as caught:
        solve(kernel, 64, ((3, 3), (1, 1)), memory_limit=needed - 1)
    assert caught.value.code == "memory"
    assert solve(kernel, 64, ((3, 3), (1, 1)), memory_limit=needed).bytes_needed == needed


def test_the_default_width_looks_at_the_weights() -> None:
    rng = np.random.default_rng(0)
    kernels = ((1, 1), (3, 3))
    kernel = he_kernel(rng, (16, 16, 3, 3))
    assert default_width(kernel, kernels) == default_width(kernel.shape, kernels) == 16
    kernel[5] = 0  # a dead output channel: solved for the second factor it would be a row of zeros
    assert default_width(kernel, kernels) == 17
    assert solve(kernel, 17, kernels).dense
    pruned = he_kernel(rng, (16, 16, 3, 3)) * (rng.random((16, 16, 3, 3)) < 0.05)
    assert solve(pruned, default_width(pruned, ((3, 3), (1, 1))), ((3, 3), (1, 1))).dense
    small = he_kernel(rng, (8, 1, 3, 3), 0.1)
    width = default_width(small, ((3, 3), (1, 1)), 8)
    assert width == 16
    assert all(0.5 <= ratio <= 2 for ratio in solve(small, width, ((3, 3), (1, 1)), 8).scale_ratio)


def test_weights_that_nearly_underflow_in_16_bits_are_still_solved() -> None:
    kernel = (he_kernel(np.random.default_rng(0), (32, 16, 3, 3), dtype=np.float64) * 1e-3).astype(np.float16)
    for kernels in (((3, 3), (1, 1)), ((3, 3), (3, 3))):
        found = solve(kernel, 40, kernels)
        assert found.exact and found.residual < 5e-3


def test_a_large_layer_with_too_few_channels_is_refused_without_an_attempt() -> None:
    kernel = he_kernel(np.random.default_rng(0), (64, 64, 3, 3))
    with pytest.raises(Refusal, match="64 are exact") as caught:
        solve(kernel, 32, ((3, 3), (1, 1)), memory_limit=1 << 20)
    assert caught.value.code == "width-too-small"
