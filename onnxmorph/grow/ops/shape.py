"""Operators that move numbers about by shape alone, and those that tell sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from onnxmorph.grow.call import Call
from onnxmorph.grow.ops.convolution import flat_pads
from onnxmorph.grow.ops.reading import axis_of, broadcast_sizes, integers, number
from onnxmorph.grow.registry import operator

Tensor = torch.Tensor


@operator("Shape", gradient=False)
def shape(call: Call, x: Tensor) -> Tensor:
    """The sizes from ``start`` to ``end``, on the CPU."""
    return torch.tensor(list(x.shape)[call.attributes.get("start", 0) : call.attributes.get("end")], dtype=torch.int64)


@operator("Size", gradient=False)
def size(_call: Call, x: Tensor) -> Tensor:
    """How many numbers there are."""
    return torch.tensor(x.numel(), dtype=torch.int64)


@operator("Reshape", host=(1,))
def reshape(call: Call, x: Tensor, to: Tensor | None = None) -> Tensor:
    """0 keeps a size unless ``allowzero``; -1 is worked out."""
    target = call.integers("shape", []) if to is None else integers(to) if to.numel() else []
    if not call.flag("allowzero"):
        target = [x.shape[i] if wanted == 0 else wanted for i, wanted in enumerate(target)]
    return x.reshape(target)


@operator("Flatten")
def flatten(call: Call, x: Tensor) -> Tensor:
    """Two axes: all before ``axis``, all from it on."""
    axis = call.integer("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Transpose")
def transpose(call: Call, x: Tensor) -> Tensor:
    """Without ``perm`` the axes are reversed."""
    return x.permute(call.attributes.get("perm") or list(range(x.dim()))[::-1])


@operator("Squeeze", host=(1,))
def squeeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Axes of size one go."""
    given = call.attributes.get("axes") if axes is None else integers(axes)
    if given is None:
        return x.squeeze()
    over = [axis_of(axis, x.dim()) for axis in given]
    if any(x.shape[axis] != 1 for axis in over):
        raise ValueError(f"axes {over} of sizes {list(x.shape)} are not all of size 1")
    return x.squeeze(over)


@operator("Unsqueeze", host=(1,))
def unsqueeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Axes of size one come, counted in the result."""
    given = call.integers("axes") if axes is None else integers(axes)
    rank = x.dim() + len(given)
    for axis in sorted(axis_of(axis, rank) for axis in given):
        x = x.unsqueeze(axis)
    return x


@operator("Concat")
def concat(call: Call, *inputs: Tensor) -> Tensor:
    """Along one axis."""
    return torch.cat(inputs, call.integer("axis", 1))


@operator("Split", host=(1,))
def split(call: Call, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    """In given sizes, or evenly with a smaller last part."""
    axis = axis_of(call.integer("axis", 0), x.dim())
    given = call.attributes.get("split") if sizes is None else integers(sizes)
    if not given:
        parts = call.attributes.get("num_outputs", call.outputs)
        each = -(-x.shape[axis] // parts)
        given = [each] * (parts - 1) + [x.shape[axis] - each * (parts - 1)]
    return torch.split_with_sizes(x, list(given), axis)


@operator("Slice", host=(1, 2, 3, 4))
def slice_(
    call: Call,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    """Ranges along axes, backwards with a negative step."""
    begin = call.integers("starts") if starts is None else integers(starts)
    end = call.integers("ends") if ends is None else integers(ends)
    over = call.attributes.get("axes") if axes is None else integers(axes)
    over = list(range(len(begin))) if over is None else over
    stride = [1] * len(begin) if steps is None else integers(steps)
    for first, last, axis, step in zip(begin, end, over, stride, strict=True):
        place = axis_of(axis, x.dim())
        length = x.shape[place]
        if step > 0:
            within = slice(_bounded(first, length), _bounded(last, length), step)
            x = x[(slice(None),) * place + (within,)]
        else:
            stop = None if last < -length else last
            chosen = list(range(length))[slice(min(first, length), stop, step)]
            x = x.index_select(place, torch.tensor(chosen, dtype=torch.int64, device=x.device))
    return x


def _bounded(edge: int, length: int) -> int:
    """The same place for a slice as an edge far outside, which exporters write as the largest integer there is."""
    return max(-length - 1, min(length, edge))


@operator("Expand", host=(1,))
def expand(_call: Call, x: Tensor, to: Tensor) -> Tensor:
    """Broadcast both ways."""
    return x.expand(broadcast_sizes(x.shape, integers(to) if to.numel() else []))


@operator("Tile", host=(1,))
def tile(_call: Call, x: Tensor, repeats: Tensor) -> Tensor:
    """Repeated along each axis."""
    return x.repeat(integers(repeats)) if x.dim() else x


@operator("Pad", host=(1, 2, 3))
def pad(
    call: Call, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """Constant, reflected, edge or wrapped; negative amounts cut off."""
    given = (call.attributes.get("pads") or call.integers("paddings")) if pads is None else integers(pads)
    fill = call.floating("value", 0.0) if value is None or not value.numel() else number(value)
    over = range(x.dim()) if axes is None else [axis_of(axis, x.dim()) for axis in integers(axes)]
    half = len(given) // 2
    amounts = [(0, 0)] * x.dim()
    for axis, before, after in zip(over, given[:half], given[half:], strict=True):
        amounts[axis] = (before, after)
    mode = call.text("mode", "constant")
    if mode == "constant":
        if x.dtype == torch.bool:
            return F.pad(x.to(torch.uint8), flat_pads(amounts), value=int(bool(fill))).bool()
        return F.pad(x, flat_pads(amounts), value=fill)
    for axis, (before, after) in enumerate(amounts):
        if (before, after) != (0, 0):
            x = x.index_select(axis, _source(call, mode, x.shape[axis], before, after, x.device))
    return x


def _source(call: Call, mode: str, length: int, before: int, after: int, device: torch.device) -> Tensor:
    """Where each place along a padded axis takes its numbers from."""
    place = torch.arange(-before, length + after, device=device)
    if mode == "edge":
        return place.clamp(0, length - 1)
    if mode == "wrap":
        return place % length
    if mode != "reflect":
        raise call.refuse(f"padding of mode {mode!r}")
    if length == 1:
        return torch.zeros_like(place)
    period = 2 * (length - 1)
    place = place % period
    return torch.where(place < length, place, period - place)


@operator("DepthToSpace")
def depth_to_space(call: Call, x: Tensor) -> Tensor:
    """Blocks of channels to blocks of pixels, in one of two orders."""
    block = call.integer("blocksize")
    batch, channels, height, width = x.shape
    if call.text("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    y = x.reshape(batch, block, block, channels // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(batch, channels // block**2, height * block, width * block)


@operator("SpaceToDepth")
def space_to_depth(call: Call, x: Tensor) -> Tensor:
    """The inverse, in either order."""
    block = call.integer("blocksize")
    if call.text("mode", "DCR") == "CRD":
        return F.pixel_unshuffle(x, block)
    batch, channels, height, width = x.shape
    y = x.reshape(batch, channels, height // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
    return y.reshape(batch, channels * block**2, height // block, width // block)


@operator("Trilu", host=(1,))
def triangle(call: Call, x: Tensor, diagonal: Tensor | None = None) -> Tensor:
    """The upper or the lower triangle of the last two axes, the rest zero."""
    offset = 0 if diagonal is None else int(number(diagonal))
    return torch.triu(x, offset) if call.flag("upper", True) else torch.tril(x, offset)


@operator("ReverseSequence")
def reverse_sequence(call: Call, x: Tensor, lengths: Tensor) -> Tensor:
    """The first steps of each sample in reverse order, as many as it has."""
    time, batch = call.integer("time_axis", 0), call.integer("batch_axis", 1)
    y = x.movedim((batch, time), (0, 1))
    steps = torch.arange(y.shape[1], device=x.device).reshape(1, -1)
    many = lengths.reshape(-1, 1)
    source = torch.where(steps < many, many - 1 - steps, steps)
    index = source.reshape(*source.shape, *([1] * (y.dim() - 2))).expand_as(y)
    return torch.gather(y, 1, index).movedim((0, 1), (batch, time))


@operator("CenterCropPad", host=(1,))
def center_crop_pad(call: Call, x: Tensor, to: Tensor) -> Tensor:
    """Each axis cut or padded with zeros to a size, around its middle."""
    sizes = integers(to)
    over: Sequence[int] = call.attributes.get("axes") or range(x.dim())
    for axis, wanted in zip(over, sizes, strict=True):
        place = axis_of(axis, x.dim())
        length = x.shape[place]
        if wanted < length:
            x = x.narrow(place, (length - wanted) // 2, wanted)
        elif wanted > length:
            before = (wanted - length) // 2
            amounts = [(0, 0)] * x.dim()
            amounts[place] = (before, wanted - length - before)
            x = F.pad(x, flat_pads(amounts))
    return x


# --- sequences ------------------------------------------------------------------------------------------------------


@operator("SequenceConstruct", "SequenceEmpty")
def sequence_construct(_call: Call, *inputs: Any) -> list[Any]:
    """A list of tensors."""
    return list(inputs)


@operator("SequenceAt", host=(1,))
def sequence_at(_call: Call, sequence: list[Any], place: Tensor) -> Any:
    """One of a list, counted from the end when negative."""
    return sequence[int(place)]


@operator("SequenceLength", gradient=False)
def sequence_length(_call: Call, sequence: list[Any]) -> Tensor:
    """How many there are."""
    return torch.tensor(len(sequence), dtype=torch.int64)


@operator("SequenceInsert", host=(2,))
def sequence_insert(_call: Call, sequence: list[Any], item: Any, place: Tensor | None = None) -> list[Any]:
    """A list with one more, at its end unless told where."""
    at = len(sequence) if place is None else int(place)
    at = at + len(sequence) if at < 0 else at
    return [*sequence[:at], item, *sequence[at:]]


@operator("SequenceErase", host=(1,))
def sequence_erase(_call: Call, sequence: list[Any], place: Tensor | None = None) -> list[Any]:
    """A list with one less, the last unless told which."""
    at = -1 if place is None else int(place)
    at = at + len(sequence) if at < 0 else at
    return [*sequence[:at], *sequence[at + 1 :]]


@operator("SplitToSequence", host=(1,))
def split_to_sequence(call: Call, x: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
    """As `split`, into a list; a scalar is the size of each part."""
    axis = axis_of(call.integer("axis", 0), x.dim())
    if sizes is None:
        parts = list(torch.split(x, 1, axis))
        return parts if call.flag("keepdims", True) else [part.squeeze(axis) for part in parts]
    if sizes.dim() == 0:
        return list(torch.split(x, int(sizes), axis))
    return list(torch.split_with_sizes(x, integers(sizes), axis))


@operator("ConcatFromSequence")
def concat_from_sequence(call: Call, sequence: list[Tensor]) -> Tensor:
    """A list put together along an axis, or along a new one."""
    axis = call.integer("axis")
    return torch.stack(sequence, axis) if call.flag("new_axis") else torch.cat(sequence, axis)


@operator("Optional")
def optional(_call: Call, value: Any = None) -> Any:
    """A value that may be absent."""
    return value


@operator("OptionalHasElement", gradient=False)
def optional_has_element(_call: Call, value: Any = None) -> Tensor:
    """Whether it is there."""
    return torch.tensor(value is not None)


@operator("OptionalGetElement")
def optional_get_element(call: Call, value: Any = None) -> Any:
    """What is there."""
    if value is None:
        raise call.refuse("the optional value is absent")
    return value
