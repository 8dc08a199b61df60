"""onnx's own tests of single operators, run through the torch operators.

``python -m tests.grow.standard`` prints how many pass, how many are not supported, and which give other numbers.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from onnxmorph import train
from onnxmorph.errors import OnnxMorphError
from tests.grow.graphs import loaded

_EIGHT_BITS = {
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e4m3fnuz": torch.float8_e4m3fnuz,
    "float8_e5m2": torch.float8_e5m2,
    "float8_e5m2fnuz": torch.float8_e5m2fnuz,
}
_DRAWN = ("bernoulli", "training_dropout")
"""Tests whose expected numbers come from numpy's random numbers."""
_NOISY = ("dft_inverse",)
"""Tests whose expected numbers are rounding noise around zero."""


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, onnx.SequenceProto):
        return numpy_helper.to_list(value)
    if isinstance(value, onnx.OptionalProto):
        return numpy_helper.to_optional(value)
    if isinstance(value, (list, tuple)):
        return [_array(item) for item in value]
    return value if value is None else np.asarray(value)


def _tensor(value: Any) -> Any:
    if value is None or isinstance(value, list):
        return value if value is None else [_tensor(item) for item in value]
    name = value.dtype.name
    if name == "bfloat16" or name in _EIGHT_BITS:
        bits = np.ascontiguousarray(value).reshape(-1).view(np.uint16 if name == "bfloat16" else np.uint8)
        return torch.from_numpy(bits.copy()).view(_EIGHT_BITS.get(name, torch.bfloat16)).reshape(value.shape)
    if name in ("int4", "int2", "uint4", "uint2"):
        return torch.from_numpy(value.astype(np.int8 if name.startswith("int") else np.uint8))
    return torch.from_numpy(np.array(value))


def _same(found: Any, wanted: Any, rtol: float, atol: float) -> bool:
    if wanted is None or isinstance(wanted, list):
        if not isinstance(wanted, list) or not isinstance(found, list) or len(found) != len(wanted):
            return wanted is None and found is None
        return all(_same(one, other, rtol, atol) for one, other in zip(found, wanted, strict=True))
    expected = _tensor(wanted)
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return False
    if expected.dtype in (torch.bfloat16, torch.float16):
        rtol, atol = max(rtol, 1.6e-2), max(atol, 1e-2)
    if expected.is_complex():
        return bool(torch.allclose(found, expected, rtol, atol))
    return bool(np.allclose(found.double().numpy(), expected.double().numpy(), rtol=rtol, atol=atol, equal_nan=True))


def run(every: int = 1, reasons: Counter[str] | None = None) -> tuple[int, int, list[str]]:
    """Every n-th test: how many passed, of how many, and the names of those that gave something else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        cases = load_model_tests(kind="node")[::every]
    passed, total, wrong = 0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            if any(part in case.name for part in (*_DRAWN, *_NOISY)):
                continue
            total += 1
            try:
                net = train.module(loaded(case.model, Path(folder)), mode="eval")
                for given, expected in case.data_sets:
                    names = [value.name for value in case.model.graph.input]
                    feeds = {name: _tensor(_array(value)) for name, value in zip(names, given, strict=False)}
                    with torch.no_grad():
                        found = list(net.run(**feeds).values())
                    pairs = zip(found, [_array(value) for value in expected], strict=False)
                    if not all(_same(one, other, case.rtol, case.atol) for one, other in pairs):
                        wrong.append(case.name)
                        break
                else:
                    passed += 1
            except (OnnxMorphError, TypeError) as error:  # numpy's own types of strings are a TypeError of torch
                if reasons is not None:
                    reasons[str(error)[:80]] += 1
    return passed, total, wrong


if __name__ == "__main__":
    why: Counter[str] = Counter()
    good, many, others = run(int(sys.argv[1]) if len(sys.argv) > 1 else 1, why)
    print(f"{good} of {many} pass, {sum(why.values())} are not supported, {len(others)} differ: {others}")
    for reason, count in why.most_common():
        print(f"{count:5} {reason}")
