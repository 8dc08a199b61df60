"""Interfaces: paired by name, strict in names, order, types and shapes."""

from __future__ import annotations

import pytest

from onnxmorph._ir import ir
from onnxmorph.verify.signature import compare_signatures
from tests.verify.graphs import small_model, weights

SAME = "(float[N,4] x, int64[N] i) => (float[N,4] y, float[N,4] z)"
BODY = "y = Relu(x)\n z = Neg(x)\n u = Identity(i)"


@pytest.mark.parametrize(
    ("signature", "words"),
    [
        (SAME, None),
        ("(float[B,4] x, int64[B] i) => (float[B,4] y, float[B,4] z)", None),
        ("(int64[N] i, float[N,4] x) => (float[N,4] y, float[N,4] z)", "another order"),
        ("(float[N,4] x, int32[N] i) => (float[N,4] y, float[N,4] z)", "type"),
        ("(float[N,4] x, int64[N] i) => (float[N,4] y)", "'z' of the parent missing"),
        ("(float[N,4] x, int64[N] i, float q) => (float[N,4] y, float[N,4] z)", "'q' of the child not in the parent"),
        ("(float[1,4] x, int64[N] i) => (float[N,4] y, float[N,4] z)", "shape [N, 4] became [1, 4]"),
        ("(float[N,4,1] x, int64[N] i) => (float[N,4] y, float[N,4] z)", "became [N, 4, 1]"),
        ("(float[N,4] x, int64[M] i) => (float[N,4] y, float[N,4] z)", "no longer tied"),
        ("(float[N,5] x, int64[N] i) => (float[N,4] y, float[N,4] z)", "became [N, 5]"),
    ],
)
def test_what_a_caller_would_notice(signature: str, words: str | None) -> None:
    found = compare_signatures(small_model(SAME, BODY), small_model(signature, BODY))
    if words is None:
        assert not found.failures
    else:
        assert any(words in failure for failure in found.failures), found.failures


def test_an_output_size_of_its_own_may_be_told_more_precisely() -> None:
    open_ended = "(float[N,4] x, int64[N] i) => (float[N,M] y, float[N,4] z)"
    precise = "(float[N,4] x, int64[N] i) => (float[N,4] y, float[N,4] z)"
    found = compare_signatures(small_model(open_ended, BODY), small_model(precise, BODY))
    assert not found.failures
    assert "now declared as [N, 4]" in found.warnings[0]
    assert compare_signatures(small_model(precise, BODY), small_model(open_ended, BODY)).failures
    fixed = "(float[N,4] x, int64[N] i) => (float[1,4] y, float[N,4] z)"
    assert compare_signatures(small_model(precise, BODY), small_model(fixed, BODY)).failures


def test_untied_dimensions_must_stay_untied() -> None:
    free = small_model("(float[N,4] x, int64[M] i) => (float[N,4] y, float[N,4] z)", BODY)
    assert any("independent" in failure for failure in compare_signatures(free, small_model(SAME, BODY)).failures)


def test_overridable_initializers_are_no_inputs_a_caller_must_give() -> None:
    parent = small_model("(float[N,4] x, float[4] b) => (float[N,4] y)", "y = Add(x, b)", {"b": weights(4)})
    child = small_model("(float[N,4] x) => (float[N,4] y)", "y = Add(x, b)", {"b": weights(4)})
    found = compare_signatures(parent, child)
    assert not found.failures
    assert "'b'" in found.warnings[0]


def test_a_negative_size_is_one_that_is_left_open() -> None:
    parent, child, fixed = (
        small_model("(float[4,4] x, int64[4] i) => (float[4,4] y, float[4,4] z)", BODY) for _ in range(3)
    )
    for model, size in ((parent, -1), (child, None)):
        for value in (*model.graph.inputs, *model.graph.outputs):
            value.shape = ir.Shape([size, *(value.shape or ())[1:]])
    assert not compare_signatures(parent, child).failures and not compare_signatures(child, parent).failures
    assert compare_signatures(parent, fixed).failures
