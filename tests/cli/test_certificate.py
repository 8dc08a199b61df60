"""``certificate``: the binding of a child to its parent, without a run."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.cli.conftest import Run


@pytest.fixture
def grown(run: Run, folder: Path) -> Path:
    assert run("deepen", "digits_cnn.onnx", "--after", "conv1", "-o", "child.onnx", "--provider", "cpu").code == 0
    return folder / "child.onnx"


def test_a_child_is_bound_to_its_parent(run: Run, folder: Path, grown: Path) -> None:
    ended = run("certificate", grown, "--parent", "digits_cnn.onnx")
    assert (ended.code, ended.err) == (0, "") and "certified equivalent as the child of" in ended.out
    document = run("certificate", grown, "--parent", "digits_cnn.onnx", "--json").document
    assert document["bound"] is True and document["equivalent"] is True and document["source"] == "metadata"
    assert run("certificate", grown, "-q").out == "bound\n"


def test_a_child_that_was_changed_since(run: Run, folder: Path, grown: Path) -> None:
    proto = onnx.load(grown)
    tensor = proto.graph.initializer[0]
    array = onnx.numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[0] += 1
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(proto, grown)
    ended = run("certificate", grown, "--parent", "digits_cnn.onnx")
    assert ended.code == 1 and "changed since" in ended.out
    document = run("certificate", grown, "--json").document
    assert document["bound"] is False and document["reasons"]


def test_another_parent_and_none(run: Run, folder: Path, grown: Path) -> None:
    assert "another" in run("certificate", grown, "--parent", grown).out
    ended = run("certificate", "digits_cnn.onnx")
    assert ended.code == 1 and "no certificate" in ended.out
    quiet = run("certificate", "digits_cnn.onnx", "-q")
    assert (quiet.code, quiet.out) == (1, "") and "no certificate" in quiet.err


def test_without_verification_and_then_with_a_sidecar(run: Run, folder: Path) -> None:
    run("deepen", "digits_cnn.onnx", "--after", "conv1", "-o", "child.onnx", "--no-verify")
    ended = run("certificate", "child.onnx")
    assert ended.code == 1 and "--no-verify" in ended.out
    assert run("verify", "digits_cnn.onnx", "child.onnx", "--sidecar", "--certificate", "kept.json").code == 0
    sidecar = folder / "child.onnx.certificate.json"
    assert sidecar.read_text() == (folder / "kept.json").read_text()
    assert run("certificate", "child.onnx", "--certificate", "kept.json", "--parent", "digits_cnn.onnx").code == 0
    assert run("certificate", "child.onnx", "--parent", "digits_cnn.onnx").code == 0


def test_a_damaged_certificate_and_a_missing_model_are_one_line(run: Run, folder: Path, grown: Path) -> None:
    (folder / "child.onnx.certificate.json").write_text("no")
    ended = run("certificate", grown)
    assert ended.code == 4 and "holds no certificate" in ended.err and ended.err.count("\n") == 1
    assert run("certificate", "nowhere.onnx").code == 4
