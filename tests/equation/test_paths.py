from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmorph.equation import split
from onnxmorph.errors import Refusal
from tests.equation.oracle import padded, trained_kernel


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from([1, 2, 3, 5, ((3, 3), (1, 1)), ((1, 1), (5, 5), (3, 3)), ((3, 1), (3, 3), (1, 3))]),
    st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16, np.float64]),
    st.sampled_from([0.0, 0.5, 3.0]),
    st.integers(0, 99),
)
def test_the_parts_add_up_to_the_kernel_exactly(paths, kind, noise: float, seed: int) -> None:
    kernel = trained_kernel(np.random.default_rng(seed), (9, 4, 3, 3), dtype=kind)
    parts = split(kernel, paths, rng=seed, noise=noise)
    total = np.zeros(kernel.shape, np.longdouble)
    for part in parts:
        assert part.dtype == kernel.dtype
        total += padded(part, (3, 3), tuple((3 - k) // 2 for k in part.shape[2:]))
    assert np.array_equal(total, kernel.astype(np.float64))


def test_parts_differ_share_the_scale_and_leave_no_zeros() -> None:
    kernel = np.random.default_rng(0).standard_normal((32, 32, 3, 3)).astype(np.float32)
    parts = split(kernel, 3)
    scales = [float(np.sqrt(np.square(part).mean())) for part in parts]
    assert max(scales) < 2.5 * min(scales)
    assert all(np.count_nonzero(part) > 0.999 * part.size for part in parts)
    assert abs(np.corrcoef(parts[0].ravel(), parts[1].ravel())[0, 1]) < 0.9
    assert np.allclose(split(kernel, 4, noise=0.0)[0], kernel / 4, rtol=1e-6)


def test_zeros_of_the_parent_are_filled_in_pairs() -> None:
    parts = split(np.zeros((8, 8), np.float32) + np.eye(8, dtype=np.float32), 2)
    assert all(np.count_nonzero(part) > 0.9 * part.size for part in parts)


def test_paths_that_miss_a_tap_or_have_no_centre_are_refused() -> None:
    kernel = np.ones((2, 2, 3, 3), np.float32)
    with pytest.raises(Refusal, match="no path reaches every tap"):
        split(kernel, [(1, 1), (1, 3)])
    with pytest.raises(Refusal, match="no centre"):
        split(kernel, [(3, 3), (2, 2)])
    with pytest.raises(Refusal, match="at least one"):
        split(kernel, 0)
