"""Kinds of faults as they slip into graph surgery, each planted in a copy of a model.

Every kind is a function ``(copy, sites, generator) -> description``: it edits the copy in place at a random one of its
sites and says what it did, or gives ``None`` where the model has no such site. ``sites`` tells which constants it may
touch and which nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.verify.noise import graphs, set_tensor, tensors

__all__ = ["KINDS", "Planted", "plant"]

Array = np.ndarray[Any, Any]

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)
_WEIGHT_PLACES = {
    *((op, 1) for op in ("Conv", "ConvTranspose", "Gemm", "MatMul", "PRelu", "LSTM", "GRU", "RNN", "ConvInteger")),
    *((op, 2) for op in ("Conv", "ConvTranspose", "Gemm", "LSTM", "GRU", "RNN", "LayerNormalization")),
    *((op, 3) for op in ("LSTM", "GRU", "RNN")),
    *(("BatchNormalization", place) for place in (1, 2, 3, 4)),
    *((op, place) for op in ("Add", "Mul", "Sub", "Div", "Gemm", "MatMul", "MatMulInteger") for place in (0, 1)),
    *(("LayerNormalization", 1), ("InstanceNormalization", 1), ("InstanceNormalization", 2)),
    *(("GroupNormalization", 1), ("GroupNormalization", 2), ("Gather", 0), ("DequantizeLinear", 0)),
    *(("DynamicQuantizeLinear", 0), ("DynamicQuantizeLSTM", 1), ("DynamicQuantizeLSTM", 2)),
}
_LAYOUT = ("Transpose", "Reshape", "Identity", "Unsqueeze", "Squeeze", "Cast", "DequantizeLinear")
_ACTIVATIONS = (
    *("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Softplus", "Clip"),
    *("Gelu", "Mish", "ThresholdedRelu", "PRelu"),
)
_EPSILON = ("BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization")


@dataclass(frozen=True)
class Planted:
    """A model with a fault in it: what kind, in words, and rows of tables that the fault is about."""

    model: ir.Model
    kind: str
    what: str
    rows: tuple[int, ...] = ()


@dataclass
class _Sites:
    """Where faults may go: constants by name, and nodes by the names of their outputs; ``None`` is anywhere."""

    model: ir.Model
    constants: frozenset[str] | None = None
    nodes: frozenset[str] | None = None
    rows: list[int] = field(default_factory=list)

    def node_list(self, *ops: str) -> list[ir.Node]:
        return [
            node
            for graph in graphs(self.model)
            for node in graph
            if (not ops or node.op_type in ops)
            and (
                self.nodes is None
                or any(output.name in self.nodes for output in node.outputs)
                or any(value is not None and value.name in (self.constants or ()) for value in node.inputs)
            )
        ]

    def weights(self, *, least_rank: int = 0, places: set[tuple[str, int]] | None = None) -> list[ir.Value]:
        """Values that carry weights, those with numbers enough to know a spread."""
        return [
            value
            for value, tensor in tensors(self.model).items()
            if (self.constants is None or value.name in self.constants)
            and tensor.size >= 4
            and len(tensor.shape) >= least_rank
            and tensor.dtype in (*_FLOATS, ir.DataType.INT8, ir.DataType.UINT8)
            and any(place in (places or _WEIGHT_PLACES) for place in _used_at(value))
        ]


Kind = Callable[[_Sites, np.random.Generator], "str | None"]
KINDS: dict[str, Kind] = {}


def _kind(name: str) -> Callable[[Kind], Kind]:
    def register(function: Kind) -> Kind:
        KINDS[name] = function
        return function

    return register


def plant(
    model: ir.Model,
    kind: str,
    seed: int,
    *,
    constants: frozenset[str] | None = None,
    nodes: frozenset[str] | None = None,
) -> Planted | None:
    """A copy of the model with one fault of this kind; ``None`` where it has no place for one.

    Args:
        constants: Names of constants the fault may touch; all without it.
        nodes: Names of values; the fault may touch nodes that compute one.
    """
    copy = files.clone(model)
    sites = _Sites(copy, constants, nodes)
    what = KINDS[kind](sites, np.random.default_rng([seed, sorted(KINDS).index(kind)]))
    return None if what is None else Planted(copy, kind, what, tuple(sites.rows))


def _used_at(value: ir.Value) -> Iterator[tuple[str, int]]:
    """``(op, input)`` places where a constant ends up, seen through what only lays it out anew."""
    for use in value.uses():
        if use.node.op_type in _LAYOUT and use.idx == 0:
            yield (use.node.op_type, 0)
            for output in use.node.outputs:
                yield from _used_at(output)
        else:
            yield (use.node.op_type, use.idx)


def _array(value: ir.Value) -> Array:
    return np.array(tensors_of(value).numpy())


def tensors_of(value: ir.Value) -> ir.TensorProtocol:
    """The tensor of an initializer or of the Constant node that computes the value."""
    node = value.producer()
    tensor = value.const_value if node is None else node.attributes["value"].as_tensor()
    assert tensor is not None
    return tensor


def _put(value: ir.Value, array: Array) -> None:
    old = tensors_of(value)
    set_tensor(value, ir.Tensor(array.astype(old.numpy().dtype), dtype=old.dtype, name=old.name))


def _pick(items: list[Any], generator: np.random.Generator) -> Any:
    return items[int(generator.integers(len(items)))] if items else None


def _kernel_of(value: ir.Value) -> ir.Node | None:
    """The convolution whose kernel this constant is, as stored."""
    for use in value.uses():
        if use.node.op_type in ("Conv", "ConvTranspose") and use.idx == 1:
            return use.node
        if use.node.op_type in ("DequantizeLinear", "Identity") and use.idx == 0:
            found = _kernel_of(use.node.outputs[0])
            if found is not None:
                return found
    return None


# ---- weights ---------------------------------------------------------------------------------------------------------


def _moved_weight(size: float) -> Kind:
    def move(sites: _Sites, generator: np.random.Generator) -> str | None:
        # Most weights of a network are in its matrices and kernels, however many biases there are.
        matrices = sites.weights(least_rank=2) if generator.random() < 0.8 else []
        value = _pick(matrices or sites.weights(), generator)
        if value is None:
            return None
        array = _array(value)
        flat = array.reshape(-1)
        index = int(generator.integers(flat.size))
        before = float(flat[index])
        if array.dtype.kind in "iu":
            step = max(1.0, round(size * float(np.std(flat.astype(np.float64)))))
            low, high = np.iinfo(array.dtype).min, np.iinfo(array.dtype).max
            after = before + step if before + step <= high else before - step
            after = max(after, float(low))
        else:
            spread = float(np.std(flat.astype(np.float64))) or float(np.abs(flat.astype(np.float64)).max())
            after = before + float(generator.choice([-1, 1])) * size * spread
        flat[index] = after
        _put(value, array)
        return f"{value.name}[{index}] {before:.4g} -> {after:.4g}"

    return move


for _size in (0.01, 0.02, 0.05):
    _kind(f"weight moved {_size:.0%}")(_moved_weight(_size))


@_kind("channels swapped")
def _swapped(sites: _Sites, generator: np.random.Generator) -> str | None:
    value = _pick(sites.weights(least_rank=2), generator)
    if value is None:
        return None
    array = _array(value)
    axes = [axis for axis in (0, 1) if array.shape[axis] > 1]
    axis = _pick(axes, generator)
    if axis is None:
        return None
    one, other = generator.choice(array.shape[axis], 2, replace=False)
    moved = np.moveaxis(array, axis, 0)
    moved[[one, other]] = moved[[other, one]]
    _put(value, array)
    return f"{value.name}: {one} and {other} of axis {axis}"


@_kind("bias dropped")
def _bias(sites: _Sites, generator: np.random.Generator) -> str | None:
    found: list[tuple[ir.Node, int]] = []
    for node in sites.node_list("Conv", "ConvTranspose", "Gemm", "Add", "LSTM", "GRU"):
        for place in {"Add": (0, 1), "LSTM": (3,), "GRU": (3,)}.get(node.op_type, (2,)):
            value = node.inputs[place] if place < len(node.inputs) else None
            if value is None or value not in tensors(sites.model):
                continue
            tensor = tensors_of(value)
            if tensor.dtype in _FLOATS and tensor.size >= 2:
                found.append((node, place))
    picked = _pick(found, generator)
    if picked is None:
        return None
    node, place = picked
    value = node.inputs[place]
    if node.op_type in ("Conv", "ConvTranspose"):
        node.replace_input_with(place, None)
    else:
        _put(value, np.zeros_like(_array(value)))
    return f"{value.name} of {node.op_type} {node.outputs[0].name}"


@_kind("embedding row zeroed")
def _embedding(sites: _Sites, generator: np.random.Generator) -> str | None:
    tables = [value for value in sites.weights(places={("Gather", 0)}) if len(tensors_of(value).shape) == 2]
    value = _pick(tables, generator)
    if value is None:
        return None
    array = _array(value)
    row = int(generator.integers(array.shape[0]))
    array[row] = 0
    _put(value, array)
    sites.rows.append(row)
    return f"{value.name}[{row}]"


def _kernel_site(
    sites: _Sites, generator: np.random.Generator, wanted: Callable[[ir.Node, Array], bool]
) -> tuple[ir.Value, ir.Node, Array] | None:
    found = []
    for value in sites.weights(least_rank=3):
        node = _kernel_of(value)
        if node is not None and wanted(node, np.asarray(tensors_of(value).numpy())):
            found.append((value, node, _array(value)))
    picked: tuple[ir.Value, ir.Node, Array] | None = _pick(found, generator)
    return picked


def _along_taps(sites: _Sites, generator: np.random.Generator) -> tuple[ir.Value, Array, int] | None:
    """A kernel with an axis that has several taps."""
    picked = _kernel_site(sites, generator, lambda _, array: max(array.shape[2:]) > 1)
    if picked is None:
        return None
    value, _, array = picked
    return value, array, int(_pick([axis for axis in range(2, array.ndim) if array.shape[axis] > 1], generator))


@_kind("kernel off centre")
def _off_centre(sites: _Sites, generator: np.random.Generator) -> str | None:
    picked = _along_taps(sites, generator)
    if picked is None:
        return None
    value, array, axis = picked
    step = int(generator.choice([-1, 1]))
    array = np.roll(array, step, axis)
    np.moveaxis(array, axis, 0)[0 if step > 0 else -1] = 0
    _put(value, array)
    return f"{value.name} by {step} along axis {axis}"


@_kind("taps reversed")
def _reversed(sites: _Sites, generator: np.random.Generator) -> str | None:
    picked = _along_taps(sites, generator)
    if picked is None:
        return None
    value, array, axis = picked
    _put(value, np.flip(array, axis))
    return f"{value.name} along axis {axis}"


@_kind("groups in wrong order")
def _groups(sites: _Sites, generator: np.random.Generator) -> str | None:
    def grouped(node: ir.Node, array: Array) -> bool:
        count = int(node.attributes["group"].as_int()) if "group" in node.attributes else 1
        return count > 1 and int(array.shape[0]) % count == 0

    picked = _kernel_site(sites, generator, grouped)
    if picked is None:
        return None
    value, node, array = picked
    count = node.attributes["group"].as_int()
    one, other = generator.choice(count, 2, replace=False)
    blocks = array.reshape(count, -1, *array.shape[1:])
    blocks[[one, other]] = blocks[[other, one]]
    _put(value, blocks.reshape(array.shape))
    return f"{value.name}: groups {one} and {other} of {count}"


@_kind("recurrent gates swapped")
def _gates(sites: _Sites, generator: np.random.Generator) -> str | None:
    found = []
    for node in sites.node_list("LSTM", "GRU"):
        for place in (1, 2):
            value = node.inputs[place]
            if value is not None and value in tensors(sites.model):
                found.append((node, value))
    picked = _pick(found, generator)
    if picked is None:
        return None
    node, value = picked
    array = _array(value)
    count = 4 if node.op_type == "LSTM" else 3
    blocks = array.reshape(array.shape[0], count, -1, array.shape[2])
    one, other = generator.choice(count, 2, replace=False)
    blocks[:, [one, other]] = blocks[:, [other, one]]
    _put(value, blocks.reshape(array.shape))
    return f"{value.name}: gates {one} and {other}"


# ---- structure -------------------------------------------------------------------------------------------------------


@_kind("pads off by one")
def _pads(sites: _Sites, generator: np.random.Generator) -> str | None:
    found: list[tuple[ir.Node, int, int]] = []
    for node in sites.node_list("Conv", "MaxPool", "AveragePool", "ConvTranspose"):
        if "pads" not in node.attributes:
            continue
        pads = list(node.attributes["pads"].as_ints())
        half = len(pads) // 2
        found += [(node, axis, step) for axis in range(half) for step in (-1, 1) if _shiftable(pads, axis, step)]
    picked = _pick(found, generator)
    if picked is None:
        return None
    node, axis, step = picked
    pads = list(node.attributes["pads"].as_ints())
    pads[axis] += step
    pads[axis + len(pads) // 2] -= step
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    return f"{node.op_type} {node.outputs[0].name}: {pads}"


def _shiftable(pads: list[int], axis: int, step: int) -> bool:
    begin, end = pads[axis] + step, pads[axis + len(pads) // 2] - step
    return begin >= 0 and end >= 0


@_kind("activation became PRelu(0.25)")
def _activation(sites: _Sites, generator: np.random.Generator) -> str | None:
    node = _pick([node for node in sites.node_list(*_ACTIVATIONS) if _dtype(node.inputs[0]) is not None], generator)
    if node is None:
        return None
    x, y = node.inputs[0], node.outputs[0]
    dtype = _dtype(x)
    name = f"{y.name}_planted_slope"
    slope = ir.Value(name=name)
    slope.const_value = ir.Tensor(np.full((1,), 0.25, dtype.numpy()), dtype=dtype, name=name)
    slope.shape, slope.dtype = ir.Shape([1]), dtype
    graph = sites.model.graph
    graph.register_initializer(slope)
    what = f"{node.op_type} {y.name}"
    _become(node, ir.Node("", "PRelu", [x, slope]))
    return what


def _dtype(value: ir.Value | None) -> Any:
    if value is None:
        return None
    if value.dtype in _FLOATS:
        return value.dtype
    producer = value.producer()
    for item in producer.inputs if producer is not None else ():
        if item is not None and (item.const_value is not None) and item.const_value.dtype in _FLOATS:
            return item.const_value.dtype
    return None


def _become(node: ir.Node, other: ir.Node) -> None:
    """Puts a node in the place of one with a single output, under the same name."""
    old, new = node.outputs[0], other.outputs[0]
    graph = node.graph
    assert graph is not None
    other.name = node.name
    new.shape, new.type = old.shape, old.type
    graph.insert_before(node, other)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    name = old.name
    graph.remove(node, safe=True)
    old.name, new.name = f"{name}__old", name


@_kind("axes swapped in a Transpose")
def _transpose(sites: _Sites, generator: np.random.Generator) -> str | None:
    node = _pick([node for node in sites.node_list("Transpose") if "perm" in node.attributes], generator)
    if node is None:
        return None
    perm = list(node.attributes["perm"].as_ints())
    if len(perm) < 2:
        return None
    one, other = generator.choice(len(perm), 2, replace=False)
    perm[one], perm[other] = perm[other], perm[one]
    node.attributes["perm"] = ir.AttrInt64s("perm", perm)
    return f"{node.outputs[0].name}: {perm}"


@_kind("epsilon changed")
def _epsilon(sites: _Sites, generator: np.random.Generator) -> str | None:
    found: list[Any] = [(node, None) for node in sites.node_list(*_EPSILON)]
    for node in sites.node_list("Add"):
        for value in node.inputs:
            if value is None or value not in tensors(sites.model) or tensors_of(value).size != 1:
                continue
            if 0 < abs(float(np.asarray(tensors_of(value).numpy()).reshape(-1)[0])) < 2e-3:
                found.append((node, value))
    picked = _pick(found, generator)
    if picked is None:
        return None
    node, value = picked
    if value is not None:
        _put(value, _array(value) * 10)
    else:
        before = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
        node.attributes["epsilon"] = ir.AttrFloat32("epsilon", before * 10)
    return f"{node.op_type} {node.outputs[0].name}: ten times as large"


@_kind("BN statistic swapped")
def _statistic(sites: _Sites, generator: np.random.Generator) -> str | None:
    node = _pick(sites.node_list("BatchNormalization"), generator)
    if node is None:
        return None
    mean, bias = node.inputs[3], node.inputs[2]
    node.replace_input_with(2, mean)
    node.replace_input_with(3, bias)
    return f"{node.outputs[0].name}: mean and bias"


@_kind("wrong index in Gather or Slice")
def _index(sites: _Sites, generator: np.random.Generator) -> str | None:
    found: list[tuple[ir.Node, ir.Value]] = []
    known = tensors(sites.model)
    for node in sites.node_list("Gather", "Slice"):
        if len(node.inputs) < 2:
            continue  # a Slice of old, by attributes
        data, index = node.inputs[0], node.inputs[1]
        producer = data.producer() if data is not None else None
        if data in known or (producer is not None and producer.op_type == "Shape"):
            continue
        if index in known and tensors_of(index).dtype in _INTEGERS and tensors_of(index).size:
            found.append((node, index))
    picked = _pick(found, generator)
    if picked is None:
        return None
    node, value = picked
    # Its own copy: exporters share small constants, and one index is to be wrong, not ten.
    moved = _own(sites.model, node, 1)
    if node.op_type == "Gather":
        array = _array(moved)
        flat = array.reshape(-1)
        place = int(generator.integers(flat.size))
        flat[place] += 1 if flat[place] <= 0 else -1
        _put(moved, array)
        return f"Gather {node.outputs[0].name}: {value.name}[{place}]"
    starts = _array(moved)
    place = int(generator.integers(starts.size))
    step = -1 if starts.reshape(-1)[place] > 0 else 1
    starts.reshape(-1)[place] += step
    _put(moved, starts)
    ends = node.inputs[2]
    if ends in known and abs(int(tensors_of(ends).numpy().reshape(-1)[place])) < 1 << 31:
        moved_end = _own(sites.model, node, 2)
        array = _array(moved_end)
        array.reshape(-1)[place] += step
        _put(moved_end, array)
    return f"Slice {node.outputs[0].name}: by {step}"


def _own(model: ir.Model, node: ir.Node, place: int) -> ir.Value:
    """A private copy of a constant input."""
    value = node.inputs[place]
    assert value is not None
    name = f"{value.name}_planted_{node.outputs[0].name}_{place}"
    copy = ir.Value(name=name)
    array = _array(value)
    copy.const_value = ir.Tensor(array, name=name)
    copy.shape, copy.dtype = ir.Shape(array.shape), tensors_of(value).dtype
    model.graph.register_initializer(copy)
    node.replace_input_with(place, copy)
    return copy


@_kind("attention scale off")
def _attention(sites: _Sites, generator: np.random.Generator) -> str | None:
    known = tensors(sites.model)
    found: list[tuple[ir.Node, int]] = []
    for softmax in sites.node_list("Softmax"):
        pending, depth = [softmax.inputs[0]], 0
        while pending and depth < 12:
            value = pending.pop(0)
            depth += 1
            node = value.producer() if value is not None else None
            if node is None:
                continue
            if node.op_type in ("Mul", "Div"):
                for place, item in enumerate(node.inputs):
                    if item in known and tensors_of(item).size == 1 and tensors_of(item).dtype in _FLOATS:
                        found.append((node, place))
            if node.op_type in ("Add", "Mul", "Div", "MatMul", "Transpose", "Where", "Reshape"):
                pending += [item for item in node.inputs if item is not None]
    picked = _pick(found, generator)
    if picked is None:
        return None
    node, place = picked
    value = _own(sites.model, node, place)
    factor = float(generator.choice([0.5, 2.0**0.5, 0.95, 1.05]))
    _put(value, _array(value) * factor)
    return f"{node.op_type} {node.outputs[0].name}: times {factor:.3g}"


@_kind("operands of a Concat swapped")
def _concat(sites: _Sites, generator: np.random.Generator) -> str | None:
    known = tensors(sites.model)
    found = [
        node
        for node in sites.node_list("Concat")
        if len(node.inputs) >= 2
        and all(value is not None and value not in known for value in node.inputs)
        and node.outputs[0].dtype in (*_FLOATS, None)
    ]
    node = _pick(found, generator)
    if node is None:
        return None
    one, other = generator.choice(len(node.inputs), 2, replace=False)
    first, second = node.inputs[one], node.inputs[other]
    node.replace_input_with(int(one), second)
    node.replace_input_with(int(other), first)
    return f"{node.outputs[0].name}: operands {one} and {other}"
