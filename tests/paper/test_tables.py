"""The papers' tables, at the smallest size, on scikit-learn's digits: they run end to end and say what is so."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import onnxmorph as om
from onnxmorph._ir import ir

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from benchmarks.paper import datasets  # noqa: E402
from benchmarks.paper import run as command  # noqa: E402
from benchmarks.paper.curves import LABEL_HEIGHT, Curve, draw  # noqa: E402
from benchmarks.paper.datasets import Images, images  # noqa: E402
from benchmarks.paper.growth import evenly_replicated, widen  # noqa: E402
from benchmarks.paper.page import put_section  # noqa: E402
from benchmarks.paper.parents import Convolution, convolutional, drawn_anew, perceptron  # noqa: E402
from benchmarks.paper.runs import Lab  # noqa: E402
from benchmarks.paper.schedules import train_by_schedule  # noqa: E402
from benchmarks.paper.tables import TABLES, Sizes, fill  # noqa: E402

SIZES = Sizes(hidden=24, channels=0.125, stages=4)
SETTINGS = {"epochs": 1, "batch_size": 32, "rate": 1e-3}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return images("digits", cache=tmp_path_factory.mktemp("data"), train_size=64, test_size=50)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", ["mnist", "tanh-width", "cifar-depth", "cifar-width"])
def test_every_line_of_a_table_is_grown_trained_and_certified(name: str, digits: Images, tmp_path: Path) -> None:
    table = TABLES[name]
    parents, outcomes = fill(table, Lab(digits, tmp_path), SIZES, SETTINGS, [0])
    assert len(outcomes) == len(table.lines(SIZES))
    for outcome in outcomes:
        (runs,) = outcome.runs
        assert len(runs) == len(table.stages)
        if outcome.line.kind == "ours":
            assert all(one is not None and one.equivalent for one in outcome.certificates), outcome.line.name
            before = [parents[0].final, *(run.final for run in runs[:-1])]
            assert [run.start for run in runs] == pytest.approx(before, abs=0.021), outcome.line.name
        elif outcome.line.kind == "theirs":
            last = outcome.certificates[-1]
            assert last is not None and last.equivalent == outcome.line.name.endswith("noise 0"), outcome.line.name
        else:
            assert outcome.certificates == (None,) * len(runs)
        longer = "all steps" in outcome.line.name
        assert [run.steps for run in runs] == [2 * (place + 2 if longer else 1) for place in range(len(runs))]


def test_the_command_writes_its_section_and_curves_and_a_second_one_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    sizes = ["--epochs", "1", "--train-size", "64", "--test-size", "50", "--seeds", "0,1", "--channels", "0.125"]
    asked = ["--table", "cifar-kernel", "--data", "digits", *sizes]
    places = ["--cache", str(tmp_path / "cache"), "--page", str(page)]
    command.main([*asked, *places])
    first = page.read_text()
    assert "kernel (zeros, as NM) | yes" in first
    assert "python benchmarks/paper/run.py --table cifar-kernel --data digits --epochs 1" in first
    assert "64 of 1,437 training images, 50 of 360 test images" in first
    ElementTree.fromstring((tmp_path / "paper_cifar_kernel.svg").read_text())

    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(om.train, "fit", never, raising=False)
    command.main([*asked, *places])
    assert page.read_text() == first
    with pytest.raises(AssertionError, match="trained again"):
        command.main([*asked, *places, "--no-resume"])
    capsys.readouterr()
    command.main(["--table", "defaults", "--data", "digits", "--dry-run"])
    assert "mirror, no warm-up" in capsys.readouterr().out


def test_schedules_cost_the_same(digits: Images, tmp_path: Path) -> None:
    scheduled = train_by_schedule(Lab(digits, tmp_path), SIZES, {**SETTINGS, "epochs": 10}, [0])
    compute = [sum(run.compute for run in one.runs[0]) for one in scheduled]
    assert compute == pytest.approx([compute[0]] * len(compute), rel=0.05)
    largest = {one.schedule.name: one.runs[0][-1].parameters for one in scheduled}
    del largest["never grown"]
    assert len(set(largest.values())) == 1


def test_even_copies_share_what_reads_them_and_noise_tells_them_apart(digits: Images) -> None:
    parent = drawn_anew(perceptron(digits.shape, [6], 10, "Tanh"), 0)
    x = torch.from_numpy(digits.test_x[:8])
    wanted = om.train.module(parent, mode="eval")(x)
    exact, noisy = (evenly_replicated("fc1", 15, noise=noise)(parent, 3) for noise in (0.0, 0.1))
    assert torch.allclose(om.train.module(exact, mode="eval")(x), wanted, atol=1e-5)
    assert not torch.allclose(om.train.module(noisy, mode="eval")(x), wanted, atol=1e-3)

    def rows(model: ir.Model, name: str) -> np.ndarray:
        return model.graph.initializers[name].const_value.numpy()

    for name, kinds in (("fc1.weight", 6), ("fc2.weight", 10)):
        assert len(np.unique(rows(exact, name), axis=0)) == kinds
    readers, sources = rows(exact, "fc2.weight"), rows(exact, "fc1.weight")
    for row in np.unique(sources, axis=0):  # equal shares
        same = (sources == row).all(1)
        assert np.ptp(readers[:, same], axis=1).max() == 0
    assert len(np.unique(rows(noisy, "fc1.weight"), axis=0)) == 15


def test_a_network_drawn_anew_has_the_shapes_of_its_model_and_nothing_of_its_numbers(digits: Images) -> None:
    stack = [Convolution(5, 16, pooled=True), Convolution(3, 32)]
    model = drawn_anew(convolutional(digits.shape, stack, 10), 0)
    again, other = drawn_anew(model, 0), drawn_anew(model, 1)
    for name, value in model.graph.initializers.items():
        arrays = [one.graph.initializers[name].const_value.numpy() for one in (model, again, other)]
        assert arrays[0].shape == arrays[2].shape
        assert np.array_equal(arrays[0], arrays[1])
        if name.endswith("bias"):
            assert not arrays[0].any()
        else:
            assert not np.isclose(arrays[0], arrays[2]).any()
        if name == "conv2.weight":
            assert arrays[0].std() == pytest.approx(np.sqrt(2 / (16 * 9)), rel=0.05)
        assert value.name == name
    grown = drawn_anew(om.plan_deepen(model, "conv2", method="netmorph").apply(model).model, 0)
    assert grown.graph.initializers["conv2.act.a"].const_value.numpy() == pytest.approx(0.25)


def test_a_line_that_keeps_the_state_of_the_optimizer_is_another_run(digits: Images, tmp_path: Path) -> None:
    lab = Lab(digits, tmp_path)
    parent = lab.train(drawn_anew(perceptron(digits.shape, [6], 10), 0), SETTINGS, seed=0)
    child = widen("fc1", 12, "zero-out")(lab.model(parent), 0)
    fresh = lab.train(child, SETTINGS, seed=1)
    kept = [lab.train(child, SETTINGS, seed=1, state_of=parent, fill=fill) for fill in ("zero", "mean")]
    assert len({fresh.key, *(run.key for run in kept)}) == 3
    weights = [lab.model(run).graph.initializers["fc1.weight"].const_value.numpy() for run in (fresh, *kept)]
    assert not np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[1], weights[2])


def test_a_subset_is_the_beginning_of_a_larger_one(tmp_path: Path) -> None:
    few, many = (images("digits", cache=tmp_path, train_size=size) for size in (20, 50))
    assert np.array_equal(few.train_x, many.train_x[:20])
    assert np.array_equal(few.test_y, many.test_y)
    tested = images("digits", cache=tmp_path, test_size=30)
    assert np.array_equal(tested.test_y, many.test_y[:30])
    assert few.key != many.key


def test_a_subset_of_sorted_images_has_all_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = np.repeat(np.arange(10), 100)
    pixels = np.repeat(classes[:, None, None, None], 4, axis=2)
    monkeypatch.setattr(datasets, "_digits", lambda *_: (pixels, classes, pixels, classes))
    few = images("digits", cache=tmp_path, train_size=100, test_size=100)
    assert len(np.unique(few.train_y)) == len(np.unique(few.test_y)) == 10
    assert few.test_x[few.test_y == 3].std() == 0  # images keep their classes


def test_a_section_takes_its_own_place_and_leaves_the_rest(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    order = ["one", "two", "three"]
    for name in ("three", "one", "two"):
        put_section(page, name, f"## {name}\n", order)
    page.write_text(page.read_text().replace("<!-- table two", "Written by hand.\n\n<!-- table two"))
    put_section(page, "one", "## one, again \\1", order)
    text = page.read_text()
    assert [text.index(f"## {name}") for name in order] == sorted(text.index(f"## {name}") for name in order)
    assert "## one, again \\1" in text
    assert text.count("<!-- table one -->") == 1
    assert "Written by hand." in text


def test_labels_of_a_chart_do_not_lie_upon_each_other() -> None:
    curves = [Curve(f"line <{number}>", ((0, 50.0), (1, 90.0 + number / 100))) for number in range(9)]
    root = ElementTree.fromstring(draw("a & b", curves, across="x", lowest=80.0))
    heights = sorted(
        float(text.get("y", "0"))
        for text in root.iter("{http://www.w3.org/2000/svg}text")
        if "line" in (text.text or "")
    )
    assert len(heights) == 9
    assert min(np.diff(heights)) >= LABEL_HEIGHT - 0.11
