"""What a caller wants of one verification, besides the two models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxmorph.verify.real_data import Source
from onnxmorph.verify.tolerance import Tolerances

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """The arguments of `onnxmorph.verify.verify`, and when its time is up by ``time.perf_counter``."""

    inputs: Source | None
    shapes: Mapping[str, Sequence[int]] | None
    seed: int
    frontier: Sequence[tuple[str, str]]
    inner: bool
    everywhere: bool
    faults: bool
    tolerances: Tolerances
    deadline: float
