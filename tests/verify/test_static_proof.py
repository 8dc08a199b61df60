"""Proof by algebra: true rewrites leave rounding, wrong ones do not, and what cannot be followed is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmorph._ir import ir
from onnxmorph.verify import verify
from onnxmorph.verify.changes import changes
from onnxmorph.verify.locate import common_values
from onnxmorph.verify.static_proof import prove
from tests.verify.graphs import small_model, weights

FLAT = "(float[N,8] x) => (float[N,5] y)"
IMAGE = "(float[N,3,H,W] x) => (float[N,5,A,B] y)"
UNIT = 2.0**-24


def proof(
    parent: ir.Model, child: ir.Model, resized: tuple[str, ...] = (), **shapes: tuple[int, ...]
) -> dict[str, Any]:
    found = changes(parent, child)
    values = [name for name in [*found.frontier, *found.outputs] if name not in resized]
    trusted = set(common_values(parent, child)) - set(resized)
    spatial = {"y": (2, 5, 9, 9), "x": (2, 3, 9, 9)} if "H" in str(parent.graph.inputs[0].shape) else {}
    known = {"x": (2, 8), "y": (2, 5), **spatial, **shapes}
    return prove(parent, child, values, trusted, known, unit=UNIT)


def follows(found: dict[str, Any]) -> bool:
    if any("two spellings" in entry.get("reason", "") for entry in found["values"]):
        return False
    assert found["proved"] == found["of"] > 0, found
    return bool(found["residual"] <= 2 * found["rounding_bound"])


def mirrored(activation: str, seed: int) -> tuple[ir.Model, ir.Model, dict[str, np.ndarray]]:
    """A layer, and the two it becomes with mirrored channels behind an activation with ``f(x) - f(-x) = x``."""
    w, z = weights(8, 5, seed=seed), weights(20, 5, seed=seed + 1).astype(np.float64)
    random = weights(8, 20, seed=seed + 2).astype(np.float64)
    first = random + (w - random @ z) @ np.linalg.pinv(z)
    tensors = {
        "f": np.concatenate([first, -first], 1).astype(np.float32),
        "g": np.concatenate([z, -z]).astype(np.float32),
    }
    parent = small_model(FLAT, "y = MatMul(x, w)", {"w": w}, opset=20)
    return parent, small_model(FLAT, f"h = MatMul(x, f)\n {activation}\n y = MatMul(a, g)", tensors, opset=20), tensors


ACTIVATIONS = {
    "relu": "a = Relu(h)",
    "silu": "s = Sigmoid(h)\n a = Mul(h, s)",
    "silu the other way round": "s = Sigmoid(h)\n a = Mul(s, h)",
    "gelu": "k = Constant<value_float=1.4142135>()\n q = Div(h, k)\n e = Erf(q)\n o = Constant<value_float=1.0>()\n"
    "p = Add(e, o)\n m = Mul(h, p)\n c = Constant<value_float=0.5>()\n a = Mul(m, c)",
    "hard swish": "a = HardSwish(h)",
    "hard swish in pieces": "s = HardSigmoid<alpha=0.16666667, beta=0.5>(h)\n a = Mul(h, s)",
    "gelu as one": "a = Gelu(h)",
}


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_mirrored_layers_are_the_layer(name: str) -> None:
    parent, child, tensors = mirrored(ACTIVATIONS[name], 3)
    assert follows(proof(parent, child))
    wrong = tensors["f"].copy()
    wrong[2, 7] += 0.01 * wrong.std()
    bad = small_model(
        FLAT, f"h = MatMul(x, f)\n {ACTIVATIONS[name]}\n y = MatMul(a, g)", tensors | {"f": wrong}, opset=20
    )
    assert not follows(proof(parent, bad))


def test_an_activation_without_the_identity_does_not_mirror() -> None:
    parent, child, _ = mirrored("a = Elu(h)", 3)
    assert not follows(proof(parent, child))


def conv_pair(move: int, seed: int) -> tuple[ir.Model, ir.Model]:
    """A 3x3 layer, and two of 3x3 in a row that compose to it with zeros around, off by ``move``."""
    w = weights(5, 3, 3, 3, seed=seed)
    mix = np.linalg.qr(np.random.default_rng(seed).standard_normal((5, 5)))[0]
    second = np.zeros((5, 5, 3, 3), np.float32)
    second[:, :, 1, 1 + move] = mix.T
    first = np.einsum("ij,jkab->ikab", mix, w).astype(np.float32)
    b = weights(5, seed=seed + 1)
    parent = small_model(IMAGE, "y = Conv<pads=[1,1,1,1]>(x, w, b)", {"w": w, "b": b})
    body = "h = Conv<pads=[2,2,2,2]>(x, f)\n y = Conv(h, s, b)"
    return parent, small_model(IMAGE, body, {"f": first, "s": second, "b": b})


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_convolutions_compose_where_they_lie(seed: int) -> None:
    assert follows(proof(*conv_pair(0, seed)))
    assert not follows(proof(*conv_pair(1, seed)))


@settings(max_examples=15, deadline=None)
@given(stride=st.integers(1, 3), dilation=st.integers(1, 2), groups=st.sampled_from([1, 2]), seed=st.integers(0, 99))
def test_strides_dilations_and_groups(stride: int, dilation: int, groups: int, seed: int) -> None:
    signature = "(float[N,4,H,W] x) => (float[N,6,A,B] y)"
    w = weights(6, 4 // groups, 3, 3, seed=seed)
    wide = np.zeros((6, 4 // groups, 5, 5), np.float32)
    wide[:, :, 1:4, 1:4] = w
    options = f"strides=[{stride},{stride}], dilations=[{dilation},{dilation}], group={groups}"
    parent = small_model(signature, f"y = Conv<{options}, pads=[1,1,1,1]>(x, w)", {"w": w})
    shapes = {"x": (1, 4, 9, 9), "y": (1, 6, 9, 9)}
    pad = 1 + dilation
    grown = f"y = Conv<{options}, pads=[{pad},{pad},{pad},{pad}]>(x, w)"
    assert follows(proof(parent, small_model(signature, grown, {"w": wide}), **shapes))
    off = f"y = Conv<{options}, pads=[{pad - 1},{pad},{pad + 1},{pad}]>(x, w)"
    assert not follows(proof(parent, small_model(signature, off, {"w": wide}), **shapes))


def two_layers(w: np.ndarray, v: np.ndarray, activation: str = "r = Relu(h)") -> ir.Model:
    return small_model(FLAT, f"h = MatMul(x, w)\n {activation}\n y = MatMul(r, v)", {"w": w, "v": v})


@pytest.mark.parametrize("activation", ["r = Relu(h)", "r = Tanh(h)", "r = LeakyRelu<alpha=0.2>(h)", "r = Elu(h)"])
def test_channels_copied_halved_permuted_and_silent(activation: str) -> None:
    w, v = weights(8, 6), weights(6, 5, seed=1)
    parent = two_layers(w, v, activation)
    order = np.random.default_rng(0).permutation(6)
    copied = two_layers(np.concatenate([w, w[:, :2]], 1), np.concatenate([v, v[:2] / 2]), activation)
    copied.graph.initializers["v"].const_value = ir.Tensor(
        np.concatenate([np.concatenate([v[:2] / 2, v[2:]]), v[:2] / 2]), name="v"
    )
    silent_out = two_layers(np.concatenate([w, weights(8, 3, seed=7)], 1), np.concatenate([v, np.zeros((3, 5), np.float32)]), activation)  # fmt: skip  # noqa: E501
    silent_in = two_layers(np.concatenate([w, np.zeros((8, 3), np.float32)], 1), np.concatenate([v, weights(3, 5, seed=8)]), activation)  # fmt: skip  # noqa: E501
    permuted = two_layers(w[:, order], v[order], activation)
    for child in (copied, silent_out, silent_in, permuted):
        assert follows(proof(parent, child, ("h", "r"))), child
    off = v[order]
    off[3, 3] += 0.01 * v.std()
    wrong = two_layers(w[:, order], off, activation)
    assert not follows(proof(parent, wrong, ("h", "r")))


def test_identity_residual_parametric_and_paths() -> None:
    w, v = weights(8, 6), weights(6, 5, seed=1)
    parent = two_layers(w, v)
    part = weights(8, 6, seed=4)
    tensors = {
        "w": w, "v": v, "eye": np.eye(6, dtype=np.float32), "zero": np.zeros((6, 6), np.float32), "m": weights(6, 6),
        "p": part, "q": w - part, "none": np.zeros(1, np.float32), "one": np.ones(6, np.float32),
    }  # fmt: skip
    bodies = [
        "h = MatMul(x, w)\n r0 = Relu(h)\n h2 = MatMul(r0, eye)\n r = Relu(h2)\n y = MatMul(r, v)",
        "h = MatMul(x, w)\n r0 = Relu(h)\n k = MatMul(r0, m)\n l = Relu(k)\n n = MatMul(l, zero)\n r = Add(r0, n)\n y = MatMul(r, v)",  # noqa: E501
        "h0 = MatMul(x, w)\n k = PRelu(h0, one)\n h = MatMul(k, eye)\n r = Relu(h)\n y = MatMul(r, v)",
        "h = MatMul(x, w)\n r = PRelu(h, none)\n y = MatMul(r, v)",
        "h1 = MatMul(x, p)\n h2 = MatMul(x, q)\n h = Add(h1, h2)\n r = Relu(h)\n y = MatMul(r, v)",
    ]
    for body in bodies:
        assert follows(proof(parent, small_model(FLAT, body, tensors), h=(2, 6), r=(2, 6))), body
    bent = small_model(FLAT, bodies[3], tensors | {"none": np.full(1, 1e-3, np.float32)})
    assert not follows(proof(parent, bent, h=(2, 6), r=(2, 6)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("y = Gelu(h)", 'y = Gelu<approximate="none">(h)'),
        ("y = Gelu(h)", ACTIVATIONS["gelu"].replace("a = ", "y = ")),
        ("y = HardSwish(h)", ACTIVATIONS["hard swish in pieces"].replace("a = ", "y = ")),
        ("y = Elu(h)", "y = Elu<alpha=1.0>(h)"),
        ("y = LeakyRelu(h)", "y = LeakyRelu<alpha=0.01>(h)"),
    ],
)
def test_one_function_in_two_spellings(one: str, other: str) -> None:
    w = weights(8, 5)
    models = [small_model(FLAT, f"h = MatMul(x, w)\n {body}", {"w": w}, opset=20) for body in (one, other)]
    assert follows(proof(*models, h=(2, 5)))


def test_spellings_that_are_not_known_to_be_one_are_not_called_wrong() -> None:
    w = weights(8, 5)
    body = "h = MatMul(x, w)\n y = {}"
    relu = small_model(FLAT, body.format("Relu(h)"), {"w": w})
    clip = small_model(FLAT, body.format("Clip(h, zero)"), {"w": w, "zero": np.zeros((), np.float32)})
    found = proof(relu, clip, h=(2, 5))
    assert found["proved"] == 0 and "two spellings" in found["values"][0]["reason"]


def test_what_has_no_algebra_is_named() -> None:
    parent = small_model(FLAT, "h = MatMul(x, w)\n s = Softmax(h)\n y = MatMul(s, v)", {"w": weights(8, 6), "v": weights(6, 5)})  # fmt: skip  # noqa: E501
    child = small_model(FLAT, "k = MatMul(x, w)\n s2 = Softmax(k)\n y = MatMul(s2, v)", {"w": weights(8, 6), "v": weights(6, 5)})  # fmt: skip  # noqa: E501
    found = proof(parent, child)
    assert found["proved"] == 0 and found["values"] == [{"value": "y", "reason": "operator Softmax"}]


def test_a_proof_and_its_rounding_are_in_the_certificate() -> None:
    parent, child, _ = mirrored("a = Relu(h)", 5)
    certificate = verify(parent, child, provider="cpu")
    static = certificate.to_json()["static"]
    assert static["proved"] == 1 and 0 < static["residual"] <= static["rounding_bound"] < 1e-4
    assert "by algebra 1 of 1" in certificate.describe()
    assert verify(parent, parent, provider="cpu").static is None


def test_a_fault_that_no_input_reaches_is_still_seen_by_algebra() -> None:
    """A dead unit hides its weights from every run."""
    w, v = weights(8, 6), weights(6, 5, seed=1)
    bias = np.zeros(6, np.float32)
    bias[2] = -1e6
    body = "h0 = MatMul(x, w)\n h{} = Add(h0, b)\n r{} = Relu(h{})\n y = MatMul(r{}, v)"
    parent = small_model(FLAT, body.format("", "", "", ""), {"w": w, "v": v, "b": bias})
    wrong = v.copy()
    wrong[2, 3] += 0.5
    child = small_model(FLAT, body.format(2, 2, 2, 2).replace("h0", "k0"), {"w": w, "v": wrong, "b": bias})
    certificate = verify(parent, child, provider="cpu")
    assert certificate.verdict == "unproven"
    assert any("compose to something else" in reason for reason in certificate.unproven)


def test_an_order_that_makes_no_difference_is_no_reason_to_doubt() -> None:
    """The largest of rectified numbers is the rectified largest; the algebra does not know, and says only that."""
    tensors = {"w": weights(5, 3, 3, 3)}
    pool = "MaxPool <kernel_shape = [2, 2]>"
    parent = small_model(IMAGE, f"c = Conv(x, w)\n r = Relu(c)\n y = {pool}(r)", tensors)
    child = small_model(IMAGE, f"c = Conv(x, w)\n p = {pool}(c)\n y = Relu(p)", tensors)
    certificate = verify(parent, child, provider="cpu", faults=False)
    assert certificate.equivalent, certificate.reasons


def test_a_value_computed_twice_may_be_computed_once() -> None:
    """What another tool merged goes by another name."""
    w, v = weights(8, 6), weights(6, 5, seed=1)
    tail = "a = MatMul(r, v)\n b = MatMul({}, u)\n y = Add(a, b)"
    tensors = {"w": w, "v": v, "u": weights(6, 5, seed=2)}
    body = "h = MatMul(x, w)\n r = Relu(h)\n "
    parent = small_model(FLAT, f"{body}k = MatMul(x, w2)\n s = Relu(k)\n {tail.format('s')}", tensors | {"w2": w})
    certificate = verify(parent, small_model(FLAT, body + tail.format("r"), tensors), provider="cpu", faults=False)
    assert certificate.equivalent and not any("compose" in text for text in certificate.warnings)


def test_a_slope_that_is_another_is_another_function() -> None:
    w, f = weights(8, 5), weights(8, 8, seed=1)
    g = np.linalg.solve(f.astype(np.float64), w).astype(np.float32)
    parent = small_model(FLAT, "y = MatMul(x, w)", {"w": w})
    for slope in (1.0, 1.02):
        slopes = np.where(np.arange(8) == 3, slope, 1).astype(np.float32)
        body = "h = MatMul(x, f)\n a = PRelu(h, s)\n y = MatMul(a, g)"
        found = proof(parent, small_model(FLAT, body, {"f": f, "g": g, "s": slopes}))
        (entry,) = found["values"]
        assert (entry["residual"] > 16 * entry["rounding_bound"]) == (slope != 1)


def test_small_rows_beside_large_ones_are_more_than_rounding() -> None:
    """A tiny layer kept by a slope of one, with plain new channels beside it that nothing reads."""
    w = weights(8, 5) * np.float32(1e-24)
    tensors = {
        "f": np.concatenate([w, weights(8, 5, seed=1)], 1),
        "slope": np.repeat(np.float32([1, 0]), 5),
        "g": np.concatenate([np.eye(5), np.zeros((5, 5))]).astype(np.float32),
    }
    child = small_model(FLAT, "h = MatMul(x, f)\n a = PRelu(h, slope)\n y = MatMul(a, g)", tensors)
    assert follows(proof(small_model(FLAT, "y = MatMul(x, w)", {"w": w}), child))
