"""Weights that alone make the difference are known from the files, whatever the inputs reach."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxmorph._ir import ir
from onnxmorph.verify import Tolerance, Tolerances, verify
from onnxmorph.verify.definitions import Definitions
from onnxmorph.verify.ties import Ties
from tests.verify.graphs import small_model, weights

FLAT = "(float[N,16] x) => (float[N,10] y)"
W, V = weights(16, 24), weights(24, 10, seed=1)
DEAD = np.where(np.arange(24) == 3, -1e6, 0).astype(np.float32)
"""A bias that no input lifts channel 3 over zero with."""


def layered(v: Any = V, *, names: str = "h b r", w: Any = W, bias: Any = DEAD) -> ir.Model:
    h, b, r = names.split()
    body = f"{h} = MatMul(x, w)\n {b} = Add({h}, bias)\n {r} = Relu({b})\n y = MatMul({r}, v)"
    return small_model(FLAT, body, {"w": w, "v": v, "bias": bias})


def moved(array: Any, place: tuple[int, ...], by: float) -> Any:
    other = array.copy()
    other[place] += by
    return other


def differences(parent: ir.Model, child: ir.Model) -> list[Any]:
    return Ties(parent, child, Definitions(parent, child), {}).differences


@pytest.mark.parametrize("names", ["h b r", "p q s"])
def test_a_weight_that_no_input_reaches_is_not_called_equivalent(names: str) -> None:
    child = layered(moved(V, (3, 7), 0.01), names=names)
    certificate = verify(layered(), child, provider="cpu", faults=False)
    assert certificate.verdict == "unproven" and not certificate.equivalent and not certificate.failures
    (entry,) = certificate.weights
    assert (entry["weight"], entry["index"], entry["shown"], entry["counts"]) == ("v", [3, 7], False, True)
    assert "unproven: weight 'v'[3, 7]" in certificate.describe()


def test_outputs_alone_or_tolerances_are_the_users_word() -> None:
    parent, child = layered(), layered(moved(V, (3, 7), 0.01))
    for options in ({"inner": False}, {"tolerances": Tolerances(Tolerance(1e-3))}):
        certificate = verify(parent, child, provider="cpu", faults=False, **options)  # type: ignore[arg-type]
        assert certificate.equivalent and any("which no output showed" in text for text in certificate.warnings)


def test_what_a_run_shows_is_named_too() -> None:
    certificate = verify(layered(), layered(moved(V, (4, 7), 0.01)), provider="cpu", faults=False)
    assert certificate.verdict == "not equivalent" and certificate.weights[0]["shown"]


def test_a_bound_that_no_input_reaches() -> None:
    low = np.float32(0)
    parent, child = (
        small_model(FLAT, "a = Sigmoid(x)\n y = Clip(a, low, high)", {"low": low, "high": h})
        for h in (np.float32(1e3), np.float32(2e3))
    )
    assert verify(parent, child, provider="cpu", faults=False).verdict == "unproven"
    assert verify(parent, parent, provider="cpu", faults=False).equivalent


def test_rounding_and_fills_are_no_difference() -> None:
    again = (W.astype(np.float64) * 3).astype(np.float32) / np.float32(3)
    assert (again != W).any()
    assert not differences(layered(), layered(w=again))
    mask = np.where(np.tri(16) > 0, 0, -1e9).astype(np.float32)
    parent, child = (
        small_model("(float[16,16] x) => (float[16,16] y)", "a = Add(x, m)\n y = Softmax(a)", {"m": array})
        for array in (mask, np.where(mask < 0, -np.inf, mask).astype(np.float32))
    )
    assert not differences(parent, child)


def test_what_makes_no_difference_together() -> None:
    order = np.random.default_rng(0).permutation(24)
    permuted = layered(V[order], names="p q s", w=W[:, order], bias=DEAD[order])
    assert verify(layered(), permuted, provider="cpu", faults=False).equivalent

    def normalised(epsilon: float, variance: Any) -> ir.Model:
        tensors = {"s": weights(4), "b": weights(4, seed=1), "m": weights(4, seed=2), "v": variance}
        body = f"y = BatchNormalization <epsilon = {epsilon}> (x, s, b, m, v)"
        return small_model("(float[N,4,5] x) => (float[N,4,5] y)", body, tensors)

    one = normalised(1e-5, np.ones(4, np.float32))
    assert not differences(one, normalised(1e-3, np.full(4, 1 + 1e-5 - 1e-3, np.float32)))
    assert len(differences(one, normalised(1e-5, np.full(4, 1.1, np.float32)))) == 1


def test_the_two_biases_of_a_recurrence_count_as_their_sum() -> None:
    shapes = {"w": (1, 12, 4), "r": (1, 12, 3), "b": (1, 24)}
    tensors = {name: weights(*shape, seed=place) for place, (name, shape) in enumerate(shapes.items())}
    body = "y = LSTM <hidden_size = 3> (x, w, r, b)"
    signature = "(float[5,N,4] x) => (float[5,1,N,3] y)"
    parent = small_model(signature, body, tensors)
    shifted = tensors["b"].copy()
    shifted[0, 2] += 0.5
    assert len(differences(parent, small_model(signature, body, tensors | {"b": shifted}))) == 1
    shifted[0, 14] -= 0.5
    assert not differences(parent, small_model(signature, body, tensors | {"b": shifted}))


def test_a_quantum_of_a_packed_weight() -> None:
    packed = np.random.default_rng(0).integers(-90, 90, (16, 10)).astype(np.int8)
    body = "d = DequantizeLinear(q, s)\n y = MatMul(x, d)"

    def model(q: Any, scale: float) -> ir.Model:
        return small_model(FLAT, body, {"q": q, "s": np.asarray(scale, np.float32)})

    other = packed.copy()
    other[2, 3] += 1
    (found,) = differences(model(packed, 0.01), model(other, 0.01))
    assert (found.weight, found.place) == ("q", (2, 3))
    assert not differences(model((packed // 2).astype(np.int8), 0.5), model((packed // 2 * 2).astype(np.int8), 0.25))


def branching(then: Any) -> ir.Model:
    helper = onnx.helper
    branches = {
        name: helper.make_graph(
            [helper.make_node("MatMul", ["x", f"{name}_w"], [f"{name}_y"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_y", 1, None)],
            [onnx.numpy_helper.from_array(array, f"{name}_w")],
        )
        for name, array in (("then", then), ("else", V[:16]))
    }
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "most"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branches["then"], else_branch=branches["else"]),
    ]
    x, y = (helper.make_tensor_value_info(name, 1, ["N", size]) for name, size in (("x", 16), ("y", 10)))
    graph = helper.make_graph(nodes, "g", [x], [y], [onnx.numpy_helper.from_array(np.float32(1e30), "most")])
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def test_a_branch_that_is_never_taken() -> None:
    parent = branching(V[8:])
    assert verify(parent, branching(V[8:].copy()), provider="cpu", faults=False).equivalent
    certificate = verify(parent, branching(moved(V[8:], (1, 2), 0.01)), provider="cpu", faults=False)
    assert certificate.verdict == "unproven"
    assert certificate.weights[0]["weight"] == "then_w" and "within" in certificate.weights[0]


def test_a_branch_that_is_another_and_never_taken() -> None:
    """Rewritten, not only other numbers: what it computes was compared nowhere."""
    parent, child = branching(V[8:]), branching(V[8:])
    body = next(node for node in child.graph if node.op_type == "If").attributes["then_branch"].as_graph()
    (product,) = body
    end = ir.Node("", "Neg", [product.outputs[0]])
    body.append(end)
    body.outputs[0] = end.outputs[0]
    end.outputs[0].name = "negative"
    certificate = verify(parent, child, provider="cpu", faults=False)
    assert certificate.verdict == "unproven" and "then branch" in certificate.unproven[0]
    assert verify(parent, child, provider="cpu", faults=False, inner=False).equivalent


def test_dead_code_is_nobodys_difference() -> None:
    parent, child = layered(), layered(moved(V, (3, 7), 1))
    for model in (parent, child):
        end = next(node for node in model.graph if node.outputs[0].name == "y")
        end.replace_input_with(1, model.graph.initializers["w"])
        end.replace_input_with(0, model.graph.inputs[0])
    assert not differences(parent, child)


def test_behind_what_was_morphed_too() -> None:
    """A layer becomes two; the weight behind them, which no input reaches, is another."""
    body = "h0 = MatMul(x, w)\n h = MatMul(h0, one)\n b = Add(h, bias)\n r = Relu(b)\n y = MatMul(r, v)"
    tensors = {"w": W, "one": np.eye(24, dtype=np.float32), "bias": DEAD}
    assert verify(layered(), small_model(FLAT, body, tensors | {"v": V}), provider="cpu", faults=False).equivalent
    wrong = small_model(FLAT, body, tensors | {"v": moved(V, (3, 7), 0.01)})
    assert verify(layered(), wrong, provider="cpu", faults=False).verdict == "unproven"


def test_integers_in_another_order_are_compared() -> None:
    """Only the shape of what is put together is used, so no output tells."""

    def model(operands: str) -> ir.Model:
        body = (
            "s = Shape(x)\n a = Gather(s, zero)\n b = Gather(s, one)\n"
            f"c = Concat <axis = 0> ({operands})\n n = Shape(c)\n f = Cast <to = 1> (n)\n y = Mul(x, f)"
        )
        tensors = {"zero": np.asarray([0], np.int64), "one": np.asarray([1], np.int64)}
        return small_model("(float[N,16] x) => (float[N,16] y)", body, tensors)

    assert verify(model("a, b"), model("a, b"), provider="cpu", faults=False).equivalent
    certificate = verify(model("a, b"), model("b, a"), provider="cpu", faults=False)
    assert certificate.verdict == "not equivalent" and "inner value 'c'" in certificate.failures[0]


def test_inputs_that_wake_what_sleeps() -> None:
    """Only numbers far from the usual ones lift this unit over zero."""
    bias = np.where(np.arange(24) == 3, -60, 0).astype(np.float32)
    child = layered(moved(V, (3, 7), 0.3), bias=bias)
    certificate = verify(layered(bias=bias), child, provider="cpu", faults=False)
    assert certificate.verdict == "not equivalent" and certificate.weights[0]["shown"]
    assert certificate.inputs > 10


def folded(w: Any, scale: Any) -> tuple[ir.Model, ir.Model]:
    """A layer with its normalisation, and the one that a tool makes of both, which keeps the layer's name."""
    names = ("s", "b", "m", "v")
    tensors = {"w": w, "u": weights(3, 8, 1, 1, seed=3)} | {name: weights(8, seed=i) for i, name in enumerate(names)}
    tensors |= {"v": np.abs(tensors["v"]) + 1, "s": scale}
    signature = "(float[N,4,6,6] x) => (float[N,3,6,6] y)"
    body = "h = Conv(x, w)\n n = BatchNormalization(h, s, b, m, v)\n y = Conv(n, u)"
    parent = small_model(signature, body, tensors)
    factor = tensors["s"] / np.sqrt(tensors["v"] + np.float32(1e-5))
    new = {"w": w * factor[:, None, None, None], "c": tensors["b"] - tensors["m"] * factor, "u": tensors["u"]}
    new["z"] = np.zeros(3, np.float32)
    return parent, small_model(signature, "h = Conv(x, w, c)\n y = Conv(h, u, z)", new)


@pytest.mark.parametrize("inner", [True, "all"])
def test_a_name_that_went_to_the_value_behind_a_folded_normalisation(inner: Any) -> None:
    w = weights(8, 4, 1, 1)
    parent, child = folded(w, weights(8))
    certificate = verify(parent, child, provider="cpu", faults=False, inner=inner)
    assert certificate.equivalent, certificate.reasons
    assert ("n", "h") in [(leaf.name, leaf.child_name) for leaf in certificate.inner]
    wrong = verify(parent, folded(moved(w, (3, 2, 0, 0), 0.01), weights(8))[1], provider="cpu", faults=False)
    assert wrong.verdict == "not equivalent"


def test_axes_in_another_order_are_compared_though_shapes_differ() -> None:
    def model(order: str) -> ir.Model:
        body = f"t = Transpose <perm = {order}> (x)\n s = Size(t)\n f = Cast <to = 1> (s)\n y = Mul(x, f)"
        return small_model("(float[N,3,4] x) => (float[N,3,4] y)", body)

    assert verify(model("[1, 0, 2]"), model("[1, 0, 2]"), provider="cpu", faults=False).equivalent
    assert not verify(model("[1, 0, 2]"), model("[1, 2, 0]"), provider="cpu", faults=False).equivalent


def test_what_both_multiply_by_zeros_may_be_anything() -> None:
    """A residual branch that begins silent: what its weights are bears on nothing."""

    def model(seed: int, last: float) -> ir.Model:
        body = f"b{seed} = MatMul(x, m)\n r{seed} = Relu(b{seed})\n s{seed} = MatMul(r{seed}, z)\n y = Add(x, s{seed})"
        tensors = {"m": weights(16, 8, seed=seed), "z": np.full((8, 16), last, np.float32)}
        return small_model("(float[N,16] x) => (float[N,16] y)", body, tensors)

    assert verify(model(0, 0.0), model(1, 0.0), provider="cpu", faults=False).equivalent
    assert not verify(model(0, 0.1), model(1, 0.1), provider="cpu", faults=False).equivalent
