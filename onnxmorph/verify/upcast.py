"""Half-precision models as float32, for providers that cannot run them.

Weights keep their values exactly; what is lost is the rounding of every intermediate value to the narrow type, so a
verdict reached this way is about the mathematics and says so.
"""

from __future__ import annotations

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.verify.noise import graphs, set_tensor, tensors

__all__ = ["narrow_types", "upcast"]

_NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_UNIT_ROUNDING = {ir.DataType.FLOAT16: 2.0**-11, ir.DataType.BFLOAT16: 2.0**-8}
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "softmax_precision", "stash_type")


def narrow_types(model: ir.Model) -> float:
    """Unit rounding of the coarsest 16-bit floating-point type in the model; 0.0 when there is none."""
    found = {tensor.dtype for tensor in tensors(model).values()}
    for graph in graphs(model):
        found.update(value.dtype for value in graph.inputs if value.dtype is not None)
        for node in graph:
            found.update(output.dtype for output in node.outputs if output.dtype is not None)
            found.update(ir.DataType(number) for number in _named_types(node) if number in set(_NARROW))
    return max((_UNIT_ROUNDING[dtype] for dtype in found if dtype in _UNIT_ROUNDING), default=0.0)


def _named_types(node: ir.Node) -> list[int]:
    attributes = [node.attributes[name] for name in _TYPE_ATTRIBUTES if name in node.attributes]
    return [attr.as_int() for attr in attributes if not attr.is_ref() and attr.type == ir.AttributeType.INT]


def upcast(model: ir.Model) -> ir.Model:
    """A copy of the model in which every float16 and bfloat16 tensor, value and cast is float32."""
    from onnxmorph.model import clone

    copy = clone(model)
    for value, tensor in tensors(copy).items():
        if tensor.dtype in _NARROW:
            set_tensor(value, ir.Tensor(np.asarray(tensor.numpy()).astype(np.float32), name=tensor.name))
    for graph in graphs(copy):
        values = [*graph.inputs, *(output for node in graph for output in node.outputs)]
        if isinstance(graph, ir.Graph):
            values.extend(graph.initializers.values())
        for value in values:
            value.type = _wide_type(value.type)
        for node in graph:
            for name in _TYPE_ATTRIBUTES:
                attribute = node.attributes.get(name)
                if attribute is None or attribute.is_ref() or attribute.type != ir.AttributeType.INT:
                    continue
                if attribute.as_int() in set(_NARROW):
                    node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
            if node.op_type != "Constant":
                for name, attribute in list(node.attributes.items()):
                    if attribute.is_ref() or attribute.type != ir.AttributeType.TENSOR:
                        continue
                    tensor = attribute.as_tensor()
                    if tensor.dtype in _NARROW:
                        wide = ir.Tensor(np.asarray(tensor.numpy()).astype(np.float32), name=tensor.name)
                        node.attributes[name] = ir.AttrTensor(name, wide)
    return copy


def _wide_type(kind: ir.TypeProtocol | None) -> ir.TypeProtocol | None:
    if isinstance(kind, ir.TensorType) and kind.dtype in _NARROW:
        return ir.TensorType(ir.DataType.FLOAT)
    if isinstance(kind, ir.SequenceType):
        return ir.SequenceType(_wide_type(kind.elem_type))  # type: ignore[arg-type]
    if isinstance(kind, ir.OptionalType):
        return ir.OptionalType(_wide_type(kind.elem_type))  # type: ignore[arg-type]
    return kind
