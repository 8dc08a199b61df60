"""The verb fold: what a morph made folds back, as a verified child; nothing to fold is a refusal."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from onnxmorph import model
from onnxmorph.morphs.fold import FOLDS
from onnxmorph_cli.verbs.fold import KINDS
from tests.cli.conftest import SAMPLES, Run


@pytest.fixture
def resnet(folder: Path) -> str:
    """A sample with batch norms, in the folder that commands run in."""
    shutil.copy(SAMPLES / "digits_resnet.onnx", folder)
    return "digits_resnet.onnx"


def test_the_kinds_of_the_command_are_those_of_the_library() -> None:
    assert KINDS == FOLDS


def test_a_morphed_model_folds_back_to_its_parent(run: Run, folder: Path) -> None:
    assert run("deepen", "digits_cnn.onnx", "--after", "conv2", "--no-verify", "-o", "deep.onnx").code == 0
    ended = run("fold", "deep.onnx", "--json", "--provider", "cpu", "-o", "back.onnx")
    assert (ended.code, ended.err) == (0, ""), ended.err
    document = ended.document
    assert document["plan"]["morph"] == "fold" and document["plan"]["kind"] == "mirror"
    assert document["certificate"]["equivalent"] is True
    parent, back = model.load(folder / "digits_cnn.onnx"), model.load(folder / "back.onnx")
    assert [node.name for node in back.graph] == [node.name for node in parent.graph]
    assert set(back.graph.initializers) == set(parent.graph.initializers)
    assert [record["morph"] for record in model.records(back)] == ["deepen", "fold"]


def test_a_dry_run_lists_what_folds_by_kind(run: Run, folder: Path, resnet: str) -> None:
    before = {file.name for file in folder.iterdir()}
    ended = run("fold", resnet, "--dry-run", "--only", "batch-norm")
    lines = ended.out.splitlines()
    assert ended.code == 0 and len(lines) == 6 and all(line.startswith("batch-norm: ") for line in lines)
    one = run("fold", resnet, "--dry-run", "--layer", "#0")
    assert len(one.out.splitlines()) == 1
    assert {file.name for file in folder.iterdir()} == before


def test_nothing_to_fold_is_refused_and_an_unknown_kind_is_a_usage_error(run: Run, folder: Path) -> None:
    ended = run("fold", "digits_mlp.onnx", "--json")
    assert ended.code == 3 and ended.document["code"] == "nothing-to-fold"
    assert run("fold", "digits_mlp.onnx", "--only", "bn").code == 2
    assert run("fold", "digits_mlp.onnx", "--layer", "conv9").code == 2
    assert not list(folder.glob("*.fold.onnx"))
