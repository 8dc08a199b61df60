"""The sweep loses one layer, and no more, to whatever kills a worker; its table counts what happened."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def sweep() -> Iterator[ModuleType]:
    """benchmarks/ is a folder of scripts, not a package."""
    spec = importlib.util.spec_from_file_location("sweep_benchmark", ROOT / "benchmarks" / "sweep.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sweep_benchmark"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["sweep_benchmark"]


STUB = """
import json, os, sys, time
told = json.loads(sys.stdin.read())
skip = told["skip"]
for target in told["targets"]:
    base = {"source": target["source"], "model": target["name"]}
    def say(event, **more):
        print(json.dumps({"event": event, **base, **more}), flush=True)
    say("model")
    print("a library says hello")
    if target["name"] == "unloadable":
        os._exit(3)
    for layer in range(skip, 4):
        say("begin", layer=layer, name=f"layer{layer}", op="Conv", variant="auto", counts=True)
        if target["name"] == "dies" and layer in (1, 2):
            os.abort()
        if target["name"] == "hangs" and layer == 3:
            time.sleep(60)
        say("result", layer=layer, name=f"layer{layer}", op="Conv", variant="auto", counts=True, outcome="done")
    skip = 0
"""


def _outcomes(
    sweep: ModuleType, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[Any, ...]]:
    stub = tmp_path / "stub.py"
    stub.write_text(STUB)
    monkeypatch.setattr(sweep, "WORKER", [sys.executable, str(stub)])
    settings = sweep.Settings("deepen", ["auto"], 0, 1.0, False, "cpu")
    targets = [sweep.Target("given", name) for name in names]
    results = sweep.oversee(settings, targets, 2.0, lambda text: None)
    return [(r["model"], r.get("layer"), r["outcome"]) for r in results]


def test_worker_that_dies_costs_one_layer(sweep: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _outcomes(sweep, ["fine", "dies", "last"], tmp_path, monkeypatch) == [
        *(("fine", layer, "done") for layer in range(4)),
        ("dies", 0, "done"),
        ("dies", 1, "crash"),
        ("dies", 2, "crash"),
        ("dies", 3, "done"),
        *(("last", layer, "done") for layer in range(4)),
    ]


def test_worker_that_hangs_costs_one_layer(sweep: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _outcomes(sweep, ["hangs", "last"], tmp_path, monkeypatch) == [
        *(("hangs", layer, "done") for layer in range(3)),
        ("hangs", 3, "late"),
        *(("last", layer, "done") for layer in range(4)),
    ]


def test_model_that_kills_its_reader_costs_that_model(
    sweep: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _outcomes(sweep, ["unloadable", "last"], tmp_path, monkeypatch) == [
        ("unloadable", None, "crash"),
        *(("last", layer, "done") for layer in range(4)),
    ]


def test_table_counts_outcomes_and_shares(sweep: ModuleType) -> None:
    def row(layer: int, outcome: str, *, counts: bool = True, **more: object) -> dict[str, object]:
        return {"source": "given", "model": "a.onnx", "layer": layer, "outcome": outcome, "counts": counts, **more}

    results = [
        row(0, "done", ratio=1.5, method="mirror", scale_ratios=[1.0, 3.0], occupancy=1.0, residual=1e-8),
        row(1, "done", ratio=0.5, method="mirror", scale_ratios=[1.0, 1.0], occupancy=0.5, residual=1e-9),
        row(2, "refused", code="bias-not-constant", reason="a | b"),
        row(3, "refused", counts=False, code="weight-not-constant", reason="no"),
        row(4, "wrong", code="differs", reason="y differs", name="conv", op="Conv", variant="auto"),
    ]
    targets = [sweep.Target("given", "a.onnx", "a.onnx")]
    text = sweep.report(results, targets, sweep.Settings("deepen", ["auto"], 0, 1.0, False, "cpu"), "command")
    assert "| a.onnx | 5 | 2 | 2 | 1 | 0 | 0 | 0 | 0 | 50.0 % | 1.5 |" in text
    assert "| bias-not-constant | 1 | 1 | a \\| b |" in text
    assert "| mirror | 2 | 50.0 % | 75.0 % |" in text
    assert "* a.onnx `conv` (Conv, auto): y differs" in text


def test_sample_of_layers_is_spread_from_first_to_last(sweep: ModuleType) -> None:
    assert sweep._sample(list(range(10)), 4) == [0, 3, 6, 9]
    assert sweep._sample(list(range(3)), 4) == [0, 1, 2]
    assert sweep._sample(list(range(10)), 1) == [0]


def test_models_whose_weights_are_all_equal_are_left_out_where_a_random_form_is_there(
    sweep: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models" / "fetched" / "onnx"
    folder.mkdir(parents=True)
    for name in ("light_a.onnx", "light_a.random.onnx", "light_b.onnx"):
        (folder / name).write_bytes(b"")
    monkeypatch.setattr(sweep, "ROOT", tmp_path)
    assert {t.name for t in sweep.collect(["fetched"], [], "*")} == {"onnx/light_a.random.onnx", "onnx/light_b.onnx"}


def test_sweep_over_a_sample_is_done_everywhere(sweep: ModuleType, tmp_path: Path) -> None:
    out, document = tmp_path / "sweep.md", tmp_path / "sweep.json"
    model = ROOT / "models" / "digits_mlp.onnx"
    arguments = [
        str(model),
        "--jobs",
        "1",
        "--budget",
        "1",
        "--provider",
        "cpu",
        "--out",
        str(out),
        "--json",
        str(document),
    ]
    assert sweep.main(arguments) == 0
    results = json.loads(document.read_text())["results"]
    assert [r["outcome"] for r in results] == ["done"] * 3
    assert "| digits_mlp.onnx | 3 | 3 | 0 | 0 | 0 | 0 | 0 | 0 | 100.0 % |" in out.read_text()
    assert str(tmp_path) not in out.read_text()


def test_sweep_is_taken_up_where_it_was_broken_off(
    sweep: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = tmp_path / "stub.py"
    stub.write_text(STUB)
    monkeypatch.setattr(sweep, "WORKER", [sys.executable, str(stub)])
    settings = sweep.Settings("deepen", ["auto"], 0, 1.0, False, "cpu")
    first, second = sweep.Target("given", "fine", "a"), sweep.Target("given", "last", "b")
    notes: list[str] = []

    def go_on(targets: list[Any], *, resume: bool) -> list[str]:
        ledger = sweep.Ledger(tmp_path / "out.json", settings, resume=resume)
        sweep.sweep(settings, targets, ledger, jobs=1, layer_time=5.0, note=notes.append)
        return [result["model"] for result in ledger.results]

    assert go_on([first], resume=False) == ["fine"] * 4
    assert go_on([first, second], resume=True) == ["fine"] * 4 + ["last"] * 4
    assert [note.split(":")[0] for note in notes] == ["fine", "last"]
    settings.variants = ["mirror"]
    assert go_on([second], resume=True) == ["last"] * 4, "results of other methods are not these"


def test_variants_are_counted_by_themselves_and_by_morph(sweep: ModuleType) -> None:
    def row(layer: int, variant: str, outcome: str, **more: object) -> dict[str, object]:
        base = {"source": "given", "model": "a.onnx", "layer": layer, "variant": variant, "counts": True}
        return {**base, "outcome": outcome, **more}

    results = [
        row(0, "widen zero-out", "done", ratio=2.0),
        row(1, "widen zero-out", "refused", code="layernorm", reason="no"),
        row(2, "widen zero-out", "refused", code="graph-output", reason="no", way_out="ask"),
        row(0, "widen replicate", "done", ratio=1.0),
        row(1, "widen replicate", "done", ratio=3.0),
        row(2, "widen replicate", "refused", code="graph-output", reason="no", way_out="ask"),
        row(0, "shrink", "done", ratio=1.0, size=[10, 10]),
        row(0, "kernel +2", "refused", code="no-kernel", reason="no"),
        row(1, "kernel +2", "done", ratio=1.0),
        row(2, "subnet sequential", "refused", code="only-width", reason="no"),
    ]
    variants = ["widen zero-out", "widen replicate", "shrink", "kernel +2", "subnet sequential"]
    settings = sweep.Settings("morphs", variants, 0, 1.0, False, "cpu")
    targets = [sweep.Target("given", "a.onnx", "a.onnx")]
    text = sweep.report(results, targets, settings, "command", left_out=2)
    assert "every layer of every model but 2 that it did not come to" in text
    assert (
        "| widen zero-out | 3 | 1 | 2 | 0 | 0 | 0 | 0 | 0 | 33.3 % | 50.0 % | 2 | - | layernorm 1, graph-output 1 |"
        in text
    )
    assert "| shrink | 1 | 1 | 0 | 0 | 0 | 0 | 0 | 0 | 100.0 % | 100.0 % | 1 | 1 of 1 |  |" in text
    assert "| kernel +2 | 1 | 1 | 1 | 0 | 0 | 0 | 0 | 0 | 100.0 % | 100.0 % | 1 | - |  |" in text
    assert "| widen | 3 | 2 | 66.7 % | 100.0 % | 95 % |" in text
    assert "| subnet | 0 | 0 | - | - | 95 % |" in text


def test_layers_of_one_variant_are_tried_in_one_child(sweep: ModuleType, tmp_path: Path) -> None:
    document = tmp_path / "sweep.json"
    arguments = [str(ROOT / "models" / "digits_mlp.onnx"), "--morph", "morphs", "--methods", "subnet sequential,shrink"]
    arguments += ["--jobs", "1", "--budget", "0.2", "--provider", "cpu", "--out", str(tmp_path / "sweep.md")]
    assert sweep.main([*arguments, "--json", str(document)]) == 0
    results = json.loads(document.read_text())["results"]
    assert [r["outcome"] for r in results if r["variant"] == "subnet sequential"] == ["done"] * 3
    assert {r["together"] for r in results if r["variant"] == "subnet sequential"} == {3}
    assert [r["outcome"] for r in results if r["variant"] == "shrink"] == ["done", "done", "refused"]
