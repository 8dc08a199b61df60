"""What can go wrong, as values the command line turns into exit codes.

Every error carries one line a user can act on. ``exit_code`` is the contract of the command line: 1 not equivalent,
2 usage, 3 refused, 4 the model or the runtime failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxmorph.verify.certificate import Certificate

__all__ = ["ModelError", "NotEquivalent", "OnnxMorphError", "Refusal", "RuntimeFailure", "SelectionError"]


class OnnxMorphError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 4


class SelectionError(OnnxMorphError):
    """What was typed names no layer, or several; the message lists candidates and the nearest names."""

    exit_code = 2


class Refusal(OnnxMorphError):
    """The morph cannot be done exactly here.

    Args:
        reason: One sentence: what stands in the way, with the names in the user's model.
        way_out: What the user could do instead, or ``None`` when there is nothing to suggest.
        code: A short stable slug by which sweeps and batches count reasons, such as ``"weight-not-constant"``.
    """

    exit_code = 3

    def __init__(self, reason: str, *, way_out: str | None = None, code: str = "refused") -> None:
        super().__init__(f"{reason}; {way_out}" if way_out else reason)
        self.reason = reason
        self.way_out = way_out
        self.code = code


class ModelError(OnnxMorphError):
    """The file is not a usable ONNX model, or cannot be written."""


class RuntimeFailure(ModelError):
    """ONNX Runtime could not load or run the model, or the provider asked for does not work here."""


class NotEquivalent(OnnxMorphError):
    """Parent and child do not compute the same; carries the certificate that shows where."""

    exit_code = 1

    def __init__(self, message: str, certificate: Certificate) -> None:
        super().__init__(message)
        self.certificate = certificate
