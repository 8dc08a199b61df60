"""One thing that was looked at, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Status"]

Status = Literal["ok", "note", "broken"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: What was looked at, such as ``"numpy"`` or ``"CUDA libraries"``.
        status: ``"ok"``; ``"note"``: works, but worth knowing; ``"broken"``: onnxmorph cannot work like this.
        text: What was found.
        advice: What to do about it, as a command where there is one.
    """

    topic: str
    status: Status
    text: str
    advice: str | None = None
