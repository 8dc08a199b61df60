"""The training loop: it learns, repeats itself, goes on where it stopped, and tells what is wrong with the data."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import onnxmorph as om  # noqa: E402
from onnxmorph import model as files  # noqa: E402
from onnxmorph import train  # noqa: E402
from onnxmorph.errors import ModelError, Refusal, SelectionError  # noqa: E402
from onnxmorph.grow.lineage import new_tensors  # noqa: E402
from onnxmorph.grow.optimization import Rates  # noqa: E402
from tests.grow.graphs import SAMPLES, blobs, loaded, mlp, normed, reference, tensor  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _same(first: Any, second: Any) -> bool:
    return files.content_hash(first) == files.content_hash(second)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("softmax", [False, True])
def test_it_learns_and_leaves_the_model_alone(tmp_path: Path, optimizer: Any, softmax: bool) -> None:
    model = loaded(mlp(softmax=softmax), tmp_path)
    before = files.content_hash(model)
    x, y = blobs()
    fitted = train.fit(model, {"x": x, "target": y}, epochs=8, batch_size=16, optimizer=optimizer, rate=0.02)
    assert fitted.history[-1].accuracy is not None and fitted.history[-1].accuracy > 0.95
    assert fitted.history[-1].loss < fitted.history[0].loss / 2
    assert len(fitted.history) == 8 and fitted.stopped == "finished"
    assert files.content_hash(model) == before and not _same(fitted.model, model)
    assert [value.name for value in fitted.model.graph.outputs] == ["y" if softmax else "z"]


def test_the_trained_file_is_right_where_the_history_says_so(tmp_path: Path) -> None:
    import onnx

    x, y = blobs(samples=200)
    fitted = train.fit(loaded(mlp(), tmp_path), (x, y), validation=(x[:50], y[:50]), epochs=4, rate=0.01)
    files.save(fitted.model, tmp_path / "trained.onnx")
    (scores,) = reference(onnx.load(tmp_path / "trained.onnx"), {"x": x[:50]})
    assert float((scores.argmax(1) == y[:50]).mean()) == fitted.history[fitted.best - 1].validation_accuracy


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_random_numbers(tmp_path: Path) -> None:
    model, (x, y) = loaded(mlp(), tmp_path), blobs()
    torch.manual_seed(5)
    one = train.fit(model, (x, y), epochs=2, seed=3).model
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert _same(one, train.fit(model, (x, y), epochs=2, seed=3).model)
    assert not _same(one, train.fit(model, (x, y), epochs=2, seed=4).model)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))


def test_regression_and_a_loss_of_ones_own(tmp_path: Path) -> None:
    model = loaded(mlp(classes=1), tmp_path)
    x, _ = blobs()
    y = x @ np.linspace(-1, 1, 6, dtype=np.float32)
    mse = train.fit(model, (x, y), loss="mse", epochs=10, rate=0.01)
    assert mse.history[-1].loss < mse.history[0].loss / 4 and mse.history[0].accuracy is None
    own = train.fit(model, (x, y), loss=lambda out, want: (out[:, 0] - want).abs().mean(), epochs=4, rate=0.01)
    assert own.history[-1].loss < own.history[0].loss


def test_pixels_and_steps_have_classes_too(tmp_path: Path) -> None:
    from onnx import helper

    from tests.grow.graphs import graph

    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv")
    pixels = loaded(graph([node], {"x": ["n", 2, 5, 5]}, ["y"], [tensor("w", 4, 2, 1, 1)]), tmp_path)
    random = np.random.default_rng(0)
    x = random.standard_normal((16, 2, 5, 5)).astype(np.float32)
    fitted = train.fit(pixels, (x, (x[:, 0] > 0).astype(np.int64) * 3), epochs=20, batch_size=4, rate=0.05)
    assert (fitted.history[-1].accuracy or 0) > 0.9
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="steps")
    steps = loaded(graph([node], {"x": ["n", 5, 2]}, ["y"], [tensor("w", 2, 4)]), tmp_path)
    x = random.standard_normal((16, 5, 2)).astype(np.float32)
    fitted = train.fit(steps, (x, (x[..., 0] > 0).astype(np.int64) * 3), epochs=20, batch_size=4, rate=0.05)
    assert (fitted.history[-1].accuracy or 0) > 0.9


def test_frozen_tensors_stay_and_only_chosen_ones_move(tmp_path: Path) -> None:
    model, data = loaded(mlp(), tmp_path), blobs()

    def moved(**settings: Any) -> set[str]:
        child = train.fit(model, data, epochs=1, **settings).model
        return {
            name
            for name, value in child.graph.initializers.items()
            if value.const_value is not model.graph.initializers[name].const_value
        }

    assert moved() == {"w1", "b1", "w2", "b2"}
    assert moved(freeze=["w*"]) == {"b1", "b2"} and moved(freeze=["bias"]) == {"w1", "w2"}
    assert moved(trainable=["w2"]) == {"w2"}
    assert moved(trainable=lambda name, role: role == "bias") == {"b1", "b2"}
    with pytest.raises(Refusal, match="frozen"):
        moved(freeze=["*"])


def test_rates_by_role_schedule_and_warmup() -> None:
    plan = Rates(0.1, a_rate=50.0, factors={"bias": 2.0, "conv*": 0.5}, steps=100, warmup=10, warmed=frozenset({"new"}))
    assert plan.factor("x.a", "a") == 50.0 and plan.factor("b", "bias") == 2.0
    assert plan.factor("conv1.bias", "bias") == 1.0 and plan.factor("w", "kernel") == 1.0
    assert plan.at(0, warmed=False) == 0.1 and plan.at(50, warmed=False) == pytest.approx(0.05)
    assert plan.at(100, warmed=False) == pytest.approx(0.0) and plan.at(0, warmed=True) == pytest.approx(0.01)
    assert plan.at(9, warmed=True) == pytest.approx(plan.at(9, warmed=False))


def test_the_parameter_of_an_activation_moves_at_its_own_rate() -> None:
    parent = om.load(SAMPLES / "digits_cnn.onnx")
    child = om.plan_deepen(parent, "conv2", method="netmorph").apply(parent).model
    x, y = _digits()

    def distance(a_rate: float) -> float:
        settings: Any = {"steps": 4, "optimizer": "sgd", "rate": 1e-3, "schedule": "constant", "warmup": 0}
        trained = train.fit(child, (x, y), a_rate=a_rate, **settings).model
        (name,) = (name for name in child.graph.initializers if name.endswith(".a"))
        values = [model.graph.initializers[name].const_value.numpy() for model in (child, trained)]
        return float(np.abs(values[0] - values[1]).max())

    assert distance(100.0) > 20 * distance(1.0) > 0
    assert new_tensors(child) == new_tensors(child, parent)


def _digits(count: int = 64) -> tuple[Any, Any]:
    x = np.load(SAMPLES / "digits_test.npz")["image"][:count]
    return x, np.load(SAMPLES / "digits_labels.npz")["label"][:count]


def test_validation_keeps_the_best_and_stops_early(tmp_path: Path) -> None:
    model, (x, y) = loaded(mlp(), tmp_path), blobs()
    told: list[int] = []
    fitted = train.fit(
        model,
        (x, y),
        validation=0.25,
        epochs=30,
        rate=0.5,
        schedule="constant",
        early_stopping=2,
        callbacks=[lambda progress: told.append(progress.step) if progress.finished else None],
    )
    losses = [entry.validation_loss for entry in fitted.history]
    assert fitted.stopped == "early" and len(losses) < 30 and len(told) == len(losses)
    assert losses[fitted.best - 1] == min(loss for loss in losses if loss is not None)
    assert len(losses) - fitted.best == 2
    halted = train.fit(model, (x, y), epochs=5, callbacks=[lambda progress: progress.step >= 3])
    assert halted.stopped == "callback" and halted.history[-1].step == 3


def test_a_teacher_is_learned_from_with_and_without_targets(tmp_path: Path) -> None:
    x, y = blobs()
    teacher = train.fit(loaded(mlp(), tmp_path), (x, y), epochs=8, rate=0.02).model
    student = loaded(mlp(hidden=5), tmp_path)
    mimic = train.fit(student, {"x": x}, teacher=teacher, epochs=15, rate=0.03)
    scores = train.module(mimic.model, mode="eval")(x)
    assert float((scores.argmax(1).numpy() == y).mean()) > 0.9
    both = train.fit(student, (x, y), teacher=teacher, epochs=3, rate=0.03)
    assert both.history[-1].loss < both.history[0].loss


def test_a_fixed_batch_is_run_in_pieces_that_add_up_unless_it_is_fixed_on_paper_only(tmp_path: Path) -> None:
    from onnx import helper, numpy_helper

    free, paper, fixed = mlp(), mlp(), mlp()
    for proto in (paper, fixed):
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    fixed.graph.initializer.append(numpy_helper.from_array(np.array([4, 6], dtype=np.int64), "sizes"))
    fixed.graph.node.insert(0, helper.make_node("Reshape", ["x", "sizes"], ["flat"], name="reshape"))
    fixed.graph.node[1].input[0] = "flat"
    data = blobs(samples=32)
    settings: Any = {"batch_size": 16, "epochs": 2, "optimizer": "sgd"}
    one = train.fit(loaded(free, tmp_path), data, **settings).model
    for proto in (paper, fixed):
        other = train.fit(loaded(proto, tmp_path), data, **settings).model
        for name, value in one.graph.initializers.items():
            found = other.graph.initializers[name].const_value
            np.testing.assert_allclose(value.const_value.numpy(), found.numpy(), rtol=1e-4, atol=1e-6)
    assert train.fit(loaded(paper, tmp_path), data, batch_size=6, epochs=1).history
    with pytest.raises(Refusal, match="multiple of 4"):
        train.fit(loaded(fixed, tmp_path), data, batch_size=6)


X, Y = blobs(samples=40)


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        ({"z": X, "q": X, "target": Y}, "data-name", "no array for the input 'x'.*it has z, q"),
        ((X[:, :5], Y), "data-shape", "samples of 'x' are 5, and the input takes 6"),
        ((X[:30], Y), "data-shape", "x 30, target 40"),
        (((X * 9).astype(np.uint8), Y), "data-type", "'x' is uint8, and the input is float32"),
        (
            (np.where(np.arange(240).reshape(40, 6) == 77, np.nan, X).astype(np.float32), Y),
            "data-not-finite",
            "sample 12",
        ),
        ((X, np.where(np.arange(40) == 7, 3, Y)), "class-range", "class 3 at sample 7, .* classes 0 to 2"),
        ((X, Y.reshape(40, 1, 1)), "target-shape", "x1x1 do not fit"),
        ((X, X), "target-shape", "do not fit the output 'z'"),
        ({"x": X}, "data-name", "no targets"),
        ((X[:0], Y[:0]), "data-empty", "no samples"),
        ((np.array([["a"] * 6] * 40), Y), "data-type", "strings"),
        (7, "data-type", "int is no data"),
    ],
)
def test_data_that_does_not_fit_is_told_before_the_first_step(tmp_path: Path, data: Any, code: str, words: str) -> None:
    steps: list[int] = []
    with pytest.raises(Refusal, match=words) as refused:
        train.fit(loaded(mlp(), tmp_path), data, callbacks=[lambda progress: steps.append(progress.step)])
    assert refused.value.code == code and not steps


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    model = loaded(mlp(), tmp_path)
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "other.csv").write_text("1,2")
    for name in ("absent.npz", "damaged.npz", "other.csv"):
        with pytest.raises(ModelError, match=name):
            train.fit(model, tmp_path / name)


def test_settings_that_contradict_themselves_are_told(tmp_path: Path) -> None:
    model = loaded(mlp(), tmp_path)
    for settings, words in (
        ({"epochs": 1, "steps": 1}, "not both"),
        ({"batch_size": 0}, "at least 1"),
        ({"rate": -1.0}, "positive"),
        ({"loss": "crossentropy"}, "did you mean 'cross-entropy'"),
        ({"early_stopping": 2}, "needs validation"),
        ({"validation": 1.5}, "between 0 and 1"),
        ({"rates": {"norms": 2.0}}, "'norms'"),
        ({"output": "nothing"}, "'nothing'"),
    ):
        with pytest.raises(SelectionError, match=words):
            train.fit(model, (X, Y), **settings)  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(Refusal, match="CUDA"):
            train.fit(model, (X, Y), amp=True)


def test_a_loss_that_is_no_number_ends_it_and_keeps_what_was_good(tmp_path: Path) -> None:
    model = loaded(mlp(), tmp_path)
    path = tmp_path / "run.pt"
    calls = [0]

    def loss(out: Any, want: Any) -> Any:
        calls[0] += 1
        value = torch.nn.functional.cross_entropy(out, want)
        return value * float("nan") if calls[0] > 5 else value

    with pytest.raises(train.Diverged, match=r"nan at step 6 \(epoch 2\).*run\.pt") as stopped:
        train.fit(model, (X, Y), loss=loss, epochs=5, batch_size=16, checkpoint=path)
    assert stopped.value.fitted is not None and stopped.value.fitted.history[0].epoch == 1
    for value in stopped.value.fitted.model.graph.initializers.values():
        assert value.const_value is not None and np.isfinite(value.const_value.numpy()).all()
    content = torch.load(path, weights_only=True)
    assert content["step"] == 3


def test_a_full_disk_is_told_and_the_last_checkpoint_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxmorph.grow import checkpoint

    model, path = loaded(mlp(), tmp_path), tmp_path / "run.pt"
    train.fit(model, (X, Y), epochs=1, checkpoint=path)
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(ModelError, match=r"No space left on device; the one before is kept"):
        train.fit(model, (X, Y), epochs=2, checkpoint=path, resume=False)
    assert path.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "run.pt"]


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    model, path = loaded(mlp(), tmp_path), tmp_path / "run.pt"
    train.fit(model, (X, Y), epochs=1, checkpoint=path)
    with pytest.raises(Refusal, match="batch_size was 32, and is 8"):
        train.fit(model, (X, Y), epochs=1, batch_size=8, checkpoint=path)
    with pytest.raises(Refusal, match="model differs"):
        train.fit(loaded(mlp(hidden=7), tmp_path), (X, Y), epochs=1, checkpoint=path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="damaged"):
        train.fit(model, (X, Y), epochs=1, checkpoint=path)


_PROGRAM = """
import json, os, signal, sys
import numpy as np, torch
torch.set_num_threads(1)
from onnxmorph import train
from onnxmorph.model import load, save
random = np.random.default_rng(0)
x, y = random.standard_normal((40, 2, 6, 6)).astype(np.float32), random.integers(0, 3, 40)

def run(ending, at, name):
    def told(progress):
        if progress.step == at and progress.finished is None and ending != "never":
            os.kill(os.getpid(), signal.SIGKILL if ending == "kill" else signal.SIGINT)
    try:
        fitted = train.fit(load("model.onnx"), (x, y), epochs=4, batch_size=8, validation=0.2, rate=0.01,
                           checkpoint=name + ".pt", callbacks=[told])
    except train.Interrupted as stopped:
        return 130 if str(stopped.checkpoint) == name + ".pt" else 1
    save(fitted.model, name + ".onnx", overwrite=True)
    return 0

ended = []
for scenario in json.loads(sys.argv[1]):
    process = os.fork()
    if process == 0:
        code = 99
        try:
            code = run(*scenario)
        finally:
            os._exit(code)
    ended.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
    if scenario[0] != "never":
        name = scenario[2] + ".pt"
        ended.append(torch.load(name, weights_only=True)["step"])
        ended.append(os.path.exists(scenario[2] + ".onnx"))
print(json.dumps(ended))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="parts processes by fork")
def test_killed_or_interrupted_and_resumed_gives_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    import onnx

    onnx.save(normed(), tmp_path / "model.onnx")  # with batch statistics and dropout, which draws random numbers
    scenarios = [
        ("never", 0, "whole"),
        ("kill", 10, "killed"),
        ("never", 0, "killed"),
        ("interrupt", 6, "interrupted"),
        ("never", 0, "interrupted"),
    ]
    words = [sys.executable, "-c", _PROGRAM, json.dumps(scenarios)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    # Four samples of five train, in epochs of four steps: killed in the third one, there is a checkpoint of the second.
    assert json.loads(done.stdout) == [0, -signal.SIGKILL, 8, False, 0, 130, 6, False, 0]
    expected = (tmp_path / "whole.onnx").read_bytes()
    assert (tmp_path / "killed.onnx").read_bytes() == expected
    assert (tmp_path / "interrupted.onnx").read_bytes() == expected


def test_a_finished_checkpoint_gives_the_result_again_without_a_step(tmp_path: Path) -> None:
    model, steps = loaded(mlp(), tmp_path), []
    one = train.fit(model, (X, Y), epochs=2, checkpoint=tmp_path / "run.pt")
    two = train.fit(
        model, (X, Y), epochs=2, checkpoint=tmp_path / "run.pt", callbacks=[lambda progress: steps.append(1)]
    )
    assert _same(one.model, two.model) and not steps and len(two.history) == 2


def test_augmentation_and_datasets_of_torch(tmp_path: Path) -> None:
    model = loaded(mlp(), tmp_path)

    class Points(torch.utils.data.Dataset):  # type: ignore[misc, name-defined, type-arg]
        def __len__(self) -> int:
            return len(X)

        def __getitem__(self, place: int) -> Any:
            return X[place], int(Y[place])

    arrays = train.fit(model, (X, Y), epochs=2)
    assert _same(arrays.model, train.fit(model, Points(), epochs=2).model)
    seen: list[int] = []

    def augment(inputs: dict[str, Any], target: Any) -> Any:
        seen.append(len(target))
        return {"x": inputs["x"] + 0.1 * torch.randn_like(inputs["x"])}, target

    assert not _same(arrays.model, train.fit(model, (X, Y), epochs=2, augment=augment).model)
    assert sum(seen) == 80


def test_folders_of_images(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(0)
    for place, name in enumerate(("cats", "dogs")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(12):
            pixels = random.integers(0, 100, (9, 11, 3)) + 120 * place
            image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / name / f"{number}.png")
    model = loaded(normed(), tmp_path)
    with pytest.raises(Refusal, match="neither one channel nor three"):
        train.fit(model, tmp_path / "data")
    proto = normed()
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3
    proto.graph.initializer[0].CopyFrom(tensor("conv.weight", 5, 3, 3, 3, scale=0.3))
    fitted = train.fit(loaded(proto, tmp_path), tmp_path / "data", epochs=12, rate=0.05, mean=[0.5], std=[0.25])
    assert (fitted.history[-1].accuracy or 0) > 0.9
    (tmp_path / "data" / "dogs" / "3.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(ModelError, match=r"3\.png: is no readable image"):
        train.fit(loaded(proto, tmp_path), tmp_path / "data", epochs=1)
