"""Models as ONNX Runtime's own tools leave them: QDQ, QOperator, dynamic int8, fused transformers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from onnxmorph._ir import ir
from onnxmorph.graph.axes import CoupledAxes
from tests.graph.axes import nets

MODELS = Path(__file__).resolve().parents[3] / "models"
ZOO = MODELS.parents[1] / "shared" / "zoo" / "models"

ONE_STEP = 1e-2
"""Sums in another order may tip the rounding of an 8-bit activation: one step of 255 at the output."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def assert_moves(model: ir.Model, tolerance: float) -> None:
    feeds = nets.feeds_of(model, ids=20)
    before = nets.run(model, feeds)
    assert CoupledAxes.of(model).barriers == []
    child, maps = nets.permuted(model, 1)
    assert maps
    assert nets.difference(before, nets.run(child, feeds)) <= tolerance
    child, _ = nets.widened(model, 1)
    assert nets.difference(before, nets.run(child, feeds)) <= tolerance


@pytest.mark.parametrize("form", ["QOperator", "QDQ"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_static_quantisation(form: str, per_channel: bool, tmp_path: Path) -> None:
    tools = pytest.importorskip("onnxruntime.quantization")
    parent = MODELS / "digits_resnet.onnx"
    if not parent.exists():
        pytest.skip("no sample models")

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.left = [nets.feeds_of(ir.load(parent))]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    tools.quantize_static(
        str(parent),
        str(tmp_path / "q.onnx"),
        Reader(),
        quant_format=tools.QuantFormat[form],
        per_channel=per_channel,
        activation_type=tools.QuantType.QUInt8,
        weight_type=tools.QuantType.QInt8,
    )
    assert_moves(ir.load(tmp_path / "q.onnx"), ONE_STEP)


def test_dynamic_quantisation(tmp_path: Path) -> None:
    tools = pytest.importorskip("onnxruntime.quantization")
    parent = MODELS / "digits_resnet.onnx"
    if not parent.exists():
        pytest.skip("no sample models")
    tools.quantize_dynamic(str(parent), str(tmp_path / "q.onnx"))
    assert_moves(ir.load(tmp_path / "q.onnx"), ONE_STEP)


@pytest.mark.parametrize("name", ["bert_tiny.legacy", "gpt2_tiny.legacy"])
def test_fused_transformers(name: str, tmp_path: Path) -> None:
    optimizer = pytest.importorskip("onnxruntime.transformers.optimizer")
    parent = ZOO / f"{name}.onnx"
    if not parent.exists():
        pytest.skip("no zoo here")
    fused = optimizer.optimize_model(str(parent), model_type="bert", num_heads=4, hidden_size=64, opt_level=0)
    fused.save_model_to_file(str(tmp_path / "fused.onnx"))
    model = ir.load(tmp_path / "fused.onnx")
    assert any(node.domain == "com.microsoft" for node in model.graph)
    assert_moves(model, 2e-5)
