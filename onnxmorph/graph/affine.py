"""What lies between a linear layer and its activation: batch normalisation in any spelling, and layout.

Exporters write a batch normalisation as BatchNormalization, or as Mul, Add, Sub and Div by one constant per channel
(TensorFlow, Keras), with Transposes, no-op Casts and Identities in between. All of it is one affine map per channel,

    z[c] = scale[c] y[c] + shift[c],

followed here as far as each value has a single use, carrying along which axis holds the channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.graph.attributes import WrongAttribute, floating, integer, integers
from onnxmorph.graph.constants import constant, stored
from onnxmorph.graph.shapes import Dims, Shapes

__all__ = ["Affine", "Place", "follow", "only_user", "per_channel"]

Array = np.ndarray[Any, Any]

_SAME_SHAPE = ("Identity", "Cast", "Dropout")
_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass(frozen=True, eq=False)
class Place:
    """A value on the way from a layer, and the axis on which it carries the layer's output channels.

    ``axis`` counts from the front where the rank is known and from the back (-1) where it is not; ``None`` once a
    reshape has mixed the channels with something else.
    """

    value: ir.Value
    axis: int | None
    rank: int | None
    channels: int

    @property
    def on_second_axis(self) -> bool:
        """Whether the channels are where a batch normalisation has them."""
        return self.axis == 1 or (self.axis is not None and self.rank is not None and self.axis + self.rank == 1)


@dataclass(frozen=True, eq=False)
class Affine:
    """One affine map per channel, however many nodes spell it.

    Attributes:
        nodes: The nodes that scale or shift, in order.
        scale: float64, ``(channels,)``.
        shift: float64, ``(channels,)``.
        input: The value it starts from.
        output: The value it ends with.
        layout: Nodes passed on the way that change no number: Identity, Transpose, Reshape, a Cast to the same type.
    """

    nodes: tuple[ir.Node, ...]
    scale: Array
    shift: Array
    input: ir.Value
    output: ir.Value
    layout: tuple[ir.Node, ...] = field(default=())


def only_user(value: ir.Value) -> ir.Node | None:
    """The one node that uses a value, in the graph that computes it; ``None`` for several uses or a graph output.

    A use inside the body of an If or Loop does not count as one: it may run never, or many times.
    """
    if value.is_graph_output() or len(value.uses()) != 1:
        return None
    (user,) = value.consumers()
    producer = value.producer()
    if producer is not None and user.graph is not producer.graph:
        return None
    return user


def per_channel(value: ir.Value | None, axis: int | None, rank: int | None, channels: int) -> Array | None:
    """A constant that varies at most along the channel axis of what it is broadcast with, as ``(channels,)`` or ``()``.

    Args:
        value: The constant operand.
        axis: Channel axis of the other operand, ``None`` where channels lie on no single axis.
        rank: Rank of the other operand, ``None`` when unknown.
        channels: Size of that axis.
    """
    if value is None:
        return None
    tensor = stored(value)
    if tensor is not None and tensor.size not in (1, channels):
        return None  # told without reading it
    array = constant(value)
    if array is None or array.dtype.kind in "OSUb" or (rank is None and array.ndim > 1):
        return None
    if rank is not None and array.ndim > rank:
        return None  # would add axes to the result
    if array.size == 1:
        return array.reshape(())
    if axis is None or array.size != channels:
        return None
    from_the_back = axis - rank if rank is not None and axis >= 0 else axis
    if not -array.ndim <= from_the_back < 0 or array.shape[from_the_back] != channels:
        return None
    return array.reshape(channels)


def _normalisation(node: ir.Node, channels: int) -> tuple[Array, Array] | None:
    """Scale and shift of a BatchNormalization in inference form: gamma / sqrt(var + eps), beta - mean * scale."""
    # spatial, opset 7 and 8: 0 keeps one set of statistics per position.
    if integer(node, "training_mode", 0) or not integer(node, "spatial", 1):
        return None
    if len([output for output in node.outputs if output.name and output.uses()]) > 1 or len(node.inputs) != 5:
        return None
    numbers = [constant(value) for value in node.inputs[1:]]
    if any(array is None or array.shape != (channels,) for array in numbers):
        return None
    gamma, beta, mean, variance = (np.asarray(array, dtype=np.float64) for array in numbers)
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + floating(node, "epsilon", 1e-5))
    return scale, beta - mean * scale


def _arithmetic(place: Place, node: ir.Node) -> tuple[Array, Array] | None:
    one, zero = np.ones(place.channels), np.zeros(place.channels)
    if node.op_type == "Neg":
        return -one, zero
    if len(node.inputs) != 2 or "broadcast" in node.attributes:
        return None
    left = node.inputs[0] is place.value
    other = per_channel(node.inputs[1 if left else 0], place.axis, place.rank, place.channels)
    if other is None:
        return None
    numbers = np.broadcast_to(other.astype(np.float64), (place.channels,))
    if node.op_type == "Mul":
        return numbers, zero
    if node.op_type == "Add":
        return one, numbers
    if node.op_type == "Sub":
        return (one, -numbers) if left else (-one, numbers)
    if node.op_type == "Div" and left:
        with np.errstate(divide="ignore"):
            return one / numbers, zero
    return None


def _reshaped(place: Place, node: ir.Node, shapes: Shapes) -> Place:
    """Where the channels are after a reshape: on the same axis of equal size with equal sizes before, or nowhere."""
    output = node.outputs[0]
    before, after = shapes.shape(place.value), shapes.shape(output)
    rank = None if after is None else len(after)
    axis: int | None = None
    if before is not None and after is not None and place.axis is not None:
        here = place.axis % len(before)
        axis = _matching_axis(before, after, here)
    return Place(output, axis, rank, place.channels)


def _matching_axis(before: Dims, after: Dims, axis: int) -> int | None:
    """The axis after a reshape whose size and stride are those of `axis` before.

    The stride is the product of the sizes behind it, a number and symbols; equal names are equal sizes.
    """

    def stride(dims: Dims, position: int) -> tuple[int, list[str]] | None:
        behind = dims[position + 1 :]
        if None in behind:
            return None
        return (
            math.prod(size for size in behind if isinstance(size, int)),
            sorted(size for size in behind if isinstance(size, str)),
        )

    wanted = stride(before, axis)
    for position, size in enumerate(after):
        if wanted is not None and size == before[axis] and stride(after, position) == wanted:
            return position
    return None


def _layout(place: Place, node: ir.Node, shapes: Shapes, dtype: ir.DataType) -> Place | None:
    """The place after a node that changes no number, or ``None``."""
    if not node.inputs or node.inputs[0] is not place.value or not node.outputs:
        return None
    output = node.outputs[0]
    if node.op_type == "Cast" and integer(node, "to", 0) != dtype.value:
        return None
    if node.op_type == "Dropout":
        training = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
        asked = len(node.inputs) > 2 and node.inputs[2] is not None
        if any(mask.uses() for mask in node.outputs[1:]) or (asked and (training is None or bool(training.any()))):
            return None
    if node.op_type in _SAME_SHAPE:
        return Place(output, place.axis, place.rank, place.channels)
    if node.op_type == "Transpose":
        if place.rank is None:
            return None
        order = integers(node, "perm", tuple(range(place.rank))[::-1])
        if sorted(order) != list(range(place.rank)):
            return None
        axis = None if place.axis is None else place.axis % place.rank
        return Place(output, None if axis is None else order.index(axis), place.rank, place.channels)
    if node.op_type in _RESHAPES:
        return _reshaped(place, node, shapes)
    return None


@dataclass(frozen=True, eq=False)
class Step:
    """One node further: the place after it, and what it did to each channel (nothing for a layout node)."""

    place: Place
    node: ir.Node
    scale: Array | None = None
    shift: Array | None = None


def follow(start: Place, shapes: Shapes, dtype: ir.DataType) -> Iterator[Step]:
    """Steps of an affine map and of layout from `start`, as far as each value has exactly one use."""
    try:
        yield from _steps(start, shapes, dtype)
    except WrongAttribute:
        return


def _steps(place: Place, shapes: Shapes, dtype: ir.DataType) -> Iterator[Step]:
    while True:
        node = only_user(place.value)
        if node is None or node.domain not in ("", "ai.onnx"):
            return
        if node.op_type == "BatchNormalization":
            if node.inputs[0] is not place.value or not place.on_second_axis:
                return
            numbers = _normalisation(node, place.channels)
        elif node.op_type in ("Mul", "Add", "Sub", "Div", "Neg"):
            numbers = _arithmetic(place, node)
        else:
            further = _layout(place, node, shapes, dtype)
            if further is None:
                return
            place = further
            yield Step(place, node)
            continue
        if numbers is None:
            return
        place = Place(node.outputs[0], place.axis, place.rank, place.channels)
        yield Step(place, node, *numbers)
