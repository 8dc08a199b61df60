"""Operators of the domain ``ai.onnx.ml`` that are functions of numbers, as scikit-learn's exporter writes them."""

from __future__ import annotations

import torch

from onnxmorph.grow.call import Call
from onnxmorph.grow.registry import operator

Tensor = torch.Tensor

ML = "ai.onnx.ml"


def _row(call: Call, name: str, like: Tensor) -> Tensor:
    return torch.tensor(call.numbers(name), dtype=like.dtype, device=like.device)


def _float(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.float()


@operator("Scaler", domain=ML)
def scaler(call: Call, x: Tensor) -> Tensor:
    """``(x - offset) * scale``."""
    y = _float(x).float()
    return (y - _row(call, "offset", y)) * _row(call, "scale", y)


@operator("Normalizer", domain=ML)
def normalizer(call: Call, x: Tensor) -> Tensor:
    """Rows by their largest, their sum or their length."""
    y, kind = _float(x).float(), call.text("norm", "MAX")
    size = {
        "MAX": lambda: y.abs().amax(-1, keepdim=True),
        "L1": lambda: y.abs().sum(-1, keepdim=True),
        "L2": lambda: y.square().sum(-1, keepdim=True).sqrt(),
    }[kind]()
    return y / torch.where(size == 0, torch.ones_like(size), size)


@operator("Binarizer", domain=ML, gradient=False)
def binarizer(call: Call, x: Tensor) -> Tensor:
    """One above a threshold."""
    return (x > call.floating("threshold", 0.0)).to(x.dtype)


@operator("Imputer", domain=ML)
def imputer(call: Call, x: Tensor) -> Tensor:
    """What is missing replaced, column by column."""
    if x.is_floating_point():
        missing = call.floating("replaced_value_float", 0.0)
        values = _row(call, "imputed_value_floats", x)
        holes = torch.isnan(x) if missing != missing else x == missing  # noqa: PLR0124
    else:
        values = torch.tensor(call.integers("imputed_value_int64s"), dtype=x.dtype, device=x.device)
        holes = x == call.integer("replaced_value_int64", 0)
    return torch.where(holes, values.expand_as(x), x)


@operator("ArrayFeatureExtractor", domain=ML)
def feature_extractor(_call: Call, x: Tensor, index: Tensor) -> Tensor:
    """Columns by number."""
    y = x.index_select(-1, index.reshape(-1).to(torch.int64))
    return y.reshape(1, -1) if x.dim() == 1 else y


@operator("FeatureVectorizer", domain=ML)
def feature_vectorizer(_call: Call, *inputs: Tensor) -> Tensor:
    """Columns put side by side."""
    return torch.cat([_float(x).float() for x in inputs], -1)


@operator("LinearRegressor", domain=ML)
def linear_regressor(call: Call, x: Tensor) -> Tensor:
    """``x W' + b``; its weights are attributes, and are not trained."""
    y = _float(x).float()
    targets = call.integer("targets", 1)
    result = y @ _row(call, "coefficients", y).reshape(targets, -1).t()
    bias = call.numbers("intercepts")
    result = result + torch.tensor(bias, dtype=y.dtype, device=y.device) if bias else result
    kind = call.text("post_transform", "NONE")
    if kind == "NONE":
        return result
    if kind == "SOFTMAX":
        return torch.softmax(result, -1)
    if kind == "LOGISTIC":
        return torch.sigmoid(result)
    raise call.refuse(f"post_transform {kind}")
