"""Apply index maps: gather every stored tensor, rewrite every place that spells out a size, refresh the shapes.

Everything is planned before anything is edited: a size that cannot be rewritten refuses the change and leaves the model
as it was. Tensors that no map touches stay the parent's own objects.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmorph._ir import ir
from onnxmorph.edit import Builder, drop_unused, rename_value, replace_uses, set_initializer, take_name
from onnxmorph.errors import Refusal
from onnxmorph.graph.axes.analysis import CoupledAxes
from onnxmorph.graph.axes.contents import Number, Scalar
from onnxmorph.graph.axes.factors import Expr
from onnxmorph.graph.axes.fills import AxisEdit, Fill, keep_zero
from onnxmorph.graph.axes.group import Group, Member
from onnxmorph.graph.axes.index_map import IndexMap
from onnxmorph.graph.axes.uses import AttributeUse, Frozen, IndexUse, SizeUse, SplitUse, ViewUse, Wanted
from onnxmorph.graph.constants import constant, stored

__all__ = ["Applied", "Twins", "apply"]

Array = NDArray[Any]

KEEP: Scalar = float("nan")
"""In place of an element that stays whatever the model computes."""

_EXPLICIT_SPLIT_OPERAND = 13
"""Since opset 13 Split reads its sizes from an operand."""


@dataclass(frozen=True, eq=False)
class Applied:
    """What `apply` changed, by name."""

    tensors: list[str] = field(default_factory=list)
    """Stored tensors that were rewritten."""
    sizes: list[str] = field(default_factory=list)
    """Nodes whose shape operands or attributes were rewritten."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Values whose numbers moved although their shape did not, sizes that are told among them: old name -> new."""


class Twins:
    """Values and nodes of a clone, found from those of the model that was analysed."""

    def __init__(self, analysed: ir.Model, clone: ir.Model) -> None:
        self._values: dict[ir.Value, ir.Value] = {}
        self._nodes: dict[ir.Node, ir.Node] = {}
        self.same = analysed is clone
        if self.same:
            return
        try:
            self._pair(analysed.graph, clone.graph)
            for one, two in zip(analysed.functions.values(), clone.functions.values(), strict=True):
                self._pair(one, two)
        except (KeyError, ValueError) as error:
            raise ValueError("the model is no unedited clone of the one that was analysed") from error

    def _pair(self, one: ir.Graph | ir.Function, two: ir.Graph | ir.Function) -> None:
        waiting: list[tuple[ir.Graph | ir.Function, ir.Graph | ir.Function]] = [(one, two)]
        while waiting:
            left, right = waiting.pop()
            self._values.update(zip(left.inputs, right.inputs, strict=True))
            if isinstance(left, ir.Graph) and isinstance(right, ir.Graph):
                for name, value in left.initializers.items():
                    self._values[value] = right.initializers[name]
            for a, b in zip(left, right, strict=True):
                if a.op_identifier() != b.op_identifier():
                    raise ValueError(f"{a.op_type} became {b.op_type}")
                self._nodes[a] = b
                self._values.update(zip(a.outputs, b.outputs, strict=True))
                waiting.extend(zip(_bodies(a), _bodies(b), strict=True))

    def value(self, value: ir.Value) -> ir.Value:
        """The clone's value."""
        return value if self.same else self._values[value]

    def node(self, node: ir.Node) -> ir.Node:
        """The clone's node."""
        return node if self.same else self._nodes[node]


def _bodies(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def apply(
    model: ir.Model,
    maps: Mapping[Group, IndexMap],
    fill: Fill = keep_zero,
    *,
    interface: bool = False,
    rename: bool = True,
) -> Applied:
    """Change groups of a model by index maps, in place.

    Args:
        model: The model that was analysed, or a clone of it that nobody has edited yet.
        maps: For each changed group its map; all groups of one analysis.
        fill: Called for every axis of every stored tensor that a map touches, after it was gathered; axes that are
            contracted come last, so that a zero fan-out has the last word.
        interface: Whether groups pinned by the model's own signature may change.
        rename: Give computed values whose numbers move without a change of shape a new name, since a value that keeps
            name and shape must keep its meaning.

    Raises:
        Refusal: A group may not change, a size that depends on it is computed in a way that cannot be rewritten, or
            something reads an index that is dropped. The model is then unchanged.
        ValueError: A map does not start from its group's size.
    """
    change = _Change(model, maps, interface)
    edits = change.plan_sizes()
    indices = change.plan_indices()
    tensors = change.plan_tensors(fill)
    return change.perform(edits, indices, tensors, rename)


@dataclass(frozen=True, eq=False)
class _OperandEdit:
    """A shape operand that must say something else."""

    node: ir.Node
    position: int
    values: list[Scalar]
    found: list[Scalar | None]
    numbers: list[Number]
    what: str


@dataclass(frozen=True, eq=False)
class _AttributeEdit:
    node: ir.Node
    name: str
    value: int | list[int] | None


@dataclass(frozen=True, eq=False)
class _TensorEdit:
    value: ir.Value
    use: tuple[ir.Node, int] | None
    array: Array


class _Change:
    def __init__(self, model: ir.Model, maps: Mapping[Group, IndexMap], interface: bool) -> None:
        if not maps:
            raise ValueError("no group is to be changed")
        self.model = model
        self.maps = maps
        tables = {group.table for group in maps}
        if len(tables) != 1:
            raise ValueError("groups of different analyses cannot change together")
        self.coupled: CoupledAxes = tables.pop().coupled
        self.factors = self.coupled.factors
        for group, index_map in maps.items():
            refusal = group.refusal(interface=interface)
            if refusal is not None:
                raise refusal
            if index_map.parent_size != group.size:
                raise ValueError(f"a map of {index_map.parent_size} indices for a group of {group.size}")
            if index_map.child_size == 0:
                raise Refusal("an axis cannot lose all its indices", code="empty-axis")
        self.sources = {group.atom: index_map.sources for group, index_map in maps.items()}
        self.sizes = {group.atom: index_map.child_size for group, index_map in maps.items()}
        self.touched = set(self.sources)

    # ---- sizes ----------------------------------------------------------------------------------------------------

    def before(self, expr: Expr) -> int | None:
        return self.factors.size(expr)

    def after(self, expr: Expr) -> int | None:
        return self.factors.size(expr, self.sizes)

    def _depends(self, number: Number) -> bool:
        return number.depends and any(self.before(expr) != self.after(expr) for expr in number.axes())

    def _touches(self, expr: Expr) -> bool:
        return any(leaf in self.touched for leaf in self.factors.leaves(expr))

    def plan_sizes(self) -> list[_OperandEdit | _AttributeEdit]:
        """Every shape operand and attribute that would be wrong in the child."""
        out: list[_OperandEdit | _AttributeEdit] = []
        for use in self.coupled.uses:
            if isinstance(use, SizeUse):
                out.extend(self._size_use(use))
            elif isinstance(use, AttributeUse):
                size = self.after(use.axis)
                if size is not None and size != self.before(use.axis):
                    out.append(_AttributeEdit(use.node, use.name, size))
            elif isinstance(use, SplitUse):
                out.extend(self._split_use(use))
            elif isinstance(use, Frozen):
                out.extend(self._frozen(use))
        return out

    def _size_use(self, use: SizeUse) -> Iterator[_OperandEdit | _AttributeEdit]:
        numbers = use.numbers()
        values: list[Scalar] = []
        found: list[Scalar | None] = []
        wrong = False
        inferred = sum(number.value(self.before) == -1 for number in numbers)
        for number, wanted in zip(numbers, use.wanted, strict=True):
            here = number.value(self.after)
            found.append(here)
            values.append(KEEP if here is None else here)
            want = None if wanted is None else wanted.value(self.after)
            if wanted is None or here is None or want is None:
                if not self._depends(number) and (wanted is None or not self._resizes(wanted)):
                    continue
                if wanted is not None and self._agree(number, wanted):
                    continue
                if wanted is None or not wanted.infer or inferred:
                    raise self._computed(use.node)
                wrong, inferred, values[-1] = True, 1, -1
            elif here != want and (wanted.accepts is None or not wanted.accepts(here, want, self.after)):
                wrong, values[-1] = True, want
        if not wrong:
            return
        if use.attribute is not None:
            yield _AttributeEdit(use.node, use.attribute, [int(value) for value in values])
        elif use.position is not None:
            yield _OperandEdit(use.node, use.position, values, found, numbers, "shape")

    def _resizes(self, wanted: Wanted) -> bool:
        return any(self._size(part, True, None) != self._size(part, True, self.sizes) for part in wanted.parts)

    def _size(self, expr: Expr, large: bool, sizes: Mapping[int, int] | None) -> int:
        return self.factors.stand_in(expr, large, sizes)

    def _agree(self, number: Number, wanted: Wanted) -> bool:
        """Whether a computed element follows the change by itself, whatever the unknown sizes are."""
        if wanted.negative:
            return False
        large = number.value(lambda expr: self._size(expr, True, self.sizes))
        small = number.value(lambda expr: self._size(expr, False, self.sizes))
        return large == sum(self._size(part, True, self.sizes) for part in wanted.parts) and small == sum(
            self._size(part, False, self.sizes) for part in wanted.parts
        )

    def _split_use(self, use: SplitUse) -> Iterator[_OperandEdit | _AttributeEdit]:
        wanted = [self.after(part) for part in use.parts]
        if any(size is None for size in wanted) or not self._touches(use.axis):
            return
        sizes = [size or 0 for size in wanted]
        if use.content is not None:
            numbers = list(use.content.reshape(-1))
            found = [number.value(self.after) for number in numbers]
            if found != sizes:
                yield _OperandEdit(use.node, 1, [*sizes], found, numbers, "split")
            return
        if "split" in use.node.attributes:
            yield _AttributeEdit(use.node, "split", sizes)
            return
        chunk = -(-sum(sizes) // len(sizes))
        if sizes != [max(0, min(chunk, sum(sizes) - chunk * part)) for part in range(len(sizes))]:
            numbers = [Number(size) for size in sizes]
            yield _OperandEdit(use.node, 1, [*sizes], [None] * len(sizes), numbers, "split")

    def _frozen(self, use: Frozen) -> Iterator[_OperandEdit]:
        numbers = list(use.content.reshape(-1))
        if not any(self._depends(number) for number in numbers):
            return
        before = [number.value(self.before) for number in numbers]
        found = [number.value(self.after) for number in numbers]
        if before == found and None not in before:
            return
        if None in before:
            raise self._computed(use.node)
        yield _OperandEdit(use.node, use.position, [one for one in before if one is not None], found, numbers, "scale")

    def _sizes_told(self) -> list[ir.Value]:
        """Computed values that tell a size that changes: shapes, and what is worked out from them."""
        out = []
        for value, content in self.coupled.contents().items():
            if stored(value) is not None or value.producer() is None or value.is_graph_output():
                continue
            for number in content.reshape(-1):
                if self._depends(number) and (number.value(self.before) is None or self._moves(number)):
                    out.append(value)
                    break
        return out

    def _moves(self, number: Number) -> bool:
        return number.value(self.before) != number.value(self.after)

    def _computed(self, node: ir.Node) -> Refusal:
        return Refusal(
            f"a size that {node.op_type} '{node.name or node.outputs[0].name}' reads is computed in a way that is not "
            "followed",
            code="computed-shape",
        )

    # ---- indices --------------------------------------------------------------------------------------------------

    def plan_indices(self) -> list[tuple[IndexUse, dict[int, int]]]:
        """Constant indices into a changed axis, with where each old index went."""
        out: list[tuple[IndexUse, dict[int, int]]] = []
        for use in self.coupled.uses:
            if not isinstance(use, IndexUse) or not self._touches(use.axis):
                continue
            if any(self.before((leaf,)) is None for leaf in self.factors.leaves(use.axis)):
                raise self._computed(use.node)
            sources = self.factors.gather(use.axis, self.sources)
            moved: dict[int, int] = {}
            for child, parent in enumerate(sources.tolist()):
                if parent >= 0:
                    moved.setdefault(parent, child)
            total = self.before(use.axis) or 0
            for index in use.indices:
                if index % total not in moved:
                    raise Refusal(
                        f"index {index} is dropped but {use.node.op_type} '{use.node.name}' reads it", code="index"
                    )
            out.append((use, moved))
        return out

    # ---- tensors --------------------------------------------------------------------------------------------------

    def plan_tensors(self, fill: Fill) -> list[_TensorEdit]:
        """The new content of every stored tensor that holds a changed group."""
        found: dict[tuple[ir.Value, tuple[ir.Node, int] | None], dict[int, dict[Group, Member]]] = {}
        for group in self.maps:
            for member in group.stored:
                by_axis = found.setdefault((member.value, member.use), {})
                by_axis.setdefault(member.axis, {})[group] = member
        out: list[_TensorEdit] = []
        for (value, use), members in found.items():
            tensor = self.coupled.tensor(value)
            if tensor is None:
                continue
            array: Array = tensor.numpy()
            for axis in sorted(members, key=lambda axis: (_is_read(members[axis]), axis)):
                array = self._gather(members[axis], array, fill)
            out.append(_TensorEdit(value, use, np.ascontiguousarray(array)))
        edited = {value for value, use in found if use is None}
        for value in self._computed_from(edited):
            tensor = None if value in edited else self.coupled.tensor(value)
            if tensor is not None:
                out.append(_TensorEdit(value, None, tensor.numpy()))
        return out

    def _computed_from(self, edited: Collection[ir.Value]) -> list[ir.Value]:
        """What is computed from tensors that change, and must not: it is stored as it was."""
        found: dict[ir.Value, None] = {}
        waiting = list(edited) if next(self.coupled.computed(), None) is not None else []
        seen = set(waiting)
        while waiting:
            value = waiting.pop()
            readers = [output for node in value.consumers() for output in node.outputs]
            for one in (*readers, *self.coupled.formals.get(value, ())):
                if one in seen or not self.coupled.is_constant(one):
                    continue
                seen.add(one)
                if self.coupled.is_computed(one):
                    found[one] = None
                else:
                    waiting.append(one)
        return list(found)

    def _gather(self, members: Mapping[Group, Member], parent: Array, fill: Fill) -> Array:
        member = next(iter(members.values()))
        if any(self.before((leaf,)) is None for leaf in self.factors.leaves(member.expr)):
            text = f"a part of axis {member.axis} of '{member.value.name}' is of unknown size"
            raise Refusal(text, code="unknown-size")
        sources = self.factors.gather(member.expr, self.sources)
        array = np.take(parent, np.maximum(sources, 0), axis=member.axis)
        new = sources < 0
        zero: Any = 0
        if new.any():
            zero = self._zero(member)
            np.moveaxis(array, member.axis, 0)[new] = zero
        coordinates: dict[Group, NDArray[np.int64]] = {}
        new_of: dict[Group, NDArray[np.bool_]] = {}
        for group in members:
            places = self.factors.coordinate(member.expr, group.atom, self.sizes)
            coordinates[group] = places
            kept = {atom: np.maximum(at, 0) for atom, at in self.sources.items()}
            new_of[group] = self.factors.gather(member.expr, {**kept, group.atom: self.sources[group.atom]}) < 0
        roles = {group: one.roles for group, one in members.items()}
        anchor = sources
        if new.any():
            anchor = self.factors.gather(member.expr, {atom: np.maximum(at, 0) for atom, at in self.sources.items()})
        fill(AxisEdit(member, array, member.axis, new, zero, parent, coordinates, new_of, roles, anchor))
        return array

    def _zero(self, member: Member) -> Any:
        """The stored number that means 0 to those who dequantise the tensor."""
        for node, position in member.value.uses():
            at = _ZERO_POINTS.get((node.op_type, position))
            if at is None or at >= len(node.inputs) or node.inputs[at] is None:
                continue
            point = node.inputs[at]
            array = None if point is None else self.coupled.small_array(point)
            axes = None if point is None else self.coupled.operand(point, node, at)
            if array is not None and array.size == 1:
                return array.reshape(-1)[0]
            if axes is not None and any(self._touches(expr) for expr in axes):
                return 0  # its zero point widens along the same axis, with 0
            if array is None or not bool((array == array.reshape(-1)[0]).all()):
                raise Refusal(f"zero points of '{member.value.name}' differ from channel to channel", code="quantised")
            return array.reshape(-1)[0]
        return 0

    # ---- performing -----------------------------------------------------------------------------------------------

    def perform(
        self,
        sizes: list[_OperandEdit | _AttributeEdit],
        indices: list[tuple[IndexUse, dict[int, int]]],
        tensors: list[_TensorEdit],
        rename: bool,
    ) -> Applied:
        twins = Twins(self.coupled.model, self.model)
        applied = Applied()
        # All twins are looked up before the first edit moves anything.
        members = [(twins.value(value), axis, expr) for group in self.maps for value, axis, expr, _ in group.entries]
        writer = _Writer(self.model)
        operand_edits = [(edit, twins.node(edit.node)) for edit in sizes if isinstance(edit, _OperandEdit)]
        for edit in sizes:
            if isinstance(edit, _AttributeEdit):
                node = twins.node(edit.node)
                if edit.value is not None:
                    node.attributes[edit.name] = ir.convenience.convert_attribute(edit.name, edit.value)
                applied.sizes.append(node.name or "")
        pending = [
            (twins.value(edit.value), None if edit.use is None else (twins.node(edit.use[0]), edit.use[1]), edit.array)
            for edit in tensors
        ]
        index_edits = [(twins.node(use.node), use.position, moved, self.before(use.axis)) for use, moved in indices]
        told = [twins.value(value) for value in self._sizes_told()] if rename else []
        views = [
            (twins.node(use.node), twins.value(use.source))
            for use in self.coupled.uses
            if isinstance(use, ViewUse) and any(self._touches(expr) for expr in use.axes)
        ]
        self._refresh_shapes(members, rename, applied)
        for value in told:
            old = value.name
            if old:
                applied.renamed[old] = rename_value(self.model, value, f"{old}_resized")
        for value, use, array in pending:
            writer.store(value, use, array)
            applied.tensors.append(value.name or "")
        for node, position, moved, total in index_edits:
            writer.remap(node, position, moved, total or 1)
            applied.sizes.append(node.name or "")
        for operand, node in operand_edits:
            self._write_operand(writer, operand, node)
            applied.sizes.append(node.name or "")
        for node, source in views:
            writer.look_through(node, source)
            applied.sizes.append(node.name or "")
        drop_unused(self.model, writer.orphans)
        return applied

    def _write_operand(self, writer: _Writer, edit: _OperandEdit, node: ir.Node) -> None:
        value = node.inputs[edit.position] if edit.position < len(node.inputs) else None
        dtype = self._dtype(edit, value)
        shape = (len(edit.values),)
        if value is not None and edit.what != "split":
            content = self.coupled.content(_given(edit.node.inputs[edit.position]))
            shape = content.shape if content is not None else shape
        if edit.what == "split":
            node.attributes.pop("num_outputs", None)
            if writer.opset(node) < _EXPLICIT_SPLIT_OPERAND:
                node.attributes["split"] = ir.convenience.convert_attribute("split", [int(v) for v in edit.values])
                return
        static = edit.what == "split" or all(
            found is not None or not number.depends for found, number in zip(edit.found, edit.numbers, strict=True)
        )
        if static or value is None:
            writer.constant(node, edit.position, np.array(edit.values, dtype=dtype.numpy()).reshape(shape), edit.what)
            return
        # Some elements are known only at run time: the others are replaced, those are kept.
        keep = [wanted is KEEP or wanted == found for wanted, found in zip(edit.values, edit.found, strict=True)]
        put = [0 if kept else int(wanted) for kept, wanted in zip(keep, edit.values, strict=True)]
        kept = np.array(keep, dtype=dtype.numpy()).reshape(shape)
        writer.replace(node, edit.position, value, kept, np.array(put, dtype=dtype.numpy()).reshape(shape))

    def _dtype(self, edit: _OperandEdit, value: ir.Value | None) -> ir.DataType:
        if value is None:
            return ir.DataType.INT64
        tensor = stored(value)
        if tensor is not None:
            return tensor.dtype
        known = self.coupled.dtype(_given(edit.node.inputs[edit.position]))
        if known is not None:
            return known
        if edit.what == "scale":
            raise Refusal(f"the type of '{value.name}' is not known", code="computed-shape")
        return ir.DataType.INT64

    def _refresh_shapes(self, members: list[tuple[ir.Value, int, Expr]], rename: bool, applied: Applied) -> None:
        moved: set[ir.Value] = set()
        resized: set[ir.Value] = set()
        for value, axis, expr in members:
            size = self.after(expr)
            if size == self.before(expr):
                moved.add(value)
            else:
                resized.add(value)
            if stored(value) is None and value.shape is not None and size is not None and axis < len(value.shape):
                dims: list[Any] = list(value.shape)
                dims[axis] = size
                value.shape = ir.Shape(dims)
        if not rename:
            return
        identity = all(index_map.is_identity for index_map in self.maps.values())
        for value in moved - resized:
            if identity or stored(value) is not None or value.is_graph_input() or value.is_graph_output():
                continue
            old = value.name
            if old:
                applied.renamed[old] = rename_value(self.model, value, f"{old}_permuted")


_ZERO_POINTS = {
    ("DequantizeLinear", 0): 2,
    ("MatMulInteger", 1): 3,
    ("MatMulInteger", 0): 2,
    ("ConvInteger", 1): 3,
    ("QLinearConv", 3): 5,
    ("QLinearMatMul", 3): 5,
    ("QLinearMatMul", 0): 2,
    ("QGemm", 3): 5,
}
"""(operator, position of the integers) -> position of their zero point."""


def _is_read(members: Mapping[Group, Member]) -> bool:
    return any("contracted" in member.roles for member in members.values())


def _given(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise ValueError("an operand that is not given")
    return value


class _Writer:
    """Puts new constants in place, whatever the old ones were stored as."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.orphans: list[ir.Value | ir.Node] = []
        self._made: dict[tuple[ir.Value | None, ir.Graph | None, bytes, tuple[int, ...]], ir.Value] = {}

    def builder(self, node: ir.Node) -> Builder:
        graph = node.graph
        if graph is None:
            raise ValueError(f"node '{node.name}' is in no graph")
        return Builder(self.model, graph, before=node)

    def opset(self, node: ir.Node) -> int:
        return self.builder(node).opset

    def store(self, value: ir.Value, use: tuple[ir.Node, int] | None, array: Array) -> None:
        """Give a stored tensor new content; a shared one only for the user named."""
        tensor = stored(value)
        dtype = None if tensor is None else tensor.dtype
        if use is not None and len(value.uses()) > 1:
            node, position = use
            node.replace_input_with(position, self.builder(node).initializer(value.name or "constant", array, dtype))
            return
        node_of = value.producer()
        if node_of is None:
            set_initializer(value, array, dtype)
            return
        builder = self.builder(node_of)
        if tensor is None:
            self._store_computed(value, builder, array)
            return
        if builder.function is not None or value.is_graph_output():
            tensor_now = ir.Tensor(array, dtype=dtype, name=value.name)
            for name in list(node_of.attributes):
                del node_of.attributes[name]
            node_of.attributes["value"] = ir.Attr("value", ir.AttributeType.TENSOR, tensor_now)
            value.type = ir.TensorType(tensor_now.dtype)
            value.shape = ir.Shape(array.shape)
            return
        # A Constant node becomes an initializer: those can be stored outside the model file.
        name = value.name or "constant"
        new = builder.initializer(name, array, dtype)
        replace_uses(value, new)
        graph = node_of.graph
        if graph is not None:
            graph.remove(node_of)
        rename_value(self.model, new, name)

    def _store_computed(self, value: ir.Value, builder: Builder, array: Array) -> None:
        """In place of what is computed from stored numbers, its numbers."""
        name = value.name or "constant"
        new = builder.initializer(name, array)
        replace_uses(value, new)
        rename_value(self.model, value, f"{name}_computed")
        rename_value(self.model, new, name)
        self.orphans.append(value)

    def remap(self, node: ir.Node, position: int, moved: Mapping[int, int], total: int) -> None:
        """Constant indices follow the entries they name."""
        value = _given(node.inputs[position])
        tensor = stored(value)
        array = tensor.numpy() if tensor is not None else constant(value)
        if array is None:
            raise ValueError(f"'{value.name}' is not constant")
        out = np.array([moved[int(index) % total] for index in array.reshape(-1)], dtype=array.dtype)
        self.constant(node, position, out.reshape(array.shape), "indices")

    def constant(self, node: ir.Node, position: int, array: Array, what: str) -> None:
        """Make a node read a constant in place of what it read."""
        value = node.inputs[position] if position < len(node.inputs) else None
        if value is not None and value.is_initializer() and len(value.uses()) == 1 and not value.is_graph_input():
            set_initializer(value, array)
            return
        builder = self.builder(node)
        key = (value, None if builder.function is None else builder.graph, array.tobytes(), array.shape)
        new = self._made.get(key)
        if new is None or builder.function is not None:
            name = (value.name if value is not None else None) or f"{node.name or node.op_type}_{what}"
            new = self._made[key] = builder.initializer(name, array)
        if position >= len(node.inputs):
            node.resize_inputs(position + 1)
        node.replace_input_with(position, new)
        if value is not None:
            self.orphans.append(value)

    def look_through(self, node: ir.Node, source: ir.Value) -> None:
        """In place of a node that gives all of ``source`` in its own order, ``source``."""
        old = node.outputs[0]
        new = self.builder(node).node("Identity", [source], name=f"{node.name or node.op_type}_view", like=source)
        replace_uses(old, new)
        take_name(self.model, new, old)
        self.orphans.append(node)

    def replace(self, node: ir.Node, position: int, value: ir.Value, keep: Array, put: Array) -> None:
        """Replace some elements of a computed shape operand by constants: ``value * keep + put``."""
        builder = self.builder(node)
        kept = builder.node("Mul", [value, builder.initializer(f"{value.name}_kept", keep)])
        fixed = builder.initializer(f"{value.name}_fixed", put)
        node.replace_input_with(position, builder.node("Add", [kept, fixed], output=f"{value.name}_resized"))
