"""Real data: every form people have it in, and one line where it is not what the model takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmorph._ir import ir
from onnxmorph.errors import ModelError, SelectionError
from onnxmorph.verify import verify, write_inputs
from onnxmorph.verify.feeds import Feeds
from onnxmorph.verify.real_data import Source, samples
from tests.verify.graphs import replaced, small_model, weights

MODEL = small_model("(float[N,4] x) => (float[N,4] y)", "y = Relu(x)")
PICTURES = small_model("(float[N,3,H,W] x) => (float[N,3,H,W] y)", "y = Relu(x)")


def feeds_of(source: Source, model: ir.Model = MODEL) -> list[Feeds]:
    return [item.feeds for item in samples(source, model)]


def test_a_folder_of_archives_is_a_sample_each(tmp_path: Path) -> None:
    for index in range(3):
        np.savez(tmp_path / f"{index}.npz", x=np.full((2, 4), index, np.float32))
    assert [int(feeds["x"][0, 0]) for feeds in feeds_of(tmp_path)] == [0, 1, 2]


def test_a_folder_of_folders_and_of_arrays_of_any_name(tmp_path: Path) -> None:
    for index in range(2):
        (tmp_path / f"s{index}").mkdir()
        np.save(tmp_path / f"s{index}" / "x.npy", np.full((1, 4), index, np.float32))
    assert len(feeds_of(tmp_path)) == 2
    loose = tmp_path / "loose"
    loose.mkdir()
    for name in ("first", "second"):
        np.save(loose / f"{name}.npy", np.zeros((1, 4), np.float32))
    assert len(feeds_of(loose)) == 2


def test_a_long_batch_comes_in_portions_that_hold_every_row() -> None:
    array = np.arange(400, dtype=np.float32).reshape(100, 4)
    parts = feeds_of({"x": array})
    assert len(parts) == 4
    assert np.array_equal(np.concatenate([part["x"] for part in parts]), array)


@given(st.integers(1, 5), st.integers(1, 4))
def test_a_fixed_batch_cuts_the_data(step: int, times: int) -> None:
    model = small_model(f"(float[{step},4] x) => (float[{step},4] y)", "y = Relu(x)")
    array = np.arange(step * times * 4, dtype=np.float32).reshape(-1, 4)
    parts = feeds_of({"x": array}, model)
    assert [part["x"].shape for part in parts] == [(step, 4)] * times
    assert np.array_equal(np.concatenate([part["x"] for part in parts]), array)


def test_inputs_with_different_numbers_of_samples_are_refused() -> None:
    model = small_model("(float[1,4] x, float[1,4] z) => (float[1,4] y)", "y = Add(x, z)")
    with pytest.raises(SelectionError, match="different numbers of samples"):
        feeds_of({"x": np.zeros((4, 4)), "z": np.zeros((2, 4))}, model)


def test_an_empty_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no \.npy"):
        feeds_of(tmp_path)


# -- scripts ----------------------------------------------------------------------------------------------------------


def script(folder: Path, body: str) -> Path:
    path = folder / "make.py"
    path.write_text(body)
    return path


def test_a_script_yields_samples_and_is_told_signature_and_seed(tmp_path: Path) -> None:
    body = """
import numpy as np
def inputs(signature, seed):
    spec = signature["x"]
    for size in range(1, 4):
        yield {"x": np.full([size if isinstance(dim, str) else dim for dim in spec.shape], seed, spec.dtype)}
"""
    found = list(samples(script(tmp_path, body), MODEL, seed=7))
    assert [item.feeds["x"].shape for item in found] == [(1, 4), (2, 4), (3, 4)]
    assert found[0].feeds["x"][0, 0] == 7 and "sample 0" in found[0].description
    assert not list(tmp_path.glob("__pycache__"))


def test_one_dict_and_a_list_will_do_and_a_function_too(tmp_path: Path) -> None:
    body = "import numpy as np\ndef inputs(signature, seed):\n    return {'x': np.zeros((2, 4), np.float32)}\n"
    assert len(feeds_of(script(tmp_path, body))) == 1
    assert len(feeds_of(lambda signature, seed: [{"x": np.zeros((2, 4))}] * 3)) == 3


@pytest.mark.parametrize(
    ("body", "words", "error"),
    [
        ("def inputs(signature, seed):\n    return 1 / 0\n", r"make\.py, line 2: ZeroDivisionError", ModelError),
        ("def inputs(:\n", r"make\.py, line 1: SyntaxError", ModelError),
        ("import nowhere_to_be_found\n", "ModuleNotFoundError", ModelError),
        ("raise SystemExit(3)\n", "SystemExit", ModelError),
        ("x = 1\n", "has no function inputs", ModelError),
        ("def inputs(signature, seed):\n    yield [1]\n", "must give dicts", SelectionError),
        ("def inputs(signature, seed):\n    return []\n", "gives no sample", SelectionError),
        ("def inputs(signature, seed):\n    return {'q': 1}\n", "'q' is not an input", SelectionError),
        ("def inputs(signature):\n    return []\n", "TypeError", ModelError),
    ],
)
def test_what_is_wrong_with_a_script_is_one_line(tmp_path: Path, body: str, words: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=words) as caught:
        feeds_of(script(tmp_path, body))
    assert "\n" not in str(caught.value)


def test_a_script_that_never_ends_is_asked_no_more_than_there_is_time_for(tmp_path: Path) -> None:
    body = """
import numpy as np
def inputs(signature, seed):
    while True:
        yield {"x": np.ones((1, 4), np.float32)}
"""
    certificate = verify(MODEL, MODEL, provider="cpu", inputs=script(tmp_path, body), time_budget=2)
    assert certificate.equivalent and any("portions" in warning for warning in certificate.warnings)


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_pictures_take_the_layout_and_size_the_model_declares(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[..., 0] = 255
    image.fromarray(pixels).save(tmp_path / "red.png")
    first, second = feeds_of(tmp_path, PICTURES)
    assert first["x"].shape == (1, 3, 20, 30) and first["x"][0, 0].min() == 1.0 and first["x"][0, 1].max() == 0.0
    assert abs(float(second["x"].mean())) < 1e-5
    fixed = small_model("(uint8[2,8,8,1] x) => (uint8[2,8,8,1] y)", "y = Identity(x)")
    (only,) = feeds_of(tmp_path / "red.png", fixed)
    assert only["x"].shape == (2, 8, 8, 1) and only["x"].dtype == np.uint8


def test_pictures_for_a_model_that_takes_none(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "grey.png")
    with pytest.raises(SelectionError, match="does not take pictures"):
        feeds_of(tmp_path / "grey.png")
    (tmp_path / "grey.png").write_bytes(b"no picture")
    with pytest.raises(ModelError, match="cannot be read as a picture"):
        feeds_of(tmp_path / "grey.png", PICTURES)


def test_a_file_of_training_data_is_real_data_too(tmp_path: Path) -> None:
    images = np.ones((3, 1, 8, 8), np.float32)
    model = small_model("(float[N,1,8,8] image) => (float[N,1,8,8] out)", "out = Relu(image)")
    np.savez(tmp_path / "mine.npz", x=images, y=np.arange(3))
    (sample,) = samples(tmp_path / "mine.npz", model)
    assert list(sample.feeds) == ["image"] and np.array_equal(sample.feeds["image"], images)
    with pytest.raises(SelectionError, match="'z' is not an input"):
        list(samples({"x": images, "z": images}, model))
    with pytest.raises(SelectionError, match="no data for input 'image'"):
        list(samples({"y": np.arange(3)}, model))


# -- failing inputs ---------------------------------------------------------------------------------------------------


def test_failing_inputs_are_written_and_show_the_difference_again(tmp_path: Path) -> None:
    w = weights(4, 4)
    parent = small_model("(float[N,4] x) => (float[N,4] y)", "y = MatMul(x, w)", {"w": w})
    wrong = w.copy()
    wrong[2, 2] += 0.1
    certificate = verify(parent, replaced(parent, "w", wrong), provider="cpu")
    assert certificate.failing_inputs is not None
    write_inputs(tmp_path / "failing.npz", certificate.failing_inputs)
    again = verify(parent, replaced(parent, "w", wrong), provider="cpu", inputs=tmp_path / "failing.npz")
    assert not again.equivalent and again.outputs[0].worst_input == 0
    with pytest.raises(ModelError, match="not overwritten"):
        write_inputs(tmp_path / "failing.npz", certificate.failing_inputs)


def test_failing_inputs_keep_sequences_strings_and_draws(tmp_path: Path) -> None:
    import ml_dtypes

    model = small_model("(seq(float[N]) s, string[N] t, bfloat16[2] b) => (string[N] y)", "y = Identity(t)")
    feeds = {
        "s": [np.zeros(2, np.float32), np.ones(3, np.float32)],
        "t": np.asarray(["ab", "ü"], object),
        "b": np.asarray([1.5, -2], ml_dtypes.bfloat16),
        "noise": np.ones(3, np.float32),
    }
    write_inputs(tmp_path / "all.npz", feeds)
    (item,) = samples(tmp_path / "all.npz", model, drawn=["noise"])
    assert [part.tolist() for part in item.feeds["s"]] == [[0, 0], [1, 1, 1]]
    assert item.feeds["t"].tolist() == ["ab", "ü"] and item.feeds["b"].tolist() == [1.5, -2]
    assert item.feeds["noise"].tolist() == [1, 1, 1]


def test_a_difference_in_a_random_model_shows_again_with_the_same_draws(tmp_path: Path) -> None:
    body = "n = RandomNormalLike(x)\n s = Add(x, n)\n y = {}"
    parent = small_model("(float[N,8] x) => (float[N,8] y)", body.format("Relu(s)"))
    child = small_model("(float[N,8] x) => (float[N,8] y)", body.format("LeakyRelu<alpha=0.1>(s)"))
    certificate = verify(parent, child, provider="cpu")
    assert certificate.failing_inputs is not None and set(certificate.failing_inputs) == {"x", "n"}
    write_inputs(tmp_path / "failing.npz", certificate.failing_inputs)
    assert not verify(parent, child, provider="cpu", inputs=tmp_path / "failing.npz").equivalent
