"""Children that compute the same, to rounding: none may be called wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmorph._ir import ir
from onnxmorph.errors import RuntimeFailure
from onnxmorph.morphs import plan_deepen
from onnxmorph.verify import Certificate, verify
from tests.verify.graphs import small_model, weights

ZOO = Path(__file__).resolve().parents[2] / "../shared/zoo/models"
FLAT = "(float[N,32] x) => (float[N,10] y)"


def judge(parent: ir.Model, child: ir.Model, **options: object) -> Certificate:
    return verify(parent, child, provider="cpu", **options)  # type: ignore[arg-type]


def two_layers(w: np.ndarray, v: np.ndarray, *, hidden: str = "h", active: str = "r") -> ir.Model:
    body = f"{hidden} = MatMul(x, w)\n {active} = Relu({hidden})\n y = MatMul({active}, v)"
    return small_model(FLAT, body, {"w": w, "v": v})


def test_the_model_itself_has_a_detectable_fault() -> None:
    model = two_layers(weights(32, 64), weights(64, 10, seed=1))
    certificate = judge(model, model)
    assert certificate.equivalent
    assert certificate.detectable_fault == 0.01
    assert certificate.outputs[0].max_abs <= certificate.outputs[0].noise_floor * 2
    assert certificate.inputs >= 5


def test_identity_layer() -> None:
    w, v = weights(32, 64), weights(64, 10, seed=1)
    body = "h = MatMul(x, w)\n r0 = Relu(h)\n h2 = MatMul(r0, eye)\n r = Relu(h2)\n y = MatMul(r, v)"
    child = small_model(FLAT, body, {"w": w, "v": v, "eye": np.eye(64, dtype=np.float32)})
    certificate = judge(two_layers(w, v), child)
    assert certificate.equivalent, certificate.failures
    assert [comparison.name for comparison in certificate.inner] == ["r"]


@pytest.mark.parametrize("seed", range(4))
def test_mirrored_layer(seed: int) -> None:
    w, v = weights(32, 64, seed=seed), weights(64, 10, seed=seed + 1)
    z = weights(100, 64, seed=seed + 2)
    random = weights(32, 100, seed=seed + 3).astype(np.float64)
    first = (random + (w - random @ z) @ np.linalg.pinv(z.astype(np.float64))).astype(np.float32)
    body = "h1 = MatMul(x, f)\n a = Relu(h1)\n h = MatMul(a, g)\n r = Relu(h)\n y = MatMul(r, v)"
    tensors = {"f": np.concatenate([first, -first], 1), "g": np.concatenate([z, -z]), "v": v}
    certificate = judge(two_layers(w, v), small_model(FLAT, body, tensors))
    assert certificate.equivalent, certificate.failures
    assert certificate.detectable_fault is not None


@pytest.mark.parametrize("seed", range(4))
def test_sum_in_another_order(seed: int) -> None:
    w, v = weights(32, 64, seed=seed), weights(64, 10, seed=seed + 1)
    order = np.random.default_rng(seed).permutation(64)
    permuted = two_layers(w[:, order], v[order], hidden="h2", active="r2")
    assert judge(two_layers(w, v), permuted).equivalent


def test_a_name_reused_for_another_value_is_an_error_with_a_way_out() -> None:
    w, v = weights(32, 64), weights(64, 10, seed=1)
    order = np.random.default_rng(0).permutation(64)
    permuted = two_layers(w[:, order], v[order])
    certificate = judge(two_layers(w, v), permuted)
    assert not certificate.equivalent
    assert any("outputs agree" in failure for failure in certificate.failures)
    assert judge(two_layers(w, v), permuted, inner=False).equivalent


def test_weights_split_into_two_paths() -> None:
    w, v = weights(32, 64), weights(64, 10, seed=1)
    part = weights(32, 64, seed=5)
    body = "h1 = MatMul(x, w1)\n h2 = MatMul(x, w2)\n h = Add(h1, h2)\n r = Relu(h)\n y = MatMul(r, v)"
    assert judge(two_layers(w, v), small_model(FLAT, body, {"w1": w - part, "w2": part, "v": v})).equivalent


def test_channel_of_zeros_may_become_rounding() -> None:
    w, v = weights(32, 64), weights(64, 10, seed=1)
    w[:, :5] = 0
    mix, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 64)))
    tensors = {"w1": (w @ mix).astype(np.float32), "w2": mix.T.astype(np.float32), "v": v}
    body = "h1 = MatMul(x, w1)\n h = MatMul(h1, w2)\n r = Relu(h)\n y = MatMul(r, v)"
    assert judge(two_layers(w, v), small_model(FLAT, body, tensors)).equivalent


def test_widened_hidden_layer_keeps_its_names_and_not_its_shapes() -> None:
    w, v = weights(32, 64), weights(64, 10, seed=1)
    wide = np.concatenate([w, weights(32, 8, seed=7)], 1), np.concatenate([v, np.zeros((8, 10), np.float32)])
    certificate = judge(two_layers(w, v), two_layers(*wide))
    assert certificate.equivalent, certificate.failures
    assert certificate.inner == []


def test_float16_pair() -> None:
    def half(w: np.ndarray, v: np.ndarray, hidden: str = "h") -> ir.Model:
        signature = "(float16[N,32] x) => (float16[N,10] y)"
        tensors = {"w": w.astype(np.float16), "v": v.astype(np.float16)}
        body = f"{hidden} = MatMul(x, w)\n {hidden}r = Relu({hidden})\n y = MatMul({hidden}r, v)"
        return small_model(signature, body, tensors)

    w, v = weights(32, 64), weights(64, 10, seed=1)
    order = np.random.default_rng(0).permutation(64)
    assert judge(half(w, v), half(w[:, order], v[order], "p")).equivalent
    assert not judge(half(w, v), half(w, v[order])).equivalent


def test_bfloat16_is_verified_as_float32_and_says_so() -> None:
    def brain(scale: float) -> ir.Model:
        import ml_dtypes

        signature = "(bfloat16[N,32] x) => (bfloat16[N,10] y)"
        return small_model(signature, "y = MatMul(x, w)", {"w": (weights(32, 10) * scale).astype(ml_dtypes.bfloat16)})

    certificate = judge(brain(1.0), brain(1.0))
    assert certificate.equivalent, certificate.failures
    assert certificate.precision == "float32 upcast"
    assert any("float32" in warning for warning in certificate.warnings)
    assert not judge(brain(1.0), brain(1.5)).equivalent


def test_four_bit_weights_are_compared_without_roundings_that_depend_on_what_follows() -> None:
    """With optimisations on, a layer before a PRelu becomes one that rounds its input; before a Relu it does not."""
    signature = "(float[N,6] x) => (float[N,3] y)"
    body = "w = DequantizeLinear<axis=1>(q, s, z)\n h = Gemm(x, w)\n r = {}\n y = Gemm(r, v)"
    rng = np.random.default_rng(0)
    numbers = {"s": weights(8, scale=0.1) ** 2 + 0.1, "v": weights(8, 3, seed=1), "slope": np.zeros(8, np.float32)}

    def quantised(activation: str) -> ir.Model:
        proto = ir.to_proto(small_model(signature, body.format(activation), numbers, opset=21))
        proto.ir_version = 10
        integers = np.random.default_rng(2).integers(-8, 8, 48).tolist()
        proto.graph.initializer.append(onnx.helper.make_tensor("q", onnx.TensorProto.INT4, [6, 8], integers))
        proto.graph.initializer.append(onnx.helper.make_tensor("z", onnx.TensorProto.INT4, [8], [0] * 8))
        return ir.from_proto(proto)

    samples = {"x": (rng.normal(size=(5, 6)) * 30).astype(np.float32)}
    certificate = judge(quantised("Relu(h)"), quantised("PRelu(h, slope)"), inputs=samples)
    assert certificate.equivalent, certificate.failures


def test_random_draws_are_shared() -> None:
    signature = "(float[N,8] x) => (float[N,8] y)"
    body = "n = RandomNormalLike(x)\n s = Add(x, n)\n y = {}"
    parent = small_model(signature, body.format("Relu(s)"))
    child = small_model(signature, body.format("Max(s, zero)"), {"zero": np.zeros((), np.float32)})
    wrong = small_model(signature, body.format("Neg(s)"))
    certificate = judge(parent, child)
    assert certificate.equivalent, certificate.failures
    assert certificate.outputs[0].status in ("equal", "within-noise")
    assert not judge(parent, wrong).equivalent


def test_a_parent_that_never_repeats_itself_is_not_verifiable() -> None:
    model = small_model("(float[N,8] x) => (float[N,8] y)", "y = RandomNormalLike(x)")
    with pytest.raises(RuntimeFailure, match="not verifiable here"):
        judge(model, model)


def test_a_nondeterministic_output_is_left_out_and_named() -> None:
    model = small_model("(float[N,8] x) => (float[N,8] y, float[N,8] n)", "y = Relu(x)\n n = RandomNormalLike(x)")
    certificate = judge(model, model)
    assert certificate.equivalent
    assert any("'n'" in warning and "run to run" in warning for warning in certificate.warnings)


def test_sizes_must_be_multiples_of_thirty_two() -> None:
    body = """
        d1 = Conv<strides=[32,32], kernel_shape=[32,32]>(x, w)
        u = ConvTranspose<strides=[32,32]>(d1, t)
        y = Concat<axis=1>(u, x)"""
    tensors = {"w": weights(4, 3, 32, 32, scale=0.02), "t": weights(4, 2, 32, 32)}
    model = small_model("(float[N,3,H,W] x) => (float[N,5,H,W] y)", body, tensors)
    certificate = judge(model, model)
    assert certificate.equivalent
    assert all(size % 32 == 0 for size in certificate.coverage["sizes"]["H"])
    assert len(certificate.coverage["sizes"]["H"]) >= 2
    assert certificate.coverage["dropped"]


def test_loop_model() -> None:
    body = """
        n = Constant<value_int=3>()
        go = Constant<value_int=1>()
        cond = Cast<to=9>(go)
        y = Loop(n, cond, x) <body = step (int64 i, bool c, float[N,4] state) => (bool again, float[N,4] next) {
            again = Identity(c)
            m = MatMul(state, w)
            next = Tanh(m)
        }>"""
    model = small_model("(float[N,4] x) => (float[N,4] y)", body, {"w": weights(4, 4)})
    certificate = judge(model, model)
    assert certificate.equivalent
    assert certificate.detectable_fault is not None


def test_constant_output_is_called_blind() -> None:
    body = "h = MatMul(x, w)\n y = MatMul(h, zero)"
    tensors = {"w": weights(8, 8), "zero": np.zeros((8, 2), np.float32)}
    model = small_model("(float[N,8] x) => (float[N,2] y)", body, tensors)
    certificate = judge(model, model)
    assert certificate.equivalent
    assert certificate.outputs[0].constant
    assert any("same on every input" in warning for warning in certificate.warnings)


def test_nothing_compared_is_no_verdict() -> None:
    w, v = weights(32, 24), weights(24, 10, seed=1)
    for child in (two_layers(w, v), two_layers(w, 2 * v)):
        with pytest.raises(RuntimeFailure, match="empty on every set"):
            judge(two_layers(w, v), child, shapes={"x": [0, 32]})


def test_model_without_inputs() -> None:
    model = small_model("() => (float[2] y)", "y = Relu(w)", {"w": weights(2)})
    assert judge(model, model).equivalent


def test_sequence_outputs() -> None:
    body = "a = Relu(x)\n b = Neg(x)\n y = SequenceConstruct(a, b)"
    wrong = "a = Relu(x)\n b = Neg(x)\n y = SequenceConstruct(b, a)"
    signature = "(float[N,4] x) => (seq(float[N,4]) y)"
    parent = small_model(signature, body)
    assert judge(parent, parent).equivalent
    certificate = judge(parent, small_model(signature, wrong))
    assert [comparison.name for comparison in certificate.outputs if comparison.status == "differs"] == ["y[0]", "y[1]"]


def test_explicit_frontier_pairs_values_of_other_names() -> None:
    w, v = weights(32, 64), weights(64, 10, seed=1)
    body = "q = MatMul(x, w)\n r = Relu(q)\n y = MatMul(r, v)"
    certificate = judge(two_layers(w, v), small_model(FLAT, body, {"w": w, "v": v}), frontier=[("h", "q")])
    assert certificate.equivalent
    assert ("h", "q") in [(comparison.name, comparison.child_name) for comparison in certificate.inner]


def test_same_seed_same_certificate() -> None:
    model = two_layers(weights(32, 64), weights(64, 10, seed=1))
    documents = [judge(model, model, seed=5).to_json() for _ in range(2)]
    for document in documents:
        del document["seconds"]
    assert documents[0] == documents[1]


@pytest.mark.skipif(not ZOO.is_dir(), reason="the shared zoo is not here")
@pytest.mark.parametrize(
    "name", ["resnet20_cifar.legacy", "unet.legacy.qdq8", "bert_tiny.legacy.dyn8", "crnn_lstm.dynamo"]
)
def test_zoo_model_equals_itself(name: str) -> None:
    path = ZOO / f"{name}.onnx"
    assert verify(path, path, provider="cpu", time_budget=5).equivalent


def test_a_layer_of_whole_weights_between_equal_values_is_held_to_the_rounding_of_what_replaces_it() -> None:
    # Minimum and maximum of pairs by sums and differences: the values of a pair are equal, and their difference moves
    # by nothing at all as long as the ones of the layer are not rounded either.
    u = np.repeat(weights(32, 8, scale=3), 2, axis=1)
    signs = np.kron(np.eye(8), [[1, -1, -1, 1], [1, -1, 1, -1]]).astype(np.float32)
    body = "c = MatMul(x, u)\n h = MatMul(c, signs)\n r = Relu(h)\n y = MatMul(r, v)"
    model = small_model(FLAT, body, {"u": u, "signs": signs, "v": weights(32, 10)})
    child = plan_deepen(model, "signs").apply(model).model
    certificate = judge(model, child)
    assert certificate.equivalent, certificate.failures
