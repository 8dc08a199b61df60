"""Histograms: what is counted, and which new tensor is shown beside which old one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from onnxmorph.diff import diff
from onnxmorph.report.weights import growths, histogram, show
from tests.morphs.oracle import from_proto
from tests.zoo.net import Net


def model(**tensors: float) -> object:
    net = Net()
    net.output(net.node("Relu", [net.input("x", ["N", 3])], "y"), ["N", 3])
    proto = net.model()
    for name, value in tensors.items():
        array = np.full((4, 4), value, np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, name.replace("_", ".")))
    return from_proto(proto)


def test_a_new_tensor_is_beside_the_one_whose_name_it_carries_on() -> None:
    parent = model(conv1_weight=1, conv3_weight=2, other=3)
    child = model(conv1_0_weight=1, conv1_1_weight=1, conv10_0_weight=1, other=4)
    found, more = growths(parent, child, diff(parent, child))  # type: ignore[arg-type]
    pairs = {one.before.name if one.before is not None else None: [after.name for after in one.after] for one in found}
    assert pairs == {
        "conv1.weight": ["conv1.0.weight", "conv1.1.weight"],
        "conv3.weight": [],
        "other": ["other"],
        None: ["conv10.0.weight"],
    }
    assert more == 0


@given(st.lists(st.floats(width=32), max_size=60))
def test_every_entry_is_a_zero_in_a_bin_beyond_or_not_finite(values: list[float]) -> None:
    array = np.array(values, np.float32)
    one = histogram("w", array)
    finite = int(np.sum(np.isfinite(array) & (array != 0)))
    assert sum(one.counts) + one.outside == finite and one.low < one.high
    assert one.zeros == pytest.approx(float(np.mean(array == 0)) if array.size else 0.0)


def test_empty_and_constant_tensors_are_drawn() -> None:
    for value in (0.0, 1.0, np.nan):
        parent = model(w=5)
        child = model(w=value)
        found, _ = growths(parent, child, diff(parent, child))  # type: ignore[arg-type]
        assert str(show(found, 0)).count("<svg") == 2
