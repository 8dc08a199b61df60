"""Folders of models that are no models, and workers that do not mind."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from onnxmorph.zoo import slot

RECIPE = '[[step]]\nmorph = "deepen"\nwhere = { last = 1 }\n'


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers do to each model what its name says; see :mod:`tests.zoo_batch.faulty_worker`."""
    script = str(Path(__file__).with_name("faulty_worker.py"))
    monkeypatch.setattr(slot, "worker_command", lambda label: [sys.executable, script, str(os.getpid()), label])


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


Zoo = Callable[..., Path]


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    """Makes files of these names in a folder ``zoo``; each holds its own name."""

    def make(*names: str) -> Path:
        for name in names:
            path = tmp_path / "zoo" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
        return tmp_path / "zoo"

    return make
