"""How distances are measured. What the limit rests on: docs/fault_detection.md, by benchmarks/fault_detection.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmorph.verify.certificate import Comparison
from onnxmorph.verify.compare import LIMIT, flatten, measure, record


def f32(numbers: list[float] | list[list[float]]) -> np.ndarray:
    return np.asarray(numbers, np.float32)


def noisy(array: np.ndarray, scale: float, seed: int = 0) -> np.ndarray:
    return (array + np.random.default_rng(seed).standard_normal(array.shape) * scale).astype(array.dtype)


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def test_equal_values_have_ratio_zero() -> None:
    parent = values(2, 8, 5, 5)
    measured = measure(parent, parent.copy(), [noisy(parent, 1e-6)])
    assert (measured.ratio, measured.channel_ratio, measured.max_abs) == (0.0, 0.0, 0.0)


@given(st.integers(0, 1000), st.sampled_from([1e-6, 1e-4, 1e-2]))
def test_a_difference_like_the_noise_is_within_the_limit(seed: int, scale: float) -> None:
    parent = values(2, 8, 5, 5)
    measured = measure(parent, noisy(parent, scale, seed), [noisy(parent, scale, seed + 1)])
    assert 0 < measured.worst() < 5


@given(st.integers(0, 7), st.sampled_from([1, 3]))
def test_one_wrong_channel_under_large_ones_is_named(channel: int, axis: int) -> None:
    parent = values(2, 8, 5, 8)
    sizes = np.full(8, 100.0, np.float32)
    sizes[channel] = 1.0
    parent = parent * sizes.reshape([-1 if place == axis else 1 for place in range(4)])
    child = noisy(parent, 1e-5, 3)
    np.moveaxis(child, axis, 0)[channel] *= 1.002
    measured = measure(parent, child, [noisy(parent, 1e-5)])
    assert measured.channel_ratio > LIMIT
    assert measured.channel == (axis, channel)


def test_a_lone_element_that_happened_not_to_move_is_allowed_its_share() -> None:
    """Behind a softmax numbers move by a share of their own, and one run of one number may show nothing of it."""
    parent = np.geomspace(1e-6, 0.3, 400, dtype=np.float32).reshape(1, 400, 1, 1)
    moves = np.where(np.arange(400) % 3 == 0, 0.0, 4e-7).reshape(parent.shape)
    run = (parent * (1 + moves)).astype(np.float32)
    child = (parent * (1 + 2e-6)).astype(np.float32)
    assert measure(parent, child, [run]).channel_ratio < 8
    assert measure(parent, (parent * (1 + 2e-5)).astype(np.float32), [run]).channel_ratio > LIMIT


@pytest.mark.parametrize("axis", [1, 3])
def test_a_steady_error_in_one_channel_differs_though_no_element_stands_out(axis: int) -> None:
    parent = values(2, 8, 9, 8)
    child = noisy(parent, 1e-4, 3)
    np.moveaxis(child, axis, 0)[5] += 4e-3
    measured = measure(parent, child, [noisy(parent, 1e-4)])
    assert measured.ratio < LIMIT < measured.channel_ratio
    comparison = Comparison("y", "y", "float32")
    record(comparison, measured, 0)
    assert comparison.status == "differs"
    assert comparison.channel == (axis, 5)


def test_nan_and_infinity_in_the_same_places_are_equal() -> None:
    parent = f32([[np.nan, np.inf, -np.inf, 1.0]])
    assert measure(parent, parent.copy(), []).worst() == 0
    assert measure(parent, f32([[0.0, np.inf, -np.inf, 1.0]]), []).worst() == np.inf
    assert measure(parent, f32([[np.nan, -np.inf, -np.inf, 1.0]]), []).worst() == np.inf


def test_places_where_the_parent_flips_to_nan_are_left_out() -> None:
    parent, moved = f32([1.0, 2.0]), f32([np.nan, 2.0])
    assert measure(parent, f32([np.nan, 2.0]), [moved]).worst() == 0


@pytest.mark.parametrize("shape", [(), (1,), (2, 1)])
def test_values_of_any_rank_may_flip_to_nan(shape: tuple[int, ...]) -> None:
    """A single number is what a mean over everything leaves, and numpy's arithmetic makes no array of it."""
    one, nan = np.ones(shape, np.float32), np.full(shape, np.nan, np.float32)
    assert measure(one, one, [nan]).ratio == 0
    assert measure(one, nan, [one]).ratio == float("inf")
    assert measure(nan, nan, [one, nan], moved_child=one).ratio == 0


def test_single_numbers_are_values_too() -> None:
    parent, child, run = (np.asarray(number, np.float32) for number in (1.0, 1.0 + 1e-6, 1.0 + 2e-6))
    assert measure(parent, child, [run], [parent], moved_child=run).worst() < LIMIT
    assert measure(parent, np.asarray(np.nan, np.float32), [run], moved_child=run).worst() == np.inf


@pytest.mark.parametrize("child", [np.asarray([1.0]), f32([[1.0]]), None])
def test_type_shape_and_presence_must_agree(child: np.ndarray | None) -> None:
    measured = measure(f32([1.0]), child, [])
    assert measured.worst() == np.inf
    assert measured.reason


def test_a_parent_that_does_not_repeat_itself_is_no_measure() -> None:
    parent = values(4, 4)
    assert measure(parent, parent, [], [noisy(parent, 0.1)]).nondeterministic
    assert not measure(parent, parent, [], [noisy(parent, 1e-6)]).nondeterministic
    assert measure(np.asarray([1, 2]), np.asarray([1, 2]), [], [np.asarray([1, 3])]).nondeterministic


def test_exact_zeros_may_become_rounding_and_no_more() -> None:
    parent = np.zeros((2, 4), np.float32)
    assert measure(parent, np.full_like(parent, 1e-7), []).worst() < LIMIT
    assert measure(parent, np.full_like(parent, 1e-3), []).worst() > LIMIT


def test_the_childs_own_noise_counts_up_to_twenty_times_the_parents() -> None:
    parent = values(4, 64)
    child = noisy(parent, 5e-5, 2)
    alone = measure(parent, child, [noisy(parent, 1e-6)])
    conditioned = measure(parent, child, [noisy(parent, 1e-6)], moved_child=noisy(child, 1.0))
    assert alone.worst() > LIMIT > conditioned.worst() > alone.worst() / 25


def test_integers_must_be_equal_unless_the_parent_flips() -> None:
    parent = np.arange(100)
    child = parent.copy()
    child[:3] += 1
    assert measure(parent, child, [parent]).worst() == np.inf
    flipped = parent.copy()
    flipped[10] += 1
    assert measure(parent, child, [flipped]).worst() <= 1
    child[:50] += 1
    assert measure(parent, child, [flipped]).worst() == np.inf


def test_quantized_bytes_may_flip_by_steps_the_parent_makes() -> None:
    parent = np.full(1000, 100, np.uint8)
    flipped, child, wrong = parent.copy(), parent.copy(), parent.copy()
    flipped[:4] += 1
    child[10:14] += 1
    wrong[10:14] += 30
    assert measure(parent, child, [flipped]).worst() <= 1
    assert measure(parent, wrong, [flipped]).worst() == np.inf


def test_strings() -> None:
    parent = np.asarray(["a", "b"], object)
    assert measure(parent, parent.copy(), []).worst() == 0
    assert "strings" in str(measure(parent, np.asarray(["a", "c"], object), []).reason)


def test_flatten_sequences_maps_and_nothing() -> None:
    flat = flatten([np.zeros(2), [np.ones(1)]], "y")
    assert list(flat) == ["y.length", "y[0]", "y[1].length", "y[1][0]"]
    rows = flatten([{1: 0.5, 0: 0.25}, {0: 0.1, 1: 0.9}], "p")
    assert rows["p"] is not None
    assert rows["p"].tolist() == np.asarray([[0.25, 0.5], [0.1, 0.9]], np.float32).tolist()
    assert flatten(None, "o") == {"o": None}


def test_numbers_of_maps_round_as_the_floats_that_zipmap_gives() -> None:
    """ONNX Runtime hands them out as Python's doubles, of which one float rounding is a billion."""
    numbers = np.asarray([0.7, 0.3], np.float32)
    for maps in ([{0: 0.7, 1: 0.3}], {"a": 0.7, "b": 0.3}):
        flat = flatten(maps, "p")["p"]
        assert flat is not None and flat.dtype == np.float32
    parent = flatten([dict(enumerate(numbers.tolist()))], "p")["p"]
    child = flatten([dict(enumerate(np.nextafter(numbers, np.float32(1)).tolist()))], "p")["p"]
    assert measure(parent, child, []).worst() < LIMIT
    assert flatten([{0: 1, 1: 2}], "p")["p"].dtype.kind == "i"  # type: ignore[union-attr]


def test_record_keeps_the_worst_run() -> None:
    comparison = Comparison("y", "y", "float32")
    parent = values(2, 8)
    for run, scale in enumerate((1e-6, 1e-4, 1e-6)):
        record(comparison, measure(parent, noisy(parent, scale, run), [noisy(parent, 1e-6, 9)]), run)
    assert comparison.status == "differs"
    assert comparison.worst_input == 1
    assert comparison.ratio > LIMIT
