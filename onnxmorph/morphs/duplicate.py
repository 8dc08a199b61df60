"""Block duplication: a residual block is copied and put after itself, where the copy begins as the identity.

The copy of ``y = x + f(x)`` gives ``y + f'(y)``, and what ends each branch of ``f'`` is zero: the last projection with
its bias, or the scale and shift of a normalisation behind it (Goyal et al., 2017: zero gamma). Behind an activation
``y = phi(x + f(x))`` the copy is exact because ``phi(phi(z) + 0) = phi(z)`` for an idempotent phi, such as ReLU.

Everything else in the copy holds the parent's numbers under names of its own, so that the two can be trained apart;
masks, positions, shapes and what else is no parameter stay shared.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.edit import Builder, rename_value, replace_uses, take_name
from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.graph.constants import chain, constant, is_constant, non_finite, stored
from onnxmorph.graph.labels import generic
from onnxmorph.graph.layers import LinearLayer, layers
from onnxmorph.graph.residual import ResidualBlock, find_block, normalisation_behind, normalises_inside
from onnxmorph.graph.scopes import node_label, subgraphs
from onnxmorph.graph.shapes import Shapes
from onnxmorph.morphs.target import find_layer, layer_by_key
from onnxmorph.plan import Change, NewFactor, Plan

__all__ = ["DuplicatePlan", "plan_duplicate"]

_MOST_TIMES = 100

_TRIAL_SIZES = ((2, 64), (3, 67))
"""Batch and other sizes given to symbolic dims, to see whether two shapes agree that inference does not relate."""

_KEEP_ZERO = frozenset(
    {
        *("Identity", "Dropout", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Slice", "Split"),
        *("Expand", "Tile", "Neg", "AveragePool", "GlobalAveragePool", "MaxPool", "DepthToSpace", "SpaceToDepth"),
        *("Relu", "LeakyRelu", "PRelu", "Tanh", "Gelu", "HardSwish", "Mish", "Elu", "Selu", "Celu", "Softsign"),
        *("ReduceMean", "ReduceSum", "Gather"),
    }
)
"""Give zeros for zeros in their first input, whatever else they read."""

_PARAMETERS: Mapping[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2, 3, 4),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "PRelu": (1,),
    "LSTM": (1, 2, 3, 7),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
}
"""Inputs that training sets, by operator."""

_NORMS: Mapping[str, tuple[int, ...]] = {
    name: tuple(place for place in places if place in (1, 2))
    for name, places in _PARAMETERS.items()
    if name.endswith("Normalization")
}
"""Scale and shift of normalisations: with both zero, they give zero."""

_PER_CHANNEL = frozenset({"Mul", "Add", "Sub", "Div"})

Slot = tuple[ir.Node, int]
"""An input of a node, by place."""


def plan_duplicate(
    model: ir.Model, first: str | LinearLayer, *, last: str | LinearLayer | None = None, times: int = 1
) -> DuplicatePlan:
    """Decide how the residual block that holds two layers is copied after itself; nothing is edited.

    Args:
        model: The parent.
        first: A layer in the block, as a person types it: the block begins no later than the residual add over it.
        last: Another, at its end; default ``first``. The block is the least run of residual adds that holds both: one
            add of a ResNet's block, both of a transformer's.
        times: How many copies, one after the other.

    Raises:
        SelectionError: No such layer, or not a number of copies.
        Refusal: It is no block whose copy can begin as the identity, with the reason.
    """
    if not 1 <= times <= _MOST_TIMES:
        raise SelectionError(f"{times} copies: give a number from 1 to {_MOST_TIMES}")
    one = find_layer(model, first)
    two = one if last is None else find_layer(model, last)
    if one.graph is not two.graph:
        raise Refusal(f"{one.name} and {two.name} are in different graphs", code="scope")
    block = _block(model, one, two)
    ends = _ends(model, block)
    return DuplicatePlan(
        one.key, two.key, one.name, two.name, times, len(block.nodes), tuple(dict.fromkeys(end.name for end in ends))
    )


@dataclass(frozen=True)
class DuplicatePlan(Plan):
    """One block copied, decided.

    Attributes:
        first: Key of a layer in the block.
        last: Key of another one, or of the same.
        first_name: Its name, for people.
        last_name: Its name, for people.
        times: How many copies.
        nodes: Nodes of the block.
        ends: What is zero in the copy, for people: the layers and normalisations that end its branches.
    """

    morph: ClassVar[str] = "duplicate"

    first: str
    last: str
    first_name: str
    last_name: str
    times: int
    nodes: int
    ends: tuple[str, ...]

    def options(self) -> dict[str, Any]:
        """See :meth:`Plan.options`."""
        return {**vars(self), "ends": list(self.ends)}

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> DuplicatePlan:
        """The plan that :meth:`options` came from."""
        values = {name: options[name] for name in cls.__dataclass_fields__ if name != "morph"}
        return cls(**{**values, "ends": tuple(options["ends"])})

    def describe(self) -> str:
        """See :meth:`Plan.describe`."""
        where = self.first_name if self.first == self.last else f"{self.first_name} to {self.last_name}"
        many = "once more" if self.times == 1 else f"{self.times} times more"
        return f"the residual block of {where} ({self.nodes} nodes) {many} after itself, zero in {', '.join(self.ends)}"

    def edit(self, child: ir.Model) -> Change:
        """See :meth:`Plan.edit`."""
        block = _block(child, layer_by_key(child, self.first), layer_by_key(child, self.last))
        ends = _ends(child, block)
        makes = block.exit.producer()
        graph = None if makes is None else makes.graph
        assert makes is not None and graph is not None
        own = _own_layers(child, block)
        build = Builder(child, graph, after=makes)
        value, factors = block.exit, list[NewFactor]()
        for number in range(1, self.times + 1):
            names = _Names(own, "copy" if number == 1 else f"copy{number}")
            copied = _Copy(child, build, block, own, {slot for end in ends for slot in end.slots}, names)
            value = copied.make(value)
            factors.extend(copied.factors)
        replace_uses(block.exit, value, except_nodes=build.nodes)
        take_name(child, value, block.exit)
        return Change(tuple(factors), 0.0, (value.name or "",), _notes(block))


def _notes(block: ResidualBlock) -> tuple[str, ...]:
    inside = set(block.nodes)
    besides = {
        value.name or "": None
        for node in block.nodes
        for value in node.inputs
        if value is not None and value is not block.entry and value.producer() not in inside and not is_constant(value)
    }
    return (f"block and copy both read {', '.join(map(repr, besides))} from outside",) if besides else ()


# -- what may be copied -----------------------------------------------------------------------------------------------


def _block(model: ir.Model, first: LinearLayer, last: LinearLayer) -> ResidualBlock:
    """The block of two layers, if a copy of it can be the identity.

    Raises:
        Refusal: It cannot, with the reason.
    """
    block, shapes = find_block(first.graph, first, last), first.shapes
    _check_activations(block)
    for unit in block.units:
        norm = normalisation_behind(unit)
        if norm is not None and not normalises_inside(unit):
            raise Refusal(
                f"the sum '{unit.name}' is normalised by '{node_label(norm)}' (post-norm): on what it has given, a"
                " normalisation is not the identity",
                way_out="deepen a layer of it instead: --method residual",
                code="post-norm",
            )
    _check_border(block, shapes)
    _check_shapes(model, block, shapes)
    return block


def _check_activations(block: ResidualBlock) -> None:
    """Behind the copy's sums, activations meet what the block's last one has given; there they must be the identity."""
    final = block.units[-1].activation
    for unit in block.units:
        phi = unit.activation
        if phi is None:
            continue
        if not phi.idempotent:
            raise Refusal(
                f"the {phi.name} behind the sum '{unit.name}' is not idempotent: a copy would apply it once more",
                way_out="only ReLU, and Clip alike, may follow the sum",
                code="activation-not-idempotent",
            )
        if final is None or phi.text != final.text:
            raise Refusal(
                f"the {phi.name} behind the sum '{unit.name}' would change what the block gives:"
                f" behind its last sum '{block.units[-1].name}' there is {'none' if final is None else final.name}",
                way_out="name layers of one unit of it",
                code="activation-differs",
            )


_WHOLE = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)


def _check_border(block: ResidualBlock, shapes: Shapes) -> None:
    inside = set(block.nodes)
    for node in block.nodes:
        if next(subgraphs(node), None) is not None:
            raise Refusal(
                f"the block holds the {node.op_type} '{node_label(node)}', whose bodies are not copied", code="body"
            )
        for value in node.outputs:
            if value is block.exit:
                continue
            leaves = value.is_graph_output() or any(reader not in inside for reader in value.consumers())
            # Sizes that later layers read, computed once here: each copy computes its own.
            if leaves and shapes.dtype(value) not in _WHOLE:
                reader = next((reader for reader in value.consumers() if reader not in inside), None)
                where = "is an output of the model" if reader is None else f"is read by '{node_label(reader)}' outside"
                raise Refusal(
                    f"'{value.name}', computed inside the block, {where}: its copy would reach nobody", code="border"
                )


def _check_shapes(model: ir.Model, block: ResidualBlock, shapes: Shapes) -> None:
    one, two = shapes.shape(block.entry), shapes.shape(block.exit)
    if one is not None and one == two and None not in one:
        return
    if one is not None and two is not None:
        known = [(a, b) for a, b in zip(one, two, strict=False) if isinstance(a, int) and isinstance(b, int)]
        if len(one) != len(two) or any(a != b for a, b in known):
            raise Refusal(
                f"the block takes {_dims(one)} and gives {_dims(two)}: its copy would not take what it gives",
                code="shape-differs",
            )
    for batch, size in _TRIAL_SIZES:
        fixed = {
            value.name: [
                dim if isinstance(dim, int) else batch if place == 0 else size for place, dim in enumerate(value.shape)
            ]
            for value in model.graph.inputs
            if value.name and value.shape is not None and not value.is_initializer()
        }
        trial = Shapes.of(model, fixed)
        one, two = trial.shape(block.entry), trial.shape(block.exit)
        if one is None or two is None or not all(isinstance(dim, int) for dim in (*one, *two)):
            continue
        if one != two:
            raise Refusal(
                f"the block takes {_dims(one)} and gives {_dims(two)}: its copy would not take what it gives",
                code="shape-differs",
            )
        return
    raise Refusal(
        "the shapes at the block's two ends cannot be told before a run",
        way_out="fix the model's input sizes",
        code="shape-unknown",
    )


def _dims(dims: Sequence[int | str | None]) -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in dims) + "]"


# -- what makes the branches zero -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _End:
    """What ends a branch: inputs that are zero in the copy, and its name for people."""

    name: str
    slots: tuple[Slot, ...] = field(compare=False)


def _own_layers(model: ir.Model, block: ResidualBlock) -> list[LinearLayer]:
    inside = set(block.nodes)
    return [layer for layer in layers(model) if all(node in inside for node in layer.nodes)]


def _ends(model: ir.Model, block: ResidualBlock) -> list[_End]:
    """What has to be zero in a copy for every branch to give zero.

    Raises:
        Refusal: A branch ends in something that zero weights do not make zero.
    """
    walk = _ZeroWalk(set(block.nodes), _own_layers(model, block))
    found: list[_End] = []
    for unit in block.units:
        for branch in unit.branches:
            ends = walk.ends(branch)
            if ends is None:
                raise Refusal(
                    f"the branch that the sum '{unit.name}' adds ends in {walk.stopped}, which no zero weights silence",
                    code="branch-end",
                )
            found.extend(ends)
        for node in unit.sums:
            # A constant among the summands of the tree would be added twice.
            places = [place for place, value in enumerate(node.inputs) if value is not None and is_constant(value)]
            if places:
                found.append(_End(node_label(node), tuple((node, place) for place in places)))
    return found


class _ZeroWalk:
    """From a value backwards through what keeps zeros zero, to parameters that make it zero."""

    def __init__(self, inside: set[ir.Node], found: Sequence[LinearLayer]) -> None:
        self._inside = inside
        self._layers = {layer.output: layer for layer in found if layer.blocked is None}
        self.stopped = ""

    def ends(self, value: ir.Value) -> list[_End] | None:
        """What to make zero, or ``None`` (with ``stopped`` saying where)."""
        layer = self._layers.get(value)
        if layer is not None:
            return [_End(layer.name, tuple(_layer_slots(layer)))]
        node = value.producer()
        if node is None or node not in self._inside:
            self.stopped = f"'{value.name}', which comes from outside the block"
            return None
        self.stopped = f"the {node.op_type} '{node_label(node)}'"
        if node.domain not in ("", "ai.onnx"):
            return None
        op, given = node.op_type, [item for item in node.inputs if item is not None]
        if op in _NORMS:
            return self._norm(node)
        if op in _KEEP_ZERO:
            return (
                self.ends(given[0]) if op != "Cast" or value.dtype is None or value.dtype.is_floating_point() else None
            )
        if op == "Concat":
            return self._all(given)
        if op in ("Add", "Sum", "Sub"):
            return self._sum(node)
        if op in ("Mul", "MatMul"):
            return self._product(node)
        if op == "Div" and is_constant(node.inputs[1]):
            return self.ends(given[0])
        return None

    def _norm(self, node: ir.Node) -> list[_End] | None:
        training = node.attributes.get("training_mode")
        if training is not None and not training.is_ref() and training.value:
            return None
        slots = [(node, place) for place in _NORMS[node.op_type] if place < len(node.inputs)]
        if not slots or any(constant(node.inputs[place]) is None for _, place in slots):
            return None
        return [_End(node_label(node), tuple(slots))]

    def _all(self, values: Sequence[ir.Value]) -> list[_End] | None:
        found: list[_End] = []
        for value in values:
            ends = self.ends(value)
            if ends is None:
                return None
            found.extend(ends)
        return found

    def _sum(self, node: ir.Node) -> list[_End] | None:
        moving = [value for value in node.inputs if value is not None and not is_constant(value)]
        found = self._all(moving)
        if found is None or not moving:
            return None
        shifts = tuple(
            (node, place) for place, value in enumerate(node.inputs) if value is not None and is_constant(value)
        )
        return [*found, _End(node_label(node), shifts)] if shifts else found

    def _product(self, node: ir.Node) -> list[_End] | None:
        """One zero side is enough: a moving one, else the constant (a scale per channel)."""
        moving = [value for value in node.inputs if value is not None and not is_constant(value)]
        for value in moving:
            ends = self.ends(value)
            if ends is not None:
                return ends
        scales = [place for place, value in enumerate(node.inputs) if value is not None and is_constant(value)]
        if scales and node.op_type == "Mul":
            return [_End(node_label(node), ((node, scales[0]),))]
        self.stopped = f"the {node.op_type} '{node_label(node)}'"
        return None


def _layer_slots(layer: LinearLayer) -> list[Slot]:
    stored_values = [layer.weight.value] + ([layer.bias.value] if layer.bias is not None else [])
    return [
        (node, place)
        for node in layer.nodes
        for place, value in enumerate(node.inputs)
        if value is not None and any(value is one for one in stored_values)
    ]


# -- the copy ---------------------------------------------------------------------------------------------------------


class _Names:
    """``layer3.1.conv1.weight`` becomes ``layer3.1.copy.conv1.weight``: after what all layers of the block share."""

    def __init__(self, found: Sequence[LinearLayer], suffix: str) -> None:
        labels = [layer.label.split(".") for layer in found if not generic(layer.label)]
        shared: list[str] = []
        for parts in zip(*labels, strict=False):
            if len(set(parts)) > 1:
                break
            shared.append(parts[0])
        self._suffix = suffix
        # Names of weights have dots where names of nodes have slashes.
        joined = r"[./]".join(map(re.escape, shared))
        self._stem = re.compile(rf"(?<![A-Za-z0-9_])({joined})(?![A-Za-z0-9_])") if shared else None

    def of(self, name: str) -> str:
        """The name in the copy of what is called ``name`` in the block."""
        if self._stem is not None:
            renamed, times = self._stem.subn(lambda found: f"{found[1]}.{self._suffix}", name, count=1)
            if times:
                return renamed
        return f"{name}.{self._suffix}"


class _Copy:
    """One copy of a block.

    Args:
        model: Edited in place.
        build: Where the nodes go.
        block: What is copied.
        own: Its linear layers.
        zero: Inputs that are zero in the copy.
        names: What things are called in it.
    """

    def __init__(
        self,
        model: ir.Model,
        build: Builder,
        block: ResidualBlock,
        own: Sequence[LinearLayer],
        zero: set[Slot],
        names: _Names,
    ) -> None:
        self._model, self._build, self._block, self._names = model, build, block, names
        self._inside = set(block.nodes)
        self._zero = zero
        self._weights = {slot for layer in own for slot in _layer_slots(layer)}
        self._made: dict[ir.Value, ir.Value] = {}
        self._constants: dict[ir.Value, ir.Value] = {}
        self.factors: list[NewFactor] = []

    def make(self, entry: ir.Value) -> ir.Value:
        """Adds the copy, reading ``entry``; gives what it computes."""
        self._made[self._block.entry] = entry
        for node in self._block.nodes:
            inputs = [self._input(node, place, value) for place, value in enumerate(node.inputs)]
            first = node.outputs[0].name or node.name or node.op_type
            self._build.copy(node, inputs, name=self._names.of(node.name or first), output=self._names.of(first))
            for old, new in zip(node.outputs, self._build.nodes[-1].outputs, strict=True):
                if not old.name:
                    new.name = ""  # an output that is left out
                elif old is not node.outputs[0]:
                    rename_value(self._model, new, self._names.of(old.name))
                new.type = copy.copy(old.type)
                new.shape = None if old.shape is None else old.shape.copy()
                self._made[old] = new
        return self._made[self._block.exit]

    def _input(self, node: ir.Node, place: int, value: ir.Value | None) -> ir.Value | None:
        if value is None:
            return None
        if value in self._made:
            return self._made[value]
        if (node, place) in self._zero:
            return self._zeros(value)
        if is_constant(value) and ((node, place) in self._weights or self._is_parameter(node, place, value)):
            return self._constant(value)
        return value

    def _zeros(self, value: ir.Value) -> ir.Value:
        array = constant(value)
        assert array is not None
        source = chain(value).root
        zeros = np.zeros_like(array)
        name = self._names.of((source.name if source is not None else None) or value.name or "zero")
        made = self._build.initializer(name, zeros)
        if zeros.ndim > 1:
            self.factors.append(NewFactor(made.name or "", zeros.shape, 0.0, 0.0))
        return made

    def _is_parameter(self, node: ir.Node, place: int, value: ir.Value) -> bool:
        """Whether training sets this constant: what is per channel is; what is finite over positions is a table."""
        if place in _PARAMETERS.get(node.op_type, ()):
            return True
        array = constant(value)
        if array is None or not _is_float(array) or array.size < 2 or non_finite(array):
            return False
        if node.domain not in ("", "ai.onnx"):
            return True
        if node.op_type == "Gather" and place == 0:
            return array.ndim == 2
        per_channel = max(array.shape) == array.size
        return node.op_type in _PER_CHANNEL and per_channel and all(user in self._inside for user in value.consumers())

    def _constant(self, value: ir.Value) -> ir.Value:
        """The same numbers under another name; what stands between them and the value is copied with them."""
        if value in self._constants:
            return self._constants[value]
        tensor = stored(value)
        node = value.producer()
        if tensor is not None:
            whole = not tensor.dtype.is_floating_point() and tensor.dtype.bitwidth > 8
            made = value
            if not whole and len(tensor.shape):
                made = self._build.initializer(self._names.of(value.name or "weight"), tensor.numpy(), tensor.dtype)
        else:
            assert node is not None
            inputs = [None if given is None else self._constant(given) for given in node.inputs]
            name = value.name or node.op_type
            made = self._build.copy(node, inputs, name=self._names.of(node.name or name), output=self._names.of(name))
            made = self._build.nodes[-1].outputs[value.index() or 0]
        self._constants[value] = made
        return made


def _is_float(array: np.ndarray[Any, Any]) -> bool:
    return bool(array.dtype.kind == "f" or array.dtype.name == "bfloat16")
