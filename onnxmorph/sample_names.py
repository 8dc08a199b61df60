"""The names that arrays of samples go by in people's files: one ``.npz`` serves training and verification alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["SINGLE", "TARGETS", "inputs_of", "parted"]

TARGETS = ("target", "targets", "label", "labels", "y", "y_train")
"""What targets are called."""
SINGLE = ("x", "x_train", "input", "inputs", "data", "images")
"""What the array of an only input is called."""


def inputs_of(arrays: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Arrays by the names of inputs; the one of a single input may be called ``x``.

    Args:
        arrays: Arrays by the names that the file or the caller gives them.
        names: Names of the model's inputs.

    Returns:
        The arrays of inputs, by input; everything as it came where none of them is one.
    """
    if len(names) == 1 and names[0] not in arrays:
        for usual in SINGLE:
            if usual in arrays:
                return {names[0]: arrays[usual]}
    return {name: arrays[name] for name in arrays if name in names} or dict(arrays)


def parted(arrays: Mapping[str, Any], names: Sequence[str]) -> tuple[dict[str, Any], Any]:
    """Inputs and target of one mapping.

    Args:
        arrays: Arrays by name; the target is called ``target``, ``label`` or ``y``, if it is there.
        names: Names of the model's inputs, which come first: an input that is called ``y`` is an input.

    Returns:
        Arrays by input, with those whose name says nothing where no input was found; and the target, or None.
    """
    rest = {name: values for name, values in arrays.items() if name not in names}
    target = next((rest.pop(usual) for usual in TARGETS if usual in rest), None)
    given = inputs_of({**{name: arrays[name] for name in names if name in arrays}, **rest}, names)
    return {name: values for name, values in given.items() if name in names or name not in TARGETS}, target
