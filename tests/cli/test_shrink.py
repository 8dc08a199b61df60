"""The verb shrink: exact, or plainly no morphism."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxmorph import model
from onnxmorph.graph.layers import layers
from tests.cli.conftest import Run


def outputs_of(path: Path, name: str) -> int:
    return next(one.out_channels for one in layers(model.load(path)) if name in one.name)


def test_what_widen_added_goes_exactly(run: Run, folder: Path) -> None:
    widened = run("widen", "digits_cnn.onnx", "--layer", "conv2", "--by", "1.5", "--no-verify", "-o", "wide.onnx")
    assert widened.code == 0
    ended = run("shrink", "wide.onnx", "--layer", "conv2", "--to", "24", "--json", "--provider", "cpu", "-o", "s.onnx")
    assert ended.code == 0, ended.err
    document = ended.document
    assert document["certificate"]["equivalent"] is True and document["morphism"] is True
    assert document["plan"]["exact"] is True
    assert outputs_of(folder / "s.onnx", "conv2") == 24


def test_an_inexact_child_is_written_and_never_called_equivalent(run: Run, folder: Path) -> None:
    call = ("shrink", "digits_cnn.onnx", "--layer", "conv2", "--to", "20", "--provider", "cpu", "-o", "s.onnx")
    refused = run(*call, "--json")
    assert refused.code == 3 and refused.document["code"] == "not-exact"
    assert not (folder / "s.onnx").exists()
    ended = run(*call, "--inexact")
    assert ended.code == 0 and "NOT exact" in ended.out and "no morphism" in ended.out
    certificate = model.certificate_of(model.load(folder / "s.onnx"))
    assert certificate is not None
    assert certificate["equivalent"] is False and certificate["morphism"] is False
    assert max(one["max_abs"] for one in certificate["outputs"]) > 0
    assert run("verify", "digits_cnn.onnx", "s.onnx", "--provider", "cpu").code == 1


def test_channels_are_listed_by_number_and_range(run: Run, folder: Path) -> None:
    call = ("shrink", "digits_cnn.onnx", "--layer", "conv2", "--inexact", "--no-verify", "--force", "-o", "s.onnx")
    assert run(*call, "--keep", "0-7,12").code == 0
    assert outputs_of(folder / "s.onnx", "conv2") == 9
    assert run(*call, "--drop", "0-3").code == 0
    assert outputs_of(folder / "s.onnx", "conv2") == 20


@pytest.mark.parametrize("text", ["a", "3-", "-3", "5,,6", "1-99999999", ""])
def test_a_list_that_is_none_is_a_usage_error(run: Run, folder: Path, text: str) -> None:
    ended = run("shrink", "digits_cnn.onnx", "--layer", "conv2", "--keep", text, "--inexact")
    assert ended.code == 2 and "internal error" not in ended.err
