"""Kernel growth: exact to the last bit at every border, or refused with the nearest size that can."""

from __future__ import annotations

from typing import Any

import pytest

from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.graph.layers import layers
from onnxmorph.morphs import plan_kernel
from tests.morphs.oracle import assert_same, from_proto
from tests.zoo_graphs import select

CONVOLUTIONS = [case for case in select(runnable=True) if case.name.startswith(("linear/conv", "block/", "scopes/"))]


@pytest.mark.parametrize("more", [1, 2, 3, 4])
def test_every_convolution_of_the_zoo_grows_exactly(more: int) -> None:
    done, refused = 0, []
    for case in CONVOLUTIONS:
        proto = case.build()
        model = from_proto(proto)
        for layer in layers(model):
            if not layer.kernel or layer.blocked is not None:
                continue
            try:
                child = plan_kernel(model, layer, to=tuple(size + more for size in layer.kernel)).apply(model)
            except Refusal as refusal:
                refused.append((case.name, refusal.code))
                continue
            assert_same(proto, child.model)
            done += 1
    assert done > 40
    assert {code for _, code in refused} <= {"auto-pad-dynamic", "weight-not-finite", "bias-not-finite"}


def test_one_axis_may_grow_alone() -> None:
    case = CONVOLUTIONS[0]
    proto = case.build()
    model = from_proto(proto)
    layer = layers(model)[0]
    sizes = (*(size for size in layer.kernel[:-1]), layer.kernel[-1] + 2)
    assert_same(proto, plan_kernel(model, layer, to=sizes).apply(model).model)


def test_sizes_that_make_no_sense_are_named() -> None:
    model = from_proto(CONVOLUTIONS[0].build())
    layer = layers(model)[0]
    with pytest.raises(Refusal, match="already"):
        plan_kernel(model, layer, to=layer.kernel)
    with pytest.raises(Refusal, match="larger than"):
        plan_kernel(model, layer, to=1)
    for wrong in (0, (3, 3, 3, 3)):
        with pytest.raises(SelectionError):
            plan_kernel(model, layer, to=wrong)


def test_a_matrix_has_no_kernel_to_grow() -> None:
    case: Any = next(case for case in select("linear/gemm*", runnable=True))
    model = from_proto(case.build())
    with pytest.raises(Refusal, match="no kernel axes"):
        plan_kernel(model, layers(model)[-1], to=3)
