"""Which values ever move: one that never does says nothing of what lies upstream of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxmorph.verify.noise import is_floating

__all__ = ["Variation"]

Array = np.ndarray[Any, Any]


class Variation:
    """Whether values ever differ between inputs of one shape; one that never does says nothing of what is upstream."""

    _MOST_BYTES = 1 << 24

    def __init__(self) -> None:
        self._first: dict[tuple[str, tuple[int, ...]], Array] = {}
        self._compared: set[str] = set()
        self._moving: set[str] = set()

    def watch(self, name: str, array: Array | None, noise_floor: float) -> None:
        """Notes one more value of this name."""
        if array is None or array.nbytes > self._MOST_BYTES or name in self._moving:
            return
        first = self._first.setdefault((name, array.shape), array)
        if first is array:
            return
        self._compared.add(name)
        if not is_floating(array):
            moves = not np.array_equal(first, array)
        else:
            with np.errstate(invalid="ignore"):
                distance = np.abs(first.astype(np.float64) - array.astype(np.float64))
            moves = float(np.nanmax(distance, initial=0.0)) > 4 * noise_floor
        if moves:
            self._moving.add(name)

    def constant(self, name: str) -> bool:
        """Whether inputs of one shape were compared and never moved the value."""
        return name in self._compared and name not in self._moving
