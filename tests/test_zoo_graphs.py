"""The generated zoo itself: every model is deterministic, and runs in ONNX Runtime or says why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.zoo_graphs import CASES, build, example_inputs, save_external, select


def _run(model: onnx.ModelProto | Path) -> list[object]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    proto = onnx.load(model) if isinstance(model, Path) else model
    return list(session.run(None, example_inputs(proto)))


@pytest.mark.parametrize("name", CASES)
def test_model_is_deterministic_and_runs_unless_it_says_why_not(name: str) -> None:
    model = build(name)
    assert model.SerializeToString(deterministic=True) == build(name).SerializeToString(deterministic=True)
    if CASES[name].unrunnable:
        with pytest.raises(Exception):  # noqa: B017 - each unrunnable model fails in its own way
            _run(model)
        return
    if name != "topology/shapes_unknown":  # the checker wants shapes on outputs, ONNX Runtime does not
        onnx.checker.check_model(model, full_check=True)
    for value in _run(model):
        array = np.asarray(value) if not isinstance(value, list) else np.asarray(value[0])
        if array.dtype.kind == "f" and name not in {"linear/conv_weights_nan", "linear/conv_weights_infinite"}:
            assert np.isfinite(array).all()


def test_select_finds_by_glob_and_leaves_out_what_cannot_run() -> None:
    assert len(select()) == len(CASES) > 300
    assert {c.name for c in select("weights/classifier_*", runnable=True)}.isdisjoint({"weights/classifier_bfloat16"})


@pytest.mark.parametrize("one_file", [True, False])
def test_external_model_runs_from_its_folder(tmp_path: Path, one_file: bool) -> None:
    path = save_external(tmp_path, one_file=one_file)
    assert len(list(tmp_path.iterdir())) > (1 if one_file else 5)
    np.testing.assert_array_equal(_run(path)[0], _run(build("topology/residual"))[0])
