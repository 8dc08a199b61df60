"""New channels beside a kernel, and an identity that does not read them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmorph.equation import beside, compose, embed, extent
from onnxmorph.errors import Refusal


@given(
    groups=st.integers(1, 3),
    kept=st.integers(1, 3),
    new=st.integers(0, 3),
    inputs=st.integers(1, 3),
    taps=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), max_size=3),
    seed=st.integers(0, 99),
)
def test_the_factors_compose_to_the_kernel_to_the_last_bit(
    groups: int, kept: int, new: int, inputs: int, taps: list[tuple[int, int]], seed: int
) -> None:
    own, second = [pair[0] for pair in taps], [pair[1] for pair in taps]
    random = np.random.default_rng(seed)
    kernel = random.standard_normal((groups * kept, inputs, *own)).astype(np.float32)
    found = beside(kernel, groups * (kept + new), second, groups, rng=seed)
    offset = [(size - 1) // 2 for size in second]
    np.testing.assert_array_equal(compose(found.factors, groups), embed(kernel, extent((own, second)), offset))
    assert found.fresh is not None and found.fresh.sum() == groups * new
    first, last = found.factors
    fresh = found.fresh.reshape(groups, -1)
    read = last.reshape(groups, kept, kept + new, -1)
    for group in range(groups):
        assert not read[group][:, fresh[group]].any()
        assert np.count_nonzero(read[group][:, ~fresh[group]]) == kept
    assert np.all(first[found.fresh] != 0)


def test_new_channels_have_the_scale_of_the_kernel_and_he_scale_where_it_has_none() -> None:
    kernel = np.random.default_rng(0).standard_normal((8, 64)) * 0.03
    found = beside(kernel, 4096, ())
    assert found.fresh is not None
    assert found.factors[0][found.fresh].std() == pytest.approx(0.03, rel=0.1)
    nothing = beside(np.zeros((8, 64)), 4096, ())
    assert nothing.fresh is not None
    assert nothing.factors[0][nothing.fresh].std() == pytest.approx(np.sqrt(2 / 64), rel=0.01)


def test_widths_that_cannot_be_are_refused_with_those_that_can() -> None:
    kernel = np.ones((6, 1, 3), np.float32)
    with pytest.raises(Refusal, match="12 and 15 do") as caught:
        beside(kernel, 13, (1,), groups=3)
    assert caught.value.code == "width-groups"
    with pytest.raises(Refusal, match="6 and more"):
        beside(kernel, 3, (1,), groups=3)
