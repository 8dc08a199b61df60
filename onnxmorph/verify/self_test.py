"""The negative self-test: is a fault in what changed seen by the comparison that has just passed?"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.errors import RuntimeFailure
from onnxmorph.graph.constants import constant
from onnxmorph.verify.certificate import Certificate
from onnxmorph.verify.faults import FaultTrial, Place, places, summarise, try_faults
from onnxmorph.verify.noise import tensors
from onnxmorph.verify.reference import Reference
from onnxmorph.verify.runner import Running, Stage, Values
from onnxmorph.verify.tolerance import Tolerances

__all__ = ["plant_faults", "silenced_by"]

_SECONDS = 2.0
_MOST_SECONDS = 8.0
"""For places that have an effect, where all tried so far had none: a dead unit says nothing."""
_MOST_ROUNDS = 5
_MULTIPLIES = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "Mul"})
_MOST_STEPS = 200

Spot = tuple[str, int]
"""Name of a weight and the flat index of one of its elements."""


def plant_faults(
    certificate: Certificate,
    child: tuple[ir.Model, Running],
    suspects: Sequence[ir.Value],
    references: Sequence[Reference],
    stage: Stage,
    tolerances: Tolerances,
    *,
    seed: int,
    deadline: float,
) -> None:
    """Plants faults in weights of the child and notes in the certificate the smallest size that is seen.

    A fault that changes no compared value by a single bit says nothing of the comparison: it is told apart, with the
    reason where there is one, and does not count.

    Args:
        certificate: With every comparison made; gets ``faults``, ``detectable_fault`` and warnings.
        child: The model, and its open session.
        suspects: The weights to plant them in, values of the child.
        references: The parent's values to compare with, by set of inputs.
        stage: How models are run.
        tolerances: By which outputs were judged; where there are any, inner values do not count.
        deadline: When to stop, by ``time.perf_counter``; two seconds are always taken where they are needed, and up to
            eight while no place has been found where a fault has an effect.
    """
    model, running = child
    names = {value.name for value in suspects}
    planted_in = {value: tensor for value, tensor in tensors(model).items() if value.name in names}
    started = time.perf_counter()
    end = max(deadline, started + _SECONDS)
    latest = max(deadline, started + _MOST_SECONDS)
    own: dict[int, Values] = {}  # the child's values without a fault, by set of inputs, where they are asked for
    without_effect: set[Spot] = set()
    tried: set[Spot] = set()

    def out_of_time() -> bool:
        return time.perf_counter() > (latest if tried <= without_effect else end)

    def seen(place: Place, faulty: ir.TensorProtocol) -> bool:
        moved = False
        tried.add(_spot(place))
        try:
            planted = stage.varied(running, model, {place.value: faulty}, child=True)
            for index, reference in enumerate(references):
                values = planted.values(reference.feeds, reference.names)
                if _sees(values, reference, certificate, tolerances):
                    return True
                if not moved:
                    if index not in own:
                        own[index] = running.values(reference.feeds, reference.names)
                    moved = _moves(own[index], values)
        except RuntimeFailure:
            return True  # it does not even run any more
        if not moved:
            without_effect.add(_spot(place))
        return False

    trials: list[FaultTrial] = []
    for attempt in range(_MOST_ROUNDS):
        planted = [place for place in places(list(planted_in), planted_in, seed + attempt) if _spot(place) not in tried]
        trials += try_faults(planted, planted_in, seen, out_of_time)
        if not tried <= without_effect or out_of_time():
            break
    certificate.faults = [trial.to_json() for trial in trials]
    certificate.detectable_fault, warnings = summarise(
        [trial for trial in trials if (trial.weight, trial.index) not in without_effect]
    )
    certificate.warnings += warnings + _words(model, without_effect, trials)


def _spot(place: Place) -> Spot:
    return str(place.value.name), place.index


def _moves(before: Values, after: Values) -> bool:
    """Whether any value is another, by a single bit."""
    for name, array in before.items():
        other = after.get(name)
        if array is None or other is None:
            if array is not other:
                return True
        elif not np.array_equal(array, other, equal_nan=array.dtype.kind in "fc"):
            return True
    return False


def _sees(values: Values, reference: Reference, certificate: Certificate, tolerances: Tolerances) -> bool:
    """Whether the verdict on these values of a faulty child would be that it differs."""
    outputs = {leaf.name for leaf in certificate.outputs}
    judged = {leaf.name for leaf in [*certificate.outputs, *certificate.inner] if leaf.status != "nondeterministic"}
    for name, array in values.items():
        if name not in judged or name not in reference.values:
            continue
        measured = reference.measure(name, array)
        tolerance, before = tolerances.of(name) if name in outputs else None, reference.values[name]
        if tolerance is not None and measured.reason is None and before is not None and array is not None:
            seen = tolerance.excess(before, array) > 1
        else:
            seen = measured.worst() > certificate.limit and (not tolerances or name in outputs)
        if seen:
            return True
    return False


def _words(model: ir.Model, without_effect: Collection[Spot], trials: Sequence[FaultTrial]) -> list[str]:
    """What is to be said of faults that had no effect at all."""
    if not without_effect:
        return []
    planted = {(trial.weight, trial.index) for trial in trials}
    silent: dict[str, list[str]] = {}
    dead: list[str] = []
    for weight in sorted({weight for weight, _ in without_effect}):
        zeros = silenced_by(model, weight)
        if zeros:
            silent.setdefault(zeros[0], []).append(weight)
        else:
            dead.append(weight)
    words = [
        f"faults in {_listed(weights)} have no effect, and none can: what follows is multiplied by {zero!r}, which is "
        "all zeros (a branch that begins silent); what these weights are does not bear on equivalence"
        for zero, weights in silent.items()
    ]
    if dead:
        words.append(
            f"{len(without_effect)} of {len(planted)} places of planted faults have no effect on any value compared "
            f"(dead units, or numbers no input reaches): {_listed(dead)}"
        )
    return words


def silenced_by(model: ir.Model, weight: str) -> list[str]:
    """Names of constants of zeros that everything is multiplied by on the way from a weight of the main graph."""
    start = model.graph.initializers.get(weight)
    if start is None:
        return []
    ends = set(model.graph.outputs)
    pending, seen, zeros = [start], {start}, dict[str, None]()
    while pending and len(seen) < _MOST_STEPS:
        value = pending.pop()
        if value in ends:
            return []
        for use in value.uses():
            node = use.node
            others = [other for place, other in enumerate(node.inputs[:2]) if place != use.idx and other is not None]
            blocked = [other for other in others if node.op_type in _MULTIPLIES and _is_zero(other)]
            if blocked:
                zeros.setdefault(str(blocked[0].name))
                continue
            for output in node.outputs:
                if output not in seen:
                    seen.add(output)
                    pending.append(output)
    return [] if pending else list(zeros)


def _is_zero(value: ir.Value) -> bool:
    array = constant(value)
    return array is not None and array.size > 0 and not np.any(array)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:3]))
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
