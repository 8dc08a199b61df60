"""The wire format walker: takes weights out, puts them back, and turns malformed bytes away with one line."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from onnxmorph import wire
from onnxmorph.errors import ModelError, Refusal
from tests.model_protos import block, graph_of, two_layers


def restored(data: bytes, *, large: int = 64) -> bytes:
    """The file made of its own skeleton and payloads."""
    skeleton = wire.skeleton(memoryview(data), "m.onnx", large=large)
    payloads = [data[p.offset : p.offset + p.length] for p in skeleton.payloads]
    pieces = wire.fill(skeleton.data, skeleton.token, [len(p) for p in payloads])
    return b"".join(payloads[piece] if isinstance(piece, int) else bytes(piece) for piece in pieces)


def nested(depth: int, payload: bytes) -> onnx.GraphProto:
    """A graph whose Constant lies ``depth`` If branches deep, and in a list of tensors and graphs besides."""
    graph = onnx.GraphProto(name=f"level {depth}")
    if depth == 0:
        graph.initializer.add(name="w", data_type=TensorProto.UINT8, dims=[len(payload)], raw_data=payload)
        node = graph.node.add(op_type="Custom")
        node.attribute.add(name="one", type=onnx.AttributeProto.TENSOR).t.raw_data = payload
        many = node.attribute.add(name="many", type=onnx.AttributeProto.TENSORS)
        many.tensors.add(raw_data=payload[:-1])
        many.tensors.add(raw_data=b"small")
        return graph
    node = graph.node.add(op_type="If")
    node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g.CopyFrom(nested(depth - 1, payload))
    node.attribute.add(name="branches", type=onnx.AttributeProto.GRAPHS).graphs.add().CopyFrom(nested(0, payload))
    return graph


@given(st.integers(0, 4), st.integers(1, 300), st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_filling_the_skeleton_gives_the_file_again(depth: int, size: int, large: int) -> None:
    model = helper.make_model(nested(depth, bytes(range(256)) * 2 + bytes(size)))
    function = model.functions.add(name="f", domain="d")
    function.node.add().CopyFrom(nested(1, bytes(size + large)).node[0])
    function.attribute_proto.add(name="a", type=onnx.AttributeProto.TENSOR).t.raw_data = bytes(size)
    data = model.SerializeToString()
    assert restored(data, large=large) == data


def test_the_skeleton_is_small_and_keeps_everything_else() -> None:
    model = two_layers(width=512)
    data = model.SerializeToString()
    skeleton = wire.skeleton(memoryview(data), "m.onnx")
    assert len(skeleton.payloads) == 3
    assert len(skeleton.data) < 2000 < len(data)
    parsed = onnx.ModelProto.FromString(skeleton.data)
    for index, tensor in enumerate(graph_of(parsed).initializer):
        assert wire.ticket_number(skeleton.token, tensor.raw_data) == index
        payload = skeleton.payloads[index]
        tensor.raw_data = data[payload.offset : payload.offset + payload.length]
    assert parsed == model


def test_nobody_can_forge_a_ticket() -> None:
    data = two_layers().SerializeToString()
    tokens = {wire.skeleton(memoryview(data), "m").token for _ in range(4)}
    assert len(tokens) == 4


SMALL = onnx.ModelProto(ir_version=8).SerializeToString() + block(7, b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (block(7, b"abc")[:-1], "field 7 at byte 0 runs past the end of the file"),
        (b"\x3a\xff\xff\xff\xff\x7f", "runs past the end of the file"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "runs past the end of the file"),
        (b"\x3a" + b"\xff" * 10 + b"\x01", "longer than 10 bytes"),
        (b"\x3a" + b"\xff" * 9 + b"\x7f", "does not fit 64 bits"),
        (b"\x08", "the number at byte 1 runs past the end"),
        (b"\x00\x01" + SMALL, "impossible number 0"),
        (SMALL + b"\x0b\x0c", "is a protobuf group"),
        (SMALL + b"\x0e", "unknown wire type 6"),
        (SMALL + b"\x0f", "unknown wire type 7"),
        (SMALL + b"\x0d\x00", "runs past the end of the file"),
        (SMALL + b"\x09\x00", "runs past the end of the file"),
        (SMALL[:2], "it has no graph"),
        (block(7, block(1, block(5, b"\x2a\xff\x7f"))) + SMALL, "runs past the end of its message"),
    ],
)
def test_malformed_bytes_are_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(ModelError, match=r"m\.onnx: not an ONNX model: ") as caught:
        wire.skeleton(memoryview(data), "m.onnx", large=1)
    assert "\n" not in str(caught.value)
    assert reason in str(caught.value)


def test_a_nesting_bomb_is_turned_away() -> None:
    data = b""
    for _ in range(400):  # graph > node > attribute > graph > ...
        data = block(1, block(5, block(6, data)))
    with pytest.raises(ModelError, match="messages nested deeper than 100"):
        wire.skeleton(memoryview(block(7, data)), "m.onnx", large=1)


def test_what_protobuf_would_merge_is_left_to_protobuf() -> None:
    # A tensor with two raw_data: the last counts. An attribute with two t: protobuf merges them.
    twice = block(9, b"a" * 100) + block(9, b"b" * 100)
    merged = block(5, block(9, b"c" * 100)) + block(5, block(8, b"name"))
    data = block(7, block(5, twice) + block(1, block(5, merged)) + block(5, block(9, b"d" * 100)))
    skeleton = wire.skeleton(memoryview(data), "m.onnx", large=10)
    parsed = onnx.ModelProto.FromString(skeleton.data)
    assert parsed.graph.initializer[0].raw_data == b"b" * 100
    assert parsed.graph.node[0].attribute[0].t.raw_data == b"c" * 100
    assert wire.ticket_number(skeleton.token, parsed.graph.initializer[1].raw_data) is not None


def test_a_graph_in_two_parts_is_one_graph() -> None:
    whole = two_layers()
    parts = [onnx.GraphProto(), onnx.GraphProto()]
    parts[0].initializer.extend(whole.graph.initializer[:1])
    parts[1].initializer.extend(whole.graph.initializer[1:])
    data = b"".join(block(7, part.SerializeToString()) for part in parts)
    skeleton = wire.skeleton(memoryview(data), "m.onnx")
    assert len(onnx.ModelProto.FromString(skeleton.data).graph.initializer) == 3
    assert len(skeleton.payloads) == 2


def test_what_would_be_lost_is_refused_on_the_wire() -> None:
    cases = {
        "training information": block(20, block(1, b"")),
        "sparse initializers": block(7, block(15, bytes(8))),
    }
    for what, data in cases.items():
        with pytest.raises(Refusal, match=what):
            wire.skeleton(memoryview(SMALL + data), "m.onnx", large=1)
