"""A Sigmoid that saturates moves in steps of its own range: no false alarm there, and faults are still seen."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxmorph.morphs import plan_deepen
from onnxmorph.verify import verify
from onnxmorph.verify.reach import reach


def detector(seed: int, weight: np.ndarray | None = None) -> ir.Model:
    """Gemm 16 -> 1 with a bias of -6, Sigmoid, and the score reshaped."""
    random = np.random.default_rng(seed)
    drawn = (0.1 * random.standard_normal((1, 16))).astype(np.float32) if weight is None else weight
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1),
            helper.make_node("Sigmoid", ["h"], ["score"]),
            helper.make_node("Flatten", ["score"], ["y"]),
        ],
        "detector",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(drawn, "w"), numpy_helper.from_array(np.array([-6], np.float32), "b")],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


@pytest.mark.parametrize("seed", range(3))
def test_a_true_child_behind_a_saturated_sigmoid_is_equivalent(seed: int) -> None:
    parent = detector(seed)
    assert verify(parent, plan_deepen(parent, "#0", seed=seed).apply(parent).model, faults=False).equivalent


def test_a_moved_weight_behind_a_saturated_sigmoid_is_seen() -> None:
    parent = detector(0)
    weight = parent.graph.initializers["w"].const_value
    assert weight is not None
    wrong = weight.numpy().copy()
    wrong[0, 3] += 0.02 * wrong.std()
    assert not verify(parent, detector(0, wrong), faults=False).equivalent


def test_the_range_is_carried_by_layout_and_ends_at_arithmetic() -> None:
    assert reach(detector(0)) == {"score": 1.0, "y": 1.0}


def test_the_range_is_carried_out_of_the_branches_of_an_if_and_through_a_mean() -> None:
    branch = helper.make_graph(
        [helper.make_node("Sigmoid", ["x"], ["inside"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inside", TensorProto.FLOAT, None)],
    )
    graph = helper.make_graph(
        [
            helper.make_node("If", ["c"], ["chosen"], then_branch=branch, else_branch=branch),
            helper.make_node("ReduceMean", ["chosen"], ["mean"]),
            helper.make_node("Mul", ["mean", "mean"], ["y"]),
        ],
        "outer",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4]),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert reach(model) == {"chosen": 1.0, "mean": 1.0}
