"""The negative self-test: faults planted in the child's changed weights, which the verification must see.

A verdict of "equivalent" is worth as much as the smallest fault that would have overturned it. A dead head, saturated
units or a long average can hide a wrong weight from every output; only trying shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.verify.noise import movable

__all__ = ["SIZES", "FaultTrial", "Place", "nearest_values", "places", "plant", "sample", "summarise", "try_faults"]

SIZES = (0.05, 0.02, 0.01)
COARSE_SIZES = (0.25, 1.0)
"""Sizes of the planted faults: shares of the standard deviation of the weight's tensor."""

_MOST_PLACES = 6
_MOST_LISTED = 1 << 22
"""Elements of a tensor up to which those that are not zero are listed."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Place:
    """One element of one weight tensor: the value that carries the tensor and the flat index into it."""

    value: ir.Value
    index: int


@dataclass(frozen=True)
class FaultTrial:
    """One planted fault: where, how large as a share of the tensor's spread, and whether it was seen."""

    weight: str
    index: int
    size: float
    seen: bool

    def to_json(self) -> dict[str, Any]:
        """The trial as JSON values."""
        return {"weight": self.weight, "index": self.index, "size": self.size, "seen": self.seen}


def _spread(array: Array) -> float:
    flat = array.reshape(-1)
    values = flat[:: max(1, flat.size >> 18)].astype(np.float64)  # some hundred thousand are enough to know a spread
    spread = float(np.std(values))
    if spread == 0:
        spread = float(np.max(np.abs(values), initial=0.0))
    # Nothing but zeros, as where a branch begins silent: what a layer with so many inputs usually has.
    return spread if spread > 0 else float(max(1, array.size // max(1, array.shape[0]))) ** -0.5


def sample(
    candidates: Sequence[ir.Value], tensor_of: Mapping[ir.Value, ir.TensorProtocol], seed: int
) -> list[ir.Value]:
    """At most six of the candidates that carry floating-point weights, at random, in their order."""
    weights = [value for value in candidates if movable(value, tensor_of[value])]
    if len(weights) <= _MOST_PLACES:
        return weights
    picked = np.random.default_rng([seed, 3]).choice(len(weights), _MOST_PLACES, replace=False)
    return [weights[int(index)] for index in sorted(picked)]


def nearest_values(model: ir.Model, weight: ir.Value) -> list[str]:
    """Names of the first values of the main graph that a weight and an input of the model meet in."""
    found: list[str] = []
    pending, seen = [weight], {weight}
    while pending:
        for use in pending.pop().uses():
            others = [value for value in use.node.inputs if value is not None and value not in seen]
            runs = any(value.const_value is None and not value.is_initializer() for value in others)
            for output in use.node.outputs:
                if runs and use.node.graph is model.graph and output.name:
                    found.append(output.name)
                elif not runs and output not in seen:
                    seen.add(output)
                    pending.append(output)
    return found[:4]


def places(weights: Sequence[ir.Value], tensor_of: Mapping[ir.Value, ir.TensorProtocol], seed: int) -> list[Place]:
    """Where to plant: about six places over all weights, at random elements and, every second time, at the largest.

    Several, because a weight of a dead unit changes nothing and cannot be seen.
    """
    generator = np.random.default_rng([seed, 4])
    found: dict[Place, None] = {}
    for rank in range(_MOST_PLACES if weights else 0):
        value = weights[rank % len(weights)]
        flat = np.asarray(tensor_of[value].numpy()).reshape(-1)
        if (rank // len(weights) + rank % len(weights)) % 2 == 0:
            if flat.size > _MOST_LISTED:
                index = int(generator.integers(flat.size))
            else:
                live = np.flatnonzero(flat)
                index = int(generator.choice(live)) if live.size else 0
        else:
            wide = flat if flat.dtype.kind == "f" else flat.astype(np.float32)
            ends = int(np.argmax(wide)), int(np.argmin(wide))
            index = max(ends, key=lambda place: abs(float(wide[place])))
        found.setdefault(Place(value, index))
    return list(found)


def plant(
    tensor: ir.TensorProtocol, index: int, size: float, *, spread: float | None = None
) -> ir.TensorProtocol | None:
    """A copy of the tensor with one element moved by ``size`` spreads; ``None`` where its type rounds that away.

    Args:
        spread: That of the tensor's numbers, where it is known.
    """
    array = np.array(tensor.numpy())
    flat = array.reshape(-1)
    before = flat[index]
    moved = float(before) + size * (_spread(array) if spread is None else spread)
    flat[index] = np.asarray(moved).astype(array.dtype)
    if flat[index] == before:
        return None
    return ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)


def try_faults(
    planted: list[Place],
    tensor_of: Mapping[ir.Value, ir.TensorProtocol],
    seen: Callable[[Place, ir.TensorProtocol], bool],
    out_of_time: Callable[[], bool],
) -> list[FaultTrial]:
    """Asks of each fault in turn, largest first, whether it is ``seen`` with this tensor in the place's value.

    A place where a size was not seen is not tried with smaller ones: they are noted as unseen.
    """
    trials: list[FaultTrial] = []
    blind: set[Place] = set()
    sizes = list(SIZES)
    spreads = {value: _spread(np.asarray(tensor_of[value].numpy())) for value in {place.value for place in planted}}
    while sizes:
        size = sizes.pop(0)
        if size == SIZES[1] and trials and not _mostly_seen(trials, SIZES[0]):
            # Coarse types see coarse faults: how coarse is worth knowing before the comparison is called blind.
            sizes, blind = list(COARSE_SIZES[1:]), set()
            size = COARSE_SIZES[0]
        elif size == COARSE_SIZES[1] and _mostly_seen(trials, COARSE_SIZES[0]):
            break
        for place in planted:
            if out_of_time() and trials:
                return trials
            faulty = plant(tensor_of[place.value], place.index, size, spread=spreads[place.value])
            if faulty is None:
                continue
            found = place not in blind and seen(place, faulty)
            if not found:
                blind.add(place)
            trials.append(FaultTrial(str(place.value.name), place.index, size, found))
    return trials


def _mostly_seen(trials: list[FaultTrial], size: float) -> bool:
    seen = [trial.seen for trial in trials if trial.size == size]
    return 2 * sum(seen) >= len(seen)


def summarise(trials: list[FaultTrial]) -> tuple[float | None, list[str]]:
    """The smallest size at which every planted fault was seen, and what to warn of.

    Where no size was seen everywhere, the smallest seen at half of the places or more counts, with a warning.
    """
    warnings: list[str] = []
    shares = {size: [trial.seen for trial in trials if trial.size == size] for size in (*COARSE_SIZES, *SIZES)}
    shares = {size: seen for size, seen in shares.items() if seen}
    if not shares:
        return None, []
    largest = max(shares)
    if not any(shares[largest]):
        warnings.append(
            f"blind: none of {len(shares[largest])} planted faults of {largest:.0%} of a weight's spread was seen; "
            "the precision is too coarse, or what lies behind does not depend on what changed"
        )
        return None, warnings
    if not all(shares[largest]):
        missed = sorted({trial.weight for trial in trials if trial.size == largest and not trial.seen})
        warnings.append(
            f"{shares[largest].count(False)} of {len(shares[largest])} planted faults of {largest:.0%} of a weight's "
            f"spread were not seen (dead units, or too coarse a precision): {', '.join(map(repr, missed[:3]))}"
        )
    everywhere = [size for size, seen in shares.items() if all(seen)]
    mostly = [size for size, seen in shares.items() if 2 * seen.count(True) >= len(seen)]
    if everywhere:
        return min(everywhere), warnings
    return (min(mostly) if mostly else None), warnings
