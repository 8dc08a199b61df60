"""A batch on a dask cluster of two workers."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onnxmorph.errors import RuntimeFailure, SelectionError
from onnxmorph.zoo import Limits, Settings, run_batch

from .conftest import Zoo

SAMPLES = Path(__file__).resolve().parents[2] / "models"


def test_a_cluster_has_to_be_there(zoo: Zoo, recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="--scheduler"):
        run_batch(recipe, [zoo("x.onnx")], tmp_path / "out", Settings(engine="dask"))


def test_without_dask_the_extra_is_named(
    zoo: Zoo, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    settings = Settings(engine="dask", scheduler="tcp://127.0.0.1:9")
    with pytest.raises(RuntimeFailure, match=r"onnxmorph\[dask\]"):
        run_batch(recipe, [zoo("x.onnx")], tmp_path / "out", settings)


def test_no_cluster_sees_the_memory_of_this_process(zoo: Zoo, recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    settings = Settings(engine="dask", scheduler="tcp://127.0.0.1:9", state=tmp_path / "state")
    with pytest.raises(SelectionError, match="no cluster sees"):
        run_batch(recipe, [zoo("x.onnx")], "memory://out", settings)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as running:
        yield running


@pytest.mark.slow
def test_the_same_children_as_without_a_cluster(cluster: Any, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    for path in SAMPLES.glob("digits_*.onnx"):
        (tmp_path / "zoo" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "zoo" / "broken.onnx").write_bytes(b"no model")
    globs = [f"{tmp_path}/zoo/*.onnx"]
    there = Settings(engine="dask", scheduler=cluster.scheduler_address)
    report = run_batch(recipe, globs, tmp_path / "dask", there)
    assert report.jobs == 2 and report.engine == "dask"
    expected = run_batch(recipe, globs, tmp_path / "here", Settings(jobs=2))
    assert [(entry.outcome, entry.content_hash) for entry in report.models] == [
        (entry.outcome, entry.content_hash) for entry in expected.models
    ]
    assert report.counts["done"] >= 6 and report.counts["failed"] == 1
    again = run_batch(recipe, globs, tmp_path / "dask", replace(there, engine="processes"))
    assert again.counts["up_to_date"] == report.counts["done"]


@pytest.mark.slow
def test_a_hang_and_a_crash_cost_one_model_there_too(cluster: Any, zoo: Zoo, recipe: Path, tmp_path: Path) -> None:
    client_class: Any = pytest.importorskip("distributed").Client
    script = str(Path(__file__).with_name("faulty_worker.py"))

    def make_faulty(path: str) -> None:
        import os
        import sys

        from onnxmorph.zoo import slot

        slot.worker_command = lambda label: [sys.executable, path, str(os.getpid()), label]

    with client_class(cluster, set_as_default=False) as client:
        client.run(make_faulty, script)
    folder = zoo("crash.onnx", "hang.onnx", "good.onnx", "data.onnx")
    settings = Settings(engine="dask", scheduler=cluster.scheduler_address, limits=Limits(6))
    report = run_batch(recipe, [f"{folder}/*.onnx"], tmp_path / "out", settings)
    assert {Path(entry.model).name: entry.code for entry in report.models} == {
        "crash.onnx": "crash",
        "hang.onnx": "time-limit",
        "good.onnx": None,
        "data.onnx": None,
    }


@pytest.mark.slow
def test_a_batch_that_is_killed_leaves_no_worker_on_the_cluster(
    cluster: Any, zoo: Zoo, recipe: Path, tmp_path: Path
) -> None:
    folder = zoo("hang.onnx")  # workers there do what names say, since the test before
    start = "import sys; sys.path.insert(0, sys.argv.pop(1)); from cli.main import main; main()"
    words = [str(word) for word in (recipe, folder, "-o", tmp_path / "out", "--engine", "dask")]
    words = [sys.executable, "-c", start, str(SAMPLES.parent), "batch", *words]
    with subprocess.Popen([*words, "--scheduler", cluster.scheduler_address], stderr=subprocess.DEVNULL) as batch:
        assert _within(30, lambda: bool(_label_runs(str(tmp_path / "out"))))
        batch.send_signal(signal.SIGKILL)
    assert _within(20, lambda: not _label_runs(str(tmp_path / "out")))


def _label_runs(label: str) -> list[str]:
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = line.read_bytes().decode("utf-8", "replace")
        except OSError:
            continue
        if "faulty_worker" in words and label in words:
            found.append(words)
    return found


def _within(seconds: float, holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.1)
    return False
