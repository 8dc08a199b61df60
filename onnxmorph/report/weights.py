"""Histograms of what a child's new weights look like beside those they came from: the check of Wei et al. (2016).

Network morphism asks of new kernels that they be dense and of one scale ("non-zero occupancy"); zeros are counted and
left out of the histogram, where they would hide everything else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxmorph._ir import ir
from onnxmorph.diff import Diff, stored_tensors
from onnxmorph.report.page import Html, element, escaped, joined

__all__ = ["Growth", "Histogram", "growths", "histogram", "show"]

_BINS = 41
_MOST_SAMPLED = 1 << 20
_FEWEST = 8
_MOST_GROWTHS = 12
_MOST_NEW = 5


@dataclass(frozen=True)
class Histogram:
    """One tensor's entries.

    Attributes:
        name: Of the tensor.
        shape: Its dims.
        counts: Of the entries that are neither zero nor NaN nor infinite, in bins of equal width.
        low: Lower end of the first bin.
        high: Upper end of the last.
        zeros: Share of entries that are exactly zero.
        mean: Of all finite entries.
        deviation: Standard deviation of all finite entries.
        outside: Finite entries beyond the bins.
    """

    name: str
    shape: tuple[int, ...]
    counts: tuple[int, ...]
    low: float
    high: float
    zeros: float
    mean: float
    deviation: float
    outside: int = 0


@dataclass(frozen=True)
class Growth:
    """A tensor of the parent and those of the child that took its place; either may be empty."""

    before: Histogram | None
    after: tuple[Histogram, ...]
    more: int = 0


def histogram(name: str, array: NDArray[np.generic]) -> Histogram:
    """Of a tensor of any float type; of a very large one every n-th entry is looked at."""
    flat = array.reshape(-1)
    step = max(1, flat.size // _MOST_SAMPLED)
    numbers = flat[::step].astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    there = finite[finite != 0]
    zeros = float(np.mean(numbers == 0)) if numbers.size else 0.0
    if there.size == 0:
        return Histogram(name, tuple(array.shape), (0,) * _BINS, -1.0, 1.0, zeros, 0.0, 0.0)
    low, high = (float(edge) for edge in np.quantile(there, (0.001, 0.999)))
    if low <= 0 <= high:
        low, high = -max(-low, high), max(-low, high)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        widen = 0.5 * max(abs(low), 1e-30)
        low, high = low - widen, high + widen
    counts, _ = np.histogram(there, bins=_BINS, range=(low, high))
    with np.errstate(over="ignore"):
        mean, deviation = float(finite.mean()), float(finite.std())
    outside = int(there.size - counts.sum())
    return Histogram(name, tuple(array.shape), tuple(map(int, counts)), low, high, zeros, mean, deviation, outside)


def growths(parent: ir.Model, child: ir.Model, found: Diff) -> tuple[list[Growth], int]:
    """What became of each float tensor that changed, and how many more there are than are given.

    A tensor that kept its name is paired with itself. One that is gone is paired with the new ones whose names begin as
    its own does, and share the most with it: new names are made from old ones. New biases of zeros are left out.
    """
    before, after = stored_tensors(parent), stored_tensors(child)
    gone: dict[tuple[str, str], list[tuple[str, str]]] = {}
    new: list[tuple[str, str]] = []
    for change in found.tensors:
        key = (change.scope, change.name)
        if change.kind != "added" and _drawn(before[key]):
            gone[key] = [key] if change.kind == "changed" and _drawn(after[key]) else []
        elif change.kind == "added" and _drawn(after[key]):
            new.append(key)
    new = [key for key in new if len(after[key].shape) > 1 or np.any(np.asarray(after[key].numpy()))]
    stems = {old: _stems(parent, old) for old in gone}
    rest: list[tuple[str, str]] = []
    for key in new:
        likeness = {old: _alike(stems[old], key, old[0]) for old in gone}
        best = max(likeness, key=lambda old: likeness[old], default=None)
        if best is not None and likeness[best] > 0:
            gone[best].append(key)
        else:
            rest.append(key)
    listed: list[tuple[tuple[str, str] | None, Sequence[tuple[str, str]]]] = [*gone.items()]
    listed += [(None, [key]) for key in rest]
    listed.sort(key=lambda pair: -max([_size(after[key]) for key in pair[1]], default=0))
    out = [
        Growth(
            None if old is None else _histogram(old, before[old]),
            tuple(_histogram(key, after[key]) for key in keys[:_MOST_NEW]),
            max(0, len(keys) - _MOST_NEW),
        )
        for old, keys in listed[:_MOST_GROWTHS]
    ]
    return out, max(0, len(listed) - _MOST_GROWTHS)


def _histogram(key: tuple[str, str], tensor: ir.TensorProtocol) -> Histogram:
    scope, name = key
    return histogram(f"{name} (in {scope})" if scope else name, np.asarray(tensor.numpy()))


def _size(tensor: ir.TensorProtocol) -> int:
    return math.prod(tensor.shape.numpy())


def _drawn(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype.is_floating_point() and _size(tensor) >= _FEWEST and len(tensor.shape) > 0


def _stems(parent: ir.Model, key: tuple[str, str]) -> tuple[str, ...]:
    """How the names of what grows out of a tensor may begin: as its own, or as those of the nodes that read it."""
    scope, name = key
    stems = [name.rsplit(".", 1)[0] if "." in name else name]
    value = parent.graph.initializers.get(name) if not scope else None
    for node in () if value is None else value.consumers():
        if node.name:
            path = node.name.rsplit("/", 1)[0]
            stems += [node.name, path, path.strip("/").replace("/", ".")]
    return tuple(stem for stem in stems if stem)


def _alike(stems: Sequence[str], new: tuple[str, str], scope: str) -> int:
    """How long the beginning is by which a new name is made from an old one; 0 where it is not."""
    made = [
        stem for stem in stems if new[1].startswith(stem) and new[1][len(stem) : len(stem) + 1] in ("", ".", "/", "_")
    ]
    return max(map(len, made), default=0) if new[0] == scope else 0


# -- drawing ----------------------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _BASE = 240.0, 104.0, 84.0


def show(found: Sequence[Growth], more: int) -> Html:
    """The histograms, each tensor of the parent beside those that took its place."""
    parts = []
    alone = [_figure(one, "new", "new") for growth in found if growth.before is None for one in growth.after]
    for growth in found:
        if growth.before is None:
            continue
        shown = [_figure(growth.before, "old", "before"), *(_figure(one, "new", "after") for one in growth.after)]
        if not growth.after:
            shown.append(element("p", "gone", class_="soft"))
        if growth.more:
            shown.append(element("p", f"and {growth.more} more", class_="soft"))
        parts.append(element("div", joined(shown), class_="weights"))
    if alone:
        parts.append(element("div", joined(alone), class_="weights"))
    if more:
        parts.append(element("p", f"{more} more tensors changed and are not shown.", class_="soft"))
    return joined(parts)


def _figure(one: Histogram, kind: str, when: str) -> Html:
    dims = "×".join(map(str, one.shape))
    told = f"{when} · {dims} · {1 - one.zeros:.1%} not zero · σ {one.deviation:.3g}"
    if one.outside:
        told += f" · {one.outside} beyond"
    return element("figure", _bars(one), element("figcaption", element("b", one.name), told), class_=kind)


def _bars(one: Histogram) -> Html:
    most = max(one.counts, default=0) or 1
    step = _WIDTH / len(one.counts)
    path = "".join(
        f"M{place * step:.2f} {_BASE:.1f}v{-(count / most) * (_BASE - 6):.2f}h{step - 0.6:.2f}V{_BASE:.1f}z"
        for place, count in enumerate(one.counts)
        if count
    )
    zero = -one.low / (one.high - one.low) * _WIDTH
    tick = f'<path class="axis" d="M{zero:.1f} {_BASE:.1f}v5"/>' if 0 <= zero <= _WIDTH else ""
    middle = (
        f'<text class="soft" x="{zero:.1f}" y="{_HEIGHT - 2:.0f}" text-anchor="middle" font-size="12">0</text>'
        if _WIDTH * 0.25 < zero < _WIDTH * 0.75
        else ""
    )
    centre = f'x="{_WIDTH / 2:.0f}" y="{_BASE / 2:.0f}" text-anchor="middle" font-size="13"'
    empty = "" if path else f'<text class="soft" {centre}>all zero</text>'
    return Html(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img">'
        f"<title>{escaped(f'Histogram of the non-zero entries of {one.name}')}</title>"
        f'<path class="bars" d="{path}"/><path class="axis" d="M0 {_BASE:.1f}h{_WIDTH:.0f}"/>{tick}{middle}{empty}'
        f'<text class="soft" x="0" y="{_HEIGHT - 2:.0f}" font-size="12">{one.low:.2g}</text>'
        f'<text class="soft" x="{_WIDTH:.0f}" y="{_HEIGHT - 2:.0f}" text-anchor="end" font-size="12">{one.high:.2g}'
        "</text></svg>"
    )
