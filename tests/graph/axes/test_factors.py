"""The terms against numpy: what a gather says must be what indexing the spelled-out array gives."""

from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxmorph.graph.axes.factors import Expr, Factors
from onnxmorph.graph.axes.notes import Block, Pin


def blocked(factors: Factors, expr: Expr) -> bool:
    return any(factors.notes(leaf, Block) for leaf in factors.leaves(expr))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_gather_of_a_product_is_indexing_each_factor(sizes: list[int], data: st.DataObject) -> None:
    factors = Factors()
    expr = tuple(factors.atom(size) for size in sizes)
    chosen = [data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=5)) for size in sizes]
    array = np.arange(math.prod(sizes)).reshape(sizes)
    expected = array[np.ix_(*chosen)].reshape(-1)
    maps = {atom: np.array(index) for atom, index in zip(expr, chosen, strict=True)}
    np.testing.assert_array_equal(factors.gather(expr, maps), expected)


@given(st.integers(2, 4), st.integers(1, 4), st.integers(1, 4), st.permutations(range(4)))
def test_a_cut_axis_follows_a_map_of_its_segment(rows: int, left: int, right: int, order: list[int]) -> None:
    factors = Factors()
    total = factors.axis(left + right)
    parts = factors.cut(total, left)
    assert parts is not None
    inner = factors.atom(rows)
    whole = (*total, inner)
    permutation = np.array([index for index in order if index < left])
    array = np.arange((left + right) * rows).reshape(left + right, rows)
    expected = np.concatenate([array[:left][permutation], array[left:]]).reshape(-1)
    np.testing.assert_array_equal(factors.gather(whole, {factors.find(parts[0][0]): permutation}), expected)


factorizations = st.sampled_from([(2, 3, 4), (6, 4), (2, 12), (24,), (2, 3, 2, 2), (4, 6), (3, 8), (8, 3), (12, 2)])


@given(factorizations, factorizations)
def test_unify_gives_common_factors_or_blocks_both(one: tuple[int, ...], two: tuple[int, ...]) -> None:
    factors = Factors()
    left, right = (tuple(factors.atom(size) for size in sizes) for sizes in (one, two))
    worked = factors.unify(left, right)
    boundaries = [{math.prod(sizes[index:]) for index in range(len(sizes))} for sizes in (one, two)]
    merged = sorted(boundaries[0] | boundaries[1])
    nests = all(large % small == 0 for small, large in itertools.pairwise(merged))
    assert worked == nests
    if worked:
        assert factors.same(left, right)
        assert not blocked(factors, left)
    else:
        assert blocked(factors, left)
        assert blocked(factors, right)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_two_concatenations_of_one_size_are_cut_at_both_boundaries(one: list[int], two: list[int]) -> None:
    short = sum(one) - sum(two)
    if short:
        (two if short > 0 else one).append(abs(short))
    factors = Factors()
    left = factors.sum([factors.axis(size) for size in one])
    right = factors.sum([factors.axis(size) for size in two])
    assert factors.unify(left, right)
    ends = set(np.cumsum(one).tolist()) | set(np.cumsum(two).tolist())
    assert [factors.size((leaf,)) for leaf in factors.leaves(left)] == np.diff([0, *sorted(ends)]).tolist()


def test_rows_against_halves_ties_the_halves_and_fixes_the_rows() -> None:
    factors = Factors()
    halves = factors.sum([factors.axis(3), factors.axis(3)])
    rows, inside = factors.atom(2), factors.atom(3)
    assert factors.unify(halves, (rows, inside))
    assert len(set(factors.leaves(halves)) - {factors.find(rows)}) == 1
    assert factors.notes(rows, Pin)
    assert not factors.notes(inside, Pin)


def test_a_sum_of_multiples_factors_out_the_inner_axis() -> None:
    factors = Factors()
    sum_ = factors.sum([factors.axis(6), factors.axis(4)])
    product = (factors.atom(5), factors.atom(2))
    assert factors.unify(sum_, product)
    assert factors.text(sum_) == "[3|2]x2"


def test_channel_shuffle_twice_is_consistent() -> None:
    factors = Factors()
    channels = factors.axis(12)
    outer, rest = factors.take_outer(factors.factors(channels), 3) or ((), [])
    shuffled = (*rest, *outer)
    assert factors.unify(shuffled, factors.axis(12))
    permutation = np.array([3, 1, 0, 2])
    gathered = factors.gather(shuffled, {rest[0]: permutation})
    np.testing.assert_array_equal(gathered, (permutation[:, None] * 3 + np.arange(3)).reshape(-1))


def test_notes_reach_every_part_of_what_is_cut_later() -> None:
    factors = Factors()
    axis = factors.axis(6, Pin("graph-output", "y"))
    factors.cut(axis, 2)
    factors.split(next(factors.leaves(axis)), 2, 1)
    assert all(factors.notes(leaf, Pin) for leaf in factors.leaves(axis))
    other = factors.axis(6)
    factors.unify(axis, other)
    assert all(factors.notes(leaf, Pin) for leaf in factors.leaves(other))


def test_an_axis_that_holds_itself_is_blocked() -> None:
    factors = Factors()
    seen = factors.axis(None)
    assert not factors.unify(seen, factors.sum([seen, factors.axis(1)]))
    assert blocked(factors, seen)


def test_a_cut_inside_rows_fixes_the_rows() -> None:
    factors = Factors()
    rows, inside = factors.atom(2), factors.atom(4)
    parts = factors.cut((rows, inside), 6)
    assert parts is not None
    assert [factors.size(part) for part in parts] == [6, 2]
    assert factors.notes(rows, Pin)
    assert [factors.size((leaf,)) for leaf in factors.leaves((inside,))] == [2, 2]


def test_the_segment_of_unknown_size_has_what_the_others_leave() -> None:
    factors = Factors()
    unknown = factors.axis(None)
    assert factors.unify(factors.sum([factors.axis(3), unknown]), factors.axis(8))
    assert factors.size(unknown) == 5
