"""Operators that the ONNX standard itself defines by others: their bodies, for those that have no function here."""

from __future__ import annotations

import contextlib
from typing import Any

import onnx

from onnxmorph._ir import ir

__all__ = ["body_of"]


def body_of(node: ir.Node, version: int) -> ir.Function | None:
    """The body that the standard gives an operator in this opset version, or ``None``.

    Bodies that depend on the node (its attributes, which inputs it has, their types) are asked for as such.
    """
    if node.domain not in ("", "ai.onnx"):
        return None
    try:
        schema: Any = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return None
    proto: onnx.FunctionProto | None = None
    if schema.has_context_dependent_function:
        proto = _for_this_node(schema, node, version)
    elif schema.has_function:
        versions = [known for known in schema.function_opset_versions if known <= version]
        if versions:
            proto = onnx.FunctionProto()
            proto.ParseFromString(schema.get_function_with_opset_version(max(versions)))
    if proto is None:
        return None
    proto.name, proto.domain = node.op_type, node.domain
    try:
        function = ir.serde.deserialize_function(proto)
    except (ValueError, TypeError, AttributeError, ir.serde.SerdeError):
        return None
    for name, attribute in schema.attributes.items():
        if attribute.default_value.type and name not in node.attributes:
            function.attributes[name] = ir.serde.deserialize_attribute(attribute.default_value)
    return function


def _for_this_node(schema: Any, node: ir.Node, version: int) -> onnx.FunctionProto | None:
    kinds = []
    for value in node.inputs:
        kind = onnx.TypeProto()
        if value is not None and value.type is not None:
            ir.serde.serialize_type_into(kind, value.type)
        kinds.append(kind.SerializeToString())
    with contextlib.suppress(Exception):
        data = ir.serde.serialize_node(node).SerializeToString()
        versions = [known for known in schema.context_dependent_function_opset_versions if known <= version]
        if versions:
            proto = onnx.FunctionProto()
            proto.ParseFromString(schema.get_context_dependent_function_with_opset_version(max(versions), data, kinds))
            return proto
    return None
