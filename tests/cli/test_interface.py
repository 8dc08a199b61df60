"""Outputs that were to become longer: the child is compared by what the parent has of them, and written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.delivery import Check, deliver
from onnxmorph.morphs import plan_widen
from onnxmorph.plan import apply
from tests.cli.conftest import Run


def classifier(path: Path, opset: int, last: str = "Identity") -> Path:
    rng = np.random.default_rng(0)
    tensors = {"w": rng.normal(size=(6, 8)).astype(np.float32), "v": rng.normal(size=(8, 3)).astype(np.float32)}
    proto = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": {opset}]>
        g (float[N, 6] x) => (float[N, 3] y) {{
            h = MatMul(x, w)
            r = Relu(h)
            [head] l = MatMul(r, v)
            y = {last}(l)
        }}"""
    )
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in tensors.items())
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("fill", ["zero-out", "replicate"])
def test_a_longer_output_is_verified_and_written_and_certified_as_it_stands(
    run: Run, tmp_path: Path, opset: int, fill: str
) -> None:
    parent = classifier(tmp_path / "p.onnx", opset)
    child = tmp_path / "c.onnx"
    ended = run("widen", parent, "--layer", "head", "--to", "5", "--fill", fill, "--interface", "-o", child, "--json")
    assert ended.code == 0
    assert any("first 3 on axis 1" in warning for warning in ended.document["certificate"]["warnings"])
    assert [output.type.tensor_type.shape.dim[1].dim_value for output in onnx.load(child).graph.output] == [5]
    x = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    before, after = (
        ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for path in (parent, child)
    )
    np.testing.assert_allclose(after[:, :3], before, rtol=1e-6)
    assert run("certificate", child, "--parent", parent).code == 0
    assert run("verify", parent, child).code == 1


def test_what_changes_the_numbers_that_were_there_is_not_written(run: Run, tmp_path: Path) -> None:
    parent = classifier(tmp_path / "p.onnx", 17, last="Softmax")
    ended = run("widen", parent, "--layer", "head", "--to", "5", "--interface", "-o", tmp_path / "c.onnx")
    assert ended.code in (1, 3)
    assert not (tmp_path / "c.onnx").exists()


def test_a_fault_in_what_the_parent_has_is_seen(tmp_path: Path) -> None:
    parent = files.load(classifier(tmp_path / "p.onnx", 17))
    child = apply(parent, [plan_widen(parent, "head", to=5, interface=True)])
    value = next(value for value in child.model.graph.initializers.values() if value.shape == (8, 5))
    assert value.const_value is not None
    damaged = value.const_value.numpy().copy()
    damaged[0, 1] += 0.1
    value.const_value = ir.Tensor(damaged, name=value.name)
    assert deliver(parent, child, tmp_path / "c.onnx", check=Check("cpu")).path is None
