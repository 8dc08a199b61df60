"""What the parent gives for one set of inputs, and how far rounding moves it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from onnxmorph.verify.compare import Array, Measurement, Yardstick, measure
from onnxmorph.verify.inputs import Feeds
from onnxmorph.verify.noise import is_floating
from onnxmorph.verify.runner import Values

__all__ = ["Reference"]

_MOST_STEPS = 2.0
"""How far beyond the parent's own steps a child may be where it fell to the other side of a border."""


@dataclass
class Reference:
    """The parent's values for one set of inputs, in all its runs.

    Attributes:
        feeds: The inputs.
        names: Names that were asked for.
        values: The parent's values with optimisations off.
        near: Runs with the weights where parent and child differ moved by one rounding: the noise a child that differs
            there alone may have.
        far: Runs with all weights and the inputs moved, and with optimisations on: the noise between tiers.
        repeats: Runs of the same session on the same inputs.
        moved_child: The child's values with its weights moved, once needed.
        coarse: Runs with weights and inputs moved by many roundings, where values follow a jump: how large steps are.
        unit: Relative error of one rounding where the models run in a wider type than their own.
        reach: Per value the range by which its rounding is measured where that is wider than its own.
    """

    feeds: Feeds
    names: list[str]
    values: Values
    near: list[Values] = field(default_factory=list)
    far: list[Values] = field(default_factory=list)
    repeats: list[Values] = field(default_factory=list)
    moved_child: Values | None = None
    coarse: list[Values] = field(default_factory=list)
    unit: float = 0.0
    reach: Mapping[str, float] = field(default_factory=dict)
    escalated: bool = False
    _yardsticks: dict[tuple[str, bool], tuple[tuple[int, int], Yardstick]] = field(default_factory=dict, repr=False)

    def measure(self, name: str, child: Array | None, *, optimised: bool = False) -> Measurement:
        """The child's value against the parent's; ``optimised`` when the child ran with optimisations on."""
        noisy = [*self.near, *self.far] if optimised else self.near
        known = len(noisy), len(self.repeats)
        kept = self._yardsticks.get((name, optimised))
        if kept is None or kept[0] != known:  # more runs than when it was made
            yardstick = Yardstick(
                self.values[name],
                [values[name] for values in noisy if name in values],
                [values[name] for values in self.repeats if name in values],
                input_scale=self.input_scale,
                unit=self.unit,
                reach=self.reach.get(name, 0.0),
            )
            kept = self._yardsticks[name, optimised] = known, yardstick
        return kept[1].measure(child, self.moved_child.get(name) if self.moved_child is not None else None)

    def measure_steps(self, name: str, child: Array | None) -> Measurement | None:
        """The child's value against steps that the parent makes itself; ``None`` where it is further off than those."""
        steps = [values[name] for values in self.coarse if name in values]
        if not steps:
            return None
        measured = measure(self.values[name], child, steps, input_scale=self.input_scale, unit=self.unit)
        return replace(measured, channel_ratio=0.0, channel=None) if measured.ratio <= _MOST_STEPS else None

    @functools.cached_property
    def input_scale(self) -> float:
        """Largest magnitude among the floating-point inputs, 1.0 when there is none."""
        largest = [
            float(np.nanmax(np.abs(value.astype(np.float64)), initial=0.0))
            for value in self.feeds.values()
            if isinstance(value, np.ndarray) and is_floating(value)
        ]
        return max(largest, default=1.0)

    def says_nothing(self) -> bool:
        """Whether the parent gave floating-point values and none of them is finite."""
        floats = [array for array in self.values.values() if array is not None and is_floating(array) and array.size]
        return bool(floats) and not any(np.isfinite(array.astype(np.float32)).any() for array in floats)

    def nbytes(self) -> int:
        """Memory the arrays take."""
        held = [self.values, *self.near, *self.far, *self.repeats, *self.coarse]
        return sum(array.nbytes for values in held for array in values.values() if array is not None)
