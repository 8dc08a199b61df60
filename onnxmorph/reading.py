"""Tensors as a model file holds them: checked against their type and dims, mapped where they are large."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxmorph import wire
from onnxmorph._ir import ir, onnx
from onnxmorph.errors import ModelError, Refusal
from onnxmorph.external import DataFolders
from onnxmorph.tensors import MappedFile, MappedTensor, stored_bytes

__all__ = ["ReadTensors", "TypedTensor"]

_T = ir.DataType
# By type: the field of TensorProto that holds values one by one, values per entry as (entries, per values).
_TYPED_FIELDS: Mapping[ir.DataType, tuple[str, int, int]] = {
    _T.FLOAT: ("float_data", 1, 1),
    _T.COMPLEX64: ("float_data", 2, 1),
    _T.DOUBLE: ("double_data", 1, 1),
    _T.COMPLEX128: ("double_data", 2, 1),
    _T.INT64: ("int64_data", 1, 1),
    _T.UINT32: ("uint64_data", 1, 1),
    _T.UINT64: ("uint64_data", 1, 1),
    _T.UINT4: ("int32_data", 1, 2),
    _T.INT4: ("int32_data", 1, 2),
    _T.FLOAT4E2M1: ("int32_data", 1, 2),
    _T.UINT2: ("int32_data", 1, 4),
    _T.INT2: ("int32_data", 1, 4),
}
_TYPED = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


class TypedTensor(ir.TensorProtoTensor):
    """A small tensor, or one whose values are in a typed field, as its proto has it; the array is made once."""

    __slots__ = ("_array",)

    def __init__(self, proto: onnx.TensorProto) -> None:
        super().__init__(proto)
        self._array: npt.NDArray[Any] | None = None

    def numpy(self) -> npt.NDArray[Any]:
        """The values, read-only."""
        if self._array is None:
            packed = self._packed()
            self._array = (
                super().numpy() if packed is None else packed.view(self.dtype.numpy()).reshape(self.shape.numpy())
            )
            self._array.flags.writeable = False
        return self._array

    def tobytes(self) -> bytes:
        """The bytes as ONNX stores them: little endian, packed."""
        packed = self._packed()
        return super().tobytes() if packed is None else packed.tobytes()

    def _packed(self) -> npt.NDArray[Any] | None:
        """``float_data`` and ``double_data`` as protobuf packs them: a Python float in between would change NaNs."""
        if self.raw.HasField("raw_data"):
            return None
        for field, dtype in (("float_data", "<f4"), ("double_data", "<f8")):
            values = getattr(self.raw, field)
            if values:
                only = onnx.TensorProto()
                getattr(only, field).MergeFrom(values)
                size = len(values) * np.dtype(dtype).itemsize
                return np.frombuffer(only.SerializeToString()[-size:], dtype)
        return None


class ReadTensors:
    """Makes the tensor for each ``TensorProto`` of one file, once its data agree with its type and dims."""

    def __init__(self, name: str, file: MappedFile, skeleton: wire.Skeleton, folders: DataFolders) -> None:
        self.name = name
        self.file = file
        self.skeleton = skeleton
        self.folders = folders

    def __call__(self, proto: onnx.TensorProto, what: str) -> ir.TensorProtocol:
        try:
            dtype = ir.DataType(proto.data_type)
        except ValueError:
            raise ModelError(f"{self.name}: {what} has the unknown data type {proto.data_type}") from None
        if dtype == ir.DataType.UNDEFINED:
            raise ModelError(f"{self.name}: {what} has no data type")
        shape = tuple(proto.dims)
        if any(dim < 0 for dim in shape):
            raise ModelError(f"{self.name}: {what} has a negative dimension: {list(shape)}")
        if proto.HasField("segment"):
            raise Refusal(
                f"{self.name}: {what} is stored in segments, which ONNX Runtime does not read", code="segment"
            )
        for text in (proto.name, proto.doc_string):
            if not isinstance(text, str):
                raise ModelError(f"{self.name}: the name or doc string of {what} is not valid UTF-8")
        tensor = self.read(proto, dtype, shape, what)
        if not isinstance(tensor, ir.TensorProtoTensor):
            tensor.name = proto.name if proto.HasField("name") else None
            tensor.doc_string = proto.doc_string if proto.HasField("doc_string") else None
            tensor.metadata_props.update({entry.key: entry.value for entry in proto.metadata_props})
        return tensor

    def read(self, proto: onnx.TensorProto, dtype: ir.DataType, shape: tuple[int, ...], what: str) -> ir.TensorProtocol:
        size = math.prod(shape)
        typed = [field for field in _TYPED if len(getattr(proto, field))]
        has_raw = proto.HasField("raw_data") and (len(proto.raw_data) > 0 or not typed)
        external = proto.data_location == onnx.TensorProto.EXTERNAL
        if len(typed) + (has_raw and len(proto.raw_data) > 0) + external > 1:
            raise ModelError(f"{self.name}: {what} has its data in more than one place")
        if dtype == ir.DataType.STRING:
            if has_raw or external or any(field != "string_data" for field in typed):
                raise ModelError(f"{self.name}: {what} holds strings, which only string_data can")
            self.count(len(proto.string_data), size, what, shape, "strings")
            return ir.StringTensor(list(proto.string_data), shape=ir.Shape(shape))
        if external:
            if size == 0:
                return ir.Tensor(np.empty(shape, dtype.numpy()), dtype)
            return self.folders.tensor(proto, shape, what)
        if has_raw:
            number = wire.ticket_number(self.skeleton.token, proto.raw_data)
            length = len(proto.raw_data) if number is None else self.skeleton.payloads[number].length
            self.count(length, stored_bytes(dtype, shape), what, shape, f"bytes of {dtype}")
            if number is not None:
                offset = self.skeleton.payloads[number].offset
                return MappedTensor(self.file, offset, dtype=dtype, shape=shape, external=False)
            return TypedTensor(proto)
        field, entries, per = _TYPED_FIELDS.get(dtype, ("int32_data", 1, 1))
        if any(other != field for other in typed):
            raise ModelError(f"{self.name}: {what} is of type {dtype} but has its data in {typed[0]}")
        self.count(len(getattr(proto, field)), -(-size * entries // per), what, shape, f"entries of {field}")
        return TypedTensor(proto)

    def count(self, found: int, needed: int, what: str, shape: tuple[int, ...], unit: str) -> None:
        if found != needed:
            raise ModelError(f"{self.name}: {what} of shape {list(shape)} needs {needed} {unit}, but has {found}")
