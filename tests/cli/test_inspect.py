"""``inspect``: the contract of its JSON, and a table that cuts nothing off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.cli.conftest import SAMPLES, Run


def test_json_has_what_other_programs_rely_on(run: Run, folder: Path) -> None:
    ended = run("inspect", "digits_cnn.onnx", "--json")
    assert (ended.code, ended.err) == (0, "")
    layers = ended.document["layers"]
    assert [layer["name"] for layer in layers][:2] == ["/features/conv1/Conv", "/features/conv2/Conv"]
    expected = {
        "name": "/features/conv2/Conv",
        "op": "Conv",
        "in": 16,
        "out": 24,
        "kernel": [3, 3],
        "groups": 1,
        "activation": "Relu",
        "parameters": 24 * 16 * 9 + 24,
        "macs": 8 * 8 * 24 * 16 * 9,
    }
    assert {key: layers[1][key] for key in expected} == expected
    assert layers[1]["morphs"]["deepen"] is None
    assert layers[-1]["kernel"] == [] and layers[-1]["activation"] is None
    assert ended.document["totals"]["layers"] == len(layers)
    assert ended.document["model"]["inputs"] == [{"name": "image", "dtype": "float", "shape": ["batch", 1, 8, 8]}]


@pytest.mark.parametrize("name", sorted(file.name for file in SAMPLES.glob("*.onnx")))
def test_every_sample_is_listed_alike_as_text_and_as_json(run: Run, name: str) -> None:
    text = run("inspect", SAMPLES / name)
    document = run("inspect", SAMPLES / name, "--json").document
    assert text.code == 0
    for layer in document["layers"]:
        assert f"#{layer['index']} " in text.out and layer["name"] in text.out


def test_a_layer_that_cannot_be_touched_is_listed_with_the_reason(run: Run, tmp_path: Path) -> None:
    x, w, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in "xwy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], name="product")], "g", [x, w], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    document = run("inspect", tmp_path / "m.onnx", "--json").document
    ended = run("inspect", tmp_path / "m.onnx")
    assert ended.code == 0
    if document["layers"]:
        (layer,) = document["layers"]
        reason = layer["morphs"]["deepen"]
        assert "product" in reason
        shown = reason.replace("'product'", "the layer", 1).replace("product", "the layer", 1)
        assert f"[1] {shown}" in ended.out and "no [1]" in ended.out
    else:
        assert "no linear layers" in ended.out


def test_a_layer_whose_weight_is_not_finite_says_so_for_every_morph_that_would_refuse_it(
    run: Run, tmp_path: Path
) -> None:
    weight = np.full((3, 2, 1, 1), 0.5, np.float32)
    weight[0, 0] = np.nan
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", c, 4, 4]) for name, c in (("x", 2), ("y", 3)))
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    graph = helper.make_graph(nodes, "g", [x], [y], [onnx.numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    morphs = run("inspect", tmp_path / "m.onnx", "--json").document["layers"][0]["morphs"]
    for morph, words in {
        "deepen": ("--after", "a"),
        "kernel": ("--layer", "a", "--to", "3"),
        "subnet": ("--layer", "a", "--template", "(1:6)(1:3)"),
        "activate": ("--layer", "a"),
    }.items():
        assert "NaN" in morphs[morph]
        ended = run(morph, tmp_path / "m.onnx", *words, "--dry-run")
        assert ended.code == 3 and morphs[morph] in ended.err


def test_reasons_name_a_value_that_a_nameless_layer_is_named_after(run: Run, tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "xy")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", [x], [y], [onnx.numpy_helper.from_array(np.ones((2, 2), np.float32), "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    assert "graph output 'y' axis 1" in run("inspect", tmp_path / "m.onnx").out


def test_a_model_without_layers_is_no_failure(run: Run, tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    assert run("inspect", tmp_path / "m.onnx").out.endswith("no linear layers\n")
    assert run("inspect", tmp_path / "m.onnx", "--json").document["layers"] == []


@pytest.mark.parametrize(
    "content", [b"", b"not a model", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x00" * 64]
)
def test_what_is_no_model_is_one_line_and_exit_4(run: Run, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    ended = run("inspect", tmp_path / "bad.onnx")
    assert (ended.code, ended.out) == (4, "")
    assert ended.err.startswith("onnxmorph: error: ") and "bad.onnx" in ended.err and ended.err.count("\n") == 1
    assert "internal error" not in ended.err
    assert "error" in run("inspect", tmp_path / "bad.onnx", "--json").document


def test_a_folder_or_nothing_at_all_in_place_of_a_model(run: Run, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere.onnx"):
        ended = run("inspect", path)
        assert (ended.code, ended.out) == (4, "") and "internal error" not in ended.err


def test_a_truncated_model_is_no_model(run: Run, folder: Path) -> None:
    whole = (folder / "digits_cnn.onnx").read_bytes()
    (folder / "short.onnx").write_bytes(whole[: len(whole) // 2])
    assert run("inspect", "short.onnx").code == 4


def test_a_group_is_printed_before_anything_is_cut(run: Run, folder: Path) -> None:
    ended = run("inspect", "digits_cnn.onnx", "--group", "conv2")
    assert ended.code == 0 and "group of 24 indices, free" in ended.out and "conv3" in ended.out
    document = run("inspect", "digits_cnn.onnx", "--group", "conv2", "--json").document
    (group,) = document["groups"]
    assert group["size"] == 24 and group["status"] == "free"
    assert any("contracted" in member["roles"] for member in group["members"])
    pinned = run("inspect", "digits_cnn.onnx", "--group", "classifier", "--json").document["groups"][0]
    assert pinned["status"] == "pinned" and pinned["pins"][0]["kind"] == "graph-output"
    assert run("inspect", "digits_cnn.onnx", "--group", "conv22").code == 2


def test_index_maps_are_told_as_json(run: Run, folder: Path) -> None:
    assert run("widen", "digits_cnn.onnx", "--layer", "conv2", "--by", "1.5", "--no-verify", "-o", "w.onnx").code == 0
    document = run("inspect", "w.onnx", "--index-maps").document
    (entry,) = document["index_maps"]
    assert entry["morph"] == "widen" and document["schema"] == 1
    assert all(len(one["sources"]) == 36 for maps in entry["tensors"].values() for one in maps["axes"].values())
    assert run("inspect", "digits_cnn.onnx", "--index-maps").document["index_maps"] == []
    assert run("inspect", "w.onnx", "--index-maps", "--group", "conv2").code == 2
