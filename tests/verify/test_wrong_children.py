"""Children that are wrong, each the smallest of its kind: every one must be called so."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmorph._ir import ir
from onnxmorph.errors import NotEquivalent
from onnxmorph.verify import Certificate, verify
from tests.verify.graphs import replaced, small_model, weights

IMAGE = "(float[N,3,H,W] x) => (float[N,A,B,C] y)"


def judge(parent: ir.Model, child: ir.Model, **options: object) -> Certificate:
    return verify(parent, child, provider="cpu", **options)  # type: ignore[arg-type]


def conv(w: np.ndarray, body: str = "y = Conv<pads=[1,1,1,1]>(x, w, b)", b: np.ndarray | None = None) -> ir.Model:
    bias = b if b is not None else weights(w.shape[0], seed=9)
    return small_model(IMAGE, body, {"w": w, "b": bias})


def test_prelu_in_the_place_of_relu() -> None:
    relu = small_model("(float[N,8] x) => (float[N,8] y)", "y = Relu(x)")
    prelu = small_model("(float[N,8] x) => (float[N,8] y)", "y = PRelu(x, a)", {"a": np.full(1, 0.25, np.float32)})
    certificate = judge(relu, prelu)
    assert not certificate.equivalent
    assert "output 'y'" in certificate.failures[0]


def embedding() -> ir.Model:
    body = "e = Gather(table, ids)\n y = MatMul(e, w)"
    tensors = {"table": weights(1000, 16), "w": weights(16, 4, seed=1)}
    return small_model("(int64[N,T] ids) => (float[N,T,4] y)", body, tensors)


def test_embedding_zeroed_for_ids_from_two() -> None:
    parent = embedding()
    table = weights(1000, 16)
    table[2:] = 0
    assert not judge(parent, replaced(parent, "table", table)).equivalent


@pytest.mark.parametrize("row", [0, 417, 999])
def test_a_single_row_of_an_embedding(row: int) -> None:
    parent = embedding()
    table = weights(1000, 16)
    table[row] = 0
    assert not judge(parent, replaced(parent, "table", table)).equivalent


def test_kernel_grown_off_centre() -> None:
    w = weights(4, 3, 3, 3)
    right, wrong = np.zeros((2, 4, 3, 5, 5), np.float32)
    right[:, :, 1:4, 1:4] = w
    wrong[:, :, 0:3, 1:4] = w
    body = "y = Conv<pads=[2,2,2,2]>(x, w, b)"
    assert judge(conv(w), conv(right, body)).equivalent
    assert not judge(conv(w), conv(wrong, body)).equivalent


def test_renamed_outputs_are_not_paired_by_position() -> None:
    y = small_model("(float[N,4] x) => (float[N,4] y)", "y = Relu(x)")
    z = small_model("(float[N,4] x) => (float[N,4] z)", "z = Relu(x)")
    certificate = judge(y, z)
    assert not certificate.equivalent
    assert any("'y'" in failure and "missing" in failure for failure in certificate.failures)
    assert certificate.inputs == 0


def test_swapped_outputs() -> None:
    one = small_model("(float[N,4] x) => (float[N,4] y, float[N,4] z)", "y = Relu(x)\n z = Neg(x)")
    other = small_model("(float[N,4] x) => (float[N,4] z, float[N,4] y)", "y = Relu(x)\n z = Neg(x)")
    assert "another order" in judge(one, other).failures[0]


@pytest.mark.parametrize("size", [0.01, 0.02, 0.05])
def test_one_weight_moved(size: float) -> None:
    body = "h = Conv<pads=[1,1,1,1]>(x, w, b)\n r = Relu(h)\n p = GlobalAveragePool(r)\n y = Flatten(p)"
    w = weights(32, 3, 3, 3)
    parent = small_model("(float[N,3,H,W] x) => (float[N,32] y)", body, {"w": w, "b": weights(32, seed=2)})
    moved = w.copy()
    moved[17, 2, 1, 1] += size * w.std()
    certificate = judge(parent, replaced(parent, "w", moved))
    assert not certificate.equivalent
    assert "inner value 'h'" in certificate.failures[0]


def test_a_fault_that_a_dead_head_hides_from_the_output() -> None:
    body = "h = MatMul(x, w)\n r = Relu(h)\n y = MatMul(r, zero)"
    tensors = {"w": weights(16, 16), "zero": np.zeros((16, 4), np.float32)}
    parent = small_model("(float[N,16] x) => (float[N,4] y)", body, tensors)
    moved = tensors["w"].copy()
    moved[3, 3] += 0.02 * moved.std()
    certificate = judge(parent, replaced(parent, "w", moved))
    assert not certificate.equivalent
    assert certificate.outputs[0].status == "equal"


def test_bias_dropped() -> None:
    w = weights(8, 3, 3, 3)
    assert not judge(conv(w), conv(w, b=np.zeros(8, np.float32))).equivalent


def test_channels_swapped() -> None:
    w = weights(8, 3, 3, 3)
    assert not judge(conv(w), conv(w[[1, 0, *range(2, 8)]])).equivalent


def test_pad_off_by_one() -> None:
    w = weights(4, 3, 3, 3)
    certificate = judge(conv(w), conv(w, "y = Conv<pads=[0,1,2,1]>(x, w, b)"))
    assert not certificate.equivalent


def test_stride_changes_the_shape() -> None:
    w = weights(4, 3, 3, 3)
    certificate = judge(conv(w), conv(w, "y = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w, b)"))
    assert "shape" in certificate.failures[0]


def test_a_small_channel_under_large_ones() -> None:
    w = weights(8, 16, scale=100.0)
    w[5] *= 1e-2
    wrong = w.copy()
    wrong[5] *= 1.01
    signature, body = "(float[N,16] x) => (float[N,8] y)", "y = Gemm<transB=1>(x, w)"
    parent = small_model(signature, body, {"w": w})
    certificate = judge(parent, replaced(parent, "w", wrong))
    assert not certificate.equivalent
    assert certificate.outputs[0].channel == (1, 5)


def test_declared_dimension_fixed_in_the_child() -> None:
    free = small_model("(float[N,4] x) => (float[N,4] y)", "y = Relu(x)")
    fixed = small_model("(float[1,4] x) => (float[1,4] y)", "y = Relu(x)")
    assert not judge(free, fixed).equivalent


def test_a_child_that_does_not_run_where_the_parent_does() -> None:
    w = weights(4, 3, 3, 3)
    fixed_size = "s = Constant<value_ints=[1,4,40,40]>()\n c = Conv<pads=[1,1,1,1]>(x, w, b)\n y = Reshape(c, s)"
    certificate = judge(conv(w), conv(w, fixed_size))
    assert not certificate.equivalent
    assert "does not" in certificate.failures[0]


def test_a_child_that_cannot_be_loaded() -> None:
    parent = small_model("(float[N,4] x) => (float[N,4] y)", "y = Relu(x)")
    child = small_model("(float[N,4] x) => (float[N,4] y)", "y = com.example.Mystery(x)", more=', "com.example" : 1')
    certificate = judge(parent, child)
    assert not certificate.equivalent
    assert "the child does not" in certificate.failures[0]


def test_nan_where_the_parent_is_finite() -> None:
    parent = small_model("(float[N,4] x) => (float[N,4] y)", "y = Abs(x)")
    child = small_model("(float[N,4] x) => (float[N,4] y)", "s = Sqrt(x)\n y = Mul(s, s)")
    assert not judge(parent, child).equivalent


def test_integer_outputs_must_be_equal() -> None:
    signature = "(float[N,9] x) => (int64[N,1] y)"
    parent = small_model(signature, "y = ArgMax<axis=1>(x)")
    child = small_model(signature, "y = ArgMax<axis=1, select_last_index=1>(x)")
    wrong = small_model(signature, "y = ArgMin<axis=1>(x)")
    assert judge(parent, child).equivalent  # no ties in signed normal numbers
    assert not judge(parent, wrong).equivalent


def test_branch_of_an_if_is_reached() -> None:
    def branching(rate: float) -> ir.Model:
        body = f"""
            one = Constant<value_int=16000>()
            c = Equal(sr, one)
            y = If(c) <
                then_branch = then () => (float[N,4] t) {{ t = Relu(x) }},
                else_branch = other () => (float[N,4] e) {{ k = Constant<value_float={rate}>() e = Mul(x, k) }}
            >"""
        return small_model("(float[N,4] x, int64 sr) => (float[N,4] y)", body)

    assert judge(branching(2.0), branching(2.0)).equivalent
    assert not judge(branching(2.0), branching(2.1)).equivalent


def test_not_equivalent_carries_the_certificate() -> None:
    certificate = Certificate(False, "CPUExecutionProvider", 1, failures=["output 'y' differs"])
    assert NotEquivalent("no", certificate).certificate is certificate
