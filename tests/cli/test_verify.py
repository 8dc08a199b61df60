"""``verify``: the verdict as exit code, text and JSON."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.cli.conftest import Run


def test_a_model_is_equivalent_to_itself(run: Run, folder: Path) -> None:
    ended = run("verify", "digits_cnn.onnx", "digits_cnn.onnx", "--provider", "cpu", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert ended.document["equivalent"] is True
    assert run("verify", "digits_cnn.onnx", "digits_cnn.onnx", "-q").out == "equivalent\n"


def test_a_bias_that_was_moved_is_seen(run: Run, folder: Path) -> None:
    proto = onnx.load(folder / "digits_cnn.onnx")
    for tensor in proto.graph.initializer:
        if tensor.name == "features.conv3.bias":
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[3] += 0.1
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(proto, folder / "other.onnx")
    ended = run("verify", "digits_cnn.onnx", "other.onnx", "--json")
    assert ended.code == 1 and ended.document["equivalent"] is False and ended.document["failures"]
    text = run("verify", "digits_cnn.onnx", "other.onnx")
    assert text.code == 1 and "NOT equivalent" in text.out and "differs" in text.out
    assert run("verify", "digits_cnn.onnx", "other.onnx", "-q").out == "not equivalent\n"


def test_other_names_of_outputs_are_no_equivalence(run: Run, folder: Path) -> None:
    proto = onnx.load(folder / "digits_cnn.onnx")
    last = proto.graph.node[-1]
    last.output[0] = proto.graph.output[0].name = "scores"
    onnx.save(proto, folder / "other.onnx")
    ended = run("verify", "digits_cnn.onnx", "other.onnx")
    assert ended.code == 1 and "scores" in ended.out


@pytest.mark.parametrize("which", [0, 1])
def test_a_missing_model_is_exit_4(run: Run, folder: Path, which: int) -> None:
    models = ["digits_cnn.onnx", "digits_cnn.onnx"]
    models[which] = "nowhere.onnx"
    ended = run("verify", *models)
    assert (ended.code, ended.out) == (4, "") and "nowhere.onnx" in ended.err


def test_real_inputs_that_are_not_there_are_one_line(run: Run, folder: Path) -> None:
    ended = run("verify", "digits_cnn.onnx", "digits_cnn.onnx", "--inputs", "nowhere.npz")
    assert ended.code in (2, 4) and ended.err.count("\n") == 1 and "internal error" not in ended.err


def moved_bias(folder: Path, name: str = "other.onnx") -> str:
    proto = onnx.load(folder / "digits_cnn.onnx")
    for tensor in proto.graph.initializer:
        if tensor.name == "features.conv3.bias":
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[3] += 0.1
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(proto, folder / name)
    return name


def test_the_failing_inputs_are_saved_and_show_it_again(run: Run, folder: Path) -> None:
    other = moved_bias(folder)
    ended = run("verify", "digits_cnn.onnx", other, "--save-failing", "failing.npz", "--json")
    assert ended.code == 1 and (folder / "failing.npz").is_file()
    assert ended.document["first_difference"]["op"] == "Conv"
    assert run("verify", "digits_cnn.onnx", other, "--inputs", "failing.npz", "--time", "0").code == 1
    again = run("verify", "digits_cnn.onnx", other, "--save-failing", "failing.npz")
    assert again.code == 4 and "not overwritten" in again.err
    assert run("verify", "digits_cnn.onnx", "digits_cnn.onnx", "--save-failing", "none.npz").code == 0
    assert not (folder / "none.npz").exists()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--atol", "10"), 0),
        (("--rtol", "1e-9"), 1),
        (("--tolerance", "logits=10,0.5"), 0),
        (("--tolerance", "logits=1e-9"), 1),
        (("--tolerance", "logit=1"), 2),
        (("--tolerance", "logits"), 2),
        (("--tolerance", "logits=-1"), 2),
        (("--atol", "-1"), 2),
        (("--inner", "some"), 2),
    ],
)
def test_tolerances(run: Run, folder: Path, options: tuple[str, ...], code: int) -> None:
    ended = run("verify", "digits_cnn.onnx", moved_bias(folder), *options)
    assert ended.code == code, ended.out + ended.err


def test_inner_values_all_or_none(run: Run, folder: Path) -> None:
    counts = [
        len(run("verify", "digits_cnn.onnx", "digits_cnn.onnx", "--inner", inner, "--json").document["inner"])
        for inner in ("none", "frontier", "all")
    ]
    assert counts[0] == 0 < counts[1] <= counts[2]


def test_a_script_of_inputs(run: Run, folder: Path) -> None:
    script = folder / "make.py"
    script.write_text(
        "import numpy as np\n"
        "def inputs(signature, seed):\n"
        "    (name, spec), = signature.items()\n"
        "    print('chatter')\n"
        "    yield {name: np.ones([2 if isinstance(dim, str) else dim for dim in spec.shape], spec.dtype)}\n"
    )
    ended = run("verify", "digits_cnn.onnx", "digits_cnn.onnx", "--inputs", script, "--json")
    assert ended.code == 0 and "real" in ended.document["coverage"]["distributions"]
    script.write_text("def inputs(signature, seed):\n    return 1 / 0\n")
    ended = run("verify", "digits_cnn.onnx", "digits_cnn.onnx", "--inputs", script)
    assert ended.code == 4 and "line 2: ZeroDivisionError" in ended.err


def test_both_providers_need_both(run: Run, folder: Path) -> None:
    from onnxmorph.verify.runtime import choose_provider

    ended = run("verify", "digits_cnn.onnx", "digits_cnn.onnx", "--provider", "both")
    assert ended.code == (0 if choose_provider("auto").name.startswith("CUDA") else 4)


def test_files_of_one_pair_are_not_those_of_many(run: Run, folder: Path) -> None:
    ended = run("verify", folder, folder, "--save-failing", "failing.npz")
    assert ended.code == 2 and "--save-failing" in ended.err
