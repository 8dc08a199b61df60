"""Coverage: which signs, channels and branches the inputs reached, and what is said of those they did not."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmorph._ir import ir
from onnxmorph.verify import verify
from tests.verify.graphs import small_model, weights

SIGNATURE = "(float[N,16] x) => (float[N,4] y)"


def layered(activation: str, bias: np.ndarray) -> ir.Model:
    body = f"h = MatMul(x, w)\n b = Add(h, bias)\n r = {activation}\n y = MatMul(r, v)"
    tensors = {"w": weights(16, 8), "bias": bias, "v": weights(8, 4), "slope": np.full(1, 0.0, np.float32)}
    return small_model(SIGNATURE, body, tensors)


def test_signs_and_channels_alive_at_a_swapped_activation() -> None:
    bias = np.zeros(8, np.float32)
    bias[3] = -1e4
    certificate = verify(layered("Relu(b)", bias), layered("PRelu(b, slope)", bias), provider="cpu")
    assert certificate.equivalent, certificate.failures
    child = next(entry for entry in certificate.coverage["activations"] if entry["model"] == "child")
    assert (child["value"], child["op"], child["channels"]) == ("r", "PRelu", 8)
    assert (child["negative"], child["positive"]) == (8, 7)
    parent = next(entry for entry in certificate.coverage["activations"] if entry["model"] == "parent")
    assert (parent["alive"], parent["dead"]) == (7, [3])
    assert "both signs" in certificate.describe()


def test_a_sign_that_never_arrives_is_said() -> None:
    bias = np.full(8, 1e6, np.float32)
    certificate = verify(layered("Relu(b)", bias), layered("PRelu(b, slope)", bias), provider="cpu")
    assert any("never saw a negative" in warning for warning in certificate.warnings)


@pytest.mark.filterwarnings("error")
def test_a_channel_of_nothing_but_nan_is_no_warning_on_stderr() -> None:
    bias = np.zeros(8, np.float32)
    bias[3] = np.nan
    certificate = verify(layered("Relu(b)", bias), layered("PRelu(b, slope)", bias), provider="cpu")
    assert certificate.coverage["activations"][0]["channels"] == 8


def test_an_activation_that_did_not_change_is_not_watched() -> None:
    model = layered("Relu(b)", np.zeros(8, np.float32))
    assert "activations" not in verify(model, model, provider="cpu").coverage


def branching(condition: str, signature: str, rates: tuple[float, float] = (2.0, 3.0)) -> ir.Model:
    body = f"""
        {condition}
        y = If(c) <
            then_branch = then () => (float[N,M] t) {{ k = Constant<value_float={rates[0]}>() t = Mul(x, k) }},
            else_branch = other () => (float[N,M] e) {{ j = Constant<value_float={rates[1]}>() e = Mul(x, j) }}
        >"""
    return small_model(signature, body)


def test_both_branches_that_a_size_decides_are_taken() -> None:
    condition = """s = Shape<start=1, end=2>(x)
        q = Constant<value_ints=[777]>()
        g = Greater(s, q)
        c = Squeeze(g)"""
    signature = "(float[N,M] x) => (float[N,M] y)"
    parent = branching(condition, signature)
    certificate = verify(parent, parent, provider="cpu")
    assert certificate.coverage["branches"] == [{"node": "y", "then": True, "else": True}]
    for wrong in ((2.0, 3.1), (2.1, 3.0)):
        assert not verify(parent, branching(condition, signature, wrong), provider="cpu").equivalent


def test_every_number_an_input_is_compared_with_is_tried() -> None:
    rates = (8000, 16000, 32000, 44100)
    lines = [f"k{rate} = Constant<value_int={rate}>()\n e{rate} = Equal(sr, k{rate})" for rate in rates]
    lines += [f"f{rate} = Cast<to=1>(e{rate})" for rate in rates]
    sums = "\n".join(lines)

    def model(last: float) -> ir.Model:
        factors = "\n".join(
            f"g{rate} = Constant<value_float={last if rate == 44100 else 1.0}>()\n m{rate} = Mul(f{rate}, g{rate})"
            for rate in rates
        )
        body = f"{sums}\n{factors}\n t = Sum({', '.join(f'm{rate}' for rate in rates)})\n y = Mul(x, t)"
        return small_model("(float[N,4] x, int64 sr) => (float[N,4] y)", body)

    certificate = verify(model(1.0), model(1.0), provider="cpu")
    assert set(certificate.coverage["choices"]["sr"]) >= set(rates)
    assert not verify(model(1.0), model(1.5), provider="cpu").equivalent


def test_a_flag_is_set_and_not() -> None:
    signature = "(float[N,M] x, bool[1] flag) => (float[N,M] y)"
    parent = branching("c = Squeeze(flag)", signature)
    certificate = verify(parent, parent, provider="cpu")
    assert certificate.coverage["choices"]["flag"] == [0.0, 1.0]
    for wrong in ((2.0, 3.1), (2.1, 3.0)):
        assert not verify(parent, branching("c = Squeeze(flag)", signature, wrong), provider="cpu").equivalent


def test_a_branch_never_taken_is_said() -> None:
    condition = """s = ReduceMax<keepdims=0>(x)
        q = Constant<value_float=1e30>()
        c = Greater(s, q)"""
    parent = branching(condition, "(float[N,M] x) => (float[N,M] y)")
    certificate = verify(parent, parent, provider="cpu")
    assert any("its then branch was never taken" in warning for warning in certificate.warnings)


def test_a_table_that_changed_is_read_to_its_last_row() -> None:
    table = weights(3000, 4)
    child = np.concatenate([table, np.zeros((3000, 2), np.float32)], 1)

    def embedding(rows: np.ndarray, body: str) -> ir.Model:
        return small_model("(int64[N,T] ids) => (float[N,T,4] y)", body, {"table": rows})

    wide = "e = Gather(table, ids)\n y, rest = Split<axis=-1>(e, sizes)"
    sizes = np.asarray([4, 2])
    grown = small_model("(int64[N,T] ids) => (float[N,T,4] y)", wide, {"table": child, "sizes": sizes})
    parent = embedding(table, "y = Gather(table, ids)")
    certificate = verify(parent, grown, provider="cpu")
    assert certificate.equivalent, certificate.failures
    ids = certificate.coverage["ids"]["ids"]
    assert ids["table_changed"] and ids["whole"] and ids["distinct"] == 3000
    for row in (1, 1499, 2998):
        wrong = child.copy()
        wrong[row] = 0
        other = small_model("(int64[N,T] ids) => (float[N,T,4] y)", wide, {"table": wrong, "sizes": sizes})
        assert not verify(parent, other, provider="cpu").equivalent, row
