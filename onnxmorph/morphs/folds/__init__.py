"""What folds, one idea a file: each finds places where less computes the same, and makes them so."""

from __future__ import annotations

from onnxmorph.morphs.folds.finding import Edited, Finding, Rule, View

__all__ = ["Edited", "Finding", "Rule", "View"]
