"""The zoo of generated models: small, seeded, hard, written without any exporter.

`CASES` maps a name such as ``"linear/conv_same_upper"`` to a `Case`; `build(name)` gives the ModelProto,
`select("linear/conv_*")` the cases a glob finds, `example_inputs(model)` numbers to feed it with. The parametrised
makers behind them are importable too: `conv_net`, `gemm_net`, `matmul_net`, `classifier`, `net_with` (any activation
spelling), `transformer_block`, `save_external`. `Net` builds further ones in a few lines.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.zoo import activations, blocks, convolutions, scopes, topology, weights
from tests.zoo.activations import SPELLINGS, net_with
from tests.zoo.blocks import transformer_block
from tests.zoo.convolutions import FORMS, TRANSPOSED_FORMS, conv_net, gemm_net, matmul_net
from tests.zoo.net import Case, Net
from tests.zoo.topology import save_external
from tests.zoo.weights import OPSETS, classifier

__all__ = [
    "CASES",
    "FORMS",
    "OPSETS",
    "SPELLINGS",
    "TRANSPOSED_FORMS",
    "Case",
    "Net",
    "build",
    "classifier",
    "conv_net",
    "example_inputs",
    "gemm_net",
    "matmul_net",
    "net_with",
    "save_external",
    "select",
    "transformer_block",
]

_THEMES = (convolutions, weights, topology, scopes, activations, blocks)
CASES: dict[str, Case] = {case.name: case for theme in _THEMES for case in theme.case.cases}


def build(name: str) -> onnx.ModelProto:
    """The model of that name, made anew."""
    return CASES[name].build()


def select(glob: str = "*", *, runnable: bool = False) -> list[Case]:
    """The cases whose name matches, in the order of the zoo; with `runnable`, only those a CPU can run."""
    return [c for c in CASES.values() if fnmatch.fnmatchcase(c.name, glob) and not (runnable and c.unrunnable)]


def example_inputs(
    model: onnx.ModelProto, *, seed: int = 0, dims: Mapping[str, int] | None = None, size: int = 9
) -> dict[str, np.ndarray]:
    """Numbers for every input that has no default: normal floats, small ids, True and words.

    A symbolic dim takes its number from `dims`; else N is 2 and any other dim is `size`, beyond every kernel here.
    """
    random = np.random.default_rng(seed)
    known = {"N": 2, "batch": 2, **(dims or {})}
    held = {tensor.name for tensor in model.graph.initializer}
    feeds: dict[str, np.ndarray] = {}
    for value in model.graph.input:
        if value.name in held:
            continue
        kind = value.type.tensor_type
        shape = [d.dim_value if d.HasField("dim_value") else known.get(d.dim_param, size) for d in kind.shape.dim]
        if kind.elem_type == TensorProto.BOOL:
            feeds[value.name] = np.array(random.integers(0, 2, shape), bool)
        elif kind.elem_type == TensorProto.STRING:
            feeds[value.name] = np.full(shape, "word", object)
        else:
            dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
            if np.issubdtype(dtype, np.floating) or dtype == ml_dtypes.bfloat16:
                feeds[value.name] = np.asarray(random.standard_normal(shape)).astype(dtype)
            else:
                feeds[value.name] = np.asarray(random.integers(0, 4, shape)).astype(dtype)
    return feeds
