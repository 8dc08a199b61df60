"""A small part of benchmarks/fault_detection.py: every planted fault that counts is seen, and no true child is called
wrong; and the benchmark itself tells faults that change something from those that do not."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onnxmorph import model as files
from tests.verify.graphs import replaced, small_model, weights

ROOT = Path(__file__).resolve().parents[2]
KINDS = "weight moved|channels|bias|PRelu|pads|taps|off centre|epsilon|attention|Transpose"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[SimpleNamespace]:
    """The benchmark's modules: benchmarks/ is a folder of scripts, not a package."""
    before = set(sys.modules)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import fault_detection  # type: ignore[import-not-found]
    from faults import planting, report, truth  # type: ignore[import-not-found]

    yield SimpleNamespace(main=fault_detection, planting=planting, truth=truth, report=report)
    sys.path.remove(str(ROOT / "benchmarks"))
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("fault_detection", "faults"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "kinds"), [("digits_cnn", KINDS), ("digits_transformer", "moved 1%|attention|epsilon")]
)
def test_every_fault_that_counts_is_seen_and_no_true_child_is_called_wrong(
    benchmark: Any, name: str, kinds: str
) -> None:
    options = benchmark.main.parser().parse_args(["--morphs", "4", "--kinds", kinds, "--seed", "1000"])
    options.comparers = ["onnxmorph"]
    events = list(benchmark.main.work(ROOT / "models" / f"{name}.onnx", options))
    true = [event for event in events if event["event"] == "true"]
    counted = [event for event in events if event["event"] == "fault" and benchmark.report.effect(event) > 16]
    assert len(true) >= 3
    assert len(counted) >= 4
    assert [event["what"] for event in true if event["said"]["onnxmorph"]["same"] is not True] == []
    assert [event["what"] for event in counted if event["said"]["onnxmorph"]["same"] is not False] == []


def dead_and_alive() -> Any:
    """The second half of the hidden channels is multiplied by zero."""
    v = weights(16, 4, seed=1)
    v[8:] = 0
    body = "h = MatMul(x, w)\n r = Relu(h)\n y = MatMul(r, v)"
    return small_model("(float[N,8] x) => (float[N,4] y)", body, {"w": weights(8, 16), "v": v})


def test_a_fault_counts_by_what_it_changes(benchmark: Any) -> None:
    parent = dead_and_alive()
    truth = benchmark.truth.Truth(parent, 0)
    before = truth.before(parent)
    moved = weights(8, 16)
    moved[3, 12] += 0.01
    inner, at_outputs = truth.effect(before, replaced(parent, "w", moved))
    assert inner > 1e3
    assert at_outputs == 0
    assert truth.effect(before, files.clone(parent)) == (0.0, 0.0)


def test_hidden_channels_that_only_a_child_has_are_nobodys_loss(benchmark: Any) -> None:
    parent = dead_and_alive()
    w, v = weights(8, 16), weights(16, 4, seed=1)
    v[8:] = 0
    wide = np.concatenate([w, weights(8, 3, seed=2)], 1), np.concatenate([v, np.zeros((3, 4), np.float32)])
    body = "h = MatMul(x, w)\n r = Relu(h)\n y = MatMul(r, v)"
    child = small_model("(float[N,8] x) => (float[N,4] y)", body, {"w": wide[0], "v": wide[1]})
    truth = benchmark.truth.Truth(parent, 0)
    assert truth.is_true(child)
    before = truth.before(child)
    moved = wide[0].copy()
    moved[0, 17] += 1
    assert truth.effect(before, replaced(child, "w", moved)) == (0.0, 0.0)
    moved[0, 0] += 1
    assert truth.effect(before, replaced(child, "w", moved))[1] > 1e3


def test_every_kind_finds_a_place_and_leaves_the_model_as_it_was(benchmark: Any) -> None:
    model = files.load(ROOT / "models" / "digits_transformer.onnx")
    before = files.content_hash(model)
    found = {kind for kind in benchmark.planting.KINDS if benchmark.planting.plant(model, kind, 1) is not None}
    assert {"weight moved 1%", "channels swapped", "bias dropped", "attention scale off"} <= found
    assert files.content_hash(model) == before


def test_the_page_counts_and_names(benchmark: Any) -> None:
    def said(same: bool | None) -> dict[str, Any]:
        return {"onnxmorph": {"same": same, "seconds": 1.0, "why": "", "ratio": 3.0}}

    base = {"path": "a/b.onnx", "half": "held out", "kind": "bias dropped", "what": "x", "of": "parent"}
    events = [
        {**base, "event": "true", "said": said(True)},
        {**base, "event": "true", "what": "wolf", "said": said(False)},
        {**base, "event": "fault", "effect": 50.0, "effect_outputs": 1.0, "said": said(False)},
        {**base, "event": "fault", "effect": 40.0, "effect_outputs": 1.0, "what": "slipped", "said": said(True)},
        {**base, "event": "fault", "effect": 0.0, "effect_outputs": 0.0},
    ]
    page = benchmark.report.as_markdown(json.loads(json.dumps(events)), 16.0, "command")
    assert "| onnxmorph | held out | 50.00% | 1 / 2 | 1 | 2 | 0 | 1.00 |" in page
    assert "`slipped`" in page
    assert "wolf" in page
    assert "1 change nothing at all" in page
