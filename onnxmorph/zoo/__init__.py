"""Whole zoos: one recipe carried out on many models, in parallel, resumable, with one report.

::

    from onnxmorph.zoo import run_batch

    report = run_batch("recipe.toml", ["zoo/**/*.onnx"], "out")
    for entry in report.models:
        print(entry.model, entry.outcome, entry.reason)
    raise SystemExit(report.exit_code)
"""

from __future__ import annotations

from onnxmorph.zoo.batch import dry_run, run_batch
from onnxmorph.zoo.report import BatchReport, ModelEntry
from onnxmorph.zoo.settings import Limits, Settings

__all__ = ["BatchReport", "Limits", "ModelEntry", "Settings", "dry_run", "run_batch"]
