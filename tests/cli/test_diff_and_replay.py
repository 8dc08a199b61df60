"""The verbs that look back: what a child differs in, and whether its records make it again."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxmorph import model
from onnxmorph._ir import ir
from tests.cli.conftest import SAMPLES, Run


@pytest.fixture
def grown(run: Run, folder: Path) -> Path:
    assert (
        run("kernel", "digits_cnn.onnx", "--layer", "conv1", "--to", "5", "-o", "child.onnx", "--no-verify").code == 0
    )
    return folder / "child.onnx"


def test_diff_in_every_form(run: Run, grown: Path) -> None:
    ended = run("diff", "digits_cnn.onnx", "child.onnx")
    assert ended.code == 0 and ended.out.startswith("1 node changed, 1 tensor changed\n")
    assert "kernel_shape [3, 3] -> [5, 5]" in ended.out and "grow the kernel from 3x3 to 5x5" in ended.out
    assert run("diff", "digits_cnn.onnx", "child.onnx", "-q").out == "1 node changed, 1 tensor changed\n"
    document = run("diff", "digits_cnn.onnx", "child.onnx", "--json").document
    assert document["same"] is False and document["nodes"][0]["name"] == "/features/conv1/Conv"
    assert "```mermaid\nflowchart TD" in run("diff", "digits_cnn.onnx", "child.onnx", "--markdown").out
    assert run("diff", "digits_cnn.onnx", "child.onnx", "--html").out.startswith("<!doctype html>")
    assert run("diff", "child.onnx", "child.onnx").out.startswith("no difference")


def test_diff_writes_a_file_and_never_over_one(run: Run, grown: Path) -> None:
    assert run("diff", "digits_cnn.onnx", "child.onnx", "--html", "-o", "page.html").code == 0
    assert (grown.parent / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert run("diff", "digits_cnn.onnx", "child.onnx", "--html", "-o", "page.html").code == 2
    assert run("diff", "digits_cnn.onnx", "child.onnx", "--html", "-o", "page.html", "--force").code == 0
    assert run("diff", "digits_cnn.onnx", "nowhere.onnx").code == 4


def test_a_replay_that_gives_the_child_again_ends_with_0(run: Run, grown: Path) -> None:
    ended = run("replay", "child.onnx", "digits_cnn.onnx", "-o", "again.onnx", "--no-verify")
    assert ended.code == 0 and "1 morph replayed: the same graph and weights" in ended.out
    assert (grown.parent / "again.onnx").read_bytes() == grown.read_bytes()


def test_a_replay_is_verified_and_told_as_json(run: Run, grown: Path) -> None:
    document = run("replay", "child.onnx", "digits_cnn.onnx", "--provider", "cpu", "--json").document
    assert document["same"] is True and document["parent_changed"] is False and document["difference"] is None
    assert document["certificate"]["equivalent"] is True and document["child"] == "digits_cnn.replay.onnx"
    assert [step["morph"] for step in document["steps"]] == ["kernel"]


def test_a_replay_on_a_parent_trained_on_ends_with_1_and_is_written(run: Run, grown: Path) -> None:
    parent = model.load(grown.parent / "digits_cnn.onnx")
    weight = parent.graph.initializers["features.conv2.weight"]
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy() * 2, name=weight.name)
    model.save(parent, grown.parent / "trained.onnx")
    ended = run("replay", "child.onnx", "trained.onnx", "-o", "again.onnx", "--provider", "cpu")
    assert ended.code == 1 and "the parent is not the one" in ended.out and "features.conv2.weight" in ended.out
    assert model.records(model.load(grown.parent / "again.onnx"))


def test_a_child_without_records_is_refused(run: Run, grown: Path) -> None:
    ended = run("replay", "digits_mlp.onnx", "digits_cnn.onnx", "--json")
    assert ended.code == 3 and ended.document["code"] == "no-records"


def test_replay_over_a_parent_of_other_layers_is_refused_and_nothing_is_written(run: Run, grown: Path) -> None:
    before = {file.name for file in grown.parent.iterdir()}
    ended = run("replay", "child.onnx", "digits_mlp.onnx")
    assert ended.code == 3 and "record 1 (kernel)" in ended.err
    assert {file.name for file in grown.parent.iterdir()} == before


def test_duplicate_takes_a_block_by_two_layers(run: Run, folder: Path) -> None:
    ended = run(
        "duplicate",
        SAMPLES / "digits_transformer.onnx",
        *("--from", "#1", "--to", "#4", "--times", "2", "-o", "child.onnx", "--provider", "cpu", "--json"),
    )
    assert ended.code == 0, ended.err
    assert ended.document["certificate"]["equivalent"] is True and ended.document["plan"]["times"] == 2
    refused = run("duplicate", "digits_cnn.onnx", "--from", "conv2", "--json")
    assert refused.code == 3 and refused.document["code"] == "not-residual"
