"""What a change touches, what it leaves alone, and what it refuses before anything is edited."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxmorph._ir import ir
from onnxmorph.errors import Refusal
from onnxmorph.graph.axes import (
    AxisEdit,
    CoupledAxes,
    Group,
    GroupTable,
    IndexMap,
    apply,
    group_of,
    replicate,
    zero_out,
)
from onnxmorph.graph.constants import stored
from tests.graph.axes import nets
from tests.graph.axes.cases import CASES


def value_of(model: ir.Model, name: str) -> ir.Value:
    for node in model.graph:
        for value in node.outputs:
            if value.name == name:
                return value
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        if value.name == name:
            return value
    raise KeyError(name)


def output_group(model: ir.Model, op: str, axis: int, occurrence: int = 0) -> Group:
    """The group of an axis of the n-th node of an operator."""
    nodes = [node for node in model.graph if node.op_type == op]
    return group_of(GroupTable(CoupledAxes.of(model)), nodes[occurrence].outputs[0], axis)


def test_tensors_that_are_not_touched_are_the_parents_own() -> None:
    parent = CASES["conv_plain"].build()
    group = output_group(parent, "Conv", 1)
    child = parent.clone()
    applied = apply(child, {group: IndexMap.widen(8, 11)}, zero_out())
    same = [
        name
        for name, value in parent.graph.initializers.items()
        if child.graph.initializers[name].const_value is value.const_value
    ]
    assert set(applied.tensors) == set(parent.graph.initializers) - set(same)
    assert len(same) == len(parent.graph.initializers) - 3  # weight, bias, next weight


def test_the_parent_is_not_changed() -> None:
    parent = CASES["attention_spelled_out"].build()
    before = ir.to_proto(parent).SerializeToString()
    nets.widened(parent)
    nets.permuted(parent)
    assert ir.to_proto(parent).SerializeToString() == before


def test_shapes_that_were_recorded_are_renewed() -> None:
    parent = CASES["conv_plain"].build()
    group = output_group(parent, "Conv", 1)
    child = parent.clone()
    apply(child, {group: IndexMap.widen(8, 11)})
    assert child.graph.node(0).outputs[0].shape is not None
    assert child.graph.node(0).outputs[0].shape[1] == 11  # type: ignore[index]


def test_values_that_move_without_changing_shape_are_renamed_and_outputs_are_not() -> None:
    parent = CASES["conv_plain"].build()
    child, _ = nets.permuted(parent)
    before = {value.name: value for node in parent.graph for value in node.outputs}
    after = {value.name for node in child.graph for value in node.outputs}
    kept = set(before) & after
    assert kept == {value.name for value in parent.graph.outputs}


def test_groups_attribute_follows_new_groups() -> None:
    parent = CASES["conv_grouped"].build()
    table = GroupTable(CoupledAxes.of(parent))
    rows = next(group for group in nets.weighty(table) if group.size == 2)
    child = parent.clone()
    apply(child, {rows: IndexMap.widen(2, 5)}, zero_out())
    grouped = [node for node in child.graph if node.op_type == "Conv"][1]
    assert grouped.attributes["group"].as_int() == 5
    nets.assert_same(parent, child)


def test_constant_nodes_become_initializers_of_the_same_name() -> None:
    parent = CASES["weight_behind_a_chain"].build()
    child, _ = nets.widened(parent)
    constant = next(node for node in parent.graph if node.op_type == "Constant")
    assert constant.outputs[0].name in child.graph.initializers


def test_a_reshape_target_of_minus_one_or_zero_is_left_alone() -> None:
    for name in ("flatten_by_computed_shape", "group_norm_spelled_out"):
        parent = CASES[name].build()
        child, maps = nets.widened(parent)
        assert maps
        nodes = [node.op_type for node in child.graph]
        assert nodes == [node.op_type for node in parent.graph]


def test_a_fixed_size_beside_a_dynamic_one_is_corrected() -> None:
    parent = CASES["flatten_by_fixed_shape_with_dynamic_batch"].build()
    child, _ = nets.widened(parent)
    nets.assert_same(parent, child)
    nets.assert_same(parent, child, dynamic=3)


def test_an_attention_scale_computed_from_the_head_size_stays() -> None:
    parent = CASES["attention_spelled_out"].build()
    table = GroupTable(CoupledAxes.of(parent))
    heads = next(group for group in nets.weighty(table) if any(c.kind == "bilinear" for c in group.conditions))
    child = parent.clone()

    def no_new_keys(edit: AxisEdit) -> None:
        """Everything new is 0, so new entries of the scores add nothing; only the scale could tell."""

    applied = apply(child, {heads: IndexMap.widen(4, 6)}, no_new_keys)
    assert applied.sizes
    nets.assert_same(parent, child)


def test_a_dropped_index_that_is_read_by_a_gather_is_refused_and_nothing_is_edited() -> None:
    parent = CASES["gather_channels_in_order"].build()
    table = GroupTable(CoupledAxes.of(parent))
    group = next(group for group in nets.weighty(table) if group.size == 8)
    child = parent.clone()
    before = ir.to_proto(child).SerializeToString()
    with pytest.raises(Refusal, match="index 3 is dropped"):
        apply(child, {group: IndexMap.keep(8, [0, 1, 2, 4, 5, 6, 7])})
    assert ir.to_proto(child).SerializeToString() == before


def test_a_pinned_group_is_refused_and_an_interface_changes_on_request() -> None:
    parent = CASES["conv_plain"].build()
    group = output_group(parent, "Conv", 1, 2)
    child = parent.clone()
    with pytest.raises(Refusal, match="graph output"):
        apply(child, {group: IndexMap.widen(4, 6)})
    apply(child, {group: IndexMap.widen(4, 6)}, zero_out(), interface=True)
    feeds = nets.feeds_of(parent)
    wide = nets.run(child, feeds)[0]
    np.testing.assert_allclose(wide[:, :4], nets.run(parent, feeds)[0], rtol=1e-5, atol=1e-6)
    assert wide.shape[1] == 6
    assert child.graph.outputs[0].shape is None or child.graph.outputs[0].shape[1] == 6


def test_dropping_dead_channels_is_exact() -> None:
    parent = CASES["conv_plain"].build()
    weight = [node for node in parent.graph if node.op_type == "Conv"][1].inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    dead = weight.const_value.numpy().copy()
    dead[:, [2, 5]] = 0  # nobody reads channels 2 and 5
    weight.const_value = ir.Tensor(dead, name=weight.name)
    group = output_group(parent, "Conv", 1)
    child = parent.clone()
    apply(child, {group: IndexMap.keep(8, [7, 0, 1, 3, 4, 6])})
    nets.assert_same(parent, child)


def test_copies_of_a_tied_or_quantised_tensor_are_refused_by_name() -> None:
    for name, code in (("embedding_tied_to_the_output", "tied"), ("integer_matmul", "quantised")):
        parent = CASES[name].build()
        table = GroupTable(CoupledAxes.of(parent))
        group = next(group for group in nets.weighty(table) if group.status == "free" and group.size in (6, 8))
        maps = {group: IndexMap(group.size, np.arange(group.size + 1) % group.size)}
        with pytest.raises(Refusal) as refusal:
            apply(parent.clone(), maps, replicate(maps))
        assert refusal.value.code == code


def test_zero_points_are_what_zero_means() -> None:
    parent = CASES["integer_matmul"].build()
    child, _ = nets.widened(parent)
    grown = [
        value.const_value.numpy()
        for name, value in child.graph.initializers.items()
        if value.const_value is not None
        and value.const_value.dtype == ir.DataType.UINT8
        and value.const_value.size > 1
        and value.const_value.shape != parent.graph.initializers[name].shape
    ]
    assert any((array == 131).all(axis=1).any() for array in grown)


def test_a_shared_uniform_constant_gets_a_copy_per_user() -> None:
    parent = CASES["shared_zeros_do_not_couple"].build()
    child, _ = nets.widened(parent)
    assert len(child.graph.initializers) > len(parent.graph.initializers)
    nets.assert_same(parent, child)


def test_overridable_initializers_are_pinned_unless_frozen() -> None:
    net = nets.Net(8)
    x = net.op("Relu", net.op("MatMul", net.input([2, 4]), net.weight(4, 8)))
    y = net.op("MatMul", x, net.weight(8, 3))
    net.inputs += [
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in net.initializers
    ]
    parent = net.model(y, ir_version=3)
    relu = value_of(parent, x)
    pinned = group_of(GroupTable(CoupledAxes.of(parent)), relu, 1)
    assert pinned.interface
    assert pinned.pins[0].kind == "overridable"
    group = group_of(GroupTable(CoupledAxes.of(parent, freeze=True)), relu, 1)
    child = parent.clone()
    apply(child, {group: IndexMap.widen(8, 9)}, zero_out())
    nets.assert_same(parent, child)


def _activations(*widths: int) -> ir.Model:
    net = nets.Net()
    inside = [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["a", "s"], ["b"])]
    net.functions.append(helper.make_function("here", "Act", ["a"], ["b"], inside, [helper.make_opsetid("", 20)]))
    x, before = net.input(["N", 4]), 4
    for width in widths:
        x, before = net.op("Act", net.dense(x, before, width), domain="here"), width
    return net.model(net.dense(x, before, 3))


def test_axes_of_one_size_through_two_calls_of_a_function_are_one_group() -> None:
    parent = _activations(8, 8)
    group = output_group(parent, "Add", 1)
    assert group.status == "free"
    assert sum(member.is_stored for member in group.members) == 6
    for change in (nets.permuted, nets.widened, nets.duplicated):
        child, maps = change(parent, 1)
        assert maps
        nets.assert_same(parent, child, 1e-4)


def test_axes_of_different_sizes_through_two_calls_of_a_function_are_blocked_with_a_reason() -> None:
    group = output_group(_activations(8, 6), "Add", 1)
    assert group.status == "blocked"
    assert "called with different sizes" in group.blocks[0].text


def test_a_map_of_the_wrong_size_and_an_edited_model_are_told() -> None:
    parent = CASES["conv_plain"].build()
    group = output_group(parent, "Conv", 1)
    with pytest.raises(ValueError, match="map of 7"):
        apply(parent.clone(), {group: IndexMap.identity(7)})
    other = CASES["gemm"].build()
    with pytest.raises(ValueError, match="no unedited clone"):
        apply(other, {group: IndexMap.widen(8, 9)})
    with pytest.raises(Refusal, match="all its indices"):
        apply(parent.clone(), {group: IndexMap(8, np.array([], dtype=np.int64))})


def test_new_entries_of_a_float16_model_are_float16() -> None:
    net = nets.Net()
    weights = [net.const(net.random.normal(size=shape).astype(np.float16)) for shape in ((4, 8), (8, 3))]
    x = net.op("MatMul", net.input([2, 4], TensorProto.FLOAT16), weights[0])
    parent = net.model(net.op("MatMul", net.op("Relu", x), weights[1]))
    child, _ = nets.widened(parent)
    assert {tensor.dtype for tensor in map(stored, child.graph.initializers.values()) if tensor} == {
        ir.DataType.FLOAT16
    }
    nets.assert_same(parent, child, 5e-3)


def test_an_outer_product_with_itself_widens_by_zero_out() -> None:
    parent = CASES["outer_product_with_itself"].build()
    table = GroupTable(CoupledAxes.of(parent))
    group = next(group for group in nets.weighty(table) if group.size == 6)
    assert [condition.kind for condition in group.conditions] == ["self-product"]
    child = parent.clone()
    apply(child, {group: IndexMap.widen(6, 8)}, zero_out())
    nets.assert_same(parent, child)


@pytest.mark.parametrize("name", ["flatten_by_a_product_of_sizes", "attention_spelled_out"])
def test_a_value_that_tells_a_size_that_changes_has_another_name(name: str) -> None:
    """Names keep their meaning: a list of sizes has one shape in parent and child, and says other things."""
    parent = CASES[name].build()
    told = [value.name or "" for node in parent.graph for value in node.outputs if _is_sizes(value)]
    child = nets.widened(parent)[0]
    kept = [value.name for node in child.graph for value in node.outputs if value.name in told]
    assert len(kept) < len(told)
    before, after = (_told(model, kept) for model in (parent, child))
    for one, two, which in zip(before, after, kept, strict=True):
        np.testing.assert_array_equal(one, two, err_msg=which)


def _is_sizes(value: ir.Value) -> bool:
    return value.dtype == ir.DataType.INT64 and not value.is_graph_output() and value.producer() is not None


def _told(model: ir.Model, names: list[str]) -> list[np.ndarray]:
    seen = model.clone()
    seen.graph.outputs.extend(value_of(seen, name) for name in names)
    return nets.run(seen, nets.feeds_of(seen))[len(model.graph.outputs) :]


@pytest.mark.parametrize("stride", [7, 9])
def test_indices_that_do_not_read_everything_in_order_pin_what_they_read(stride: int) -> None:
    parent = CASES["as_strided"].build()
    (node,) = [node for node in parent.graph if node.op_type == "Mul"]
    tensor = node.inputs[1]
    assert tensor is not None and tensor.const_value is not None
    tensor.const_value = ir.tensor(np.array(stride, np.int64))
    assert output_group(parent, "Conv", 1).status == "pinned"
