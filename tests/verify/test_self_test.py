"""The self-test: what a fault cannot do is told apart from what the comparison cannot see."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmorph.verify import verify
from onnxmorph.verify.self_test import silenced_by
from tests.verify.graphs import small_model, weights

SIGNATURE = "(float[N,8] x) => (float[N,8] y)"
PARENT = small_model(SIGNATURE, "h = MatMul(x, w)\n y = Relu(h)", {"w": weights(8, 8)})
BRANCH = "h = MatMul(x, w)\n a = MatMul(h, m)\n b = Relu(a)\n c = MatMul(b, z)\n s = Add(h, c)\n y = Relu(s)"
CHILD = small_model(SIGNATURE, BRANCH, {"w": weights(8, 8), "m": weights(8, 8, seed=1), "z": np.zeros((8, 8), np.float32)})  # fmt: skip  # noqa: E501


def test_a_branch_that_begins_silent_is_not_called_blind() -> None:
    certificate = verify(PARENT, CHILD, provider="cpu")
    assert certificate.equivalent and certificate.detectable_fault is not None
    assert not any("blind" in warning for warning in certificate.warnings)
    assert any("'m'" in warning and "multiplied by 'z'" in warning for warning in certificate.warnings)
    assert any(fault["weight"] == "z" and fault["seen"] for fault in certificate.faults)


def test_what_silences_a_weight() -> None:
    assert silenced_by(CHILD, "m") == ["z"]
    assert silenced_by(CHILD, "w") == []
    assert silenced_by(CHILD, "z") == []
    assert silenced_by(CHILD, "nobody") == []


def test_dead_units_are_named_as_such() -> None:
    bias = np.full(8, -1e6, np.float32)
    body = "h = MatMul(x, w)\n {0} = Add(h, b)\n {1} = Relu({0})\n d = MatMul({1}, v)\n y = Add(d, x)"
    tensors = {"w": weights(8, 8), "b": bias, "v": weights(8, 8, seed=2)}
    parent = small_model(SIGNATURE, body.format("p", "q"), tensors)
    child = small_model(SIGNATURE, body.format("s", "t").replace("d = ", "e = ").replace("Add(d", "Add(e"),
                        tensors | {"v": weights(8, 8, seed=3)})  # fmt: skip
    assert verify(parent, child, provider="cpu").verdict == "unproven"
    certificate = verify(parent, child, provider="cpu", inner=False)
    assert certificate.equivalent and certificate.detectable_fault is None
    assert any("no effect" in warning and "'v'" in warning for warning in certificate.warnings)


def test_places_are_looked_for_until_one_has_an_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmorph.verify.self_test._SECONDS", 0.0)
    bias = np.where(np.arange(64) % 8 == 3, 0, -1e6).astype(np.float32)
    body = "h = MatMul(x, w)\n p = Add(h, b)\n q = Relu(p)\n y = MatMul(q, v)"
    tensors = {"w": weights(8, 64), "b": bias, "v": weights(64, 8, seed=2)}
    parent = small_model(SIGNATURE, body, tensors)
    child = small_model(SIGNATURE, body, tensors | {"w": np.where(bias < 0, 2, 1).astype(np.float32) * weights(8, 64)})
    for seed in range(4):
        certificate = verify(parent, child, provider="cpu", inner=False, seed=seed, time_budget=0)
        assert certificate.equivalent and certificate.detectable_fault is not None
