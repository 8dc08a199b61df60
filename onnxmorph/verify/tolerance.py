"""Absolute and relative tolerances of outputs, for those who know what their caller can bear.

An output with a tolerance is judged by ``|c - p| <= absolute + relative |p|`` at every element ``p`` of the parent and
``c`` of the child, in the place of the parent's noise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxmorph.errors import SelectionError
from onnxmorph.verify.specs import did_you_mean

__all__ = ["Tolerance", "Tolerances"]

Array = np.ndarray[Any, Any]

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Tolerance:
    """What ``|c - p|`` may be: ``absolute + relative |p|``."""

    absolute: float = 0.0
    relative: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.absolute < float("inf") and 0 <= self.relative < float("inf")):
            raise SelectionError(f"a tolerance is a number from 0 on, not {self.absolute:g} and {self.relative:g}")

    def excess(self, parent: Array, child: Array) -> float:
        """Largest ``|c - p|`` over what is allowed, 0.0 where all are the same; infinite where one is finite alone."""
        worst = 0.0
        one, other = parent.reshape(-1), child.reshape(-1)
        for start in range(0, one.size, _BLOCK):
            worst = max(worst, self._block(one[start : start + _BLOCK], other[start : start + _BLOCK]))
        return worst

    def _block(self, parent: Array, child: Array) -> float:
        kind = np.complex128 if parent.dtype.kind == "c" else np.float64
        before, after = parent.astype(kind), child.astype(kind)
        same = (before == after) | (np.isnan(before) & np.isnan(after))
        if same.all():
            return 0.0
        before, after = before[~same], after[~same]
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            shares = np.abs(after - before) / (self.absolute + self.relative * np.abs(before))
        return float(np.max(np.where(np.isfinite(after) & np.isfinite(before), shares, np.inf)))

    def to_json(self) -> dict[str, float]:
        """The tolerance as JSON values."""
        return {"absolute": self.absolute, "relative": self.relative}


@dataclass(frozen=True)
class Tolerances:
    """The tolerance of each output: one of its own, or that of all; none for those judged by the parent's noise."""

    default: Tolerance | None = None
    outputs: Mapping[str, Tolerance] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.default is not None or bool(self.outputs)

    def of(self, leaf: str) -> Tolerance | None:
        """The tolerance of an output, or of a member of one (``"name[2]"``)."""
        if leaf in self.outputs:
            return self.outputs[leaf]
        return next(
            (tolerance for name, tolerance in self.outputs.items() if leaf.startswith((f"{name}[", f"{name}."))),
            self.default,
        )

    def check(self, outputs: Collection[str]) -> None:
        """Whether every output that has one is there.

        Raises:
            SelectionError: One is not.
        """
        for name in self.outputs:
            if name not in outputs:
                raise SelectionError(
                    f"--tolerance: the model has no output {name!r}{did_you_mean(name, list(outputs))}"
                )
