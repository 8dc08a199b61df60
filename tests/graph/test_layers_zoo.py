"""Real exporters' models: every linear layer is found, and its kernel and bias reproduce its own values."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmorph._ir import ir
from onnxmorph.graph.layers import layers
from onnxmorph.graph.shapes import Shapes
from tests.graph import reference
from tests.graph.small import Array, run

MODELS = sorted(reference.ZOO.glob("*.onnx")) if reference.ZOO.is_dir() else []
pytestmark = pytest.mark.skipif(not MODELS, reason="the shared zoo is not here")


def counted(proto: onnx.ModelProto) -> Counter[str]:
    """Linear nodes whose weight is not fed, told by following names back through one-input nodes."""
    stored = {tensor.name for tensor in proto.graph.initializer}
    made = {output: node for node in proto.graph.node for output in node.output}

    def settled(name: str) -> bool:
        node = made.get(name)
        if name in stored or (node is not None and node.op_type == "Constant"):
            return True
        return node is not None and bool(node.input) and all(settled(each) for each in node.input if each)

    found: Counter[str] = Counter()
    for node in proto.graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and settled(node.input[1]):
            found[node.op_type] += 1
        if node.op_type in ("MatMul", "MatMulInteger") and settled(node.input[0]) != settled(node.input[1]):
            found[node.op_type] += 1
        if node.op_type in ("LSTM", "GRU", "RNN"):
            found[node.op_type] += 1
    return found


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_every_layer_is_found_with_a_name(path: Path) -> None:
    model = ir.load(path)
    found = layers(model)
    assert Counter(layer.op for layer in found) == counted(onnx.load(path, load_external_data=False))
    assert [layer.index for layer in found] == list(range(len(found)))
    assert len({layer.key for layer in found}) == len(found)
    for layer in found:
        assert layer.label and not set(layer.label) & set("/: "), layer.label
        if layer.blocked is None:
            assert layer.in_channels > 0 and layer.out_channels > 0
            assert layer.in_channels % layer.groups == layer.out_channels % layer.groups == 0
        else:
            assert layer.op in ("LSTM", "GRU", "MatMulInteger")


def feeds(model: ir.Model) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    fed = {}
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        assert value.shape is not None and value.dtype is not None and value.name
        shape = [size if isinstance(size, int) else 2 for size in value.shape]
        dtype = value.dtype.numpy()
        if np.issubdtype(dtype, np.floating):
            fed[value.name] = rng.standard_normal(shape).astype(dtype)
        else:
            fed[value.name] = rng.integers(0, 2, shape).astype(dtype)
    return fed


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_kernel_and_bias_reproduce_the_layer(path: Path) -> None:
    model = ir.load(path)
    given = feeds(model)
    fixed = {name: array.shape for name, array in given.items()}
    found = [layer for layer in layers(model, Shapes.of(model, fixed)) if layer.blocked is None]
    names = list(dict.fromkeys(value.name or "" for layer in found for value in (layer.input, layer.output)))
    if not names:
        return
    values = dict(zip(names, run(onnx.load(path), given, names), strict=True))
    half = any(array.dtype == np.float16 for array in values.values())
    for layer in found:
        expected = values[layer.output.name or ""].astype(np.float64)
        got = reference.apply(layer, values[layer.input.name or ""])
        tolerance = (4e-3 if half else 2e-5) * max(1e-3, np.abs(expected).max())
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance, err_msg=str(layer))


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_shapes_are_those_of_a_run(path: Path) -> None:
    model = ir.load(path)
    shapes = Shapes.of(model)
    assert shapes.failure is None and not shapes.conflicts
    given = feeds(model)
    values = [output for node in model.graph for output in node.outputs if output.name]
    names = [value.name or "" for value in values]
    unknown = 0
    for value, array in zip(values, run(onnx.load(path), given, names), strict=True):
        dims = shapes.shape(value)
        if dims is None:
            unknown += 1
            continue
        assert len(dims) == array.ndim, value.name
        for said, size in zip(dims, array.shape, strict=True):
            # One symbol, the batch of 2, in all of these models; None claims nothing.
            assert said == size if isinstance(said, int) else said is None or size % 2 == 0, (
                value.name,
                dims,
                array.shape,
            )
        dtype = shapes.dtype(value)
        assert dtype is not None and dtype.numpy() == array.dtype, value.name
    assert unknown <= 1  # the unused mask of an old Dropout; an operator of ai.onnx.ml without inference
