"""Who is asked whether two models compute the same: each gives ``True`` for yes, ``False`` for no.

Public tools are run at their defaults, on inputs they make up themselves. One that cannot run a model raises.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxmorph._ir import ir
from onnxmorph.verify import verify

from .truth import Truth, serialised, session

__all__ = ["COMPARERS", "Pair", "available"]


class Pair:
    """Parent and child, as models and as bytes, and inputs that fit them."""

    def __init__(self, parent: ir.Model, child: ir.Model, truth: Truth, seed: int) -> None:
        self.parent, self.child, self.truth, self.seed = parent, child, truth, seed
        self.parent_bytes, self.child_bytes = serialised(parent), serialised(child)
        self.ratio: float | None = None
        """Largest difference over noise that our verifier saw."""
        self.algebra: float | None = None
        """Largest residual of what was composed, over what rounding explains of it."""
        self.verdict = ""
        """And its verdict in words: ``unproven`` where it knows of a difference that no input showed."""


def _onnxmorph(pair: Pair) -> bool:
    # The self-test that follows an "equivalent" has no say in it, and is left out here.
    certificate = verify(pair.parent, pair.child, provider="cpu", seed=pair.seed, faults=False)
    ratios = [max(leaf.ratio, leaf.channel_ratio) for leaf in (*certificate.outputs, *certificate.inner)]
    pair.ratio = max(ratios, default=0.0)
    pair.verdict = certificate.verdict
    if certificate.static is not None and certificate.static["proved"]:
        pair.algebra = certificate.static["residual"] / max(certificate.static["rounding_bound"], 1e-300)
    return certificate.equivalent


def _allclose(pair: Pair) -> bool:
    """`np.allclose` at its defaults on the outputs for one set of signed random inputs at sizes that fit."""
    feeds = pair.truth.feeds[0]
    one, other = (session(proto, optimise=True).run(None, feeds) for proto in (pair.parent_bytes, pair.child_bytes))
    return all(_close(a, b) for a, b in zip(one, other, strict=True))


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        if one.shape != other.shape:
            return False
        return bool(np.allclose(one, other) if one.dtype.kind in "fiub" else np.array_equal(one, other))
    return bool(one == other)


def _polygraphy(pair: Pair) -> bool:
    """`polygraphy run --onnxrt` of both, then its comparison."""
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.comparator import Comparator
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    runners = [
        OnnxrtRunner(SessionFromOnnx(proto), name=name)
        for name, proto in (("parent", pair.parent_bytes), ("child", pair.child_bytes))
    ]
    return bool(Comparator.compare_accuracy(Comparator.run(runners, warm_up=0)))


def _onnxslim(pair: Pair) -> bool:
    """What `onnxslim --model-check` does with a model before and after."""
    from onnxslim.utils import check_result, gen_onnxruntime_input_data, onnxruntime_inference

    parent, child = (onnx.load_from_string(proto) for proto in (pair.parent_bytes, pair.child_bytes))
    feeds = gen_onnxruntime_input_data(parent)
    answers = [onnxruntime_inference(model, feeds) for model in (parent, child)]
    values = [answer[0] if isinstance(answer, tuple) else answer for answer in answers]
    return bool(check_result(*values))


COMPARERS: dict[str, Callable[[Pair], bool]] = {
    "onnxmorph": _onnxmorph,
    "np.allclose": _allclose,
    "Polygraphy": _polygraphy,
    "onnxslim": _onnxslim,
}
_PACKAGES = {"Polygraphy": "polygraphy", "onnxslim": "onnxslim"}


def available() -> list[str]:
    """Those whose packages are installed."""
    import importlib.util

    return [
        name for name in COMPARERS if name not in _PACKAGES or importlib.util.find_spec(_PACKAGES[name]) is not None
    ]


@contextlib.contextmanager
def quiet() -> Any:
    """Nothing printed: the tools talk, some of them past ``sys.stdout``."""
    saved = [os.dup(1), os.dup(2)]
    with (
        Path(os.devnull).open("w") as sink,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            for descriptor, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)
