"""What a worker says of one model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxmorph import model as files
from onnxmorph import recipe
from onnxmorph._ir import ir
from onnxmorph.plan import Child, Plan, apply
from onnxmorph.zoo.worker import grow_model

SAMPLES = Path(__file__).resolve().parents[2] / "models"
CPU: dict[str, Any] = {"provider": "cpu", "inputs": None, "shapes": {}, "seed": 0}
TWO_STEPS = '[[step]]\nmorph = "deepen"\nwhere = { last = 1 }\n[[step]]\nmorph = "deepen"\nwhere = { first = 1 }\n'


def _grow(tmp_path: Path, text: str, model: Path, check: dict[str, Any] | None = CPU) -> dict[str, Any]:
    stages: list[str] = []
    task = {
        "model": str(model),
        "child": str(tmp_path / "child.onnx"),
        "recipe": text,
        "recipe_name": "r",
        "check": check,
    }
    result = grow_model(task, stages.append)
    assert stages[0] == "loading"
    return json.loads(json.dumps(result, allow_nan=False))  # type: ignore[no-any-return]


def test_a_child_that_is_done(tmp_path: Path) -> None:
    result = _grow(tmp_path, TWO_STEPS, SAMPLES / "digits_mlp.onnx")
    assert result["outcome"] == "done" and result["files"] == ["child.onnx"] and len(result["plans"]) == 2
    assert result["content_hash"] == files.content_hash(files.load(tmp_path / "child.onnx"))
    assert result["certificate"]["equivalent"] and 0 <= result["ratio"] < 24
    assert result["parameters"]["after"] > result["parameters"]["before"] == 7770


def test_without_verification(tmp_path: Path) -> None:
    result = _grow(tmp_path, TWO_STEPS, SAMPLES / "digits_mlp.onnx", None)
    assert result["outcome"] == "done" and "certificate" not in result and "ratio" not in result
    assert files.certificate_of(files.load(tmp_path / "child.onnx")) == {
        "schema": 1,
        "equivalent": None,
        "verified": False,
    }


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('[[step]]\nmorph = "deepen"\nlayers = "no_such"\n', "selection"),
        ('[[step]]\nmorph = "deepen"\nwhere = { op = "Conv" }\n', "selection"),
        ('[[step]]\nmorph = "kernel"\nto = 5\non_refusal = "skip"\n', "all-refused"),
    ],
)
def test_what_a_model_does_not_take_is_refused(tmp_path: Path, text: str, code: str) -> None:
    result = _grow(tmp_path, text, SAMPLES / "digits_mlp.onnx")
    assert result["outcome"] == "refused" and result["reason"] and result["code"] == code
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_model_and_an_error_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken").mkdir()
    broken = tmp_path / "broken" / "b.onnx"
    broken.write_bytes(b"")
    assert _grow(tmp_path, TWO_STEPS, broken)["code"] == "ModelError"
    assert _grow(tmp_path, TWO_STEPS, tmp_path / "none.onnx")["outcome"] == "failed"

    def fault(*_: object) -> Child:
        raise ZeroDivisionError("of our own")

    monkeypatch.setattr(recipe, "carry_out", fault)
    result = _grow(tmp_path, TWO_STEPS, SAMPLES / "digits_mlp.onnx")
    assert result["outcome"] == "failed" and result["code"] == "internal" and "of our own" in result["reason"]


def test_a_wrong_child_is_not_written_and_the_step_that_broke_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = '[[step]]\nmorph = "deepen"\nlayers = "#0"\n[[step]]\nmorph = "deepen"\nwhere = { last = 1 }\n'
    first = _grow(tmp_path, text, SAMPLES / "digits_mlp.onnx")["plans"][0]
    (tmp_path / "child.onnx").unlink()

    def sabotaged(parent: ir.Model, plans: Sequence[Plan]) -> Child:
        child = apply(parent, plans)
        if any(plan.describe() == first for plan in plans):
            for value in child.model.graph.initializers.values():
                if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT:
                    value.const_value = ir.tensor(value.const_value.numpy() + np.float32(0.5), name=value.name)
        return child

    monkeypatch.setattr(recipe, "apply", sabotaged)
    result = _grow(tmp_path, text, SAMPLES / "digits_mlp.onnx")
    assert result["outcome"] == "not-equivalent" and result["broken_by"] == first
    assert result["reason"] and not result["certificate"]["equivalent"] and "files" not in result
    assert list(tmp_path.iterdir()) == []
