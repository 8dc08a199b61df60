"""Names that people recognise, whatever the exporter."""

from __future__ import annotations

import pytest

from onnxmorph.graph.labels import generic, label


@pytest.mark.parametrize(
    "weight, bias, node, output, expected",
    [
        ("features.3.weight", None, "/features/features.3/Conv", "y", "features.3"),
        ("0.weight", "0.bias", "node_conv2d", "conv2d", "0"),
        ("onnx::Conv_123", "onnx::Conv_124", "/layer1/layer1.0/conv1/Conv", "/layer1/Conv_output_0", "layer1.0.conv1"),
        ("onnx::MatMul_9", "encoder.layer.0.query.bias", "/e/MatMul", "y", "encoder.layer.0.query"),
        ("/Constant_5_output_0", None, "/layer1/0/conv1/Conv", "z", "layer1.0.conv1"),
        ("val_39", "m.query.bias", "node_MatMul_40", "val_40", "m.query"),
        ("conv2d/kernel:0", None, "model/conv2d/Conv2D", "y", "conv2d"),
        ("conv2d_1.w_0", None, "Conv.0", "conv2d_1.tmp_0", "conv2d_1"),
        ("model/dense/MatMul/ReadVariableOp:0", None, "", "y", "model.dense"),
        ("conv1_w_0", None, "n0", "conv1_1", "conv1"),
        ("m/conv1d_1/convolution/ExpandDims_1:0", None, "m/conv1d_1/convolution", "y", "m.conv1d_1"),
        ("m/cq/conv1d_25;m/cq/conv1d_25", None, "m/cq/conv1d;m/cq/conv1d", "y", "m.cq.conv1d_25"),
        (None, None, "/fc/Gemm", "y", "fc"),
        (None, None, "", "logits", "logits"),
        (None, None, "Conv_7", "12", "Conv_7"),
        ("123", None, "", "45", "45"),
        ("", None, "", "", "gemm"),
        (None, None, None, None, "gemm"),
    ],
)
def test_labels(weight: str | None, bias: str | None, node: str | None, output: str | None, expected: str) -> None:
    assert label(weight, bias, node, output, "Gemm") == expected


@pytest.mark.parametrize(
    "name", ["onnx::Conv_3", "/Constant_5_output_0", "val_7", "12", "v3", "const_fold_opt__88", "W"]
)
def test_counters_are_told_from_names(name: str) -> None:
    assert generic(name)


@pytest.mark.parametrize("name", ["conv1", "features.0.weight", "classifier", "fc", "q_proj"])
def test_names_are_told_from_counters(name: str) -> None:
    assert not generic(name)
