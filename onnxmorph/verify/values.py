"""Numbers to feed: signed and at several scales, ids that walk their whole table, masks padded at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.verify.dimensions import size
from onnxmorph.verify.feeds import Assignment, Feeds
from onnxmorph.verify.specs import InputSpec

__all__ = ["ValueMaker"]

_PATCHES = 4
_BURST_SHARE = 0.02

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Request:
    """What is wanted of one input in one set."""

    shape: tuple[int, ...]
    sizes: Assignment
    distribution: str
    index: int
    keep_ids: bool


class ValueMaker:
    """Makes up values for inputs, and remembers which ids have been used.

    Args:
        specs: The inputs.
        seed: Seed of everything random.
        rows: Rows of tables that changed, by table name: ids that index those tables visit them first.

    Attributes:
        ids_seen: Ids fed so far, by input.
    """

    def __init__(self, specs: Sequence[InputSpec], seed: int, rows: Mapping[str, Array]) -> None:
        self._specs = specs
        self._seed = seed
        self._rows = rows
        self._next_id: dict[str, int] = {}
        self.ids_seen: dict[str, set[int]] = {}

    def make(self, sizes: Assignment, distribution: str, index: int, *, keep_ids: bool = True) -> Feeds:
        """One set of inputs: by name, arrays of the declared types at these sizes."""
        generator = np.random.default_rng([self._seed, index])
        feeds: Feeds = {}
        for spec in self._specs:
            request = _Request(spec.shape(sizes), sizes, distribution, index, keep_ids)
            # Arithmetic on an array without axes gives a scalar, which ONNX Runtime does not take.
            value = np.asarray(self._value(spec, request, generator))
            feeds[spec.name] = [value, value] if spec.container == "sequence" else value
        return feeds

    def note_ids(self, feeds: Feeds) -> None:
        """Counts the ids of data that was not made up here."""
        for spec in self._specs:
            if spec.kind() == "ids" and isinstance(feeds.get(spec.name), np.ndarray):
                self.ids_seen.setdefault(spec.name, set()).update(int(item) for item in np.unique(feeds[spec.name]))

    def _value(self, spec: InputSpec, request: _Request, generator: np.random.Generator) -> Any:
        kind, shape, index = spec.kind(), request.shape, request.index
        if kind == "text":
            words = [*spec.role.strings, "a", "morphism", "", "Zürich 8"]
            return np.asarray([words[i] for i in generator.integers(0, len(words), shape).reshape(-1)], object).reshape(
                shape
            )
        dtype = spec.dtype.numpy()
        if kind == "signal":
            return _signal(shape, request.distribution, generator).astype(dtype)
        if spec.chooses():
            choices = spec.choices()
            return np.full(shape, choices[index % len(choices)]).astype(dtype)
        if kind == "mask":
            return _mask(shape, index, generator).astype(dtype)
        if kind == "ids":
            return self._ids(spec, shape, generator, request.keep_ids).astype(dtype)
        if kind == "image":
            return generator.integers(0, 256, shape).astype(dtype)
        if kind == "length":
            longest = self._longest(spec, request.sizes)
            lengths = generator.integers(max(1, longest // 2), longest + 1, shape)
            if lengths.size:
                lengths.reshape(-1)[0] = longest
            return lengths.astype(dtype)
        if kind == "shape":
            return np.full(shape, (1, 2, 16, 32)[index % 4]).astype(dtype)
        if spec.dtype == ir.DataType.INT8:
            return generator.integers(-128, 128, shape).astype(dtype)
        return generator.integers(0, 10, shape).astype(dtype)

    def _longest(self, lengths: InputSpec, sizes: Assignment) -> int:
        """A length that no axis these lengths may belong to is shorter than."""
        axes = [
            size(dim, sizes)
            for spec in self._specs
            if spec is not lengths and len(spec.dims) >= 2
            for dim in spec.dims
            if isinstance(dim, str) and dim not in lengths.dims
        ]
        return max(min(axes, default=_longest_axis(self._specs)), 1)

    def _ids(self, spec: InputSpec, shape: tuple[int, ...], generator: np.random.Generator, keep: bool) -> Array:
        """Ids that walk through the whole table, changed rows and the two ends first, then at random once around."""
        bounds = spec.role.id_range()
        assert bounds is not None
        low, high = bounds
        count = int(np.prod(shape, dtype=np.int64))
        order = np.random.default_rng([self._seed, low, high]).permutation(high - low) + low
        first = [high - 1, low]
        for _, offset, table in spec.role.tables:
            first.extend(int(row) - offset for row in self._rows.get(table, ()) if low <= row - offset < high)
        order = np.concatenate([np.asarray(first, order.dtype), order])
        start = self._next_id.get(spec.name, 0) if keep else 0
        ids = order[(start + np.arange(count)) % len(order)]
        if keep:
            self._next_id[spec.name] = start + count
            self.ids_seen.setdefault(spec.name, set()).update(int(item) for item in np.unique(ids))
        return generator.permutation(ids).reshape(shape)


def _signal(shape: tuple[int, ...], distribution: str, generator: np.random.Generator) -> Array:
    if distribution == "positive":
        return generator.random(shape)
    if distribution == "image":
        return generator.random(shape) * 255
    if distribution == "smooth":
        return _smooth(shape, generator)
    if distribution == "constant":
        return _constant(shape, generator)
    if distribution == "burst":
        return generator.standard_normal(shape) * 30 * (generator.random(shape) < _BURST_SHARE)
    scale = {"x1000": 1000.0, "x100": 100.0, "x10": 10.0, "x0.1": 0.1, "x0.001": 0.001}.get(distribution, 1.0)
    return generator.standard_normal(shape) * scale


def _constant(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """One number for every sample and channel: what looks for edges sleeps, and what adds up is driven far."""
    coarse = [length if axis < 2 or axis == len(shape) - 1 == 2 else 1 for axis, length in enumerate(shape)]
    return np.broadcast_to(generator.standard_normal(coarse) * 10, shape)


def _smooth(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Numbers that stay much the same over a quarter of every long axis, with a little noise.

    Windows do not average them away, so that channels which white noise leaves on one side of zero come to the other.
    """
    coarse = [length if axis == 0 else min(length, _PATCHES) for axis, length in enumerate(shape)]
    field = generator.standard_normal(coarse) * 3
    for axis, (length, patches) in enumerate(zip(shape, coarse, strict=True)):
        if length != patches:
            field = np.take(field, np.arange(length) * patches // length, axis=axis)
    return field + generator.standard_normal(shape) * 0.3


def _mask(shape: tuple[int, ...], index: int, generator: np.random.Generator) -> Array:
    """Zeros and ones: all ones first, then rows padded at the end; no row is ever empty."""
    mask = np.ones(shape)
    length = shape[-1] if shape else 1
    if index % 3 == 0 or length < 2:
        return mask
    rows = mask.reshape(-1, length)
    for row, keep in zip(rows, generator.integers(1, length + 1, len(rows)), strict=True):
        row[keep:] = 0
    if len(rows) > 1:
        rows[0] = 1
    return mask


def _longest_axis(specs: Sequence[InputSpec]) -> int:
    fixed = [dim for spec in specs if spec.is_float() for dim in spec.dims[1:] if isinstance(dim, int)]
    return max(fixed, default=1)
