"""Widening: every fill is exact where it is not refused; sizes, signatures and records hold to their word."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.graph.layers import layers
from onnxmorph.morphs import plan_from_record, plan_widen
from onnxmorph.plan import apply
from tests.morphs.oracle import assert_same, from_proto, run
from tests.zoo.net import Net
from tests.zoo_graphs import Case, build, example_inputs, select

_LEFT_OUT = {"topology/random_noise", "weights/behind_constant_sparse"}
RUNNABLE = [case for case in select(runnable=True) if case.name not in _LEFT_OUT]
# Pairs cancel to rounding only, which shows where the parent gives exact zeros.
_EXACT_ZEROS = {"topology/names_repeated_across_scopes", "topology/constant_output"}


def widen_every_layer(case: Case, **options: Any) -> int:
    """Widen each layer on its own; how many could be."""
    proto = case.build()
    model = from_proto(proto)
    done = 0
    for layer in layers(model):
        try:
            plan = plan_widen(model, layer, **options)
            child = plan.apply(model)
        except Refusal as refusal:
            assert refusal.reason and refusal.code
            continue
        assert_same(proto, child.model, roundings=1024 if plan.fill in ("replicate", "pair") else 64)
        done += 1
    return done


@pytest.mark.parametrize("fill", ["zero-out", "zero-in", "replicate", "pair"])
@pytest.mark.parametrize("theme", ["linear", "weights", "topology", "scopes", "activation", "block"])
def test_every_fill_is_exact_or_refused_on_every_layer_of_the_zoo(theme: str, fill: str) -> None:
    cases = [case for case in RUNNABLE if case.name.startswith(theme)]
    if fill == "pair":
        cases = [case for case in cases if case.name not in _EXACT_ZEROS]
    done = sum(widen_every_layer(case, by=2 if fill == "pair" else 1.4, fill=fill) for case in cases)
    assert done >= (1 if theme == "scopes" else len(cases) // 3)


@settings(deadline=None, max_examples=25)
@given(by=st.floats(1.05, 3.0), seed=st.integers(0, 2**32 - 1), fill=st.sampled_from(["zero-out", "replicate"]))
def test_any_factor_and_seed_is_exact(by: float, seed: int, fill: str) -> None:
    for name in ("block/channel_shuffle", "block/residual", "linear/conv_grouped"):
        if name in {case.name for case in RUNNABLE}:
            widen_every_layer(next(case for case in RUNNABLE if case.name == name), by=by, seed=seed, fill=fill)


@pytest.fixture
def convolution() -> tuple[Any, ir.Model, Any]:
    proto = build("linear/conv_padded")
    model = from_proto(proto)
    return proto, model, layers(model)[0]


def test_zero_out_feeds_at_random_and_reads_nothing(convolution: Any) -> None:
    _, model, layer = convolution
    child = plan_widen(model, layer, to=layer.out_channels + 3).apply(model).model
    first, second = layers(child)[:2]
    dead = np.flatnonzero(~np.abs(second.kernel_array()).sum(axis=(0, 2, 3)).astype(bool))
    assert len(dead) == 3
    assert np.all(first.kernel_array()[dead] != 0)


def test_copies_share_the_fan_out_unequally(convolution: Any) -> None:
    _, model, layer = convolution
    size = layer.out_channels
    child = plan_widen(model, layer, to=2 * size, fill="replicate").apply(model).model
    first, second = (each.kernel_array() for each in layers(child)[:2])
    for parent_row in layers(model)[0].kernel_array():
        one, two = np.flatnonzero((first == parent_row).all(axis=(1, 2, 3)))
        assert not np.allclose(second[:, one], second[:, two])


def test_new_channels_do_not_cluster(convolution: Any) -> None:
    _, model, layer = convolution
    size = layer.out_channels
    child = plan_widen(model, layer, to=3 * size).apply(model).model
    dead = np.abs(layers(child)[1].kernel_array()).sum(axis=(0, 2, 3)) == 0
    assert not dead[size:].all()


def test_the_record_replays_to_the_same_bytes_and_the_parent_stays(convolution: Any) -> None:
    _, model, layer = convolution
    before = ir.to_proto(model).SerializeToString()
    child = plan_widen(model, layer, by="x1.5", seed=3).apply(model)
    again = apply(model, [plan_from_record(plan.record()) for plan in child.plans])
    assert ir.to_proto(again.model).SerializeToString() == ir.to_proto(child.model).SerializeToString()
    assert ir.to_proto(model).SerializeToString() == before


def test_the_models_own_output_is_widened_only_when_asked(convolution: Any) -> None:
    proto, model, _ = convolution
    last = layers(model)[-1]
    with pytest.raises(Refusal, match="graph output"):
        plan_widen(model, last, by=2)
    child = plan_widen(model, last, by=2, interface=True).apply(model)
    assert any("signature" in note for note in child.notes)
    feeds = example_inputs(proto)
    (expected,), (got,) = (list(run(one, feeds).values()) for one in (proto, ir.to_proto(child.model)))
    kept = [int(np.abs(got - row[:, None]).sum(axis=(0, 2, 3)).argmin()) for row in np.moveaxis(expected, 1, 0)]
    assert np.allclose(got[:, kept], expected, atol=1e-5)


def test_sizes_that_groups_cannot_meet_name_the_nearest_that_can() -> None:
    for case in RUNNABLE:
        model = from_proto(case.build())
        for layer in layers(model):
            if layer.blocked is not None or layer.groups in (1, layer.out_channels):
                continue
            try:
                plan_widen(model, layer, to=layer.out_channels + 1)
            except Refusal as refusal:
                if refusal.code == "size-step":
                    assert "can" in str(refusal)
                    return
    pytest.fail("no grouped layer was refused")


@pytest.mark.parametrize(
    "options", [{}, {"to": 9, "by": 2}, {"by": "xtwo"}, {"by": 1}, {"by": -2}, {"to": 9, "fill": "ones"}]
)
def test_options_that_mean_nothing_are_usage_errors(convolution: Any, options: dict[str, Any]) -> None:
    _, model, layer = convolution
    with pytest.raises(SelectionError):
        plan_widen(model, layer, **options)


def test_a_layer_does_not_get_narrower(convolution: Any) -> None:
    _, model, layer = convolution
    with pytest.raises(Refusal) as caught:
        plan_widen(model, layer, to=layer.out_channels)
    assert caught.value.code == "not-wider"


@pytest.mark.parametrize("fill", [None, "replicate", "zero-out", "pair"])
@pytest.mark.parametrize("to", [8, 12, 18])
def test_one_segment_of_a_normalised_concatenation_is_exact_or_refused(fill: str | None, to: int) -> None:
    random = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)

    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "wa"], ["a"], name="first"),
            helper.make_node("Gemm", ["x", "wb"], ["b"], name="second"),
            helper.make_node("Concat", ["a", "b"], ["c"], axis=1),
            helper.make_node("LayerNormalization", ["c", "gamma", "beta"], ["n"]),
            helper.make_node("Gemm", ["n", "wo"], ["y"], name="last"),
        ],
        "concatenated",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [weights("wa", 5, 6), weights("wb", 5, 4), weights("gamma", 10), weights("beta", 10), weights("wo", 10, 3)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = from_proto(proto)
    try:
        child = plan_widen(model, "first", to=to, fill=fill).apply(model)
    except Refusal as refusal:
        assert refusal.reason
        return
    assert_same(proto, child.model, roundings=1024)


@pytest.mark.parametrize("op", ["Log", "Sqrt", "Reciprocal", "Div", "Pow"])
def test_operators_that_do_not_take_every_number_get_copies(op: str) -> None:
    net = Net(opset=17)
    y = net.conv(net.input("x", ["N", 3, 6, 6]), 4, 3, (1, 1), name="one")
    # Positive for what the parent holds: its weights are, and so is what is fed below.
    y = net.node("Max", [y, net.weight("floor", np.full((4, 1, 1), 0.5, np.float32))], "positive")
    if op == "Div":
        y = net.node("Div", [net.scalar("unit", 1.0), y], "bent")
    elif op == "Pow":
        y = net.node("Pow", [y, net.scalar("half", 0.5)], "bent")
    else:
        y = net.node(op, [y], "bent")
    net.output(net.conv(y, 2, 4, (1, 1), name="two"), ["N", 2, 6, 6])
    proto = net.model()
    model = from_proto(proto)
    plan = plan_widen(model, layers(model)[0], to=6)
    assert_same(proto, plan.apply(model).model, roundings=256)


def test_a_logarithm_of_what_may_be_negative_refuses_random_channels() -> None:
    net = Net(opset=17)
    y = net.conv(net.input("x", ["N", 3, 6, 6]), 4, 3, (1, 1), name="one")
    y = net.node("Exp", [net.node("Log", [y], "log")], "exp")
    net.output(net.conv(y, 2, 4, (1, 1), name="two"), ["N", 2, 6, 6])
    model = from_proto(net.model())
    with pytest.raises(Refusal, match="Log") as caught:
        plan_widen(model, layers(model)[0], to=6, fill="zero-out")
    assert caught.value.code == "undefined"
    assert plan_widen(model, layers(model)[0], to=6).fill == "replicate"


def test_a_plan_is_not_carried_out_twice_on_one_group() -> None:
    """As with layers that write into one sum: what one plan has widened, the other finds changed."""
    model = from_proto(build("linear/conv_padded"))
    plans = [plan_widen(model, layers(model)[0], by=1.5, seed=seed) for seed in (0, 1)]
    with pytest.raises(Refusal, match="outputs, not") as raised:
        apply(model, plans)
    assert raised.value.code == "layer-changed"


def _behind(op: str, constant: float | None = None, **attributes: Any) -> onnx.ModelProto:
    """Two convolutions with one operator between them that may or may not leave zeros alone."""
    rng = np.random.default_rng(0)
    weights = {"a": (6, 3, 3, 3), "b": (4, 6, 1, 1)}
    stored = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name) for name, shape in weights.items()
    ]
    if op == "InstanceNormalization":
        names = ["scale", "shift"]
        stored += [numpy_helper.from_array(rng.normal(size=6).astype(np.float32), name) for name in names]
    else:
        names = ["pads"]
        stored.append(numpy_helper.from_array(np.array([0, 0, 1, 2, 0, 0, 0, 1], np.int64), "pads"))
        if constant is not None:
            names.append("constant")
            stored.append(numpy_helper.from_array(np.array(constant, np.float32), "constant"))
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"], name="a"),
        helper.make_node(op, ["h", *names], ["p"], **attributes),
        helper.make_node("LeakyRelu", ["p"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["y"], name="b"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, None, None])
    graph = helper.make_graph(nodes, "between", [x], [y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("op", "options", "keeps"),
    [
        ("InstanceNormalization", {}, True),
        ("InstanceNormalization", {"epsilon": 0.0}, False),
        ("Pad", {}, True),
        ("Pad", {"constant": 0.0}, True),
        ("Pad", {"constant": 0.5}, False),
        ("Pad", {"mode": "reflect"}, True),
        ("Pad", {"mode": "edge", "constant": 0.5}, True),
    ],
)
def test_zeros_stay_zeros_behind_norms_of_one_channel_and_pads(op: str, options: dict[str, Any], keeps: bool) -> None:
    proto = _behind(op, **options)
    model = from_proto(proto)
    if not keeps:
        with pytest.raises(Refusal, match="not zero"):
            plan_widen(model, "a", to=9, fill="zero-in")
        return
    assert_same(proto, plan_widen(model, "a", to=9, fill="zero-in").apply(model).model)


@pytest.mark.parametrize(
    ("op", "options", "learns"),
    [
        ("Relu", {}, False),
        ("Abs", {}, False),
        ("Clip", {"min": 0.0, "max": 6.0}, False),
        ("Clip", {"min": -1.0, "max": 1.0}, True),
        ("LeakyRelu", {"alpha": 0.1}, True),
        ("Elu", {}, True),
        ("Tanh", {}, True),
        ("square", {}, False),
        ("gate", {}, True),
    ],
)
def test_zeros_that_can_never_learn_are_said_to(op: str, options: dict[str, Any], learns: bool) -> None:
    random = np.random.default_rng(0)
    first, last = (random.normal(size=size).astype(np.float32) for size in ((8, 3, 1, 1), (4, 8, 1, 1)))
    inside = {
        "square": [helper.make_node("Mul", ["hidden", "hidden"], ["phi"])],
        "gate": [
            helper.make_node("Sigmoid", ["hidden"], ["gate"]),
            helper.make_node("Mul", ["hidden", "gate"], ["phi"]),
        ],
    }.get(op) or [helper.make_node(op, ["hidden"], ["phi"], **options)]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "a"], ["hidden"]),
            *inside,
            helper.make_node("Conv", ["phi", "b"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 6])],
        [numpy_helper.from_array(first, "a"), numpy_helper.from_array(last, "b")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 10)], ir_version=8)
    model = from_proto(proto)
    plan = plan_widen(model, "hidden", to=12, fill="zero-in")
    child = apply(model, [plan])
    assert_same(proto, child.model)
    assert ("will not learn" in plan.describe()) != learns
    assert any("take --fill zero-out" in note for note in child.notes) != learns
    assert plan_from_record(plan.record()) == plan
    assert not plan_widen(model, "hidden", to=12).idle


def test_a_width_beyond_the_memory_of_the_machine_is_refused_before_anything_is_allocated(convolution: Any) -> None:
    _, model, _ = convolution
    with pytest.raises(Refusal, match="GiB of memory"):
        plan_widen(model, layers(model)[0], to=10**13)
    assert plan_widen(model, layers(model)[0], by=2).to


@pytest.mark.parametrize("fill", ["zero-out", "pair"])
def test_a_new_channel_is_normalised_by_the_numbers_of_one_channel(fill: str) -> None:
    # Weight decay drives the scale and the variance of channels that are not needed to 0, both together.
    draw = np.random.default_rng(0)
    alive = (np.arange(32) % 3 == 0).astype(np.float32)
    held = {
        "w": draw.standard_normal((32, 3, 3, 3)).astype("f4") * alive[:, None, None, None],
        "scale": alive,
        "shift": 0.1 * alive,
        "mean": 0.1 * alive,
        "variance": alive,
        "v": draw.standard_normal((4, 32, 1, 1)).astype("f4"),
    }
    graph = onnx.parser.parse_graph(
        "g (float[N,3,8,8] x) => (float[N,4,A,B] y)"
        " { h = Conv(x, w) n = BatchNormalization(h, scale, shift, mean, variance) r = Relu(n) y = Conv(r, v) }"
    )
    graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in held.items())
    parent = from_proto(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8))
    child = plan_widen(parent, "w", to=64, fill=fill, seed=3).apply(parent).model
    scale, variance = (child.graph.initializers[name].const_value.numpy() for name in ("scale", "variance"))
    assert len(scale) == 64
    np.testing.assert_array_equal(scale, variance)
