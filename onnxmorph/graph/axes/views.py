"""A Gather that reads a whole tensor in its own order: torch's ``as_strided``, exported from a contiguous tensor.

The exporter flattens a tensor and gathers with ``sum_i arange(size_i) * stride_i``. Where that counts 0, 1, 2 ... over
the shape of the tensor that was flattened, the result is that tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxmorph._ir import ir
from onnxmorph.graph.axes.factors import Expr
from onnxmorph.graph.evaluate import evaluate, supported

if TYPE_CHECKING:
    from onnxmorph.graph.axes.site import Site

__all__ = ["viewed"]

Array = NDArray[Any]

_TRIALS = (2, 3)
"""Sizes tried in place of those that are not known."""

_MOST_NODES = 64
_MOST_ENTRIES = 1 << 22


def viewed(site: Site) -> ir.Value | None:
    """What a Gather with computed indices gives back as it is, ``None`` where that is not so."""
    flat = site.value(0).producer()
    if flat is None or flat.op_type != "Reshape" or flat.domain != "" or flat.inputs[0] is None:
        return None
    source = flat.inputs[0]
    axes = site.coupled.axes(source)
    if axes is None or len(site.axes(0)) != 1:
        return None
    for trial in _TRIALS:
        size = _size(site, trial)
        shape = [size(expr) for expr in axes]
        if math.prod(shape) > _MOST_ENTRIES:
            return None
        indices = _evaluated(site, site.value(1), size)
        if indices is None or indices.shape != tuple(shape):
            return None
        if not np.array_equal(indices.reshape(-1), np.arange(math.prod(shape))):
            return None
    return source


def _size(site: Site, trial: int) -> Callable[[Expr], int]:
    factors = site.coupled.factors

    def size(expr: Expr) -> int:
        known = factors.size(expr)
        if known is not None:
            return known
        parts = [factors.size((leaf,)) for leaf in factors.factors(expr)]
        return math.prod(trial if part is None else part for part in parts)

    return size


def _evaluated(site: Site, value: ir.Value, size: Callable[[Expr], int]) -> Array | None:
    """A value computed from sizes alone, under given sizes."""
    order: list[ir.Node] = []
    known: dict[ir.Value, Array] = {}
    waiting, seen = [value], {value}
    while waiting:
        here = waiting.pop()
        content = site.coupled.content(here)
        if content is not None:
            numbers = [number.value(size) for number in content.reshape(-1)]
            if any(number is None for number in numbers):
                return None
            known[here] = np.array(numbers, dtype=np.int64).reshape(content.shape)
            continue
        array = site.coupled.small_array(here)
        if array is None and here.const_value is not None and here.const_value.size <= _MOST_ENTRIES:
            array = np.asarray(here.const_value.numpy())
        if array is not None:
            known[here] = array
            continue
        node = here.producer()
        if node is None or not supported(node) or len(order) >= _MOST_NODES:
            return None
        if node not in order:
            order.append(node)
        for given in node.inputs:
            if given is not None and given not in seen:
                seen.add(given)
                waiting.append(given)
    return _run(order, known, value)


def _run(order: list[ir.Node], known: dict[ir.Value, Array], value: ir.Value) -> Array | None:
    left = list(order)
    while left and value not in known:
        ready = next((node for node in left if _is_ready(node, known)), None)
        if ready is None:
            return None
        left.remove(ready)
        try:
            results = evaluate(ready, [None if given is None else known[given] for given in ready.inputs])
        except (ArithmeticError, ValueError, TypeError, IndexError, MemoryError):
            return None
        known.update(zip(ready.outputs, results, strict=False))
    return known.get(value)


def _is_ready(node: ir.Node, known: Mapping[ir.Value, Array]) -> bool:
    return all(given is None or given in known for given in node.inputs)
