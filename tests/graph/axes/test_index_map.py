from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmorph.graph.axes import NEW, IndexMap

sizes = st.integers(1, 8)


@st.composite
def index_maps(draw: st.DrawFn, parent: int | None = None) -> IndexMap:
    parent = draw(sizes) if parent is None else parent
    return IndexMap(parent, np.array(draw(st.lists(st.integers(NEW, parent - 1), min_size=1, max_size=10))))


@given(st.data())
def test_composition_is_gathering_twice(data: st.DataObject) -> None:
    first = data.draw(index_maps())
    second = data.draw(index_maps(first.child_size))
    array = np.arange(first.parent_size) + 100
    twice = second.take(first.take(array, fill=-7), fill=-7)
    np.testing.assert_array_equal(first.then(second).take(array, fill=-7), twice)


@given(index_maps())
def test_inverse_takes_the_child_back_where_nothing_was_dropped(index_map: IndexMap) -> None:
    if index_map.dropped.size:
        with pytest.raises(ValueError, match="dropped"):
            index_map.inverse()
    else:
        assert index_map.then(index_map.inverse()).is_identity


@given(index_maps())
def test_json_round_trip(index_map: IndexMap) -> None:
    assert IndexMap.from_json(json.loads(json.dumps(index_map.to_json()))) == index_map


@given(index_maps())
def test_copies_new_and_dropped_account_for_every_index(index_map: IndexMap) -> None:
    kept = index_map.copies > 0
    assert set(np.flatnonzero(~kept)) == set(index_map.new.tolist())
    shares = np.zeros(index_map.child_size)
    shares[kept] = 1 / index_map.copies[kept]
    assert np.isclose(shares.sum() + index_map.dropped.size, index_map.parent_size)


def test_sources_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="sources"):
        IndexMap(3, np.array([0, 3]))
    with pytest.raises(ValueError, match="less"):
        IndexMap.widen(4, 3)
    with pytest.raises(ValueError, match="follow"):
        IndexMap.identity(3).then(IndexMap.identity(4))


def test_maps_are_values() -> None:
    assert IndexMap.widen(2, 3) == IndexMap(2, np.array([0, 1, NEW]))
    assert len({IndexMap.identity(3), IndexMap.keep(3, [0, 1, 2])}) == 1
    assert IndexMap.identity(3).is_permutation
    assert not IndexMap.keep(3, [0, 0, 1]).is_permutation
