"""A model as ONNX Runtime takes it without a copy of its weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]

from onnxmorph import wire
from onnxmorph._ir import ir, onnx
from onnxmorph.errors import ModelError
from onnxmorph.protos import to_proto
from onnxmorph.tensors import refer, stored_bytes

__all__ = ["NOWHERE", "RuntimeForm", "runtime_form"]

NOWHERE = "nowhere.bin"
"""Name of the file that the initializers left out are said to be in."""

_T = ir.DataType


@dataclass(frozen=True, slots=True)
class RuntimeForm:
    """A model for ONNX Runtime without its weights.

    Attributes:
        proto: The serialized model; the initializers below are marked as external data of a file that does not exist.
        initializers: By name, for ``SessionOptions.add_external_initializers``: read-only views into the mapped files,
            copies where the file does not align the elements. Types numpy lacks have their ``ml_dtypes`` type.
    """

    proto: bytes
    initializers: Mapping[str, npt.NDArray[Any]]


class _ForRuntime:
    """Keeps the large initializers of the main graph out of the proto; everything else is embedded."""

    def __init__(self, model: ir.Model, apart: Collection[str]) -> None:
        self.main = model.graph
        self.apart = apart
        self.initializers: dict[str, npt.NDArray[Any]] = {}

    def __call__(self, proto: onnx.TensorProto, tensor: ir.TensorProtocol, *, initializer_of: ir.Graph | None) -> bool:
        if initializer_of is not self.main or tensor.dtype not in _ORT_VALUE_TYPES:
            return False
        length = stored_bytes(tensor.dtype, tensor.shape.numpy())
        if length < wire.LARGE and (proto.name not in self.apart or not length):
            return False
        refer(proto, NOWHERE, 0, length)
        # A compiler may take the alignment of elements for granted, so where the file's layout breaks it: a copy.
        self.initializers[proto.name] = np.require(tensor.numpy(), requirements=("C", "A"))
        return True


# What an OrtValue can be made of without a copy; packed types and strings are embedded.
_ORT_VALUE_TYPES = frozenset(
    {_T.FLOAT, _T.DOUBLE, _T.FLOAT16, _T.BFLOAT16, _T.FLOAT8E4M3FN, _T.FLOAT8E5M2, _T.BOOL}
    | {_T.INT8, _T.INT16, _T.INT32, _T.INT64, _T.UINT8, _T.UINT16, _T.UINT32, _T.UINT64}
)


def runtime_form(model: ir.Model, extra_outputs: Sequence[str] = (), *, apart: Collection[str] = ()) -> RuntimeForm:
    """The model as ONNX Runtime takes it without a copy of the weights.

    Args:
        model: Left as it is.
        extra_outputs: Values of the main graph to be outputs too, appended in this order; those that are outputs
            already are skipped.
        apart: Initializers to keep out of the proto however small they are.

    Raises:
        ModelError: An extra output is no value of the main graph; the model is over 2 GiB without its initializers.
    """
    place = _ForRuntime(model, apart)
    proto = to_proto(model, place)
    outputs = {info.name for info in proto.graph.output}
    wanted = [name for name in dict.fromkeys(extra_outputs) if name not in outputs]
    if wanted:
        values = {value.name: value for node in model.graph for value in node.outputs if value.name}
        values.update((value.name, value) for value in model.graph.inputs if value.name)
        for name in wanted:
            value = values.get(name)
            if value is None:
                raise ModelError(f"{name!r} is no value of the main graph, so it cannot be an output")
            info = proto.graph.output.add(name=name)
            if value.type is not None:
                ir.serde.serialize_type_into(info.type, value.type)
    try:
        data = proto.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise ModelError("the model is over 2 GiB without its large initializers, too much for ONNX Runtime") from error
    return RuntimeForm(data, MappingProxyType(place.initializers))
