"""Tensors that steer an operator, read as Python numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["along", "axis_of", "broadcast_sizes", "chunks", "integer", "integers", "number"]

Tensor = torch.Tensor


def integers(x: Tensor) -> list[int]:
    """A tensor of whole numbers, such as a shape; a scalar counts as one."""
    found = x.tolist()
    return [int(value) for value in found] if isinstance(found, list) else [int(found)]


def integer(x: Tensor) -> int:
    """The one whole number of a tensor."""
    return int(x.item())


def number(x: Tensor) -> float | int:
    """The one number of a tensor."""
    return x.item()


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front.

    Raises:
        IndexError: There is no such axis.
    """
    if not -rank <= axis < max(rank, 1):
        raise IndexError(f"axis {axis} of a tensor of rank {rank}")
    return axis % rank if rank else 0


def along(vector: Tensor, axis: int, rank: int) -> Tensor:
    """A vector laid along one axis of something of this rank."""
    shape: Sequence[int] = [-1 if place == axis else 1 for place in range(rank)]
    return vector.reshape(shape)


def broadcast_sizes(a: Sequence[int], b: Sequence[int]) -> list[int]:
    """The sizes that two tensors have once they are broadcast against each other."""
    return list(torch.broadcast_shapes(tuple(a), tuple(b)))  # type: ignore[no-untyped-call]


def chunks(x: Tensor, size: int, axis: int) -> tuple[Tensor, ...]:
    """Parts of one size along an axis."""
    return torch.split(x, size, axis)
