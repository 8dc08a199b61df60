"""Whole zoos: one recipe carried out on many models, in parallel, resumable, with one report.

::

    from onnxmorph.zoo import run_batch

    report = run_batch("recipe.toml", ["zoo/**/*.onnx"], "out")
    for entry in report.models:
        print(entry.model, entry.outcome, entry.reason)
    raise SystemExit(report.exit_code)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxmorph._on_use import names_on_use

if TYPE_CHECKING:
    from onnxmorph.zoo.batch import Watcher, dry_run, run_batch
    from onnxmorph.zoo.report import BatchReport, ModelEntry
    from onnxmorph.zoo.settings import Limits, Settings

__all__ = ["BatchReport", "Limits", "ModelEntry", "Settings", "Watcher", "dry_run", "run_batch"]

_HOMES = {
    "batch": ("Watcher", "dry_run", "run_batch"),
    "report": ("BatchReport", "ModelEntry"),
    "settings": ("Limits", "Settings"),
}

# A worker process is to listen for its parent's end before anything else is imported.
__getattr__, __dir__ = names_on_use(__name__, _HOMES)
