"""``verify``: the verdict as exit code, text and JSON."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.cli.conftest import Run


def test_a_model_is_equivalent_to_itself(run: Run, folder: Path) -> None:
    ended = run("verify", "digits_cnn.onnx", "digits_cnn.onnx", "--provider", "cpu", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert ended.document["equivalent"] is True
    assert run("verify", "digits_cnn.onnx", "digits_cnn.onnx", "-q").out == "equivalent\n"


def test_a_bias_that_was_moved_is_seen(run: Run, folder: Path) -> None:
    proto = onnx.load(folder / "digits_cnn.onnx")
    for tensor in proto.graph.initializer:
        if tensor.name == "features.conv3.bias":
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[3] += 0.1
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(proto, folder / "other.onnx")
    ended = run("verify", "digits_cnn.onnx", "other.onnx", "--json")
    assert ended.code == 1 and ended.document["equivalent"] is False and ended.document["failures"]
    text = run("verify", "digits_cnn.onnx", "other.onnx")
    assert text.code == 1 and "NOT equivalent" in text.out and "differs" in text.out
    assert run("verify", "digits_cnn.onnx", "other.onnx", "-q").out == "not equivalent\n"


def test_other_names_of_outputs_are_no_equivalence(run: Run, folder: Path) -> None:
    proto = onnx.load(folder / "digits_cnn.onnx")
    last = proto.graph.node[-1]
    last.output[0] = proto.graph.output[0].name = "scores"
    onnx.save(proto, folder / "other.onnx")
    ended = run("verify", "digits_cnn.onnx", "other.onnx")
    assert ended.code == 1 and "scores" in ended.out


@pytest.mark.parametrize("which", [0, 1])
def test_a_missing_model_is_exit_4(run: Run, folder: Path, which: int) -> None:
    models = ["digits_cnn.onnx", "digits_cnn.onnx"]
    models[which] = "nowhere.onnx"
    ended = run("verify", *models)
    assert (ended.code, ended.out) == (4, "") and "nowhere.onnx" in ended.err


def test_real_inputs_that_are_not_there_are_one_line(run: Run, folder: Path) -> None:
    ended = run("verify", "digits_cnn.onnx", "digits_cnn.onnx", "--inputs", "nowhere.npz")
    assert ended.code in (2, 4) and ended.err.count("\n") == 1 and "internal error" not in ended.err
