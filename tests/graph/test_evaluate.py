"""Every operator evaluated before a run gives what ONNX Runtime gives, in each form the opsets have for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxmorph.graph import evaluate as room
from onnxmorph.graph.constants import constant, is_constant
from onnxmorph.graph.evaluate import Unevaluable, evaluate
from tests.graph.small import Array, model, read, run, tensor

rng = np.random.default_rng(1)
I64 = np.int64


def f32(*shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def ints(*numbers: int) -> Array:
    return np.array(numbers, I64)


@dataclass
class Case:
    op: str
    inputs: list[Array | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 17
    outputs: int = 1
    near: bool = False


A = f32(2, 3, 4)
H = A.astype(np.float16)
B8 = rng.integers(-128, 128, (4, 6)).astype(np.int8)
U8 = rng.integers(0, 256, (4, 6)).astype(np.uint8)
WHOLE = np.array([-7, -6, 7, 6], np.int64)
HUGE = np.array([1e30, -1e30, 500.0, -3.7, 0.0, 1e-8, 448.0, 460.0], np.float32)

CASES = [
    Case("Identity", [A]),
    Case("Transpose", [A]),
    Case("Transpose", [A], {"perm": [2, 0, 1]}),
    Case("Reshape", [A, ints(4, -1)]),
    Case("Reshape", [A, ints(0, -1)], opset=7),
    Case("Reshape", [f32(0, 3), ints(3, 0)], {"allowzero": 1}),
    Case("Flatten", [A], {"axis": 0}, 7),
    Case("Flatten", [A], {"axis": 2}),
    Case("Flatten", [A], {"axis": 3}),
    Case("Flatten", [A], {"axis": -1}, 13),
    Case("Squeeze", [f32(1, 3, 1)], {}, 7),
    Case("Squeeze", [f32(1, 3, 1)], {"axes": [2]}, 7),
    Case("Squeeze", [f32(1, 3, 1)], {"axes": [-1]}, 11),
    Case("Squeeze", [f32(1, 3, 1), ints(0, -1)], {}, 13),
    Case("Squeeze", [f32(1, 3, 1)], {}, 13),
    Case("Unsqueeze", [f32(2, 3)], {"axes": [0, 3]}, 7),
    Case("Unsqueeze", [f32(2, 3)], {"axes": [-1, 1]}, 11),
    Case("Unsqueeze", [f32(2, 3), ints(-1, 0)], {}, 13),
    Case("Concat", [A, A[:1]], {"axis": 0}),
    Case("Concat", [A, A, A], {"axis": -1}, 11),
    Case("Split", [A], {"axis": 2, "split": [1, 3]}, 7, 2),
    Case("Split", [A], {"axis": 1}, 11, 3),
    Case("Split", [A, ints(3, 1)], {"axis": -1}, 13, 2),
    Case("Split", [A], {"axis": 1, "num_outputs": 2}, 18, 2),
    Case("Slice", [A], {"starts": [1, -3], "ends": [9, -1], "axes": [1, 2]}, 7),
    Case("Slice", [A], {"starts": [0], "ends": [1]}, 9),
    Case("Slice", [A, ints(1), ints(2**62)], {}, 10),
    Case("Slice", [A, ints(-1), ints(-(2**62)), ints(-1), ints(-2)], {}, 11),
    Case("Slice", [A, ints(3, 0), ints(0, 3), ints(2, 1), ints(-1, 2)], {}, 13),
    Case("Slice", [A, ints(2), ints(-1), ints(2), ints(-1)], {}, 13),
    Case("Slice", [A, ints(5), ints(9), ints(1)], {}, 13),
    Case("Gather", [A, ints(1, 0, 1)], {"axis": 1}, 7),
    Case("Gather", [A, np.array([[-1, 0]], np.int32)], {"axis": -1}, 11),
    Case("Gather", [A, np.array(1, I64)]),
    Case("Expand", [f32(3, 1), ints(2, 1, 4)], {}, 8),
    Case("Tile", [f32(2, 3), ints(2, 1)]),
    Case("Pad", [A], {"pads": [0, 1, 0, 0, 0, 2], "value": 1.5}, 7),
    Case("Pad", [A, ints(0, 0, 1, 1, 0, 0)], {}, 11),
    Case("Pad", [A, ints(1, 2), np.array(2.5, np.float32), ints(-1)], {}, 18),
    Case("Shape", [A]),
    Case("Shape", [A], {"start": -2, "end": 3}, 15),
    Case("Size", [A]),
    Case("ConstantOfShape", [ints(2, 3)], {}, 9),
    Case("ConstantOfShape", [ints(2, 3)], {"value": helper.make_tensor("v", TensorProto.INT64, [1], [7])}, 9),
    Case("ConstantOfShape", [np.zeros(0, I64)], {}, 9),
    Case("Range", [np.array(2, I64), np.array(9, I64), np.array(3, I64)], {}, 11),
    Case("Range", [np.array(5, I64), np.array(0, I64), np.array(-2, I64)], {}, 11),
    Case("Range", [np.array(5, I64), np.array(9, I64), np.array(-2, I64)], {}, 11),
    Case("Cast", [A], {"to": TensorProto.FLOAT16}),
    Case("Cast", [A * 100], {"to": TensorProto.INT32}),
    Case("Cast", [A], {"to": TensorProto.BOOL}),
    Case("Cast", [A], {"to": TensorProto.BFLOAT16}),
    Case("Cast", [WHOLE], {"to": TensorProto.INT8}),
    Case("Cast", [WHOLE + 300], {"to": TensorProto.UINT8}),
    Case("Cast", [H], {"to": TensorProto.DOUBLE}),
    Case("Cast", [np.array([1e9, 1e-9], np.float32)], {"to": TensorProto.FLOAT16}),
    Case("Cast", [np.array([True, False])], {"to": TensorProto.FLOAT}),
    Case("Cast", [HUGE], {"to": TensorProto.FLOAT8E4M3FN}, 19),
    Case("Cast", [HUGE], {"to": TensorProto.FLOAT8E4M3FN, "saturate": 0}, 19),
    Case("Cast", [HUGE], {"to": TensorProto.FLOAT8E5M2}, 19),
    Case("Cast", [HUGE], {"to": TensorProto.FLOAT8E5M2, "saturate": 0}, 19),
    Case("CastLike", [A, H], {}, 15),
    Case("DequantizeLinear", [B8, np.array(0.3, np.float32)], {}, 10),
    Case("DequantizeLinear", [U8, np.array(0.3, np.float32), np.array(130, np.uint8)], {}, 10),
    Case("DequantizeLinear", [B8, f32(6), rng.integers(-9, 9, 6).astype(np.int8)], {"axis": 1}, 13),
    Case("DequantizeLinear", [B8, f32(4), rng.integers(-9, 9, 4).astype(np.int8)], {"axis": 0}, 13),
    Case("DequantizeLinear", [B8, f32(6), rng.integers(-9, 9, 6).astype(np.int8)], {"axis": -1}, 13),
    Case("DequantizeLinear", [np.array([2**31 - 1, -5], np.int32), np.array([1e-3], np.float32)], {"axis": 0}, 13),
    Case("DequantizeLinear", [B8, f32(6).astype(np.float16)], {"axis": 1}, 19),
    Case("DequantizeLinear", [f32(4, 6).astype(ml_dtypes.float8_e4m3fn), f32(1).reshape(())], {}, 19),
    Case("DequantizeLinear", [B8.astype(np.int16), f32(1).reshape(()), np.array(-300, np.int16)], {}, 21),
    Case("DequantizeLinear", [(B8 // 16).astype(ml_dtypes.int4), f32(6)], {"axis": 1}, 21),
    Case("DequantizeLinear", [B8, f32(4, 3), (B8[:, :3] // 9).astype(np.int8)], {"axis": 1, "block_size": 2}, 21),
    Case("DequantizeLinear", [(U8 // 16).astype(ml_dtypes.uint4), f32(2, 6)], {"axis": 0, "block_size": 2}, 21),
    Case("QuantizeLinear", [A * 20, np.array(0.5, np.float32)], {}, 10),
    Case("QuantizeLinear", [A * 40, np.array(0.5, np.float32), np.array(3, np.int8)], {}, 13),
    Case("QuantizeLinear", [A * 40, np.abs(f32(3)), ints(3, 100, 200).astype(np.uint8)], {"axis": 1}, 13),
    Case("QuantizeLinear", [HUGE, np.array(2, np.float32), np.array(0).astype(ml_dtypes.float8_e4m3fn)], {}, 19),
    Case("QuantizeLinear", [np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32), np.array(1, np.float32)], {}, 13),
    Case("Add", [A, f32(3, 1)]),
    Case("Sub", [f32(4), A]),
    Case("Mul", [H, H[:, :1]]),
    Case("Div", [A, f32(4)], {}, 7),
    Case("Div", [WHOLE, ints(2, -4, -2, 4)]),
    Case("Pow", [np.abs(A), np.array(0.5, np.float32)], near=True),
    Case("Neg", [A]),
    Case("Neg", [WHOLE]),
    Case("Abs", [A]),
    Case("Sqrt", [np.abs(A)]),
    Case("Sqrt", [A]),
    Case("Reciprocal", [A]),
    Case("Exp", [A], near=True),
    Case("Tanh", [A * 3], near=True),
    Case("Sigmoid", [A * 30], near=True),
    Case("Sign", [A]),
    Case("Sign", [WHOLE]),
    Case("Round", [np.array([0.5, 1.5, 2.5, -0.5, -1.6], np.float32)]),
    Case("Clip", [A, np.array(-0.5, np.float32), np.array(0.3, np.float32)]),
    Case("Clip", [A, None, np.array(0.3, np.float32)]),
    Case("Clip", [A], {"min": 0.1}, 7),
    Case("BitwiseAnd", [U8, np.array(15, np.uint8)], {}, 18),
    Case("BitwiseOr", [U8, np.array(15, np.uint8)], {}, 18),
    Case("BitwiseXor", [U8, np.array(15, np.uint8)], {}, 18),
    Case("BitShift", [U8, np.array(4, np.uint8)], {"direction": "RIGHT"}, 11),
    Case("BitShift", [U8, np.array(1, np.uint8)], {"direction": "LEFT"}, 11),
    Case("MatMul", [A, f32(4, 5)], near=True),
    Case("MatMul", [f32(4), A.reshape(-1, 4, 3)], near=True),
    Case("Floor", [A]),
    Case("Ceil", [A]),
    Case("Min", [A, f32(3, 1), f32(4)]),
    Case("Max", [A, f32(3, 1)]),
    Case("Equal", [WHOLE, ints(-7, 0, 7, 0)], {}, 11),
    Case("Less", [A, f32(4)]),
    Case("LessOrEqual", [WHOLE, ints(-7, 0, 7, 0)]),
    Case("Greater", [A, f32(4)]),
    Case("GreaterOrEqual", [WHOLE, ints(-7, 0, 7, 0)]),
    Case("And", [A > 0, A < 1]),
    Case("Or", [A > 1, A < 0]),
    Case("Not", [A > 0]),
    Case("Where", [A > 0, A, f32(4)], {}, 9),
    Case("ReduceSum", [A], {"axes": [1], "keepdims": 0}, 11, near=True),
    Case("ReduceSum", [A, ints(-1, 0)], {}, 13, near=True),
    Case("ReduceSum", [WHOLE], {"keepdims": 0}, 13),
    Case("ReduceMean", [A], {"axes": [1, 2]}, near=True),
    Case("ReduceL2", [A], {"axes": [1, 2]}, near=True),
    Case("ReduceSumSquare", [A], {}, near=True),
    Case("ReduceProd", [WHOLE], {"keepdims": 0}),
    Case("ReduceMax", [A, ints(1)], {}, 18),
]


def proto_of(case: Case) -> onnx.ModelProto:
    names = [f"i{position}" if array is not None else "" for position, array in enumerate(case.inputs)]
    outputs = [f"o{position}" for position in range(case.outputs)]
    stored = {name: array for name, array in zip(names, case.inputs, strict=True) if array is not None}
    node = helper.make_node(case.op, names, outputs, **case.attributes)
    return model([node], {}, outputs, stored, opset=case.opset)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op}-{case.opset}")
def test_evaluates_as_onnx_runtime_does(case: Case) -> None:
    proto = proto_of(case)
    graph = read(proto)
    unusual = case.attributes.get("to") in (TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2)
    unusual = unusual or case.op == "QuantizeLinear"
    # ONNX Runtime's Python gives bfloat16 and float8 no numpy type: let it cast them back, which is exact.
    if unusual:
        cast = [helper.make_node("Cast", [o.name], [f"c{o.name}"], to=TensorProto.FLOAT) for o in proto.graph.output]
        proto.graph.node.extend(cast)
    names = [f"c{o.name}" if unusual else o.name for o in proto.graph.output]
    expected = run(proto, {}, names)
    for output, wanted in zip(graph.graph.outputs, expected, strict=True):
        assert is_constant(output)
        got = constant(output)
        assert got is not None and got.shape == wanted.shape
        if unusual:
            got = got.astype(np.float32)
        assert got.dtype == wanted.dtype
        if case.near:
            np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-7)
        else:
            np.testing.assert_array_equal(got, wanted)


def test_every_operator_has_a_case() -> None:
    assert {case.op for case in CASES} == set(room._EVALUATORS)


@pytest.mark.parametrize(
    "op, inputs, attributes",
    [
        ("Expand", [f32(1), ints(1 << 20, 1 << 20)], {}),
        ("ConstantOfShape", [ints(1 << 40)], {}),
        ("ConstantOfShape", [ints(-1)], {}),
        ("Tile", [f32(2), ints(1 << 40)], {}),
        ("Reshape", [A, ints(5, 5)], {}),
        ("Gather", [A, ints(7)], {}),
        ("Transpose", [A], {"perm": [0, 0, 1]}),
        ("Split", [A], {"axis": 0, "split": [1, 7]}),
        ("Slice", [A, ints(0), ints(1), ints(0), ints(0)], {}),
        ("Squeeze", [A], {"axes": [0]}),
        ("Add", [A, H], {}),
        ("Add", [A, A], {"broadcast": 1}),
        ("Div", [WHOLE, ints(0, 0, 0, 0)], {}),
        ("Cast", [np.array([1e30], np.float32)], {"to": TensorProto.INT32}),
        ("Cast", [A], {"to": TensorProto.STRING}),
        ("Cast", [A], {"to": TensorProto.INT4}),
        ("Pad", [A, ints(0, 0, -1, 0, 0, 0)], {}),
        ("Pad", [A, ints(1, 0, 0, 0, 0, 0)], {"mode": "reflect"}),
        ("DequantizeLinear", [B8, f32(5)], {"axis": 1}),
        ("Range", [np.array(0, I64), np.array(1, I64), np.array(0, I64)], {}),
        ("Relu", [A], {}),
    ],
)
def test_what_is_malformed_or_too_large_is_not_known(op: str, inputs: list[Array], attributes: dict[str, Any]) -> None:
    proto = proto_of(Case(op, list(inputs), attributes))
    graph = read(proto)
    (node,) = graph.graph
    with pytest.raises(Unevaluable):
        evaluate(node, inputs)
    assert constant(graph.graph.outputs[0]) is None


def test_the_argument_left_out_is_told_from_the_one_given() -> None:
    stored = [tensor(B8, "q"), tensor(np.array(0.5, np.float32), "s")]
    node = helper.make_node("DequantizeLinear", ["q", "s", ""], ["y"])
    graph = helper.make_graph([node], "g", [], [onnx.ValueInfoProto(name="y")], stored)
    value = read(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)).graph.outputs[0]
    np.testing.assert_array_equal(constant(value), B8.astype(np.float32) * 0.5)
