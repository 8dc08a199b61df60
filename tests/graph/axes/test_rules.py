"""Every rule by running it: random index maps before and after the operator, values compared in ONNX Runtime."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from onnx import helper

from onnxmorph._ir import ir
from onnxmorph.graph.axes import CoupledAxes, Group, GroupTable, IndexMap, zero_out
from onnxmorph.graph.axes.site import RULES
from tests.graph.axes import nets
from tests.graph.axes.cases import CASES, Case

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@every_case
def test_what_must_be_free_is_free(case: Case) -> None:
    table = GroupTable(CoupledAxes.of(case.build()))
    free = Counter(group.size for group in nets.weighty(table) if group.status == "free")
    mixed = Counter(group.size for group in nets.weighty(table) if group.status == "conditioned")
    missing = Counter(case.free) - free, Counter(case.conditioned) - mixed
    described = "\n".join(group.describe() for group in nets.weighty(table))
    assert not any(missing), f"{missing}\n{described}"


@every_case
def test_any_permutation_is_a_symmetry(case: Case) -> None:
    parent = case.build()
    for seed in range(2):
        child, maps = nets.permuted(parent, seed)
        assert maps
        nets.assert_same(parent, child, case.tolerance)


@every_case
def test_new_indices_that_nobody_reads_change_nothing(case: Case) -> None:
    parent = case.build()
    child, _ = nets.widened(parent, 1)
    nets.assert_same(parent, child, case.tolerance)


@every_case
def test_one_group_alone_can_grow(case: Case) -> None:
    parent = case.build()
    for group in nets.weighty(GroupTable(CoupledAxes.of(parent))):
        if group.status != "free":
            continue

        def only(other: Group, atom: int = group.atom) -> IndexMap | None:
            return IndexMap.widen(other.size, other.size + 2) if other.atom == atom else None

        child, maps = nets.changed(parent, only, zero_out(2))
        assert len(maps) == 1
        nets.assert_same(parent, child, case.tolerance)


UNSPLITTABLE = {"embedding_tied_to_the_output", "integer_matmul", "quantised_weights_and_activations"}


@every_case
def test_copies_share_what_they_feed(case: Case, request: pytest.FixtureRequest) -> None:
    if request.node.callspec.id in UNSPLITTABLE:
        pytest.skip("copies cannot be split here; refused by name")
    parent = case.build()
    child, _ = nets.duplicated(parent, 1)
    nets.assert_same(parent, child, max(case.tolerance, 1e-4))


@every_case
def test_widening_is_undone_by_dropping_what_is_new(case: Case) -> None:
    parent = case.build()
    table = GroupTable(CoupledAxes.of(parent))
    free = {group.atom: group for group in nets.weighty(table) if group.status == "free"}
    child, maps = nets.widened(parent, 3)
    if not maps:
        return
    # The child's groups are found again by where they lie: same value names, axes and places in the factors.
    found = {_place(group): group for group in nets.weighty(GroupTable(CoupledAxes.of(child)))}
    back = {}
    for group, index_map in maps.items():
        twin = found.get(_place(free[group.atom]))
        if twin is not None and twin.size == index_map.child_size and twin.status == "free":
            back[_place(twin)] = index_map.inverse()
    again, undone = nets.changed(child, lambda group: back.get(_place(group)))
    assert len(undone) == len(maps)
    nets.assert_same(parent, again, case.tolerance)


def _place(group: Group) -> tuple[object, ...]:
    leaves = group.coupled.factors.leaves
    return tuple(
        (member.value.name, member.axis, tuple(leaf == group.atom for leaf in leaves(member.expr)))
        for member in group.members
        if not member.is_stored and "_resized" not in (member.value.name or "")
    )[:1]


def test_every_operator_of_a_case_has_a_rule() -> None:
    used = {(node.domain, node.op_type) for case in CASES.values() for node in case.build().graph}
    assert used - set(RULES) <= {("", "Constant"), ("", "Shape"), ("", "Size"), ("here", "Dense")}


def test_an_unknown_operator_is_a_barrier_with_a_reason() -> None:
    net = nets.Net()
    x = net.dense(net.input(["N", 4]), 4, 8)
    net.nodes.append(helper.make_node("Mystery", [x], ["m"], name="the_node", domain="some.where"))
    table = GroupTable(CoupledAxes.of(net.model(net.dense("m", 8, 3))))
    group = table.of_axis(net_value(table, x), 1)[0]
    assert group.status == "blocked"
    assert group.blocks[0].kind == "unknown-op"
    assert "some.where.Mystery" in group.blocks[0].text
    assert "the_node" in group.blocks[0].text


def net_value(table: GroupTable, name: str) -> ir.Value:
    for value, _ in table.coupled.known_values():
        if value.name == name:
            return value
    raise KeyError(name)


def test_an_order_that_matters_is_not_permuted() -> None:
    for op in ("LRN", "CumSum", "Hardmax"):
        net = nets.Net()
        x = net.conv(net.input(["N", 3, 4, 4]), 3, 8)
        if op == "CumSum":
            y = net.op(op, x, net.const(np.int64(1)))
        else:
            y = net.op(op, x, size=3) if op == "LRN" else net.op(op, x, axis=1)
        table = GroupTable(CoupledAxes.of(net.model(net.conv(y, 8, 2))))
        assert not table.of_axis(net_value(table, x), 1)[0].symmetric


def test_a_crop_that_keeps_the_number_of_channels_pins_them() -> None:
    net = nets.Net()
    x = net.conv(net.input([1, 3, 4, 4]), 3, 8)
    region = net.const(np.array([0, 0.5, 0, 0, 1, 1, 1, 1], np.float32))
    mode = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"}
    y = net.op("Resize", x, region, "", net.ints(1, 8, 6, 6), **mode)
    table = GroupTable(CoupledAxes.of(net.model(net.conv(y, 8, 2))))
    assert table.of_axis(net_value(table, x), 1)[0].status == "pinned"


def test_a_malformed_node_is_a_barrier_and_no_traceback() -> None:
    for order in ([0, 7], [0]):
        net = nets.Net()
        x = net.dense(net.input(["N", 4]), 4, 8)
        net.nodes.append(helper.make_node("Transpose", [x], ["t"], name="bad", perm=order))
        net.nodes.append(helper.make_node("Gemm", ["t"], ["g"], name="short"))
        coupled = CoupledAxes.of(net.model(net.dense("g", 8, 3)))
        assert len(coupled.barriers) >= 2
        assert all("'bad'" in reason or "short" in reason or "rank" in reason for _, reason in coupled.barriers)


def test_no_case_and_no_rule_is_malformed() -> None:
    for case in CASES.values():
        assert CoupledAxes.of(case.build()).barriers == []


def test_a_dense_block_hundreds_of_layers_deep() -> None:
    net = nets.Net()
    x, width = net.dense(net.input(["N", 4]), 4, 3), 3
    for _ in range(200):
        x, width = net.one("Concat", x, net.dense(x, width, 2), axis=1), width + 2
    coupled = CoupledAxes.of(net.model(net.dense(x, width, 2)))
    assert coupled.barriers == []
    free = [group for group in nets.weighty(GroupTable(coupled)) if group.status == "free"]
    assert len(free) == 201


def test_an_open_axis_that_a_reshape_takes_for_one_is_one() -> None:
    # As exported by a trace with a batch of 1: view(T, 1, 3, 4) of (T, N, 12).
    net = nets.Net()
    x = net.dense(net.input(["T", "N", 5]), 5, 12)
    steps = net.op("Gather", net.op("Shape", x), net.ints(0), axis=0)
    parts = net.op("Reshape", x, net.op("Concat", steps, net.ints(1, 3, 4), axis=0))
    parent = net.model(net.dense(net.op("ReduceSum", parts, net.ints(2), keepdims=0), 4, 2))
    coupled = CoupledAxes.of(parent)
    assert coupled.barriers == []
    assert 4 in [group.size for group in nets.weighty(GroupTable(coupled)) if group.status == "free"]
    child, maps = nets.widened(parent, 1)
    assert maps
    nets.assert_same(parent, child, dynamic=1)
