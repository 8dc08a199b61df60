"""Kernels whose outermost taps are all zero are cut to what is left, and the padding shrinks with them.

The inverse of growing a kernel. Pads stay at least 0, so a layer that pads nothing keeps its zeros: its output would
otherwise get larger.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.graph.layers import LinearLayer
from onnxmorph.morphs.folds.finding import Array, Edited, Finding, Rule, View, attempt
from onnxmorph.morphs.folds.parameters import set_kernel

__all__ = ["KernelRule", "Rim", "cut", "zero_rim"]

Rim = tuple[tuple[int, int], ...]
"""Per kernel axis, how many taps at the beginning and at the end."""


class KernelRule(Rule):
    """Zero rims of kernels."""

    kind = "kernel"

    def find(self, view: View) -> Iterator[Finding]:
        """See :meth:`Rule.find`."""
        for layer in view.foldable:
            if any(size > 1 for size in layer.kernel):
                found = attempt(lambda layer=layer: _shrunk(view, layer))  # type: ignore[misc]
                if found is not None:
                    yield found


def zero_rim(zero: Array) -> Rim:
    """The rim of taps that are zero; at least one tap stays, of a kernel of zeros only the middle one.

    Args:
        zero: bool, ``(*taps)``: whether all entries at a tap are zero.
    """
    if bool(zero.all()):
        return tuple(((size - 1) // 2, size - 1 - (size - 1) // 2) for size in zero.shape)
    rim = []
    for axis in range(zero.ndim):
        line = zero.all(axis=tuple(other for other in range(zero.ndim) if other != axis))
        used = np.flatnonzero(~line)
        rim.append((int(used[0]), int(line.size - 1 - used[-1])))
    return tuple(rim)


def cut(rim: Rim, pads: tuple[Sequence[int], Sequence[int]], dilations: Sequence[int]) -> Rim:
    """As much of a rim as the padding allows: a tap less is ``dilation`` less padding, which stays at least 0."""
    return tuple(
        (min(before, pads[0][axis] // dilations[axis]), min(after, pads[1][axis] // dilations[axis]))
        for axis, (before, after) in enumerate(rim)
    )


def without(kernel: Array, rim: Rim) -> Array:
    """``kernel`` without a rim of taps."""
    sizes = kernel.shape[2:]
    index: Any = (..., *(slice(before, size - after) for (before, after), size in zip(rim, sizes, strict=True)))
    return np.asarray(kernel[index])


def _shrunk(view: View, layer: LinearLayer) -> Finding | None:
    assert layer.pads is not None
    kernel = layer.kernel_array()
    transposed = layer.op == "ConvTranspose"
    axes = tuple(range(2, kernel.ndim))
    first: Any = (slice(None), slice(None), *(0,) * len(axes))
    last: Any = (slice(None), slice(None), *(-1,) * len(axes))
    if np.any(kernel[first]) and np.any(kernel[last]):
        return None  # told without looking at the rest
    rim = zero_rim(~np.any(kernel, axis=(0, 1)))
    pads: list[int] | None = None
    if layer.pads.explicit is not None and not layer.pads.sized:
        stored = _turned(rim) if transposed else rim
        stored = cut(stored, layer.pads.explicit, layer.dilations)
        rim = _turned(stored) if transposed else stored
        begin, end = layer.pads.explicit
        pads = [pad - d * before for pad, d, (before, _) in zip(begin, layer.dilations, stored, strict=True)]
        pads += [pad - d * after for pad, d, (_, after) in zip(end, layer.dilations, stored, strict=True)]
    else:
        rim = _kept_by_itself(layer, rim)
    if not any(before or after for before, after in rim):
        return None
    small = without(kernel, rim)
    sizes = list(small.shape[2:])

    def edit() -> Edited:
        node = layer.node
        set_kernel(view.model, layer, small)
        node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", sizes)
        if pads is not None:
            node.attributes.pop("auto_pad", None)
            node.attributes["pads"] = ir.AttrInt64s("pads", pads)
        return Edited((layer.output.name or "",))

    text = f"{layer.name}: its kernel {_size(layer.kernel)} is zero around {_size(sizes)}"
    return Finding(view.place(layer.output), text, frozenset(layer.nodes), edit)


def _turned(rim: Rim) -> Rim:
    """A ConvTranspose's kernel form is its weight back to front."""
    return tuple((after, before) for before, after in rim)


def _kept_by_itself(layer: LinearLayer, rim: Rim) -> Rim:
    """What may go where SAME pads by input size: evenly from both ends, while what stays still spans the stride."""
    assert layer.pads is not None
    explicit = layer.pads.explicit
    if layer.pads.output_shape is not None and explicit is None:
        return ((0, 0),) * len(rim)  # how much is cropped follows from an input size that is not known
    even = []
    for axis, (before, after) in enumerate(rim):
        less = min(before, after)
        if layer.pads.output_shape is not None and explicit is not None:
            less = min(less, *(pads[axis] // layer.dilations[axis] for pads in explicit))
        while less and layer.dilations[axis] * (layer.kernel[axis] - 2 * less - 1) + 1 < layer.strides[axis]:
            less -= 1
        even.append((less, less))
    return tuple(even)


def _size(kernel: Sequence[int]) -> str:
    return "x".join(map(str, kernel))
