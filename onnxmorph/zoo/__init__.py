"""Whole zoos: one recipe carried out on many models, in parallel, resumable, with one report.

::

    from onnxmorph.zoo import run_batch

    report = run_batch("recipe.toml", ["zoo/**/*.onnx"], "out")
    for entry in report.models:
        print(entry.model, entry.outcome, entry.reason)
    raise SystemExit(report.exit_code)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxmorph.zoo.batch import Watcher, dry_run, run_batch
    from onnxmorph.zoo.report import BatchReport, ModelEntry
    from onnxmorph.zoo.settings import Limits, Settings

__all__ = ["BatchReport", "Limits", "ModelEntry", "Settings", "Watcher", "dry_run", "run_batch"]

_HOMES = {
    "BatchReport": "report",
    "Limits": "settings",
    "ModelEntry": "report",
    "Settings": "settings",
    "Watcher": "batch",
    "dry_run": "batch",
    "run_batch": "batch",
}
"""Imported when they are first used: a worker process is to listen for its parent's end before anything else."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
