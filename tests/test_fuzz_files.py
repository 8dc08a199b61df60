"""Hostile and damaged files: each is a model, or one line; never a traceback, a hang or a flood of memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxmorph import model as files
from onnxmorph import wire
from onnxmorph.errors import ModelError, Refusal
from tests.model_protos import array, external, same_model

SETTINGS = settings(
    deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=150
)


def seed_model() -> onnx.ModelProto:
    """Small, with one of everything: an If, a function, typed and raw tensors, a Constant, metadata, a sequence."""
    branch = helper.make_graph(
        [helper.make_node("Relu", ["a"], ["t"])], "b", [], [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)]
    )
    function = helper.make_function(
        "d", "f", ["p"], ["q"], [helper.make_node("Neg", ["p"], ["q"])], [helper.make_opsetid("", 17)]
    )
    constant = numpy_helper.from_array(array(300), "k")
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["c"], value=constant),
            helper.make_node("Add", ["x", "c"], ["a"]),
            helper.make_node("If", ["i"], ["y"], then_branch=branch, else_branch=branch),
            helper.make_node("f", ["w"], ["z"], domain="d"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 300]), helper.make_tensor_value_info("i", 9, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None), helper.make_tensor_value_info("z", 1, [2])],
        [
            numpy_helper.from_array(array(400, seed=1), "big"),
            helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0]),
            helper.make_tensor("half", TensorProto.FLOAT16, [3], [1.0, 2.0, 3.0]),
            helper.make_tensor("text", TensorProto.STRING, [1], np.array([b"s"])),
        ],
        value_info=[helper.make_tensor_sequence_value_info("unused", TensorProto.FLOAT, [1])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)
    model.metadata_props.add(key="k", value="v")
    return model


SEED = seed_model().SerializeToString(deterministic=True)
# Positions within structure rather than within the weights, which any change leaves valid.
SKELETON = wire.skeleton(memoryview(SEED), "seed")
STRUCTURE = [i for i in range(len(SEED)) if not any(p.offset <= i < p.offset + p.length for p in SKELETON.payloads)]


def loads_or_is_one_line(path: Path) -> bool:
    """Load; if that works, saving and loading again must give the same, from then on without change."""
    try:
        model = files.load(path)
    except (ModelError, Refusal) as error:
        assert str(error) and "\n" not in str(error)
        return False
    # The same name in two folders: a data file is called by its model's name.
    first, second = path.parent / "first" / "out.onnx", path.parent / "second" / "out.onnx"
    for folder in (first.parent, second.parent):
        folder.mkdir(exist_ok=True)
    try:
        files.save(model, first, overwrite=True)
    except (ModelError, Refusal) as error:
        assert str(error) and "\n" not in str(error)
        return True
    files.save(files.clone(files.load(first)), second, overwrite=True)
    assert first.read_bytes() == second.read_bytes()
    assert files.content_hash(model) == files.content_hash(files.load(second))
    return True


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(SEED)
    for _ in range(draw(st.integers(1, 3))):
        at = min(draw(st.sampled_from(STRUCTURE)), len(data))
        kind = draw(st.sampled_from(["flip", "set", "cut", "insert", "remove", "splice", "repeat"]))
        if kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=12))
        elif kind == "remove":
            del data[at : at + draw(st.integers(1, 20))]
        elif kind == "splice":
            data[at : at + 1] = wire.varint(draw(st.integers(0, 2**64 - 1) | st.integers(0, 2**14)))
        elif kind == "repeat":
            data[at:at] = data[at : at + draw(st.integers(1, 60))]
        elif at < len(data):
            data[at] = data[at] ^ (1 << draw(st.integers(0, 7))) if kind == "flip" else draw(st.integers(0, 255))
    return bytes(data)


@SETTINGS
@given(mutated())
def test_mutated_bytes_are_a_model_or_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    loads_or_is_one_line(path)


@SETTINGS
@given(st.binary(max_size=200))
def test_any_bytes_are_a_model_or_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    assert not loads_or_is_one_line(path)


def messages_of(message: onnx.ModelProto) -> list[object]:
    """Every message within a message, itself first."""
    found: list[object] = [message]
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in value if field.is_repeated else [value]:
            found.extend(messages_of(inner))
    return found


SCALARS = {
    "int": st.sampled_from([0, 1, -1, 2, 7, 16, 99, 2**31 - 1]),
    "long": st.sampled_from([0, 1, -1, 2**40, 2**63 - 1, -(2**63)]),
    "text": st.sampled_from(["", "x", "w", "a", "y", "nobody", "ai.onnx", "big", "k", "é", "\0"]),
    "bytes": st.sampled_from([b"", b"\0" * 8, b"\xff", bytes(2000)]),
    "float": st.sampled_from([0.0, float("nan"), 1e38]),
}


@st.composite
def mutated_proto(draw: st.DrawFn) -> bytes:
    """A model with fields of random messages set, cleared, doubled, emptied or filled with another message's."""
    model = onnx.ModelProto.FromString(SEED)
    for _ in range(draw(st.integers(1, 3))):
        everything = messages_of(model)
        message = everything[draw(st.integers(0, len(everything) - 1))]
        fields = message.DESCRIPTOR.fields  # type: ignore[attr-defined]
        field = fields[draw(st.integers(0, len(fields) - 1))]
        kind = draw(st.sampled_from(["set", "clear", "double"]))
        if kind == "clear":
            message.ClearField(field.name)  # type: ignore[attr-defined]
            continue
        if field.message_type is not None:
            same = [m for m in everything if m.DESCRIPTOR is field.message_type]  # type: ignore[attr-defined]
            assume(same)
            other = same[draw(st.integers(0, len(same) - 1))]
            copy = type(other).FromString(other.SerializeToString())  # type: ignore[attr-defined]
            target = getattr(message, field.name)
            target.add().CopyFrom(copy) if field.is_repeated else target.CopyFrom(copy)
            continue
        kinds = {1: "float", 2: "float", 3: "long", 4: "long", 5: "int", 9: "text", 12: "bytes", 13: "int", 14: "int"}
        value: Any = draw(SCALARS[kinds[field.type]])
        if field.type == field.TYPE_ENUM:
            value = draw(st.sampled_from([v.number for v in field.enum_type.values]))
        if field.type == field.TYPE_UINT64:
            value = abs(value) % 2**64
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)
    data: bytes = model.SerializeToString()
    return data


@SETTINGS
@given(mutated_proto())
def test_mutated_messages_are_a_model_or_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    loads_or_is_one_line(path)


@settings(SETTINGS, max_examples=80)
@given(st.sampled_from(["location", "offset", "length"]), st.text(max_size=12) | st.integers(-5, 3000).map(str))
@example("location", "m.onnx")
@example("location", "./m.onnx.data")
@example("location", "m.onnx.data/")
@example("offset", "1")
def test_mutated_references_to_external_data_are_a_model_or_one_line(tmp_path: Path, key: str, value: str) -> None:
    path = external(seed_without_text(), tmp_path / "m.onnx", threshold=1000)
    proto = onnx.load(path, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == key:
            entry.value = value
    path.write_bytes(proto.SerializeToString())
    loads_or_is_one_line(path)


def seed_without_text() -> onnx.ModelProto:
    model: onnx.ModelProto = onnx.ModelProto.FromString(SEED)
    del model.graph.initializer[3:]
    return model


def test_the_seed_itself_is_a_model(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(SEED)
    assert loads_or_is_one_line(path)
    same_model(path, tmp_path / "first" / "out.onnx")


@pytest.mark.parametrize("dims", [[2**40], [2**62, 4], [10**6, 10**6]])
@pytest.mark.parametrize("stored", ["raw_data", "float_data", "external"])
def test_dimensions_alone_allocate_nothing(tmp_path: Path, dims: list[int], stored: str) -> None:
    model = onnx.ModelProto.FromString(SEED)
    tensor = model.graph.initializer[0]
    tensor.dims[:] = dims
    if stored == "float_data":
        tensor.ClearField("raw_data")
    if stored == "external":
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="m.onnx")
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    tracemalloc.start()
    with pytest.raises(ModelError):
        files.load(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 << 20


@pytest.mark.parametrize("depth", [20, 200, 5000])
def test_deep_nesting_is_a_model_or_one_line(tmp_path: Path, depth: int) -> None:
    data = onnx.GraphProto(name="g").SerializeToString()
    for _ in range(depth):
        node = b"".join((b"\x22\x02If", b"\x2a" + wire.varint(len(data) + 10)))
        attribute = b"\x0a\x01t" + b"\xa0\x01\x05" + b"\x32" + wire.varint(len(data)) + data
        node = b"\x22\x02If" + b"\x2a" + wire.varint(len(attribute)) + attribute
        data = b"\x0a" + wire.varint(len(node)) + node
    whole = onnx.ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", 17)]).SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(whole + b"\x3a" + wire.varint(len(data)) + data)
    assert loads_or_is_one_line(path) == (depth < 33)


def test_many_values_and_nodes_load_in_reasonable_time(tmp_path: Path) -> None:
    import time

    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"], name=f"n{i}") for i in range(20_000)]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 4]) for n in ("v0", "v20000")]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], [numpy_helper.from_array(np.zeros(2), "w")])
    path = tmp_path / "m.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    begin = time.perf_counter()
    files.load(path)
    assert time.perf_counter() - begin < 5
