"""Certificates on disk, and whether one still speaks of the models it is found beside.

A certificate names its parent and its child by content hash. It is found in the child's metadata, in a *sidecar*
``CHILD.onnx.certificate.json``, or in a file of any name; checking it runs nothing and reads every weight once.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxmorph._ir import ir
from onnxmorph.errors import ModelError

__all__ = ["Binding", "check_binding", "read_certificate", "sidecar_path", "write_certificate"]

_SUFFIX = ".certificate.json"
_MOST_BYTES = 64 << 20
_SCHEMA = 1


def sidecar_path(child: str | os.PathLike[str]) -> Path:
    """Where the sidecar of a child lies: ``CHILD.onnx.certificate.json`` beside it."""
    path = Path(child)
    return path.with_name(path.name + _SUFFIX)


def read_certificate(path: Path) -> dict[str, Any]:
    """A certificate from a file.

    Raises:
        ModelError: The file cannot be read, or holds no certificate.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        if len(data) > _MOST_BYTES:
            raise ValueError
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: holds no certificate: it is not JSON") from error
    if not isinstance(document, dict) or "equivalent" not in document:
        raise ModelError(f"{path}: holds no certificate")
    return document


def write_certificate(path: Path, document: Mapping[str, Any]) -> None:
    """Writes a certificate whole or not at all; over another certificate, and over nothing else.

    Raises:
        ModelError: Something that is no certificate lies there, or it cannot be written.
    """
    if os.path.lexists(path):
        try:
            read_certificate(path)
        except ModelError as error:
            raise ModelError(f"{path}: is there already and holds no certificate; it is not overwritten") from error
    staged = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        staged.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        staged.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            staged.unlink()
        raise ModelError(f"{path}: cannot be written: {error.strerror}") from error


@dataclass(frozen=True)
class Binding:
    """What a certificate is worth for the files at hand.

    Attributes:
        bound: A certificate is there and names these very models.
        equivalent: Its verdict; ``None`` without one.
        reasons: Why it is not bound, or no certificate of equivalence; empty when all is well.
        source: Where the certificate was found: ``metadata``, ``sidecar``, or the path given.
        certificate: The certificate, where there is one.
        parent: Content hash of the parent, where it was given.
        child: Content hash of the child.
    """

    bound: bool
    equivalent: bool | None
    reasons: list[str] = field(default_factory=list)
    source: str | None = None
    certificate: dict[str, Any] | None = None
    parent: str | None = None
    child: str = ""

    @property
    def holds(self) -> bool:
        """Whether the child is certified to compute what the parent computes."""
        return self.bound and self.equivalent is True

    def to_json(self) -> dict[str, Any]:
        """The answer as JSON values, the certificate itself left out."""
        return {
            "bound": self.bound,
            "equivalent": self.equivalent,
            "reasons": self.reasons,
            "source": self.source,
            "parent": self.parent,
            "child": self.child,
            "inputs": None if self.certificate is None else self.certificate.get("inputs"),
            "provider": None if self.certificate is None else self.certificate.get("provider"),
            "detectable_fault": None if self.certificate is None else self.certificate.get("detectable_fault"),
        }


def check_binding(
    child: str | os.PathLike[str],
    parent: str | os.PathLike[str] | None = None,
    *,
    certificate: Path | None = None,
) -> Binding:
    """Whether the certificate of a child still binds it to its parent; runs neither.

    Args:
        child: The child's file.
        parent: The parent's file; without it only the child is held against the certificate.
        certificate: File of the certificate; default: the child's metadata and the sidecar, which must agree.

    Raises:
        ModelError: A file is no usable model, or a certificate is damaged.
    """
    from onnxmorph import model as files

    model = files.load(child)
    found = _found(model, Path(child), certificate)
    hashed = files.content_hash(model)
    parent_hash = files.content_hash(files.load(parent)) if parent is not None else None
    if not found:
        reason = "there is no certificate: neither in the child's metadata nor beside it"
        return Binding(False, None, [reason], parent=parent_hash, child=hashed)
    reasons: list[str] = []
    if len(found) > 1:
        (one, first), (_, second) = found.items()
        apart = [key for key in ("equivalent", "parent", "child") if first.get(key) != second.get(key)]
        if apart:
            reasons.append(f"{one} and sidecar disagree: {', '.join(apart)}")
    source, document = next(iter(found.items()))
    if document.get("schema") != _SCHEMA:
        reasons.append(f"the certificate is of schema {document.get('schema')!r}, not {_SCHEMA}")
    if document.get("verified") is False:
        reasons.append("the child was written without verification (--no-verify)")
        return Binding(False, None, reasons, source, document, parent_hash, hashed)
    if document.get("child") != hashed:
        reasons.append("the child was changed since: its content is not what the certificate is about")
    if parent_hash is not None and document.get("parent") != parent_hash:
        reasons.append("the parent is another: the certificate is about the child of a different model")
    bound = not reasons
    equivalent = document.get("equivalent")
    if equivalent is not True:
        first_failure = next(iter(document.get("failures") or document.get("unproven") or ()), "no reason given")
        reasons.append(f"the certificate says not equivalent: {first_failure}")
    return Binding(bound, equivalent is True, reasons, source, document, parent_hash, hashed)


def _found(model: ir.Model, child: Path, certificate: Path | None) -> dict[str, dict[str, Any]]:
    """The certificates there are, by where they were found."""
    from onnxmorph.model import certificate_of

    if certificate is not None:
        return {str(certificate): read_certificate(certificate)}
    found: dict[str, dict[str, Any]] = {}
    inside = certificate_of(model)
    if inside is not None:
        found["metadata"] = inside
    beside = sidecar_path(child)
    if beside.is_file():
        if inside is not None and inside.get("verified") is False:
            del found["metadata"]  # says that nothing was shown when the child was written; it was, later
        found["sidecar"] = read_certificate(beside)
    return found
