"""How long the coupled axes of a model take: two networks of 5,000 nodes, and every model named on the command line.

    python benchmarks/axes.py [MODEL.onnx ...]

Prints one line per model: nodes, groups, what share of linear layers can change their width, seconds. Exits 1 when a
5,000-node network takes more than 3 s.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxmorph._ir import ir
from onnxmorph.graph.axes import CoupledAxes, GroupTable

LIMIT = 3.0
"""Seconds for 5,000 nodes."""

_LINEAR = {"Conv": 1, "ConvTranspose": 1, "Gemm": -1, "MatMul": -1}


class _Maker:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.full(shape, 0.01, dtype=np.float32) + len(name), name))
        # Not uniform: a shared uniform constant would count as one copy per user.
        return name

    def ints(self, *values: int) -> str:
        name = f"w{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return name

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def model(self, source: onnx.ValueInfoProto, output: str) -> ir.Model:
        graph = helper.make_graph(
            self.nodes, "made", [source], [helper.make_empty_tensor_value_info(output)], self.initializers
        )
        return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def deep_resnet(nodes: int = 5000, width: int = 16) -> ir.Model:
    """Bottleneck blocks with batch norms, eleven nodes each, widths as in a ResNet."""
    make = _Maker()
    x = make.op("Conv", "x", make.weight(width, 3, 3, 3), pads=[1, 1, 1, 1])
    while len(make.nodes) < nodes:
        y = x
        for inputs, outputs, kernel in ((width, width // 2, 1), (width // 2, width // 2, 3), (width // 2, width, 1)):
            y = make.op("Conv", y, make.weight(outputs, inputs, kernel, kernel), pads=[kernel // 2] * 4)
            y = make.op("BatchNormalization", y, *(make.weight(outputs) for _ in range(4)))
            y = make.op("Relu", y)
        x = make.op("Relu", make.op("Add", x, y))
    x = make.op("Gemm", make.op("Flatten", make.op("GlobalAveragePool", x)), make.weight(width, 10))
    return make.model(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 32, 32]), x)


def deep_transformer(nodes: int = 5000, width: int = 16, heads: int = 4) -> ir.Model:
    """Pre-norm blocks in the spelling of an exporter with dynamic batch and length: shapes computed by chains."""
    make = _Maker()
    x = make.op("Gather", make.weight(50, width), "ids")
    size = width // heads
    while len(make.nodes) < nodes:
        y = make.op("LayerNormalization", x, make.weight(width), make.weight(width))
        shape = make.op("Shape", y)
        lead = make.op("Slice", shape, make.ints(0), make.ints(2))
        parts = []
        for order in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)):
            part = make.op("Add", make.op("MatMul", y, make.weight(width, width)), make.weight(width))
            part = make.op("Reshape", part, make.op("Concat", lead, make.ints(heads), make.ints(size), axis=0))
            parts.append(make.op("Transpose", part, perm=list(order)))
        scores = make.op("Softmax", make.op("MatMul", parts[0], parts[1]), axis=-1)
        y = make.op("Transpose", make.op("MatMul", scores, parts[2]), perm=[0, 2, 1, 3])
        y = make.op("Reshape", y, make.op("Concat", lead, make.ints(width), axis=0))
        x = make.op("Add", x, make.op("MatMul", y, make.weight(width, width)))
        y = make.op("LayerNormalization", x, make.weight(width), make.weight(width))
        y = make.op("Gelu", make.op("Add", make.op("MatMul", y, make.weight(width, 4 * width)), make.weight(4 * width)))
        x = make.op("Add", x, make.op("MatMul", y, make.weight(4 * width, width)))
    x = make.op("MatMul", x, make.weight(width, 50))
    return make.model(helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "L"]), x)


def measure(name: str, model: ir.Model) -> float:
    """Time the groups of one model and print a line."""
    begin = time.perf_counter()
    coupled = CoupledAxes.of(model, freeze=True)
    table = GroupTable(coupled)
    seconds = time.perf_counter() - begin
    nodes = sum(1 for _ in model.graph.all_nodes())
    found: Counter[str] = Counter()
    for node in model.graph.all_nodes():
        axis = _LINEAR.get(node.op_type)
        axes = coupled.axes(node.outputs[0]) if axis is not None else None
        if axis is None or not axes or not any(value and coupled.is_constant(value) for value in node.inputs):
            continue
        groups = table.of_axis(node.outputs[0], axis % len(axes))
        order = ("free", "conditioned", "pinned", "blocked")
        found[min((group.status for group in groups), key=order.index, default="blocked")] += 1
    shares = ", ".join(f"{status} {found[status]}" for status in ("free", "conditioned", "pinned", "blocked"))
    print(f"{name:44s} {nodes:6d} nodes {len(table.all()):6d} groups  layers: {shares}  {seconds:6.2f} s")
    return seconds


def main() -> int:
    """Run the benchmark."""
    slow = False
    for name, model in (("deep ResNet", deep_resnet()), ("deep transformer", deep_transformer())):
        slow |= measure(name, model) > LIMIT
    for path in sys.argv[1:]:
        measure(Path(path).name, ir.load(path))
    return int(slow)


if __name__ == "__main__":
    raise SystemExit(main())
