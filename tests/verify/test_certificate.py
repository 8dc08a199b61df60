"""The certificate as other programs read it."""

from __future__ import annotations

import json

import numpy as np

from onnxmorph.verify import Certificate, Comparison, verify
from onnxmorph.verify.faults import FaultTrial, summarise
from tests.verify.graphs import small_model, weights


def test_every_field_of_the_contract() -> None:
    model = small_model("(float[N,4] x) => (float[N,3] y)", "y = MatMul(x, w)", {"w": weights(4, 3)})
    document = json.loads(json.dumps(verify(model, model, provider="cpu").to_json(), allow_nan=False))
    assert document["schema"] == 1
    assert document["equivalent"] is True
    assert document["provider"] == "CPUExecutionProvider"
    assert document["inputs"] > 1
    assert document["detectable_fault"] == 0.01
    assert {"name", "max_abs", "max_rel", "noise_floor", "ratio"} <= set(document["outputs"][0])
    assert document["parent"] == document["child"] != ""


def test_numbers_are_finite_or_words() -> None:
    certificate = Certificate(False, "CPUExecutionProvider", 1)
    certificate.outputs.append(Comparison("y", "y", "float32", max_abs=float("inf"), ratio=float("nan")))
    certificate.coverage = {"sizes": [np.int64(3)], "scale": np.float32(0.5)}
    document = json.loads(json.dumps(certificate.to_json(), allow_nan=False))
    assert (document["outputs"][0]["max_abs"], document["outputs"][0]["ratio"]) == ("inf", "nan")
    assert document["coverage"] == {"sizes": [3], "scale": 0.5}


def test_description_gives_the_verdict_and_the_reason() -> None:
    certificate = Certificate(False, "CPUExecutionProvider", 2, failures=["output 'y' differs by 1"])
    lines = certificate.describe().splitlines()
    assert lines[0].startswith("NOT equivalent: 2 sets of inputs on CPU")
    assert lines[-1] == "failure: output 'y' differs by 1"


def trials(*seen: tuple[float, bool]) -> list[FaultTrial]:
    return [FaultTrial("w", 0, size, found) for size, found in seen]


def test_the_smallest_fault_seen_everywhere_counts() -> None:
    assert summarise(trials((0.05, True), (0.02, True), (0.01, False))) == (0.02, [])
    assert summarise([]) == (None, [])


def test_blindness_is_warned_of() -> None:
    size, warnings = summarise(trials((0.05, False), (0.05, False)))
    assert size is None and "blind" in warnings[0]
    size, warnings = summarise(trials((0.05, True), (0.05, True), (0.05, False)))
    assert size == 0.05 and "'w'" in warnings[0]
