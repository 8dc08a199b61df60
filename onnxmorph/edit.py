"""New nodes, values and initializers: the traps of editing an ``onnx_ir`` model, in one place.

Everything here changes the model it is given, on purpose; a morph calls it on its own clone of the parent. The rules it
keeps:

1. Every new name is unique in the whole model: main graph, bodies of If/Loop/Scan, functions. A body sees the names of
   the scopes around it, so a name that is free in the body alone would still hide somebody else's value.
2. New initializers go to the main graph, from where every body sees them. A function sees nothing outside itself and
   has no initializers, so there they become Constant nodes.
3. Before IR version 4 every initializer is a graph input too (its default value); a new one becomes one as well.
4. A value's tensor, shape and type are set together: ``onnx_ir`` keeps a stale shape when only the tensor changes, and
   shape inference then trusts it.
5. Renaming a value never renames its tensor, which the parent may share.
"""

from __future__ import annotations

import itertools
import weakref
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from onnxmorph._ir import ir, onnx
from onnxmorph.errors import Refusal

__all__ = [
    "Builder",
    "all_graphs",
    "drop_unused",
    "forget_shapes_downstream",
    "opset_of",
    "rename_node",
    "rename_value",
    "replace_uses",
    "set_initializer",
    "take_name",
]

_OLDEST_OPSET = 7
"""Since then operators broadcast as numpy does."""

_FIRST_IR_WITH_FREE_INITIALIZERS = 4

_QUANTIZATION = "quant_parameter_tensor_names"
"""Where onnx-ir keeps a value's quantization annotation, which belongs to the name."""

_TYPE_NAMES = {"FLOAT": "float", "DOUBLE": "double", "FLOAT16": "float16", "BFLOAT16": "bfloat16"}

_KINDS = {
    onnx.defs.OpSchema.AttrType.FLOAT: ir.AttributeType.FLOAT,
    onnx.defs.OpSchema.AttrType.FLOATS: ir.AttributeType.FLOATS,
    onnx.defs.OpSchema.AttrType.INT: ir.AttributeType.INT,
    onnx.defs.OpSchema.AttrType.INTS: ir.AttributeType.INTS,
    onnx.defs.OpSchema.AttrType.STRING: ir.AttributeType.STRING,
    onnx.defs.OpSchema.AttrType.STRINGS: ir.AttributeType.STRINGS,
    onnx.defs.OpSchema.AttrType.TENSOR: ir.AttributeType.TENSOR,
    onnx.defs.OpSchema.AttrType.GRAPH: ir.AttributeType.GRAPH,
}


def _bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs in the attributes of ``node`` (branches of If, bodies of Loop and Scan)."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH and attribute.value is not None:
            yield attribute.value
        elif attribute.type == ir.AttributeType.GRAPHS and attribute.value is not None:
            yield from attribute.value


def _with_bodies(graph: ir.Graph) -> Iterator[tuple[ir.Graph, ir.Node | None]]:
    """``graph`` and every body below it with the node that holds it; no recursion, since nesting comes from files."""
    waiting: list[tuple[ir.Graph, ir.Node | None]] = [(graph, None)]
    while waiting:
        current, owner = waiting.pop()
        yield current, owner
        for node in current:
            waiting.extend((body, node) for body in _bodies(node))


def all_graphs(model: ir.Model) -> Iterator[tuple[ir.Graph, ir.Node | None, ir.Function | None]]:
    """Every graph of ``model``, each with the node whose body it is and the function it is part of.

    The main graph comes first, then the bodies below it, then the functions with theirs.
    """
    for graph, owner in _with_bodies(model.graph):
        yield graph, owner, None
    for function in model.functions.values():
        for graph, owner in _with_bodies(function.graph):
            yield graph, owner, function


class _Names:
    """The names in use in one model, and which function each graph is part of.

    Made once per model and kept, because a walk over 20,000 nodes for every inserted node would dominate an edit.
    ``fingerprint`` sees nodes, initializers and inputs that came or went behind its back; the names are then read anew.
    """

    def __init__(self, model: ir.Model) -> None:
        self.values: set[str] = set()
        self.nodes: set[str] = set()
        self.functions: dict[int, ir.Function | None] = {}
        self.owners: dict[int, ir.Node | None] = {}
        self._graphs: list[ir.Graph] = []
        self._tried: dict[str, dict[tuple[int, ...], int]] = {}
        # Branches of one If, and functions, may use a name that the other uses too: it is free when the last has left.
        self._repeated: dict[str, Counter[str]] = {"values": Counter(), "nodes": Counter()}
        for graph, owner, function in all_graphs(model):
            self._graphs.append(graph)
            self.functions[id(graph)] = function
            self.owners[id(graph)] = owner
            # An initializer that is an input of its graph as well is one value.
            for name in {*(value.name for value in graph.inputs), *graph.initializers}:
                self._hold("values", name)
            for node in graph:
                self._hold("nodes", node.name)
                for value in node.outputs:
                    self._hold("values", value.name)
        self.fingerprint = self.count()

    def _hold(self, kind: str, name: str | None) -> None:
        if not name:
            return
        names = self.values if kind == "values" else self.nodes
        if name in names:
            self._repeated[kind][name] += 1
        names.add(name)

    def count(self) -> tuple[int, ...]:
        return (
            sum(graph.num_nodes() for graph in self._graphs),
            sum(len(graph.initializers) for graph in self._graphs),
            sum(len(graph.inputs) for graph in self._graphs),
        )

    def free(self, name: str, *taken: set[str]) -> str:
        """``name``, or ``name_1``, ``name_2`` ... : the first that is in none of the sets ``taken``."""
        if not any(name in names for names in taken):
            return name
        # Numbers below were taken when last looked at, and names are only added until `release` forgets this: the
        # answer is that of a search from 1, without a search from 1 for every new name.
        tried = self._tried.setdefault(name, {})
        kind = tuple(map(id, taken))
        for number in itertools.count(tried.get(kind, 1)):
            candidate = f"{name}_{number}"
            if not any(candidate in names for names in taken):
                tried[kind] = number
                break
        return candidate

    def release(self, values: Iterable[str | None] = (), nodes: Iterable[str | None] = ()) -> None:
        """Names that one value or node less has: free again where that was the last."""
        for names, repeated, free in (
            (self.values, self._repeated["values"], values),
            (self.nodes, self._repeated["nodes"], nodes),
        ):
            for name in filter(None, free):
                if repeated[name] > 0:
                    repeated[name] -= 1
                    continue
                names.discard(name)
                self._tried.pop(name.rpartition("_")[0], None)


_names_by_model: weakref.WeakKeyDictionary[ir.Model, _Names] = weakref.WeakKeyDictionary()


def _names_of(model: ir.Model) -> _Names:
    names = _names_by_model.get(model)
    if names is None or names.fingerprint != names.count():
        names = _Names(model)
        _names_by_model[model] = names
    return names


def opset_of(model: ir.Model, function: ir.Function | None = None, domain: str = "") -> int:
    """Version of ``domain`` that nodes of the main graph and its bodies use, or those of ``function`` when given.

    Raises:
        Refusal: The model (or the function) does not import the domain.
    """
    imports = model.graph.opset_imports if function is None else function.opset_imports
    spellings = ("", "ai.onnx") if domain in {"", "ai.onnx"} else (domain,)
    for spelling in spellings:
        if spelling in imports:
            return imports[spelling]
    where = "the model" if function is None else f"function '{function.name}'"
    raise Refusal(f"{where} does not import the operator set '{domain or 'ai.onnx'}'", code="opset-missing")


def _tensor(array: np.ndarray, dtype: ir.DataType | None, name: str) -> ir.Tensor[np.ndarray]:
    """``array`` in ``dtype``, refused where a finite number has no finite neighbour there (float16 ends at 65504)."""
    array = np.asarray(array, order="C")
    if dtype is None:
        return ir.Tensor(array, name=name)
    numpy_type = dtype.numpy()
    if array.dtype != numpy_type:
        with np.errstate(over="ignore"):
            converted = array.astype(numpy_type)
        if dtype.is_floating_point() and not np.array_equal(
            np.isfinite(converted.astype(np.float64)), np.isfinite(array.astype(np.float64))
        ):
            raise Refusal(f"'{name}' has values beyond the range of {dtype.name}", code="overflow")
        array = converted
    return ir.Tensor(array, dtype=dtype, name=name)


class Builder:
    """New nodes into one graph scope, at one place; every name unique in the whole model.

    Args:
        model: The model that is edited.
        graph: The main graph, a body of If/Loop/Scan, or a model-local function.
        before: New nodes go in front of this node, in the order in which they are made.
        after: New nodes go behind this node, in the order in which they are made. With neither, they go to the end.
    """

    def __init__(
        self,
        model: ir.Model,
        graph: ir.Graph | ir.Function,
        before: ir.Node | None = None,
        *,
        after: ir.Node | None = None,
    ) -> None:
        if before is not None and after is not None:
            raise ValueError("a place is either before a node or after one")
        self.model = model
        self.graph: ir.Graph = graph.graph if isinstance(graph, ir.Function) else graph
        for anchor in (before, after):
            if anchor is not None and anchor.graph is not self.graph:
                raise ValueError(f"node '{anchor.name}' is not in the graph that is edited")
        functions = _names_of(model).functions
        if id(self.graph) not in functions:
            raise ValueError("the graph is not part of the model")
        self.function: ir.Function | None = functions[id(self.graph)]
        self._before = before
        self._after = after
        self.nodes: list[ir.Node] = []
        """Nodes made so far, in order."""

    @property
    def _names(self) -> _Names:
        return _names_of(self.model)

    @property
    def opset(self) -> int:
        """Version of the standard operators in this scope.

        Raises:
            Refusal: The scope does not import them.
        """
        return opset_of(self.model, self.function)

    def has_op(self, op: str, dtype: ir.DataType | None = None) -> bool:
        """Whether the standard operator ``op`` exists in this scope's opset, and takes ``dtype`` if that is given."""
        schema = _schema(op, "", self.opset)
        if schema is None or schema.deprecated:
            return False
        if dtype is None:
            return True
        wanted = f"tensor({_TYPE_NAMES.get(dtype.name, dtype.name.lower())})"
        first = schema.inputs[0].type_str
        return all(
            wanted in constraint.allowed_type_strs
            for constraint in schema.type_constraints
            if constraint.type_param_str == first
        )

    def was_inlined(self, op: str) -> bool:
        """Whether ONNX Runtime wrote ``op`` out in this model once, as its optimised models show: it would give the
        values inside a new one the same names again, and then refuse the model for them."""
        return any(name.startswith(f"_inlfunc_{op}_") for name in self._names.values)

    def accepts(self, node: ir.Node) -> bool:
        """Whether ``node``, from another scope maybe, means the same here: its attributes and inputs fit."""
        if node.domain != "":
            return node.domain in (
                self.model.graph.opset_imports if self.function is None else self.function.opset_imports
            )
        schema = _schema(node.op_type, "", self.opset)
        return (
            schema is not None
            and not schema.deprecated
            and set(node.attributes) <= set(schema.attributes)
            and schema.min_input <= len(node.inputs) <= schema.max_input
        )

    def unique(self, name: str) -> str:
        """``name``, or the first of ``name_1``, ``name_2`` ... that no value and no node has. Reserves nothing."""
        names = self._names
        return names.free(name, names.values, names.nodes)

    def initializer(self, name: str, array: np.ndarray, dtype: ir.DataType | None = None) -> ir.Value:
        """A constant that this scope sees: an initializer of the main graph, or a Constant node inside a function.

        Args:
            name: Wanted name; a number is added where it is taken.
            array: Its value, of any shape. Not copied when it has the right type already.
            dtype: Element type to store; default, the array's own.

        Raises:
            Refusal: A finite element is beyond the range of ``dtype``.
        """
        names = self._names
        name = names.free(name, names.values)
        tensor = _tensor(array, dtype, name)
        if self.function is not None:
            value = self.node("Constant", [], name=name, output=name, value=tensor)
            value.const_value = tensor
            value.shape, value.dtype = ir.Shape(tensor.shape), tensor.dtype
            return value
        value = ir.Value(name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        main = self.model.graph
        main.initializers.add(value)
        if self.model.ir_version < _FIRST_IR_WITH_FREE_INITIALIZERS:
            main.inputs.append(value)
        names.values.add(name)
        names.fingerprint = names.count()
        return value

    def node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        *,
        name: str | None = None,
        output: str | None = None,
        outputs: int = 1,
        domain: str = "",
        like: ir.Value | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """Insert one node and give its first output (all of them: ``self.nodes[-1].outputs``).

        Args:
            op: Operator; of the standard set in this scope's opset unless ``domain`` says otherwise.
            inputs: Its inputs; ``None`` leaves an optional one out.
            name: Wanted node name; default, the output's.
            output: Wanted name of the first output; default, the node's. Further ones get ``_1``, ``_2`` ...
            outputs: How many outputs.
            domain: Operator domain; imported at version 1 where the scope does not import it yet.
            like: A value whose type and shape the first output shares (element-wise operators).
            attributes: Python values, arrays (stored as tensors) or ``ir.Attr``; ``None`` leaves one out. The
                operator's schema decides the kind, so ``alpha=1`` is stored as a float.

        Raises:
            Refusal: The operator does not exist in this scope's opset.
            ValueError: The operator has no such attribute.
        """
        if domain in {"", "ai.onnx"}:
            domain, version = "", self.opset
            if version < _OLDEST_OPSET and op != "Constant":
                raise Refusal(
                    f"the model's opset is {version}, older than any that new nodes are written for",
                    way_out=f"export it with opset {_OLDEST_OPSET} or later",
                    code="opset-too-old",
                )
        else:
            version = self._import(domain)
        schema = _schema(op, domain, version)
        if domain == "" and (schema is None or schema.deprecated):
            raise Refusal(f"operator {op} does not exist in opset {version}", code="opset-too-old")
        stored = [_attribute(op, key, value, schema) for key, value in attributes.items() if value is not None]
        return self._make(domain, op, inputs, stored, name=name, output=output, outputs=outputs, like=like)

    def copy(
        self, node: ir.Node, inputs: Sequence[ir.Value | None], *, name: str, output: str | None = None
    ) -> ir.Value:
        """A second ``node`` with other inputs and the same attributes (which may not hold graphs); its first output."""
        if any(True for _ in _bodies(node)):
            raise ValueError(f"node '{node.name}' holds graphs and cannot be copied")
        return self._make(
            node.domain,
            node.op_type,
            inputs,
            list(node.attributes.values()),
            name=name,
            output=output,
            outputs=len(node.outputs),
        )

    def _import(self, domain: str) -> int:
        """Version of ``domain`` in this scope; imported as version 1, in the model too, where it was not."""
        scopes = [self.model.graph.opset_imports]
        if self.function is not None:
            scopes.append(self.function.opset_imports)
        for imports in scopes:
            imports.setdefault(domain, 1)
        return scopes[-1][domain]

    def _make(
        self,
        domain: str,
        op: str,
        inputs: Sequence[ir.Value | None],
        attributes: Sequence[ir.Attr],
        *,
        name: str | None,
        output: str | None,
        outputs: int,
        like: ir.Value | None = None,
    ) -> ir.Value:
        names = self._names
        wanted = output or name or op
        node_name = names.free(name or wanted, names.nodes)
        values: list[ir.Value] = []
        for index in range(outputs):
            value_name = names.free(wanted if index == 0 else f"{wanted}_{index}", names.values)
            names.values.add(value_name)
            values.append(ir.Value(name=value_name))
        if like is not None:
            values[0].type = like.type
            values[0].shape = None if like.shape is None else like.shape.copy()
        node = ir.Node(domain, op, inputs, attributes, outputs=values, name=node_name)
        names.nodes.add(node_name)
        self._insert(node)
        names.fingerprint = names.count()
        if next(_bodies(node), None) is not None:
            del _names_by_model[self.model]  # the bodies bring names and scopes of their own
        return values[0]

    def _insert(self, node: ir.Node) -> None:
        if self._before is not None:
            self.graph.insert_before(self._before, node)
        elif self._after is not None:
            self.graph.insert_after(self._after, node)
            self._after = node
        else:
            self.graph.append(node)
        self.nodes.append(node)


def _schema(op: str, domain: str, version: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return None


def _attribute(op: str, key: str, value: Any, schema: onnx.defs.OpSchema | None) -> ir.Attr:
    if isinstance(value, ir.Attr):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        value = ir.Tensor(value)
    if schema is None:
        return ir.convenience.convert_attribute(key, value)
    if key not in schema.attributes:
        raise ValueError(f"operator {op} has no attribute '{key}' since version {schema.since_version}")
    kind = _KINDS.get(schema.attributes[key].type)
    if kind == ir.AttributeType.FLOAT:
        value = float(value)
    elif kind == ir.AttributeType.INT:
        value = int(value)
    return ir.convenience.convert_attribute(key, value, kind)


def set_initializer(value: ir.Value, array: np.ndarray, dtype: ir.DataType | None = None) -> None:
    """Give an initializer another tensor, with tensor, shape and type set together.

    The old tensor, which the parent may share, is left as it was.

    Args:
        value: An initializer.
        array: Its new content, of any shape.
        dtype: Element type to store; default, the type that ``value`` had.

    Raises:
        Refusal: A finite element is beyond the range of the type.
    """
    if not value.is_initializer() or value.name is None:
        raise ValueError(f"'{value.name}' is not an initializer")
    wanted = dtype or value.dtype or (value.const_value.dtype if value.const_value is not None else None)
    tensor = _tensor(array, wanted, value.name)
    value.const_value = tensor
    value.shape = ir.Shape(tensor.shape)
    value.type = ir.TensorType(tensor.dtype)


def rename_value(model: ir.Model, value: ir.Value, name: str) -> str:
    """Rename ``value`` to ``name``, or to ``name_1`` ... where that is taken; gives the name it got.

    Its tensor keeps its own name, since the parent may share it.
    """
    names = _names_of(model)
    old = value.name
    if old == name:
        return name
    new = names.free(name, names.values)
    _set_name(value, new)
    names.release([old])
    names.values.add(new)
    return new


def rename_node(model: ir.Model, node: ir.Node, name: str) -> str:
    """Rename ``node`` to ``name``, or to ``name_1`` ... where that is taken; gives the name it got."""
    names = _names_of(model)
    old = node.name
    if old == name:
        return name
    node.name = names.free(name, names.nodes)
    names.release((), [old])
    names.nodes.add(node.name)
    return node.name


def _set_name(value: ir.Value, name: str) -> None:
    tensor, value.const_value = value.const_value, None
    value.name = name
    value.const_value = tensor


def replace_uses(
    old: ir.Value, new: ir.Value, *, except_nodes: Collection[ir.Node] = (), graph_outputs: bool = True
) -> None:
    """Make every consumer of ``old`` (in bodies too) read ``new``, and every graph output that is ``old`` become it.

    Names stay as they are: a graph output is renamed by this, unless ``take_name(model, new, old)`` follows.

    Args:
        old: The value that loses its consumers.
        new: The value that gets them.
        except_nodes: Nodes that go on reading ``old`` (typically those that make ``new`` from it).
        graph_outputs: Whether outputs of graphs are replaced as well.

    Raises:
        ValueError: ``old`` is an output of a graph that ``new`` is an output of already.
    """
    spared = set(except_nodes)
    if graph_outputs and old.is_graph_output() and old.graph is not None:
        outputs = old.graph.outputs
        if any(value is new for value in outputs):
            raise ValueError(f"'{new.name}' is an output of the graph already")
        for index, value in enumerate(outputs):
            if value is old:
                outputs[index] = new
    for node, index in old.uses():
        if node not in spared:
            node.replace_input_with(index, new)


def take_name(model: ir.Model, new: ir.Value, old: ir.Value, *, old_name: str | None = None) -> None:
    """``new`` takes the name, type, shape and notes of ``old``, which gets ``old_name`` (default: name + ``_inner``).

    So a layer's output keeps its name, and a value that keeps name and shape keeps its meaning. ``old`` then has no
    claim on the declared shape any more but keeps its own, since it may still be right.

    Raises:
        ValueError: ``old`` is an input of a graph (part of somebody's interface), or is nameless.
    """
    name = old.name
    if old.is_graph_input() or not name:
        raise ValueError(f"the name of '{name}' is not free to be taken")
    names = _names_of(model)
    freed = names.free(old_name or f"{name}_inner", names.values)
    before = new.name
    _set_name(old, freed)
    _set_name(new, name)
    if before != freed:
        names.release([before])
    names.values.add(freed)
    if old.type is not None:
        new.type = old.type
    if old.shape is not None:
        new.shape = old.shape.copy()
    if old.doc_string:
        new.doc_string, old.doc_string = old.doc_string, None
    if _QUANTIZATION in old.meta:
        new.meta[_QUANTIZATION] = old.meta.pop(_QUANTIZATION)
    if old.metadata_props:
        new.metadata_props.update(old.metadata_props)
        old.metadata_props.clear()


def drop_unused(model: ir.Model, candidates: Iterable[ir.Value | ir.Node]) -> list[str]:
    """Remove those of ``candidates`` that nothing uses any more, then what only they used, and so on.

    Dead code the user left in the file is not reached, since it never had a use that went away. Graph inputs stay, but
    for the twin that IR versions below 4 demand of every initializer.

    Returns:
        The names of what was removed, in order.
    """
    names = _names_of(model)
    removed: list[str] = []
    waiting: list[ir.Value | ir.Node] = list(candidates)
    waiting.reverse()
    while waiting:
        candidate = waiting.pop()
        node = candidate if isinstance(candidate, ir.Node) else candidate.producer()
        if node is not None:
            graph = node.graph
            if graph is None or any(output.is_graph_output() or output.uses() for output in node.outputs):
                continue
            graph = graph.graph if isinstance(graph, ir.Function) else graph
            waiting.extend(reversed(_detach(node)))
            graph.remove(node)
            removed.append(node.name or (node.outputs[0].name or "" if node.outputs else ""))
            names.release((output.name for output in node.outputs), [node.name])
        elif isinstance(candidate, ir.Value) and candidate.is_initializer():
            if candidate.uses() or candidate.is_graph_output() or candidate.graph is None or not candidate.name:
                continue
            graph = candidate.graph
            if candidate.is_graph_input():
                if model.ir_version >= _FIRST_IR_WITH_FREE_INITIALIZERS:
                    continue
                graph.inputs.remove(candidate)
            del graph.initializers[candidate.name]
            removed.append(candidate.name)
            names.release([candidate.name])
    names.fingerprint = names.count()
    return removed


def _detach(node: ir.Node) -> list[ir.Value]:
    """Take away every use that ``node`` and the nodes in its bodies make of values from outside; gives those values."""
    released: dict[ir.Value, None] = {}
    gone: set[ir.Node] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        gone.add(current)
        for index, value in enumerate(current.inputs):
            if value is not None:
                released[value] = None
                current.replace_input_with(index, None)
        for body in _bodies(current):
            waiting.extend(body)
    return [value for value in released if value.producer() not in gone]


def forget_shapes_downstream(model: ir.Model, value: ir.Value) -> None:
    """Clear the recorded shapes of everything computed from ``value``, in bodies too; types stay.

    Shape inference takes a stale ``value_info`` at its word. The outputs of the main graph keep their shape: they are
    the model's interface, and a morph does not change it.
    """
    owners = _names_of(model).owners
    seen: set[ir.Node] = set()
    waiting: list[ir.Node] = list(value.consumers())
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.graph is not None and (owner := owners.get(id(node.graph))) is not None:
            waiting.append(owner)
        for body in _bodies(node):
            # What enters a body by position (Loop, Scan) has no edge of its own to follow. A Loop's counter and its
            # condition are scalars whatever happens outside, and ONNX Runtime insists on knowing that.
            for entry in body.inputs[2:] if node.op_type == "Loop" else body.inputs:
                entry.shape = None
            waiting.extend(body)
        for output in node.outputs:
            if not (output.is_graph_output() and output.graph is model.graph):
                output.shape = None
            waiting.extend(output.consumers())
