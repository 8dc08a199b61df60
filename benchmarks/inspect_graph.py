"""How long reading a big graph takes: `python benchmarks/inspect_graph.py` makes one of 20,000 nodes and measures.

Every figure is a whole process, start-up included, best of `--runs` after one that is not counted, with byte code at
hand as it is after an installation: `onnxmorph inspect`, the library's load, shapes and layers with their activations,
and for comparison `onnx.load` + `onnx.shape_inference.infer_shapes`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from installed import environment
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[1]

LIBRARY = """
import sys
import onnxmorph.model
from onnxmorph.graph.layers import layers
found = layers(onnxmorph.model.load(sys.argv[1]))
print(len(found), sum(layer.activation is not None for layer in found), file=sys.stderr)
"""
ONNX = "import sys, onnx; onnx.shape_inference.infer_shapes(onnx.load(sys.argv[1]))"
INSPECT = "import sys; from onnxmorph_cli.main import main; sys.argv = ['onnxmorph', 'inspect', sys.argv[1]]; main()"


def residual_network(nodes: int) -> onnx.ModelProto:
    """Residual blocks of Conv, BatchNormalization, Relu and Add with a Reshape computed from Shape now and then."""
    rng = np.random.default_rng(0)
    made: list[onnx.NodeProto] = []
    stored = {"zero": np.array([0]), "rest": np.array([16, 32, 32])}
    stored.update({name: np.ones(16, np.float32) for name in ("gamma", "beta", "mean", "var")})
    x, block = "x", 0
    while len(made) < nodes:
        name = f"/layers/layers.{block}"
        weight = f"layers.{block}.conv.weight"
        stored[weight] = rng.standard_normal((16, 16, 1, 1)).astype(np.float32)
        made += [
            helper.make_node("Conv", [x, weight], [f"{name}/c"], name=f"{name}/conv/Conv"),
            helper.make_node("BatchNormalization", [f"{name}/c", "gamma", "beta", "mean", "var"], [f"{name}/n"]),
            helper.make_node("Relu", [f"{name}/n"], [f"{name}/r"], name=f"{name}/act/Relu"),
            helper.make_node("Add", [x, f"{name}/r"], [f"{name}/y"]),
        ]
        x = f"{name}/y"
        if block % 100 == 99:
            made += [
                helper.make_node("Shape", [x], [f"{name}/s"]),
                helper.make_node("Gather", [f"{name}/s", "zero"], [f"{name}/b"]),
                helper.make_node("Concat", [f"{name}/b", "rest"], [f"{name}/t"], axis=0),
                helper.make_node("Reshape", [x, f"{name}/t"], [f"{name}/z"]),
            ]
            x = f"{name}/z"
        block += 1
    graph = helper.make_graph(
        made,
        "deep",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16, 32, 32])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["N", 16, 32, 32])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def seconds(program: str, path: Path, runs: int) -> float:
    """Best wall time of a whole process."""
    taken = []
    command = [sys.executable, "-c", program, str(path)]
    compiled = environment(path.parent / "bytecode")
    for _ in range(runs + 1):
        start = time.perf_counter()
        done = subprocess.run(
            command, cwd=ROOT, env=compiled, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
        )
        taken.append(time.perf_counter() - start)
        if done.returncode:
            raise SystemExit(done.stderr.decode())
    return min(taken[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deep.onnx"
        proto = residual_network(options.nodes)
        onnx.save(proto, path)
        print(f"{len(proto.graph.node)} nodes, {path.stat().st_size / 1e6:.1f} MB")
        reference = seconds(ONNX, path, options.runs)
        print(f"onnx.load + infer_shapes   {reference:6.2f} s")
        for label, program in [("load + shapes + layers", LIBRARY), ("onnxmorph inspect", INSPECT)]:
            own = seconds(program, path, options.runs)
            print(f"{label:<25}  {own:6.2f} s   {own / reference:5.1f}x")


if __name__ == "__main__":
    main()
