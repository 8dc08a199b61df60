"""Reductions over axes, which are an attribute in old opsets and an input in new ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from onnxmorph.grow.call import Call
from onnxmorph.grow.ops.reading import axis_of, integer, integers
from onnxmorph.grow.registry import operator

Tensor = torch.Tensor
Axes = tuple[int, ...]


def _reduction(name: str, run: Callable[[Tensor, Axes, bool], Tensor], *, last: bool = True) -> None:
    """``last``: with no axes ``noop_with_empty_axes`` leaves the input as it is; otherwise ``run`` is done still."""

    @operator(name, host=(1,))
    def reduce(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
        keep = call.flag("keepdims", True)
        given = call.attributes.get("axes") if axes is None else integers(axes) if axes.numel() else None
        if not given:
            if call.flag("noop_with_empty_axes"):
                return x if last else run(x.unsqueeze(0), (0,), False)
            given = range(x.dim())
        over = tuple(axis_of(int(axis), x.dim()) for axis in given)
        if not over:  # a scalar: reduced over one axis that it does not have
            return run(x.unsqueeze(0), (0,), False)
        return run(x, over, keep)


def _sum(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype)


def _mean(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=keep)
    count = math.prod(x.shape[axis] for axis in axes)
    return torch.div(x.sum(axes, keepdim=keep), count, rounding_mode="trunc").to(x.dtype)


def _extreme(x: Tensor, axes: Axes, keep: bool, *, largest: bool) -> Tensor:
    if any(x.shape[axis] == 0 for axis in axes):
        if x.is_floating_point():
            empty: float | int | bool = -math.inf if largest else math.inf
        elif x.dtype == torch.bool:
            empty = not largest
        else:
            limits = torch.iinfo(x.dtype)
            empty = limits.min if largest else limits.max
        shape = [1 if i in axes else size for i, size in enumerate(x.shape) if keep or i not in axes]
        return torch.full(shape, empty, dtype=x.dtype, device=x.device)
    if x.dtype in (torch.uint32, torch.uint64):
        wide = x.to(torch.int64)
        return (wide.amax(axes, keepdim=keep) if largest else wide.amin(axes, keepdim=keep)).to(x.dtype)
    return x.amax(axes, keepdim=keep) if largest else x.amin(axes, keepdim=keep)


def _product(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _log_sum_exp(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    if not x.is_floating_point():
        return torch.logsumexp(x.double(), axes, keepdim=keep).to(x.dtype)
    return torch.logsumexp(x, axes, keepdim=keep)


def _root(x: Tensor) -> Tensor:
    return x.sqrt() if x.is_floating_point() else x.double().sqrt().to(x.dtype)


def _logarithm(x: Tensor) -> Tensor:
    return x.log() if x.is_floating_point() else x.double().log().to(x.dtype)


_reduction("ReduceSum", _sum)
_reduction("ReduceMean", _mean)
_reduction("ReduceMax", lambda x, axes, keep: _extreme(x, axes, keep, largest=True))
_reduction("ReduceMin", lambda x, axes, keep: _extreme(x, axes, keep, largest=False))
_reduction("ReduceProd", _product)
_reduction("ReduceL1", lambda x, axes, keep: _sum(x.abs(), axes, keep), last=False)
_reduction("ReduceL2", lambda x, axes, keep: _root(_sum(x * x, axes, keep)), last=False)
_reduction("ReduceSumSquare", lambda x, axes, keep: _sum(x * x, axes, keep), last=False)
_reduction("ReduceLogSum", lambda x, axes, keep: _logarithm(_sum(x, axes, keep)), last=False)
_reduction("ReduceLogSumExp", _log_sum_exp, last=False)


def _argument(name: str, *, largest: bool) -> None:
    @operator(name, gradient=False)
    def argument(call: Call, x: Tensor) -> Tensor:
        axis, keep = axis_of(call.integer("axis", 0), x.dim()), call.flag("keepdims", True)
        if x.dtype == torch.bool or not (x.is_floating_point() or x.dtype == torch.int64):
            x = x.to(torch.int64)
        # The first of equals, or the last; torch promises neither.
        extreme = x.amax(axis, keepdim=True) if largest else x.amin(axis, keepdim=True)
        hit = (x == extreme) | x.isnan() if x.is_floating_point() else x == extreme
        size = x.shape[axis]
        order = torch.arange(size, device=x.device).reshape([-1 if i == axis else 1 for i in range(x.dim())])
        if call.flag("select_last_index"):
            found = torch.where(hit, order, torch.full_like(order, -1)).amax(axis, keepdim=True)
        else:
            found = torch.where(hit, order, torch.full_like(order, size)).amin(axis, keepdim=True)
        return found if keep else found.squeeze(axis)


_argument("ArgMax", largest=True)
_argument("ArgMin", largest=False)


def _cumulative(name: str, run: Callable[[Tensor, int], Tensor], start: int) -> None:
    @operator(name, host=(1,))
    def cumulative(call: Call, x: Tensor, axis: Tensor) -> Tensor:
        over = axis_of(integer(axis), x.dim())
        reverse = call.flag("reverse")
        x = x.flip(over) if reverse else x
        y = run(x, over).to(x.dtype)
        if call.flag("exclusive"):
            first = torch.full_like(x.narrow(over, 0, min(1, x.shape[over])), start)
            y = torch.cat([first, y.narrow(over, 0, max(0, x.shape[over] - 1))], over)
        return y.flip(over) if reverse else y


_cumulative("CumSum", torch.cumsum, 0)
_cumulative("CumProd", torch.cumprod, 1)
