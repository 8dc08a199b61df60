"""Block duplication: the copy of a residual block begins as the identity, or the block is refused with its reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.graph.layers import layers
from onnxmorph.graph.residual import residual_units
from onnxmorph.morphs.duplicate import plan_duplicate
from onnxmorph.replay import replay
from tests.morphs.oracle import assert_same, from_proto, run
from tests.zoo_graphs import Net, build, example_inputs


def _stage(net: Net, x: str, name: str, *, channels: int = 4, end: str = "Relu") -> str:
    """A basic block of a ResNet: two convolutions, the add, the activation."""
    y = net.relu(net.conv(x, 6, channels, name=f"{name}.conv1", pads=[1, 1, 1, 1]), f"{name}.relu1")
    y = net.conv(y, channels, 6, name=f"{name}.conv2", pads=[1, 1, 1, 1])
    total = net.node("Add", [x, y], f"{name}.sum")
    return net.node(end, [total], f"{name}.out") if end else total


def _resnet(*, opset: int = 17, end: str = "Relu", store: str = "initializer", dtype: int = 1) -> onnx.ModelProto:
    net = Net(opset=opset, store=store, dtype=dtype)  # type: ignore[arg-type]
    x = net.input("x", ["N", 3, "H", "W"])
    y = net.relu(net.conv(x, 4, 3, name="stem", pads=[1, 1, 1, 1]), "stem.relu")
    y = _stage(net, _stage(net, y, "layer1.0", end=end), "layer1.1", end=end)
    net.output(net.conv(y, 2, 4, (1, 1), name="head"), ["N", 2, "H", "W"])
    return net.model()


def _norm(net: Net, x: str, name: str) -> str:
    gain, shift = net.weight(f"{name}.weight", net.draw(8)), net.weight(f"{name}.bias", net.draw(8))
    return net.node("LayerNormalization", [x, gain, shift], f"{name}_out", axis=-1)


def _mlp(net: Net, x: str, name: str) -> str:
    y = net.relu(net.matmul(x, 12, 8, name=f"{name}.fc1"), f"{name}.relu")
    return net.matmul(y, 8, 12, name=f"{name}.fc2")


def _transformer(*, post: bool = False, parallel: bool = False) -> onnx.ModelProto:
    """Two residual adds a block; both MLPs, since what is in a branch does not matter."""
    net = Net(opset=17)
    x = net.input("x", ["N", "T", 8])
    for i in range(2):
        block = f"blocks.{i}"
        if parallel:
            h = _norm(net, x, f"{block}.norm")
            y = net.node("Add", [x, _mlp(net, h, f"{block}.attn")], f"{block}.half")
            x = net.node("Add", [y, _mlp(net, h, f"{block}.mlp")], f"{block}.sum")
        else:
            for part in ("attn", "mlp"):
                given = x if post else _norm(net, x, f"{block}.{part}.norm")
                x = net.node("Add", [_mlp(net, given, f"{block}.{part}"), x], f"{block}.{part}.sum")
                x = _norm(net, x, f"{block}.{part}.norm") if post else x
    net.output(net.matmul(x, 5, 8, name="head"), ["N", "T", 5])
    return net.model()


def _duplicated(proto: onnx.ModelProto, first: str, last: str | None = None, times: int = 1) -> ir.Model:
    parent = from_proto(proto)
    before = files.content_hash(parent)
    plan = plan_duplicate(parent, first, last=last, times=times)
    child = plan.apply(parent)
    assert files.content_hash(parent) == before
    assert_same(proto, child.model, tolerance=0.0 if proto.graph.output else None)
    assert all(factor.occupancy == 0 for factor in child.factors)
    assert files.content_hash(replay(parent, files.records(child.model)).model) == files.content_hash(child.model)
    return child.model


@pytest.mark.parametrize("store", ["initializer", "constant"])
@pytest.mark.parametrize("opset", [9, 13, 17, 22])
def test_a_block_of_a_resnet_behind_relu_is_copied_exactly(opset: int, store: str) -> None:
    proto = _resnet(opset=opset, store=store)
    child = _duplicated(proto, "layer1.0.conv1")
    names = set(child.graph.initializers)
    assert {"layer1.0.copy.conv1.weight", "layer1.0.copy.conv2.weight", "layer1.0.copy.conv2.bias"} <= names
    copied = child.graph.initializers["layer1.0.copy.conv1.weight"].const_value
    assert copied is not None and np.any(copied.numpy())
    assert [layer.label for layer in layers(child)][1:5] == [
        "layer1.0.conv1",
        "layer1.0.conv2",
        "layer1.0.copy.conv1",
        "layer1.0.copy.conv2",
    ]


def test_initializers_that_are_inputs_too_stay_so() -> None:
    child = _duplicated(_resnet(opset=8, store="input"), "layer1.1.conv2")
    assert "layer1.1.copy.conv1.weight" in {value.name for value in child.graph.inputs}


def test_both_adds_of_a_transformer_block_are_copied_together() -> None:
    child = _duplicated(_transformer(), "blocks.0.attn.fc1", "blocks.0.mlp.fc2")
    assert "blocks.0.copy.attn.fc1.weight" in child.graph.initializers
    assert len(residual_units(child.graph)) == 6
    for part in ("attn", "mlp"):
        ended = child.graph.initializers[f"blocks.0.copy.{part}.fc2.weight"].const_value
        assert ended is not None and not np.any(ended.numpy())
        norm = child.graph.initializers[f"blocks.0.copy.{part}.norm.weight"].const_value
        assert norm is not None and np.any(norm.numpy())


def test_one_add_is_copied_alone_and_several_times() -> None:
    child = _duplicated(_transformer(), "blocks.1.mlp.fc1", times=3)
    assert len(residual_units(child.graph)) == 7
    assert {f"blocks.1.mlp.{name}.fc1.weight" for name in ("copy", "copy2", "copy3")} <= set(child.graph.initializers)


def test_layers_in_either_order_and_blocks_in_a_row_are_one_run() -> None:
    child = _duplicated(_transformer(), "blocks.1.mlp.fc2", "blocks.0.attn.fc1")
    assert len(residual_units(child.graph)) == 8


def test_parallel_branches_of_one_trunk_are_one_unit() -> None:
    child = _duplicated(_transformer(parallel=True), "blocks.0.attn.fc1")
    assert "blocks.0.copy.mlp.fc2.weight" in child.graph.initializers, "the other branch belongs to the same sum"


def test_a_copy_of_a_copy_has_names_of_its_own() -> None:
    proto = _resnet()
    once = _duplicated(proto, "layer1.0.conv1")
    twice = plan_duplicate(once, "layer1.0.copy.conv1").apply(once).model
    assert_same(proto, twice, tolerance=0.0)
    assert "layer1.0.copy.copy.conv1.weight" in twice.graph.initializers


@pytest.mark.parametrize("name", ["topology/residual", "block/inverted_residual", "block/layer_scale_nhwc"])
def test_blocks_of_the_generated_zoo(name: str) -> None:
    proto = build(name)
    parent = from_proto(proto)
    done = 0
    for layer in layers(parent):
        try:
            child = plan_duplicate(parent, layer).apply(parent)
        except Refusal:
            continue
        assert_same(proto, child.model, roundings=16)
        done += 1
    assert done


def test_a_batch_norm_at_the_end_of_a_branch_is_what_is_zero() -> None:
    child = _duplicated(build("block/inverted_residual"), "expand")
    scale = child.graph.initializers["bn3.weight.copy"].const_value
    assert scale is not None and not np.any(scale.numpy())
    kernel = child.graph.initializers["project.weight.copy"].const_value
    assert kernel is not None and np.any(kernel.numpy()), "so that the scale learns from the first step"


def test_masks_and_tables_stay_shared_and_what_comes_from_outside_is_said() -> None:
    net = Net(opset=17)
    x, mask = net.input("x", ["N", 5, 8]), net.input("mask", ["N", 5, 1])
    table = net.weight("table", net.draw(1, 1, 8) + net.draw(1, 1, 1))
    rotary = net.weight("rotary", net.draw(1, 5, 8))
    y = net.node("Mul", [net.matmul(x, 8, 8, name="a.fc1"), mask], "masked")
    y = net.node("Mul", [net.node("Mul", [y, table], "t"), rotary], "r")
    y = net.node("Add", [x, net.matmul(y, 8, 8, name="a.fc2")], "sum")
    net.output(net.node("Mul", [net.matmul(y, 3, 8, name="head"), net.scalar("one", 1.0)], "out"), ["N", 5, 3])
    proto = net.model()
    parent = from_proto(proto)
    made = plan_duplicate(parent, "a.fc1").apply(parent)
    assert any("'mask'" in note for note in made.notes)
    initializers = made.model.graph.initializers
    assert "rotary.copy" not in initializers and "table.copy" in initializers
    feeds = example_inputs(proto)
    one, two = run(proto, feeds), run(ir.to_proto(made.model), feeds)
    assert all(np.array_equal(one[name], two[name]) for name in one)


REFUSED = {
    "no residual": (lambda: build("topology/three_in_a_row"), "#0", "not-residual"),
    "leaky behind the sum": (lambda: _resnet(end="LeakyRelu"), "layer1.0.conv1", "activation-not-idempotent"),
    "post-norm": (lambda: _transformer(post=True), "blocks.0.mlp.fc1", "post-norm"),
    "stem": (_resnet, "stem", "not-residual"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_begin_as_the_identity_is_refused_by_name(case: str) -> None:
    make, layer, code = REFUSED[case]
    parent = from_proto(make())
    with pytest.raises(Refusal) as refused:
        plan_duplicate(parent, layer)
    assert refused.value.code == code


def test_a_run_over_a_post_norm_names_the_norm() -> None:
    parent = from_proto(_transformer(post=True))
    with pytest.raises(Refusal, match=r"post-norm.*not the identity"):
        plan_duplicate(parent, "blocks.0.attn.fc1", last="blocks.0.mlp.fc2")


def test_a_projected_shortcut_is_no_residual_block() -> None:
    net = Net()
    x = net.input("x", ["N", 3, "H", "W"])
    y = net.conv(net.relu(net.conv(x, 6, 3, pads=[1, 1, 1, 1])), 6, 6, name="conv2", pads=[1, 1, 1, 1])
    short = net.conv(x, 6, 3, (1, 1), name="short")
    net.output(net.node("Add", [y, short], "sum"), ["N", 6, "H", "W"])
    with pytest.raises(Refusal, match=r"no side of the sum '/sum/Add' it leads to is passed on unchanged"):
        plan_duplicate(from_proto(net.model()), "conv2")


def test_a_value_that_leaves_the_block_is_named() -> None:
    net = Net()
    x = net.input("x", ["N", 4, "H", "W"])
    y = net.relu(net.conv(x, 6, 4, pads=[1, 1, 1, 1]))
    z = net.conv(y, 4, 6, name="conv2", pads=[1, 1, 1, 1])
    net.output(net.node("Add", [x, z], "sum"), ["N", 4, "H", "W"])
    net.output(y, ["N", 6, "H", "W"])
    with pytest.raises(Refusal, match=r"'relu1_out', computed inside the block, is an output of the model"):
        plan_duplicate(from_proto(net.model()), "conv1")


def test_a_block_that_broadcasts_its_entry_is_refused() -> None:
    net = Net(opset=17)
    x = net.input("x", [2, 1, 8])
    y = net.matmul(x, 8, 8, name="fc1")
    y = net.node("Expand", [y, net.ints("dims", [2, 5, 8])], "wide")
    net.output(net.node("Add", [x, y], "sum"), [2, 5, 8])
    with pytest.raises(Refusal, match=r"takes \[2, 1, 8\] and gives \[2, 5, 8\]"):
        plan_duplicate(from_proto(net.model()), "fc1")


def test_an_activation_at_the_end_of_one_unit_only_would_change_what_the_next_gives() -> None:
    net = Net(opset=17)
    x = net.input("x", ["N", 8])
    y = net.relu(net.node("Add", [x, _mlp(net, x, "a")], "sum1"), "r1")
    y = net.node("Add", [y, _mlp(net, y, "b")], "sum2")
    net.output(net.matmul(y, 3, 8, name="head"), ["N", 3])
    proto = net.model()
    with pytest.raises(Refusal) as refused:
        plan_duplicate(from_proto(proto), "a.fc1", last="b.fc1")
    assert refused.value.code == "activation-differs"
    _duplicated(proto, "b.fc1")
    _duplicated(proto, "a.fc1")


def test_numbers_of_copies_have_bounds() -> None:
    with pytest.raises(SelectionError, match="0 copies"):
        plan_duplicate(from_proto(_resnet()), "layer1.0.conv1", times=0)


@pytest.mark.parametrize("order", ["shift last", "scale last"])
def test_a_normalisation_spelled_out_at_the_end_of_a_branch_adds_nothing(order: str) -> None:
    net = Net()
    x = net.input("x", ["N", 4, "H", "W"])
    y = net.relu(net.conv(x, 6, 4, pads=[1, 1, 1, 1], bias=False))
    y = net.conv(y, 4, 6, name="conv2", pads=[1, 1, 1, 1], bias=False)
    steps = [("Mul", "gain"), ("Add", "shift")]
    for op, name in steps if order == "shift last" else steps[::-1]:
        y = net.node(op, [y, net.weight(name, net.draw(4, 1, 1))], f"{name}ed")
    y = net.node("Add", [x, y], "sum")
    net.output(net.conv(y, 2, 4, (1, 1), name="head"), ["N", 2, "H", "W"])
    child = _duplicated(net.model(), "conv1")
    shift = child.graph.initializers["shift.copy"].const_value
    assert shift is not None and not np.any(shift.numpy())
