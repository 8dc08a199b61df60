"""Variations of a model in its open session: the same numbers as a session of its own would give."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmorph._ir import ir
from onnxmorph.errors import RuntimeFailure
from onnxmorph.verify import runtime, verify
from onnxmorph.verify.noise import moved_tensors, with_tensors
from onnxmorph.verify.runner import Stage
from onnxmorph.verify.runtime import open_session, prepare
from tests.verify.graphs import replaced, small_model, weights

CPU = "CPUExecutionProvider"
BODY = """
    h = Conv<pads=[1,1,1,1]>(x, w, b)
    n = BatchNormalization(h, s, t, m, v)
    r = Relu(n)
    k = Constant<value_floats=[0.5, -0.25]>()
    p = GlobalAveragePool(r)
    f = Flatten(p)
    z = Mul(f, k)
    y = Gemm(z, g, c)"""
MODEL = small_model(
    "(float[N,3,H,W] x) => (float[N,4] y)",
    BODY,
    {
        "w": weights(2, 3, 3, 3),
        **{name: weights(2, seed=seed) for seed, name in enumerate("bstm")},
        "v": np.abs(weights(2, seed=9)) + 1,
        "g": weights(2, 4),
        "c": weights(4),
    },
)
FEEDS = {"x": weights(2, 3, 8, 8, seed=5)}


def test_exchanged_weights_give_what_a_session_of_their_own_gives_and_are_put_back() -> None:
    stage = Stage(CPU, ["y"], {"h": "h", "n": "n"})
    running = stage.open(MODEL)
    assert set(running.exchangeable) == set("wbstmvgc")
    before = running.values(FEEDS)
    moved = {value: ir.Tensor(np.asarray(tensor.numpy()) * np.float32(1.5), name=tensor.name)
             for value, tensor in moved_tensors(MODEL, np.random.default_rng(0)).items()}  # fmt: skip
    fresh = stage.open(with_tensors(MODEL, moved)).values(FEEDS)
    inside = {value: tensor for value, tensor in moved.items() if value.is_initializer()}
    for tensors in (moved, inside):  # with the constant of a node, for which a session is opened; and without
        varied = stage.varied(running, MODEL, tensors).values(FEEDS)
        for name in ("y", "h", "n"):
            assert (np.asarray(varied[name]) != np.asarray(before[name])).any()
            if tensors is moved:
                assert np.array_equal(np.asarray(varied[name]), np.asarray(fresh[name]))
    after = running.values(FEEDS)
    assert all(np.array_equal(np.asarray(after[name]), np.asarray(before[name])) for name in before)


def test_the_models_own_weights_are_never_written() -> None:
    original = {name: np.array(value.const_value.numpy()) for name, value in MODEL.graph.initializers.items()}  # type: ignore[union-attr]
    assert verify(MODEL, MODEL, provider="cpu").equivalent
    for name, value in MODEL.graph.initializers.items():
        assert np.array_equal(np.asarray(value.const_value.numpy()), original[name])  # type: ignore[union-attr]


def test_sessions_of_one_model_do_not_share_their_numbers() -> None:
    prepared = prepare(MODEL)
    one, other = (open_session(prepared, CPU, exchangeable=prepared.weights) for _ in range(2))
    expected = other.run(FEEDS)["y"]
    with one.exchanged({"g": np.zeros((2, 4), np.float32)}):
        assert np.array_equal(other.run(FEEDS)["y"], expected)
        assert np.array_equal(one.run(FEEDS)["y"], np.broadcast_to(weights(4), (2, 4)))


def test_weights_are_used_where_they_lie_and_not_as_copies() -> None:
    big = weights(2048, 64)
    body = "y = MatMul(x, w)"
    model = replaced(small_model("(float[N,2048] x) => (float[N,64] y)", body, {"w": big}), "w", big)
    session = open_session(model, CPU)
    x = weights(1, 2048)
    first = session.run({"x": x})["y"]
    big *= 2  # what the session reads is this very array
    np.testing.assert_allclose(session.run({"x": x})["y"], 2 * first, rtol=1e-6)


def test_where_two_models_part_is_named_though_only_the_output_shows_it() -> None:
    child = replaced(MODEL, "b", weights(2, seed=20))
    certificate = verify(MODEL, child, provider="cpu", inner=False)
    assert certificate.inner == [] and not certificate.equivalent
    assert certificate.first_difference == {"value": "h", "kind": "inner value", "op": "Conv"}
    assert "first difference: inner value 'h', computed by Conv" in certificate.describe()


def test_every_inner_value_when_asked() -> None:
    child = replaced(MODEL, "c", weights(4) * np.float32(1.0))
    assert len(verify(MODEL, child, provider="cpu").inner) < 7
    certificate = verify(MODEL, child, provider="cpu", inner="all")
    assert [leaf.name for leaf in certificate.inner] == ["h", "n", "r", "p", "f", "z"]


def test_which_provider_ran_each_node_is_in_the_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(CPU, ["y"])
    ran = stage.providers(MODEL, FEEDS)
    assert len(ran) == 7 and set(ran.values()) == {CPU}
    # A provider that leaves one node to another, as CUDA may: what a session of it would give stands in.
    other = "CUDAExecutionProvider"
    monkeypatch.setattr(runtime, "choose_providers", lambda wanted: [runtime.ProviderChoice(other, "for the test")])
    real = runtime.Session.__init__

    def on_cpu(self: runtime.Session, form: object, provider: str, **options: object) -> None:
        real(self, form, CPU, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(runtime.Session, "__init__", on_cpu)
    certificate = verify(MODEL, MODEL)
    assert certificate.settings["nodes"]["parent"]["nodes"] == {CPU: 7}
    assert certificate.settings["tf32"] is False
    assert any("7 of 7 nodes of the child did not run on CUDA" in warning for warning in certificate.warnings)


def test_both_providers_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = runtime.ProviderChoice(CPU, "for the test")
    monkeypatch.setattr(runtime, "choose_providers", lambda wanted: [choice, choice])
    certificate = verify(MODEL, MODEL, provider="both")
    assert certificate.equivalent and len(certificate.also) == 1
    assert certificate.to_json()["also"][0]["inputs"] == certificate.inputs
    wrong = verify(MODEL, replaced(MODEL, "b", weights(2, seed=20)), provider="both")
    assert not wrong.equivalent and any(failure.startswith("on CPU: ") for failure in wrong.failures)


@pytest.mark.skipif(runtime.choose_provider("auto").name != CPU, reason="CUDA works here")
def test_both_providers_where_there_is_one() -> None:
    with pytest.raises(RuntimeFailure, match="CUDA was asked for"):
        verify(MODEL, MODEL, provider="both")
