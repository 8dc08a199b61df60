"""The state of an optimizer follows a morph: moments go where the index maps say that the entries of weights went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from onnxmorph._ir import ir
from onnxmorph.grow.sites import sites
from onnxmorph.grow.types import torch_type
from onnxmorph.records import index_maps, records

__all__ = ["transfer_optimizer"]

State = dict[str, dict[str, Any]]

_SECOND = "exp_avg_sq"


def transfer_optimizer(
    state: Mapping[str, Mapping[str, Any]],
    child: ir.Model,
    *,
    parent: ir.Model | None = None,
    fill: Literal["zero", "mean"] = "zero",
) -> State:
    """The state of a parent's optimizer, for its child.

    Entries of a moment go where the child's index maps say that the entries of its weight went; copies get the moments
    of what they are copies of. New entries start from zero.

    Args:
        state: By name of parameter, as `Fitted.optimizer` has it: ``exp_avg``, ``exp_avg_sq`` and ``step`` of Adam,
            ``momentum_buffer`` of SGD.
        child: With the index maps of its morphs in its metadata.
        parent: Where given, only morphs beyond its records count; otherwise those whose sizes fit.
        fill: ``"mean"`` gives new entries the mean second moment of the tensor, or of all tensors for a new one, with
            its count of steps: the first steps of new parameters are then as large as those of old ones.

    Returns:
        State by name, for parameters of the child. What is missing starts anew.
    """
    moved: State = {name: dict(entry) for name, entry in state.items()}
    first = 0 if parent is None else len(records(parent))
    for entry in index_maps(child):
        if entry["record"] < first:
            continue
        moved = _through(moved, entry["tensors"], fill)
    shapes = {
        site.key: (tuple(int(size) for size in site.tensor.shape.numpy()), torch_type(site.tensor.dtype))
        for site in sites(child).values()
    }
    kept = {
        name: entry
        for name, entry in moved.items()
        if name in shapes and all(shapes[name][0] == tuple(moment.shape) for moment in _moments(entry).values())
    }
    if fill == "mean":
        _fill_new(kept, shapes, moved)
    return kept


def _moments(entry: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in entry.items() if isinstance(value, torch.Tensor) and key != "step"}


def _through(state: State, tensors: Mapping[str, Any], fill: str) -> State:
    """The state after one morph."""
    out = dict(state)
    for name, maps in tensors.items():
        before = state.get(maps["parent"])
        if before is None:
            continue
        axes = {int(axis): one for axis, one in maps["axes"].items()}
        moments = _moments(before)
        fits = all(
            axis < moment.dim() and moment.shape[axis] == one["parent_size"]
            for moment in moments.values()
            for axis, one in axes.items()
        )
        if not fits:
            continue  # of a morph that the state has been through already
        entry = dict(before)
        for key, moment in moments.items():
            value = float(moment.mean()) if fill == "mean" and key == _SECOND else 0.0
            gathered = moment
            for axis, one in axes.items():
                gathered = _gathered(gathered, axis, one["sources"], value)
            entry[key] = gathered
        out[name] = entry
    return out


def _gathered(moment: torch.Tensor, axis: int, sources: list[int], value: float) -> torch.Tensor:
    index = torch.tensor(sources, dtype=torch.int64)
    taken = moment.index_select(axis, index.clamp(min=0))
    new = (index < 0).reshape([-1 if place == axis else 1 for place in range(moment.dim())])
    return torch.where(new, torch.full_like(taken, value), taken)


def _fill_new(kept: State, shapes: Mapping[str, tuple[tuple[int, ...], torch.dtype]], moved: State) -> None:
    seconds = [entry[_SECOND] for entry in moved.values() if _SECOND in entry]
    if not seconds:
        return
    mean = sum(float(moment.sum()) for moment in seconds) / sum(moment.numel() for moment in seconds)
    step = next(entry["step"] for entry in moved.values() if _SECOND in entry)
    for name, (shape, dtype) in shapes.items():
        if name not in kept:
            kept[name] = {
                "step": step.clone() if isinstance(step, torch.Tensor) else step,
                "exp_avg": torch.zeros(shape, dtype=dtype),
                _SECOND: torch.full(shape, mean, dtype=dtype),
            }
