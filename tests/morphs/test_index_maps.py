"""Exported index maps: what follows a model's tensors elsewhere, by numpy alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxmorph import model as files
from onnxmorph.errors import ModelError, Refusal
from onnxmorph.graph.layers import layers
from onnxmorph.morphs import plan_shrink, plan_widen
from tests.morphs.oracle import from_proto
from tests.zoo_graphs import select

_LEFT_OUT = {"topology/random_noise", "weights/behind_constant_sparse"}


def stored_arrays(model: ir.Model) -> dict[str, np.ndarray]:
    proto = ir.to_proto(model)
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            arrays[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    return arrays


def followed(array: np.ndarray, entry: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The array gathered by its maps, and where what it holds is the parent's."""
    known = np.ones(array.shape, dtype=bool)
    for axis, one in entry["axes"].items():
        sources = np.array(one["sources"])
        assert array.shape[int(axis)] == one["parent_size"]
        array = np.take(array, np.maximum(sources, 0), axis=int(axis))
        known = np.take(known, np.maximum(sources, 0), axis=int(axis))
        shape = [1] * known.ndim
        shape[int(axis)] = -1
        known = known & (sources >= 0).reshape(shape)
    return array, known


@pytest.mark.parametrize("theme", ["linear", "block", "weights"])
def test_the_maps_give_the_childs_arrays_but_for_what_is_new(theme: str) -> None:
    checked = 0
    for case in select(f"{theme}/*", runnable=True)[::4]:
        if case.name in _LEFT_OUT:
            continue
        model = from_proto(case.build())
        for layer in layers(model):
            try:
                child = plan_widen(model, layer, by=1.5, fill="zero-out").apply(model).model
            except Refusal:
                continue
            parents, children = stored_arrays(model), stored_arrays(child)
            (entry,) = files.index_maps(child)
            assert entry["record"] == 0 and entry["morph"] == "widen" and entry["tensors"]
            for name, maps in entry["tensors"].items():
                if name not in children or maps["parent"] not in parents:
                    continue  # inside a function, or a constant of another form
                expected, known = followed(parents[maps["parent"]], maps)
                assert expected.shape == children[name].shape, name
                assert np.array_equal(expected[known], children[name][known]), name
                checked += 1
            same = set(parents) & set(children) - set(entry["tensors"])
            assert all(parents[name].shape == children[name].shape for name in same)
    assert checked > 4


def test_the_maps_of_two_steps_follow_one_after_the_other() -> None:
    case = next(one for one in select("linear/conv_padded"))
    model = from_proto(case.build())
    size = layers(model)[0].out_channels
    wide = plan_widen(model, layers(model)[0], to=size + 4).apply(model).model
    child = plan_shrink(wide, layers(wide)[0], to=size).apply(wide).model
    arrays = stored_arrays(model)
    for entry in files.index_maps(child):
        for name, maps in entry["tensors"].items():
            arrays[name] = followed(arrays[maps["parent"]], maps)[0]
    assert [entry["morph"] for entry in files.index_maps(child)] == ["widen", "shrink"]
    assert all(np.array_equal(arrays[name], array) for name, array in stored_arrays(child).items())


def test_damaged_maps_are_a_model_error() -> None:
    model = from_proto(next(one for one in select("linear/conv_padded")).build())
    child = plan_widen(model, layers(model)[0], by=2).apply(model).model
    child.metadata_props["onnxmorph.index_maps"] = '[{"record": 0, "maps": [[3, "x"]], "tensors": {}}]'
    with pytest.raises(ModelError, match="damaged"):
        files.index_maps(child)
