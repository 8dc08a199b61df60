"""From a child in memory to a child on disk: what is put in place is, byte for byte, what was verified.

The child is written beside its destination, loaded again from there, compared with its parent, given the certificate,
and only then renamed into place. A child that is not equivalent leaves nothing behind, unless it was asked for. Where
somebody asked for a change that is no morphism, the certificate says so, and holds the difference that was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.errors import OnnxMorphError
from onnxmorph.plan import Child, Plan
from onnxmorph.records import mark_parent

if TYPE_CHECKING:
    from onnxmorph.ahead import CopyAhead
    from onnxmorph.verify import Certificate

__all__ = ["Check", "Delivery", "broken_by", "deliver"]

_TRAVELLING_INNER = 3


@dataclass(frozen=True)
class Check:
    """How parent and child are compared; the arguments of :func:`onnxmorph.verify.verify`."""

    provider: Literal["auto", "cuda", "cpu", "both"] = "auto"
    inputs: Path | None = None
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    seed: int = 0

    def verify(
        self,
        parent: ir.Model,
        child: ir.Model,
        *,
        frontier: Sequence[tuple[str, str]] | None = None,
        faults: bool = True,
    ) -> Certificate:
        """The comparison; ``frontier`` and ``faults`` as of :func:`onnxmorph.verify.verify`."""
        from onnxmorph import verify  # not needed, and not cheap to import, where nothing is verified

        return verify.verify(
            parent,
            child,
            provider=self.provider,
            inputs=self.inputs,
            shapes=self.shapes or None,
            seed=self.seed,
            frontier=frontier,
            faults=faults,
        )


@dataclass(frozen=True)
class Delivery:
    """What became of a child.

    Attributes:
        path: The child's file, as it was given; ``None`` when it was not written because it failed.
        data_path: Its data file, where it has one of its own.
        certificate: What the comparison gave; ``None`` when none was asked for.
        kept: Where a failed child was kept, when that was asked for.
    """

    path: Path | None
    data_path: Path | None = None
    certificate: Certificate | None = None
    kept: Path | None = None


def deliver(
    parent: ir.Model,
    child: Child,
    path: Path,
    *,
    check: Check | None,
    overwrite: bool = False,
    share_weights: bool = False,
    keep_failed: Path | None = None,
    ahead: CopyAhead | None = None,
) -> Delivery:
    """Write a child and show that what was written computes what its parent computes.

    Args:
        parent: As loaded; left as it is.
        child: Of ``parent``. Its metadata lose the certificate that its parent may have had, and its first new record
            gets the mark of ``parent``, by which a replay knows it again: its content hash or, without a check, a hash
            over a sample of its large weights.
        path: Of the child's ``.onnx`` file; external data goes beside it.
        check: How to compare; ``None`` writes without, and the child's metadata say so.
        overwrite: Replace files of these names.
        share_weights: Refer to the parent's data file for what did not change.
        keep_failed: Where to keep a child that is not equivalent; ``None``: nowhere.
        ahead: What :func:`onnxmorph.ahead.copy_ahead` began for this ``path``; used up.

    Raises:
        ModelError: It cannot be written there; nothing was changed.
        Refusal: Weights cannot be shared.
        RuntimeFailure: It cannot be verified here; nothing was written.
        SelectionError: ``check`` names inputs that the model does not have.
    """
    files.drop_certificate(child.model)
    mark_parent(child.model, parent, sampled=check is None)
    with files.staged(child.model, path, overwrite=overwrite, share_weights=share_weights, ahead=ahead) as written:
        if check is None:
            written.attach_certificate({"schema": 1, "equivalent": None, "verified": False})
            written.commit()
            return Delivery(path, _data_path(path, written))
        certificate = _compared(parent, child, written, check)
        if certificate.equivalent or not child.is_morph:
            measured = {} if child.is_morph else {"morphism": False}
            written.attach_certificate({**travelling(certificate), **measured})
            written.commit()
            return Delivery(path, _data_path(path, written), certificate)
    if keep_failed is None:
        return Delivery(None, None, certificate)
    with files.staged(child.model, keep_failed, overwrite=overwrite, share_weights=share_weights) as written:
        written.attach_certificate(travelling(certificate))
        written.commit()
    return Delivery(None, None, certificate, keep_failed)


def _compared(parent: ir.Model, child: Child, written: files.Staged, check: Check) -> Certificate:
    """The comparison with what was written; of outputs that were to become longer, by what the parent has of them."""
    loaded = written.load()
    if not child.longer:
        return check.verify(parent, loaded, frontier=_frontier(parent, child))
    from onnxmorph.projection import at_the_parents_size

    written_hash = files.content_hash(loaded)
    at_the_parents_size(parent, loaded, child.longer)
    certificate = check.verify(parent, loaded, frontier=_frontier(parent, child))
    certificate.child_hash = written_hash
    for output in child.longer:
        certificate.warnings.append(
            f"output {output.name!r} is longer than the parent's, as was asked for: compared are the first "
            f"{output.parent_size} on axis {output.axis}"
        )
    return certificate


def broken_by(parent: ir.Model, plans: Sequence[Plan], check: Check) -> Plan | None:
    """The plan after which a child that failed verification differs from its parent, by bisection.

    ``None`` where it cannot be told: the child of all plans is right when it is made again, or cannot be made again.
    """
    from onnxmorph.recipe import first_wrong

    if len(plans) < 2:
        return next(iter(plans), None)

    def equivalent(child: ir.Model) -> bool:
        # Faults say how much a verdict of "equivalent" is worth; here only the verdict is asked for.
        return check.verify(parent, child, faults=False).equivalent

    try:
        place = first_wrong(parent, plans, equivalent)
    except OnnxMorphError:
        return None
    return None if place is None else plans[place]


def _data_path(path: Path, written: files.Staged) -> Path | None:
    return None if written.data_path is None else path.with_name(written.data_path.name)


def travelling(certificate: Certificate) -> dict[str, Any]:
    """The certificate as it goes into the child's metadata.

    Without how long it took, so that one parent, plan and seed give one file; and of the inner values only those that
    moved most, so that a small model is not outweighed by its certificate.
    """
    document = certificate.to_json()
    del document["seconds"]
    inner = sorted(certificate.inner, key=lambda value: max(value.ratio, value.channel_ratio), reverse=True)
    document["inner"] = [value.to_json() for value in inner[:_TRAVELLING_INNER]]
    document["inner_compared"] = len(inner)
    return document


def _frontier(parent: ir.Model, child: Child) -> list[tuple[str, str]]:
    """The borders of what changed, as far as ONNX Runtime can be asked for them: values of both main graphs."""
    both = _computed(parent) & _computed(child.model)
    return [(name, name) for name in child.frontier if name in both]


def _computed(model: ir.Model) -> set[str | None]:
    return {output.name for node in model.graph for output in node.outputs if output.name}
