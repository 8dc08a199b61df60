"""``assert_equivalent``, as a test suite uses it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnxmorph import model as models
from onnxmorph.errors import ModelError, SelectionError
from onnxmorph.testing import assert_equivalent
from tests.ci.models import int_model, make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path)


def test_paths_protos_and_models_are_taken(folder: Path) -> None:
    parent, child = folder / "parent.onnx", folder / "child.onnx"
    certificate = assert_equivalent(parent, str(child), provider="cpu")
    assert certificate.equivalent and certificate.provider == "CPUExecutionProvider"
    assert_equivalent(onnx.load(parent), onnx.load(child), provider="cpu")
    assert_equivalent(models.load(parent), onnx.load(child), provider="cpu", seed=3)


def test_a_wrong_child_is_an_assertion_that_begins_with_the_first_value_that_differs(folder: Path) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_equivalent(folder / "parent.onnx", folder / "wrong.onnx", provider="cpu")
    first = str(caught.value).splitlines()[0]
    assert "wrong.onnx does not compute what" in first and "/features/conv3/Conv_output_0" in first
    assert "NOT equivalent" in str(caught.value)


def test_what_is_no_model_is_no_assertion(folder: Path) -> None:
    with pytest.raises(ModelError):
        assert_equivalent(folder / "parent.onnx", folder / "broken.onnx")
    with pytest.raises(TypeError, match="not int"):
        assert_equivalent(folder / "parent.onnx", 3)  # type: ignore[arg-type]
    with pytest.raises(SelectionError):
        assert_equivalent(folder / "parent.onnx", folder / "child.onnx", shapes={"nothing": [1]})


def test_the_limit_and_inner_values_are_the_callers_to_choose(folder: Path) -> None:
    int_model(folder / "int.onnx")
    assert_equivalent(folder / "int.onnx", folder / "int.onnx", inner=False, limit=2.0)
    with pytest.raises(AssertionError):
        assert_equivalent(folder / "parent.onnx", folder / "wrong.onnx", inner=False, limit=1.0)
