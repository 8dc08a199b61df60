"""What is known of a value before any run: stored tensors, and what exporters compute from them.

A weight is seldom just an initializer. It may be a Constant node, a ConstantOfShape, or either of them behind
Transpose, Reshape, Cast, DequantizeLinear, a per-channel Mul. `chain` says what stands between the stored tensor and
the value, without touching any data; `constant` gives the numbers.

Values are told apart as objects, never by name: an inner graph may shadow a name of an outer one. Inputs of a
model-local function and attributes that refer to the function's own are not constants.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.errors import Refusal
from onnxmorph.graph.evaluate import Unevaluable, evaluate, supported

__all__ = ["ConstantSource", "chain", "constant", "is_constant", "non_finite", "stored"]

_CONSTANT_NUMBERS = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_string": np.object_,
    "value_strings": np.object_,
}
LONGEST_CHAIN = 1024
"""Values; what is computed from more than this many is not taken for a constant."""
_CHUNK = 1 << 22
"""Numbers looked at in one go when a large tensor is searched for NaN: 16 MB of float32."""


def stored(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor a value is stored as, initializer or Constant node, or ``None`` when it is computed or fed.

    Initializers of every scope count, also captured from an outer graph. One that is a graph input as well is given by
    its default: `ConstantSource.overridable` tells whether a caller may replace it.
    """
    if value is None:
        return None
    node = value.producer()
    if node is None:
        return value.const_value
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.attributes) != 1:
        return None
    ((name, attribute),) = node.attributes.items()
    if attribute.is_ref():
        return None
    if name == "value":
        if attribute.type != ir.AttributeType.TENSOR:
            return None
        held: ir.TensorProtocol = attribute.value  # as_tensor() would look for every method of a tensor each time
        return held
    if name in _CONSTANT_NUMBERS and attribute.type.name == name.removeprefix("value_").upper():
        if name.startswith("value_string"):
            texts = [attribute.value] if name == "value_string" else attribute.value
            encoded = [text if isinstance(text, bytes) else text.encode() for text in texts]
            return ir.StringTensor(encoded, shape=ir.Shape([] if name == "value_string" else [len(encoded)]))
        return ir.Tensor(np.asarray(attribute.value, dtype=_CONSTANT_NUMBERS[name]))
    return None  # sparse_value


def _needed(node: ir.Node) -> list[ir.Value]:
    """Inputs whose numbers decide the node's result."""
    if node.op_type == "CastLike":
        return [value for value in node.inputs[:1] if value is not None]
    return [value for value in node.inputs if value is not None]


@dataclass(frozen=True, eq=False)
class _Walk:
    order: tuple[ir.Node, ...]
    roots: tuple[ir.Value, ...]
    reason: str | None


def _obstacle(value: ir.Value) -> str | None:
    """Why a value is not known before a run, or ``None`` when it is; breadth first, for that finds an answer soonest.

    Most values asked about are activations. Behind a sum of a residual network lies the whole network by one operand,
    and by the other a Relu that settles it.
    """
    seen = {value}
    waiting = deque([value])
    while waiting:
        here = waiting.popleft()
        if stored(here) is not None:
            continue
        node = here.producer()
        if node is None:
            kind = "a graph or function input" if here.is_graph_input() else "not stored in the model"
            return f"'{here.name}' is {kind}"
        if not supported(node):
            what = "a sparse or referenced constant" if node.op_type == "Constant" else f"computed by {node.op_type}"
            return f"'{here.name}' is {what}"
        if not _needed(node):
            return f"'{here.name}' is computed by a {node.op_type} without inputs"
        for needed in _needed(node):
            if needed in seen:
                continue
            producer = needed.producer()
            if producer is not None and producer.op_type != "Constant" and not supported(producer):
                return f"'{needed.name}' is computed by {producer.op_type}"
            seen.add(needed)
            waiting.append(needed)
        if len(seen) > LONGEST_CHAIN:
            return f"'{value.name}' is computed by more than {LONGEST_CHAIN} steps"
    return None


def _walk(value: ir.Value) -> _Walk:
    """Everything a value is computed from, in evaluation order; ``reason`` says where it stops being constant."""
    reason = _obstacle(value)
    if reason is not None:
        return _Walk((), (), reason)
    order: list[ir.Node] = []
    roots: list[ir.Value] = []
    done: set[ir.Value | ir.Node] = set()
    stack: list[ir.Value | ir.Node] = [value]  # a node lies below what it needs and comes up after it
    while stack:
        item = stack.pop()
        if isinstance(item, ir.Node):
            order.append(item)
            continue
        if item in done:
            continue
        done.add(item)
        node = item.producer()
        if stored(item) is not None or node is None:
            roots.append(item)
        elif node not in done:
            done.add(node)
            stack.append(node)
            stack.extend(reversed(_needed(node)))
    return _Walk(tuple(order), tuple(roots), None)


def is_constant(value: ir.Value | None) -> bool:
    """Whether a value is known before a run, told without computing anything."""
    return value is not None and _walk(value).reason is None


def constant(value: ir.Value | None) -> np.ndarray[Any, Any] | None:
    """The numbers of a value known before a run, or ``None``.

    A stored tensor is returned as it lies in memory or in the mapped file, not copied: treat it as read-only. Chains
    are evaluated as ONNX says (`onnxmorph.graph.evaluate`); a result over `LARGEST_RESULT` bytes counts as not known.
    """
    if value is None:
        return None
    tensor = stored(value)
    if tensor is not None:
        return tensor.numpy()
    walk = _walk(value)
    if walk.reason is not None:
        return None
    try:
        return _evaluate(value, walk)
    except Unevaluable:
        return None


def _evaluate(value: ir.Value, walk: _Walk) -> np.ndarray[Any, Any]:
    waiting: dict[ir.Value, int] = {}
    for node in walk.order:
        for needed in _needed(node):
            waiting[needed] = waiting.get(needed, 0) + 1
    known: dict[ir.Value, np.ndarray[Any, Any]] = {}
    for node in walk.order:
        wanted = set(_needed(node))
        inputs: list[np.ndarray[Any, Any] | None] = []
        for given in node.inputs:
            if given is None or given not in wanted:
                inputs.append(None)
                continue
            if given not in known:
                tensor = stored(given)
                if tensor is None:
                    raise Unevaluable(f"'{given.name}' is not known")
                known[given] = tensor.numpy()
            inputs.append(known[given])
        for output, array in zip(node.outputs, evaluate(node, inputs), strict=False):
            known[output] = array
        for given in _needed(node):  # drop what nobody waits for: a chain over a big weight holds two copies, not all
            waiting[given] -= 1
            if not waiting[given] and given is not value:
                known.pop(given, None)
    return known[value]


@dataclass(frozen=True, eq=False)
class ConstantSource:
    """Where a constant comes from.

    Attributes:
        value: The value asked about, as the layer uses it.
        root: The stored tensor that carries the data (initializer, Constant output), or the ConstantOfShape's output;
            ``None`` when the value is not constant. With several stored tensors, the one that flows through the data
            input of every step (the quantised weight, not its scale).
        roots: Every stored tensor the value depends on.
        nodes: What lies between, in order of evaluation; empty when the value is itself stored.
        reason: Why it is not constant, or ``None``.
        overridable: A caller may feed another tensor: some root is a graph input too and the IR version is 4 or later
            (before that every initializer had to be listed among the inputs, and ONNX Runtime treats it as constant).
    """

    value: ir.Value
    root: ir.Value | None
    roots: tuple[ir.Value, ...]
    nodes: tuple[ir.Node, ...]
    reason: str | None
    overridable: bool

    @property
    def plain(self) -> bool:
        """The value is directly an initializer."""
        return self.root is self.value and self.value.producer() is None

    @property
    def quantized(self) -> bool:
        """The stored tensor is quantised: the chain goes through DequantizeLinear."""
        return any(node.op_type == "DequantizeLinear" for node in self.nodes)

    @property
    def sharers(self) -> tuple[ir.Node, ...]:
        """Nodes off the chain that use the root tensor or a step of the chain, the asking layer among them.

        More than one means: changing the stored tensor changes something else too.
        """
        on_chain = set(self.nodes)
        steps = [self.root] if self.root is not None else []
        steps += [output for node in self.nodes for output in node.outputs]
        users: dict[ir.Node, None] = {}
        for step in steps:
            for user in step.consumers():
                if user not in on_chain:
                    users[user] = None
        return tuple(users)

    @cached_property
    def shape(self) -> tuple[int, ...] | None:
        """Sizes, for a stored tensor without reading it; a chain is evaluated unless its steps keep the shape."""
        if self.root is None:
            return None
        here = self.value
        while (tensor := stored(here)) is None:
            node = here.producer()
            if node is None or node.op_type not in ("Identity", "Cast", "CastLike", "DequantizeLinear"):
                array = constant(self.value)
                return None if array is None else array.shape
            step = node.inputs[0]
            if step is None:
                return None
            here = step
        return tuple(int(size) for size in tensor.shape.numpy())

    def array(self) -> np.ndarray[Any, Any]:
        """The numbers, not copied where the value is stored.

        Raises:
            Refusal: Not constant, malformed on the way, or too large to compute (code ``not-constant``).
        """
        if self.reason is not None:
            raise Refusal(f"'{self.value.name}' is not known before a run: {self.reason}", code="not-constant")
        tensor = stored(self.value)
        if tensor is not None:
            return tensor.numpy()
        try:
            return _evaluate(self.value, _Walk(self.nodes, self.roots, None))
        except Unevaluable as error:
            raise Refusal(
                f"'{self.value.name}' cannot be computed before a run: {error}", code="not-constant"
            ) from error


def _data_root(value: ir.Value, nodes: tuple[ir.Node, ...]) -> ir.Value:
    on_chain = set(nodes)
    here = value
    for _ in range(len(nodes) + 1):
        node = here.producer()
        if stored(here) is not None or node is None or node not in on_chain or node.op_type == "ConstantOfShape":
            return here
        candidates = [step for step in node.inputs if step is not None]
        if node.op_type in ("Mul", "Div", "Add", "Sub", "Min", "Max", "Where", "Concat"):
            # Scaled or standardised weights: the data is the operand with the most numbers.
            here = max(candidates, key=_stored_size)
        else:
            here = candidates[0]
    return here


def _stored_size(value: ir.Value) -> int:
    walk = _walk(value)
    sizes = [tensor.size for tensor in map(stored, walk.roots) if tensor is not None]
    return max(sizes, default=0)


def chain(value: ir.Value, *, ir_version: int | None = None) -> ConstantSource:
    """What a value is computed from, without computing it.

    Args:
        value: Any value of the model.
        ir_version: The model's, for `ConstantSource.overridable`; unknown counts as 4 or later, the careful reading.
    """
    walk = _walk(value)
    if walk.reason is not None:
        return ConstantSource(value, None, (), (), walk.reason, False)
    overridable = (ir_version is None or ir_version >= 4) and any(root.is_graph_input() for root in walk.roots)
    return ConstantSource(value, _data_root(value, walk.order), walk.roots, walk.order, None, overridable)


def _chunks(array: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    flat = array.reshape(-1) if array.flags.c_contiguous else None
    if flat is None:
        yield array
        return
    for start in range(0, flat.size, _CHUNK):
        yield flat[start : start + _CHUNK]


def non_finite(array: np.ndarray[Any, Any]) -> bool:
    """Whether an array holds NaN or infinities; large ones are looked at piece by piece."""
    if array.dtype.kind in "iubOSU":
        return False
    return any(not bool(np.isfinite(piece).all()) for piece in _chunks(array))
