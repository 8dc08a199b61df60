"""Deepening: the child computes what the parent does, or there is a refusal with a reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxmorph.equation import least_width
from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.graph.layers import layers
from onnxmorph.morphs import plan_deepen, plan_from_record
from onnxmorph.morphs.deepen import parse_width
from onnxmorph.morphs.fold import fold
from onnxmorph.plan import apply
from tests.morphs.oracle import assert_same, from_proto
from tests.zoo_graphs import Case, Net, build, select

# A random op computes something else on every run, so no oracle can compare; sparse tensors are refused on load.
_LEFT_OUT = {"topology/random_noise", "weights/behind_constant_sparse"}
RUNNABLE = [case for case in select(runnable=True) if case.name not in _LEFT_OUT]
CONVOLUTIONS = [case for case in RUNNABLE if case.name.startswith("linear/conv")]


def deepen_every_layer(case: Case, **options: Any) -> dict[str, str]:
    """Deepen each layer of a model on its own; what became of each, 'done' or the code of its refusal."""
    proto = case.build()
    model = from_proto(proto)
    outcome = {}
    for layer in layers(model):
        try:
            child = plan_deepen(model, layer, **options).apply(model)
        except Refusal as refusal:
            assert refusal.reason and refusal.code
            outcome[layer.key] = refusal.code
            continue
        assert_same(proto, child.model)
        outcome[layer.key] = "done"
    return outcome


@pytest.mark.parametrize("case", RUNNABLE, ids=lambda case: case.name)
def test_every_layer_of_the_zoo_is_deepened_exactly_or_refused_by_name(case: Case) -> None:
    for layer, outcome in deepen_every_layer(case).items():
        assert not outcome.startswith("width"), (layer, outcome)


@pytest.mark.parametrize("method", ["mirror", "netmorph", "identity", "residual"])
@pytest.mark.parametrize(
    "glob", ["linear/*_1d*", "linear/conv_transpose*", "linear/gemm*", "linear/matmul*", "scope/*"]
)
def test_every_method_is_exact_on_every_kind_of_layer(method: str, glob: str) -> None:
    for case in select(glob, runnable=True):
        deepen_every_layer(case, method=method)


@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("method", ["auto", "netmorph", "identity", "residual"])
def test_new_kernels_above_one_are_exact_at_the_borders(method: str, kernel: int) -> None:
    done = 0
    for case in CONVOLUTIONS[:: 1 if method == "auto" else 3]:
        done += list(deepen_every_layer(case, method=method, kernel=kernel).values()).count("done")
    assert done > 20


@pytest.mark.parametrize("kernel", [1, 3])
def test_an_identity_layer_with_new_channels_beside_it_is_exact_on_every_layer(kernel: int) -> None:
    done, refused = 0, set()
    for case in RUNNABLE[:: 4 if kernel == 1 else 7]:
        outcomes = deepen_every_layer(case, method="identity", width="x3", kernel=kernel).values()
        done += list(outcomes).count("done")
        refused |= set(outcomes) - {"done"}
    assert done > 15
    assert not {code for code in refused if code.startswith("width")}, refused


def only_layer(name: str) -> tuple[onnx.ModelProto, ir.Model, Any]:
    proto = build(name)
    model = from_proto(proto)
    return proto, model, layers(model)[0]


@pytest.fixture
def convolution() -> tuple[onnx.ModelProto, ir.Model, Any]:
    return only_layer(CONVOLUTIONS[0].name)


def test_the_layers_output_keeps_its_name_and_the_parent_stays_as_it_was(convolution: Any) -> None:
    _, model, layer = convolution
    before = ir.to_proto(model).SerializeToString()
    child = plan_deepen(model, layer).apply(model).model
    assert layer.output.name in {value.name for node in child.graph for value in node.outputs}
    assert ir.to_proto(model).SerializeToString() == before
    for method in ("mirror", "netmorph", "identity", "residual"):
        frontier = plan_deepen(model, layer, method=method).apply(model).frontier
        assert frontier and set(frontier) <= {value.name for node in model.graph for value in node.outputs}
    assert [value.name for value in child.graph.outputs] == [value.name for value in model.graph.outputs]


def test_tensors_that_did_not_change_are_the_parents_own(convolution: Any) -> None:
    _, model, layer = convolution
    child = plan_deepen(model, layer).apply(model).model
    for name, value in child.graph.initializers.items():
        if name in model.graph.initializers:
            assert value.const_value is model.graph.initializers[name].const_value


def test_the_record_replays_on_the_parent_to_the_same_bytes(convolution: Any) -> None:
    _, model, layer = convolution
    child = plan_deepen(model, layer, width="x3", seed=7).apply(model)
    again = apply(model, [plan_from_record(plan.record()) for plan in child.plans])
    assert ir.to_proto(again.model).SerializeToString() == ir.to_proto(child.model).SerializeToString()
    other = plan_deepen(model, layer, width="x3", seed=8).apply(model)
    assert ir.to_proto(other.model).SerializeToString() != ir.to_proto(child.model).SerializeToString()


def test_the_new_layer_can_be_deepened_again_several_in_a_row(convolution: Any) -> None:
    proto, model, layer = convolution
    grown = model
    for _ in range(3):
        target = next(found for found in layers(grown) if found.key == layer.key)
        grown = plan_deepen(grown, target, width="x2").apply(grown).model
    assert len(layers(grown)) == len(layers(model)) + 3
    assert_same(proto, grown, tolerance=1e-4)


def test_all_layers_in_one_call_are_found_after_the_edits_of_the_others() -> None:
    proto = build("block/transformer") if "block/transformer" in {c.name for c in RUNNABLE} else RUNNABLE[-1].build()
    model = from_proto(proto)
    plans = [plan_deepen(model, layer) for layer in layers(model) if layer.blocked is None]
    assert plans
    assert_same(proto, apply(model, plans).model, tolerance=1e-4)


def test_new_factors_are_dense_and_of_one_scale(convolution: Any) -> None:
    _, model, layer = convolution
    for method in ("mirror", "netmorph"):
        for factor in plan_deepen(model, layer, method=method).apply(model).factors:
            assert factor.occupancy == 1.0, method
            assert 0.5 <= factor.scale_ratio <= 2.0, (method, factor)


def test_an_identity_child_is_exact_to_the_last_bit(convolution: Any) -> None:
    proto, model, layer = convolution
    assert_same(proto, plan_deepen(model, layer, method="identity", kernel=3).apply(model).model, tolerance=0.0)
    assert_same(proto, plan_deepen(model, layer, method="residual", kernel=3).apply(model).model, tolerance=0.0)


def test_new_channels_beside_an_identity_are_plain_and_read_by_nothing_yet(convolution: Any) -> None:
    _, model, layer = convolution
    plan = plan_deepen(model, layer, method="identity", width="x2", activation="relu")
    child = plan.apply(model).model
    first, second = (one for one in layers(child) if one.scope == layer.scope and one.label.startswith(layer.label))
    assert first.activation is not None and first.activation.name in {"PRelu", "LeakyRelu"}
    slopes = np.asarray(first.activation.parameters["slope"]).reshape(-1)
    new = slopes == 0
    assert sorted(set(slopes)) == [0.0, 1.0] and new.sum() == layer.out_channels
    read = second.kernel_array()
    group = read.shape[1]
    for place in np.flatnonzero(new):  # inputs of a group are numbered from 0
        rows = np.arange(len(read)) // (len(read) // layer.groups) == place // group
        assert not read[rows, place % group].any()
    assert "its own and new ones" in plan.describe()


def test_an_identity_layer_narrower_than_its_layer_is_refused(convolution: Any) -> None:
    _, model, layer = convolution
    with pytest.raises(Refusal) as caught:
        plan_deepen(model, layer, method="identity", width=layer.out_channels - 1)
    assert caught.value.code == "identity-width"


def test_folding_takes_out_what_was_put_beside_an_identity() -> None:
    net = Net(opset=17)
    x = net.input("x", ["N", 4])
    y = net.node("Relu", [net.gemm(x, 6, 4)], "act")
    net.output(net.gemm(y, 3, 6, name="fc2"), ["N", 3])
    proto = net.model()
    parent = from_proto(proto)
    child = plan_deepen(parent, "fc1", method="identity", width=10).apply(parent).model
    folded = fold(child)
    assert [one.op for one in layers(folded.model)] == [one.op for one in layers(parent)]
    assert_same(proto, folded.model)


def test_a_width_too_small_is_refused_with_the_least_that_is_exact(convolution: Any) -> None:
    _, model, layer = convolution
    with pytest.raises(Refusal, match=r"exact|divide") as caught:
        plan_deepen(model, layer, method="netmorph", width=1).apply(model)
    assert caught.value.code in {"width-too-small", "width-groups"}


def test_auto_takes_netmorph_where_the_width_asked_for_has_no_room_for_mirrored_pairs(convolution: Any) -> None:
    proto, model, layer = convolution
    least = least_width(layer.kernel_array(), (layer.kernel, (1, 1)), layer.groups)
    for width, method in ((least, "netmorph"), (2 * least, "mirror"), (2 * least + layer.groups, "netmorph")):
        plan = plan_deepen(model, layer, width=width)
        assert (plan.method, plan.width) == (method, width)
        assert_same(proto, plan.apply(model).model)


@pytest.mark.parametrize(("text", "size"), [("64", 64), (7, 7), ("x2", 16), ("x1.5", 12), ("x1.1", 9)])
def test_widths_are_numbers_or_multiples(text: int | str, size: int) -> None:
    assert parse_width(text, 8) == size


@pytest.mark.parametrize("text", ["", "0", "x0", "-3", "x", "4x", "two", "1e3", "xnan"])
def test_no_width_is_a_usage_error(text: str) -> None:
    with pytest.raises(SelectionError):
        parse_width(text, 8)


@pytest.mark.parametrize(
    "options", [{"method": "mirrored"}, {"kernel": 0}, {"kernel": (3, 3, 3, 3)}, {"activation": "relux"}]
)
def test_options_that_mean_nothing_are_usage_errors(convolution: Any, options: dict[str, Any]) -> None:
    _, model, layer = convolution
    with pytest.raises(SelectionError):
        plan_deepen(model, layer, **options)


def test_mirror_is_refused_for_an_activation_without_a_linear_odd_part(convolution: Any) -> None:
    _, model, layer = convolution
    with pytest.raises(Refusal, match="odd part"):
        plan_deepen(model, layer, method="mirror", activation="tanh")


def test_weights_that_are_not_finite_are_refused_by_every_method() -> None:
    model = from_proto(build("linear/conv_weights_nan"))
    for method in ("auto", "netmorph", "identity", "residual"):
        with pytest.raises(Refusal) as caught:
            plan_deepen(model, layers(model)[0], method=method)
        assert caught.value.code == "weight-not-finite"


def test_zero_kernels_are_deepened_to_the_last_bit(convolution: Any) -> None:
    proto, _, _ = convolution
    zero = onnx.ModelProto()
    zero.CopyFrom(proto)
    for tensor in zero.graph.initializer:
        if len(tensor.dims) >= 3:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.float32), tensor.name))
    model = from_proto(zero)
    child = plan_deepen(model, layers(model)[0]).apply(model)
    assert_same(zero, child.model, tolerance=0.0)


def test_identity_depth_behind_slopes_of_0_and_1_does_not_take_their_mean() -> None:
    net = Net(opset=17)
    x = net.input("x", ["N", 4])
    slopes = net.weight("slopes", np.array([0, 1, 0, 1, 1, 0], np.float32))
    y = net.node("PRelu", [net.gemm(x, 6, 4), slopes], "act")
    net.output(net.gemm(y, 3, 6, name="fc2"), ["N", 3])
    proto = net.model()
    parent = from_proto(proto)
    assert_same(proto, plan_deepen(parent, "fc1", method="identity").apply(parent).model)


def test_operators_that_onnxruntime_inlined_by_a_name_are_not_written_again() -> None:
    """Its optimised models hold ``_inlfunc_HardSwish_HS_X``, which it would give the inside of a new HardSwish too."""
    weight = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    inner = "_inlfunc_HardSwish_HS_X"
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["h"]),
        onnx.helper.make_node("HardSigmoid", ["h"], [inner], alpha=1 / 6, beta=0.5),
        onnx.helper.make_node("Mul", ["h", inner], ["y"]),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", kind, ["N", 4])],
        [onnx.helper.make_tensor_value_info("y", kind, ["N", 4])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    model = from_proto(proto)
    assert str(layers(model)[0].activation) == "HardSwish"
    child = plan_deepen(model, "#0").apply(model).model
    assert "HardSwish" not in [node.op_type for node in child.graph]
    assert_same(proto, child)
