"""``deepen``: where the child goes, what is told, and what is never left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onnxmorph import model
from onnxmorph.morphs.deepen import METHODS
from onnxmorph_cli.verbs.deepen import command
from tests.cli.conftest import Run


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


PARENTS = {"digits_cnn.onnx", "digits_mlp.onnx"}


def test_the_child_goes_beside_its_parent_and_the_json_tells_all(run: Run, folder: Path) -> None:
    ended = run("deepen", "digits_cnn.onnx", "--after", "conv2", "--json", "--provider", "cpu")
    assert (ended.code, ended.err) == (0, "")
    document = ended.document
    assert Path(document["child"]).samefile(folder / "digits_cnn.deepen.onnx")
    assert document["plan"]["morph"] == "deepen"
    assert len(document["factors"]) == 2
    for factor in document["factors"]:
        assert factor["name"] and factor["occupancy"] == 1.0 and 0.5 <= factor["scale_ratio"] <= 2
    assert 0 <= document["residual"] < 1e-6
    certificate = document["certificate"]
    assert certificate["equivalent"] is True and certificate["provider"] == "CPUExecutionProvider"
    assert certificate["inputs"] >= 2
    assert {"name", "max_abs", "max_rel", "noise_floor", "ratio"} <= set(certificate["outputs"][0])
    assert names(folder) == PARENTS | {"digits_cnn.deepen.onnx"}
    assert run("verify", "digits_cnn.onnx", "digits_cnn.deepen.onnx", "--provider", "cpu").code == 0


def test_the_text_tells_plan_factors_verdict_and_path(run: Run, folder: Path) -> None:
    ended = run("deepen", "digits_cnn.onnx", "--after", "conv2", "-o", "child.onnx")
    assert ended.code == 0
    for words in (
        "/features/conv2/Conv",
        "new factor",
        "occupancy",
        "residual",
        "noise floor",
        "equivalent",
        "written: ",
    ):
        assert words in ended.out
    assert "child.onnx" in ended.out


def test_quiet_prints_the_path_alone(run: Run, folder: Path) -> None:
    ended = run("deepen", "digits_mlp.onnx", "--after", "#0", "-q")
    assert (ended.code, ended.err) == (0, "") and Path(ended.out.strip()).samefile(folder / "digits_mlp.deepen.onnx")


@pytest.mark.parametrize("out", [None, "child.onnx", "digits_cnn.onnx"])
def test_nothing_is_overwritten_without_force(run: Run, folder: Path, out: str | None) -> None:
    words = ["deepen", "digits_cnn.onnx", "--after", "conv2", *(["-o", out] if out else [])]
    target = folder / (out or "digits_cnn.deepen.onnx")
    if out != "digits_cnn.onnx":
        target.write_bytes(b"precious")
    before = target.read_bytes()
    ended = run(*words)
    assert (ended.code, ended.out) == (2, "") and "--force" in ended.err and ended.err.count("\n") == 1
    assert target.read_bytes() == before
    ended = run(*words, "--force")
    assert ended.code == 0
    assert model.records(model.load(target))


def test_the_parent_is_not_overwritten_through_a_link_either(run: Run, folder: Path) -> None:
    (folder / "link.onnx").symlink_to("digits_cnn.onnx")
    ended = run("deepen", "digits_cnn.onnx", "--after", "conv2", "-o", "link.onnx")
    assert ended.code == 2 and "overwrite its parent" in ended.err


def test_a_dry_run_tells_the_plan_and_writes_nothing(run: Run, folder: Path) -> None:
    ended = run("deepen", "digits_cnn.onnx", "--after", "conv2", "--dry-run")
    assert ended.code == 0 and "/features/conv2/Conv" in ended.out
    document = run("deepen", "digits_cnn.onnx", "--after", "conv2", "--dry-run", "--json").document
    assert document["child"] is None and document["plan"]["morph"] == "deepen"
    assert names(folder) == PARENTS


def test_several_layers_go_into_one_child(run: Run, folder: Path) -> None:
    ended = run("deepen", "digits_cnn.onnx", "--after", "conv1", "--after", "conv3", "--after", "#0", "--json")
    assert ended.code == 0
    assert [step["name"] for step in ended.document["plan"]["steps"]] == [
        "/features/conv1/Conv",
        "/features/conv3/Conv",
    ]
    assert len(ended.document["factors"]) == 4
    assert len(model.records(model.load(folder / "digits_cnn.deepen.onnx"))) == 2


def test_a_glob_of_several_layers_needs_each(run: Run, folder: Path) -> None:
    ended = run("deepen", "digits_cnn.onnx", "--after", "*conv*")
    assert ended.code == 2 and "conv1" in ended.err and "conv3" in ended.err
    assert run("deepen", "digits_cnn.onnx", "--after", "*conv*", "--each", "-q").code == 0


def test_a_misspelled_layer_is_answered_with_the_nearest(run: Run, folder: Path) -> None:
    ended = run("deepen", "digits_cnn.onnx", "--after", "cnov2")
    assert (ended.code, ended.out) == (2, "") and "conv2" in ended.err and ended.err.count("\n") == 1
    assert names(folder) == PARENTS


def test_a_refusal_is_exit_3_with_the_reason_and_nothing_is_written(run: Run, folder: Path) -> None:
    ended = run("deepen", "digits_mlp.onnx", "--after", "#0", "--kernel", "3", "--json")
    assert ended.code == 3 and ended.document["refused"]
    assert ended.err == f"onnxmorph: refused: {ended.document['refused']}\n"
    assert names(folder) == PARENTS


@pytest.mark.parametrize(
    "words",
    [["--width", "many"], ["--activation", "Relux"], ["--kernel", "3x"], ["--method", "magic"], ["--seed", "-1"]],
)
def test_values_that_mean_nothing_are_usage_errors(run: Run, folder: Path, words: list[str]) -> None:
    ended = run("deepen", "digits_cnn.onnx", "--after", "conv2", *words)
    assert (ended.code, ended.out) == (2, "") and ended.err.count("\n") == 1
    assert names(folder) == PARENTS


@pytest.mark.parametrize("out", ["-", "missing/child.onnx", "digits_mlp.onnx/child.onnx"])
def test_where_no_child_can_be_written_nothing_is_computed(run: Run, folder: Path, out: str) -> None:
    ended = run("deepen", "digits_cnn.onnx", "--after", "no such layer", "-o", out)
    assert ended.code == 2 and "no such layer" not in ended.err
    assert names(folder) == PARENTS


def test_asking_for_cuda_where_there_is_none_is_an_error_and_writes_nothing(run: Run, folder: Path) -> None:
    from onnxmorph.verify.runtime import choose_provider

    if choose_provider("auto").name == "CUDAExecutionProvider":
        pytest.skip("CUDA works here")
    ended = run("deepen", "digits_cnn.onnx", "--after", "conv2", "--provider", "cuda")
    assert (ended.code, ended.out) == (4, "") and "CUDA" in ended.err
    assert names(folder) == PARENTS


def test_no_verify_says_so(run: Run, folder: Path) -> None:
    ended = run("deepen", "digits_cnn.onnx", "--after", "conv2", "--no-verify")
    assert ended.code == 0 and "not verified" in ended.out
    certificate = model.certificate_of(model.load(folder / "digits_cnn.deepen.onnx"))
    assert certificate is not None and certificate["equivalent"] is None


@pytest.fixture
def broken_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every child gets a bias it should not have."""
    import numpy as np

    from onnxmorph import plan
    from onnxmorph._ir import ir

    whole = plan.apply

    def damaged(parent: ir.Model, plans: Any) -> plan.Child:
        child = whole(parent, plans)
        value = child.model.graph.initializers["features.conv3.bias"]
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy() + np.float32(0.1), name=value.name)
        return child

    monkeypatch.setattr(plan, "apply", damaged)


@pytest.mark.usefixtures("broken_solver")
def test_a_child_that_fails_is_exit_1_with_the_certificate_and_is_not_written(run: Run, folder: Path) -> None:
    ended = run("deepen", "digits_cnn.onnx", "--after", "conv2", "--json")
    assert ended.code == 1
    assert ended.document["child"] is None and ended.document["certificate"]["equivalent"] is False
    assert names(folder) == PARENTS
    text = run("deepen", "digits_cnn.onnx", "--after", "conv2")
    assert text.code == 1 and "NOT equivalent" in text.out and "not written" in text.out
    quiet = run("deepen", "digits_cnn.onnx", "--after", "conv2", "-q")
    assert (quiet.code, quiet.out) == (1, "") and quiet.err.startswith("onnxmorph: not equivalent")
    assert quiet.err.count("\n") == 1
    kept = run("deepen", "digits_cnn.onnx", "--after", "conv2", "--keep-failed", "--json")
    assert kept.code == 1
    assert names(folder) == PARENTS | {"digits_cnn.deepen.failed.onnx"}


def test_the_methods_offered_are_those_there_are() -> None:
    (option,) = (parameter for parameter in command.params if parameter.name == "method")
    assert tuple(getattr(option.type, "choices")) == METHODS  # noqa: B009  (not on every ParamType)


def test_real_data_and_fixed_shapes_are_taken(run: Run, folder: Path) -> None:
    import numpy as np

    np.savez(folder / "data.npz", image=np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32))
    ended = run("deepen", "digits_cnn.onnx", "--after", "conv2", "--inputs", "data.npz", "--shape", "image:3,1,8,8")
    assert ended.code == 0
    ended = run("verify", "digits_cnn.onnx", "digits_cnn.deepen.onnx", "--shape", "picture:3,1,8,8")
    assert ended.code == 2 and "image" in ended.err
