"""A batch of real models, killed at random moments, ends where an uninterrupted one ends."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    """benchmarks/ is a folder of scripts, not a package."""
    spec = importlib.util.spec_from_file_location("batch_benchmark", ROOT / "benchmarks" / "batch.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["batch_benchmark"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["batch_benchmark"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_killed_at_random_moments_the_result_is_that_of_an_uninterrupted_run(
    benchmark: ModuleType, recipe: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    models = [f"{ROOT}/models/digits_[cm]*.onnx"]
    toll = benchmark.kill_often(recipe, models, tmp_path, 3, seed=3, options=("--jobs", "2"), note=said.append)
    assert toll.wrong == []
    assert toll.batches + toll.workers == 3
