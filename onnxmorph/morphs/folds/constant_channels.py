"""Channels that are the same number on every run: they go, and what they gave goes into the next biases.

A channel whose row is zero is its bias; behind it a batch norm and an activation make of it ``phi(beta)``, and pooling
leaves that as it is. A layer that reads it gets ``b + sum over taps of W c``. One that pads with zeros would read
something else at its borders: a channel that such a layer reads stays, unless its number is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.graph.activations import recognise
from onnxmorph.graph.attributes import WrongAttribute, integer
from onnxmorph.graph.axes import Group, Member
from onnxmorph.graph.constants import constant
from onnxmorph.graph.layers import LinearLayer
from onnxmorph.graph.recurrent import is_recurrent, zero_filled
from onnxmorph.morphs.folds.finding import Array, View, attempt, passes_on
from onnxmorph.morphs.folds.parameters import bias_or_zeros, rounded
from onnxmorph.morphs.recurrent import zero_units
from onnxmorph.morphs.zeros import is_zero

__all__ = ["Constants", "constants_of", "numbers_of"]

_SAME_NUMBER = frozenset(
    {
        *("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Slice"),
        *("MaxPool", "GlobalAveragePool", "GlobalMaxPool"),
    }
)
"""Operators that leave a channel of one number as it is; MaxPool never takes its padding."""


@dataclass(frozen=True, eq=False)
class Constants:
    """Channels of one group that are one number each.

    Attributes:
        channels: bool, per channel of the group.
        biases: For every layer that reads them, its bias with what they give: float ``(out,)``.
    """

    channels: Array
    biases: tuple[tuple[LinearLayer, Array], ...]


def constants_of(view: View, group: Group, members: Sequence[Member], fed_zeros: Array) -> Constants | None:
    """The constant channels of a group among those that are fed zeros, where everything that reads them can do without.

    Args:
        view: The model.
        group: A group that may lose channels.
        members: Its stored tensors.
        fed_zeros: bool, per channel: every row that makes it is zero.
    """
    if group.conditions or not fed_zeros.any():
        return None
    numbers = numbers_of(view, group)
    readers = _readers(view, members)
    if readers is None:
        return None
    able = fed_zeros.copy()
    for layer in readers:
        here = numbers.get(layer.input)
        if here is None:
            return None
        able &= np.isfinite(here)
        if layer.op == "ConvTranspose" or not (layer.pads is None or layer.pads.zero):
            able &= here == 0
    if not able.any():
        return None
    biases = []
    for layer in readers:
        new = _bias(group, layer, np.where(able, numbers[layer.input], 0.0))
        if new is None:
            return None
        biases.append((layer, new))
    return Constants(able, tuple(biases))


def numbers_of(view: View, group: Group) -> dict[ir.Value, Array]:
    """Per computed value of the group and channel its one number; NaN where there is none, or it is not known."""
    numbers: dict[ir.Value, Array] = {}
    held = {member.value for member in group.members}
    for member in group.members:
        value = member.value
        node = value.producer()
        if member.is_stored or value in numbers:
            continue
        unknown = np.full(group.size, np.nan)
        numbers[value] = unknown
        if node is None:
            continue
        layer = view.by_node.get(node)
        if layer is not None:
            found = attempt(lambda layer=layer: _own_bias(group, layer))  # type: ignore[misc]
            if found is not None:
                numbers[layer.output] = found
            continue
        if is_recurrent(node):
            numbers[value] = np.where(zero_units(group, node, numbers), 0.0, np.nan)
            continue
        source = node.inputs[0] if node.inputs else None
        if zero_filled(node) or (node.op_type == "Expand" and source is not None and is_zero(source)):
            numbers[value] = np.zeros(group.size)
            continue
        if source is None or source not in numbers or source not in held:
            continue
        here = numbers[source]
        if passes_on(node) or (node.op_type in _SAME_NUMBER and node.domain in ("", "ai.onnx")):
            numbers[value] = here
        elif node.op_type in ("Mul", "Div") and (factor := _one_number(view, node)) is not None:
            numbers[value] = here * factor if node.op_type == "Mul" else here / factor
        elif node.op_type == "BatchNormalization":
            numbers[value] = _normalised(group, node, here, unknown)
        else:
            phi = recognise(source, ir_version=view.model.ir_version)
            if phi is not None and phi.output is value and phi.channels in (None, group.size):
                numbers[value] = np.asarray(
                    [float(np.asarray(phi.take([c])(np.array(here[c]))).reshape(-1)[0]) for c in range(group.size)]
                )
    return numbers


def _one_number(view: View, node: ir.Node) -> float | None:
    """The one number other than 0 that a node multiplies its first input with, or divides it by."""
    array = view.known(node.inputs[1]) if len(node.inputs) == 2 else None
    if array is None or array.size != 1 or array.dtype.kind != "f":
        return None
    number = float(array.reshape(()))
    return number if np.isfinite(number) and number != 0 else None


def _own_bias(group: Group, layer: LinearLayer) -> Array | None:
    """Per channel the bias of the layer that makes it, where its rows are zero; a channel of several rows has one."""
    axes = group.coupled.axes(layer.output)
    if axes is None:
        return None
    places = group.coupled.factors.coordinate(axes[layer.output_axis], group.atom)
    if places.size != layer.out_channels:
        return None
    rows = layer.kernel_array().reshape(layer.out_channels, -1)
    given = np.where(np.any(rows, axis=1), np.nan, bias_or_zeros(layer))[places >= 0]
    order = places[places >= 0]
    low, high = np.full(group.size, np.inf), np.full(group.size, -np.inf)
    with np.errstate(invalid="ignore"):  # a channel with a row that is not zero is NaN in both
        np.minimum.at(low, order, given)
        np.maximum.at(high, order, given)
    return np.where(low == high, low, np.nan)


def _normalised(group: Group, node: ir.Node, here: Array, unknown: Array) -> Array:
    arrays = [constant(value) for value in node.inputs[1:5]]
    if len(arrays) != 4 or any(array is None or array.shape != (group.size,) for array in arrays):
        return unknown
    try:
        if integer(node, "training_mode", 0) or not integer(node, "spatial", 1):
            return unknown
    except WrongAttribute:
        return unknown
    gamma, beta, mean, variance = (np.asarray(array, dtype=np.float64) for array in arrays)
    epsilon = node.attributes.get("epsilon")
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + (1e-5 if epsilon is None else float(epsilon.value)))
        return np.asarray((here - mean) * scale + beta)


def _readers(view: View, members: Sequence[Member]) -> list[LinearLayer] | None:
    """The layers that read a group; ``None`` where one of them is not ours to change."""
    readers: dict[ir.Node, LinearLayer] = {}
    for member in members:
        if "contracted" not in member.roles:
            continue
        for node in member.value.consumers():
            layer = view.by_node.get(node)
            if layer is None or layer.weight.value is not member.value:
                return None
            readers[node] = layer
    return list(readers.values())


def _bias(group: Group, layer: LinearLayer, numbers: Array) -> Array | None:
    """The bias of a layer with what constant channels give it."""
    axes = group.coupled.axes(layer.input)
    if axes is None:
        return None
    places = group.coupled.factors.coordinate(axes[layer.input_axis], group.atom)
    given = np.where(places >= 0, numbers[np.maximum(places, 0)], 0.0)
    if given.size != layer.in_channels:
        return None
    kernel = layer.kernel_array().astype(np.float64)
    taps = kernel.reshape(*kernel.shape[:2], -1).sum(axis=2)
    per_group = given.reshape(layer.groups, 1, -1)
    added = (taps.reshape(layer.groups, -1, taps.shape[1]) * per_group).sum(axis=2).reshape(-1)
    new = rounded((bias_or_zeros(layer) + added)[:, None], layer.dtype)
    return None if new is None else new.reshape(-1)
