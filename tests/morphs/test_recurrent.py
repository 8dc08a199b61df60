"""Hidden sizes of LSTM, GRU and RNN: every fill is exact in every layout, and shrinking takes it back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmorph.errors import Refusal
from onnxmorph.graph.layers import layers
from onnxmorph.morphs import plan_shrink, plan_widen
from tests.morphs.oracle import assert_same, from_proto
from tests.morphs.recurrent_nets import Layout, layouts, net

FILLS = ["zero-out", "zero-in", "replicate", "pair"]


def cell(model: Any, name: str = "cell0") -> Any:
    return next(layer for layer in layers(model) if layer.name == name)


@settings(deadline=None, max_examples=150)
@given(layouts(), st.sampled_from(FILLS), st.integers(0, 2**31), st.integers(1, 3))
def test_every_fill_is_exact_in_every_layout(layout: Layout, fill: str, seed: int, more: int) -> None:
    proto = net(layout, seed)
    model = from_proto(proto)
    layer = cell(model)
    to = layout.hidden + more * (2 if fill == "pair" else 1)
    keeps_zero = layout.candidate not in ("Sigmoid", "HardSigmoid")
    try:
        child = plan_widen(model, layer, to=to, fill=fill, seed=seed).apply(model).model
    except Refusal as refusal:
        assert fill == "zero-in" and not (keeps_zero and layout.initial != "stored"), refusal
        return
    assert cell(child).out_channels == to
    assert cell(child).node.attributes["hidden_size"].as_int() == to
    assert_same(proto, child, roundings=1024 if fill in ("replicate", "pair") else 128)
