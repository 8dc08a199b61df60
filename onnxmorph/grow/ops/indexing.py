"""Operators that take or put numbers at places that other numbers name."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from onnxmorph.grow.call import Call
from onnxmorph.grow.ops.reading import axis_of, integer
from onnxmorph.grow.registry import operator

Tensor = torch.Tensor

_REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _counted(index: Tensor, size: int) -> Tensor:
    """Places counted from the front; negative ones count from the end."""
    index = index.to(torch.int64)
    return torch.where(index < 0, index + size, index)


@operator("Gather")
def gather(call: Call, x: Any, index: Tensor) -> Any:
    """Slices of ``x`` along an axis, by number; an embedding when ``x`` is a table."""
    if isinstance(x, list):
        return [x[int(place)] for place in index.reshape(-1)]
    axis = axis_of(call.integer("axis", 0), x.dim())
    if index.dim() == 0 and index.device.type == "cpu":
        place = int(index)
        return x.select(axis, place)
    if axis == 0 and x.dim() == 2 and x.requires_grad:
        return F.embedding(_counted(index, x.shape[0]), x)
    flat = _counted(index, x.shape[axis]).reshape(-1)
    return x.index_select(axis, flat).reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


@operator("GatherElements")
def gather_elements(call: Call, x: Tensor, index: Tensor) -> Tensor:
    """One number per place."""
    axis = axis_of(call.integer("axis", 0), x.dim())
    return torch.gather(x, axis, _counted(index, x.shape[axis]))


@operator("GatherND")
def gather_nd(call: Call, x: Tensor, index: Tensor) -> Tensor:
    """Slices by tuples of places, sample by sample over the first ``batch_dims`` axes."""
    batch = call.integer("batch_dims", 0)
    depth = index.shape[-1]
    flat_x = x.reshape(-1, *x.shape[batch:])
    flat_index = index.reshape(flat_x.shape[0], -1, depth)
    places = [_counted(flat_index[..., i], flat_x.shape[1 + i]) for i in range(depth)]
    samples = torch.arange(flat_x.shape[0], device=x.device).reshape(-1, 1).expand(flat_index.shape[:2])
    taken = flat_x[(samples, *places)]
    return taken.reshape(*index.shape[:-1], *x.shape[batch + depth :])


@operator("Scatter", "ScatterElements")
def scatter_elements(call: Call, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    """Numbers put, or combined, one per place."""
    axis = axis_of(call.integer("axis", 0), x.dim())
    places = _counted(index, x.shape[axis])
    reduction = call.text("reduction", "none")
    if reduction == "none":
        return x.scatter(axis, places, updates)
    if reduction not in _REDUCE:
        raise call.refuse(f"reduction {reduction!r}")
    return x.scatter_reduce(axis, places, updates, _REDUCE[reduction])


@operator("ScatterND")
def scatter_nd(call: Call, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    """Slices put, or combined, at tuples of places."""
    depth = index.shape[-1]
    lead, rest = x.shape[:depth], x.shape[depth:]
    flat = x.reshape(-1, *rest)
    place = torch.zeros(index.shape[:-1], dtype=torch.int64, device=x.device)
    for i in range(depth):
        place = place * lead[i] + _counted(index[..., i], lead[i])
    rows = place.reshape(-1)
    new = updates.reshape(rows.shape[0], *rest)
    reduction = call.text("reduction", "none")
    if reduction == "none":
        return flat.index_put((rows,), new).reshape(x.shape)
    if reduction not in _REDUCE:
        raise call.refuse(f"reduction {reduction!r}")
    index_all = rows.reshape(-1, *([1] * len(rest))).expand(new.shape)
    return flat.scatter_reduce(0, index_all, new, _REDUCE[reduction]).reshape(x.shape)


@operator("TensorScatter")
def tensor_scatter(call: Call, past: Tensor, update: Tensor, start: Tensor | None = None) -> Tensor:
    """Steps written into a cache from a place on, which may wrap around its end."""
    axis = axis_of(call.integer("axis", -2), past.dim())
    length, new = past.shape[axis], update.shape[axis]
    begin = torch.zeros(past.shape[0], dtype=torch.int64, device=past.device) if start is None else start
    steps = begin.reshape(-1, 1) + torch.arange(new, device=past.device)
    if call.text("mode", "linear") == "circular":
        steps = steps % length
    index = steps.reshape([past.shape[0], *([1] * (axis - 1)), new, *([1] * (past.dim() - axis - 1))])
    return past.scatter(axis, index.expand(update.shape), update)


@operator("OneHot", gradient=False, host=(1,))
def one_hot(call: Call, index: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """``values`` are off and on; places outside are all off."""
    many = integer(depth.reshape(-1)[:1])
    places = index.to(torch.int64)
    places = torch.where(places < 0, places + many, places)
    hit = places.unsqueeze(-1) == torch.arange(many, device=index.device)
    axis = call.integer("axis", -1)
    return torch.where(hit.movedim(-1, axis), values[1], values[0])


@operator("Compress", gradient=False)
def compress(call: Call, x: Tensor, condition: Tensor) -> Tensor:
    """The slices for which the condition holds."""
    axis = call.attributes.get("axis")
    x, over = (x.reshape(-1), 0) if axis is None else (x, axis_of(axis, x.dim()))
    return x.index_select(over, condition.reshape(-1)[: x.shape[over]].nonzero().reshape(-1))


@operator("NonZero", gradient=False)
def non_zero(_call: Call, x: Tensor) -> Tensor:
    """Places of numbers that are not zero, one row per axis."""
    return x.nonzero().t() if x.dim() else x.reshape(1).nonzero().reshape(0, int(x != 0))


@operator("TopK", host=(1,))
def top_k(call: Call, x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The largest or smallest along an axis; of equals, the one that comes first."""
    many = call.integer("k") if k is None else integer(k)
    axis = axis_of(call.integer("axis", -1), x.dim())
    largest = call.flag("largest", True)
    wide = x.to(torch.int64) if x.dtype in (torch.uint16, torch.uint32, torch.uint64) else x
    values, places = torch.sort(wide, dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, many).to(x.dtype), places.narrow(axis, 0, many)


@operator("Unique", gradient=False)
def unique(call: Call, x: Tensor) -> tuple[Tensor, ...]:
    """Distinct numbers or slices, with where each was first, the way back, and counts."""
    axis = call.attributes.get("axis")
    table = x.reshape(-1, 1) if axis is None else x.movedim(axis, 0).reshape(x.shape[axis], -1)
    distinct, inverse, counts = torch.unique(table, dim=0, return_inverse=True, return_counts=True)
    first = torch.full((distinct.shape[0],), table.shape[0], dtype=torch.int64, device=x.device)
    first = first.scatter_reduce(0, inverse, torch.arange(table.shape[0], device=x.device), "amin")
    if not call.flag("sorted", True):
        order = torch.argsort(first)
        back = torch.empty_like(order)
        back[order] = torch.arange(order.shape[0], device=x.device)
        first, counts, inverse = first[order], counts[order], back[inverse]
    y = x.reshape(-1).index_select(0, first) if axis is None else x.index_select(axis, first)
    return y, first, inverse, counts


@operator("NonMaxSuppression", gradient=False, host=(2, 3, 4))
def non_max_suppression(
    call: Call,
    boxes: Tensor,
    scores: Tensor,
    most: Tensor | None = None,
    overlap: Tensor | None = None,
    least: Tensor | None = None,
) -> Tensor:
    """Boxes by score, without those that overlap a better one; rows of sample, class, box."""
    limit = 0 if most is None or not most.numel() else integer(most)
    iou_limit = 0.0 if overlap is None or not overlap.numel() else float(overlap.reshape(-1)[0])
    if limit == 0:
        return torch.zeros((0, 3), dtype=torch.int64, device=boxes.device)
    if call.integer("center_point_box", 0):
        centre, half = boxes[..., :2], boxes[..., 2:] / 2
        low, high = centre - half, centre + half
    else:
        low = torch.minimum(boxes[..., :2], boxes[..., 2:])
        high = torch.maximum(boxes[..., :2], boxes[..., 2:])
    area = (high - low).prod(-1)
    rows = []
    for sample in range(scores.shape[0]):
        for kind in range(scores.shape[1]):
            points = scores[sample, kind]
            order = torch.argsort(points, descending=True, stable=True)
            if least is not None and least.numel():
                order = order[points[order] > float(least.reshape(-1)[0])]
            kept: list[int] = []
            for box in order.tolist():
                if len(kept) == limit:
                    break
                if kept:
                    others = torch.tensor(kept, device=boxes.device)
                    size = (
                        torch.minimum(high[sample, box], high[sample, others])
                        - torch.maximum(low[sample, box], low[sample, others])
                    ).clamp(min=0)
                    shared = size.prod(-1)
                    union = area[sample, box] + area[sample, others] - shared
                    if bool((shared > iou_limit * union).any()):
                        continue
                kept.append(box)
            rows += [[sample, kind, box] for box in kept]
    return torch.tensor(rows, dtype=torch.int64, device=boxes.device).reshape(-1, 3)
