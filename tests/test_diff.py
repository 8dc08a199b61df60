"""What two models differ in, told as data, text, Markdown and HTML."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.diff import Diff, NodeChange, diff, new_records
from onnxmorph.graph.layers import layers
from onnxmorph.morphs import plan_activate, plan_deepen, plan_kernel, plan_widen
from onnxmorph.plan import apply
from onnxmorph.records import replace_records
from onnxmorph.report.diff import as_html, as_markdown, as_text, mermaid
from tests.morphs.oracle import from_proto
from tests.zoo_graphs import CASES, Net, build

MODELS = Path(__file__).resolve().parents[1] / "models"


@pytest.fixture
def parent() -> ir.Model:
    return files.load(MODELS / "digits_cnn.onnx")


def _kinds(found: Diff) -> list[tuple[str, str, str]]:
    return [(change.kind, change.op, change.name) for change in found.nodes]


@pytest.mark.parametrize("name", sorted(set(CASES) - {"weights/behind_constant_sparse"}))
def test_a_model_does_not_differ_from_itself(name: str) -> None:
    model = from_proto(build(name))
    found = diff(model, files.clone(model))
    assert found.same and found.summary() == "no difference"
    assert (found.records, found.picture.nodes) == ((), ())


def test_a_grown_kernel_is_one_changed_node_and_one_changed_tensor(parent: ir.Model) -> None:
    found = diff(parent, apply(parent, [plan_kernel(parent, "conv1", to=5)]).model)
    assert found.nodes == (
        NodeChange(
            "changed",
            "/features/conv1/Conv",
            "",
            "Conv",
            ("kernel_shape [3, 3] -> [5, 5]", "pads [1, 1, 1, 1] -> [2, 2, 2, 2]"),
        ),
    )
    (tensor,) = found.tensors
    assert (tensor.kind, tensor.name) == ("changed", "features.conv1.weight")
    assert (tensor.before, tensor.after, tensor.max_abs) == ("float 16x1x3x3", "float 16x1x5x5", None)
    assert found.totals[1].parameters - found.totals[0].parameters == 16 * (25 - 9)
    assert found.summary() == "1 node changed, 1 tensor changed"
    assert [record["morph"] for record in found.records] == ["kernel"]


def test_depth_is_nodes_added_and_the_picture_joins_them(parent: ir.Model) -> None:
    child = apply(parent, [plan_deepen(parent, "conv2", method="residual")]).model
    found = diff(parent, child)
    assert ("added", "Conv", "/features/conv2/1/Conv") in _kinds(found)
    shown = {node.name: node.kind for node in found.picture.nodes}
    assert shown["/features/conv2/1/Conv"] == "added" and "kept" in shown.values()
    assert "/features/conv3/Conv" not in shown, "only neighbours"
    names = [node.name for node in found.picture.nodes]
    edges = {(names[one], names[two]) for one, two, _ in found.picture.edges}
    assert ("/features/conv2/2/Conv", "/features/conv2/residual/Add") in edges
    back = diff(child, parent)
    assert ("removed", "Conv", "/features/conv2/1/Conv") in _kinds(back)
    assert {node.kind for node in back.picture.nodes if node.name == "/features/conv2/1/Conv"} == {"removed"}


def test_what_gives_the_same_value_under_another_name_is_the_same_node(parent: ir.Model) -> None:
    found = diff(parent, apply(parent, [plan_deepen(parent, "conv2")]).model)
    (last,) = (change for change in found.nodes if change.kind == "changed")
    assert last.name == "/features/conv2/1/Conv" and "was called /features/conv2/Conv" in last.details


def test_width_shows_the_shapes_of_values(parent: ir.Model) -> None:
    found = diff(parent, apply(parent, [plan_widen(parent, "conv2", to=36)]).model)
    assert any("24" in value.before and "36" in value.after for value in found.values)
    assert not found.signature


def test_how_far_weights_moved_is_told_beside_how_large_they_were(parent: ir.Model) -> None:
    child = files.clone(parent)
    bias = layers(child)[0].bias
    assert bias is not None and bias.value.const_value is not None
    array = np.array(bias.value.const_value.numpy())
    moved = array.copy()
    moved[3] += np.float32(0.25)
    bias.value.const_value = ir.tensor(moved, name=bias.value.name)
    (tensor,) = diff(parent, child).tensors
    assert tensor.max_abs == pytest.approx(0.25, abs=1e-6) and tensor.largest == pytest.approx(np.abs(array).max())


def test_interface_opset_and_metadata_are_compared() -> None:
    def net(opset: int, out: str) -> onnx.ModelProto:
        made = Net(opset=opset)
        made.output(made.node("Relu", [made.conv(made.input("x", ["N", 3, 8, 8]), 4, 3)], out), ["N", 4, 6, 6])
        model = made.model()
        model.metadata_props.add(key="author", value=f"someone {opset}")
        return model

    found = diff(from_proto(net(13, "y")), from_proto(net(17, "z")))
    assert any("'y' of the parent missing" in line for line in found.signature)
    assert "opset ai.onnx: 13 -> 17" in found.settings
    assert "metadata author: 'someone 13' -> 'someone 17'" in found.settings


def test_nodes_without_names_are_paired_by_what_they_give() -> None:
    one, two = from_proto(build("topology/names_empty")), from_proto(build("topology/names_empty"))
    node = next(node for node in two.graph if node.op_type != "Constant")
    node.attributes["extra"] = ir.AttrInt64s("extra", [2, 2, 2, 2])
    found = diff(one, two)
    assert [change.kind for change in found.nodes] == ["changed"] and found.nodes[0].name == node.outputs[0].name


def test_changes_inside_bodies_and_functions_are_found() -> None:
    for name in ("scopes/if_holds_layers", "scopes/function_weights_inside"):
        one, two = from_proto(build(name)), from_proto(build(name))
        layer = next(layer for layer in layers(two) if layer.scope)
        layer.node.name = "renamed"
        for value in layer.node.outputs:
            value.name = "renamed_out"
        found = diff(one, two)
        assert any(change.scope == layer.scope and change.name == "renamed" for change in found.nodes), name


def test_records_are_those_beyond_the_parents(parent: ir.Model) -> None:
    once = apply(parent, [plan_kernel(parent, "conv1", to=5)]).model
    twice = apply(once, plan_activate(once, "conv1")).model
    assert [record["morph"] for record in new_records(once, twice)] == ["activate"]
    assert [record["morph"] for record in new_records(parent, twice)] == ["kernel", "activate"]
    other = apply(parent, [plan_kernel(parent, "conv2", to=5)]).model
    assert len(new_records(other, twice)) == 2, "another history: all are told"
    damaged = files.clone(once)
    damaged.metadata_props[files.RECORD_KEY] = "{"
    assert new_records(parent, damaged) == []


def _plain(headings: object, rows: object) -> str:
    return str(rows)


def test_all_forms_say_the_same(parent: ir.Model) -> None:
    found = diff(parent, apply(parent, [plan_deepen(parent, "conv2")]).model)
    for text in (as_text(found, _plain), as_markdown(found), as_html(found), json.dumps(found.to_json())):
        assert "features.conv2.0.weight" in text.replace("\\_", "_") and "conv2/0/Conv" in text


HOSTILE = 'a"]-->x<script>alert(1)</script>|`*\n#;end'


def test_names_cannot_break_out_of_a_report() -> None:
    net = Net()
    net.output(net.node("Relu", [net.conv(net.input("x", ["N", 3, 8, 8]), 4, 3)], "y", name=HOSTILE), ["N", 4, 6, 6])
    one = from_proto(net.model())
    two = files.clone(one)
    replace_records(two, [{"morph": HOSTILE, "name": HOSTILE}])
    next(node for node in two.graph if node.op_type == "Relu").name = HOSTILE + "2"
    two.graph.outputs[0].name = HOSTILE
    found = diff(one, two)
    page = as_html(found, (HOSTILE, "child"))
    assert "<script" not in page
    drawn = re.search(r"<svg.*</svg>", page, flags=re.DOTALL)
    assert drawn is not None and ElementTree.fromstring(drawn[0]).tag.endswith("svg")
    picture = mermaid(found.picture)
    assert all(
        re.fullmatch(r'  (n\d+\[".*"\]:::\w+|n\d+ --> n\d+|classDef .*)', line) for line in picture.splitlines()[1:]
    )
    assert all(line.count('"') in (0, 2) for line in picture.splitlines())
    assert "<script" not in as_markdown(found)


def test_a_page_loads_nothing_from_elsewhere(parent: ir.Model) -> None:
    page = as_html(diff(parent, apply(parent, [plan_deepen(parent, "conv2")]).model))
    assert not re.search(r"(src|href)=|@import|url\((?!#)", page)


def test_large_differences_are_cut_and_say_so() -> None:
    net = Net()
    x = net.input("x", ["N", 3])
    one = net.model
    y = x
    for place in range(300):
        y = net.node("Relu", [y], f"y{place}", name=f"relu{place}")
    net.output(y, ["N", 3])
    long = from_proto(one())
    short = Net()
    short.output(short.node("Relu", [short.input("x", ["N", 3])], "out"), ["N", 3])
    found = diff(from_proto(short.model()), long)
    assert len(found.nodes) == 301 and found.picture.left_out == 301 - 60
    assert "and 101 more" in as_markdown(found) and "not shown" in as_html(found)
