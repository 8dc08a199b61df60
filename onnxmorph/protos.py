"""Between ``ModelProto`` and ``ir.Model``, losing nothing on the way.

onnx-ir reads and writes protos too; this module reads through it and writes itself, because a round trip there

* drops map and opaque types, attributes without a type, sparse tensors, and fields it does not know;
* doubles the metadata of tensors, adds a ``value_info`` for every initializer, renames shared tensors in place;
* copies every weight into the proto.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]

from onnxmorph._ir import ir, onnx
from onnxmorph.errors import ModelError, Refusal

__all__ = ["Place", "ReadTensor", "from_proto", "label", "subgraphs", "to_proto"]

TYPE_KEY = "onnxmorph.type"
"""``Value.metadata_props``: base64 of the ``TypeProto`` of a value whose type onnx-ir has no class for (maps, opaque
types). Clones take it along; :func:`to_proto` puts the type back and the key away."""
VALUE_INFO_KEY = "onnxmorph.value_info"
"""``Value.meta``: the file itself gave a ``value_info`` for this initializer."""
_ANNOTATION_KEY = "quant_parameter_tensor_names"  # onnx-ir's own place for quantization annotations
_FUNCTION_VALUE_INFO_IR = 10  # FunctionProto.value_info exists from this IR version on
_DEVICES_IR = 11

_P = onnx.AttributeProto
# Which field an attribute of an old file, written before attributes had a type, holds its value in.
_TYPE_OF_FIELD = {
    "f": _P.FLOAT,
    "i": _P.INT,
    "s": _P.STRING,
    "t": _P.TENSOR,
    "g": _P.GRAPH,
    "tp": _P.TYPE_PROTO,
    "floats": _P.FLOATS,
    "ints": _P.INTS,
    "strings": _P.STRINGS,
    "tensors": _P.TENSORS,
    "graphs": _P.GRAPHS,
    "type_protos": _P.TYPE_PROTOS,
}


class Place(Protocol):
    """Decides where a tensor's bytes go when a model is written."""

    def __call__(self, proto: onnx.TensorProto, tensor: ir.TensorProtocol, *, initializer_of: ir.Graph | None) -> bool:
        """Fill in the data of ``proto`` (name, dims and type are set) and return ``True``; ``False`` embeds it.

        ``initializer_of``: the graph whose initializer it is, ``None`` for a tensor of an attribute.
        """


ReadTensor = Callable[[onnx.TensorProto, str], ir.TensorProtocol]
"""From a tensor's proto and what errors call it to the tensor; raises ModelError where the two do not agree."""


def label(node: onnx.NodeProto) -> str:
    """What errors call a node."""
    return f"{node.op_type} {node.name!r}" if node.name else f"{node.op_type} (output {', '.join(node.output)!r})"


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == _P.GRAPH:
            yield attribute.g
        elif attribute.type == _P.GRAPHS:
            yield from attribute.graphs


# --- reading ---------------------------------------------------------------------------------------------------------


def from_proto(proto: onnx.ModelProto, name: str, read_tensor: ReadTensor) -> ir.Model:
    """Build the graph representation of a proto that :func:`onnxmorph.checks.check` has passed.

    Args:
        proto: Consumed: it is changed so that onnx-ir can take it.
        name: What errors call the model.
        read_tensor: Gives the tensor for each ``TensorProto``.

    Raises:
        ModelError: A tensor, type or attribute is malformed.
        Refusal: Something valid that could not be kept.
    """
    prepared = _Prepare(name, read_tensor)
    prepared.model(proto)
    try:
        model = ir.from_proto(proto)
    except Exception as error:  # whatever onnx-ir stumbles over is the file's fault, and it raises all kinds of errors
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        reason = str(root).strip().split("\n")[0] or type(root).__name__
        raise ModelError(f"{name}: not a usable ONNX model: {reason}") from error
    _Restore(prepared.tensors).model(model, proto)
    return model


class _Prepare:
    """Reads the tensors of a proto, in the order :class:`_Restore` asks for them, and makes it one onnx-ir keeps."""

    def __init__(self, name: str, read_tensor: ReadTensor) -> None:
        self.name = name
        self.read_tensor = read_tensor
        self.tensors: list[ir.TensorProtocol] = []

    def model(self, proto: onnx.ModelProto) -> None:
        if proto.configuration and proto.ir_version < _DEVICES_IR:
            raise Refusal(
                f"{self.name}: has device configurations, which IR version {proto.ir_version} does not",
                way_out=f"set its IR version to {_DEVICES_IR}",
                code="device-configuration",
            )
        self.graph(proto.graph)
        for function in proto.functions:
            for info in function.value_info:
                self.value(info)
            self.nodes(function.node)
            for attribute in function.attribute_proto:
                self.attribute(attribute, f"function {function.name!r}")

    def graph(self, graph: onnx.GraphProto) -> None:
        for infos in (graph.input, graph.output, graph.value_info):
            for info in infos:
                self.value(info)
        for tensor in graph.initializer:
            self.tensor(tensor, f"initializer {tensor.name!r}")
        self.nodes(graph.node)

    def nodes(self, nodes: Iterable[onnx.NodeProto]) -> None:
        for node in nodes:
            for attribute in node.attribute:
                self.attribute(attribute, label(node))

    def tensor(self, proto: onnx.TensorProto, what: str) -> None:
        tensor = self.read_tensor(proto, what)
        self.tensors.append(tensor)
        if not isinstance(tensor, ir.TensorProtoTensor):
            # Its data is where the tensor says; the proto's is a ticket or a reference that onnx-ir must not follow.
            for field in ("raw_data", "data_location", "external_data"):
                proto.ClearField(field)

    def value(self, info: onnx.ValueInfoProto) -> None:
        if info.metadata_props and any(entry.key == TYPE_KEY for entry in info.metadata_props):
            raise ModelError(f"{self.name}: value {info.name!r} has the metadata key {TYPE_KEY!r}, which is reserved")
        if not info.HasField("type") or _keeps(info.type):
            return
        whole = base64.b64encode(info.type.SerializeToString(deterministic=True)).decode("ascii")
        info.ClearField("type")
        info.metadata_props.add(key=TYPE_KEY, value=whole)

    def attribute(self, attribute: onnx.AttributeProto, where: str) -> None:
        if attribute.ref_attr_name:
            return
        if attribute.type == _P.UNDEFINED:
            fields = [field.name for field, _ in attribute.ListFields() if field.name in _TYPE_OF_FIELD]
            if len(fields) != 1:
                raise ModelError(f"{self.name}: attribute {attribute.name!r} of {where} has no type")
            attribute.type = _TYPE_OF_FIELD[fields[0]]
        type_ = attribute.type
        if type_ in (_P.TENSOR, _P.TENSORS):
            for tensor in [attribute.t] if type_ == _P.TENSOR else attribute.tensors:
                self.tensor(tensor, f"attribute {attribute.name!r} of {where}")
        elif type_ in (_P.GRAPH, _P.GRAPHS):
            for graph in [attribute.g] if type_ == _P.GRAPH else attribute.graphs:
                self.graph(graph)
        elif type_ in (_P.SPARSE_TENSOR, _P.SPARSE_TENSORS):
            raise Refusal(
                f"{self.name}: attribute {attribute.name!r} of {where} is a sparse tensor, which would be lost",
                way_out="convert it to a dense tensor first",
                code="sparse-tensor",
            )
        elif type_ in (_P.TYPE_PROTO, _P.TYPE_PROTOS):
            types = [attribute.tp] if type_ == _P.TYPE_PROTO else attribute.type_protos
            if not all(map(_keeps, types)):
                raise Refusal(
                    f"{self.name}: attribute {attribute.name!r} of {where} holds a type that cannot be kept",
                    code="attribute-type",
                )


def _keeps(type_: onnx.TypeProto) -> bool:
    """Whether onnx-ir's classes hold this type exactly."""
    kind = type_.WhichOneof("value")
    if kind == "tensor_type":
        return bool(type_.tensor_type.HasField("elem_type"))
    if kind == "sparse_tensor_type":
        return bool(type_.sparse_tensor_type.HasField("elem_type"))
    if kind == "sequence_type":
        return _keeps_element(type_.sequence_type.elem_type)
    if kind == "optional_type":
        return _keeps_element(type_.optional_type.elem_type)
    return False


def _keeps_element(type_: onnx.TypeProto) -> bool:
    return type_.WhichOneof("value") is not None and _keeps(type_)


class _Restore:
    """Puts our tensors in the place of onnx-ir's: a walk over representation and proto side by side."""

    def __init__(self, tensors: Iterable[ir.TensorProtocol]) -> None:
        self.tensors = iter(tensors)

    def model(self, model: ir.Model, proto: onnx.ModelProto) -> None:
        self.graph(model.graph, proto.graph)
        for function, function_proto in zip(model.functions.values(), proto.functions, strict=True):
            self.nodes(function, function_proto.node)
            for attribute in function_proto.attribute_proto:
                self.attribute(function.attributes, attribute)

    def graph(self, graph: ir.Graph, proto: onnx.GraphProto) -> None:
        for tensor_proto in proto.initializer:
            graph.initializers[tensor_proto.name].const_value = next(self.tensors)
        for info in proto.value_info:
            known = graph.initializers.get(info.name)
            if known is not None:
                known.meta[VALUE_INFO_KEY] = True
        self.nodes(graph, proto.node)

    def nodes(self, nodes: Iterable[ir.Node], protos: Iterable[onnx.NodeProto]) -> None:
        for node, proto in zip(nodes, protos, strict=True):
            for attribute in proto.attribute:
                self.attribute(node.attributes, attribute)

    def attribute(self, attributes: Any, proto: onnx.AttributeProto) -> None:
        if proto.ref_attr_name:
            return
        name, type_ = proto.name, proto.type
        doc_string = proto.doc_string if proto.HasField("doc_string") else None
        if type_ == _P.TENSOR:
            attributes.add(ir.AttrTensor(name, next(self.tensors), doc_string=doc_string))
        elif type_ == _P.TENSORS:
            tensors = [next(self.tensors) for _ in proto.tensors]
            attributes.add(ir.AttrTensors(name, tensors, doc_string=doc_string))
        elif type_ == _P.GRAPH:
            self.graph(attributes[name].as_graph(), proto.g)
        elif type_ == _P.GRAPHS:
            for graph, graph_proto in zip(attributes[name].as_graphs(), proto.graphs, strict=True):
                self.graph(graph, graph_proto)


# --- writing ---------------------------------------------------------------------------------------------------------


def to_proto(model: ir.Model, place: Place, *, bare: bool = False) -> onnx.ModelProto:
    """Write a model; the model and its tensors are left as they are.

    Args:
        model: What to write.
        place: Where each tensor's bytes go.
        bare: Leave out what does not bear on the computation: doc strings, metadata, ``value_info``, the producer.

    Raises:
        ModelError: A value or initializer is incomplete, or a text is not valid Unicode.
    """
    try:
        return _Write(model, place, bare).model()
    except (TypeError, ValueError) as error:  # protobuf, for what no field of its can hold
        raise ModelError(f"the model cannot be written: {str(error).splitlines()[0]}") from error


class _Write:
    def __init__(self, model: ir.Model, place: Place, bare: bool) -> None:
        self.source = model
        self.place = place
        self.bare = bare

    def model(self) -> onnx.ModelProto:
        source = self.source
        proto = onnx.ModelProto()
        proto.ir_version = source.ir_version
        if not self.bare:
            if source.producer_name is not None:
                proto.producer_name = source.producer_name
            if source.producer_version is not None:
                proto.producer_version = source.producer_version
            if source.domain is not None:
                proto.domain = source.domain
            if source.model_version is not None:
                proto.model_version = source.model_version
        self.texts(proto, source.doc_string, source.metadata_props)
        for domain, version in source.opset_imports.items():
            proto.opset_import.add(domain=domain, version=version)
        for configuration in source.device_configurations:
            proto.configuration.append(ir.serde.serialize_model_configuration(configuration))
        proto.graph.SetInParent()
        self.graph(proto.graph, source.graph)
        for function in source.functions.values():
            self.function(proto.functions.add(), function)
            if not self.bare and source.ir_version < _FUNCTION_VALUE_INFO_IR:
                # Before functions had value_info, exporters kept it in the main graph under this name.
                for value in _function_values(function):
                    if _has_info(value):
                        info = proto.graph.value_info.add()
                        self.value(info, value)
                        info.name = f"{function.domain}::{function.name}/{value.name}"
        return proto

    def texts(self, proto: Message, doc_string: str | None, metadata_props: dict[str, str] | None) -> None:
        if self.bare:
            return
        if doc_string is not None:
            proto.doc_string = doc_string
        for key in sorted(metadata_props or ()):
            proto.metadata_props.add(key=key, value=metadata_props[key])  # type: ignore[index]

    def graph(self, proto: onnx.GraphProto, graph: ir.Graph) -> None:
        if graph.name is not None:
            proto.name = graph.name
        self.texts(proto, graph.doc_string, graph.metadata_props)
        annotated: set[str] = set()
        inputs = {id(value) for value in graph.inputs}
        outputs = {id(value) for value in graph.outputs}
        for value in graph.inputs:
            self.value(proto.input.add(), value)
            self.annotation(proto, value, annotated)
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None:
                raise ModelError(f"initializer {value.name!r} has no value")
            self.tensor(proto.initializer.add(), tensor, value.name, initializer_of=graph)
            self.annotation(proto, value, annotated)
            if id(value) not in inputs and id(value) not in outputs and not _implied(value):
                self.value_info(proto.value_info, value)
        for node in graph:
            self.node(proto.node.add(), node)
            for value in node.outputs:
                self.annotation(proto, value, annotated)
                if id(value) not in outputs:
                    self.value_info(proto.value_info, value)
        for value in graph.outputs:
            self.value(proto.output.add(), value)
            self.annotation(proto, value, annotated)

    def annotation(self, proto: onnx.GraphProto, value: ir.Value, annotated: set[str]) -> None:
        names = value.meta.get(_ANNOTATION_KEY)
        if not names or not value.name or value.name in annotated:
            return
        annotated.add(value.name)
        annotation = proto.quantization_annotation.add(tensor_name=value.name)
        for key in sorted(names):
            annotation.quant_parameter_tensor_names.add(key=key, value=names[key])

    def value_info(self, infos: Message, value: ir.Value) -> None:
        if not self.bare and value.name and _has_info(value):
            self.value(infos.add(), value)

    def value(self, info: onnx.ValueInfoProto, value: ir.Value) -> None:
        if value.name is None:
            raise ModelError("a graph input or output has no name")
        info.name = value.name
        kept = value.metadata_props.get(TYPE_KEY)
        if kept is not None and value.type is None:
            try:
                info.type.MergeFromString(base64.b64decode(kept, validate=True))
            except (binascii.Error, DecodeError) as error:
                raise ModelError(f"value {value.name!r}: metadata {TYPE_KEY!r} is damaged") from error
        elif value.type is not None:
            ir.serde.serialize_type_into(info.type, value.type)
            if value.shape is not None:
                ir.serde.serialize_shape_into(info.type, value.shape)
        metadata = value.metadata_props
        self.texts(info, value.doc_string, {k: v for k, v in metadata.items() if k != TYPE_KEY} if metadata else None)

    def node(self, proto: onnx.NodeProto, node: ir.Node) -> None:
        proto.op_type = node.op_type
        if node.domain:
            proto.domain = node.domain
        if node.name:
            proto.name = node.name
        if node.overload:
            proto.overload = node.overload
        self.texts(proto, node.doc_string, node.metadata_props)
        names = ["" if value is None else value.name for value in node.inputs]
        if None in names:
            raise ModelError(f"an input of {node.op_type} {node.name!r} has no name")
        proto.input.extend(names)
        proto.output.extend([value.name or "" for value in node.outputs])
        for attribute in node.attributes.data.values():  # past the mapping's own views, which are slow
            self.attribute(proto.attribute.add(), attribute)
        for configuration in node.device_configurations:
            proto.device_configurations.append(ir.serde.serialize_node_device_configuration(configuration))

    def attribute(self, proto: onnx.AttributeProto, attribute: ir.Attr) -> None:
        type_ = attribute.type
        if attribute.is_ref():
            ir.serde.serialize_reference_attribute_into(proto, attribute)
        elif type_ in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            graphs = [attribute.as_graph()] if type_ == ir.AttributeType.GRAPH else attribute.as_graphs()
            for graph in graphs:
                inner = proto.g if type_ == ir.AttributeType.GRAPH else proto.graphs.add()
                inner.SetInParent()
                self.graph(inner, graph)
            self.named(proto, attribute)
        elif type_ == ir.AttributeType.TENSOR:
            tensor = attribute.value  # as_tensor() would look for every method of a tensor each time
            self.tensor(proto.t, tensor, tensor.name, initializer_of=None)
            self.named(proto, attribute)
        elif type_ == ir.AttributeType.TENSORS:
            for tensor in attribute.as_tensors():
                self.tensor(proto.tensors.add(), tensor, tensor.name, initializer_of=None)
            self.named(proto, attribute)
        else:
            ir.serde.serialize_attribute_into(proto, attribute)
        if self.bare:
            proto.ClearField("doc_string")

    @staticmethod
    def named(proto: onnx.AttributeProto, attribute: ir.Attr) -> None:
        proto.name = attribute.name
        proto.type = onnx.AttributeProto.AttributeType.ValueType(attribute.type.value)
        if attribute.doc_string:
            proto.doc_string = attribute.doc_string

    def tensor(
        self, proto: onnx.TensorProto, tensor: ir.TensorProtocol, name: str | None, *, initializer_of: ir.Graph | None
    ) -> None:
        proto.data_type = tensor.dtype.value
        proto.dims.extend(tensor.shape.numpy())
        proto.name = name or ""
        if isinstance(tensor, ir.StringTensor):
            proto.string_data.extend(tensor.string_data())
        elif not self.place(proto, tensor, initializer_of=initializer_of):
            if isinstance(tensor, ir.TensorProtoTensor):
                proto.CopyFrom(tensor.raw)  # data in typed fields stays as the file has it, bit for bit
                for field in ("doc_string", "metadata_props"):
                    proto.ClearField(field)
            else:
                proto.raw_data = tensor.tobytes()
        if name:
            proto.name = name
        else:
            proto.ClearField("name")
        if not self.bare:
            if tensor.doc_string:
                proto.doc_string = tensor.doc_string
            for key in sorted(tensor.metadata_props):
                proto.metadata_props.add(key=key, value=tensor.metadata_props[key])

    def function(self, proto: onnx.FunctionProto, function: ir.Function) -> None:
        proto.name = function.name
        if function.domain:
            proto.domain = function.domain
        if function.overload:
            proto.overload = function.overload
        self.texts(proto, function.doc_string, function.metadata_props)
        for domain, version in function.opset_imports.items():
            proto.opset_import.add(domain=domain, version=version)
        proto.input.extend(value.name or "" for value in function.inputs)
        proto.output.extend(value.name or "" for value in function.outputs)
        for attribute in function.attributes.values():
            if attribute.type == ir.AttributeType.UNDEFINED:
                proto.attribute.append(attribute.name)
            else:
                self.attribute(proto.attribute_proto.add(), attribute)
        for node in function:
            self.node(proto.node.add(), node)
        if self.source.ir_version >= _FUNCTION_VALUE_INFO_IR:
            for value in _function_values(function):
                self.value_info(proto.value_info, value)


def _function_values(function: ir.Function) -> Iterator[ir.Value]:
    yield from function.inputs
    for node in function:
        yield from node.outputs


def _has_info(value: ir.Value) -> bool:
    return bool(value.name) and (
        value.type is not None or bool(value.doc_string) or bool(value.metadata_props) or value.shape is not None
    )


def _implied(value: ir.Value) -> bool:
    """Whether an initializer's ``value_info`` would only repeat what its tensor says: the file had none."""
    return VALUE_INFO_KEY not in value.meta and not value.doc_string and not value.metadata_props
