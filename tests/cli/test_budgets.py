"""The verbs that bring a model to a budget: shrink --budget and expand."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxmorph import model
from tests.cli.conftest import Run


def test_options_of_the_training_need_a_budget_even_where_they_say_the_default(run: Run, data: str) -> None:
    ended = run("shrink", "digits_mlp.onnx", "--layer", "#0", "--to", "8", "--epochs", "10")
    assert ended.code == 2 and "go with --budget" in ended.err


def test_a_model_is_shrunk_to_a_budget_and_never_called_equivalent(run: Run, folder: Path, data: str) -> None:
    pytest.importorskip("torch")
    words = ("shrink", "digits_cnn.onnx", "--budget", "flops=50%", "--data", data, "--epochs", "1", "--provider", "cpu")
    ended = run(*words, "--validation", "0.25", "--finetune", "1", "-o", "small.onnx")
    assert ended.code == 0, ended.err
    assert "layer" in ended.out and " -> " in ended.out and "no morphism" in ended.out
    assert "the budget is 342.3 k flops" in ended.out and "validation accuracy" in ended.out
    child = model.load(folder / "small.onnx")
    certificate = model.certificate_of(child)
    assert certificate is not None and certificate["morphism"] is False and certificate["equivalent"] is False
    assert max(one["max_abs"] for one in certificate["outputs"]) > 0
    assert not [file.name for file in folder.iterdir() if "checkpoint" in file.name]
    # The records make the same graph of the same parent again; the numbers came of training.
    again = run("replay", "small.onnx", "digits_cnn.onnx")
    assert again.code == 1 and "the same graph, but" in again.out
    told = run(*words, "--finetune", "0", "-o", "other.onnx", "--json").document
    assert told["morphism"] is False and told["budget"]["after"] <= told["budget"]["limit"]
    assert {row["name"] for row in told["budget"]["layers"]} >= {"/classifier/Gemm"}


def test_interrupted_it_goes_on_with_the_same_command(
    run: Run, folder: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    import signal

    from onnxmorph.grow.morphnet.regulariser import Regulariser

    words = (
        "shrink",
        "digits_mlp.onnx",
        "--budget",
        "params=50%",
        "--data",
        data,
        "--epochs",
        "2",
        "--batch-size",
        "16",
    )
    words = (*words, "--finetune", "1", "--provider", "cpu")
    assert run(*words, "-o", "whole.onnx", "-q").code == 0
    step_of = Regulariser.__call__

    def interrupting(self: Regulariser, net: object, step: int, rate: float) -> None:
        step_of(self, net, step, rate)  # type: ignore[arg-type]
        if step == 5:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Regulariser, "__call__", interrupting)
        ended = run(*words, "-o", "parts.onnx")
    assert ended.code == 130 and "go on with the same command" in ended.err and not (folder / "parts.onnx").exists()
    assert run(*words, "-o", "parts.onnx", "-q").code == 0
    whole, parts = (model.load(folder / name) for name in ("whole.onnx", "parts.onnx"))
    assert model.content_hash(whole) == model.content_hash(parts)


def test_a_model_is_expanded_to_a_budget_and_verified(run: Run, folder: Path) -> None:
    ended = run("expand", "digits_mlp.onnx", "--budget", "params=2x", "--provider", "cpu", "-o", "wide.onnx")
    assert ended.code == 0, ended.err
    assert "equivalent" in ended.out and "widths times" in ended.out
    certificate = model.certificate_of(model.load(folder / "wide.onnx"))
    assert certificate is not None and certificate["equivalent"] is True and "morphism" not in certificate
    dry = run("expand", "digits_mlp.onnx", "--budget", "params=2x", "--dry-run")
    assert dry.code == 0 and "widen the output" in dry.out
    again = run("replay", "wide.onnx", "digits_mlp.onnx")
    assert again.code == 0 and "the same graph and weights" in again.out


def test_cycles_train(run: Run, folder: Path, data: str) -> None:
    pytest.importorskip("torch")
    words = ("expand", "digits_mlp.onnx", "--budget", "params=100%", "--cycle", "1", "--data", data)
    ended = run(*words, "--epochs", "1", "--finetune", "0", "--provider", "cpu", "--json", "-o", "c.onnx")
    assert ended.code == 0, ended.err
    assert ended.document["morphism"] is False and len(ended.document["budget"]["rounds"]) == 1


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["shrink", "digits_mlp.onnx"], 2, "--layer"),
        (["shrink", "digits_mlp.onnx", "--layer", "fc1", "--to", "3", "--data", "digits.npz"], 2, "--budget"),
        (["shrink", "digits_mlp.onnx", "--budget", "flops=50%"], 2, "--data"),
        (["shrink", "digits_mlp.onnx", "--budget", "flops=50%", "--layer", "fc1", "--data", "d"], 2, "whole model"),
        (["shrink", "digits_mlp.onnx", "--budget", "flops=50%", "--data", "digits.npz", "--dry-run"], 2, "dry-run"),
        (["shrink", "digits_mlp.onnx", "--budget", "lops=50%", "--data", "digits.npz"], 2, "no budget"),
        (["shrink", "digits_mlp.onnx", "--budget", "flops=50%", "--data", "nothing.npz"], 4, "nothing.npz"),
        (["shrink", "digits_mlp.onnx", "--budget", "params=3", "--data", "digits.npz"], 3, "the least"),
        (["expand", "digits_mlp.onnx"], 2, "--budget"),
        (["expand", "digits_mlp.onnx", "--budget", "params=2x", "--data", "digits.npz"], 2, "--cycle"),
        (["expand", "digits_mlp.onnx", "--budget", "params=2x", "--cycle", "1"], 2, "--data"),
        (["expand", "digits_mlp.onnx", "--budget", "params=50%"], 3, "shrink it first"),
    ],
)
def test_what_makes_no_sense_is_told(run: Run, folder: Path, data: str, words: list[str], code: int, text: str) -> None:
    pytest.importorskip("torch")
    ended = run(*words)
    assert ended.code == code and text in ended.err, ended.err
    assert not list(folder.glob("*.shrink.onnx")) and not list(folder.glob("*.expand.onnx"))
