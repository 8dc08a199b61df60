"""How far two candidates are apart: the morphs it would take from one to the other, roughly.

AutoKeras, section 3.1: ``d = D_layers + lambda D_skips``. ``D_layers`` is the edit distance of the sequences of
layers, where a layer that is not there costs 1 and a layer of another width ``|w - w'| / max(w, w')``. ``D_skips``
matches skips to skips: one without a partner costs 1, a pair ``(|u - u'| + |l - l'|) / (max(u, u') + max(l, l'))``,
where they begin at layer ``u`` and reach over ``l`` layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from onnxmorph._ir import ir
from onnxmorph.graph.layers import layers
from onnxmorph.records import records

__all__ = ["Descriptor", "describe", "distance", "embedding"]

LAMBDA = 1.0
"""Weight of the skips against the layers."""

_OTHER_KERNEL = 0.5

Layer = tuple[str, tuple[int, ...], int]
"""Operator, kernel, outputs."""
Skip = tuple[int, int, str]
"""Places of the layers that it begins and ends at, and how it joins."""
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Descriptor:
    """What of a candidate the distance looks at."""

    layers: tuple[Layer, ...]
    skips: tuple[Skip, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "layers": [[op, list(kernel), width] for op, kernel, width in self.layers],
            "skips": [list(skip) for skip in self.skips],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Descriptor:
        """The inverse of `to_json`."""
        return cls(
            tuple((str(op), tuple(int(size) for size in kernel), int(width)) for op, kernel, width in data["layers"]),
            tuple((int(first), int(last), str(mode)) for first, last, mode in data["skips"]),
        )


def describe(model: ir.Model) -> Descriptor:
    """The descriptor of a model: its layers, and the skips that its records tell of.

    Skips that the first model had already are the same in all candidates.
    """
    found = layers(model)
    place = {layer.key: number for number, layer in enumerate(found)}
    skips = [
        (place[record["source"]], place[record["target"]], str(record["mode"]))
        for record in records(model)
        if record.get("morph") == "skip" and record.get("source") in place and record.get("target") in place
    ]
    return Descriptor(tuple((layer.op, layer.kernel, layer.out_channels) for layer in found), tuple(sorted(skips)))


def distance(one: Descriptor, other: Descriptor, weight: float = LAMBDA) -> float:
    """``D_layers + weight D_skips``; 0 for the same, symmetric."""
    return _of_layers(one.layers, other.layers) + weight * _of_skips(one.skips, other.skips)


def _of_layers(one: Sequence[Layer], other: Sequence[Layer]) -> float:
    """Edit distance; the cost of a substitution is that of turning one layer into the other."""
    above = np.arange(len(other) + 1, dtype=np.float64)
    for row, left in enumerate(one, start=1):
        here = np.empty_like(above)
        here[0] = row
        for column, right in enumerate(other, start=1):
            here[column] = min(
                above[column] + 1.0, here[column - 1] + 1.0, above[column - 1] + _substitution(left, right)
            )
        above = here
    return float(above[-1])


def _substitution(one: Layer, other: Layer) -> float:
    if one[0] != other[0] or len(one[1]) != len(other[1]):
        return 1.0
    wider = max(one[2], other[2], 1)
    return min(1.0, abs(one[2] - other[2]) / wider + (_OTHER_KERNEL if one[1] != other[1] else 0.0))


def _of_skips(one: Sequence[Skip], other: Sequence[Skip]) -> float:
    """Best matching of skips with skips."""
    if not one or not other:
        return float(len(one) + len(other))
    costs = np.array([[_pair(left, right) for right in other] for left in one])
    rows, columns = linear_sum_assignment(costs)
    return float(costs[rows, columns].sum()) + abs(len(one) - len(other))


def _pair(one: Skip, other: Skip) -> float:
    if one[2] != other[2]:
        return 1.0
    reach, others_reach = one[1] - one[0], other[1] - other[0]
    scale = max(one[0], other[0]) + max(reach, others_reach, 1)
    return min(1.0, (abs(one[0] - other[0]) + abs(reach - others_reach)) / scale)


def embedding(distances: Matrix, seed: int = 0) -> Matrix:
    """Points of a Euclidean space about as far apart as ``distances`` say (Bourgain 1985): a row for each.

    The edit distance is no distance of points of such a space, so that ``exp(-d^2)`` need not be a kernel; of these
    points it is one. Coordinates are distances to random subsets of the points, of every power of two in size.
    """
    count = len(distances)
    rng = np.random.default_rng(seed)
    scales = max(1, int(np.ceil(np.log2(max(count, 2)))))
    coordinates = []
    for size in (2**power for power in range(scales)):
        for _ in range(scales):
            chosen = rng.choice(count, size=min(size, count), replace=False)
            coordinates.append(distances[:, chosen].min(axis=1))
    points = np.array(coordinates).T
    # Bourgain's bound holds up to a factor: distances keep their mean.
    apart = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
    mean = apart[np.triu_indices(count, 1)].mean() if count > 1 else 0.0
    wanted = distances[np.triu_indices(count, 1)].mean() if count > 1 else 0.0
    return points * (wanted / mean) if mean > 0 else points
