"""A place that folds, what is known of the model while looking for one, and the edits that all kinds share."""

from __future__ import annotations

import abc
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.edit import drop_unused, rename_value, replace_uses, take_name
from onnxmorph.errors import Refusal
from onnxmorph.graph.affine import only_user
from onnxmorph.graph.attributes import WrongAttribute, integer
from onnxmorph.graph.axes import GroupTable
from onnxmorph.graph.constants import chain
from onnxmorph.graph.layers import LinearLayer, layers
from onnxmorph.graph.scopes import Scope, nodes
from onnxmorph.graph.shapes import Shapes
from onnxmorph.morphs.widen import coupled_groups

__all__ = [
    "Array",
    "Edited",
    "Finding",
    "Rule",
    "View",
    "attempt",
    "bypass",
    "can_bypass",
    "passes_on",
    "rename_between",
    "shared_name",
    "through_no_ops",
    "value_place",
]

Array = np.ndarray[Any, Any]

Found = TypeVar("Found")


@dataclass(frozen=True)
class Edited:
    """What carrying out findings did.

    Attributes:
        frontier: Names of values at the border of what changed.
        nodes: Nodes that are new.
        notes: Things a user should know.
        index_maps: Per stored tensor that lost indices, where those that stay come from; see :class:`Change`.
        resized: Names of computed values whose shape changed.
    """

    frontier: tuple[str, ...] = ()
    nodes: tuple[ir.Node, ...] = ()
    notes: tuple[str, ...] = ()
    index_maps: dict[str, Any] = field(default_factory=dict)
    resized: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Finding:
    """One place that folds. All that could refuse has been looked at; ``edit`` only does it.

    Attributes:
        place: Scope path, ``::``, and name of the value it is about: what a record finds it again by.
        text: What is found, for a person, in one line.
        touches: Nodes (for channels, axes of tensors) that it reads or changes: findings of one sweep share none.
        edit: Carries it out, on the model it was found in.
        near: Further nodes by which it counts as touching a layer.
    """

    place: str
    text: str
    touches: frozenset[object]
    edit: Callable[[], Edited]
    near: frozenset[object] = frozenset()


_LONGEST = 32

_TRIAL_SIZES = (64, 97)
_TRIAL_STEP = 32
"""Sizes given to open dims where shapes are tried: multiples of 32, then odd ones."""

_KEEP_SHAPE = frozenset(
    {
        *("Abs", "Celu", "Clip", "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity"),
        *("LeakyRelu", "Mish", "Neg", "PRelu", "Relu", "Selu", "Shrink", "Sigmoid", "Sin", "Softplus", "Softsign"),
        *("Sqrt", "Tanh", "ThresholdedRelu", "BatchNormalization"),
    }
)
"""Operators whose first output is shaped like their first input."""

_BROADCAST = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min"})


def _keeps_size(layer: LinearLayer) -> bool:
    """Whether a layer's output is shaped like its input."""
    if layer.in_channels != layer.out_channels or any(stride != 1 for stride in layer.strides):
        return False
    if not layer.kernel:
        return layer.input_axis == layer.output_axis
    if layer.pads is None or layer.pads.explicit is None or any(layer.pads.output_padding) or layer.pads.sized:
        return False
    sums = [before + after for before, after in zip(*layer.pads.explicit, strict=True)]
    return sums == [d * (size - 1) for d, size in zip(layer.dilations, layer.kernel, strict=True)]


class View:
    """One model as the finders see it: what is derived is derived once, and an edit makes it stale."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model

    @cached_property
    def shapes(self) -> Shapes:
        """Shapes and types of all values."""
        return Shapes.of(self.model)

    @cached_property
    def layers(self) -> list[LinearLayer]:
        """Every linear layer, blocked ones too."""
        return layers(self.model, self.shapes)

    @cached_property
    def foldable(self) -> list[LinearLayer]:
        """Layers whose numbers may be changed: constant finite float weights of their own, not quantised."""
        return [layer for layer in self.layers if _own_floats(layer)]

    @cached_property
    def by_node(self) -> dict[ir.Node, LinearLayer]:
        """The foldable layer of a node."""
        return {layer.node: layer for layer in self.foldable}

    @cached_property
    def by_output(self) -> dict[ir.Value, LinearLayer]:
        """The foldable layer whose output, bias and all, a value is."""
        return {layer.output: layer for layer in self.foldable}

    @cached_property
    def places(self) -> list[tuple[Scope, ir.Node]]:
        """Every node with its scope."""
        return list(nodes(self.model))

    @cached_property
    def scope_of(self) -> dict[ir.Node, str]:
        """Scope path of every node."""
        return {node: scope.path for scope, node in self.places}

    @cached_property
    def table(self) -> GroupTable:
        """Coupled groups."""
        return coupled_groups(self.model)

    def known(self, value: ir.Value | None) -> Array | None:
        """A value's numbers where they are known before a run and no caller may replace them."""
        if value is None:
            return None
        source = chain(value, ir_version=self.model.ir_version)
        if source.reason is not None or source.overridable:
            return None
        from onnxmorph.graph.constants import constant

        return constant(value)

    def same_shape(self, one: ir.Value, other: ir.Value) -> bool:
        """Whether two values have the same sizes on every run, as far as can be told."""
        if one is other:
            return True
        left, right = self.shapes.shape(one), self.shapes.shape(other)
        if left is not None and left == right and None not in left:
            return True
        return self._source(one) is self._source(other) or self._same_on_trial(one, other)

    @cached_property
    def _trials(self) -> list[Shapes]:
        """Shapes for some sizes of what is open, every name and every nameless axis another one."""
        trials = []
        for start in _TRIAL_SIZES:
            named: dict[str, int] = {}
            fixed: dict[str, list[int]] = {}
            for value in self.model.graph.inputs:
                if value.shape is None or not value.name or value.is_initializer():
                    continue
                sizes: list[int] = []
                for place, dim in enumerate(value.shape):
                    if isinstance(dim, int):
                        sizes.append(dim)
                        continue
                    key = dim.value or f"{value.name} {place}"
                    sizes.append(named.setdefault(key, start + _TRIAL_STEP * len(named)))
                fixed[value.name] = sizes
            trials.append(Shapes.of(self.model, fixed))
        return trials

    def _same_on_trial(self, one: ir.Value, other: ir.Value) -> bool:
        """Whether two values have the same sizes on every trial; inference does not relate nameless ones."""
        for shapes in self._trials:
            left, right = shapes.shape(one), shapes.shape(other)
            if left is None or left != right or not all(isinstance(size, int) for size in left):
                return False
        return True

    def _source(self, value: ir.Value) -> ir.Value:
        """A value further up that has the same sizes, whatever they are: through what keeps its input's shape."""
        for _ in range(_LONGEST):
            node = value.producer()
            step = None if node is None else self._shaped_like(node, value)
            if step is None:
                break
            value = step
        return value

    def _shaped_like(self, node: ir.Node, value: ir.Value) -> ir.Value | None:
        """The input of a node that its output is shaped like, on every run."""
        if node.domain not in ("", "ai.onnx") or not node.inputs or node.inputs[0] is None:
            return None
        first = node.inputs[0]
        if node.op_type in _KEEP_SHAPE and value is node.outputs[0]:
            return first
        if (layer := self.by_node.get(node)) is not None:
            return layer.input if _keeps_size(layer) else None
        data = [given for given in node.inputs if given is not None and chain(given).reason is not None]
        if node.op_type not in _BROADCAST or not data:
            return None
        fixed = [given for given in node.inputs if given is not None and given not in data]
        rank = self._least_rank(data[0])
        for given in fixed:
            shape = self.shapes.shape(given)
            if shape is None or len(shape) > rank:
                return None
            channels = self._channels(data[0])
            wide = [place - len(shape) for place, size in enumerate(shape) if size != 1]
            if wide and (channels is None or wide != [channels[0]] or shape[wide[0]] != channels[1]):
                return None
        sources = {self._source(given) for given in data}
        return data[0] if len(sources) == 1 else None

    def _maker(self, value: ir.Value) -> LinearLayer | None:
        """The layer whose output a value is, or is an element-wise function of."""
        for _ in range(_LONGEST):
            if value in self.by_output:
                return self.by_output[value]
            node = value.producer()
            if node is None or node.domain not in ("", "ai.onnx"):
                return None
            if node in self.by_node:
                return self.by_node[node]
            if node.op_type not in _KEEP_SHAPE or node.inputs[0] is None:
                return None
            value = node.inputs[0]
        return None

    def _least_rank(self, value: ir.Value) -> int:
        rank = self.shapes.rank(value)
        layer = self._maker(value)
        return (
            rank if rank is not None else 0 if layer is None else max(1, len(layer.kernel) + 2 if layer.kernel else 1)
        )

    def _channels(self, value: ir.Value) -> tuple[int, int] | None:
        """Axis of the channels, from the end, and how many there are."""
        layer = self._maker(value)
        if layer is None:
            return None
        axis = layer.output_axis
        return (axis if axis < 0 else axis - (len(layer.kernel) + 2), layer.out_channels)

    def place(self, value: ir.Value) -> str:
        """How a record names a value: by the scope of the node that makes it."""
        return value_place(self.scope_of, value)


def value_place(scope_of: dict[ir.Node, str], value: ir.Value) -> str:
    """``scope::name`` of a computed value."""
    node = value.producer()
    return f"{scope_of.get(node, '') if node is not None else ''}::{value.name}"


class Rule(abc.ABC):
    """One kind of fold."""

    kind: ClassVar[str]

    @abc.abstractmethod
    def find(self, view: View) -> Iterator[Finding]:
        """Every place of this kind in a model, in a fixed order; nothing is edited."""

    def carry_out(self, view: View, findings: Sequence[Finding]) -> Edited:  # noqa: ARG002
        """Carry out findings of one sweep of ``view``, which touch nothing in common."""
        return together(finding.edit() for finding in findings)


def together(edits: Iterable[Edited]) -> Edited:
    """Several edits as one."""
    done = list(edits)
    maps: dict[str, Any] = {}
    for one in done:
        maps.update(one.index_maps)
    return Edited(
        tuple(name for one in done for name in one.frontier),
        tuple(node for one in done for node in one.nodes),
        tuple(note for one in done for note in one.notes),
        maps,
        tuple(name for one in done for name in one.resized),
    )


def attempt(find: Callable[[], Found | None]) -> Found | None:
    """What is found, or ``None`` where numbers that it needs refuse to be read (NaN, too large to compute)."""
    try:
        return find()
    except Refusal:
        return None


def _own_floats(layer: LinearLayer) -> bool:
    if layer.blocked is not None or layer.shared_with or layer.weight.quantized:
        return False
    if layer.equation is not None and not layer.equation.in_place:
        return False  # its channels move, or lie on several axes
    return layer.bias is None or not layer.bias.overridable


# -- values that pass on other values --------------------------------------------------------------------------------


def can_bypass(out: ir.Value, kept: ir.Value) -> bool:
    """Whether whoever reads ``out`` may read ``kept`` in its place, the interface included."""
    if not out.is_graph_output():
        return True
    maker, last = kept.producer(), out.producer()
    if maker is None or last is None or maker.graph is not last.graph:
        return False  # an input, or a value of an outer graph, is no output of this one
    return not kept.is_graph_output() and not kept.is_graph_input()


def bypass(model: ir.Model, out: ir.Value, kept: ir.Value) -> str:
    """Everybody reads ``kept`` in place of ``out``, whose node goes; gives the name the value has now.

    The name of ``out`` stays where it can: it is the one that further layers, and the model's outputs, know.
    """
    node, maker = out.producer(), kept.producer()
    renamed = (
        maker is not None
        and node is not None
        and maker.graph is node.graph
        and not kept.is_graph_output()
        and not kept.is_graph_input()
        and bool(out.name)
    )
    replace_uses(out, kept)
    if renamed:
        take_name(model, kept, out)
    if node is not None:
        drop_unused(model, [node])
    return kept.name or ""


def rename_between(model: ir.Model, first: ir.Value, last: str) -> None:
    """New names for ``first`` and all on the one way from it to the value named ``last``: their numbers have changed.

    A value that keeps its name and its shape would claim to mean what it meant.
    """
    value: ir.Value | None = first
    while value is not None and value.name != last and value.name and not value.is_graph_output():
        node = only_user(value)
        rename_value(model, value, f"{value.name}_folded")
        value = None if node is None else node.outputs[0]


def passes_on(node: ir.Node) -> bool:
    """Whether a node gives its first input unchanged: Identity, or Dropout that does not train."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in ("Identity", "Dropout"):
        return False
    if node.op_type == "Identity":
        return True
    if any(mask.uses() or mask.is_graph_output() for mask in node.outputs[1:]):
        return False
    training = node.inputs[2] if len(node.inputs) > 2 else None
    try:
        if integer(node, "is_test", 1) == 0:
            return False
    except WrongAttribute:
        return False
    if training is None:
        return True
    source = chain(training)
    return source.reason is None and not source.overridable and not bool(np.any(source.array()))


def through_no_ops(value: ir.Value) -> tuple[ir.Node, list[ir.Node]] | None:
    """The one node that uses a value in the graph that makes it, and the no-ops passed on the way to it."""
    passed: list[ir.Node] = []
    while True:
        node = only_user(value)
        if node is None:
            return None
        if not passes_on(node):
            return node, passed
        passed.append(node)
        value = node.outputs[0]


# -- names -----------------------------------------------------------------------------------------------------------


def shared_name(names: Sequence[str]) -> str:
    """What several parts were made of: ``conv3.0.weight`` and ``conv3.1.weight`` give ``conv3.weight``, else the first.

    The inverse of how a morph names the parts of a layer: a number, ``path0`` and the like after the layer's own name,
    and perhaps a role or an operator after that.
    """
    split = [re.split(r"([./])", name) for name in names]
    same = 0
    while all(len(parts) > same for parts in split) and len({parts[same] for parts in split}) == 1:
        same += 1
    same -= same % 2  # a name and the mark after it go together
    rests = [parts[same::2] for parts in split]
    if len(names) < 2 or not same or not all(rests):
        return names[0]
    role = [] if _PART.fullmatch(rests[0][-1]) else [rests[0][-1]]
    bodies = [rest if _PART.fullmatch(rest[-1]) else rest[:-1] for rest in rests]
    if not all(_PART.fullmatch(token) for body in bodies for token in body) or not any(bodies):
        return names[0]
    return "".join(split[0][: same if role else same - 1] + role)


_PART = re.compile(r"\d+|path\d+")
