"""From a graph to a program: operators looked up, attributes read, constants computed, functions taken apart.

On the way two things are followed for each value: whether it depends on sizes alone, and which weights it carries a
gradient of, so that what cannot be trained is told before anything is run.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from onnxmorph._ir import ir
from onnxmorph.errors import OnnxMorphError, Refusal
from onnxmorph.graph.constants import stored
from onnxmorph.graph.scopes import node_label, subgraphs
from onnxmorph.grow.call import Call, Mode
from onnxmorph.grow.fusion import fuse
from onnxmorph.grow.program import NOWHERE, Program, Step
from onnxmorph.grow.registry import Operator, domain_of, find
from onnxmorph.grow.sites import Site
from onnxmorph.grow.standard_functions import body_of
from onnxmorph.grow.types import to_torch, torch_type

__all__ = ["Obstacle", "compile_graph"]

Tensor = torch.Tensor

_LARGEST_FOLDED = 1 << 24
"""Numbers in a constant that is computed when a program is made; larger ones are computed in each run."""
_BY_STORED_TYPE = frozenset({"CastLike", "QuantizeLinear"})
"""Operators whose result depends on a type that torch does not tell apart, of four or two bits."""


@dataclass(frozen=True)
class Obstacle:
    """Where the gradient of a weight ends: the operator and the node."""

    op: str
    label: str


@dataclass(frozen=True, eq=False)
class _Known:
    """A value that is known before a run."""

    value: Any


@dataclass(frozen=True, eq=False)
class _Weight:
    """A stored floating-point tensor."""

    key: str


@dataclass(frozen=True, eq=False)
class _Computed:
    """A value of one run.

    Attributes:
        scope: The compilation it belongs to.
        slot: Its place there.
        of_sizes: It depends on nothing but sizes.
        carries: A gradient reaches it from these weights, one bit each.
    """

    scope: _Compilation
    slot: int
    of_sizes: bool
    carries: int


_Reference = _Known | _Weight | _Computed


@dataclass
class _Shared:
    """What the compilations of all scopes of a model share."""

    model: ir.Model
    mode: Mode
    sites: Mapping[ir.Value, Site]
    bits: Mapping[str, int]
    """Of each weight that a gradient is wanted of, a number with one bit set."""
    tensors: dict[str, Tensor]
    stopped: list[tuple[int, Obstacle]]
    """Weights whose gradient ends, and where."""

    def carried(self, *references: _Reference | None) -> int:
        """The weights that values carry a gradient of."""
        found = 0
        for reference in references:
            if isinstance(reference, _Weight):
                found |= self.bits.get(reference.key, 0)
            elif isinstance(reference, _Computed):
                found |= reference.carries
        return found


class _Compilation:
    """One graph, or the body of a node, being compiled."""

    def __init__(self, shared: _Shared, outer: _Environment | None) -> None:
        self.shared = shared
        self.outer = outer
        self.program = Program(shared.mode)
        self._weight_slots: dict[str, int] = {}
        self._known_slots: dict[int, int] = {}
        self._captured: dict[tuple[_Compilation, int], _Computed] = {}
        self.captures: list[_Computed] = []
        self.kept_alive: list[Any] = []

    def slot(self) -> int:
        self.program.size += 1
        return self.program.size - 1

    def place(self, reference: _Reference) -> int:
        """The slot in which this program finds a value."""
        if isinstance(reference, _Weight):
            if reference.key not in self._weight_slots:
                self._weight_slots[reference.key] = self.slot()
                self.program.weights.append((self._weight_slots[reference.key], reference.key))
            return self._weight_slots[reference.key]
        if isinstance(reference, _Known):
            found = self._known_slots.get(id(reference.value))
            if found is None:
                found = self._known_slots[id(reference.value)] = self.slot()
                self.program.constants.append((found, reference.value))
                self.kept_alive.append(reference.value)
            return found
        if reference.scope is self:
            return reference.slot
        mark = (reference.scope, reference.slot)
        if mark not in self._captured:
            slot = self.slot()
            self._captured[mark] = _Computed(self, slot, reference.of_sizes, reference.carries)
            self.captures.append(reference)
            self.program.captured.append(slot)
        return self._captured[mark].slot


@dataclass
class _Environment:
    """What the values of a scope are; a function's body has an environment of its own in the same compilation.

    Attributes:
        compilation: Where steps go.
        references: By value.
        around: The environment of the graph around it, for a body.
        attributes: Of the call, for the body of a function.
        prefix: For messages.
        opsets: Versions of the operators.
    """

    compilation: _Compilation
    references: dict[ir.Value, _Reference]
    around: _Environment | None
    attributes: Mapping[str, ir.Attr]
    prefix: str
    opsets: Mapping[str, int]

    def find(self, value: ir.Value) -> _Reference:
        here: _Environment | None = self
        while here is not None:
            if value in here.references:
                return here.references[value]
            here = here.around
        tensor = stored(value)
        if tensor is None:
            raise Refusal(f"the value '{value.name}' is not computed by anything", code="malformed-graph")
        reference = self._stored(value, tensor)
        self.references[value] = reference
        return reference

    def _stored(self, value: ir.Value, tensor: ir.TensorProtocol) -> _Reference:
        shared = self.compilation.shared
        site = shared.sites.get(value)
        if site is not None and site.key in shared.tensors:
            return _Weight(site.key)
        return _Known(_narrowed(to_torch(tensor), shared.mode))


def _narrowed(tensor: Tensor, mode: Mode) -> Tensor:
    return tensor.to(mode.widened(tensor.dtype))


def compile_graph(
    model: ir.Model,
    *,
    mode: Mode,
    sites: Mapping[ir.Value, Site],
    tensors: dict[str, Tensor],
    trainable: Collection[str],
    inputs: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
) -> tuple[Program, dict[str, Obstacle | None]]:
    """Compile what the wanted outputs need.

    Args:
        model: Left as it is.
        mode: What the module and its program share.
        sites: Where stored tensors are.
        tensors: Those that are weights, by key; the rest are constants.
        trainable: Keys of those that a gradient is wanted of.
        inputs: Of the main graph, in the order of the arguments.
        outputs: Wanted values of the main graph.

    Returns:
        The program; and for each weight in ``trainable`` that no wanted output has a gradient of, where it ends, or
        ``None`` where no wanted output uses it.

    Raises:
        Refusal: An operator cannot be run here, by name.
    """
    keys = list(trainable)
    shared = _Shared(model, mode, sites, {key: 1 << place for place, key in enumerate(keys)}, tensors, [])
    compilation = _Compilation(shared, None)
    environment = _Environment(compilation, {}, None, {}, "", model.opset_imports)
    for value in inputs:
        slot = compilation.slot()
        compilation.program.inputs.append(slot)
        environment.references[value] = _Computed(compilation, slot, False, 0)
    needed = _needed(outputs)
    _compile_nodes((node for node in model.graph if node in needed), environment)
    references = [environment.find(value) for value in outputs]
    _finish(compilation, references)
    reached = 0
    for reference in references:
        reached |= shared.carried(reference)
    unreached = {
        key: next((obstacle for weights, obstacle in shared.stopped if weights & bit), None)
        for key, bit in shared.bits.items()
        if not reached & bit
    }
    return compilation.program, unreached


def _needed(outputs: Sequence[ir.Value]) -> set[ir.Node]:
    """Nodes that the outputs are computed from, also by way of bodies."""
    needed: set[ir.Node] = set()
    waiting = list(outputs)
    seen: set[ir.Value] = set()
    inside: list[ir.Node] = []
    while waiting or inside:
        if inside:
            node = inside.pop()
            waiting.extend(value for value in node.inputs if value is not None)
            for _, body in subgraphs(node):
                inside.extend(body)
                waiting.extend(body.outputs)
            continue
        value = waiting.pop()
        if value in seen:
            continue
        seen.add(value)
        producer = value.producer()
        if producer is not None and producer not in needed:
            needed.add(producer)
            inside.append(producer)
    return needed


def _finish(compilation: _Compilation, outputs: Sequence[_Reference]) -> None:
    """Say where outputs are, and which step is the last to use each value."""
    program = compilation.program
    program.outputs = [compilation.place(reference) for reference in outputs]
    fuse(program, compilation.shared.tensors)
    kept = {*program.outputs, *(slot for slot, _ in program.constants), *(slot for slot, _ in program.weights)}
    last: dict[int, int] = {}
    for place, step in enumerate(program.steps):
        for slot in (*step.inputs, *step.outputs):
            if slot != NOWHERE:
                last[slot] = place
    free: dict[int, list[int]] = {}
    for slot, place in last.items():
        if slot not in kept:
            free.setdefault(place, []).append(slot)
    for place, slots in free.items():
        program.steps[place].free = tuple(slots)


def _compile_nodes(graph_nodes: Iterable[ir.Node], environment: _Environment) -> None:
    for node in graph_nodes:
        function = environment.compilation.shared.model.functions.get(node.op_identifier())
        if function is not None:
            _inline(node, function, environment)
        else:
            _compile_node(node, environment)


def _inline(node: ir.Node, function: ir.Function, environment: _Environment) -> None:
    """The nodes of a function in the place of a call of it."""
    attributes = {name: attribute for name, attribute in function.attributes.items() if attribute.value is not None} | {
        name: _resolved(attribute, environment) for name, attribute in node.attributes.items()
    }
    inner = _Environment(
        environment.compilation,
        {},
        None,
        {name: attribute for name, attribute in attributes.items() if attribute is not None},
        f"{environment.prefix}{node_label(node)}/",
        function.opset_imports or environment.opsets,
    )
    for place, value in enumerate(function.inputs):
        given = node.inputs[place] if place < len(node.inputs) else None
        inner.references[value] = _Known(None) if given is None else environment.find(given)
    needed = _needed(function.outputs)
    _compile_nodes((inside for inside in function if inside in needed), inner)
    for value, result in zip(node.outputs, function.outputs, strict=False):
        environment.references[value] = inner.find(result)


def _resolved(attribute: ir.Attr, environment: _Environment) -> ir.Attr | None:
    """An attribute, or what it refers to in the call of the function; ``None`` where the call leaves it out."""
    if not attribute.is_ref():
        return attribute
    return environment.attributes.get(attribute.ref_attr_name or "")


def _attributes(node: ir.Node, environment: _Environment) -> dict[str, Any]:
    mode = environment.compilation.shared.mode
    read: dict[str, Any] = {}
    for name, given in node.attributes.items():
        attribute = _resolved(given, environment)
        if attribute is None:
            continue
        kind, value = attribute.type.name, attribute.value
        if kind in ("INT", "FLOAT"):
            read[name] = int(value) if kind == "INT" else float(value)
        elif kind == "STRING":
            read[name] = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        elif kind in ("INTS", "FLOATS"):
            read[name] = [int(v) for v in value] if kind == "INTS" else [float(v) for v in value]
        elif kind == "STRINGS":
            read[name] = [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in value]
        elif kind == "TENSOR":
            read[name] = _narrowed(to_torch(value), mode)
    return read


def _version(domain: str, environment: _Environment) -> int:
    for name in ("", "ai.onnx") if domain == "" else (domain,):
        version = environment.opsets.get(name)
        if version is not None:
            return version
    return 1


def _compile_node(node: ir.Node, environment: _Environment) -> None:
    domain = domain_of(node.domain)
    label = f"{environment.prefix}{node_label(node)}"
    if domain == "" and node.op_type == "Constant":
        _constant(node, environment)
        return
    version = _version(domain, environment)
    entry = find(domain, node.op_type, version)
    if entry is None:
        function = body_of(node, version)
        if function is None:
            raise _no_operator(node, domain, label, version)
        _inline(node, function, environment)
        return
    compilation = environment.compilation
    given = [None if value is None else environment.find(value) for value in node.inputs]
    bodies: dict[str, tuple[Program, tuple[int, ...]]] = {}
    captures: list[_Computed] = []
    carried = 0
    for name, graph in subgraphs(node):
        body, carries = _compile_body(node, graph, environment, given)
        carried |= carries
        start = len(given) + len(captures)
        bodies[name] = (body.program, tuple(range(start, start + len(body.captures))))
        captures += body.captures
    wanted = [bool(value.uses()) or value.is_graph_output() for value in node.outputs]
    attributes = _attributes(node, environment)
    if node.op_type in ("Loop", "Scan"):
        attributes["_stacked"] = _stacked(node)
    if node.op_type in _BY_STORED_TYPE:
        attributes["_types"] = [None if value is None else value.dtype for value in node.inputs]
    call = Call(
        node.op_type,
        label,
        version,
        attributes,
        wanted,
        compilation.shared.mode,
        len(given),
        bodies,
    )
    inputs = [*given, *captures]
    if _is_known(entry, inputs, bodies):
        known = _evaluated(entry, call, inputs)
        if known is not None:
            for value, result in zip(node.outputs, known, strict=False):
                environment.references[value] = _Known(result)
            return
    _emit(node, entry, call, inputs, carried, environment)


def _stacked(node: ir.Node) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """Sizes and types, as declared, of what a Loop or a Scan stacks: all there is to go by where it never runs."""
    body = node.attributes["body"].as_graph() if "body" in node.attributes else None
    found = []
    for value in () if body is None else body.outputs:
        sizes = () if value.shape is None else tuple(dim if isinstance(dim, int) else 0 for dim in value.shape)
        number = value.dtype is not None and value.dtype is not ir.DataType.STRING
        found.append((sizes, torch_type(value.dtype) if number and value.dtype is not None else torch.float32))
    return found


def _is_known(entry: Operator, inputs: Sequence[_Reference | None], bodies: Mapping[str, Any]) -> bool:
    return entry.pure and not bodies and all(given is None or isinstance(given, _Known) for given in inputs)


def _evaluated(entry: Operator, call: Call, inputs: Sequence[_Reference | None]) -> list[Any] | None:
    """The results of an operator whose inputs are all known; ``None`` where they had better be computed in each run."""
    values = [given.value if isinstance(given, _Known) else None for given in inputs]
    if call.op == "ConstantOfShape" and isinstance(values[0], Tensor):
        sizes = values[0].reshape(-1).tolist()
        if math.prod(max(0, int(size)) for size in sizes) > _LARGEST_FOLDED:
            return None
    try:
        with torch.no_grad():
            result = entry.run(call, *values)
    except OnnxMorphError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise Refusal(f"{call.label} ({call.op}) cannot be computed: {text}", code="malformed-node") from error
    results = list(result) if isinstance(result, tuple) else [result]
    if any(isinstance(one, Tensor) and one.numel() > _LARGEST_FOLDED for one in results):
        return None
    return results


def _constant(node: ir.Node, environment: _Environment) -> None:
    value = node.outputs[0]
    ((name, given),) = node.attributes.items() if len(node.attributes) == 1 else (("", None),)
    attribute = None if given is None else _resolved(given, environment)
    if given is not None and attribute is not None and given.is_ref():
        # A constant that comes from the call of the function.
        kind = attribute.type.name
        dtype = torch.float32 if kind in ("FLOAT", "FLOATS") else torch.int64
        known = to_torch(attribute.value) if kind == "TENSOR" else torch.tensor(attribute.value, dtype=dtype)
        environment.references[value] = _Known(_narrowed(known, environment.compilation.shared.mode))
        return
    tensor = stored(value)
    if tensor is None:
        what = "a sparse tensor" if name == "sparse_value" else "nothing that can be read"
        raise Refusal(f"{environment.prefix}{node_label(node)} (Constant) holds {what}", code="unsupported-operator")
    if tensor.dtype == ir.DataType.STRING:
        texts = [text.decode(errors="replace") if isinstance(text, bytes) else text for text in tensor.numpy().flat]
        environment.references[value] = _Known(texts)
        return
    environment.references[value] = environment.find(value)


def _compile_body(
    node: ir.Node, graph: ir.Graph, environment: _Environment, given: Sequence[_Reference | None]
) -> tuple[_Compilation, int]:
    """The body of a node, and the weights that its outputs carry a gradient of."""
    shared = environment.compilation.shared
    body = _Compilation(shared, environment)
    inner = _Environment(
        body, {}, environment, environment.attributes, f"{environment.prefix}{node_label(node)}/", environment.opsets
    )
    from_outside = shared.carried(*given)
    for place, value in enumerate(graph.inputs):
        slot = body.slot()
        body.program.inputs.append(slot)
        counts = node.op_type == "Loop" and place == 0
        inner.references[value] = _Computed(body, slot, False, 0 if counts else from_outside)
    needed = _needed(graph.outputs)
    _compile_nodes((inside for inside in graph if inside in needed), inner)
    results = [inner.find(value) for value in graph.outputs]
    _finish(body, results)
    return body, shared.carried(*results)


def _emit(
    node: ir.Node,
    entry: Operator,
    call: Call,
    inputs: Sequence[_Reference | None],
    carried: int,
    environment: _Environment,
) -> None:
    compilation = environment.compilation
    shared = compilation.shared
    computed = [given for given in inputs if isinstance(given, _Computed)]
    of_sizes = (
        entry.pure
        and not call.bodies
        and (
            node.op_type in ("Shape", "Size")
            or (
                bool(computed)
                and all(given.of_sizes for given in computed)
                and not any(isinstance(given, _Weight) for given in inputs)
            )
        )
    )
    arriving = carried | shared.carried(*inputs)
    if not entry.gradient and arriving:
        shared.stopped.append((arriving, Obstacle(call.op, call.label)))
        arriving = 0
    slots = []
    for place, value in enumerate(node.outputs):
        slot = compilation.slot() if call.wanted[place] or place == 0 else NOWHERE
        slots.append(slot)
        if slot != NOWHERE:
            environment.references[value] = _Computed(compilation, slot, of_sizes, arriving)
    host = {place if place >= 0 else place + call.explicit for place in entry.host}
    moves: tuple[int, ...] = ()
    if not of_sizes and not call.bodies:
        moves = tuple(
            place
            for place, given in enumerate(inputs)
            if place not in host
            and (isinstance(given, _Known) or (isinstance(given, _Computed) and given.of_sizes))
            and not (isinstance(given, _Known) and given.value is None)
        )
    compilation.program.steps.append(
        Step(
            entry.run,
            call,
            tuple(NOWHERE if given is None else _slot_of(compilation, given) for given in inputs),
            tuple(slots),
            moves=moves,
            remembered=of_sizes,
            gradient=entry.gradient,
        )
    )


def _slot_of(compilation: _Compilation, reference: _Reference) -> int:
    if isinstance(reference, _Known) and reference.value is None:
        return NOWHERE
    return compilation.place(reference)


def _no_operator(node: ir.Node, domain: str, label: str, version: int) -> Refusal:
    name = f"{domain}::{node.op_type}" if domain else node.op_type
    return Refusal(
        f"the operator {name} (opset {version}) of {label} cannot be run for training", code="unsupported-operator"
    )
