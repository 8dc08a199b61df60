from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmorph.equation import compose, embed, extent, identity_kernel, inner_offset, outer_bias
from onnxmorph.errors import Refusal
from tests.equation.oracle import composition, convolve, distance

sizes = st.integers(1, 3)


@st.composite
def joined_kernels(draw: st.DrawFn) -> tuple[list[np.ndarray], int]:
    groups, axes = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    channels = draw(st.lists(sizes, min_size=3, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    limit = 2 if axes == 3 else 3
    factors = [
        rng.standard_normal((groups * out, into, *(draw(st.integers(1, limit)) for _ in range(axes))))
        for into, out in itertools.pairwise(channels)
    ]
    return factors, groups


@settings(max_examples=60, deadline=None)
@given(joined_kernels())
def test_compose_is_the_sum_over_joined_taps(case: tuple[list[np.ndarray], int]) -> None:
    factors, groups = case
    wanted = factors[0]
    for factor in factors[1:]:
        wanted = composition(wanted, factor, groups)
    assert distance(compose(factors, groups), wanted) < 1e-14


def test_compose_is_one_convolution_after_the_other() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((4, 3, 3, 2)), rng.standard_normal((6, 2, 2, 3))
    x = rng.standard_normal((6, 8, 9))
    assert distance(convolve(x, compose([first, second], 2), 2), convolve(convolve(x, first, 2), second, 2)) < 1e-14


def test_compose_agrees_with_scipy() -> None:
    from scipy.signal import convolve as full

    rng = np.random.default_rng(1)
    first, second = rng.standard_normal((1, 1, 4, 3)), rng.standard_normal((1, 1, 2, 5))
    assert np.allclose(compose([first, second])[0, 0], full(first[0, 0], second[0, 0]))


def test_compose_takes_a_large_second_factor_in_blocks() -> None:
    rng = np.random.default_rng(2)
    first = rng.standard_normal((2100, 2)).astype(np.float32)
    second = rng.standard_normal((2100, 2100)).astype(np.float32)
    assert distance(compose([first, second]), second.astype(np.float64) @ first.astype(np.float64)) < 1e-13


def test_factors_that_do_not_join_are_refused() -> None:
    with pytest.raises(Refusal, match="4 channels out of the first, 5 into the second"):
        compose([np.ones((4, 2)), np.ones((3, 5))])


def test_extent_adds_up_less_one_per_join() -> None:
    assert extent([(3, 5), (3, 1), (2, 2)]) == (6, 6)
    assert extent([(), ()]) == ()


@given(st.integers(1, 5), st.integers(0, 4), st.data())
def test_embed_keeps_every_tap_and_adds_only_zeros(kernel: int, spare: int, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, spare))
    array = np.arange(1.0, kernel + 1).reshape(1, 1, kernel)
    grown = embed(array, (kernel + spare,), (offset,))
    assert np.array_equal(grown[0, 0, offset : offset + kernel], array[0, 0])
    assert np.count_nonzero(grown) == kernel


def test_an_odd_difference_needs_an_offset() -> None:
    with pytest.raises(Refusal, match="odd"):
        inner_offset((3,), (4,))
    assert inner_offset((3,), (4,), (1,)) == (1,)
    with pytest.raises(Refusal, match="outside"):
        inner_offset((3,), (4,), (2,))
    with pytest.raises(Refusal, match="does not fit"):
        embed(np.ones((1, 1, 5)), (3,))


@given(st.integers(1, 3), st.integers(1, 3), st.lists(st.integers(1, 4), max_size=2))
def test_identity_kernel_passes_every_channel_on(groups: int, per_group: int, kernel: list[int]) -> None:
    channels = groups * per_group
    array = identity_kernel(channels, kernel, groups, np.float64)
    x = np.random.default_rng(0).standard_normal((channels, *(5 for _ in kernel)))
    pads = [(0, 0)] + [((k - 1) // 2, k - 1 - (k - 1) // 2) for k in kernel]
    assert np.array_equal(convolve(np.pad(x, pads), array, groups), x)


def test_identity_kernel_of_an_even_size_takes_the_tap_it_is_told() -> None:
    assert identity_kernel(1, (4,), tap=(2,))[0, 0].tolist() == [0, 0, 1, 0]
    assert identity_kernel(1, (4,))[0, 0].tolist() == [0, 1, 0, 0]
    with pytest.raises(Refusal, match="outside"):
        identity_kernel(1, (4,), tap=(4,))


def test_outer_bias_undoes_an_inner_one() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.standard_normal((6, 2, 3)), rng.standard_normal((4, 3, 3))
    inner, bias = rng.standard_normal(6), rng.standard_normal(4)
    x = rng.standard_normal((4, 9))
    wanted = convolve(convolve(x, first, 2), second, 2) + bias[:, None]
    hidden = convolve(x, first, 2) + inner[:, None]
    assert np.allclose(convolve(hidden, second, 2) + outer_bias(second, inner, bias, 2)[:, None], wanted)
    assert np.allclose(outer_bias(second, inner, None, 2) + bias, outer_bias(second, inner, bias, 2))
