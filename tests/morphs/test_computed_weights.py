"""Weights that are computed from stored numbers: an index map goes through layout, and around everything else.

Zeros that are written into ``w`` are no zeros of ``exp(w)``, of ``w - 128`` (integers dequantised by hand) or of
``max(w, 0.1)``; copies that share ``w`` do not share ``tanh(w)``. There the result is what changes, and is stored.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxmorph._ir import ir
from onnxmorph.errors import Refusal
from onnxmorph.graph.axes import CoupledAxes, GroupTable
from onnxmorph.graph.layers import layers
from onnxmorph.morphs import plan_shrink, plan_widen
from onnxmorph.plan import apply
from tests.graph.axes import nets
from tests.graph.axes.nets import Net

Weight = Callable[[Net], str]


def _integers(net: Net, *scale: int) -> str:
    stored = net.const(net.random.integers(0, 255, (8, 3)).astype(np.uint8))
    point = net.const(net.random.integers(100, 150, scale).astype(np.float32))
    return net.one("Mul", net.op("Sub", net.op("Cast", stored, to=TensorProto.FLOAT), point), net.positive(*scale))


def _normalised(net: Net, axis: int) -> str:
    weight = net.weight(8, 3)
    return net.one("Div", weight, net.op("ReduceL2", weight, net.ints(axis), keepdims=1))


def _four_bits(net: Net) -> str:
    packed = net.const(net.random.integers(0, 255, (8, 3)).astype(np.uint8))
    return net.one("Cast", net.op("BitwiseAnd", packed, net.const(np.uint8(15))), to=TensorProto.FLOAT)


def _blocks(net: Net) -> str:
    stored = net.const(net.random.integers(-90, 90, (8, 3)).astype(np.int8))
    return net.one("DequantizeLinear", stored, net.positive(4, 3), axis=0, block_size=2)


def _mask(net: Net) -> str:
    return net.const((net.random.random((8, 3)) > 0.5).astype(np.float32))


_FULL = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.125])

COMPUTED: dict[str, Weight] = {
    "exp": lambda net: net.one("Exp", net.weight(8, 3)),
    "tanh": lambda net: net.one("Tanh", net.weight(8, 3)),
    "sigmoid": lambda net: net.one("Sigmoid", net.weight(8, 3)),
    "reciprocal": lambda net: net.one("Reciprocal", net.positive(8, 3)),
    "square": lambda net: net.one("Pow", net.weight(8, 3), net.const(np.float32(2))),
    "clipped": lambda net: net.one("Clip", net.weight(8, 3), net.const(np.float32(0.1)), net.const(np.float32(0.3))),
    "masked": lambda net: net.one("Mul", net.weight(8, 3), _mask(net)),
    "scaled_rows": lambda net: net.one("Mul", net.weight(8, 3), net.weight(8, 1)),
    "divided_rows": lambda net: net.one("Div", net.weight(8, 3), net.positive(8, 1)),
    "shifted": lambda net: net.one("Add", net.weight(8, 3), net.const(np.float32(1))),
    "low_rank": lambda net: net.one("Add", net.weight(8, 3), net.op("MatMul", net.weight(8, 2), net.weight(2, 3))),
    "dequantised_by_hand": _integers,
    "dequantised_by_hand_per_column": lambda net: _integers(net, 3),
    "dequantised_by_hand_per_row": lambda net: _integers(net, 8, 1),
    "dequantised_in_blocks": _blocks,
    "four_bits": _four_bits,
    "code_book": lambda net: net.one("Gather", net.weight(16), net.const(net.random.integers(0, 16, (8, 3)))),
    "norm_of_columns": lambda net: _normalised(net, 0),
    "norm_of_rows": lambda net: _normalised(net, 1),
    "one_number_everywhere": lambda net: net.one("ConstantOfShape", net.ints(8, 3), value=_FULL),
    "one_row_everywhere": lambda net: net.one("Expand", net.weight(1, 3), net.ints(8, 3)),
    "a_row_repeated": lambda net: net.one("Tile", net.weight(2, 3), net.ints(4, 1)),
    "padded": lambda net: net.one("Pad", net.weight(6, 3), net.ints(1, 0, 1, 0), net.const(np.float32(0.5))),
    "behind_layout": lambda net: net.one("Transpose", net.op("Exp", net.weight(3, 8)), perm=[1, 0]),
    "in_front_of_layout": lambda net: net.one("Exp", net.op("Transpose", net.weight(3, 8), perm=[1, 0])),
    "beside_a_stored_part": lambda net: net.one("Concat", net.weight(5, 3), net.op("Exp", net.weight(3, 3)), axis=0),
    "of_a_constant_node": lambda net: net.one("Exp", net.weight(8, 3, node=True)),
}


def _model(weight: Weight) -> ir.Model:
    net = Net(21)
    x = net.dense(net.input(["N", 4]), 4, 8)
    return net.model(net.op("MatMul", x, weight(net)))


def _check(parent: ir.Model, fill: str | None, to: int) -> None:
    plan = plan_widen(parent, "#0", to=to, fill=fill, seed=1)
    child = apply(parent, [plan]).model
    nets.assert_same(parent, child, 1e-4)
    assert all(np.isfinite(one).all() for one in nets.run(child, nets.feeds_of(parent)))


@pytest.mark.parametrize("fill", ["zero-out", "zero-in", "replicate", "pair"])
@pytest.mark.parametrize("name", COMPUTED)
def test_what_reads_new_channels_by_a_computed_weight(name: str, fill: str) -> None:
    parent = _model(COMPUTED[name])
    assert CoupledAxes.of(parent).barriers == []
    try:
        _check(parent, fill, 12)
    except Refusal as refusal:
        assert (name, refusal.code) in {("four_bits", "quantised")}


@pytest.mark.parametrize("name", COMPUTED)
def test_any_order_of_channels_by_a_computed_weight(name: str) -> None:
    parent = _model(COMPUTED[name])
    child, maps = nets.permuted(parent, 1)
    assert maps
    nets.assert_same(parent, child)


@pytest.mark.parametrize("fill", ["zero-out", "zero-in", "replicate", "pair"])
def test_a_tensor_that_is_used_as_it_is_and_computed_with(fill: str) -> None:
    net = Net()
    weight = net.weight(8, 3)
    one = net.op("Tanh", weight)
    x = net.dense(net.input(["N", 4]), 4, 8)
    y, z = (net.op("Relu", net.dense(x, 8, 8)) for _ in range(2))
    outputs = net.op("MatMul", x, weight), net.op("MatMul", y, one), net.op("MatMul", z, net.op("Exp", one))
    parent = net.model(*outputs)
    names = [layer.name for layer in layers(parent) if layer.out_channels == 8]
    assert len(names) == 3
    for name in names:
        child = apply(parent, [plan_widen(parent, name, to=12, fill=fill, seed=1)]).model
        nets.assert_same(parent, child, 1e-4)


def test_what_is_computed_is_stored_once_and_the_chain_goes() -> None:
    parent = _model(COMPUTED["dequantised_by_hand"])
    child = apply(parent, [plan_widen(parent, "#0", to=12, fill="zero-out")]).model
    assert [node.op_type for node in child.graph] == ["MatMul", "Add", "MatMul"]
    weight = child.graph.node(2).inputs[1]
    assert weight is not None and weight.is_initializer() and weight.name == parent.graph.node(5).inputs[1].name
    assert [node.op_type for node in parent.graph] == ["MatMul", "Add", "Cast", "Sub", "Mul", "MatMul"]


def test_channels_that_a_computed_weight_does_not_read_go() -> None:
    net = Net()
    x = net.dense(net.input(["N", 4]), 4, 8)
    weight = net.random.normal(size=(8, 3)).astype(np.float32)
    mask = np.ones((8, 1), dtype=np.float32)
    mask[[2, 5]] = 0
    parent = net.model(net.op("MatMul", x, net.op("Mul", net.const(weight), net.const(mask))))
    child = apply(parent, [plan_shrink(parent, "#0", to=6)]).model
    nets.assert_same(parent, child)
    with pytest.raises(Refusal, match="have an effect"):
        plan_shrink(parent, "#0", to=5)


def test_a_parameter_that_is_computed_grows_with_its_channels() -> None:
    for fill in ("zero-out", "replicate", "pair"):
        net = Net()
        x = net.op("Mul", net.dense(net.input(["N", 4]), 4, 8), net.op("Exp", net.weight(8)))
        root = net.op("Sqrt", net.op("Add", net.positive(8), net.const(np.float32(1e-5))))
        _check(net.model(net.dense(net.op("Div", x, root), 8, 3)), fill, 12)


def test_a_factor_stays_what_it_is_computed_from() -> None:
    for fill in ("zero-out", "zero-in", "replicate", "pair"):
        net = Net()
        share = net.weight(8)
        x = net.dense(net.input(["N", 4]), 4, 8)
        x = net.op("Add", net.op("Mul", net.op("Tanh", x), net.op("Sub", net.const(np.float32(1)), share)), x)
        parent = net.model(net.dense(net.op("Mul", x, net.op("Exp", share)), 8, 3))
        _check(parent, fill, 12)
        child = apply(parent, [plan_widen(parent, "#0", to=12, fill=fill)]).model
        assert [node.op_type for node in child.graph] == [node.op_type for node in parent.graph]


def test_what_cannot_be_computed_is_refused_with_a_way_out() -> None:
    net = Net()
    x = net.dense(net.input(["N", 4]), 4, 8)
    parent = net.model(net.op("MatMul", x, net.op("Softmax", net.weight(8, 3), axis=1)))
    with pytest.raises(Refusal, match=r"Softmax.*folds constants") as caught:
        plan_widen(parent, "#0", to=12)
    assert caught.value.code == "computed-constant"


@pytest.mark.parametrize("fill", ["zero-out", "zero-in", "replicate", "pair"])
def test_two_weights_that_are_contracted_together(fill: str) -> None:
    net = Net()
    x = net.dense(net.input(["N", 4]), 4, 8)
    _check(net.model(net.op("Einsum", x, net.weight(8, 3), net.weight(8, 3), equation="ni,io,io->no")), fill, 12)


def test_a_branch_of_a_constant_condition_is_no_constant() -> None:
    net = Net()
    x, y = net.dense(net.input(["N", 4]), 4, 8), net.dense(net.input(["N", 4]), 4, 8)
    branches = []
    for seed in (1, 2):
        body = Net(seed=seed)
        body.count = 1000 * seed
        out = body.op("Transpose", body.op("Relu", x), perm=[1, 0])
        branches.append(helper.make_graph(body.nodes, f"b{seed}", [], [helper.make_empty_tensor_value_info(out)]))
    z = net.op("If", net.const(np.array(True)), then_branch=branches[0], else_branch=branches[1])
    parent = net.model(net.op("MatMul", y, z))
    table = GroupTable(CoupledAxes.of(parent))
    assert "bilinear" in {one.kind for group in table.all() for one in group.conditions}


def test_rows_that_constant_indices_pick_stay() -> None:
    net = Net()
    x = net.dense(net.input(["N", 4]), 4, 8)
    parent = net.model(net.op("MatMul", x, net.op("Gather", net.weight(5, 3), net.ints(0, 1, 2, 3, 4, 0, 1, 2))))
    with pytest.raises(Refusal, match="constant indices"):
        plan_widen(parent, "#0", to=12)
