"""Fold: what a morph made folds back, what folds computes the same, and what would not is left alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from onnxmorph import model as files
from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.graph.constants import is_constant
from onnxmorph.graph.layers import LinearLayer, layers
from onnxmorph.graph.scopes import nodes
from onnxmorph.morphs import (
    plan_activate,
    plan_deepen,
    plan_fold,
    plan_from_record,
    plan_kernel,
    plan_skip,
    plan_subnet,
    plan_widen,
)
from onnxmorph.morphs.fold import FOLDS, fold
from onnxmorph.morphs.folds import Rule, View
from onnxmorph.morphs.folds.chains import ChainRule
from onnxmorph.morphs.folds.finding import shared_name
from onnxmorph.morphs.folds.rims import KernelRule
from onnxmorph.morphs.folds.sums import SumRule
from onnxmorph.plan import Plan, apply
from onnxmorph.verify import verify
from tests.morphs.oracle import assert_same, from_proto
from tests.zoo_graphs import Net, build, select

_NOT_COMPARED = {
    "topology/random_noise",  # computes something else on every run
    "weights/behind_constant_sparse",  # refused on load
}
_LEFT_OUT = {
    "block/fused_qkv_reshape",  # widened, parts of one axis hold other numbers than others
    "topology/constant_output",  # nothing is read, so any channel may be the one that stays
    *(f"weights/behind_{how}" for how in ("dequantized", "dequantized_per_channel", "dequantized_no_zero_point")),
    "weights/behind_expanded",
    "weights/behind_constant_of_shape",  # all of its channels are copies of each other once they are stored
    "linear/conv_dead_rows",  # rows that are equal to the last bit are equal to rounding afterwards
}
COMPARED = [case for case in select(runnable=True) if case.name not in _NOT_COMPARED]
RUNNABLE = [case for case in COMPARED if case.name not in _LEFT_OUT]
FEW = RUNNABLE[::7]


def census(model: ir.Model) -> tuple[Counter[str], list[str]]:
    """Operators that run by number, and the shapes of all layers."""
    ops = Counter(node.op_type for _, node in nodes(model) if not is_constant(node.outputs[0]))
    return ops, sorted(repr((x.op, x.in_channels, x.out_channels, x.kernel, x.groups)) for x in layers(model))


def folded(model: ir.Model, **options: Any) -> ir.Model:
    """The model folded as far as it goes."""
    try:
        return fold(model, **options).model
    except Refusal as refusal:
        assert refusal.code == "nothing-to-fold"
        return model


def taps(layer: LinearLayer) -> str:
    return "x".join(map(str, layer.kernel)) or "1"


Morph = Callable[[ir.Model, LinearLayer], Plan | Sequence[Plan]]

MORPHS: dict[str, Morph] = {
    "deepen mirror": lambda m, x: plan_deepen(m, x, method="mirror"),
    "deepen mirror 3": lambda m, x: plan_deepen(m, x, method="mirror", kernel=3),
    "deepen netmorph": lambda m, x: plan_deepen(m, x, method="netmorph"),
    "deepen netmorph tanh 3": lambda m, x: plan_deepen(m, x, method="netmorph", kernel=3, activation="tanh"),
    "deepen identity 3": lambda m, x: plan_deepen(m, x, method="identity", kernel=3 if x.kernel else None),
    "deepen residual": lambda m, x: plan_deepen(m, x, method="residual"),
    "kernel": lambda m, x: plan_kernel(m, x, to=[size + 2 for size in x.kernel] or 1),
    "kernel odd": lambda m, x: plan_kernel(m, x, to=[size + 1 for size in x.kernel] or 1),
    "widen zero-out": lambda m, x: plan_widen(m, x, by=2, fill="zero-out"),
    "widen zero-in": lambda m, x: plan_widen(m, x, by=1.5, fill="zero-in"),
    "widen replicate": lambda m, x: plan_widen(m, x, by=2, fill="replicate"),
    "widen pair": lambda m, x: plan_widen(m, x, by=2, fill="pair"),
    "subnet": lambda m, x: plan_subnet(m, x, template=f"({taps(x)}:{x.out_channels}x4)(1:{x.out_channels})"),
    "subnet bn": lambda m, x: plan_subnet(
        m, x, template=f"({taps(x)}:{x.out_channels}x4,bn)(1:{x.out_channels}x2)(1:{x.out_channels})"
    ),
    "subnet stacked": lambda m, x: plan_subnet(
        m, x, template=f"({taps(x)}:{x.out_channels}x4)(1:{x.out_channels})|({taps(x)}:{x.out_channels})"
    ),
    "activate": plan_activate,
    "activate toward": lambda m, x: plan_activate(m, x, to="tanh"),
}


def fold_back(proto: onnx.ModelProto, morph: Callable[[ir.Model], Plan | Sequence[Plan]]) -> str:
    """Morph, fold, compare with the parent folded: function, operators, shapes, weights; ``''`` where refused."""
    parent = from_proto(proto)
    try:
        made = morph(parent)
        child = apply(parent, [made] if isinstance(made, Plan) else list(made)).model
    except (Refusal, SelectionError):
        return ""
    back, wanted = folded(child), folded(parent)
    assert_same(proto, back, roundings=4096)
    got, expected = census(back), census(wanted)
    got[0].pop("Gelu", None), expected[0].pop("Gelu", None)  # com.microsoft's is spelled anew by a morph
    assert got[1] == expected[1]
    for one, two in zip(layers(back), layers(wanted), strict=True):
        if one.blocked is None and two.blocked is None:
            left, right = (np.sort(x.kernel_array().astype(np.float64), axis=None) for x in (one, two))
            unit = float(np.finfo(one.dtype.numpy()).eps) if one.dtype.numpy().kind == "f" else 2.0**-7
            assert np.abs(left - right).max(initial=0.0) <= 256 * unit * np.abs(right).max(initial=0.0), one
    return "done" if got[0] == expected[0] else "spelled otherwise"


@pytest.mark.parametrize("morph", MORPHS)
def test_the_child_of_every_morph_folds_back_to_its_parent(morph: str) -> None:
    outcome: Counter[str] = Counter()
    for case in FEW:
        proto = case.build()
        for number in range(min(1, len(layers(from_proto(proto))))):
            outcome[fold_back(proto, lambda m, n=number: MORPHS[morph](m, layers(m)[n]))] += 1  # type: ignore[misc]
    assert outcome["done"] >= 8, outcome
    assert outcome["spelled otherwise"] <= 2, outcome  # PRelu of one slope as LeakyRelu, Swish by Sigmoid


@pytest.mark.slow
@pytest.mark.parametrize("morph", MORPHS)
def test_every_layer_of_the_zoo_folds_back(morph: str) -> None:
    for case in RUNNABLE:
        proto = case.build()
        for number in range(len(layers(from_proto(proto)))):
            fold_back(proto, lambda m, n=number: MORPHS[morph](m, layers(m)[n]))  # type: ignore[misc]


@pytest.mark.parametrize("mode", ["add", "concat"])
def test_skips_fold_back(mode: str) -> None:
    done = 0
    for case in RUNNABLE[::5]:
        proto = case.build()
        if len(layers(from_proto(proto))) > 1:
            done += fold_back(proto, lambda m: _skip(m, mode)) == "done"
    assert done >= 8


def _skip(model: ir.Model, mode: str) -> Plan:
    found = layers(model)
    return plan_skip(model, source=found[0], target=found[1], mode=mode)


def test_what_folds_by_itself_computes_the_same_all_over_the_zoo() -> None:
    kinds: Counter[str] = Counter()
    for case in COMPARED:
        if case.name.startswith("weights/classifier"):
            continue
        proto = case.build()
        model = from_proto(proto)
        before = ir.to_proto(model).SerializeToString()
        child = folded(model)
        assert ir.to_proto(model).SerializeToString() == before, case.name
        if child is not model:
            assert_same(proto, child, roundings=256)
        kinds.update(record["kind"] for record in files.records(child))
    assert kinds["batch-norm"] and kinds["dead"]


# -- names, records, options ------------------------------------------------------------------------------------------


@pytest.fixture
def grown() -> tuple[onnx.ModelProto, ir.Model, ir.Model]:
    """A parent and a child of three morphs."""
    net = Net()
    x = net.relu(net.conv(net.input("x", ["N", 4, "H", "W"]), 6, 4, name="conv1", pads=[1] * 4), name="relu1")
    net.output(net.conv(x, 5, 6, name="conv2", pads=[1] * 4), ["N", 5, "H", "W"])
    proto = net.model()
    parent = from_proto(proto)
    child = plan_deepen(parent, "conv1", method="mirror", kernel=3).apply(parent).model
    child = plan_deepen(child, "conv2", method="identity").apply(child).model
    return proto, parent, plan_widen(child, "conv1.0", by=2).apply(child).model


def names(model: ir.Model) -> set[str | None]:
    return {
        *(value.name for node in model.graph for value in node.outputs),
        *(node.name for node in model.graph),
        *model.graph.initializers,
    }


def test_several_morphs_fold_back_to_the_names_of_the_parent(grown: Any) -> None:
    proto, parent, child = grown
    back = fold(child)
    assert_same(proto, back.model, roundings=1024)
    assert names(back.model) == names(parent)
    for layer, twin in zip(layers(parent), layers(back.model), strict=True):
        kernel = layer.kernel_array()
        assert np.abs(kernel - twin.kernel_array()).max() <= 64 * np.finfo(np.float32).eps * np.abs(kernel).max()


def test_a_fold_is_replayed_from_its_records_to_the_same_bytes(grown: Any) -> None:
    _, _, child = grown
    made = fold(child)
    again = apply(child, [plan_from_record(plan.record()) for plan in made.plans])
    assert ir.to_proto(again.model).SerializeToString() == ir.to_proto(made.model).SerializeToString()
    planned = apply(child, plan_fold(child))
    assert ir.to_proto(planned.model).SerializeToString() == ir.to_proto(made.model).SerializeToString()


def test_a_replay_on_a_model_where_it_does_not_fold_is_refused(grown: Any) -> None:
    _, parent, child = grown
    with pytest.raises(Refusal) as caught:
        apply(parent, plan_fold(child))
    assert caught.value.code == "fold-gone"


def test_only_the_kinds_and_layers_asked_for_are_folded(grown: Any) -> None:
    _, _, child = grown
    assert {plan.kind for plan in plan_fold(child, only="dead")} == {"dead"}
    assert {plan.kind for plan in plan_fold(child, only=["activation", "identity"])} == {"activation", "identity"}
    around = plan_fold(child, "conv2")
    assert around and all("conv1" not in text for plan in around for text in plan.texts)


def test_what_cannot_be_asked_for_is_a_usage_error_and_nothing_to_fold_a_refusal(grown: Any) -> None:
    _, parent, child = grown
    with pytest.raises(SelectionError, match="batch-norm"):
        plan_fold(child, only="batchnorm")
    with pytest.raises(SelectionError):
        plan_fold(child, "conv9")
    with pytest.raises(Refusal) as caught:
        plan_fold(parent)
    assert caught.value.code == "nothing-to-fold"


def test_values_that_mean_something_else_get_another_name() -> None:
    net = Net()
    x = net.matmul(net.input("x", ["N", 4]), 6, 4, name="up")
    y = net.node("Mul", [x, net.weight("gamma", net.draw(6))], "scaled")
    net.output(net.matmul(net.relu(y), 3, 6, name="down"), ["N", 3])
    parent = from_proto(net.model())
    child = fold(parent)
    assert {plan.kind for plan in child.plans if plan.morph == "fold"} == {"batch-norm"}
    assert "scaled" in names(child.model) and "up_matmul" not in names(child.model)
    assert verify(parent, child.model, provider="cpu", faults=False).equivalent


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        (["conv3.0.weight", "conv3.1.weight"], "conv3.weight"),
        (["conv3.0", "conv3.1"], "conv3"),
        (["/c/0/Conv", "/c/1/Conv"], "/c/Conv"),
        (["/c/0/ConvTranspose", "/c/1/Conv"], "/c/ConvTranspose"),
        (["a.path0.weight", "a.path1.0.weight"], "a.weight"),
        (["conv3.weight", "conv3.1.weight"], "conv3.weight"),
        (["features.0.0.weight", "features.0.1.weight"], "features.0.weight"),
        (["conv1.weight", "conv2.weight"], "conv1.weight"),
        (["0.weight", "1.weight"], "0.weight"),
        (["only"], "only"),
    ],
)
def test_parts_are_named_after_what_they_were_made_of(parts: list[str], whole: str) -> None:
    assert shared_name(parts) == whole


# -- geometry: every composition that is found is right ----------------------------------------------------------------


def carried_out(rule: Rule, proto: onnx.ModelProto) -> ir.Model | None:
    """The first finding of a rule carried out, ``None`` where it finds nothing."""
    model = from_proto(proto)
    view = View(model)
    found = next(iter(rule.find(view)), None)
    if found is None:
        return None
    rule.carry_out(view, [found])
    return model


small = st.integers(1, 3)
pad = st.integers(0, 2)
sometimes = st.booleans()
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(
    kernels=st.tuples(small, small, small, small),
    strides=st.tuples(small, small),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(pad, pad, pad, pad, st.sampled_from([0, 0, 1]), st.sampled_from([0, 0, 1])),
    groups=st.sampled_from([1, 2]),
    biases=st.tuples(sometimes, sometimes),
    transposed=sometimes,
    seed=st.integers(0, 99),
)
def test_a_chain_that_is_composed_computes_the_same(
    kernels: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: tuple[int, ...],
    groups: int,
    biases: tuple[bool, bool],
    transposed: bool,
    seed: int,
) -> None:
    net = Net(seed=seed)
    x = net.input("x", ["N", 4, "H", "W"])
    first = {"pads": list(pads[:4]), "strides": [strides[0], 1], "dilations": [dilations[0]] * 2, "group": groups}
    if transposed:
        first["pads"] = [
            min(size, (kernel - 1) * dilations[0]) for size, kernel in zip(pads[:4], kernels[:2] * 2, strict=True)
        ]
    op = "ConvTranspose" if transposed else "Conv"
    y = net.conv(x, 6, 4, kernels[:2], name="a", op=op, bias=biases[0], **first)
    second = {"pads": [pads[4], pads[5]] * 2, "strides": [strides[1], 1], "dilations": [dilations[1]] * 2}
    net.output(net.conv(y, 4, 6, kernels[2:], name="b", bias=biases[1], group=groups, **second), ["N", 4, None, None])
    proto = net.model()
    child = carried_out(ChainRule(mirrored=False, larger=True), proto)
    if child is None:
        return
    assert len(layers(child)) == 1
    assert_same(proto, child, roundings=256)


def test_chains_are_found_at_the_borders_that_allow_it() -> None:
    def chain(bias: bool = False, **second: Any) -> bool:
        net = Net()
        y = net.conv(net.input("x", ["N", 4, "H", "W"]), 9, 4, (1, 3), name="a", bias=bias, pads=[0, 1, 0, 1])
        net.output(net.conv(y, 4, 9, (3, 1), name="b", **second), ["N", 4, None, None])
        return carried_out(ChainRule(mirrored=False, larger=True), net.model()) is not None

    assert chain(pads=[1, 0, 1, 0])  # rows beyond the border are zero: one tap, no padding, no bias there
    assert not chain(pads=[0, 1, 0, 1])
    assert not chain(bias=True, pads=[1, 0, 1, 0]) and chain(bias=True)
    assert chain() and chain(strides=[2, 1]) and chain(dilations=[3, 1])


@pytest.mark.parametrize(("crop", "bias", "folds"), [(0, False, True), (1, False, False), (0, True, False)])
def test_beyond_a_transposed_convolution_is_zero_only_where_it_crops_nothing(
    crop: int, bias: bool, folds: bool
) -> None:
    net = Net()
    x = net.input("x", ["N", 4, "H"])
    y = net.conv(x, 6, 4, (3,), name="a", op="ConvTranspose", bias=bias, strides=[2], pads=[crop, crop])
    net.output(net.conv(y, 4, 6, (3,), name="b", pads=[1, 1]), ["N", 4, None])
    proto = net.model()
    child = carried_out(ChainRule(mirrored=False, larger=True), proto)
    assert (child is not None) == folds
    if child is not None:
        assert_same(proto, child, roundings=256)


@quick
@given(
    kernels=st.tuples(small, small),
    shift=st.integers(0, 2),
    dilation=st.integers(1, 2),
    stride=small,
    groups=st.sampled_from([1, 2]),
    transposed=sometimes,
    biases=st.tuples(sometimes, sometimes),
)
def test_a_sum_of_two_layers_that_is_one_computes_the_same(
    kernels: tuple[int, int],
    shift: int,
    dilation: int,
    stride: int,
    groups: int,
    transposed: bool,
    biases: tuple[bool, bool],
) -> None:
    net = Net()
    x = net.input("x", ["N", 4, "H"])
    op = "ConvTranspose" if transposed else "Conv"
    kernels = (min(kernels), max(kernels))
    reach = dilation * (kernels[1] - kernels[0])
    before = min(dilation * shift, reach)
    pads = [[0, 0], [before, reach - before]]
    made = [
        net.conv(
            x,
            6,
            4,
            (kernels[side],),
            name=name,
            op=op,
            bias=biases[side],
            group=groups,
            strides=[stride],
            dilations=[dilation],
            pads=pads[side],
        )
        for side, name in enumerate("ab")
    ]
    net.output(net.node("Add", made, "sum"), ["N", 6, None])
    proto = net.model()
    child = carried_out(SumRule(), proto)
    assert child is not None and len(layers(child)) == 1
    assert_same(proto, child, roundings=256)


@quick
@given(
    rim=st.tuples(pad, pad, pad, pad),
    pads=st.tuples(pad, pad, pad, pad),
    dilation=st.integers(1, 2),
    stride=st.integers(1, 2),
    transposed=sometimes,
)
def test_a_zero_rim_is_cut_as_far_as_the_padding_goes(
    rim: tuple[int, ...], pads: tuple[int, ...], dilation: int, stride: int, transposed: bool
) -> None:
    net = Net()
    kernel = (2 + rim[0] + rim[2], 1 + rim[1] + rim[3])
    # The oracle's smallest map is 9 wide: a kernel that reaches farther does not run on it.
    assume(transposed or all(dilation * (taps - 1) + 1 <= 9 for taps in kernel))
    y = net.conv(
        net.input("x", ["N", 4, "H", "W"]),
        6,
        4,
        kernel,
        name="a",
        op="ConvTranspose" if transposed else "Conv",
        pads=list(pads),
        dilations=[dilation] * 2,
        strides=[stride] * 2,
    )
    net.output(y, ["N", 6, None, None])
    proto = net.model()
    for tensor in proto.graph.initializer:
        if tensor.name == "a.weight":
            whole = onnx.numpy_helper.to_array(tensor)
            inner = (..., slice(rim[0], kernel[0] - rim[2]), slice(rim[1], kernel[1] - rim[3]))
            zeroed = np.zeros_like(whole)
            zeroed[inner] = whole[inner]
            tensor.CopyFrom(onnx.numpy_helper.from_array(zeroed, tensor.name))
    child = carried_out(KernelRule(), proto)
    lost = [min(taps, width // dilation) for taps, width in zip(rim, pads, strict=True)]
    if not any(lost):
        assert child is None
        return
    assert child is not None
    assert layers(child)[0].kernel == (kernel[0] - lost[0] - lost[2], kernel[1] - lost[1] - lost[3])
    assert_same(proto, child, tolerance=0.0)


# -- what is left alone ------------------------------------------------------------------------------------------------


def normalised(**options: Any) -> Net:
    net = Net(**options)
    net.batch_norm(net.conv(net.input("x", ["N", 4, 8, 8]), 6, 4, name="conv1", pads=[1] * 4), 6)
    return net


def test_a_batch_norm_stays_where_its_input_has_another_reader() -> None:
    net = normalised()
    net.output("bn1_out", ["N", 6, 8, 8])
    net.output("conv1_out", ["N", 6, 8, 8])
    assert folded(model := from_proto(net.model())) is model


def test_a_batch_norm_that_trains_stays() -> None:
    net = normalised()
    net.output("bn1_out", ["N", 6, 8, 8])
    proto = net.model()
    norm = next(node for node in proto.graph.node if node.op_type == "BatchNormalization")
    norm.attribute.append(onnx.helper.make_attribute("training_mode", 1))
    norm.output.extend(["mean", "variance"])
    assert folded(model := from_proto(proto)) is model


def test_a_batch_norm_whose_numbers_a_caller_may_replace_stays() -> None:
    net = normalised()
    net.output("bn1_out", ["N", 6, 8, 8])
    net.inputs.append(onnx.helper.make_tensor_value_info("bn1.weight", onnx.TensorProto.FLOAT, [6]))
    assert folded(model := from_proto(net.model())) is model


@pytest.mark.parametrize(("padding", "folds"), [(0, True), (1, False)])
def test_a_batch_norm_goes_into_the_layer_after_it_only_where_that_pads_nothing(padding: int, folds: bool) -> None:
    net = Net()
    x = net.batch_norm(net.relu(net.input("x", ["N", 4, 8, 8])), 4)
    net.output(net.conv(x, 6, 4, name="conv1", pads=[padding] * 4), ["N", 6, None, None])
    proto = net.model()
    model = from_proto(proto)
    child = folded(model)
    assert (child is not model) == folds
    assert_same(proto, child, roundings=256)


def test_layers_that_share_their_weight_stay() -> None:
    net = Net()
    weight = net.weight("w", net.draw(4, 4))
    x = net.node("MatMul", [net.input("x", ["N", 4]), weight], "one")
    net.output(net.node("MatMul", [x, weight], "two"), ["N", 4])
    assert folded(model := from_proto(net.model())) is model


def test_a_composition_with_more_numbers_is_left_as_two_layers() -> None:
    net = Net()
    x = net.matmul(net.input("x", ["N", 16]), 2, 16, name="down", bias="none")
    net.output(net.matmul(x, 16, 2, name="up"), ["N", 16])
    assert folded(model := from_proto(net.model())) is model


def test_an_unknown_operator_between_is_a_barrier() -> None:
    net = Net()
    x = net.node("Odd", [net.matmul(net.input("x", ["N", 4]), 6, 4, name="a")], "odd", domain="custom")
    net.output(net.matmul(x, 3, 6, name="b"), ["N", 3])
    proto = net.model()
    for tensor in proto.graph.initializer:
        if tensor.name == "b.weight":
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[2] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    assert folded(model := from_proto(proto)) is model


def set_tensor(proto: onnx.ModelProto, name: str, change: Callable[[np.ndarray], None]) -> None:
    """Change an initializer of a model."""
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
    array = onnx.numpy_helper.to_array(tensor).copy()
    change(array)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))


def assign(where: Any, value: Any) -> Callable[[np.ndarray], None]:
    def change(array: np.ndarray) -> None:
        array[where] = array[value] if isinstance(value, slice) else value

    return change


def test_copies_beside_other_channels_under_one_mean_stay() -> None:
    net = Net()
    x = net.input("x", ["N", 4])
    joint = net.node("Concat", [net.gemm(x, 6, 4, name="a"), net.gemm(x, 4, 4, name="b")], "joint", axis=1)
    scale, shift = net.weight("scale", net.draw(10)), net.weight("shift", net.draw(10))
    y = net.node("LayerNormalization", [joint, scale, shift], "normed", axis=-1)
    net.output(net.gemm(y, 3, 10, name="c"), ["N", 3])
    proto = net.model()
    for name in ("a.weight", "a.bias", "scale", "shift"):
        set_tensor(proto, name, assign(slice(3, 6), slice(0, 3)))
    assert folded(model := from_proto(proto)) is model


def test_a_constant_channel_goes_into_the_next_bias_where_no_padding_sees_it() -> None:
    for padding in (0, 1):
        net = Net()
        x = net.conv(net.input("x", ["N", 4, 8, 8]), 6, 4, name="a", pads=[1] * 4)
        net.output(net.conv(net.relu(x), 5, 6, name="b", pads=[padding] * 4), ["N", 5, None, None])
        proto = net.model()
        set_tensor(proto, "a.weight", assign([1, 4], 0))
        set_tensor(proto, "a.bias", assign(1, 0.5))
        set_tensor(proto, "a.bias", assign(4, -0.5))
        child = folded(from_proto(proto))
        assert layers(child)[0].out_channels == (5 if padding else 4)
        assert_same(proto, child, roundings=256)


def test_channels_never_run_out() -> None:
    net = Net()
    x = net.relu(net.gemm(net.input("x", ["N", 4]), 6, 4, name="a"))
    net.output(net.gemm(x, 3, 6, name="b"), ["N", 3])
    proto = net.model()
    set_tensor(proto, "b.weight", assign(..., 0))
    child = folded(from_proto(proto))
    assert layers(child)[0].out_channels == 1
    assert_same(proto, child, tolerance=0.0)


def test_weights_that_are_not_finite_do_not_keep_others_from_folding() -> None:
    net = normalised()
    net.output(net.conv("bn1_out", 4, 6, name="conv2"), ["N", 4, 6, 6])
    proto = net.model()
    set_tensor(proto, "conv2.weight", assign((0, 0, 0, 0), np.nan))
    assert [plan.kind for plan in plan_fold(from_proto(proto))] == ["batch-norm"]


def test_every_kind_is_found_somewhere() -> None:
    proto = build("topology/pre_activation")
    model = from_proto(proto)
    seen = {plan.kind for plan in plan_fold(model)}
    layer = layers(model)[0]
    for name in ("deepen mirror", "deepen netmorph", "deepen identity 3", "deepen residual", "kernel"):
        child = apply(model, [MORPHS[name](model, layer)]).model  # type: ignore[list-item]
        seen |= {plan.kind for plan in plan_fold(child)}
    for name in ("widen pair", "subnet stacked"):
        child = apply(model, [MORPHS[name](model, layer)]).model  # type: ignore[list-item]
        seen |= {plan.kind for plan in plan_fold(child)}
    assert seen == set(FOLDS) - {"freeze"}


def replaceable(ir_version: int = 8) -> ir.Model:
    """Two layers whose weights are graph inputs too, one behind a Transpose."""
    model = onnx.parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["" : 13]> g '
        "(float[N,4] x, float[8,4] w1, float[8] b1, float[8,3] w2) => (float[N,3] y)"
        " { t = Transpose<perm=[1,0]>(w1) m = MatMul(x, t) h = Add(m, b1) r = Relu(h) y = MatMul(r, w2) }"
    )
    draw = np.random.default_rng(0)
    for name, shape in (("w1", (8, 4)), ("b1", (8,)), ("w2", (8, 3))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(draw.standard_normal(shape).astype("f4"), name))
    return from_proto(model)


def test_weights_that_callers_could_replace_become_constants_when_asked() -> None:
    parent = replaceable()
    assert [layer.blocked is not None for layer in layers(parent)] == [True, True]
    with pytest.raises(Refusal, match="nothing folds"):
        fold(parent)
    child = fold(parent, only="freeze")
    assert [value.name for value in child.model.graph.inputs] == ["x"]
    assert list(child.model.graph.initializers) == list(parent.graph.initializers)
    assert [layer.blocked for layer in layers(child.model)] == [None, None]
    certificate = verify(parent, child.model, provider="cpu")
    assert certificate.equivalent and "no longer can be" in certificate.warnings[0]
    again = plan_from_record(files.records(child.model)[0]).apply(parent)
    assert files.content_hash(again.model) == files.content_hash(child.model)


def test_freezing_one_layer_leaves_the_weights_of_the_others() -> None:
    child = fold(replaceable(), "m", only="freeze").model
    assert [value.name for value in child.graph.inputs] == ["x", "w2"]
    assert [layer.blocked is None for layer in layers(child)] == [True, False]


def test_files_that_had_to_list_their_weights_have_nothing_to_freeze() -> None:
    with pytest.raises(Refusal, match="nothing of the kinds freeze"):
        fold(replaceable(ir_version=3), only="freeze")
