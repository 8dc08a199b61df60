"""Fused projections: which places become queries, keys, values; and what that is good for."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmorph._ir import ir
from onnxmorph.errors import Refusal
from onnxmorph.graph.axes import AxisEdit, CoupledAxes, GroupTable, IndexMap, apply, reaching, zero_out
from tests.graph.axes import nets
from tests.graph.axes.cases import CASES


def named(model: ir.Model, name: str) -> ir.Value:
    return next(value for node in model.graph for value in node.outputs if value.name == name)


def _computed(model: ir.Model) -> set[ir.Value | None]:
    return {value for node in model.graph for value in node.outputs}


def test_the_parts_of_a_fused_projection() -> None:
    model = CASES["attention_fused_qkv"].build()
    coupled = CoupledAxes.of(model)
    fused = [node for node in model.graph if node.op_type == "Add"][1].outputs[0]
    scores = next(node for node in model.graph if node.op_type == "MatMul" and node.inputs[1] in _computed(model))
    q, k = scores.inputs
    assert q is not None
    assert k is not None
    expected = np.arange(24) // 8
    np.testing.assert_array_equal(reaching(coupled, fused, 2, q), expected == 0)
    np.testing.assert_array_equal(reaching(coupled, fused, 2, k), expected == 1)


def test_halves_of_a_split_and_a_path_that_contracts() -> None:
    model = CASES["gated_by_slices"].build()
    coupled = CoupledAxes.of(model)
    source = next(node for node in model.graph if node.op_type == "Add").outputs[0]
    tanh = next(node for node in model.graph if node.op_type == "Tanh")
    np.testing.assert_array_equal(reaching(coupled, source, 2, tanh.outputs[0]), np.arange(8) >= 4)
    assert not reaching(coupled, source, 2, model.graph.outputs[0]).any()
    assert reaching(coupled, source, 2, source).all()


def test_head_sizes_grow_when_the_new_keys_are_silent() -> None:
    parent = CASES["attention_fused_qkv"].build()
    coupled = CoupledAxes.of(parent)
    table = GroupTable(coupled)
    heads = next(group for group in nets.weighty(table) if any(c.kind == "bilinear" for c in group.conditions))
    names = next(condition.operands for condition in heads.conditions if condition.kind == "bilinear")
    fused = [node for node in parent.graph if node.op_type == "Add"][1].outputs[0]
    keys = reaching(coupled, fused, 2, named(parent, names[1]))
    random = zero_out(4)

    def silent_keys(edit: AxisEdit) -> None:
        random(edit)
        if "contracted" not in edit.roles:
            edit.front()[edit.new & keys[edit.anchor]] = 0

    child = parent.clone()
    apply(child, {heads: IndexMap.widen(4, 7)}, silent_keys)
    nets.assert_same(parent, child)
    queries_only = parent.clone()
    apply(queries_only, {heads: IndexMap.widen(4, 7)}, random)
    with pytest.raises(AssertionError):  # without it, new queries meet new keys
        nets.assert_same(parent, queries_only)


def test_what_cannot_be_followed_is_refused() -> None:
    net = nets.Net()
    x = net.dense(net.input(["N", 6]), 6, 6)
    y = net.op("TopK", x, net.ints(2), outputs=2, axis=1)[0]
    model = net.model(net.dense(y, 2, 2))
    coupled = CoupledAxes.of(model)
    source = next(node for node in model.graph if node.op_type == "Add").outputs[0]
    with pytest.raises(Refusal, match="TopK"):
        reaching(coupled, source, 1, named(model, y))
