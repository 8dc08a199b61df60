"""Damaged graphs, end to end: a child that computes what its parent computes, or a one-line error; never a traceback.

Small models of the zoo lose nodes, get other attributes, types, sizes and names; what still loads is morphed at every
layer.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxmorph import model as files
from onnxmorph.errors import OnnxMorphError
from onnxmorph.graph.layers import layers
from onnxmorph.morphs import PLANNERS
from onnxmorph.plan import apply
from tests.morphs.oracle import run
from tests.zoo_graphs import example_inputs, select

_LEFT_OUT = {"topology/random_noise"}
CASES = [case for case in select(runnable=True) if case.name not in _LEFT_OUT]

MORPHS: dict[str, dict[str, Any]] = {
    "deepen": {},
    "widen": {"by": 2},
    "kernel": {"to": 7},
    "subnet": {"template": "(3:8)(1:8)"},
    "activate": {},
}


def damage(model: onnx.ModelProto, draw: Any) -> str:
    """One change to the proto, in place; what was done."""
    graph = model.graph
    kind = draw(
        st.sampled_from(["drop", "op", "attribute", "rewire", "dims", "type", "rename", "opset", "input-shape"])
    )
    node = graph.node[draw(st.integers(0, len(graph.node) - 1))] if graph.node else None
    tensor = graph.initializer[draw(st.integers(0, len(graph.initializer) - 1))] if graph.initializer else None
    if kind == "drop" and node is not None:
        graph.node.remove(node)
    elif kind == "op" and node is not None:
        node.op_type = draw(
            st.sampled_from(["Relu", "Conv", "Gemm", "MatMul", "Add", "Sausage", "ConvTranspose", "Clip"])
        )
    elif kind == "attribute" and node is not None and node.attribute:
        attribute = node.attribute[draw(st.integers(0, len(node.attribute) - 1))]
        numbers = draw(st.lists(st.integers(-3, 5), max_size=5))
        del attribute.ints[:]
        attribute.ints.extend(numbers)
        attribute.i = draw(st.sampled_from([-1, 0, 1, 2, 3, 2**40]))
        attribute.type = draw(
            st.sampled_from([onnx.AttributeProto.INTS, onnx.AttributeProto.INT, onnx.AttributeProto.FLOAT])
        )
    elif kind == "rewire" and node is not None and node.input:
        names = [value.name for value in graph.input] + [name for each in graph.node for name in each.output] + [""]
        node.input[draw(st.integers(0, len(node.input) - 1))] = draw(st.sampled_from(names))
    elif kind == "dims" and tensor is not None and len(tensor.dims):
        tensor.dims[draw(st.integers(0, len(tensor.dims) - 1))] = draw(st.sampled_from([-1, 0, 1, 2, 3, 7, 2**33]))
    elif kind == "type" and tensor is not None:
        tensor.data_type = draw(st.integers(0, 25))
    elif kind == "rename" and tensor is not None:
        tensor.name = draw(st.sampled_from(["", "x", tensor.name + "_", "é"]))
    elif kind == "opset" and model.opset_import:
        model.opset_import[0].version = draw(st.sampled_from([0, 1, 6, 7, 12, 20, 26, 999]))
    elif graph.input:
        shape = graph.input[0].type.tensor_type.shape
        if shape.dim:
            shape.dim[draw(st.integers(0, len(shape.dim) - 1))].dim_value = draw(st.sampled_from([-1, 0, 1, 5, 2**40]))
    return str(kind)


def outputs(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """What ONNX Runtime gives, ``None`` where it does not run the model."""
    try:
        return run(model, feeds)
    except Exception:
        return None


@settings(deadline=None, max_examples=int(os.environ.get("FUZZ", "150")), suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_graphs_are_morphed_exactly_or_refused(data: Any) -> None:
    case = data.draw(st.sampled_from(CASES), label="case")
    proto = case.build()
    done = [damage(proto, data.draw) for _ in range(data.draw(st.integers(1, 3)))]
    morph = data.draw(st.sampled_from(sorted(MORPHS)), label="morph")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.onnx"
        path.write_bytes(proto.SerializeToString())
        try:
            parent = files.load(path)
            found = layers(parent)
        except OnnxMorphError as error:
            assert "\n" not in str(error), done
            return
        for layer in found:
            try:
                plans = PLANNERS[morph](parent, layer, **MORPHS[morph])
                child = apply(parent, plans if isinstance(plans, list) else [plans])  # type: ignore[list-item]
            except OnnxMorphError as error:
                assert "\n" not in str(error), done
                continue
            _assert_equal(proto, child.model)


def _assert_equal(parent: onnx.ModelProto, child: ir.Model) -> None:
    """Where ONNX Runtime runs the parent, it runs the child and gives the same."""
    try:
        feeds = example_inputs(parent)
    except Exception:
        return
    if sum(value.size for value in feeds.values()) > 1 << 20:
        return
    expected = outputs(parent, feeds)
    if expected is None:
        return
    got = outputs(ir.to_proto(child), feeds)
    assert got is not None, "the child does not run where its parent does"
    for name, value in expected.items():
        other = got[name]
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or not np.isfinite(value).all():
            continue
        spread = np.abs(value.astype(np.float64)).max(initial=0.0)
        limit = 4096 * float(np.finfo(value.dtype).eps)
        gap = np.abs(value.astype(np.float64) - other.astype(np.float64)).max(initial=0.0)
        assert gap <= limit * max(spread, 1e-3), name


@pytest.mark.slow
@settings(deadline=None, max_examples=3000, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_many_damaged_graphs_are_morphed_exactly_or_refused(data: Any) -> None:
    test_damaged_graphs_are_morphed_exactly_or_refused.hypothesis.inner_test(data)  # type: ignore[attr-defined]
