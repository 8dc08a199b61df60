from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmorph.equation import compose, extent, solve_sequence
from onnxmorph.errors import Refusal
from tests.equation.oracle import convolve, distance, he_kernel, padded, trained_kernel


def centred(shape: tuple[int, ...], kernels) -> tuple[int, ...]:
    return tuple((r - k) // 2 for r, k in zip(extent(kernels), shape[2:], strict=True))


@pytest.mark.parametrize(
    ("shape", "widths", "kernels", "groups"),
    [
        ((8, 8, 5, 5), [32, 8], [(5, 5), (3, 3), (1, 1)], 1),
        ((8, 8, 5, 5), [32, 32], [(5, 5), (3, 3), (1, 1)], 1),
        ((8, 6, 3, 3), [10, 10, 11], [(3, 3)] * 4, 1),
        ((8, 6, 3, 3), [7, 8], [(1, 1), (3, 3), (1, 1)], 1),
        ((8, 8, 5, 5), [40, 8], [(3, 3), (3, 3), (1, 1)], 1),
        ((6, 6, 5, 5), [6, 24], [(1, 1), (3, 3), (3, 3)], 1),
        ((6, 6, 3, 3), [18, 6], [(3, 1), (1, 3), (1, 1)], 1),
        ((12, 1, 3, 3), [24, 24], [(3, 3)] * 3, 12),
        ((8, 16), [12, 9], [()] * 3, 1),
        ((5, 4, 3), [8], [(3,), (3,)], 1),
    ],
)
def test_factors_compose_to_the_parent_and_leave_no_zeros(shape, widths, kernels, groups: int) -> None:
    kernel = (he_kernel if groups > 1 else trained_kernel)(np.random.default_rng(0), shape)
    found = solve_sequence(kernel, widths, kernels, groups)
    assert [f.shape[2:] for f in found.factors] == [tuple(k) for k in kernels]
    assert [f.shape[0] for f in found.factors[:-1]] == widths
    assert found.exact, found.why
    assert found.dense, (found.occupancy, found.why)
    wanted = padded(kernel, extent(kernels), centred(shape, kernels))
    assert distance(compose(found.factors, groups), wanted) < 5e-7 * max(1, found.amplification)
    assert found.worst_row_residual < 1e-5


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 2),
    st.lists(st.integers(1, 3), min_size=2, max_size=4),
    st.integers(1, 4),
    st.integers(1, 4),
    st.data(),
)
def test_any_sequence_wide_enough_is_exact(groups, sizes, outputs, inputs, data) -> None:
    kernels = [(k,) for k in sizes]
    reach = extent(kernels)[0]
    taps = data.draw(st.integers(1, max(sizes)))
    offset = (data.draw(st.integers(0, reach - taps)),)
    widths = [groups * (max(outputs, inputs) + data.draw(st.integers(0, 3))) for _ in sizes[1:]]
    kernel = he_kernel(np.random.default_rng(reach), (groups * outputs, inputs, taps))
    found = solve_sequence(kernel, widths, kernels, groups, offset=offset)
    assert found.exact, found.why
    assert distance(compose(found.factors, groups), padded(kernel, (reach,), offset)) < 1e-6 * max(
        1, found.amplification
    )


@pytest.mark.parametrize("slopes", [[1.0, None, 1.0], [1.0, 1.0, 1.0], [None, 1.0, None], [1.1, 1.1, 1.1]])
def test_gaps_with_a_plain_activation_are_mirrored(slopes) -> None:
    rng = np.random.default_rng(0)
    kernel = he_kernel(rng, (6, 4, 3))
    widths = [8 if c is None else 16 for c in slopes]
    kernels = [(3,), (1,), (3,), (1,)]
    found = solve_sequence(kernel, widths, kernels, slopes=slopes)
    assert found.exact, found.why
    x = rng.standard_normal((4, 9))
    wanted = convolve(x, padded(kernel, (5,), (1,)))
    value = x
    for factor, slope in zip(found.factors, [*slopes, None], strict=True):
        value = convolve(value, factor)
        if slope is not None:
            value = np.where(value > 0, value, (slope - 1) * value)
    assert distance(value, wanted) < 5e-6
    for factor, ratio in zip(found.factors, found.scale_ratio, strict=True):
        expected = float(np.sqrt(np.square(factor.astype(np.float64)).mean())) * math.sqrt(
            math.prod(factor.shape[1:]) / 2
        )
        assert ratio == pytest.approx(expected, rel=1e-6)


def test_scales_are_balanced_over_all_factors() -> None:
    kernel = he_kernel(np.random.default_rng(0), (32, 32, 3, 3))
    for widths, kernels in (
        ([128, 32], [(3, 3), (3, 3), (1, 1)]),
        ([40, 40, 40], [(3, 3)] * 4),
        ([32, 32], [(3, 3), (1, 1), (1, 1)]),
    ):
        found = solve_sequence(kernel, widths, kernels)
        assert all(0.5 <= ratio <= 2 for ratio in found.scale_ratio), found.scale_ratio


def test_too_narrow_a_gap_is_reported_with_its_residual() -> None:
    kernel = he_kernel(np.random.default_rng(0), (32, 32, 3, 3))
    found = solve_sequence(kernel, [10, 10], [(3, 3), (3, 3), (1, 1)])
    assert not found.exact and 0.1 < found.residual <= 1 and "not exact" in found.why


def test_sizes_that_cannot_be_met_are_refused() -> None:
    kernel = he_kernel(np.random.default_rng(0), (6, 2, 3))
    with pytest.raises(Refusal, match="3 factors have 2 widths"):
        solve_sequence(kernel, [6], [(3,), (1,), (1,)])
    with pytest.raises(Refusal, match="6 or 9 is"):
        solve_sequence(kernel, [6, 8], [(3,), (1,), (1,)], 3)
    with pytest.raises(Refusal, match="6 or 12 is"):
        solve_sequence(kernel, [6, 9], [(3,), (1,), (1,)], 3, slopes=[None, 1.0])
    with pytest.raises(Refusal, match="does not fit"):
        solve_sequence(kernel, [6, 6], [(1,), (1,), (1,)])
    with pytest.raises(Refusal, match="limit"):
        solve_sequence(kernel, [6, 6], [(3,), (1,), (1,)], memory_limit=1000)
