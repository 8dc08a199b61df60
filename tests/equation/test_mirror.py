from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmorph.equation import default_width, extent, mirror, outer_bias
from onnxmorph.errors import Refusal
from tests.equation.oracle import convolve, distance, he_kernel, padded, trained_kernel

ERF = np.vectorize(math.erf)
ACTIVATIONS = {
    "relu": (lambda x: np.maximum(x, 0), 1.0),
    "leaky": (lambda x: np.where(x > 0, x, 0.1 * x), 1.1),
    "gelu": (lambda x: x * (1 + ERF(x / math.sqrt(2))) / 2, 1.0),
    "silu": (lambda x: x / (1 + np.exp(-x)), 1.0),
    "hard-swish": (lambda x: x * np.clip(x / 6 + 0.5, 0, 1), 1.0),
    "softplus": (lambda x: np.logaddexp(0, x), 1.0),
    "tanh": (np.tanh, 1.0),
}
EXACT = [name for name in ACTIVATIONS if name != "tanh"]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(EXACT),
    st.sampled_from([1, 1, 2, 3]),
    st.sampled_from([((3, 3), (1, 1)), ((3, 3), (3, 3)), ((1, 1), (3, 3)), ((2, 4), (2, 1))]),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 2),
)
def test_a_plain_activation_between_the_factors_changes_nothing(name, groups, kernels, outputs, inputs, extra) -> None:
    phi, slope = ACTIVATIONS[name]
    rng = np.random.default_rng(outputs + 10 * inputs)
    taps = tuple(min(3, k) for k in extent(kernels))
    offset = tuple((r - k) // 2 for r, k in zip(extent(kernels), taps, strict=True))
    kernel = trained_kernel(rng, (groups * outputs, inputs, *taps), dtype=np.float32)
    width = default_width(kernel, kernels, groups, mirrored=True, offset=offset) + 2 * groups * extra
    found = mirror(kernel, width, kernels, slope, groups, rng=1, offset=offset)
    assert found.exact, found.why
    first, second = found.factors
    assert first.dtype == np.float32 and first.shape[0] == width
    x = rng.standard_normal((groups * inputs, 7, 7)) * 3
    wanted = convolve(x, padded(kernel, extent(kernels), offset), groups)
    bias = np.zeros(width)
    left, right = found.pairs[:, 0], found.pairs[:, 1]  # type: ignore[index]
    bias[left] = rng.standard_normal(left.size)
    bias[right] = -bias[left]
    for inner in (np.zeros(width), bias):
        hidden = convolve(x, first, groups) + inner[:, None, None]
        got = convolve(phi(hidden), second, groups)
        # [Z, -Z] phi([h + b; -h - b]) = c Z (h + b): the pair's bias comes out as through a linear layer of slope c / 2
        back = outer_bias(second, inner, None, groups) * slope / 2
        assert distance(got + back[:, None, None], wanted) < 2e-6 * max(1, found.amplification)


def test_an_activation_whose_odd_part_bends_is_seen() -> None:
    phi, slope = ACTIVATIONS["tanh"]
    rng = np.random.default_rng(0)
    kernel = he_kernel(rng, (6, 4, 3))
    first, second = mirror(kernel, 12, ((3,), (1,)), slope).factors
    x = rng.standard_normal((4, 9))
    assert distance(convolve(phi(convolve(x, first)), second), convolve(x, kernel)) > 0.05


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_partners_are_exact_negatives_after_rounding_and_not_clustered(kind) -> None:
    kernel = he_kernel(np.random.default_rng(0), (32, 8, 3, 3), dtype=kind)
    found = mirror(kernel, 48, ((3, 3), (3, 3)), 1.1, 2)
    first, second = found.factors
    left, right = found.pairs.T  # type: ignore[union-attr]
    assert sorted([*left, *right]) == list(range(48))
    assert np.array_equal(left // 24, right // 24)  # partners share a group
    assert np.array_equal(first[left], -first[right])
    for group in range(2):
        own = left // 24 == group
        columns = second[group * 16 : (group + 1) * 16]
        assert np.array_equal(columns[:, left[own] % 24], -columns[:, right[own] % 24])
    assert not np.all(np.diff(np.sort(left)) == 1)
    assert found.dense and found.exact


def test_scales_count_the_doubled_fan_in() -> None:
    kernel = he_kernel(np.random.default_rng(0), (64, 64, 3, 3))
    for kernels in (((3, 3), (1, 1)), ((3, 3), (3, 3))):
        found = mirror(kernel, default_width(kernel, kernels, mirrored=True), kernels)
        for factor, ratio in zip(found.factors, found.scale_ratio, strict=True):
            assert ratio == pytest.approx(float(factor.std()) / math.sqrt(2 / math.prod(factor.shape[1:])), rel=0.02)
            assert 0.5 <= ratio <= 2


def test_odd_widths_and_slopes_of_zero_are_refused() -> None:
    kernel = he_kernel(np.random.default_rng(0), (6, 2, 3))
    with pytest.raises(Refusal, match="12 or 18 is"):
        mirror(kernel, 15, ((3,), (1,)), 1.0, 3)
    with pytest.raises(Refusal, match="12 or 14 is"):
        mirror(he_kernel(np.random.default_rng(0), (6, 2, 3)), 13, ((3,), (1,)))
    with pytest.raises(Refusal, match="odd part"):
        mirror(kernel, 12, ((3,), (1,)), 0.0)
    short = mirror(kernel, 6, ((3,), (1,)))
    assert not short.exact and short.least_width == 12
