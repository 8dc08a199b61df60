"""How far two values are apart, measured in the parent's own noise.

For one run, with parent value ``p``, child value ``c`` and perturbed runs of the parent ``p_k``:

* ``ratio = max|c - p| / max(max_k max|p_k - p|, eps max|p|)`` over all elements,
* ``channel_ratio = max_j rms_j(c - p) / max(n_j, median_i n_i, rms_i n_i / 4, s_j median_i(n_i / s_i), eps s_j)`` over
  the channels ``j`` of axis 1 and of the last axis, with ``n_j = rms_j(p_k - p)`` and ``s_j = rms_j(p)``.

Where the child exceeds that, the child's own noise counts too, ``|c_moved - c|`` with the child's weights moved by one
rounding, up to twenty times the parent's: a factorized layer that is conditioned a little worse than the layer it
replaces is still the same function, to rounding. One that is conditioned far worse than that is not accepted.

The channels see one that is wrong under the noise of larger ones. The median and the overall term keep a channel that
happened not to move (few elements, weights that are exactly zero, or small beside its neighbours) from turning
rounding into an alarm, and so does the relative term behind a softmax, where each number moves by a share of its own.
``eps`` is half a unit in the last place of the value's type.

Integers, booleans and strings must be equal, except where the parent flips under its own noise: then the child may
differ in about as many places, and by no larger steps for quantized bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxmorph.verify.certificate import Comparison
from onnxmorph.verify.noise import is_floating

__all__ = ["LIMIT", "Measurement", "Yardstick", "flatten", "measure", "record", "unit_rounding"]

LIMIT = 16.0
"""Largest quotient of difference and noise that counts as rounding; what it rests on: docs/fault_detection.md.

A value beyond it is measured again, against more runs and the child's own noise, before it is called different."""

_NONDETERMINISTIC_SHARE = 1e-3
"""A parent that misses itself by this share of its spread, same inputs and session, does not repeat itself."""

_OVERALL_SHARE = 0.25
"""Share of the noise of the whole value that every channel is allowed: a dense factorization spreads its rounding."""

_SMALLEST_CHANNEL = 1e-3
"""Channels smaller than this share of the whole value (the far tail of a softmax) are measured as if they were not."""

MOST_CHILD_NOISE = 20.0
"""How far above the parent's noise the child's own noise may raise what is allowed."""

_FLIP_ALLOWANCE = (3, 4)
"""A discrete value may differ in ``3 n + 4`` places where the parent's own noise flips ``n > 0``."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Measurement:
    """Parent against child for one value in one run; the fields are those of `Comparison`."""

    max_abs: float
    scale: float
    noise_floor: float
    ratio: float
    channel_ratio: float
    channel: tuple[int, int] | None
    nondeterministic: bool
    reason: str | None = None
    informative: bool = True

    def worst(self) -> float:
        """The larger of the two ratios."""
        return max(self.ratio, self.channel_ratio)


def unit_rounding(dtype: np.dtype[Any]) -> float:
    """Half a unit in the last place of 1.0 in this type: the relative error of one rounding."""
    if dtype.kind in "fc":
        return float(np.finfo(dtype).eps) / 2
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype).eps) / 2  # type: ignore[no-untyped-call]


def flatten(value: Any, name: str) -> dict[str, Array | None]:
    """The arrays in what ONNX Runtime gave for one output, each under a name that says where it sits.

    Sequences of maps with the same keys (the ZipMap of tree and linear classifiers) become one array of rows.
    """
    if value is None:
        return {name: None}
    if isinstance(value, Mapping):
        return {name: _as_float([value[key] for key in sorted(value, key=str)])} if value else {name: np.empty(0)}
    if isinstance(value, list):
        if value and all(isinstance(item, Mapping) for item in value):
            keys = sorted({key for item in value for key in item}, key=str)
            if all(len(item) == len(keys) for item in value):
                return {name: _as_float([[item[key] for key in keys] for item in value])}
        leaves: dict[str, Array | None] = {f"{name}.length": np.asarray(len(value), np.int64)}
        for index, item in enumerate(value):
            leaves.update(flatten(item, f"{name}[{index}]"))
        return leaves
    return {name: np.asarray(value)}


def _as_float(numbers: list[Any]) -> Array:
    """The numbers of maps: ZipMap, which alone makes maps, gives float, and Python makes doubles of that, by whose
    rounding no child could be right."""
    array = np.asarray(numbers)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def measure(
    parent: Array | None,
    child: Array | None,
    noisy: Sequence[Array | None],
    repeats: Sequence[Array | None] = (),
    *,
    moved_child: Array | None = None,
    input_scale: float = 1.0,
    unit: float = 0.0,
    reach: float = 0.0,
) -> Measurement:
    """Distance of one child's value from the parent's; arguments of `Yardstick` and `Yardstick.measure`."""
    yardstick = Yardstick(parent, noisy, repeats, input_scale=input_scale, unit=unit, reach=reach)
    return yardstick.measure(child, moved_child)


class Yardstick:
    """What a value of the parent, in all its runs, allows a child to be off by.

    What it takes to know is worked out once, however many children are measured.

    Args:
        parent: Value of the parent.
        noisy: Values of the parent with inputs or weights moved by one rounding, or with optimisations on.
        repeats: Values of the parent run again, unchanged, in the same session.
        input_scale: Largest magnitude among the inputs; the scale of rounding where the parent is exactly zero.
        unit: Relative error of one rounding where it is more than that of the arrays' type (models run upcast).
        reach: Largest magnitude that the function behind the value has, where its rounding goes by that.
    """

    def __init__(
        self,
        parent: Array | None,
        noisy: Sequence[Array | None],
        repeats: Sequence[Array | None] = (),
        *,
        input_scale: float = 1.0,
        unit: float = 0.0,
        reach: float = 0.0,
    ) -> None:
        self._parent = parent
        self._noisy, self._again = (
            [array for array in arrays if array is not None and parent is not None and array.shape == parent.shape]
            for arrays in (noisy, repeats)
        )
        self._repeats = len(repeats)
        self._input_scale = input_scale
        self._unit = unit
        self._reach = reach
        self._noise: _Noise | None = None

    def measure(self, child: Array | None, moved_child: Array | None = None) -> Measurement:
        """Distance of the child's value from the parent's, in units of the parent's noise.

        Args:
            child: Value of the child on the same inputs.
            moved_child: Value of the child with its weights moved by one rounding.
        """
        parent = self._parent
        if parent is None or child is None:
            if parent is None and child is None:
                return _equal(informative=False)
            return _different("empty in one model and present in the other")
        if parent.dtype != child.dtype:
            return _different(f"element type {parent.dtype} became {child.dtype}")
        if parent.shape != child.shape:
            return _different(f"shape {list(parent.shape)} became {list(child.shape)}")
        if len(self._again) < self._repeats:
            return _nondeterministic()
        if parent.size == 0:
            return _equal(informative=False)
        if not is_floating(parent):
            return _measure_discrete(parent, child, self._noisy, self._again)
        if moved_child is not None and moved_child.shape != child.shape:
            moved_child = None
        if self._noise is None:
            unit = max(self._unit, unit_rounding(parent.dtype))
            self._noise = _Noise.of(parent, self._noisy, self._again, unit, self._input_scale, self._reach)
        return _measure_floating(parent, child, moved_child, self._noise)


def _equal(*, informative: bool = True, scale: float = 0.0, floor: float = 0.0) -> Measurement:
    return Measurement(0.0, scale, floor, 0.0, 0.0, None, nondeterministic=False, informative=informative)


def _different(reason: str) -> Measurement:
    infinite = float("inf")
    return Measurement(infinite, 0.0, 0.0, infinite, infinite, None, nondeterministic=False, reason=reason)


def _nondeterministic() -> Measurement:
    return Measurement(0.0, 0.0, 0.0, 0.0, 0.0, None, nondeterministic=True, informative=False)


def _measure_discrete(parent: Array, child: Array, noisy: list[Array], again: list[Array]) -> Measurement:
    if any(not np.array_equal(array, parent) for array in again):
        return _nondeterministic()
    wrong = parent != child
    mismatches = int(np.count_nonzero(wrong))
    if mismatches == 0:
        return _equal(scale=1.0)
    flips = max((int(np.count_nonzero(array != parent)) for array in noisy), default=0)
    slope, offset = _FLIP_ALLOWANCE
    step, largest_step = float("nan"), float("inf")
    if parent.dtype.kind in "iu":
        step = float(np.max(np.abs(child.astype(np.float64) - parent.astype(np.float64))))
        if parent.dtype.itemsize == 1:
            largest_step = max(
                (float(np.max(np.abs(array.astype(np.float64) - parent.astype(np.float64)))) for array in noisy),
                default=0.0,
            )
    share = mismatches / parent.size
    distance = step if parent.dtype.kind in "iu" else share
    explained = flips > 0 and mismatches <= slope * flips + offset and not step > 2 * largest_step
    if explained:
        return Measurement(distance, 1.0, flips / parent.size, mismatches / (slope * flips + offset), 0.0, None, False)
    reason = f"{mismatches} of {parent.size} {'strings' if parent.dtype.kind in 'OUS' else 'elements'} differ"
    return Measurement(distance, 1.0, flips / parent.size, float("inf"), 0.0, None, False, reason=reason)


@dataclass(frozen=True)
class _Channels:
    """What is known of the channels along one axis of a value: root mean squares over all other axes.

    Attributes:
        axis: Which axis.
        size: Of the parent's value.
        allowed: What rounding explains, before the child's own noise is known.
    """

    axis: int
    size: Array
    allowed: Array


@dataclass(frozen=True)
class _Noise:
    """How far rounding moves a floating-point value of the parent.

    Attributes:
        scale: Largest finite magnitude.
        floor: Largest movement, or what one rounding is where nothing moved.
        informative: Whether any number is finite.
        repeats: Whether the parent gives the same from run to run.
        unstable: Where the parent flips between finite and not; ``None`` where it does so nowhere.
        channels: By axis.
    """

    scale: float
    floor: float
    informative: bool
    repeats: bool = True
    unstable: Array | None = None
    channels: tuple[_Channels, ...] = ()

    @classmethod
    def of(
        cls,
        parent: Array,
        noisy: Sequence[Array],
        again: Sequence[Array],
        unit: float,
        input_scale: float,
        reach: float,
    ) -> _Noise:
        reference = _wide(parent)
        magnitude: Array = np.asarray(np.abs(reference))
        scale = float(magnitude.max())
        finite: Array | None = None
        if not math.isfinite(scale):
            finite = np.isfinite(reference)
            magnitude = np.where(finite, magnitude, 0.0)
            scale = float(magnitude.max())
        informative = finite is None or bool(finite.any())

        axes = _channel_axes(reference.shape)
        floor = unit * max(scale, reach)
        unstable: Array | None = None
        squares: list[list[Array]] = []
        for place, array in enumerate([*again, *noisy]):
            distance, largest = _distance(reference, _wide(array))
            if place < len(again) and _does_not_repeat(distance, reference, finite):
                return cls(scale, floor, informative, repeats=False)
            if not math.isfinite(largest):
                odd = ~np.isfinite(distance)
                unstable = odd if unstable is None else unstable | odd
                distance[odd] = 0.0
                largest = float(distance.max())
            floor = max(floor, largest)
            squares.append(_mean_squares(distance, axes))
        if floor == 0.0:
            floor = unit * input_scale
        channels: list[_Channels] = []
        means = _mean_squares(np.maximum(magnitude, reach) if reach else magnitude, axes)
        for index, (axis, mean) in enumerate(zip(axes, means, strict=True)):
            size = np.sqrt(mean)
            least = _SMALLEST_CHANNEL * float(np.sqrt(np.mean(mean)))
            moved = _channel_noise([square[index] for square in squares], size)
            channels.append(_Channels(axis, size, np.maximum(moved, unit * np.maximum(size, least))))
        return cls(scale, floor, informative, True, unstable, tuple(channels))


def _measure_floating(parent: Array, child: Array, moved_child: Array | None, noise: _Noise) -> Measurement:
    if not noise.repeats:
        return _nondeterministic()
    wide_child = _wide(child)
    difference, max_abs = _distance(_wide(parent), wide_child)
    child_noise: Array | None = None
    floor = noise.floor
    if moved_child is not None:
        child_noise, largest = _distance(wide_child, _wide(moved_child))
        if not math.isfinite(largest):
            child_noise[~np.isfinite(child_noise)] = 0.0
            largest = float(child_noise.max())
        floor = max(floor, min(largest, MOST_CHILD_NOISE * floor))
    # Where the parent itself flips between finite and not, nothing can be asked of the child.
    if noise.unstable is not None:
        difference[noise.unstable] = 0.0
        max_abs = float(difference.max())
    if max_abs == 0.0:
        return _equal(informative=noise.informative, scale=noise.scale, floor=floor)
    if not math.isfinite(max_abs):
        reason = "NaN or infinite in one model where the other is finite"
        infinite = float("inf")
        return Measurement(max_abs, noise.scale, floor, infinite, infinite, None, False, reason, noise.informative)
    channel_ratio, channel = _worst_channel(difference, child_noise, noise.channels, floor)
    return Measurement(
        max_abs, noise.scale, floor, max_abs / floor, channel_ratio, channel, False, None, noise.informative
    )


def _wide(array: Array) -> Array:
    if array.dtype.kind == "c":
        return array.astype(np.complex128)
    return array.astype(np.float64)


def _distance(one: Array, other: Array) -> tuple[Array, float]:
    """Element-wise ``|one - other|``, 0 where both are the same NaN or infinity, infinite where only one is; and the
    largest of these."""
    with np.errstate(invalid="ignore", over="ignore"):
        distance: Array = np.asarray(np.abs(one - other))  # of scalars, numpy makes a number that takes no values
        largest = float(distance.max())
        if not math.isfinite(largest):
            odd = ~np.isfinite(distance)
            same = (np.isnan(one) & np.isnan(other)) | (one == other)
            distance[odd] = np.where(same[odd], 0.0, np.inf)
            largest = float(distance.max())
    return distance, largest


def _does_not_repeat(distance: Array, reference: Array, finite: Array | None) -> bool:
    if not distance.any():
        return False
    if not np.isfinite(distance).all():
        return True
    values = reference.reshape(-1) if finite is None else reference[finite]
    spread = float(np.sqrt(np.mean(np.abs(values - values.mean()) ** 2))) if values.size > 1 else 0.0
    if spread == 0.0:
        spread = float(np.abs(values).max(initial=0.0))
    return float(np.sqrt(np.mean(distance**2))) > _NONDETERMINISTIC_SHARE * spread


def _worst_channel(
    difference: Array, child_noise: Array | None, channels: Sequence[_Channels], floor: float
) -> tuple[float, tuple[int, int] | None]:
    """Largest ratio of root mean squares over single channels, and the ``(axis, index)`` it was found at.

    ``floor`` stands in where a channel and its noise are exactly zero.
    """
    worst, where = 0.0, None
    axes = [along.axis for along in channels]
    squares = _mean_squares(difference, axes)
    child_squares = _mean_squares(child_noise, axes) if child_noise is not None else None
    for index, along in enumerate(channels):
        allowed = np.where(along.allowed == 0, floor, along.allowed)
        if child_squares is not None:
            own_child = _channel_noise([child_squares[index]], along.size)
            allowed = np.maximum(allowed, np.minimum(own_child, MOST_CHILD_NOISE * allowed))
        ratios = np.sqrt(squares[index]) / allowed
        place = int(np.argmax(ratios))
        if ratios[place] > worst:
            worst, where = float(ratios[place]), (along.axis, place)
    return worst, where


def _channel_noise(squares: Sequence[Array], size: Array) -> Array:
    """Root mean square noise of each channel of these sizes, from the mean squares in each run; not below what is
    typical of the channels that move, as a number or as a share of the size, nor a share of the overall."""
    if not squares:
        return np.zeros(len(size))
    own: Array = np.sqrt(sum(squares[1:], squares[0]) / len(squares))
    moving = own > 0
    typical = _median(own[moving])
    overall = float(np.sqrt(np.mean(own**2)))
    sized = moving & (size > 0)
    relative = _median(own[sized] / size[sized])
    return np.maximum(np.maximum(own, relative * size), max(typical, _OVERALL_SHARE * overall))


def _channel_axes(shape: Sequence[int]) -> list[int]:
    """Axes along which channels may lie: the second and the last."""
    rank = len(shape)
    return [axis for axis in sorted({1, rank - 1}) if shape[axis] > 1] if rank >= 2 else []


def _mean_squares(array: Array, axes: Sequence[int]) -> list[Array]:
    """For each of these axes the mean square along it, over all others."""
    if not axes:
        return []
    square = np.square(array)
    found: list[Array] = []
    for axis in axes:
        others = tuple(other for other in range(array.ndim) if other != axis)
        # numpy's own mean takes several times as long to begin
        found.append(np.add.reduce(square, axis=others) / (array.size // array.shape[axis]))
    return found


def _median(array: Array) -> float:
    """Median of numbers of which none is NaN, 0 where there are none; numpy's own takes many times as long to begin."""
    if not array.size:
        return 0.0
    ordered = np.sort(array)
    return float((ordered[(array.size - 1) // 2] + ordered[array.size // 2]) / 2)


def record(comparison: Comparison, measured: Measurement, run: int, limit: float = LIMIT) -> None:
    """Adds one run's measurement to what is known of a value."""
    if measured.nondeterministic:
        comparison.status = "nondeterministic"
        comparison.reason = "the parent does not repeat itself here"
        return
    if comparison.status == "nondeterministic":
        return
    if measured.max_abs > comparison.max_abs or (comparison.max_abs == 0 and comparison.noise_floor == 0):
        comparison.noise_floor = measured.noise_floor
        comparison.max_abs = max(comparison.max_abs, measured.max_abs)
    if measured.scale > 0:
        comparison.max_rel = max(comparison.max_rel, measured.max_abs / measured.scale)
    if measured.worst() > max(comparison.ratio, comparison.channel_ratio):
        comparison.worst_input = run
    comparison.ratio = max(comparison.ratio, measured.ratio)
    if measured.channel_ratio > comparison.channel_ratio:
        comparison.channel_ratio, comparison.channel = measured.channel_ratio, measured.channel
    if measured.worst() > limit:
        comparison.status = "differs"
        comparison.reason = comparison.reason or measured.reason
    elif measured.max_abs > 0 and comparison.status == "equal":
        comparison.status = "within-noise"
