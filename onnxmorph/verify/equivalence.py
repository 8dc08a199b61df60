"""``verify``: whether a child computes what its parent computes, as far as running both can tell.

For every set of inputs the parent runs, and runs again with weights moved by one rounding; the child must stay within a
small multiple of what that moved, at the outputs and at every inner value on the frontier of what changed. Then faults
are planted in the child's changed weights and must be seen, which says what the verdict is worth.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Literal

from onnxmorph._ir import ir
from onnxmorph.errors import RuntimeFailure
from onnxmorph.verify import runtime
from onnxmorph.verify.certificate import Certificate
from onnxmorph.verify.compare import LIMIT
from onnxmorph.verify.real_data import Source
from onnxmorph.verify.request import Request
from onnxmorph.verify.runtime import Provider
from onnxmorph.verify.signature import compare_signatures
from onnxmorph.verify.tolerance import Tolerances
from onnxmorph.verify.upcast import narrow_types
from onnxmorph.verify.verification import ChildFailure, Verification

__all__ = ["verify"]


def verify(
    parent: ir.Model | str | os.PathLike[str],
    child: ir.Model | str | os.PathLike[str],
    *,
    provider: Provider = "auto",
    inputs: Source | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    frontier: Sequence[tuple[str, str]] | None = None,
    inner: bool | Literal["all"] = True,
    faults: bool = True,
    limit: float = LIMIT,
    tolerances: Tolerances | None = None,
    time_budget: float = 20.0,
) -> Certificate:
    """Runs parent and child in ONNX Runtime and says whether they compute the same, to rounding.

    Args:
        parent: The model, or the path of its file.
        child: The model, or the path of its file.
        provider: ``auto`` takes CUDA where a trial run works, else the CPU; ``both`` needs both, and both to agree.
        inputs: Real data, used before made-up inputs: arrays by input name, an ``.npz``, a folder of samples, a
            picture, a script or a function ``inputs(signature, seed)``; see `onnxmorph.verify.real_data.samples`.
        shapes: Full shape of some inputs, by name, where the model leaves dimensions open.
        seed: Seed of everything random.
        frontier: Inner values to compare besides those found by name, as pairs of names in parent and child; these must
            exist and agree in shape.
        inner: Whether inner values of the same name are compared: ``True`` those on the frontier of what changed,
            ``"all"`` every one; ``False`` judges by outputs (and ``frontier``) alone.
        faults: Whether faults are planted to see how small a one would have been noticed.
        limit: Largest quotient of difference and noise that counts as rounding.
        tolerances: Outputs to judge by absolute and relative tolerances; then inner values are told, and do not count.
        time_budget: Seconds after which no more inputs are tried; at least two sets always run.

    Returns:
        The certificate; ``equivalent`` is the verdict.

    Raises:
        ModelError: A file is no usable model, or the data cannot be read.
        RuntimeFailure: The parent cannot be run here, or gives nothing that can be compared: not verifiable here.
        SelectionError: ``inputs``, ``shapes``, ``frontier`` or ``tolerances`` name what is not there.
    """
    from onnxmorph import model as files

    started = time.perf_counter()
    parent_model = files.load(parent) if not isinstance(parent, ir.Model) else parent
    child_model = files.load(child) if not isinstance(child, ir.Model) else child
    choices = runtime.choose_providers(provider)
    hashes = files.content_hash(parent_model), files.content_hash(child_model)
    signature = compare_signatures(parent_model, child_model)
    certificates: list[Certificate] = []
    for choice in choices:
        begun = time.perf_counter() if certificates else started
        certificate = Certificate(
            equivalent=False,
            provider=choice.name,
            inputs=0,
            provider_reason=choice.reason,
            limit=limit,
            seed=seed,
            runtime=runtime.runtime_version(),
            threads=runtime.threads(),
            settings=runtime.settings(choice.name),
            parent_hash=hashes[0],
            child_hash=hashes[1],
            warnings=list(signature.warnings),
            failures=list(signature.failures),
        )
        if not signature.failures:
            request = Request(
                inputs,
                shapes,
                seed,
                tuple(frontier or ()),
                inner=bool(inner),
                everywhere=inner == "all",
                faults=faults,
                tolerances=tolerances or Tolerances(),
                deadline=begun + time_budget,
            )
            _verify(parent_model, child_model, request, certificate)
        certificate.equivalent = not certificate.failures and not certificate.unproven
        certificate.seconds = time.perf_counter() - begun
        certificates.append(certificate)
    first, *others = certificates
    for other in others:
        first.join(other)
    return first


def _verify(parent: ir.Model, child: ir.Model, request: Request, certificate: Certificate) -> None:
    """Runs the two models as they are or, where ONNX Runtime cannot run their 16-bit types here, as float32."""
    try:
        Verification(parent, child, request, certificate, wide=False, unit=0.0).run()
    except RuntimeFailure as failure:
        narrow = max(narrow_types(parent), narrow_types(child))
        if not narrow:
            if isinstance(failure, ChildFailure):
                certificate.failures.append(str(failure))
                return
            raise
        try:
            Verification(parent, child, request, certificate, wide=True, unit=narrow).run()
        except ChildFailure as child_failure:
            certificate.failures.append(str(child_failure))
        except RuntimeFailure:
            raise failure from None
        certificate.precision = "float32 upcast"
        certificate.warnings.append(f"both models were run as float32, since as stored they are {failure}")
        if certificate.detectable_fault is None and certificate.faults:
            certificate.warnings.append(
                f"weights of this type are known to one part in {round(1 / narrow)}: rounding alone may move a child "
                "by as much as the planted faults did, and only larger ones can be told from it"
            )
