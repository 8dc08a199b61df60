"""A group says what hangs on it, and what sizes it can have."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from onnxmorph._ir import ir
from onnxmorph.errors import Refusal
from onnxmorph.graph.axes import CoupledAxes, GroupTable, IndexMap, decompose, group_of, groups, groups_of, resize
from tests.graph.axes import nets
from tests.graph.axes.cases import CASES


def table_of(name: str) -> GroupTable:
    return GroupTable(CoupledAxes.of(CASES[name].build()))


def output(table: GroupTable, op: str, occurrence: int = 0) -> ir.Value:
    nodes = [node for node in table.coupled.model.graph if node.op_type == op]
    return nodes[occurrence].outputs[0]


def test_a_group_prints_members_roles_and_places() -> None:
    table = table_of("concat")
    first = group_of(table, output(table, "Conv"), 1)
    text = first.describe()
    assert "group of 8 indices, free" in text
    assert "axis 0: produced" in text
    assert "axis 0: bias" in text
    assert "of 22 ([8|6|8]; offset 0 stride 1, offset 14 stride 1): contracted" in text


def test_a_long_group_is_cut_short() -> None:
    table = table_of("elementwise_many")
    assert "more" in group_of(table, output(table, "Conv"), 1).describe(limit=2)


def test_a_group_says_what_pins_conditions_and_constrains_it() -> None:
    table = table_of("group_norm")
    described = "\n".join(group.describe() for group in table.of_axis(output(table, "Conv"), 1))
    assert "condition: groupnorm over this axis by GroupNormalization" in described
    assert "constraint: num_groups=2 of GroupNormalization" in described
    last = table.of_axis(output(table, "Conv", 1), 1)[0]
    assert "pinned by: graph output" in last.describe()
    assert last.interface


def test_an_embedding_pins_its_rows_and_carries_its_columns() -> None:
    table = table_of("embedding")
    gathered = output(table, "Gather")
    assert group_of(table, gathered, 2).status == "free"
    vocabulary = [group for group in groups(table.coupled) if any(pin.kind == "vocabulary" for pin in group.pins)]
    assert {group.size for group in vocabulary} == {7}


def test_the_easiest_group_of_an_axis_comes_first() -> None:
    table = table_of("group_norm")
    value = output(table, "Conv")
    assert [group.size for group in groups_of(table, value, 1)] == [2, 4]
    assert group_of(table, value, 1).size == 2  # whole groups are free, what is inside is normalised


def test_a_size_that_fits_is_given_to_one_group() -> None:
    table = table_of("conv_grouped")
    value = output(table, "Conv")
    group, size = resize(table, value, 1, 12)
    assert (group.size, size) == (4, 6)
    group, size = resize(table, value, 1, 4)
    assert (group.size, size) == (4, 2)


def test_a_size_that_does_not_fit_names_the_nearest_and_the_reason() -> None:
    table = table_of("conv_grouped")
    with pytest.raises(Refusal, match=r"groups=2 of Conv.*10 and 12 can") as refusal:
        resize(table, output(table, "Conv"), 1, 11)
    assert refusal.value.code == "size-step"
    table = table_of("pixel_shuffle")
    with pytest.raises(Refusal, match=r"blocksize=2.*8 and 12 can"):
        resize(table, output(table, "Conv"), 1, 10)


def test_concatenated_halves_grow_one_after_the_other() -> None:
    table = table_of("split_unequal")
    group, size = resize(table, output(table, "Add"), 2, 9)
    assert size == group.size + 1


def test_an_axis_that_nothing_lets_change_says_why() -> None:
    table = table_of("conv_plain")
    with pytest.raises(Refusal, match="graph output") as refusal:
        resize(table, output(table, "Conv", 2), 1, 5)
    assert refusal.value.code == "graph-output"
    assert refusal.value.way_out is not None
    group, size = resize(table, output(table, "Conv", 2), 1, 5, interface=True)
    assert (group.size, size) == (4, 5)


def test_an_axis_of_unknown_size_has_no_group() -> None:
    table = table_of("conv_plain")
    with pytest.raises(Refusal, match="no size that is known"):
        group_of(table, output(table, "Conv"), 0)
    net = nets.Net()
    net.nodes.append(helper.make_node("Mystery", [net.input([2])], ["m"], domain="some.where"))
    table = GroupTable(CoupledAxes.of(net.model("m")))
    with pytest.raises(Refusal, match="rank"):
        table.of_axis(table.coupled.model.graph.node(0).outputs[0], 0)


def test_a_map_of_a_concatenated_axis_is_taken_apart() -> None:
    table = table_of("split_unequal")  # (3 | 5)
    value = output(table, "Add")
    kept = [2, 0, 4, 3, 7]
    maps = decompose(table, value, 2, IndexMap.keep(8, kept))
    by_size = {group.size: index_map.sources.tolist() for group, index_map in maps.items()}
    assert by_size == {3: [2, 0], 5: [1, 0, 4]}
    with pytest.raises(Refusal, match=r"\[3\|5\]"):
        decompose(table, value, 2, IndexMap.keep(8, [3, 0, 4]))  # across the cut
    assert decompose(table, value, 2, IndexMap.identity(8)) == {}


def test_a_map_of_a_product_treats_rows_alike() -> None:
    table = table_of("conv_grouped")  # (2, 4)
    value = output(table, "Conv")
    maps = decompose(table, value, 1, IndexMap.keep(8, [3, 1, 7, 5]))
    assert {group.size: index_map.sources.tolist() for group, index_map in maps.items()} == {4: [3, 1]}
    maps = decompose(table, value, 1, IndexMap.keep(8, [4, 5, 6, 7]))
    assert {group.size: index_map.sources.tolist() for group, index_map in maps.items()} == {2: [1]}
    with pytest.raises(Refusal, match="2x4"):
        decompose(table, value, 1, IndexMap.keep(8, [0, 1, 2, 4, 5, 7]))


def test_taking_apart_undoes_putting_together() -> None:
    random = np.random.default_rng(0)
    for name in ("concat", "conv_grouped", "channel_shuffle", "gated_by_split", "attention_spelled_out"):
        table = table_of(name)
        for value, axes in list(table.coupled.known_values()):
            for axis, expr in enumerate(axes):
                found = [g for g in table.of_axis(value, axis) if g.symmetric and g.size > 1]
                size = table.coupled.factors.size(expr)
                if not found or size is None:
                    continue
                maps = {
                    g: IndexMap.keep(g.size, random.permutation(g.size)[: random.integers(1, g.size + 1)])
                    for g in found
                }
                whole = table.coupled.factors.gather(expr, {g.atom: m.sources for g, m in maps.items()})
                again = decompose(table, value, axis, IndexMap(size, whole))
                sources = {g.atom: m.sources for g, m in again.items()}
                np.testing.assert_array_equal(table.coupled.factors.gather(expr, sources), whole)


def test_a_tied_table_names_the_way_out() -> None:
    table = GroupTable(CoupledAxes.of(CASES["embedding_tied_to_the_output"].build()))
    vocabulary = [group for group in table.all() if any(pin.kind == "vocabulary" for pin in group.pins)]
    refusals = [group.refusal(interface=True) for group in vocabulary]
    assert refusals
    assert all(refusal is not None and "--untie" in (refusal.way_out or "") for refusal in refusals)
