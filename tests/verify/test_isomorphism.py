"""Nodes are told by operators and wiring, whatever they are called."""

from __future__ import annotations

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.verify import verify
from onnxmorph.verify.changes import changes
from onnxmorph.verify.isomorphism import twins
from tests.verify.graphs import replaced, small_model, weights

FLAT = "(float[N,32] x) => (float[N,10] y)"


def model(*names: str, activation: str = "Relu") -> ir.Model:
    a, b, c = names
    body = f"{a} = MatMul(x, w)\n {b} = {activation}({a})\n {c} = MatMul({b}, v)\n y = Add({c}, bias)"
    return small_model(FLAT, body, {"w": weights(32, 64), "v": weights(64, 10, seed=1), "bias": weights(10, seed=2)})


def test_every_node_has_its_twin_under_other_names() -> None:
    found = twins(model("a", "b", "c"), model("p", "q", "r"))
    assert [(one.outputs[0].name, other.outputs[0].name) for one, other in found.items()] == [
        ("a", "p"),
        ("b", "q"),
        ("c", "r"),
        ("y", "y"),
    ]


def test_what_follows_another_operator_has_no_twin() -> None:
    found = twins(model("a", "b", "c"), model("p", "q", "r", activation="Tanh"))
    assert [node.outputs[0].name for node in found] == ["a"]


def test_only_the_weight_that_changed_is_moved_for_noise() -> None:
    parent, child = model("a", "b", "c"), model("p", "q", "r")
    assert changes(parent, child).region == set()
    moved = weights(32, 64)
    moved[3, 5] += 1e-3
    assert changes(parent, replaced(child, "w", moved)).region == {"w"}


def test_a_small_fault_is_seen_though_no_inner_name_is_left() -> None:
    parent, child = model("a", "b", "c"), model("p", "q", "r")
    assert verify(parent, child, provider="cpu", faults=False).equivalent
    moved = weights(32, 64)
    moved[3, 5] += 1e-3 * np.std(moved)
    assert not verify(parent, replaced(child, "w", moved), provider="cpu", faults=False).equivalent
