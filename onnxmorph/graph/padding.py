"""Padding of Conv and ConvTranspose, made explicit.

Conv, per axis: the output has ``floor((n + begin + end - d (k - 1) - 1) / s) + 1`` places. ``auto_pad`` names the pads
by what the output size shall be; SAME keeps ``ceil(n / s)`` places, so its total is
``max((ceil(n / s) - 1) s + d (k - 1) + 1 - n, 0)``, which for stride 1 does not depend on the input size n.

ConvTranspose, per axis: the output has ``s (n - 1) + output_padding + d (k - 1) + 1 - begin - end`` places; SAME makes
that ``n s``, a total which never depends on n; ``output_shape`` fixes it, a total which does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Pads", "convolution_pads", "transpose_pads"]


@dataclass(frozen=True)
class Pads:
    """Zeros added before and after each kernel axis of the input.

    Attributes:
        begin: Per kernel axis; ``None`` where it depends on an input size that is not known.
        end: The same, after.
        auto_pad: What the file says: ``'NOTSET'``, ``'VALID'``, ``'SAME_UPPER'`` (the odd zero goes to the end) or
            ``'SAME_LOWER'`` (to the beginning).
        output_padding: ConvTranspose: places added to the end of each axis of the output, in all.
        output_shape: ConvTranspose: the spatial output sizes the file asks for, from which the pads were derived.
        sized: The explicit pads hold for the present input size only: a SAME layer with a stride, or `output_shape`.
    """

    begin: tuple[int | None, ...]
    end: tuple[int | None, ...]
    auto_pad: str = "NOTSET"
    output_padding: tuple[int, ...] = ()
    output_shape: tuple[int, ...] | None = None
    sized: bool = False

    @property
    def explicit(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """``(begin, end)`` when every pad is known, else ``None``."""
        begin = tuple(pad for pad in self.begin if pad is not None)
        end = tuple(pad for pad in self.end if pad is not None)
        return (begin, end) if len(begin) == len(self.begin) and len(end) == len(self.end) else None

    @property
    def zero(self) -> bool:
        """Whether nothing is padded, whatever the input size."""
        return not self.sized and all(pad == 0 for pad in (*self.begin, *self.end))


Sizes = Sequence[int | str | None]


def convolution_pads(
    auto_pad: str,
    pads: Sequence[int],
    kernel: Sequence[int],
    *,
    strides: Sequence[int],
    dilations: Sequence[int],
    sizes: Sizes,
) -> Pads:
    """Explicit pads of a Conv.

    Args:
        auto_pad: The attribute; any value but ``'NOTSET'`` makes the operator ignore `pads`.
        pads: All begins, then all ends.
        kernel: Taps per axis.
        strides: Per axis.
        dilations: Per axis.
        sizes: Spatial sizes of the input, not ``int`` where unknown.
    """
    axes = len(kernel)
    if auto_pad == "NOTSET":
        return Pads(tuple(pads[:axes]), tuple(pads[axes:]))
    if auto_pad == "VALID":
        return Pads((0,) * axes, (0,) * axes, auto_pad)
    totals: list[int | None] = []
    for taps, stride, dilation, size in zip(kernel, strides, dilations, sizes, strict=True):
        extent = dilation * (taps - 1) + 1
        if stride == 1:
            totals.append(extent - 1)
        elif isinstance(size, int):
            totals.append(max((-(-size // stride) - 1) * stride + extent - size, 0))
        else:
            # With one tap and a stride the last place never reaches beyond the input.
            totals.append(0 if extent == 1 else None)
    begin, end = _shared_out(totals, extra_at_end=auto_pad == "SAME_UPPER")
    sized = any(stride != 1 and taps != 1 for taps, stride in zip(kernel, strides, strict=True))
    return Pads(begin, end, auto_pad, sized=sized)


def transpose_pads(
    auto_pad: str,
    pads: Sequence[int],
    kernel: Sequence[int],
    *,
    strides: Sequence[int],
    dilations: Sequence[int],
    sizes: Sizes,
    output_padding: Sequence[int],
    output_shape: Sequence[int] | None,
) -> Pads:
    """Explicit pads of a ConvTranspose; arguments as in `convolution_pads`, with the operator's own two.

    As ONNX Runtime does it: an odd total gives its extra zero to the beginning unless SAME_UPPER; an `output_shape`
    beyond the reach of the taps is filled up at the end, which is as much more `output_padding`; a SAME whose total
    would be negative pads nothing.
    """
    axes = len(kernel)
    added = tuple(output_padding)
    if output_shape is not None:
        wanted: tuple[int, ...] | None = tuple(output_shape)[-axes:]
    else:
        wanted = None
        if auto_pad == "NOTSET":
            return Pads(tuple(pads[:axes]), tuple(pads[axes:]), output_padding=added)
        if auto_pad == "VALID":
            return Pads((0,) * axes, (0,) * axes, auto_pad, added)
    totals: list[int | None] = []
    extended = list(added)
    for axis in range(axes):
        extent = dilations[axis] * (kernel[axis] - 1) + 1
        size = sizes[axis]
        if wanted is None:
            totals.append(max(extent + added[axis] - strides[axis], 0))
        elif isinstance(size, int):
            total = strides[axis] * (size - 1) + added[axis] + extent - wanted[axis]
            extended[axis] += max(-total, 0)
            totals.append(max(total, 0))
        else:
            totals.append(None)
    begin, end = _shared_out(totals, extra_at_end=auto_pad == "SAME_UPPER")
    return Pads(begin, end, auto_pad, tuple(extended), wanted, sized=wanted is not None)


def _shared_out(
    totals: Sequence[int | None], *, extra_at_end: bool
) -> tuple[tuple[int | None, ...], tuple[int | None, ...]]:
    less = [None if total is None else total // 2 for total in totals]
    more = [None if total is None else total - total // 2 for total in totals]
    return (tuple(less), tuple(more)) if extra_at_end else (tuple(more), tuple(less))
