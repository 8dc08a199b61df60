"""The verb train: a trained file, or a word on why not."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from onnxmorph import model, train
from onnxmorph.grow import morphnet
from onnxmorph.grow.losses import LOSSES
from onnxmorph_cli import learning
from tests.cli.conftest import Run


def test_the_losses_of_the_command_are_those_of_the_library() -> None:
    assert learning.LOSSES == LOSSES


@pytest.mark.parametrize(
    ("verb", "function"),
    [
        ("train", train.fit),
        ("evolve", train.evolve),
        ("search", train.search),
        ("shrink", morphnet.shrink),
        ("expand", morphnet.cycle),
    ],
)
def test_the_defaults_that_are_told_are_those_of_the_library(verb: str, function: Callable[..., Any]) -> None:
    command = importlib.import_module(f"onnxmorph_cli.verbs.{verb}").command
    # What a function hands on to the training, it leaves to the training's own defaults.
    parameters = inspect.signature(train.fit).parameters | inspect.signature(function).parameters
    told = {name: each.default for name, each in parameters.items() if each.default is not inspect.Parameter.empty}
    given = command.make_context(verb, [], resilient_parsing=True).params
    # What is empty, or a choice of other files, is said in words; and without steps there are ten passes over the data.
    shown = {name for name in given.keys() & told.keys() if given[name] not in (None, (), {}) and name != "output"}
    assert len(shown - {"epochs"}) >= 6
    for name in shown:
        assert given[name] == (10 if name == "epochs" else told[name]), name


def test_a_model_is_trained_into_a_new_file(run: Run, folder: Path, data: str) -> None:
    before = (folder / "digits_cnn.onnx").read_bytes()
    words = ("train", "digits_cnn.onnx", "--data", data, "--epochs", "2", "--validation", "0.2", "--device", "cpu")
    ended = run(*words, "--freeze", "bias", "--rate-of", "kernel=0.5", "--json")
    assert (ended.code, ended.err) == (0, ""), ended.err
    document = ended.document
    assert [entry["epoch"] for entry in document["history"]] == [1, 2] and document["stopped"] == "finished"
    assert document["trained"] == "digits_cnn.train.onnx" and document["checkpoint"] is None
    assert all(name.endswith("weight") for name in document["parameters"])
    assert (folder / "digits_cnn.onnx").read_bytes() == before
    assert {file.name for file in folder.iterdir()} == {
        "digits_cnn.onnx",
        "digits_mlp.onnx",
        "digits.npz",
        "digits_cnn.train.onnx",
    }
    trained = model.load(folder / "digits_cnn.train.onnx")
    assert train.trainings(trained)[0]["loss"] == "cross-entropy"
    again = run(*words)
    assert again.code == 2 and "digits_cnn.train.onnx exists" in again.err
    table = run(*words, "--force", "--checkpoint", "kept.pt")
    assert table.code == 0 and "the weights of epoch" in table.out and (folder / "kept.pt").exists()


def test_afterwards_what_can_be_folded_is_folded_and_verified(run: Run, folder: Path, data: str) -> None:
    assert run("widen", "digits_cnn.onnx", "--layer", "conv1", "--by", "2", "-o", "wide.onnx").code == 0
    words = ("train", "wide.onnx", "--data", data, "--steps", "1", "--rate", "1e-9", "--weight-decay", "0")
    plain = run(*words, "-o", "plain.onnx", "--json")
    assert plain.code == 0 and plain.document["folded"] is None
    assert run("activate", "digits_cnn.onnx", "-o", "act.onnx", "--no-verify").code == 0
    words = ("train", "act.onnx", "--data", data, "--steps", "1", "--freeze", "a")
    ended = run(*words, "--fold", "-o", "out.onnx", "--json")
    assert ended.code == 0, ended.err
    assert any("activation" in line for line in ended.document["folded"])
    assert not [name for name in model.load(folder / "out.onnx").graph.initializers if name.endswith(".a")]
    assert model.certificate_of(model.load(folder / "out.onnx"))["equivalent"] is True  # type: ignore[index]


def test_what_is_wrong_is_told_in_a_line_with_its_exit_code(run: Run, folder: Path, data: str) -> None:
    image = np.load(folder / data)["x"]
    np.savez(folder / "classes.npz", x=image, y=np.full(len(image), 10))
    np.savez(folder / "names.npz", pictures=image, z=image, y=np.zeros(len(image), dtype=int))
    np.savez(folder / "bytes.npz", x=(image * 255).astype(np.uint8), y=np.zeros(len(image), dtype=int))
    base = ("train", "digits_cnn.onnx", "--json", "--epochs", "1")
    for words, code, slug in (
        (("--data", "classes.npz"), 3, "class-range"),
        (("--data", "names.npz"), 3, "data-name"),
        (("--data", "bytes.npz"), 3, "data-type"),
        (("--data", data, "--freeze", "*"), 3, "no-gradient"),
        (("--data", "absent.npz"), 4, None),
        (("--data", data, "--rate", "1e30", "--optimizer", "sgd"), 4, None),
        (("--data", data, "--freeze", "conv9"), 2, None),
        (("--data", data, "--steps", "3"), 2, None),
        (("--data", data, "--rate-of", "kernel"), 2, None),
        (("--data", data, "--mean", "a"), 2, None),
        (("--data", data, "--image-size", "0x3"), 2, None),
    ):
        ended = run(*base, *words)
        assert ended.code == code, (words, ended.err)
        assert json.loads(ended.out).get("code") == slug, words
        assert len(ended.err.strip().splitlines()) == 1, ended.err
    assert not list(folder.glob("*train.onnx*"))
