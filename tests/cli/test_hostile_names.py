"""Names out of a file that would break a line, or drive the terminal, are shown as what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxmorph.visible import visible
from tests.cli.conftest import Run

NAME = "first\nsecond\x1b[31m\u202e"
SHOWN = "first\\nsecond\\x1b[31m\\u202e"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("x", NAME))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], name=NAME), helper.make_node("Relu", ["h"], [NAME])]
    weight = onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")
    proto = helper.make_model(helper.make_graph(nodes, "g", [x], [y], [weight]), ir_version=8)
    proto.opset_import[0].version = 17
    onnx.save(proto, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_what_is_printed_of_names_stays_on_its_line(run: Run, model: Path) -> None:
    child = model.with_name("child.onnx")
    for words in (
        ("inspect", model),
        ("inspect", model, "--group", "#0"),
        ("deepen", model, "--after", "#0", "--dry-run"),
        ("deepen", model, "--after", "#0", "-o", child),
        ("verify", model, child),
        ("diff", model, child),
        ("replay", child, model, "--dry-run"),
        ("deepen", model, "--after", "#0", "--kernel", "3", "-o", model.with_name("other.onnx")),
    ):
        ended = run(*words)
        assert "\x1b" not in ended.out + ended.err and "\u202e" not in ended.out + ended.err
        if words[0] in ("inspect", "verify"):
            assert "\nsecond" not in ended.out + ended.err
    assert SHOWN in run("inspect", model).out
    assert run("inspect", model, "--json").document["layers"][0]["name"] == NAME


def test_what_has_a_glyph_is_left_alone() -> None:
    for text in ("/features/conv1/Conv", "\u65e5\u672c\u8a9e \u00e9\u00df", "a\u00a0b", "back\\slash"):
        assert visible(text) == text
    assert visible(NAME) == SHOWN
    assert visible("\ud800") == "\\ud800"
