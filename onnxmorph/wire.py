"""The protobuf wire format of a model file, walked without protobuf.

A model file is mostly weights, and protobuf copies every byte of them, several times. The walk here follows only those
paths of ``ModelProto`` that can lead to a tensor, checks every length against the bytes that are there, and

1. :func:`skeleton` takes the large ``raw_data`` payloads out of a file, leaving a small message of the same structure
   in which each payload is a *ticket* of 24 bytes; protobuf parses it in milliseconds, the weights stay in the file;
2. :func:`fill` does the inverse: from a serialized skeleton it gives the pieces of the whole file in order, each either
   bytes or the number of a payload to be streamed in, with the lengths of all enclosing messages made right.

Format: https://protobuf.dev/programming-guides/encoding. A message is a sequence of fields; a field is a varint
``number << 3 | wire_type`` and a value: a varint (0), 8 bytes (1), a length and that many bytes (2), or 4 bytes (5).
"""

from __future__ import annotations

import secrets
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NoReturn

from onnxmorph.errors import ModelError, Refusal

__all__ = ["LARGE", "Payload", "Skeleton", "fill", "new_token", "skeleton", "ticket", "ticket_number"]

LARGE = 1024
"""Payloads from this many bytes on are left in the file; smaller ones are not worth a ticket."""

_TOKEN_BYTES = 16
_TICKET_BYTES = _TOKEN_BYTES + 8
_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)
_MAX_DEPTH = 100  # protobuf's own limit, so nothing that protobuf would take is turned away here


class _Message(Enum):
    MODEL = auto()
    GRAPH = auto()
    NODE = auto()
    ATTRIBUTE = auto()
    FUNCTION = auto()
    TENSOR = auto()


# Which field of which message leads to which message, as far as tensors lie behind it.
_PATHS: dict[_Message, dict[int, _Message]] = {
    _Message.MODEL: {7: _Message.GRAPH, 25: _Message.FUNCTION},
    _Message.GRAPH: {1: _Message.NODE, 5: _Message.TENSOR},
    _Message.NODE: {5: _Message.ATTRIBUTE},
    _Message.ATTRIBUTE: {5: _Message.TENSOR, 6: _Message.GRAPH, 10: _Message.TENSOR, 11: _Message.GRAPH},
    _Message.FUNCTION: {7: _Message.NODE, 11: _Message.ATTRIBUTE},
    _Message.TENSOR: {},
}
_ATTRIBUTE_TENSOR = 5
_TENSOR_RAW_DATA = 9
_RAW_DATA_KEY = bytes([_TENSOR_RAW_DATA << 3 | _BYTES])
# Fields that the graph representation cannot carry: seen here so that a file full of them costs nothing to turn away.
_UNSUPPORTED: dict[_Message, dict[int, tuple[str, str]]] = {
    _Message.MODEL: {20: ("training_info", "training information")},
    _Message.GRAPH: {15: ("sparse_initializer", "sparse initializers")},
    _Message.ATTRIBUTE: {22: ("sparse_tensor", "a sparse tensor"), 23: ("sparse_tensors", "sparse tensors")},
}


@dataclass(frozen=True, slots=True)
class Payload:
    """Where the bytes of one tensor lie in the file: ``length`` bytes from ``offset``."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A model without its large weights.

    Attributes:
        data: A serialized ``ModelProto`` in which large ``raw_data`` fields hold tickets.
        token: The bytes every ticket of this skeleton begins with; random, so that no file can forge one.
        payloads: By ticket number, where the bytes lie in the file.
    """

    data: bytes
    token: bytes
    payloads: tuple[Payload, ...]


def new_token() -> bytes:
    """Sixteen random bytes that begin the tickets of one skeleton."""
    return secrets.token_bytes(_TOKEN_BYTES)


def ticket(token: bytes, number: int) -> bytes:
    """What stands in ``raw_data`` for payload ``number``."""
    return token + number.to_bytes(_TICKET_BYTES - _TOKEN_BYTES, "little")


def ticket_number(token: bytes, raw_data: bytes) -> int | None:
    """The number of the payload ``raw_data`` stands for, or ``None`` where it is data of its own."""
    if len(raw_data) != _TICKET_BYTES or not raw_data.startswith(token):
        return None
    return int.from_bytes(raw_data[_TOKEN_BYTES:], "little")


def varint(value: int) -> bytes:
    """``value`` (not negative) as a base-128 varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class _Walk:
    """One pass over a serialized model; knows the file's name for its errors."""

    def __init__(self, data: memoryview, name: str) -> None:
        self.data = data
        self.name = name

    def broken(self, reason: str) -> NoReturn:
        raise ModelError(f"{self.name}: not an ONNX model: {reason}")

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """The varint at ``at`` and the position behind it."""
        data = self.data
        position = at
        value = shift = 0
        while True:
            if position >= end:
                self.broken(f"the number at byte {at} runs past the end of {self._what(end)}")
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    self.broken(f"the number at byte {at} does not fit 64 bits")
                return value, position
            shift += 7
            if shift >= 70:
                self.broken(f"the number at byte {at} is longer than 10 bytes")

    def _what(self, end: int) -> str:
        return "the file" if end == len(self.data) else f"its message (byte {end})"

    def fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
        """Fields of the message in ``[start, end)``: (begins at, number, wire type, value from, value to)."""
        data = self.data
        position = start
        while position < end:
            begin = position
            # One byte holds the key of every field below 16, and most lengths are short: spare the calls.
            key = data[position]
            if key < 0x80:
                position += 1
            else:
                key, position = self.varint(position, end)
            number, wire_type = key >> 3, key & 7
            if number == 0 or number >= 1 << 29:
                self.broken(f"the field at byte {begin} has the impossible number {number}")
            if wire_type == _BYTES:
                if position < end and data[position] < 0x80:
                    length = data[position]
                    position += 1
                else:
                    length, position = self.varint(position, end)
                value, position = position, position + length
            elif wire_type == _VARINT:
                value = position
                _, position = self.varint(position, end)
            elif wire_type == _FIXED32:
                value, position = position, position + 4
            elif wire_type == _FIXED64:
                value, position = position, position + 8
            elif wire_type in (_GROUP, _GROUP_END):
                self.broken(f"field {number} at byte {begin} is a protobuf group, which no ONNX message has")
            else:
                self.broken(f"field {number} at byte {begin} has the unknown wire type {wire_type}")
            if position > end:
                self.broken(f"field {number} at byte {begin} runs past the end of {self._what(end)}")
            yield begin, number, wire_type, value, position


# A piece of a rewritten message: a span [from, to) of the walked bytes, new bytes, or the number of a payload.
_Piece = tuple[int, int] | bytes | int


class _Rewriter(_Walk):
    """Copies a message except for payloads, and mends the lengths around what changed."""

    def leaf(self, value: int, end: int) -> tuple[list[_Piece], int] | None:
        """What stands for the raw_data in ``[value, end)``, and its size in bytes; ``None`` leaves it as it is."""
        raise NotImplementedError

    def worth(self, value: int, end: int) -> bool:
        """Whether anything in ``[value, end)`` can change."""
        raise NotImplementedError

    def message(self, kind: _Message, start: int, end: int, depth: int) -> tuple[list[_Piece], int] | None:
        """The message's new pieces and size, or ``None`` where nothing changes in it."""
        if depth > _MAX_DEPTH:
            self.broken(f"messages nested deeper than {_MAX_DEPTH} at byte {start}")
        paths = _PATHS[kind]
        unsupported = _UNSUPPORTED.get(kind, {})
        changes: list[tuple[int, int, list[_Piece], int]] = []  # begin and end of the field, its pieces, their size
        singular: list[int] = []  # values of a field that protobuf would merge when it comes twice
        for begin, number, wire_type, value, stop in self.fields(start, end):
            if wire_type != _BYTES:
                continue
            if number in unsupported:
                _, what = unsupported[number]
                raise Refusal(
                    f"{self.name}: has {what}, which would be lost",
                    way_out="convert to dense tensors first" if "sparse" in what else "remove it first",
                    code=unsupported[number][0].replace("_", "-"),
                )
            if kind is _Message.TENSOR:
                if number == _TENSOR_RAW_DATA:
                    singular.append(value)
                    replaced = self.leaf(value, stop)
                    if replaced is not None:
                        changes.append((begin, stop, *replaced))
                continue
            inner_kind = paths.get(number)
            if inner_kind is None:
                continue
            if kind is _Message.ATTRIBUTE and number == _ATTRIBUTE_TENSOR:
                singular.append(value)
            if not self.worth(value, stop):
                continue
            inner = self.message(inner_kind, value, stop, depth + 1)
            if inner is not None:
                pieces, size = inner
                head = varint(number << 3 | _BYTES) + varint(size)
                changes.append((begin, stop, [head, *pieces], len(head) + size))
        # Protobuf merges a singular message that comes twice, and takes the last of two raw_data. Nobody writes such
        # files; where one comes, protobuf reads that tensor as it stands.
        if not changes or len(singular) > 1:
            return None
        pieces = []
        size = 0
        position = start
        for begin, stop, changed, changed_size in changes:
            if position < begin:
                pieces.append((position, begin))
            pieces.extend(changed)
            size += begin - position + changed_size
            position = stop
        if position < end:
            pieces.append((position, end))
        return pieces, size + end - position


class _Extract(_Rewriter):
    def __init__(self, data: memoryview, name: str, token: bytes, large: int) -> None:
        super().__init__(data, name)
        self.token = token
        self.large = large
        self.payloads: list[Payload] = []

    def worth(self, value: int, end: int) -> bool:
        return end - value >= self.large

    def leaf(self, value: int, end: int) -> tuple[list[_Piece], int] | None:
        if end - value < self.large:
            return None
        replacement = _RAW_DATA_KEY + varint(_TICKET_BYTES) + ticket(self.token, len(self.payloads))
        self.payloads.append(Payload(value, end - value))
        return [replacement], len(replacement)


class _Fill(_Rewriter):
    def __init__(self, data: memoryview, name: str, token: bytes, sizes: Sequence[int], tickets: list[int]) -> None:
        super().__init__(data, name)
        self.token = token
        self.sizes = sizes
        self.tickets = tickets

    def worth(self, value: int, end: int) -> bool:
        following = bisect_left(self.tickets, value)
        return following < len(self.tickets) and self.tickets[following] < end

    def leaf(self, value: int, end: int) -> tuple[list[_Piece], int] | None:
        number = ticket_number(self.token, bytes(self.data[value : min(end, value + _TICKET_BYTES + 1)]))
        if number is None:
            return None
        head = _RAW_DATA_KEY + varint(self.sizes[number])
        return [head, number], len(head) + self.sizes[number]


def skeleton(data: memoryview, name: str, *, large: int = LARGE) -> Skeleton:
    """Take the large weights out of a serialized model.

    Args:
        data: The bytes of the file, as a rule a memory map; only headers are touched, not the weights.
        name: What errors call the file.
        large: Payloads of at least this many bytes get a ticket.

    Raises:
        ModelError: The bytes are not a protobuf message, or one that has no ``graph``.
        Refusal: It has training information or sparse tensors, which the graph representation would drop.
    """
    walk = _Extract(data, name, new_token(), large)
    if not any(number == 7 and wire_type == _BYTES for _, number, wire_type, _, _ in walk.fields(0, len(data))):
        walk.broken("it has no graph")
    rewritten = walk.message(_Message.MODEL, 0, len(data), 1)
    if rewritten is None:
        return Skeleton(bytes(data), walk.token, ())
    pieces, _ = rewritten
    parts = [
        data[slice(*piece)] if isinstance(piece, tuple) else piece for piece in pieces if not isinstance(piece, int)
    ]
    return Skeleton(b"".join(parts), walk.token, tuple(walk.payloads))


def fill(data: bytes, token: bytes, sizes: Sequence[int], *, name: str = "model") -> list[memoryview | bytes | int]:
    """The pieces of the whole file, in order, for a serialized skeleton.

    Args:
        data: A serialized ``ModelProto`` whose ``raw_data`` fields may hold tickets with ``token``.
        token: As given to :func:`ticket`.
        sizes: By ticket number, how many bytes stand for it.
        name: What errors call the file.

    Returns:
        Pieces to be written one after the other; an ``int`` is the number of a payload of ``sizes[number]`` bytes.
    """
    tickets = []
    found = data.find(token)
    while found >= 0:
        tickets.append(found)
        found = data.find(token, found + _TICKET_BYTES)
    view = memoryview(data)
    walk = _Fill(view, name, token, sizes, tickets)
    rewritten = walk.message(_Message.MODEL, 0, len(data), 1)
    if rewritten is None:
        return [data]
    pieces, _ = rewritten
    return [view[piece[0] : piece[1]] if isinstance(piece, tuple) else piece for piece in pieces]
