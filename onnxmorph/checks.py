"""What a model must be before anything is done with it, in one pass over its skeleton.

These are the checks that ONNX Runtime and ``onnx.checker`` would make on names and order, made here because they cost
milliseconds and because onnx-ir answers most of what fails them by inventing values. Versions that ONNX Runtime does
not take are no error: a model can be changed on a machine that cannot run it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NoReturn

from onnxmorph._ir import onnx
from onnxmorph.errors import ModelError, Refusal
from onnxmorph.protos import label, subgraphs

__all__ = ["check"]

_DEFAULT_DOMAINS = ("", "ai.onnx")


_TYPE_NUMBERS = frozenset(("to", "dtype", "output_dtype", "output_datatype"))
"""Attributes of ONNX's own operators that hold an element type by its number."""


@functools.cache
def _attribute_types(op_type: str, version: int) -> Mapping[str, int]:
    """Type of each attribute of an operator of ONNX; empty where this opset has none of this name."""
    try:
        schema = onnx.defs.get_schema(op_type, version, "")
    except onnx.defs.SchemaError:
        return MappingProxyType({})
    types = {name: attribute.type for name, attribute in schema.attributes.items()}
    return MappingProxyType({name: kind.value for name, kind in types.items()})  # type: ignore[attr-defined]


class _Scope:
    """Names of one graph: those defined so far, and all that its nodes define somewhere."""

    def __init__(self, nodes: Sequence[onnx.NodeProto]) -> None:
        self.nodes = nodes
        self.defined: set[str] = set()
        self.produced = {output for node in nodes for output in node.output if output}


def check(proto: onnx.ModelProto, name: str) -> None:
    """Raise on what makes a model unusable or what the graph representation would silently lose.

    Args:
        proto: The parsed model; tensors may be tickets.
        name: What errors call the model.

    Raises:
        ModelError: No graph, no IR version, no opset import; a name defined twice; a value used that nothing defines,
            or before it is defined; a cycle; a text that is not UTF-8.
        Refusal: Sparse tensors, training information, or fields of a newer ONNX.
    """
    _Check(name).model(proto)


class _Check:
    def __init__(self, name: str) -> None:
        self.name = name
        self.uses_default_domain = False
        self.in_function = False
        self.version = 0  # of ONNX's operators, where the nodes at hand live

    def fail(self, reason: str) -> NoReturn:
        raise ModelError(f"{self.name}: {reason}")

    def model(self, proto: onnx.ModelProto) -> None:
        if not proto.HasField("graph"):
            self.fail("not an ONNX model: it has no graph")
        if proto.ir_version <= 0:
            self.fail("not a valid ONNX model: it has no IR version")
        if proto.training_info:
            raise Refusal(
                f"{self.name}: has training information, which would be lost",
                way_out="remove it first",
                code="training-info",
            )
        self.unknown_fields(proto)
        self.version = self.imports(proto.opset_import, "it")
        seen: set[tuple[str, str, str]] = set()
        for function in proto.functions:
            key = (function.domain, function.name, function.overload)
            if key in seen:
                self.fail(f"function {function.name!r} of domain {function.domain!r} is defined twice")
            seen.add(key)
            self.imports(function.opset_import, f"function {function.name!r}")
        self.graph(proto.graph, [], "the graph")
        domains = {opset.domain for opset in proto.opset_import}
        if not domains:
            self.fail("not a valid ONNX model: it imports no opset")
        if self.uses_default_domain and not domains.intersection(_DEFAULT_DOMAINS):
            self.fail("not a valid ONNX model: it uses ONNX operators but imports no opset of them")
        for function in proto.functions:
            self.function(function)

    def imports(self, imports: Iterable[onnx.OperatorSetIdProto], where: str) -> int:
        """The version of ONNX's own operators; 0 where they are not imported."""
        versions: dict[str, int] = {}
        for opset in imports:
            domain = "" if opset.domain == "ai.onnx" else opset.domain
            if versions.setdefault(domain, opset.version) != opset.version:
                self.fail(f"{where} imports two versions of the opset {opset.domain or 'ai.onnx'!r}")
            if opset.version <= 0:
                self.fail(f"{where} imports version {opset.version} of the opset {opset.domain or 'ai.onnx'!r}")
        return versions.get("", 0)

    def unknown_fields(self, proto: onnx.ModelProto) -> None:
        size = proto.ByteSize()
        known = onnx.ModelProto()
        known.CopyFrom(proto)
        known.DiscardUnknownFields()
        if known.ByteSize() != size:
            raise Refusal(
                f"{self.name}: has fields that onnx {onnx.__version__} does not know, which would be lost",
                way_out="install a newer onnx",
                code="unknown-fields",
            )

    def texts(self, node: onnx.NodeProto, what: str) -> None:
        texts = [node.op_type, node.name, node.domain, node.overload, node.doc_string, *node.input, *node.output]
        for entry in node.metadata_props:
            texts += (entry.key, entry.value)
        try:
            "".join(texts)  # the quick way to ask whether all of them are str
        except TypeError:
            self.fail(f"{what} is not valid UTF-8")

    def text(self, value: object, what: str) -> None:
        # Protobuf hands out a string field that is not UTF-8 as bytes.
        if not isinstance(value, str):
            self.fail(f"{what} is not valid UTF-8")

    def graph(self, graph: onnx.GraphProto, outer: list[_Scope], where: str) -> None:
        if graph.sparse_initializer:
            raise Refusal(
                f"{self.name}: has sparse initializers, which would be lost",
                way_out="convert to dense tensors first",
                code="sparse-initializer",
            )
        self.text(graph.name, f"the name of {where}")
        scope = _Scope(graph.node)
        for info in graph.input:
            self.define(info.name, scope.defined, f"an input of {where}")
        initialized: set[str] = set()
        for tensor in graph.initializer:
            if not tensor.name:
                self.fail(f"an initializer of {where} has no name")
            self.define(tensor.name, initialized, f"an initializer of {where}")
        scope.defined |= initialized
        scopes = [*outer, scope]
        self.body(scopes, where)
        for info in graph.output:
            self.text(info.name, f"the name of an output of {where}")
            if info.name in scope.defined:
                continue
            if any(info.name in visible.defined for visible in outer):
                # ONNX Runtime turns this away too, and onnx-ir would take it for a value of its own.
                self.fail(
                    f"output {info.name!r} of {where} is a value from outside; an Identity node has to bring it in"
                )
            self.fail(f"nothing produces output {info.name!r} of {where}")
        for infos in (graph.input, graph.output, graph.value_info):
            for info in infos:
                self.info(info)

    def info(self, info: onnx.ValueInfoProto) -> None:
        if info.type.WhichOneof("value") == "tensor_type":
            for dim in info.type.tensor_type.shape.dim:
                if not isinstance(dim.dim_param, str):
                    self.fail(f"a dimension of {info.name!r} is not valid UTF-8")

    def function(self, function: onnx.FunctionProto) -> None:
        where = f"function {function.name!r}"
        scope = _Scope(function.node)
        for value in function.input:
            self.define(value, scope.defined, f"an input of {where}")
        self.in_function = True
        self.version = self.imports(function.opset_import, where)
        names = [*function.attribute, *(attribute.name for attribute in function.attribute_proto)]
        self.distinct(names, where)
        for attribute in function.attribute_proto:
            if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) or attribute.ref_attr_name:
                raise Refusal(
                    f"{self.name}: attribute {attribute.name!r} of {where} has a graph as its default",
                    code="graph-reference",
                )
        self.body([scope], where)
        for value in function.output:
            if value not in scope.defined:
                self.fail(f"nothing produces output {value!r} of {where}")

    def define(self, value: str, defined: set[str], what: str) -> None:
        self.text(value, f"the name of {what}")
        if value in defined:
            self.fail(f"{value!r} is defined twice, the second time as {what}")
        defined.add(value)

    def body(self, scopes: list[_Scope], where: str) -> None:
        own = scopes[-1]
        for node in own.nodes:
            self.texts(node, f"a text of a node of {where}")
            if node.domain in _DEFAULT_DOMAINS:
                self.uses_default_domain = True
            for value in node.input:
                # Own values first: what a later node of the same graph defines does not mean an outer value before.
                if value and value not in own.defined:
                    self.visible(value, node, scopes, where)
            if node.attribute:
                self.distinct([attribute.name for attribute in node.attribute], label(node))
                for attribute in node.attribute:
                    self.attribute(attribute, node)
                if node.domain in _DEFAULT_DOMAINS:
                    self.attribute_types(node)
            for graph in subgraphs(node):
                self.graph(graph, scopes, f"a subgraph of {label(node)}")
            for value in node.output:
                if value:
                    self.define(value, own.defined, f"an output of {label(node)}")

    def distinct(self, attributes: list[str], where: str) -> None:
        for index, name in enumerate(attributes):
            self.text(name, f"the name of an attribute of {where}")
            if name in attributes[:index]:
                self.fail(f"attribute {name!r} of {where} is given twice")

    def attribute(self, attribute: onnx.AttributeProto, node: onnx.NodeProto) -> None:
        if not attribute.ref_attr_name:
            return
        if not self.in_function:
            self.fail(f"attribute {attribute.name!r} of {label(node)} refers to one of a function, but is in none")
        if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            raise Refusal(
                f"{self.name}: attribute {attribute.name!r} of {label(node)} is a graph given to a function",
                code="graph-reference",
            )

    def attribute_types(self, node: onnx.NodeProto) -> None:
        """Attributes have the types of ONNX: neither ONNX Runtime nor anything that reads them here takes others."""
        expected = _attribute_types(node.op_type, self.version) if self.version > 0 else {}
        for attribute in node.attribute:
            wanted = expected.get(attribute.name, attribute.type)
            if attribute.type not in (wanted, onnx.AttributeProto.UNDEFINED):
                names = onnx.AttributeProto.AttributeType
                self.fail(
                    f"attribute {attribute.name!r} of {label(node)} is {names.Name(attribute.type)}, "
                    f"where {node.op_type} takes {names.Name(wanted)}"
                )
            if (
                attribute.name in _TYPE_NUMBERS
                and wanted == onnx.AttributeProto.INT
                and not attribute.ref_attr_name
                and attribute.i not in onnx.TensorProto.DataType.values()
            ):
                what = f"attribute {attribute.name!r} of {label(node)} is {attribute.i}"
                self.fail(f"{what}, no element type known to onnx {onnx.__version__}")

    def visible(self, value: str, user: onnx.NodeProto, scopes: list[_Scope], where: str) -> None:
        """Raise unless ``value`` is defined where ``user`` stands, saying which it is: missing, a cycle, or order."""
        for scope in reversed(scopes):
            if value in scope.defined:
                return
            if value in scope.produced:
                break
        else:
            self.fail(f"{label(user)} uses {value!r}, which nothing produces")
        producer = {output: node for node in scope.nodes for output in node.output if output}
        seen: set[str] = set()
        pending = [value]
        users_outputs = set(filter(None, user.output))
        while pending:
            current = pending.pop()
            if current in users_outputs:
                self.fail(f"{where} has a cycle through {label(user)} and its input {value!r}")
            if current in seen or current not in producer:
                continue
            seen.add(current)
            pending.extend(filter(None, _all_inputs(producer[current])))
        self.fail(
            f"the nodes of {where} are not in topological order: {label(user)} uses {value!r} before "
            f"{label(producer[value])} produces it"
        )


def _all_inputs(node: onnx.NodeProto) -> list[str]:
    """Inputs of a node and everything that its subgraphs name: a superset of what they capture."""
    names = list(node.input)
    for graph in subgraphs(node):
        for inner in graph.node:
            names.extend(_all_inputs(inner))
    return names
