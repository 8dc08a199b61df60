"""What two models differ in, as data: nodes, stored tensors, shapes, signature, cost, history.

Nodes are paired by name and, where they have none of their own, by the name of their first output; tensors by name.
What keeps its name and differs is *changed*; what only one of the models has is *added* or *removed*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.errors import ModelError
from onnxmorph.graph.constants import stored
from onnxmorph.graph.cost import Totals
from onnxmorph.graph.scopes import Scope, node_label, nodes, scopes
from onnxmorph.graph.shapes import Shapes
from onnxmorph.graph.summary import Summary, summarise
from onnxmorph.records import INDEX_MAPS_KEY
from onnxmorph.verify.definitions import same_tensor
from onnxmorph.verify.signature import compare_signatures

__all__ = [
    "Diff",
    "NodeChange",
    "Picture",
    "Shown",
    "TensorChange",
    "ValueChange",
    "before_and_after",
    "diff",
    "new_records",
    "read_records",
    "stored_tensors",
]

Kind = Literal["added", "removed", "changed"]

_CHUNK = 1 << 20
_OWN_METADATA = (files.RECORD_KEY, files.CERTIFICATE_KEY, INDEX_MAPS_KEY)


@dataclass(frozen=True)
class NodeChange:
    """One node that was added, removed or changed.

    Attributes:
        kind: Which of the three.
        name: The node's name, or that of its first output.
        scope: Where it lives, ````''`` for the main graph.
        op: Its operator, in the child where it is there.
        details: What changed, one clause each; empty for the others.
    """

    kind: Kind
    name: str
    scope: str
    op: str
    details: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As the command line prints it."""
        return {**vars(self), "details": list(self.details)}


@dataclass(frozen=True)
class TensorChange:
    """One stored tensor (initializer or Constant node) that was added, removed or changed.

    Attributes:
        kind: Which of the three.
        name: Of the initializer.
        scope: Where it lives, ````''`` for the main graph.
        before: Type and dims in the parent; ``None``: not there.
        after: Type and dims in the child; ``None``: not there.
        max_abs: Largest absolute change of an element where dims agree and elements are numbers, else ``None``.
        largest: Largest absolute element of the parent, to judge it by.
    """

    kind: Kind
    name: str
    scope: str
    before: str | None
    after: str | None
    max_abs: float | None = None
    largest: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As the command line prints it."""
        return dict(vars(self))


@dataclass(frozen=True)
class ValueChange:
    """One value that both models compute and whose shape or type is another."""

    name: str
    before: str
    after: str

    def to_json(self) -> dict[str, Any]:
        """As the command line prints it."""
        return dict(vars(self))


@dataclass(frozen=True)
class Diff:
    """All that two models differ in.

    Attributes:
        nodes: In the order of the child, removed ones last.
        tensors: Likewise.
        values: Values of the main graph whose shape changed.
        signature: What a caller would notice of inputs and outputs, one sentence each.
        settings: Opsets, IR version, metadata, function definitions: one sentence each.
        node_counts: Nodes of all scopes, before and after.
        totals: Parameters and multiply-accumulates, before and after.
        records: Morphs that the child records beyond those of the parent.
        picture: The neighbourhood of what changed.
    """

    nodes: tuple[NodeChange, ...]
    tensors: tuple[TensorChange, ...]
    values: tuple[ValueChange, ...]
    signature: tuple[str, ...]
    settings: tuple[str, ...]
    node_counts: tuple[int, int]
    totals: tuple[Totals, Totals]
    records: tuple[Mapping[str, Any], ...]
    picture: Picture

    @property
    def same(self) -> bool:
        """Whether the two compute by the same graph with the same weights under the same interface."""
        return not (self.nodes or self.tensors or self.values or self.signature or self.settings)

    def to_json(self) -> dict[str, Any]:
        """As the command line prints it."""
        before, after = self.totals
        return {
            "same": self.same,
            "nodes": [node.to_json() for node in self.nodes],
            "tensors": [tensor.to_json() for tensor in self.tensors],
            "values": [value.to_json() for value in self.values],
            "signature": list(self.signature),
            "settings": list(self.settings),
            "totals": {
                "nodes": list(self.node_counts),
                "parameters": [before.parameters, after.parameters],
                "stored": [before.stored, after.stored],
                "macs": [before.macs, after.macs],
                "macs_unknown": [before.unknown, after.unknown],
            },
            "records": [dict(record) for record in self.records],
        }

    def summary(self) -> str:
        """In one line: how many of what."""
        if self.same:
            return "no difference"
        counts = Counter(("node", change.kind) for change in self.nodes)
        counts.update(("tensor", change.kind) for change in self.tensors)
        parts = [
            f"{number} {what}{'s' if number > 1 else ''} {kind}"
            for what in ("node", "tensor")
            for kind in ("added", "removed", "changed")
            if (number := counts[what, kind])
        ]
        if self.values:
            parts.append(f"{len(self.values)} shape{'s' if len(self.values) > 1 else ''} changed")
        return ", ".join([*parts, *self.signature[:1], *self.settings[:1]])


@dataclass(frozen=True)
class Shown:
    """One node of the picture: its text, and what happened to it (``kept`` for neighbours of what changed)."""

    op: str
    name: str
    kind: Literal["added", "removed", "changed", "kept"]


@dataclass(frozen=True)
class Picture:
    """What changed, with its neighbours.

    Attributes:
        nodes: In topological order.
        edges: From and to, as places in ``nodes``, and the value's name.
        left_out: How many more nodes changed than are shown.
    """

    nodes: tuple[Shown, ...]
    edges: tuple[tuple[int, int, str], ...]
    left_out: int


_MOST_SHOWN = 60
_MOST_NEIGHBOURS = 4


def diff(parent: ir.Model, child: ir.Model) -> Diff:
    """Compare two models; neither is changed.

    Args:
        parent: Any model.
        child: Any other.
    """
    shapes = Shapes.of(parent), Shapes.of(child)
    summaries = summarise(parent, shapes[0]), summarise(child, shapes[1])
    pairs = _Pairs(parent, child)
    return Diff(
        nodes=tuple(pairs.changes()),
        tensors=tuple(_tensor_changes(parent, child)),
        values=tuple(_value_changes(parent, child, shapes)),
        signature=tuple(_signature(parent, child)),
        settings=tuple(_settings(parent, child, summaries)),
        node_counts=(len(pairs.parents), len(pairs.children)),
        totals=(summaries[0].totals, summaries[1].totals),
        records=tuple(new_records(parent, child)),
        picture=_picture(parent, child, pairs),
    )


def read_records(model: ir.Model) -> list[dict[str, Any]]:
    """The records of a model; none where its metadata are damaged, which is no reason not to compare it."""
    try:
        return files.records(model)
    except ModelError:
        return []


def new_records(parent: ir.Model, child: ir.Model) -> list[dict[str, Any]]:
    """The morphs that led from ``parent`` to ``child``, as the child records them.

    Those that the parent records too are left out when it records just these first; else all are new.
    """
    before, after = read_records(parent), read_records(child)
    return after[len(before) :] if after[: len(before)] == before else after


# -- nodes ------------------------------------------------------------------------------------------------------------


class _Pairs:
    """The nodes of two models, paired. Constant nodes are tensors and stay out."""

    def __init__(self, parent: ir.Model, child: ir.Model) -> None:
        self.parents = [(scope.path, node) for scope, node in nodes(parent) if node.op_type != "Constant"]
        self.children = [(scope.path, node) for scope, node in nodes(child) if node.op_type != "Constant"]
        self.partner: dict[ir.Node, ir.Node] = {}
        """Of a child's node, the parent's."""
        self._taken: set[ir.Node] = set()
        # Alike in name and operator first: a name that repeats, or passed to another operator, says less.
        self._pair(lambda path, node: (path, node.name, node.op_type) if node.name else None)
        self._pair(lambda path, node: (path, _first(node), node.op_type) if _first(node) else None)
        self._pair(lambda path, node: (path, node.name) if node.name else None)
        self.details = {child: _node_details(parent, child) for child, parent in self.partner.items()}

    def _pair(self, key: Callable[[str, ir.Node], tuple[str, ...] | None]) -> None:
        before: dict[tuple[str, ...], list[ir.Node]] = {}
        for path, node in self.parents:
            if node not in self._taken and (found := key(path, node)) is not None:
                before.setdefault(found, []).append(node)
        after: dict[tuple[str, ...], list[ir.Node]] = {}
        for path, node in self.children:
            if node not in self.partner and (found := key(path, node)) is not None:
                after.setdefault(found, []).append(node)
        for found, some in after.items():
            others = before.get(found, [])
            if len(some) == len(others):  # names that repeat equally often are paired in order
                for node, other in zip(some, others, strict=True):
                    self.partner[node] = other
                    self._taken.add(other)

    def kind(self, node: ir.Node) -> Kind | None:
        """What happened to a node of the child."""
        if node not in self.partner:
            return "added"
        return "changed" if self.details[node] else None

    def removed(self, node: ir.Node) -> bool:
        """Whether a node of the parent is gone."""
        return node not in self._taken

    def changes(self) -> Iterator[NodeChange]:
        for path, node in self.children:
            kind = self.kind(node)
            if kind is not None:
                yield NodeChange(kind, node_label(node), path, node.op_type, self.details.get(node, ()))
        for path, node in self.parents:
            if self.removed(node):
                yield NodeChange("removed", node_label(node), path, node.op_type)


def _first(node: ir.Node) -> str:
    return (node.outputs[0].name or "") if node.outputs else ""


def _node_details(before: ir.Node, after: ir.Node) -> tuple[str, ...]:
    """What a node of one name does otherwise, one clause each."""
    found = []
    if before.op_identifier() != after.op_identifier():
        found.append(f"was {before.op_type}, is {after.op_type}")
    if before.name and after.name and before.name != after.name:
        found.append(f"was called {before.name}")
    names = [*before.attributes, *(name for name in after.attributes if name not in before.attributes)]
    for name in names:
        old, new = before.attributes.get(name), after.attributes.get(name)
        if not _same_attribute(old, new):
            found.append(f"{name} {_attribute_text(old)} -> {_attribute_text(new)}")
    olds, news = ([value.name if value is not None else "" for value in node.inputs] for node in (before, after))
    if olds != news:
        gone = [str(name) for name in olds if name not in news and name]
        come = [str(name) for name in news if name not in olds and name]
        if gone or come:
            found.append(f"reads {_some(come) or 'nothing else'} instead of {_some(gone) or 'nothing'}")
        else:
            found.append("reads its inputs in another order")
    olds, news = ([value.name for value in node.outputs] for node in (before, after))
    if olds != news:
        found.append(f"gives {_some([str(name) for name in news])} instead of {_some([str(name) for name in olds])}")
    return tuple(found)


def _same_attribute(before: ir.Attr | None, after: ir.Attr | None) -> bool:
    if before is None or after is None:
        return before is after
    if before.type != after.type or before.is_ref() != after.is_ref():
        return False
    if before.is_ref():
        return before.ref_attr_name == after.ref_attr_name
    kind = before.type.name
    if kind in ("GRAPH", "GRAPHS"):
        return True  # the nodes in it are compared one by one
    if kind == "TENSOR":
        return same_tensor(before.as_tensor(), after.as_tensor())
    if kind == "TENSORS":
        olds, news = before.as_tensors(), after.as_tensors()
        return len(olds) == len(news) and all(same_tensor(old, new) for old, new in zip(olds, news, strict=True))
    return bool(before.value == after.value)


def _attribute_text(attribute: ir.Attr | None) -> str:
    if attribute is None:
        return "(not given)"
    if attribute.is_ref():
        return f"@{attribute.ref_attr_name}"
    kind = attribute.type.name
    if kind in ("GRAPH", "GRAPHS"):
        return "(a graph)"
    if kind == "TENSOR":
        return _tensor_text(attribute.as_tensor())
    value = attribute.value
    text = str(list(value)) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")


# -- tensors and values -----------------------------------------------------------------------------------------------


def stored_tensors(model: ir.Model) -> dict[tuple[str, str], ir.TensorProtocol]:
    """Every initializer and the tensor of every Constant node, by scope and name."""
    found: dict[tuple[str, str], ir.TensorProtocol] = {}
    for scope in scopes(model):
        for name, value in _initializers(scope).items():
            if value.const_value is not None:
                found[scope.path, name] = value.const_value
        for node in scope.graph:
            if node.op_type == "Constant" and node.outputs and (tensor := stored(node.outputs[0])) is not None:
                found[scope.path, node.outputs[0].name or ""] = tensor
    return found


def _initializers(scope: Scope) -> Mapping[str, ir.Value]:
    return scope.graph.initializers if isinstance(scope.graph, ir.Graph) else {}


def _tensor_text(tensor: ir.TensorProtocol) -> str:
    dims = "x".join(str(dim) for dim in tensor.shape)
    return f"{tensor.dtype.name.lower()} {dims or 'scalar'}"


def _tensor_changes(parent: ir.Model, child: ir.Model) -> Iterator[TensorChange]:
    before, after = stored_tensors(parent), stored_tensors(child)
    for (path, name), tensor in after.items():
        old = before.get((path, name))
        if old is None:
            yield TensorChange("added", name, path, None, _tensor_text(tensor))
        elif not same_tensor(old, tensor):
            moved, largest = _moved(old, tensor)
            yield TensorChange("changed", name, path, _tensor_text(old), _tensor_text(tensor), moved, largest)
    for (path, name), tensor in before.items():
        if (path, name) not in after:
            yield TensorChange("removed", name, path, _tensor_text(tensor), None)


def _moved(before: ir.TensorProtocol, after: ir.TensorProtocol) -> tuple[float | None, float | None]:
    """Largest change of an element and largest element, in pieces; ``None`` where elements cannot be paired."""
    if tuple(before.shape) != tuple(after.shape) or ir.DataType.STRING in (before.dtype, after.dtype):
        return None, None
    old, new = np.asarray(before.numpy()).reshape(-1), np.asarray(after.numpy()).reshape(-1)
    if old.dtype.kind == "c" or new.dtype.kind == "c":
        return None, None
    moved = largest = 0.0
    for start in range(0, old.size, _CHUNK):
        one = old[start : start + _CHUNK].astype(np.float64)
        two = new[start : start + _CHUNK].astype(np.float64)
        with np.errstate(invalid="ignore"):
            moved = max(moved, float(np.max(np.abs(one - two), initial=0.0)))
        largest = max(largest, float(np.max(np.abs(one), initial=0.0)))
    return moved, largest


def _value_changes(parent: ir.Model, child: ir.Model, shapes: tuple[Shapes, Shapes]) -> Iterator[ValueChange]:
    before = {value.name: value for value in _computed(parent)}
    for value in _computed(child):
        old = before.get(value.name)
        if old is None:
            continue
        one, two = _value_text(old, shapes[0]), _value_text(value, shapes[1])
        if one is not None and two is not None and one != two:
            yield ValueChange(value.name or "", one, two)


def _computed(model: ir.Model) -> Iterator[ir.Value]:
    """Values of the main graph that nodes compute; what Constant nodes hold is compared as tensors."""
    for node in model.graph:
        if node.op_type != "Constant":
            yield from (value for value in node.outputs if value.name)


def _value_text(value: ir.Value, shapes: Shapes) -> str | None:
    dims, dtype = shapes.shape(value), shapes.dtype(value)
    if dims is None:
        return None
    sizes = ["?" if dim is None or str(dim).startswith("unk__") else str(dim) for dim in dims]
    return f"{'' if dtype is None else dtype.name.lower() + ' '}[{', '.join(sizes)}]"


# -- interface and settings -------------------------------------------------------------------------------------------


def _signature(parent: ir.Model, child: ir.Model) -> Iterator[str]:
    found = compare_signatures(parent, child)
    yield from found.failures
    yield from found.warnings


def _settings(parent: ir.Model, child: ir.Model, summaries: tuple[Summary, Summary]) -> Iterator[str]:
    one, two = summaries
    for domain in dict.fromkeys((*one.opsets, *two.opsets)):
        old, new = one.opsets.get(domain), two.opsets.get(domain)
        if old != new:
            yield f"opset {domain}: {old or 'not imported'} -> {new or 'not imported'}"
    if one.ir_version != two.ir_version:
        yield f"IR version: {one.ir_version} -> {two.ir_version}"
    if one.producer != two.producer:
        yield f"producer: {one.producer or '(none)'} -> {two.producer or '(none)'}"
    before, after = ({str(key): None for key in model.functions} for model in (parent, child))
    yield from (f"function {key}: removed" for key in before if key not in after)
    yield from (f"function {key}: added" for key in after if key not in before)
    for key in dict.fromkeys((*parent.metadata_props, *child.metadata_props)):
        if key in _OWN_METADATA:
            continue
        old_text, new_text = parent.metadata_props.get(key), child.metadata_props.get(key)
        if old_text != new_text:
            yield f"metadata {key}: {_quoted(old_text)} -> {_quoted(new_text)}"


def _quoted(text: str | None) -> str:
    if text is None:
        return "(not there)"
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


# -- picture ----------------------------------------------------------------------------------------------------------


def _picture(parent: ir.Model, child: ir.Model, pairs: _Pairs) -> Picture:
    """What changed in the child's main graph with its neighbours, and what is gone from the parent's.

    Bodies and functions are not drawn; the node that holds a changed body is.
    """
    order: list[tuple[ir.Node, Literal["added", "removed", "changed"]]] = []
    place_of = {name: place for place, node in enumerate(child.graph) if (name := _first(node))}
    for node in child.graph:
        kind = pairs.kind(node) if node.op_type != "Constant" else None
        if kind is not None:
            order.append((node, kind))
    gone = [node for node in parent.graph if node.op_type != "Constant" and pairs.removed(node)]
    left_out = max(0, len(order) + len(gone) - _MOST_SHOWN)
    shown: dict[ir.Node, Shown] = {
        node: Shown(node.op_type, node_label(node), kind) for node, kind in order[:_MOST_SHOWN]
    }
    edges: dict[tuple[ir.Node, ir.Node, str], None] = {}
    partner_of = {old: new for new, old in pairs.partner.items()}
    for node, _ in order[:_MOST_SHOWN]:
        _draw_around(node, shown, edges, lambda other: other)
    for node in gone[: max(0, _MOST_SHOWN - len(order))]:
        shown[node] = Shown(node.op_type, node_label(node), "removed")
        _draw_around(node, shown, edges, lambda other: partner_of.get(other, other))
    ranks: dict[ir.Node, float] = {node: float(place) for place, node in enumerate(child.graph)}
    for node in parent.graph:
        if node in shown and node not in ranks:
            # A node that is gone stands where the value it gave is made now, or after what it read.
            read = [
                ranks[made] for value in node.inputs if value is not None and (made := _now(value, partner_of)) in ranks
            ]
            own = place_of.get(_first(node))
            ranks[node] = max([*read, -1.0]) + 0.5 if own is None else own - 0.5
    listed = sorted(shown, key=lambda node: ranks.get(node, 0.0))
    place = {node: number for number, node in enumerate(listed)}
    return Picture(
        tuple(shown[node] for node in listed),
        tuple((place[one], place[two], name) for one, two, name in edges if one in place and two in place),
        left_out,
    )


def before_and_after(parent: ir.Model, child: ir.Model) -> tuple[Picture, Picture]:
    """The neighbourhood of what changed, once as it was and once as it is.

    In the parent's, nodes are *removed*, *changed* or *kept*; in the child's *added*, *changed* or *kept*. Only main
    graphs are drawn, and of a node that many read a few readers.
    """
    return (
        _side(parent, _Pairs(child, parent), "removed"),
        _side(child, _Pairs(parent, child), "added"),
    )


def _side(model: ir.Model, pairs: _Pairs, alone: Literal["added", "removed"]) -> Picture:
    """What changed in one of the two, with its neighbours; ``alone``: what to call what the other one does not have."""
    found = [
        (node, alone if kind == "added" else kind)
        for node in model.graph
        if node.op_type != "Constant" and (kind := pairs.kind(node)) is not None
    ]
    shown = {node: Shown(node.op_type, node_label(node), kind) for node, kind in found[:_MOST_SHOWN]}
    edges: dict[tuple[ir.Node, ir.Node, str], None] = {}
    for node, _ in found[:_MOST_SHOWN]:
        _draw_around(node, shown, edges, lambda other: other, most=_MOST_NEIGHBOURS)
    listed = [node for node in model.graph if node in shown]
    place = {node: number for number, node in enumerate(listed)}
    return Picture(
        tuple(shown[node] for node in listed),
        tuple((place[one], place[two], name) for one, two, name in edges),
        max(0, len(found) - _MOST_SHOWN),
    )


def _now(value: ir.Value, partner_of: Mapping[ir.Node, ir.Node]) -> ir.Node | None:
    node = value.producer()
    return None if node is None else partner_of.get(node, node)


def _draw_around(
    node: ir.Node,
    shown: dict[ir.Node, Shown],
    edges: dict[tuple[ir.Node, ir.Node, str], None],
    today: Callable[[ir.Node], ir.Node],
    *,
    most: int | None = None,
) -> None:
    """Adds the neighbours of ``node`` and the edges to them; Constant nodes and other graphs' nodes stay out.

    ``most``: how many neighbours are added that were not there before.
    """
    around = [(made, node, value.name) for value in node.inputs if value is not None and (made := value.producer())]
    around += [(node, reader, value.name) for value in node.outputs for reader in value.consumers()]
    new = 0
    for one, two, name in around:
        other = one if two is node else two
        if other.op_type == "Constant" or other.graph is not node.graph:
            continue
        other = today(other)
        if other not in shown:
            new += 1
            if most is not None and new > most:
                continue
        shown.setdefault(other, Shown(other.op_type, node_label(other), "kept"))
        edges[(other, node, name or "") if two is node else (node, other, name or "")] = None
