"""Values behind a quantizer or a comparison may fall to the other side of a border: seldom, and by a whole step."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmorph.verify.certificate import Certificate
from onnxmorph.verify.discontinuity import jumping
from onnxmorph.verify.reference import Reference
from onnxmorph.verify.runner import Stage
from onnxmorph.verify.tolerance import Tolerances
from onnxmorph.verify.verdict import Verdict
from tests.verify.graphs import small_model, weights

FLAT = "(float[N,32] x) => (float[N,10] y)"


def test_only_what_follows_a_jump_jumps() -> None:
    body = "h = MatMul(x, w)\n r = Round(h)\n s = Neg(h)\n t = Add(r, s)\n y = MatMul(t, v)"
    model = small_model(FLAT, body, {"w": weights(32, 64), "v": weights(64, 10)})
    assert jumping(model) == {"r", "t", "y"}


def test_what_comes_before_a_change_falls_to_the_same_side() -> None:
    body = "q = Round(x)\n h = MatMul(q, w)\n r = Round(h)\n y = MatMul(r, v)"
    model = small_model(FLAT, body, {"w": weights(32, 64), "v": weights(64, 10)})
    quantized, first, again, second = model.graph
    assert jumping(model, {first}) == {"r", "y"}
    assert jumping(model, {second}) == set()
    assert jumping(model, {again}) == {"r", "y"}
    assert jumping(model, {quantized}) == jumping(model) == {"q", "h", "r", "y"}


@pytest.mark.parametrize(
    ("body", "jumps"),
    [
        ("s = Shape(x)\n c = Cast<to=1>(s)\n q = ReduceSum(c)\n y0 = MatMul(x, w)\n y = Mul(y0, q)", False),
        ("c = Greater(x, zero)\n m = Where(c, x, zero)\n y = MatMul(m, w)", True),
        ("i = Cast<to=7>(x)\n c = Cast<to=1>(i)\n y = MatMul(c, w)", True),
        ("r = Relu(x)\n m = Max(r, zero)\n y = MatMul(m, w)", False),
    ],
)
def test_comparisons_of_sizes_do_not_jump_and_those_of_numbers_do(body: str, jumps: bool) -> None:
    model = small_model(FLAT, body, {"w": weights(32, 10), "zero": np.zeros((), np.float32)})
    assert ("y" in jumping(model)) is jumps


def judged(differing: int, runs: int, step: float) -> Certificate:
    """``runs`` sets of inputs, in so many of which one element is off by ``step``; the parent's own steps are 0.01."""
    certificate = Certificate(equivalent=False, provider="", inputs=runs, limit=16.0)
    verdict = Verdict(certificate, Stage("", ["y"]), Tolerances(), set())
    verdict.jumping = {"y"}
    parent = weights(4, 8)
    coarse = parent.copy()
    coarse[0, 0] += 0.01
    for run in range(runs):
        child = parent.copy()
        child[1, 1] += step if run < differing else 0
        reference = Reference({}, ["y"], {"y": parent}, near=[{"y": parent + np.float32(1e-7)}], escalated=True)
        reference.coarse.append({"y": coarse})
        assert verdict.take(reference, {"y": child}, run, optimised=False)
    verdict.conclude()
    return certificate


def test_one_step_on_few_inputs_is_rounding_and_said() -> None:
    certificate = judged(2, 9, 0.01)
    assert not certificate.failures
    assert any("other side of a border" in warning for warning in certificate.warnings)


def test_steps_on_many_inputs_and_larger_ones_are_errors() -> None:
    assert judged(5, 9, 0.01).failures
    assert judged(1, 9, 0.03).failures
    assert judged(9, 9, 1e-4).failures
