"""The frontier: values of one name that are defined otherwise, and nothing else."""

from __future__ import annotations

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.model import clone
from onnxmorph.verify.changes import changes
from tests.verify.graphs import replaced, small_model, weights

SIGNATURE = "(float[N,8] x) => (float[N,8] y)"
BODY = "a = MatMul(x, w1)\n b = Relu(a)\n c = MatMul(b, w2)\n d = Relu(c)\n y = MatMul(d, w3)"


def chain() -> ir.Model:
    return small_model(SIGNATURE, BODY, {f"w{i}": weights(8, 8, seed=i) for i in (1, 2, 3)})


def test_nothing_differs_between_a_model_and_its_copy() -> None:
    for child in (clone(chain()), chain()):
        found = changes(chain(), child)
        assert (found.frontier, found.tensors, found.region) == ([], [], set())


def test_a_changed_weight_puts_only_its_own_output_on_the_frontier() -> None:
    found = changes(chain(), replaced(chain(), "w2", weights(8, 8, seed=9)))
    assert found.frontier == ["c"]
    assert [value.name for value in found.tensors] == ["w2"]
    assert found.region == {"w2"}


def test_a_renamed_weight_of_the_same_content_is_no_change() -> None:
    tensors = {"v1": weights(8, 8, seed=1), "w2": weights(8, 8, seed=2), "w3": weights(8, 8, seed=3)}
    assert changes(chain(), small_model(SIGNATURE, BODY.replace("w1", "v1"), tensors)).frontier == []


def test_a_constant_behind_a_transpose_and_in_a_node() -> None:
    body = "k = Constant<value=float[2,2]{1,2,3,4}>()\n t = Transpose(k)\n h = MatMul(x, t)\n y = Relu(h)"
    parent = small_model("(float[N,2] x) => (float[N,2] y)", body)
    child = small_model("(float[N,2] x) => (float[N,2] y)", body.replace("4}", "5}"))
    found = changes(parent, child)
    assert found.frontier == ["h"]
    assert found.region == {"k"}


def test_rewiring_names_the_weights_next_upstream() -> None:
    body = BODY.replace("d = Relu(c)", "d = LeakyRelu<alpha=0.0>(c)")
    found = changes(chain(), small_model(SIGNATURE, body, {f"w{i}": weights(8, 8, seed=i) for i in (1, 2, 3)}))
    assert found.frontier == ["d"]
    assert found.region == {"w2"}
    assert not found.at_inputs


def test_a_change_at_the_input_moves_the_input() -> None:
    one = small_model(SIGNATURE, "a = Relu(x)\n y = Neg(a)")
    other = small_model(SIGNATURE, "a = LeakyRelu<alpha=0.0>(x)\n y = Neg(a)")
    assert changes(one, other).at_inputs


def test_a_change_inside_a_branch_is_seen() -> None:
    def branching(rate: float) -> ir.Model:
        body = f"""s = ReduceSum<keepdims=0>(x)
            z = Constant<value_float=0.0>()
            c = Greater(s, z)
            h = If(c) <then_branch = t () => (float[N,8] u) {{ u = Relu(x) }},
                       else_branch = e () => (float[N,8] v) {{ v = LeakyRelu<alpha={rate}>(x) }}>
            y = Neg(h)"""
        return small_model(SIGNATURE, body)

    assert changes(branching(0.1), branching(0.1)).frontier == []
    assert changes(branching(0.1), branching(0.2)).frontier == ["h"]


def test_rows_that_changed() -> None:
    table = weights(100, 4)
    model = small_model("(int64[N] i) => (float[N,4] y)", "y = Gather(t, i)", {"t": table})
    other = table.copy()
    other[[3, 60]] += 1
    assert changes(model, replaced(model, "t", other)).rows["t"].tolist() == [3, 60]


def test_a_long_chain_of_constants_does_not_exhaust_the_stack() -> None:
    lines = ["k0 = Identity(w)", *(f"k{i} = Identity(k{i - 1})" for i in range(1, 3000)), "y = MatMul(x, k2999)"]
    model = small_model(SIGNATURE, "\n".join(lines), {"w": weights(8, 8)})
    other = small_model(SIGNATURE, "\n".join(lines), {"w": np.array(weights(8, 8, seed=4))})
    assert changes(model, model).frontier == []
    assert changes(model, other).region == {"w"}


def test_behind_quantized_numbers_the_first_that_can_be_measured_is_compared() -> None:
    body = """
        q, s, z = DynamicQuantizeLinear(x)
        i = MatMulInteger(q, w, z)
        f = Cast<to=1>(i)
        h = Mul(f, s)
        y = Relu(h)"""
    packed = np.arange(-16, 16, dtype=np.int8).reshape(8, 4)
    parent = small_model("(float[N,8] x) => (float[N,4] y)", body, {"w": packed})
    other = packed.copy()
    other[3, 2] += 1
    found = changes(parent, replaced(parent, "w", other))
    assert found.frontier == ["i", "f"]
    assert found.region == {"w"}
    assert not found.at_inputs


def test_behind_a_quantized_table_the_unpacked_rows_are_compared() -> None:
    body = """
        q = Gather(table, i)
        f = DequantizeLinear(q, s, z)
        y = Relu(f)"""
    table = np.arange(24, dtype=np.uint8).reshape(6, 4)
    tensors = {"table": table, "s": np.asarray(0.1, np.float32), "z": np.asarray(8, np.uint8)}
    parent = small_model("(int64[N] i) => (float[N,4] y)", body, tensors)
    other = table.copy()
    other[3, 2] += 1
    assert changes(parent, replaced(parent, "table", other)).frontier == ["q", "f"]
