"""What the door to onnx leaves out is there when it is asked for."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys

import pytest

LEFT_OUT = (
    *("google.protobuf.internal.python_message", "google.protobuf.json_format", "google.protobuf.text_format"),
    *("onnx.compose", "onnx.parser", "onnx.utils", "importlib.metadata", "sympy", "tarfile", "argparse"),
)


def run(code: str, **environment: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_a_model_is_loaded_without_what_only_others_use() -> None:
    loaded = run(f"import sys, onnxmorph.model; print([m for m in {LEFT_OUT!r} if m in sys.modules])")
    assert loaded == "[]"


@pytest.mark.parametrize("first", ["onnxmorph.model", "google.protobuf, onnxmorph.model", "onnx, onnxmorph.model"])
def test_onnx_is_whole_for_everybody_else(first: str) -> None:
    """Texts and JSON of models, helpers of onnx that stand-ins were placed for, versions: as without onnxmorph."""
    code = f"""
import {first}, onnx, onnx.serialization, sys
assert onnx.__version__ == {importlib.metadata.version("onnx")!r}, onnx.__version__
opset = '<ir_version: 8, opset_import: ["": 17]>'
model = onnx.parser.parse_model(opset + "g (float[2] x) => (float[2] y) {{y = Relu(x)}}")
for kind in ("json", "textproto"):
    serializer = onnx.serialization.registry.get(kind)
    text = serializer.serialize_proto(model)
    assert serializer.deserialize_proto(text, onnx.ModelProto()) == model
prefixed = onnx.compose.add_prefix(model, "a_")
assert onnx.utils.Extractor(prefixed) and "Relu" in onnx.printer.to_text(prefixed)
assert onnx.version_converter.convert_version(model, 20).opset_import[0].version == 20
assert "merge_models" in dir(onnx.compose) and onnx.compose is sys.modules["onnx.compose"]
import importlib.metadata, google.protobuf.text_format, sympy
from google.protobuf.internal import python_message
assert importlib.metadata.distribution("numpy").version and google.protobuf.text_format.MessageToString(model)
assert python_message.__file__ and sympy.Symbol("n")
"""
    run(code)


def test_protobuf_in_python_works_too() -> None:
    code = "from onnxmorph.model import load, content_hash; print(content_hash(load('models/digits_mlp.onnx')))"
    python = run(code, PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION="python")
    assert python == run(code)


@pytest.mark.parametrize("verb", ["inspect", "deepen", "train"])
def test_that_no_file_is_there_is_told_without_numpy(verb: str) -> None:
    code = f"""
import sys
from onnxmorph_cli.main import main
words = ["{verb}", "nowhere.onnx"] + (["--after", "x"] if "{verb}" == "deepen" else [])
words += ["--data", "x.npz"] if "{verb}" == "train" else []
try:
    main(words)
except SystemExit as end:
    print(end.code, "numpy" in sys.modules, "torch" in sys.modules)
"""
    assert run(code) == "4 False False"
