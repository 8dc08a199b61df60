"""The verbs evolve and slim."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from onnxmorph import model
from onnxmorph.records import certificate_of
from tests.cli.conftest import Run


def test_a_model_is_evolved_and_its_slim_net_cut_out(run: Run, folder: Path, data: str) -> None:
    words = ("evolve", "digits_mlp.onnx", "--data", data, "--generations", "2", "--epochs", "1", "--device", "cpu")
    ended = run(*words, "--validation", "0.5", "--json")
    assert (ended.code, ended.err) == (0, ""), ended.err
    assert [one["number"] for one in ended.document["generations"]] == [1, 2]
    assert all("slim_accuracy" in one for one in ended.document["generations"])
    assert not (folder / "digits_mlp.evolve.onnx.evolution").exists()
    cut = run("slim", "digits_mlp.evolve.onnx", "--zeroed", "zeroed.onnx", "--provider", "cpu")
    assert cut.code == 0 and "no morphism" in cut.out, cut.err
    certificate = certificate_of(model.load(folder / "digits_mlp.evolve.slim.onnx"))
    assert certificate is not None and certificate["morphism"] is False and certificate["equivalent"]
    told = run("verify", "zeroed.onnx", "digits_mlp.evolve.slim.onnx", "--provider", "cpu")
    assert told.code == 0
    assert run("verify", "digits_mlp.evolve.onnx", "digits_mlp.evolve.slim.onnx", "--provider", "cpu").code == 1
    again = run(*words)
    assert again.code == 2 and "digits_mlp.evolve.onnx exists" in again.err
    table = run(*words, "--force", "--folder", "kept", "--split", "wels")
    assert table.code == 0 and "slim" not in table.out.splitlines()[-1]
    assert (folder / "kept" / "generation-2.onnx").exists()
    none = run("slim", "digits_mlp.evolve.onnx", "-o", "none.onnx")
    assert none.code == 3 and "wels" in none.err
    other = run(*words, "--force", "--folder", "kept")
    assert other.code == 3 and "another evolution" in other.err


def test_what_was_not_evolved_needs_a_share(run: Run, folder: Path) -> None:
    ended = run("slim", "digits_mlp.onnx")
    assert ended.code == 2 and "--share" in ended.err
    quick = run("slim", "digits_mlp.onnx", "--share", "0.25", "--no-verify", "--json")
    assert quick.code == 0 and quick.document["morphism"] is False and quick.document["certificate"] is None
    assert not list(folder.glob("*.part"))
