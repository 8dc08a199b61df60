"""Checkpoints: everything that a training needs to go on as if it had never stopped.

Written aside and renamed, so that there is always a whole one; read without running anything that it may contain.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import torch

from onnxmorph.errors import ModelError, Refusal

__all__ = ["FORMAT", "random_state", "read_checkpoint", "restore_random_state", "write_checkpoint"]

FORMAT = 1


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint in the place of an earlier one, which stays until the new one is whole on the disk.

    Raises:
        ModelError: It cannot be written, such as to a full disk; the earlier one is as it was.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        reason = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())[:200]
        kept = "; the one before is kept" if path.exists() else ""
        raise ModelError(f"{path}: the checkpoint could not be written: {reason}{kept}") from error
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint that `write_checkpoint` wrote; tensors on the CPU.

    Raises:
        ModelError: It cannot be read, or is none.
        Refusal: It is of a newer format.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{path}: the checkpoint cannot be read: {error.strerror or error}") from error
    except Exception as error:  # whatever a damaged pickle raises
        raise ModelError(f"{path}: is no checkpoint, or a damaged one") from error
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise ModelError(f"{path}: is no checkpoint of onnxmorph")
    if content["format"] > FORMAT:
        raise Refusal(f"{path}: was written by a newer onnxmorph", way_out="update onnxmorph", code="newer-format")
    return content


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of torch's random numbers."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_state(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Go on where `random_state` was taken."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
