"""One rounding: to a neighbouring number, and only what looks measured or trained."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxmorph.verify.noise import moved, moved_tensors, moved_weights
from tests.verify.graphs import small_model, weights


@given(arrays(np.float32, 20, elements=st.floats(width=32)), st.integers(0, 99))
def test_every_number_stays_or_moves_to_a_neighbour(array: np.ndarray, seed: int) -> None:
    result = moved(array, np.random.default_rng(seed))
    stays = (result == array) | (np.isnan(result) & np.isnan(array))
    with np.errstate(over="ignore"):
        up, down = np.nextafter(array, np.float32(np.inf)), np.nextafter(array, np.float32(-np.inf))
    assert (stays | (result == up) | (result == down)).all()
    with np.errstate(invalid="ignore"):
        assert stays[(array == np.rint(array)) | ~np.isfinite(array)].all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_trained_numbers_do_move(dtype: Any) -> None:
    array = weights(1000).astype(dtype)
    result = moved(array, np.random.default_rng(0))
    assert result.dtype == array.dtype
    share = np.mean(result != array)
    assert share > 0.95
    step = np.max(np.abs(result.astype(np.float64) - array.astype(np.float64)) / np.abs(array.astype(np.float64)))
    assert step <= float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]


def test_weights_move_and_sizes_do_not() -> None:
    body = "h = Conv<pads=[1,1,1,1]>(x, w)\n y = Resize(h, , scales)"
    tensors = {"w": weights(2, 2, 3, 3), "scales": np.asarray([1, 1, 1.5, 1.5], np.float32)}
    model = small_model("(float[N,2,8,8] x) => (float[N,2,A,B] y)", body, tensors)
    copy = moved_weights(model, np.random.default_rng(0))
    before, after = model.graph.initializers, copy.graph.initializers
    assert after["scales"].const_value is before["scales"].const_value
    assert (np.asarray(after["w"].const_value.numpy()) != tensors["w"]).any()  # type: ignore[union-attr]
    assert (np.asarray(before["w"].const_value.numpy()) == tensors["w"]).all()  # type: ignore[union-attr]
    none = moved_weights(model, np.random.default_rng(0), only=set())
    assert none.graph.initializers["w"].const_value is before["w"].const_value


def test_whole_numbers_move_in_weights_of_layers_when_asked() -> None:
    signs = np.asarray([[1, -1, 0], [-1, 1, 0]], np.float32)
    body = "h = MatMul(x, w)\n ones = Equal(mask, one)\n y = Where(ones, h, x)"
    tensors = {"w": signs[:, :2], "mask": np.ones((1, 2), np.float32), "one": np.ones(2, np.float32)}
    model = small_model("(float[N,2] x) => (float[N,2] y)", body, tensors)
    values = model.graph.initializers
    found = moved_tensors(model, np.random.default_rng(0), whole=True)
    assert (found[values["w"]].numpy() != signs[:, :2]).all() and (found[values["mask"]].numpy() == 1).all()
    kept = moved_tensors(model, np.random.default_rng(0))
    assert (kept[values["w"]].numpy() == signs[:, :2]).all()
    assert (moved(signs, np.random.default_rng(0), whole=True)[:, 2] == 0).all()
