"""What a batch is told, and what of it bears on the children."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from onnxmorph.delivery import Check
from onnxmorph.errors import SelectionError
from onnxmorph.zoo.fingerprint import file_sha256

__all__ = ["DEFAULT_TIME_LIMIT", "Limits", "Settings"]

DEFAULT_TIME_LIMIT = 1800.0


@dataclass(frozen=True)
class Limits:
    """What one model may take before its worker is ended.

    Attributes:
        seconds: Of wall-clock time.
        bytes: Of memory of the worker's own; ``None``: what was free when the batch began.
    """

    seconds: float = DEFAULT_TIME_LIMIT
    bytes: int | None = None


@dataclass(frozen=True)
class Settings:
    """How a batch is carried out.

    Attributes:
        check: How each child is compared with its parent; ``None`` writes children without.
        jobs: Models at a time; ``None``: one a core, or fewer where memory asks for it. A cluster has its own number.
        limits: For each model.
        force: Files in the output folder that this batch did not write may be replaced.
        fresh: Nothing counts as up to date.
        allow_refused: Refusals alone do not make the exit code 3, as long as any model was done.
        engine: ``processes`` of this machine, or the workers of a ``dask`` cluster.
        scheduler: Address of the cluster's scheduler, such as ``tcp://host:8786``.
        state: Folder of the journal; ``None``: ``.onnxmorph-batch`` in a local output folder, a cache folder of the
            user's for a remote one.
    """

    check: Check | None = field(default_factory=Check)
    jobs: int | None = None
    limits: Limits = Limits()
    force: bool = False
    fresh: bool = False
    allow_refused: bool = False
    engine: Literal["processes", "dask"] = "processes"
    scheduler: str | None = None
    state: Path | None = None

    def bearing(self) -> dict[str, Any]:
        """The options that a child depends on, as JSON; real inputs by their contents.

        Raises:
            SelectionError: The real inputs are not there.
        """
        if self.check is None:
            return {"verify": False}
        return {
            "verify": True,
            "provider": self.check.provider,
            "shapes": {name: list(dims) for name, dims in self.check.shapes.items()},
            "seed": self.check.seed,
            "inputs": None if self.check.inputs is None else _contents(Path(self.check.inputs)),
        }


def _contents(path: Path) -> str:
    try:
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        lines = [f"{file.relative_to(path).as_posix()} {file_sha256(file)}" for file in files]
    except OSError as error:
        raise SelectionError(f"{path}: the inputs cannot be read: {error.strerror}") from error
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
