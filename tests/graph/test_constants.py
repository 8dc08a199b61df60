"""What counts as known before a run, where it comes from, and that nothing is copied or guessed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxmorph._ir import ir
from onnxmorph.errors import Refusal
from onnxmorph.graph.constants import chain, constant, is_constant, non_finite, stored
from tests.graph.small import model, read

node = helper.make_node
X = {"x": (np.float32, [2, 4])}


def value(graph: ir.Model, name: str) -> ir.Value:
    places = [*graph.graph.inputs, *graph.graph.initializers.values()]
    places += [output for each in graph.graph for output in each.outputs]
    return next(each for each in places if each.name == name)


@pytest.mark.parametrize(
    "attribute, expected",
    [
        ({"value": helper.make_tensor("v", TensorProto.FLOAT, [2], [1.0, 2.0])}, np.array([1, 2], np.float32)),
        ({"value_float": 1.5}, np.array(1.5, np.float32)),
        ({"value_floats": [1.5, 2.5]}, np.array([1.5, 2.5], np.float32)),
        ({"value_int": 3}, np.array(3, np.int64)),
        ({"value_ints": [3, 4]}, np.array([3, 4], np.int64)),
    ],
)
def test_a_constant_node_in_each_form(attribute: dict[str, Any], expected: np.ndarray[Any, Any]) -> None:
    graph = read(model([node("Constant", [], ["y"], **attribute)], {}, ["y"], opset=13))
    got = constant(value(graph, "y"))
    assert got is not None and got.dtype == expected.dtype and got.shape == expected.shape
    np.testing.assert_array_equal(got, expected)
    source = chain(value(graph, "y"))
    assert source.root is source.value and source.nodes == () and not source.plain and source.shape == expected.shape


def test_strings_are_constants_too() -> None:
    nodes = [node("Constant", [], ["y"], value_string="a"), node("Constant", [], ["z"], value_strings=["a", "b"])]
    graph = read(model(nodes, {}, ["y", "z"], opset=13))
    single, several = constant(value(graph, "y")), constant(value(graph, "z"))
    assert single is not None and single.shape == () and several is not None and several.shape == (2,)


def test_inputs_and_attributes_of_a_function_are_not_known() -> None:
    referring = node("Constant", [], ["fy"])
    attribute = referring.attribute.add()
    attribute.name, attribute.ref_attr_name, attribute.type = "value_float", "a", 1
    function = helper.make_function(
        "local", "F", ["fx"], ["fy", "fz"], [referring, node("Identity", ["fx"], ["fz"])],
        [helper.make_opsetid("", 17)], attributes=["a"],
    )  # fmt: skip
    call = [node("F", ["w"], ["y", "z"], domain="local", a=1.0)]
    graph = read(model(call, {}, ["y"], {"w": np.ones(3, np.float32)}, functions=[function], domains=["local"]))
    (body,) = graph.functions.values()
    assert not any(is_constant(output) for output in body.outputs)
    assert "fx" in (chain(body.outputs[1]).reason or "")


def test_a_stored_tensor_is_not_copied_and_not_read_to_be_recognised() -> None:
    class Untouchable(ir.LazyTensor):
        pass

    read_times = []

    def load() -> ir.Tensor:
        read_times.append(1)
        return ir.Tensor(np.ones((2, 3), np.float32))

    tensor = Untouchable(load, dtype=ir.DataType.FLOAT, shape=ir.Shape([2, 3]), name="w")
    weight = ir.Value(name="w", const_value=tensor, shape=ir.Shape([2, 3]), type=ir.TensorType(ir.DataType.FLOAT))
    assert is_constant(weight) and chain(weight).shape == (2, 3) and chain(weight).plain
    assert read_times == []
    array = np.ones((2, 3), np.float32)
    plain = ir.Value(name="w", const_value=ir.Tensor(array))
    got = constant(plain)
    assert got is not None and np.shares_memory(got, array)
    assert np.shares_memory(chain(plain).array(), array)


def test_a_chain_names_its_root_its_nodes_and_who_else_uses_them() -> None:
    nodes = [
        node("DequantizeLinear", ["q", "s"], ["d"]),
        node("Transpose", ["d"], ["t"]),
        node("Mul", ["g", "t"], ["w"]),
        node("MatMul", ["x", "w"], ["y"]),
        node("MatMul", ["x", "d"], ["z"]),
    ]
    weights = {"q": np.ones((4, 4), np.int8), "s": np.array(0.5, np.float32), "g": np.ones((1, 4), np.float32)}
    graph = read(model(nodes, X, ["y", "z"], weights))
    source = chain(value(graph, "w"))
    assert source.root is value(graph, "q") and source.quantized and not source.plain and source.reason is None
    assert [each.op_type for each in source.nodes] == ["DequantizeLinear", "Transpose", "Mul"]
    assert {root.name for root in source.roots} == {"q", "s", "g"}
    assert [user.outputs[0].name for user in source.sharers] == ["z", "y"]
    np.testing.assert_array_equal(source.array(), np.full((4, 4), 0.5, np.float32))
    assert source.shape == (4, 4)


def test_what_is_fed_or_computed_says_so() -> None:
    nodes = [node("Relu", ["w"], ["r"]), node("Add", ["x", "w"], ["y"])]
    graph = read(model(nodes, X, ["y", "r"], {"w": np.ones((2, 4), np.float32)}))
    for name, word in [("r", "Relu"), ("y", "'x' is a graph or function input")]:
        source = chain(value(graph, name))
        assert source.root is None and word in (source.reason or "")
        with pytest.raises(Refusal, match="not known before a run"):
            source.array()
    assert constant(None) is None and not is_constant(None) and stored(None) is None


def test_an_initializer_the_caller_may_replace() -> None:
    proto = model([node("Identity", ["w"], ["y"])], {}, ["y"], {"w": np.ones(3, np.float32)}, also_inputs=["w"])
    graph = read(proto)
    assert chain(value(graph, "y"), ir_version=4).overridable
    assert chain(value(graph, "y")).overridable  # not knowing is no licence
    assert not chain(value(graph, "y"), ir_version=3).overridable


def test_a_long_chain_and_a_circle_end() -> None:
    def chained(length: int) -> ir.Value:
        nodes = [node("Identity", [f"v{i}"], [f"v{i + 1}"]) for i in range(length)]
        return read(model(nodes, {}, [f"v{length}"], {"v0": np.ones(3, np.float32)})).graph.outputs[0]

    got = constant(chained(1000))
    assert got is not None and got.tolist() == [1, 1, 1]
    assert not is_constant(chained(2000)) and "more than 1024 steps" in (chain(chained(2000)).reason or "")
    circle = read(
        model([node("Add", ["b", "w"], ["a"]), node("Neg", ["a"], ["b"])], {}, ["b"], {"w": np.ones(1, np.float32)})
    )
    assert constant(circle.graph.outputs[0]) is None


def test_malformed_constants_are_refused_in_one_line() -> None:
    nodes = [node("Transpose", ["w"], ["t"], perm=[0, 0])]
    graph = read(model(nodes, {}, ["t"], {"w": np.ones((2, 3), np.float32)}))
    assert constant(value(graph, "t")) is None
    with pytest.raises(Refusal, match="cannot be computed before a run") as caught:
        chain(value(graph, "t")).array()
    assert "\n" not in str(caught.value)
    wrong = onnx.AttributeProto(name="value", type=onnx.AttributeProto.INT, i=3)
    odd = node("Constant", [], ["y"])
    odd.attribute.append(wrong)
    assert not is_constant(read(model([odd], {}, ["y"])).graph.outputs[0])


def test_nan_is_found_in_any_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmorph.graph.constants._CHUNK", 7)
    array = np.zeros((5, 9), np.float32)
    assert not non_finite(array) and not non_finite(array.T) and not non_finite(np.zeros(3, np.int8))
    for place in [(0, 0), (2, 3), (4, 8)]:
        bad = array.copy()
        bad[place] = np.nan
        assert non_finite(bad) and non_finite(bad.T)
    assert non_finite(np.array([np.inf], np.float16))


def test_a_deep_network_is_not_searched_for_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = []
    for i in range(500):
        nodes += [node("Relu", [f"v{i}"], [f"r{i}"]), node("Add", [f"v{i}", f"r{i}"], [f"v{i + 1}"])]
    graph = read(model(nodes, {"v0": (np.float32, [2])}, ["v500"]))
    asked: list[str] = []
    from onnxmorph.graph import constants

    monkeypatch.setattr(constants, "supported", lambda each: asked.append(each.op_type) or each.op_type == "Add")
    assert not is_constant(graph.graph.outputs[0])
    assert len(asked) < 10
