"""Models and their files: load, save, and what travels in a model's metadata.

A loaded model keeps its weights in the file it came from, memory-mapped, whether they are embedded in the ``.onnx`` or
kept as external data. Clones share them, and saving copies what did not change from file to file. Everything a file
says is kept: opset imports and IR version as they are, metadata and doc strings at every level, functions, subgraphs,
quantization annotations, types. What could not be kept is refused when the file is loaded.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]

from onnxmorph import wire
from onnxmorph._ir import ir
from onnxmorph.checks import check
from onnxmorph.errors import ModelError, Refusal
from onnxmorph.external import DataFolders
from onnxmorph.protos import from_proto, to_proto
from onnxmorph.staging import DataFile, Folder, write_all, write_tensor
from onnxmorph.tensors import MappedFile, MappedTensor, stored_bytes

__all__ = [
    "RuntimeForm",
    "SaveResult",
    "Staged",
    "add_record",
    "certificate_of",
    "clone",
    "content_hash",
    "drop_certificate",
    "load",
    "opset",
    "records",
    "runtime_form",
    "save",
    "set_certificate",
    "source",
    "staged",
]

RECORD_KEY = "onnxmorph.record"
CERTIFICATE_KEY = "onnxmorph.certificate"
_SOURCE_KEY = "onnxmorph.source"
_EMBEDDED_LIMIT = 2**31 - 1  # protobuf's, and with it every reader's
_EXTERNAL_FROM = _EMBEDDED_LIMIT - (64 << 20)  # room for everything that is not a tensor
_NOWHERE = "nowhere.bin"

_OTHER_FORMATS = {
    ".json": "JSON",
    ".onnxjson": "JSON",
    ".textproto": "protobuf text",
    ".prototxt": "protobuf text",
    ".pbtxt": "protobuf text",
    ".onnxtxt": "ONNX text",
    ".onnxtext": "ONNX text",
    ".ort": "ONNX Runtime's own",
    ".zst": "compressed",
    ".gz": "compressed",
    ".zip": "compressed",
    ".safetensors": "safetensors",
}
_SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the model itself; git lfs pull fetches it"),
    (b"PK\x03\x04", "a zip archive (a PyTorch file, perhaps); export it to ONNX first"),
    (b"\x1f\x8b", "compressed; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed; unpack it first"),
    (b"\x89HDF", "an HDF5 file (a Keras model, perhaps); convert it to ONNX first"),
)


@dataclass(frozen=True, slots=True)
class _Source:
    path: Path
    external: bool


# --- load ------------------------------------------------------------------------------------------------------------


def load(path: str | os.PathLike[str], *, data_dir: Path | Sequence[Path] | None = None) -> ir.Model:
    """Load and check a model; its large tensors stay in the file, memory-mapped.

    The model file may be a link, as model hubs keep them: its data files are then looked up beside the file the link
    leads to. Data files must lie in the model's folder or below, and so must the targets of links among them; absolute
    locations, ``..`` and hard links are turned away.

    Args:
        path: A binary ONNX file.
        data_dir: Folder, or several in order, in which external data is looked up instead of the model's own.

    Raises:
        ModelError: It is not a usable ONNX model, with what is wrong and where.
        Refusal: It is one, but has something that could not be kept: sparse tensors, training information, fields of a
            newer ONNX.
    """
    given = Path(path)
    name = str(given)
    other = _OTHER_FORMATS.get(given.suffix.lower())
    if other is not None:
        raise ModelError(f"{name}: is in {other} format by its name; binary .onnx files are supported")
    try:
        resolved = Path(os.path.realpath(given))
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: is no usable path: {error}") from error
    file = MappedFile(resolved, name)
    if file.size == 0:
        raise ModelError(f"{name}: not an ONNX model: the file is empty")
    start = bytes(file.view[:32])
    for signature, what in _SIGNATURES:
        if start.startswith(signature):
            raise ModelError(f"{name}: not an ONNX model but {what}")
    skeleton = wire.skeleton(file.view, name)
    proto = onnx.ModelProto()
    try:
        proto.MergeFromString(skeleton.data)
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{name}: not an ONNX model: protobuf cannot read it ({error})") from error
    check(proto, name)
    if data_dir is None:
        folders = [resolved.parent]
    else:
        folders = (
            [Path(data_dir)] if isinstance(data_dir, (str, os.PathLike)) else [Path(folder) for folder in data_dir]
        )
    linked_from = given.absolute() if resolved.parent != Path(os.path.realpath(given.parent)) else None
    read = _ReadTensor(name, file, skeleton, DataFolders(folders, name, linked_from=linked_from))
    model = from_proto(proto, name, read)
    model.meta[_SOURCE_KEY] = _Source(given.absolute(), bool(read.folders.files))
    return model


# By type: the field of TensorProto that holds values one by one, values per entry as (entries, per values).
_T = ir.DataType
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


class _TypedTensor(ir.TensorProtoTensor):
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


class _ReadTensor:
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
            return _TypedTensor(proto)
        field, entries, per = _TYPED_FIELDS.get(dtype, ("int32_data", 1, 1))
        if any(other != field for other in typed):
            raise ModelError(f"{self.name}: {what} is of type {dtype} but has its data in {typed[0]}")
        self.count(len(getattr(proto, field)), -(-size * entries // per), what, shape, f"entries of {field}")
        return _TypedTensor(proto)

    def count(self, found: int, needed: int, what: str, shape: tuple[int, ...], unit: str) -> None:
        if found != needed:
            raise ModelError(f"{self.name}: {what} of shape {list(shape)} needs {needed} {unit}, but has {found}")


# --- save ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SaveResult:
    """What was written: the model, its data file where it has one of its own, and the bytes of both together."""

    path: Path
    data_path: Path | None
    bytes: int


class _Storage:
    """Where each tensor goes on saving: into the data file, into the model as a ticket, or into the proto."""

    def __init__(self, *, external: bool) -> None:
        self.external = external
        self.token = wire.new_token()
        self.embedded: list[ir.TensorProtocol] = []
        self.outside: list[tuple[onnx.TensorProto, ir.TensorProtocol]] = []

    def __call__(self, proto: onnx.TensorProto, tensor: ir.TensorProtocol, *, initializer_of: ir.Graph | None) -> bool:
        length = stored_bytes(tensor.dtype, tensor.shape.numpy())
        if self.external and (
            (isinstance(tensor, MappedTensor) and tensor.external)
            or (length >= wire.LARGE and (initializer_of is not None or isinstance(tensor, MappedTensor)))
        ):
            self.outside.append((proto, tensor))
            return True
        if length < wire.LARGE or isinstance(tensor, ir.TensorProtoTensor):
            return False
        proto.raw_data = wire.ticket(self.token, len(self.embedded))
        self.embedded.append(tensor)
        return True


def _refer(proto: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    proto.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        proto.external_data.add(key=key, value=value)


class Staged:
    """Files that are written but not yet in their place; see :func:`staged`.

    Attributes:
        path: The written model, in a hidden folder beside its destination. ONNX Runtime can open it, unless weights are
            shared with the parent's data file.
        data_path: Its data file, or ``None``.
    """

    def __init__(self, folder: Folder, data_name: str | None) -> None:
        self._folder = folder
        self._data_name = data_name
        self.path = folder.path / folder.destination.name
        self.data_path = None if data_name is None else folder.path / data_name
        self.bytes = sum(p.stat().st_size for p in (self.path, self.data_path) if p is not None)
        self.committed = False

    def load(self) -> ir.Model:
        """Load what was written, byte for byte as it will be."""
        return load(self.path, data_dir=[self._folder.path, self._folder.destination.parent])

    def attach_certificate(self, certificate: Mapping[str, Any]) -> None:
        """Add a certificate to what was written, without writing it again.

        A protobuf message may be continued by more of its fields, so it goes behind the model's last byte. What was
        staged must hold no certificate yet: see :func:`drop_certificate`.

        Raises:
            ModelError: It cannot be written, or the file would be over 2 GiB.
        """
        fragment = onnx.ModelProto()
        fragment.metadata_props.add(key=CERTIFICATE_KEY, value=_dumped(dict(certificate)))
        data = fragment.SerializeToString()
        with self._folder.explained():
            if self.path.stat().st_size + len(data) > _EMBEDDED_LIMIT:
                raise ModelError(f"{self._folder.destination}: cannot be written: over 2 GiB with its certificate")
            with self.path.open("ab", buffering=0) as file:
                write_all(file, data)
        self.bytes += len(data)

    def commit(self) -> SaveResult:
        """Move the files into their place, the model last and in one step.

        Raises:
            ModelError: Something is in the way; what was there before is there again.
        """
        names = [self._folder.destination.name]
        if self._data_name is not None:
            names.insert(0, self._data_name)
        self._folder.commit(names)
        self.committed = True
        destination = self._folder.destination
        data_path = None if self._data_name is None else destination.with_name(self._data_name)
        return SaveResult(destination, data_path, self.bytes)


@contextlib.contextmanager
def staged(
    model: ir.Model,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    external: bool | None = None,
    share_weights: bool = False,
) -> Iterator[Staged]:
    """Write a model's files without putting them in their place, so that they can be verified first.

    Without :meth:`Staged.commit` inside the ``with`` block nothing remains. Arguments and errors as of :func:`save`.
    """
    destination = Path(path).absolute()
    if external is None:
        known = model.meta.get(_SOURCE_KEY)
        external = (known is not None and known.external) or _tensor_bytes(model) > _EXTERNAL_FROM
    storage = _Storage(external=external)
    proto = to_proto(model, storage)
    data, data_name = _lay_out(storage, destination, share_weights=share_weights)
    sizes = [stored_bytes(tensor.dtype, tensor.shape.numpy()) for tensor in storage.embedded]
    try:
        pieces = wire.fill(proto.SerializeToString(deterministic=True), storage.token, sizes)
    except (EncodeError, ValueError) as error:
        raise ModelError(
            f"{destination}: cannot be written: the model is over 2 GiB without its large tensors"
        ) from error
    size = sum(sizes[piece] if isinstance(piece, int) else len(piece) for piece in pieces)
    if size > _EMBEDDED_LIMIT:
        raise ModelError(
            f"{destination}: cannot be written: {size} bytes are more than the 2 GiB a model file can have; "
            "keep its weights as external data"
        )
    folder = Folder(destination, overwrite=overwrite)
    try:
        folder.make()
        if data is not None and data_name is not None:
            folder.refuse_existing(destination.with_name(data_name))
            with folder.create(data_name) as file:
                data.write(file)
        with folder.create(destination.name) as file:
            for piece in pieces:
                if isinstance(piece, int):
                    write_tensor(storage.embedded[piece], file)
                else:
                    write_all(file, piece)
        with folder.explained():
            result = Staged(folder, data_name)
        yield result
    finally:
        folder.drop()


def _lay_out(storage: _Storage, destination: Path, *, share_weights: bool) -> tuple[DataFile | None, str | None]:
    """Give every tensor outside the model its place, and write that into the protos."""
    name = f"{destination.name}.data"
    rest = storage.outside
    if share_weights:
        shared = [(proto, t) for proto, t in rest if isinstance(t, MappedTensor) and t.external]
        rest = [(proto, t) for proto, t in rest if not (isinstance(t, MappedTensor) and t.external)]
        if not shared:
            raise Refusal(
                "no weights can be shared: the parent keeps none in a data file",
                way_out="save without sharing weights",
                code="share-weights",
            )
        folder = Path(os.path.realpath(destination.parent))
        for proto, mapped in shared:
            _refer(proto, _shared_location(mapped, folder), mapped.offset, mapped.length)
        if rest and any(t.file.path == folder / name for _, t in shared):
            raise Refusal(
                f"{destination}: its data file would replace {name!r}, whose weights it shares",
                way_out="choose another name",
                code="share-weights",
            )
    if not rest:
        return None, None
    data = DataFile()
    data.take_over(tensor for _, tensor in rest if isinstance(tensor, MappedTensor))
    for proto, tensor in rest:
        length = stored_bytes(tensor.dtype, tensor.shape.numpy())
        position = data.position(tensor) if isinstance(tensor, MappedTensor) else data.add(tensor, length)
        _refer(proto, name, position, length)
    return data, name


def _shared_location(tensor: MappedTensor, folder: Path) -> str:
    path = tensor.file.path
    if not path.is_relative_to(folder):
        raise Refusal(
            f"weights cannot be shared: {path} is not in the folder of the new model or below it",
            way_out="write the child into the parent's folder, or do not share",
            code="share-weights",
        )
    try:
        there = os.path.samestat(path.stat(), os.fstat(tensor.file.fd))
    except OSError:
        there = False
    if not there:
        raise Refusal(
            f"weights cannot be shared: {path} was replaced since the parent was loaded",
            way_out="load the parent again",
            code="share-weights",
        )
    return path.relative_to(folder).as_posix()


def _tensor_bytes(model: ir.Model) -> int:
    """Bytes of all tensors of initializers, everywhere in the model, each counted once."""
    counted: dict[int, int] = {}
    for graph in (*model.graphs(), *(graph for f in model.functions.values() for graph in f.subgraphs())):
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.dtype != ir.DataType.STRING:
                counted[id(tensor)] = stored_bytes(tensor.dtype, tensor.shape.numpy())
    return sum(counted.values())


def save(
    model: ir.Model,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    external: bool | None = None,
    share_weights: bool = False,
) -> SaveResult:
    """Write a model: whole, or nothing.

    Args:
        model: Left as it is. It may come from the very file that is overwritten.
        path: Of the ``.onnx`` file. External data goes beside it, into ``path`` + ``.data``.
        overwrite: Replace a model and a data file of these names.
        external: Keep large weights in a data file. ``None``: as the model's own file does, or when they exceed
            2 GiB.
        share_weights: Refer to the parent's data file for what did not change, instead of copying it. Needs a parent
            with external data in the child's folder or below.

    Raises:
        ModelError: It cannot be written there, or not in this form; nothing was changed.
        Refusal: Weights cannot be shared.
    """
    with staged(model, path, overwrite=overwrite, external=external, share_weights=share_weights) as written:
        return written.commit()


# --- clones, origin, versions ----------------------------------------------------------------------------------------


def clone(model: ir.Model) -> ir.Model:
    """A copy to be changed: new graphs, nodes and values over the same tensors, with everything kept."""
    child = model.clone()
    child.meta.update(model.meta)
    # onnx-ir's clone shares the type objects, and setting a value's dtype would reach through to the parent.
    for graph in (*child.graphs(), *(g for f in child.functions.values() for g in (f.graph, *f.subgraphs()))):
        for value in (*graph.inputs, *graph.initializers.values(), *(out for node in graph for out in node.outputs)):
            value.type = copy.copy(value.type)
    return child


def source(model: ir.Model) -> Path | None:
    """The file a model, or the parent it was cloned from, was loaded from; ``None`` when it was made in memory."""
    known = model.meta.get(_SOURCE_KEY)
    return None if known is None else known.path


def opset(model: ir.Model, domain: str = "") -> int:
    """The version of an opset that a model imports; ``""`` and ``"ai.onnx"`` are the same.

    Raises:
        ModelError: It imports none of this domain.
    """
    for name in ("", "ai.onnx") if domain in ("", "ai.onnx") else (domain,):
        version = model.opset_imports.get(name)
        if version is not None:
            return version
    raise ModelError(f"the model imports no opset of domain {domain or 'ai.onnx'!r}")


# --- for ONNX Runtime ------------------------------------------------------------------------------------------------


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

    def __init__(self, model: ir.Model) -> None:
        self.main = model.graph
        self.initializers: dict[str, npt.NDArray[Any]] = {}

    def __call__(self, proto: onnx.TensorProto, tensor: ir.TensorProtocol, *, initializer_of: ir.Graph | None) -> bool:
        if initializer_of is not self.main or tensor.dtype not in _ORT_VALUE_TYPES:
            return False
        length = stored_bytes(tensor.dtype, tensor.shape.numpy())
        if length < wire.LARGE:
            return False
        _refer(proto, _NOWHERE, 0, length)
        # A compiler may take the alignment of elements for granted, so where the file's layout breaks it: a copy.
        self.initializers[proto.name] = np.require(tensor.numpy(), requirements=("C", "A"))
        return True


# What an OrtValue can be made of without a copy; packed types and strings are embedded.
_ORT_VALUE_TYPES = frozenset(
    {_T.FLOAT, _T.DOUBLE, _T.FLOAT16, _T.BFLOAT16, _T.FLOAT8E4M3FN, _T.FLOAT8E5M2, _T.BOOL}
    | {_T.INT8, _T.INT16, _T.INT32, _T.INT64, _T.UINT8, _T.UINT16, _T.UINT32, _T.UINT64}
)


def runtime_form(model: ir.Model, extra_outputs: Sequence[str] = ()) -> RuntimeForm:
    """The model as ONNX Runtime takes it without a copy of the weights.

    Args:
        model: Left as it is.
        extra_outputs: Values of the main graph to be outputs too, appended in this order; those that are outputs
            already are skipped.

    Raises:
        ModelError: An extra output is no value of the main graph; the model is over 2 GiB without its initializers.
    """
    place = _ForRuntime(model)
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


# --- content and records ---------------------------------------------------------------------------------------------


def content_hash(model: ir.Model) -> str:
    """SHA-256 over graph and weights, hexadecimal.

    Independent of how tensors are stored and of what does not bear on the computation: doc strings, metadata,
    ``value_info``, the producer. Names count, and the order of nodes and initializers.
    """

    def digest(proto: onnx.TensorProto, tensor: ir.TensorProtocol, *, initializer_of: ir.Graph | None) -> bool:
        del initializer_of
        if isinstance(tensor, MappedTensor):
            proto.raw_data = tensor.digest()
        else:
            proto.raw_data = hashlib.sha256(tensor.tobytes()).digest()
        return True

    proto = to_proto(model, digest, bare=True)
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def _json_of(model: ir.Model, key: str) -> Any:
    text = model.metadata_props.get(key)
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the metadata {key!r} of the model is damaged: it is not JSON") from error


def records(model: ir.Model) -> list[dict[str, Any]]:
    """The morphs that made this model, oldest first; empty for a model nobody grew.

    Raises:
        ModelError: The metadata is there but damaged.
    """
    found = _json_of(model, RECORD_KEY)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
        raise ModelError(f"the metadata {RECORD_KEY!r} of the model is damaged: it is not a list of records")
    return found


def add_record(model: ir.Model, record: Mapping[str, Any]) -> None:
    """Append the record of one morph to the model's metadata, as JSON."""
    model.metadata_props[RECORD_KEY] = _dumped([*records(model), dict(record)])


def certificate_of(model: ir.Model) -> dict[str, Any] | None:
    """The certificate of equivalence that travels with the model, or ``None``.

    Raises:
        ModelError: The metadata is there but damaged.
    """
    found = _json_of(model, CERTIFICATE_KEY)
    if found is not None and not isinstance(found, dict):
        raise ModelError(f"the metadata {CERTIFICATE_KEY!r} of the model is damaged: it is not a certificate")
    return found


def set_certificate(model: ir.Model, certificate: Mapping[str, Any]) -> None:
    """Put a certificate into the model's metadata, in the place of an earlier one."""
    model.metadata_props[CERTIFICATE_KEY] = _dumped(dict(certificate))


def drop_certificate(model: ir.Model) -> None:
    """Take the certificate out of a model's metadata: what held of the parent was not shown of its child."""
    model.metadata_props.pop(CERTIFICATE_KEY, None)


def _dumped(value: Any) -> str:
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ModelError(f"a record cannot be written as JSON: {error}") from error
