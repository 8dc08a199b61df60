"""The negative self-test: is a fault in what changed seen by the comparison that has just passed?"""

from __future__ import annotations

import time
from collections.abc import Sequence

from onnxmorph._ir import ir
from onnxmorph.errors import RuntimeFailure
from onnxmorph.verify.certificate import Certificate
from onnxmorph.verify.faults import places, summarise, try_faults
from onnxmorph.verify.noise import tensors
from onnxmorph.verify.reference import Reference
from onnxmorph.verify.runner import Runnable, Running, Stage
from onnxmorph.verify.tolerance import Tolerances

__all__ = ["plant_faults"]

_SECONDS = 2.0


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

    Args:
        certificate: With every comparison made; gets ``faults``, ``detectable_fault`` and warnings.
        child: The model, and its open session.
        suspects: The weights to plant them in, values of the child.
        references: The parent's values to compare with, by set of inputs.
        stage: How models are run.
        tolerances: By which outputs were judged; where there are any, inner values do not count.
        deadline: When to stop, by ``time.perf_counter``; two seconds are always taken where they are needed.
    """
    from onnxmorph.model import clone

    model, running = child
    copy = clone(model)
    originals = tensors(copy)
    names = {value.name for value in suspects}
    planted_in = {value: tensor for value, tensor in originals.items() if value.name in names}
    twins = dict(zip(originals, tensors(model), strict=True))
    end = max(deadline, time.perf_counter() + _SECONDS)

    def seen() -> bool:
        now = {value: _carried(value) for value in planted_in}
        changed = {twins[value]: tensor for value, tensor in now.items() if tensor is not planted_in[value]}
        try:
            faulty = stage.varied(running, model, changed, child=True)
            return any(_sees(faulty, reference, certificate, tolerances) for reference in references)
        except RuntimeFailure:
            return True  # it does not even run any more

    planted = places(list(planted_in), planted_in, seed)
    trials = try_faults(planted, planted_in, seen, lambda: time.perf_counter() > end)
    certificate.faults = [trial.to_json() for trial in trials]
    certificate.detectable_fault, warnings = summarise(trials)
    certificate.warnings += warnings


def _carried(value: ir.Value) -> ir.TensorProtocol:
    node = value.producer()
    tensor = value.const_value if node is None else node.attributes["value"].as_tensor()
    assert tensor is not None
    return tensor


def _sees(faulty: Runnable, reference: Reference, certificate: Certificate, tolerances: Tolerances) -> bool:
    outputs = {leaf.name for leaf in certificate.outputs}
    judged = {leaf.name for leaf in [*certificate.outputs, *certificate.inner] if leaf.status != "nondeterministic"}
    for name, array in faulty.values(reference.feeds, reference.names).items():
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
