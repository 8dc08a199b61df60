"""Certificates on disk: bound to both models by content, whole or not at all, and never believed beyond that."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.errors import ModelError
from onnxmorph.verify import check_binding, read_certificate, sidecar_path, verify, write_certificate
from tests.verify.graphs import replaced, small_model, weights

W = weights(8, 8)
PARENT = small_model("(float[N,8] x) => (float[N,8] y)", "h = MatMul(x, w)\n y = Relu(h)", {"w": W})
CHILD = small_model("(float[N,8] x) => (float[N,8] y)", "h = MatMul(x, w)\n y = PRelu(h, a)",
                    {"w": W, "a": np.zeros(1, np.float32)})  # fmt: skip


def saved(model: ir.Model, path: Path) -> Path:
    files.save(model, path, overwrite=True)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    parent, child = saved(PARENT, tmp_path / "parent.onnx"), saved(CHILD, tmp_path / "child.onnx")
    write_certificate(sidecar_path(child), verify(parent, child, provider="cpu").to_json())
    return parent, child


def test_a_sidecar_binds(pair: tuple[Path, Path]) -> None:
    binding = check_binding(pair[1], pair[0])
    assert (binding.holds, binding.reasons, binding.source) == (True, [], "sidecar")
    assert sidecar_path(pair[1]).name == "child.onnx.certificate.json"
    assert check_binding(pair[1]).holds


def test_a_child_that_was_changed_since(pair: tuple[Path, Path]) -> None:
    saved(replaced(CHILD, "a", np.full(1, 0.1, np.float32)), pair[1])
    binding = check_binding(pair[1], pair[0])
    assert not binding.bound and "changed since" in binding.reasons[0]


def test_notes_in_a_child_do_not_unbind_it(pair: tuple[Path, Path]) -> None:
    model = files.load(pair[1])
    model.doc_string = "hello"
    saved(model, pair[1])
    assert check_binding(pair[1], pair[0]).holds


def test_another_parent(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = saved(replaced(PARENT, "w", W + 1), tmp_path / "other.onnx")
    assert "another" in check_binding(pair[1], other).reasons[0]


def test_no_certificate(tmp_path: Path) -> None:
    child = saved(CHILD, tmp_path / "child.onnx")
    binding = check_binding(child)
    assert (binding.bound, binding.equivalent) == (False, None) and "no certificate" in binding.reasons[0]


def test_a_child_written_without_verification(tmp_path: Path) -> None:
    model = files.clone(CHILD)
    files.set_certificate(model, {"schema": 1, "equivalent": None, "verified": False})
    binding = check_binding(saved(model, tmp_path / "child.onnx"))
    assert not binding.holds and "without verification" in binding.reasons[0]


def test_metadata_and_sidecar_that_disagree(pair: tuple[Path, Path]) -> None:
    document = read_certificate(sidecar_path(pair[1]))
    model = files.load(pair[1])
    files.set_certificate(model, {**document, "parent": "0" * 64})
    saved(model, pair[1])
    binding = check_binding(pair[1], pair[0])
    assert not binding.bound and "disagree: parent" in binding.reasons[0]
    # Told which one to believe, it is believed.
    assert check_binding(pair[1], pair[0], certificate=sidecar_path(pair[1])).holds


def test_a_certificate_of_difference_is_bound_and_does_not_hold(tmp_path: Path) -> None:
    parent = saved(PARENT, tmp_path / "parent.onnx")
    child = saved(replaced(PARENT, "w", W + np.float32(0.1)), tmp_path / "child.onnx")
    write_certificate(tmp_path / "c.json", verify(parent, child, provider="cpu").to_json())
    binding = check_binding(child, parent, certificate=tmp_path / "c.json")
    assert binding.bound and binding.equivalent is False and not binding.holds
    assert "differs" in binding.reasons[-1]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 1}', "[" * 100_000])
def test_a_damaged_certificate_is_one_line(pair: tuple[Path, Path], text: str) -> None:
    sidecar_path(pair[1]).write_text(text)
    with pytest.raises(ModelError, match="holds no certificate"):
        check_binding(pair[1], pair[0])


def test_only_certificates_are_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_certificate(path, {"schema": 1, "equivalent": True})
    write_certificate(path, {"schema": 1, "equivalent": False})
    assert read_certificate(path)["equivalent"] is False
    path.write_text("my notes")
    with pytest.raises(ModelError, match="not overwritten"):
        write_certificate(path, {"schema": 1, "equivalent": True})
    assert path.read_text() == "my notes"
    with pytest.raises(ModelError, match="cannot be written"):
        write_certificate(tmp_path / "nowhere" / "c.json", {"schema": 1, "equivalent": True})
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.json"]


# -- the schema -------------------------------------------------------------------------------------------------------


def schema() -> Any:
    text = resources.files("onnxmorph.verify").joinpath("certificate.schema.json").read_text(encoding="utf-8")
    return json.loads(text)


def valid(document: object) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.Draft202012Validator(schema()).validate(json.loads(json.dumps(document, allow_nan=False)))


def test_every_kind_of_certificate_keeps_to_the_schema() -> None:
    from onnxmorph.delivery import travelling
    from onnxmorph.verify import Tolerance, Tolerances

    wrong = replaced(PARENT, "w", W + np.float32(0.1))
    renamed = small_model("(float[N,8] x) => (float[N,8] z)", "z = Relu(x)")
    for child in (PARENT, CHILD, wrong, renamed):
        certificate = verify(PARENT, child, provider="cpu")
        valid(certificate.to_json())
        valid(travelling(certificate))
        valid({**travelling(certificate), "morphism": False})
    valid(verify(PARENT, wrong, provider="cpu", tolerances=Tolerances(Tolerance(9.0))).to_json())
    valid({"schema": 1, "equivalent": None, "verified": False})


def test_the_schema_can_say_no() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    document = verify(PARENT, PARENT, provider="cpu").to_json()
    for change in ({"equivalent": "yes"}, {"parent": "abc"}, {"surprise": 1}, {"detectable_fault": -1}):
        with pytest.raises(jsonschema.ValidationError):
            valid({**document, **change})
