"""Elementwise regions with one way in and one way out: what an exporter may have made of a single activation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxmorph.errors import Refusal
from onnxmorph.graph.activations.elementwise import FLOAT_TYPES, is_elementwise, run
from onnxmorph.graph.activations.functions import Array
from onnxmorph.graph.constants import chain

if TYPE_CHECKING:
    from onnxmorph._ir import ir

__all__ = ["Region", "regions"]

LARGEST_REGION = 24
"""Nodes looked at behind a value; the longest spelling in use (GELU by Tanh, Selu by Exp) has a dozen."""

LARGEST_CONSTANT = 1 << 16
"""Elements of a per-channel constant; anything longer is no parameter of an activation."""


@dataclass(frozen=True, eq=False)
class Region:
    """Nodes that compute ``output`` from ``input`` and constants alone, element by element.

    No value inside is used outside. ``constants`` hold float64 (or bool) arrays that broadcast against the trailing
    axes of the input without enlarging it; together they differ along one axis at most.
    """

    input: ir.Value
    output: ir.Value
    nodes: tuple[ir.Node, ...]
    constants: Mapping[ir.Value, Array]

    @property
    def trailing_shape(self) -> tuple[int, ...]:
        """Shape of the constants broadcast together, such as ``(C, 1, 1)``; ``()`` when all are scalars."""
        shapes = [array.shape for array in self.constants.values() if array.size > 1]
        return np.broadcast_shapes(*shapes) if shapes else ()

    def __call__(self, x: Array) -> Array:
        """Run the nodes on the points ``x`` of shape ``(points,)``; gives ``(points, *trailing_shape)``."""
        points = np.asarray(x, dtype=np.float64)
        known: dict[ir.Value, Array] = dict(self.constants)
        known[self.input] = points.reshape(points.shape + (1,) * len(self.trailing_shape))
        for node in self.nodes:
            known[node.outputs[0]] = run(node, [None if value is None else known[value] for value in node.inputs])
        result = known[self.output].astype(np.float64)
        return np.broadcast_to(result, points.shape + self.trailing_shape)

    def signature(self) -> tuple[object, ...] | None:
        """What its function depends on, hashable, alike for regions spelled alike; ``None`` with constants per channel.

        A deep network spells the same activation in every layer; one look at the function is enough.
        """
        if any(array.size != 1 for array in self.constants.values()):
            return None
        places: dict[ir.Value, object] = {self.input: "x"}
        places.update(
            {value: (str(array.dtype), float(array.reshape(-1)[0])) for value, array in self.constants.items()}
        )
        steps: list[object] = []
        for place, node in enumerate(self.nodes):
            attributes = tuple(sorted((name, str(attribute.value)) for name, attribute in node.attributes.items()))
            inputs = tuple("" if value is None else places[value] for value in node.inputs)
            steps.append((node.domain, node.op_type, attributes, inputs))
            places[node.outputs[0]] = place
        return (self.input.dtype, *steps)

    def numbers(self) -> tuple[float, ...]:
        """Every finite scalar in the region, constant or attribute: where its function may have a kink."""
        found = {float(array.reshape(-1)[0]) for array in self.constants.values() if array.size == 1}
        for node in self.nodes:
            for attribute in node.attributes.values():
                if isinstance(attribute.value, (int, float)):
                    found.add(float(attribute.value))
        return tuple(sorted(number for number in found if np.isfinite(number)))


def regions(
    value: ir.Value, *, shape: Sequence[object] | None = None, ir_version: int | None = None
) -> Iterator[Region]:
    """Every elementwise region that starts at ``value``, small before large.

    Args:
        value: The way in. It may have other consumers.
        shape: Its shape where the caller knows it better than ``value.shape``; sizes that are no integers are unknown.
        ir_version: The model's, which decides whether an initializer that is a graph input may be overridden.
    """
    graph = value.graph
    reached: dict[ir.Value, None] = {value: None}
    members: dict[ir.Node, None] = {}
    constants: dict[ir.Value, Array] = {}
    dims = _dims(value, shape)
    # A node joins when all its inputs are there or constant; one that must wait is met again at its last input.
    waiting = list(value.consumers())
    while waiting and len(members) < LARGEST_REGION:
        node = waiting.pop(0)
        if node in members or node.graph is not graph or not is_elementwise(node):
            continue
        found = _constants(node, reached, dims, ir_version)
        if found is None:
            continue
        members[node] = None
        constants.update(found)
        reached[node.outputs[0]] = None
        waiting.extend(node.outputs[0].consumers())
    for exit_node in members:
        region = _region(value, exit_node, members, constants)
        if region is not None:
            yield region


def _region(
    value: ir.Value, last: ir.Node, members: Mapping[ir.Node, None], constants: Mapping[ir.Value, Array]
) -> Region | None:
    """What of ``members`` leads to ``last``, if nothing inside is used elsewhere and all constants fit one axis."""
    needed: dict[ir.Node, None] = {}
    waiting = [last]
    while waiting:
        node = waiting.pop()
        if node in needed:
            continue
        needed[node] = None
        for given in node.inputs:
            producer = given.producer() if given is not None else None
            if given is not value and producer in members and producer is not None:
                waiting.append(producer)
    nodes = tuple(node for node in members if node in needed)
    for node in nodes:
        inner = node.outputs[0]
        if node is last:
            continue
        if inner.is_graph_output() or any(user not in needed for user in inner.consumers()):
            return None
    output = last.outputs[0]
    if value.dtype is not None and output.dtype is not None and output.dtype != value.dtype:
        return None
    if any(node.op_type == "Cast" for node in nodes) and (value.dtype is None or output.dtype is None):
        return None
    if last.op_type in {"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Not"}:
        return None
    used = {
        given: constants[given] for node in nodes for given in node.inputs if given is not None and given in constants
    }
    region = Region(value, output, nodes, used)
    try:
        trailing = region.trailing_shape
    except ValueError:
        return None
    return region if sum(size != 1 for size in trailing) <= 1 else None


def _constants(
    node: ir.Node, reached: Mapping[ir.Value, None], dims: tuple[int | None, ...] | None, ir_version: int | None
) -> dict[ir.Value, Array] | None:
    """The constant inputs of ``node`` as arrays, or ``None`` when some input is neither reached nor a fit constant."""
    found: dict[ir.Value, Array] = {}
    data = [given for given in node.inputs if given is not None]
    if not any(given in reached for given in data):
        return None
    for place, given in enumerate(data):
        if given in reached:
            continue
        source = chain(given, ir_version=ir_version)
        if source.reason is not None or source.overridable:
            return None
        shape = source.shape
        if shape is None or int(np.prod(shape)) > LARGEST_CONSTANT or int(np.prod(shape)) == 0:
            return None
        # PRelu's slope never enlarges x, by its definition; Clip's bounds are scalars.
        slope = node.op_type == "PRelu" and place == 1
        if not slope and not _fits(shape, dims):
            return None
        try:
            array = np.asarray(source.array())
        except Refusal:
            return None
        if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
            return None
        array = array.astype(bool if array.dtype.kind == "b" else np.float64)
        first = array.reshape(-1)[0]
        # One number for all channels is a scalar, however it is stored.
        found[given] = first.reshape(()) if bool(np.all(array == first)) else _without_leading_ones(array)
    if node.op_type == "PRelu" and data[0] not in reached:
        return None  # x as the slope of a constant
    return found


def _without_leading_ones(array: Array) -> Array:
    while array.ndim > 0 and array.shape[0] == 1:
        array = array[0]
    return array


def _fits(shape: Sequence[int], dims: tuple[int | None, ...] | None) -> bool:
    """Whether a constant of ``shape`` broadcasts against a value of sizes ``dims`` without enlarging it."""
    if dims is None:
        # Rank unknown: a constant of rank 1 with one element cannot enlarge anything but a rank-0 value.
        return len(shape) <= 1 and all(size == 1 for size in shape)
    if len(shape) > len(dims):
        return False
    return all(size in (1, dims[place - len(shape)]) for place, size in enumerate(shape))


def _dims(value: ir.Value, shape: Sequence[object] | None) -> tuple[int | None, ...] | None:
    """Sizes of ``value`` as far as known: from the caller, the file, or the weight of the layer that makes it."""
    given: Sequence[object] | None = shape
    if given is None and value.shape is not None:
        given = value.shape.dims
    if given is not None:
        return tuple(size if isinstance(size, int) else None for size in given)
    here: ir.Value | None = value
    for _ in range(8):
        node = here.producer() if here is not None else None
        if node is None or node.domain != "" or not node.inputs:
            return None
        if node.op_type in {"Conv", "ConvTranspose"} and len(node.inputs) > 1 and node.inputs[1] is not None:
            weight = node.inputs[1].shape
            if weight is None:
                return None
            sizes = [size if isinstance(size, int) else None for size in weight.dims]
            channels = sizes[0] if node.op_type == "Conv" else None
            return (None, channels, *([None] * (len(sizes) - 2)))
        if node.op_type == "Gemm":
            return (None, None)
        if node.op_type not in {"BatchNormalization", "InstanceNormalization", "Relu", "Identity", "Dropout"}:
            return None
        here = node.inputs[0]
        if here is not None and here.shape is not None:
            return tuple(size if isinstance(size, int) else None for size in here.shape.dims)
    return None


def is_float(value: ir.Value) -> bool:
    """Whether ``value`` is of a float type, or of unknown type."""
    return value.dtype is None or value.dtype.name in FLOAT_TYPES
