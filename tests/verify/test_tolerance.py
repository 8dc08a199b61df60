"""Tolerances: what they allow, to the number, and that nothing else is judged where they are given."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmorph.errors import SelectionError
from onnxmorph.verify import Tolerance, Tolerances, verify
from tests.verify.graphs import replaced, small_model, weights

FINITE = st.floats(-100, 100)


@given(FINITE, FINITE, st.floats(0, 1), st.floats(0, 1))
def test_the_excess_is_above_one_where_numpy_would_say_not_close(
    parent: float, child: float, absolute: float, relative: float
) -> None:
    excess = Tolerance(absolute, relative).excess(np.asarray([parent]), np.asarray([child]))
    allowed = absolute + relative * abs(parent)
    assert (excess > 1) == (abs(child - parent) > allowed) or abs(abs(child - parent) - allowed) < 1e-9


def test_nan_and_infinity_are_close_to_themselves_alone() -> None:
    one = np.asarray([np.nan, np.inf, 1.0])
    assert Tolerance(1.0).excess(one, one.copy()) == 0
    assert Tolerance(1.0).excess(one, np.asarray([np.nan, -np.inf, 1.0])) == np.inf
    assert Tolerance(1.0).excess(one, np.asarray([0.0, np.inf, 1.0])) == np.inf
    assert Tolerance().excess(np.asarray([0.0]), np.asarray([1e-9])) == np.inf


@pytest.mark.parametrize("number", [-1.0, float("nan"), float("inf")])
def test_a_tolerance_is_a_number_from_zero_on(number: float) -> None:
    with pytest.raises(SelectionError):
        Tolerance(number)


W = weights(8, 8)
PARENT = small_model(
    "(float[N,8] x) => (float[N,8] y, float[N,8] z)", "h = MatMul(x, w)\n y = Relu(h)\n z = MatMul(h, w)", {"w": W}
)


def test_an_output_with_a_tolerance_is_judged_by_it_alone() -> None:
    child = replaced(PARENT, "w", W + np.float32(1e-4))
    assert not verify(PARENT, child, provider="cpu").equivalent
    loose = verify(PARENT, child, provider="cpu", tolerances=Tolerances(Tolerance(0.5, 0.1)))
    assert loose.equivalent, loose.failures
    document = loose.to_json()["outputs"][0]
    assert document["status"] == "within-tolerance" and 0 < document["excess"] < 1
    assert document["tolerance"] == {"absolute": 0.5, "relative": 0.1}
    assert any("inner value 'h'" in warning for warning in loose.warnings)


def test_faults_must_be_larger_to_be_seen_by_a_loose_tolerance() -> None:
    assert verify(PARENT, PARENT, provider="cpu").detectable_fault == 0.01
    loose = verify(PARENT, PARENT, provider="cpu", tolerances=Tolerances(Tolerance(0.5)))
    assert loose.detectable_fault is None or loose.detectable_fault > 0.05


def test_outputs_without_one_keep_to_the_noise() -> None:
    child = replaced(PARENT, "w", W + np.float32(1e-4))
    certificate = verify(PARENT, child, provider="cpu", tolerances=Tolerances(None, {"y": Tolerance(0.5)}))
    assert [leaf.status for leaf in certificate.outputs] == ["within-tolerance", "differs"]


def test_a_tolerance_may_be_tighter_than_noise() -> None:
    body = PARENT
    order = np.random.default_rng(0).permutation(8)
    child = small_model(
        "(float[N,8] x) => (float[N,8] y, float[N,8] z)",
        "p = Gather<axis=1>(x, o)\n h = MatMul(p, v)\n y = Relu(h)\n z = MatMul(h, w)",
        {"w": W, "v": W[order], "o": order},
    )
    assert verify(body, child, provider="cpu").equivalent
    exact = verify(body, child, provider="cpu", tolerances=Tolerances(Tolerance(0.0, 0.0)))
    assert not exact.equivalent and "tolerance" in exact.failures[0]


def test_a_tolerance_for_nobody() -> None:
    with pytest.raises(SelectionError, match="no output 'yy'; did you mean 'y'"):
        verify(PARENT, PARENT, provider="cpu", tolerances=Tolerances(None, {"yy": Tolerance(1.0)}))
