"""Parametric activations: what they compute at first is what was there, for every activation and layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.graph.layers import layers
from onnxmorph.morphs import plan_activate, plan_from_record
from onnxmorph.plan import apply
from tests.morphs.oracle import assert_same, from_proto
from tests.zoo_graphs import select

CASES = [case for case in select(runnable=True) if case.name.startswith(("activation/", "block/", "linear/gemm"))]


@pytest.mark.parametrize("options", [{}, {"to": "gelu"}, {"to": "relu6", "per_channel": False}, {"to": "prelu"}])
def test_every_activation_of_the_zoo_becomes_parametric_exactly(options: dict[str, Any]) -> None:
    done = 0
    for case in CASES:
        proto = case.build()
        model = from_proto(proto)
        try:
            child = apply(model, plan_activate(model, **options))
        except Refusal as refusal:
            assert refusal.code in {"no-activation", "opset-too-old", "weight-not-finite", "axis-not-known"}
            continue
        assert_same(proto, child.model)
        done += 1
    assert done > 40


def test_the_parameter_is_an_initializer_per_channel_or_one_and_the_record_replays() -> None:
    model = from_proto(next(case for case in CASES if case.name == "activation/relu").build())
    before = set(model.graph.initializers)
    for per_channel, count in ((True, layers(model)[0].out_channels), (False, 1)):
        child = apply(model, plan_activate(model, "#0", per_channel=per_channel))
        (name,) = set(child.model.graph.initializers) - before
        value = child.model.graph.initializers[name].const_value
        assert value is not None and value.size == count
        assert np.all(value.numpy() == 0)
        again = apply(model, [plan_from_record(plan.record()) for plan in child.plans])
        assert ir.to_proto(again.model).SerializeToString() == ir.to_proto(child.model).SerializeToString()


def test_a_goal_keeps_its_parameters() -> None:
    model = from_proto(next(case for case in CASES if case.name == "activation/relu").build())
    (plan,) = plan_activate(model, "#0", to="leaky_relu(0.3)")
    assert plan_from_record(plan.record()) == plan
    assert "0.3" in plan.describe()


def test_what_is_not_there_is_named() -> None:
    model = from_proto(next(case for case in CASES if case.name == "activation/relu").build())
    with pytest.raises(SelectionError):
        plan_activate(model, "#0", to="sausage")
    with pytest.raises(SelectionError):
        plan_activate(model, "sausage")
    with pytest.raises(Refusal, match="no activation"):
        plan_activate(model, "#-1")
