"""Shapes come from the operators; what a file declares of inner values is checked before it is believed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxmorph._ir import ir
from onnxmorph.errors import SelectionError
from onnxmorph.graph.scopes import nodes, scopes
from onnxmorph.graph.shapes import Shapes
from tests.graph.small import Array, model, read, run, tensor

node = helper.make_node
X = {"x": (np.float32, ["N", 3, 8, 8])}


def declared(proto: onnx.ModelProto, name: str, shape: list[Any]) -> onnx.ModelProto:
    proto.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return proto


def by_name(graph: ir.Model) -> dict[str, ir.Value]:
    return {output.name or "": output for _, each in nodes(graph) for output in each.outputs}


def test_symbols_are_kept_and_sizes_derived() -> None:
    weight = {"w": np.zeros((4, 3, 3, 3), np.float32)}
    graph = read(model([node("Conv", ["x", "w"], ["y"], strides=[2, 2])], X, ["y"], weight))
    shapes = Shapes.of(graph)
    y = by_name(graph)["y"]
    assert shapes.shape(y) == ("N", 4, 3, 3) and shapes.dtype(y) == ir.DataType.FLOAT and shapes.rank(y) == 4
    assert not shapes.is_declared(y) and shapes.failure is None
    assert shapes.shape(graph.graph.initializers["w"]) == (4, 3, 3, 3)
    assert graph.graph.outputs[0].shape is None, "the model itself is left as it is"


def test_a_stale_shape_is_not_believed_and_nor_are_its_neighbours() -> None:
    chain = [node("Relu", ["x"], ["a"]), node("NonZero", ["a"], ["b"]), node("Neg", ["a"], ["y"])]
    proto = declared(model(chain, X, ["y"]), "a", ["N", 3, 8, 9])
    proto = declared(proto, "b", [4, 77])
    graph = read(proto)
    shapes = Shapes.of(graph)
    values = by_name(graph)
    assert shapes.shape(values["a"]) == ("N", 3, 8, 8)
    assert len(shapes.conflicts) == 1 and "'a' is declared (N, 3, 8, 9) but is (N, 3, 8, 8)" in shapes.conflicts[0]
    assert 77 not in (shapes.shape(values["b"]) or ()), "one false declaration: none is believed"
    honest = read(declared(model(chain, X, ["y"]), "b", [4, 77]))
    assert shapes.of(honest).shape(by_name(honest)["b"]) == (4, 77) and Shapes.of(honest).conflicts == []


def test_what_an_unknown_operator_gives_is_taken_from_the_file_and_said_to_be() -> None:
    chain = [node("Mystery", ["x"], ["b"], domain="odd"), node("Flatten", ["b"], ["y"])]
    graph = read(declared(model(chain, X, ["y"], domains=["odd"]), "b", ["N", 2, 5]))
    shapes = Shapes.of(graph)
    values = by_name(graph)
    assert shapes.shape(values["b"]) == ("N", 2, 5) and shapes.shape(values["y"]) == ("N", 10)
    bare = read(model(chain, X, ["y"], domains=["odd"]))
    assert Shapes.of(bare).shape(by_name(bare)["b"]) is None


def test_given_sizes_replace_symbols_everywhere() -> None:
    graph = read(model([node("Relu", ["x"], ["y"])], X, ["y"]))
    shapes = Shapes.of(graph, {"x": (5, 3, 8, 8)})
    assert shapes.shape(by_name(graph)["y"]) == (5, 3, 8, 8) == shapes.shape(graph.graph.inputs[0])
    for wrong, words in [
        ({"z": (1,)}, "its inputs are 'x'"),
        ({"x": (1, 2, 8, 8)}, "does not fit"),
        ({"x": (1,)}, "fit"),
    ]:
        with pytest.raises(SelectionError, match=words):
            Shapes.of(graph, wrong)


RESHAPES: dict[str, tuple[list[Any], dict[str, Array], tuple[int | str | None, ...]]] = {
    "cancelled batch": (
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["n"]),
            node("Concat", ["n", "c", "rest"], ["t"], axis=0),
            node("Reshape", ["x", "t"], ["y"]),
        ],
        {"zero": np.array([0]), "c": np.array([3]), "rest": np.array([-1])},
        ("N", 3, 64),
    ),
    "halves of the channels": (
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "last"], ["n"]),
            node("Div", ["n", "two"], ["half"]),
            node("Slice", ["x", "zero", "half", "last"], ["y"]),
        ],
        {"zero": np.array([0]), "last": np.array([3]), "two": np.array([2])},
        ("N", 3, 8, 4),
    ),
    "expanded like another": (
        [
            node("Shape", ["x"], ["s"]),
            node("Expand", ["one", "s"], ["y"]),
        ],
        {"one": np.zeros((1, 1, 8, 1), np.float32)},
        ("N", 3, 8, 8),
    ),
    "a size that only looks fixed": (
        # min(N, 5): fixed for every batch from 5 on
        [node("Slice", ["x", "zero", "five", "zero"], ["y"])],
        {"zero": np.array([0]), "five": np.array([5])},
        (None, 3, 8, 8),
    ),
    "a size rounded up": (
        # ceil(N / 16): the same for every batch up to 16
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["n"]),
            node("Add", ["n", "fifteen"], ["m"]),
            node("Div", ["m", "sixteen"], ["k"]),
            node("ConstantOfShape", ["k"], ["y"]),
        ],
        {"zero": np.array([0]), "fifteen": np.array([15]), "sixteen": np.array([16])},
        (None,),
    ),
}


@pytest.mark.parametrize("name", RESHAPES)
def test_sizes_that_the_model_computes(name: str) -> None:
    chain, stored, expected = RESHAPES[name]
    proto = model(chain, X, ["y"], stored)
    graph = read(proto)
    got = Shapes.of(graph).shape(by_name(graph)["y"])
    assert got is not None
    unknown = [None if isinstance(size, str) and size != "N" else size for size in got]
    assert tuple(unknown) == expected
    for batch in (1, 3, 20):
        (array,) = run(proto, {"x": np.zeros((batch, 3, 8, 8), np.float32)})
        assert all(
            size in (real, None) or (size == "N" and real == batch)
            for size, real in zip(expected, array.shape, strict=True)
        )


def test_fused_and_classical_operators_keep_their_shapes() -> None:
    chain = [
        node("Scaler", ["x"], ["a"], domain="ai.onnx.ml", offset=[0.0], scale=[1.0]),
        node("FastGelu", ["a"], ["b"], domain="com.microsoft"),
        node("FusedConv", ["b", "w"], ["c"], domain="com.microsoft", activation="Relu", strides=[2, 2]),
        node("Relu", ["c"], ["y"]),
    ]
    proto = model(chain, X, ["y"], {"w": np.zeros((4, 3, 3, 3), np.float32)}, domains=["ai.onnx.ml", "com.microsoft"])
    graph = read(proto)
    shapes = Shapes.of(graph)
    assert (
        shapes.shape(by_name(graph)["y"]) == ("N", 4, 3, 3) and shapes.dtype(by_name(graph)["b"]) == ir.DataType.FLOAT
    )


def test_bodies_and_functions_are_inferred_and_shadowed_names_kept_apart() -> None:
    def body(name: str, weight: Array) -> onnx.GraphProto:
        return helper.make_graph(
            [node("Conv", ["x", "w"], ["inner"]), node("Relu", ["inner"], ["out"])],
            name, [], [onnx.ValueInfoProto(name="out")], [tensor(weight, "w")],
        )  # fmt: skip

    branches = {
        "then_branch": body("t", np.zeros((4, 3, 1, 1), np.float32)),
        "else_branch": body("e", np.zeros((512, 3, 1, 1), np.float32)),
    }
    function = helper.make_function(
        "local", "F", ["fx"], ["fy"], [node("Flatten", ["fx"], ["flat"]), node("Relu", ["flat"], ["fy"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    chain = [node("If", ["c"], ["y"], **branches), node("F", ["x"], ["z"], domain="local")]
    inputs = {**X, "c": (np.bool_, [])}
    graph = read(model(chain, inputs, ["y", "z"], functions=[function], domains=["local"]))
    shapes = Shapes.of(graph)
    inner = {scope.path: each.outputs[0] for scope, each in nodes(graph) if each.op_type == "Conv"}
    assert shapes.shape(inner["y.then_branch"]) == ("N", 4, 8, 8)
    assert shapes.shape(inner["y.else_branch"]) == ("N", 512, 8, 8)
    flat = next(
        each.outputs[0] for scope, each in nodes(graph) if scope.path == "local::F" and each.op_type == "Flatten"
    )
    assert shapes.shape(flat) == ("N", 192) and shapes.shape(by_name(graph)["z"]) == ("N", 192)
    assert [scope.path for scope in scopes(graph)] == ["", "y.else_branch", "y.then_branch", "local::F"]


def test_calls_that_disagree_leave_the_body_unknown() -> None:
    function = helper.make_function(
        "local", "F", ["fx"], ["fy"], [node("Relu", ["fx"], ["fy"])], [helper.make_opsetid("", 17)]
    )
    calls = [node("F", ["x"], ["y"], domain="local"), node("F", ["v"], ["z"], domain="local")]
    inputs = {**X, "v": (np.float32, ["N", 4, 8, 8])}
    graph = read(model(calls, inputs, ["y", "z"], functions=[function], domains=["local"]))
    shapes = Shapes.of(graph)
    (body,) = graph.functions.values()
    size = (shapes.shape(body.outputs[0]) or ())[1]
    assert isinstance(size, str) and size.startswith("unk__") and size.endswith("local::F")
    assert shapes.shape(by_name(graph)["z"]) == ("N", 4, 8, 8)


def test_no_large_tensor_is_read() -> None:
    class Unreadable(ir.Tensor):
        def numpy(self) -> Any:
            raise AssertionError("read")

        tobytes = numpy

    big = np.zeros((64, 3, 8, 8), np.float32)
    graph = read(model([node("Conv", ["x", "w"], ["y"])], X, ["y"], {"w": big}))
    graph.graph.initializers["w"].const_value = Unreadable(big, name="w")
    assert Shapes.of(graph).shape(by_name(graph)["y"]) == ("N", 64, 1, 1)


def test_a_model_that_inference_rejects_keeps_what_is_declared() -> None:
    proto = declared(model([node("Relu", ["x"], ["a"]), node("Relu", ["a"], ["y"])], X, ["y"]), "a", ["N", 4])
    del proto.opset_import[:]
    graph = read(proto)
    shapes = Shapes.of(graph)
    assert shapes.failure is not None and "\n" not in shapes.failure
    assert shapes.shape(by_name(graph)["a"]) == ("N", 4)


def test_an_initializer_the_caller_may_replace_gives_its_type_alone() -> None:
    stored = {"t": np.array([2, 96])}
    feed = {"x": (np.float32, [1, 3, 8, 8])}
    chain = [node("Reshape", ["x", "t"], ["y"])]
    fixed = read(model(chain, feed, ["y"], stored))
    open_ = read(model(chain, feed, ["y"], stored, also_inputs=["t"]))
    assert Shapes.of(fixed).shape(by_name(fixed)["y"]) == (2, 96)
    got = Shapes.of(open_).shape(by_name(open_)["y"])
    assert got is None or all(not isinstance(size, int) for size in got)
