"""Writing a model: which tensor goes where, and all of it whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import EncodeError  # type: ignore[import-untyped]

from onnxmorph import wire
from onnxmorph._ir import ir, onnx
from onnxmorph.ahead import CopyAhead
from onnxmorph.errors import ModelError, Refusal
from onnxmorph.protos import to_proto
from onnxmorph.records import CERTIFICATE_KEY, as_json
from onnxmorph.staging import DataFile, Folder, write_all, write_tensor
from onnxmorph.tensors import MappedFile, MappedTensor, refer, stored_bytes

__all__ = ["SOURCE_KEY", "SaveResult", "Source", "Staged", "save", "staged"]

SOURCE_KEY = "onnxmorph.source"
"""``Model.meta``: the :class:`Source` a model came from; clones take it along."""
_EMBEDDED_LIMIT = 2**31 - 1  # protobuf's, and with it every reader's
_EXTERNAL_FROM = _EMBEDDED_LIMIT - (64 << 20)  # room for everything that is not a tensor


@dataclass(frozen=True, slots=True)
class Source:
    """The file a model was loaded from, and whether it had external data."""

    path: Path
    external: bool


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

    def load(self) -> ir.Model:
        """Load what was written, byte for byte as it will be."""
        from onnxmorph.model import load  # loading knows saving, for what it finds out about the source

        return load(self.path, data_dir=[self._folder.path, self._folder.destination.parent])

    def attach_certificate(self, certificate: Mapping[str, Any]) -> None:
        """Add a certificate to what was written, without writing it again.

        A protobuf message may be continued by more of its fields, so it goes behind the model's last byte. What was
        staged must hold no certificate yet: see :func:`drop_certificate`.

        Raises:
            ModelError: It cannot be written, or the file would be over 2 GiB.
        """
        fragment = onnx.ModelProto()
        fragment.metadata_props.add(key=CERTIFICATE_KEY, value=as_json(dict(certificate)))
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
    ahead: CopyAhead | None = None,
) -> Iterator[Staged]:
    """Write a model's files without putting them in their place, so that they can be verified first.

    Without :meth:`Staged.commit` inside the ``with`` block nothing remains. Arguments and errors as of :func:`save`;
    ``ahead`` is what :func:`onnxmorph.ahead.copy_ahead` began for this ``path``, and is used up.
    """
    destination = Path(path).absolute()
    if external is None:
        known = model.meta.get(SOURCE_KEY)
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
    folder = Folder(destination, overwrite=overwrite) if ahead is None else ahead.folder
    try:
        if ahead is None:
            folder.make()
        over = _copied(ahead, data)
        if data is not None and data_name is not None:
            folder.refuse_existing(destination.with_name(data_name))
            with folder.create(data_name, there=over is not None) as file:
                data.write(file, over=over)
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


def _copied(ahead: CopyAhead | None, data: DataFile | None) -> MappedFile | None:
    """What was copied ahead, where the data file begins like it; otherwise that copy is removed."""
    if ahead is None:
        return None
    if data is not None and data.begins_like(ahead.source):
        return ahead.source if ahead.finish() else None
    ahead.drop()
    return None


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
            refer(proto, _shared_location(mapped, folder), mapped.offset, mapped.length)
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
        refer(proto, name, position, length)
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
