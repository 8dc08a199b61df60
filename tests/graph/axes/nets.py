"""Small models written in a few lines, and what must hold of every model: permuting, widening, copying, dropping."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from onnxmorph._ir import ir
from onnxmorph.graph.axes import (
    CoupledAxes,
    Fill,
    Group,
    GroupTable,
    IndexMap,
    apply,
    keep_zero,
    replicate,
    zero_out,
)

Feeds = dict[str, np.ndarray]


class Net:
    """A graph under construction; every method gives the name of a value."""

    def __init__(self, opset: int = 20, seed: int = 0) -> None:
        self.opset = opset
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.functions: list[onnx.FunctionProto] = []
        self.count = 0

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def input(self, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT) -> str:
        name = self.name("x")
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def const(self, array: Any, dtype: Any = None, node: bool = False) -> str:
        name = self.name("c")
        tensor = numpy_helper.from_array(np.asarray(array, dtype=dtype), name)
        if node:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.initializers.append(tensor)
        return name

    def ints(self, *values: int) -> str:
        return self.const(np.array(values, dtype=np.int64))

    def weight(self, *shape: int, node: bool = False) -> str:
        return self.const(self.random.normal(0, 0.4, shape).astype(np.float32), node=node)

    def positive(self, *shape: int) -> str:
        return self.const(self.random.uniform(0.5, 1.5, shape).astype(np.float32))

    def op(self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        names = [self.name(op.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=self.name(op), domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def one(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """A node with one output."""
        return str(self.op(op, *inputs, domain=domain, **attributes))

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 1, groups: int = 1) -> str:
        pad = kernel // 2
        weight = self.weight(outputs, inputs // groups, kernel, kernel)
        return self.one("Conv", x, weight, self.weight(outputs), group=groups, pads=[pad] * 4)

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        return self.one("Add", self.op("MatMul", x, self.weight(inputs, outputs)), self.weight(outputs))

    def model(self, *outputs: str, ir_version: int = 10) -> ir.Model:
        infos = [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, infos, self.initializers)
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        imports += [helper.make_opsetid(domain, 1) for domain in {function.domain for function in self.functions}]
        proto = helper.make_model(graph, opset_imports=imports, ir_version=ir_version, functions=self.functions or None)
        with contextlib.suppress(onnx.shape_inference.InferenceError):
            proto = onnx.shape_inference.infer_shapes(proto)
        return ir.from_proto(proto)


def run(model: ir.Model, feeds: Feeds) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    proto = ir.to_proto(model).SerializeToString()
    out: list[np.ndarray] = ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"]).run(None, feeds)
    return out


def feeds_of(model: ir.Model, seed: int = 0, dynamic: int = 2, ids: int = 7) -> Feeds:
    random = np.random.default_rng(seed)
    feeds: Feeds = {}
    for value in model.graph.inputs:
        if value.is_initializer() or value.shape is None or value.dtype is None:
            continue
        shape = [int(dim) if isinstance(dim, int) else dynamic for dim in value.shape]
        dtype = value.dtype.numpy()
        if np.issubdtype(dtype, np.floating):
            feeds[value.name or ""] = random.normal(size=shape).astype(dtype)
        else:
            feeds[value.name or ""] = random.integers(0, ids, shape).astype(dtype)
    return feeds


def difference(one: Sequence[np.ndarray], two: Sequence[np.ndarray]) -> float:
    """The largest difference in units of the largest number; infinite when shapes differ."""
    worst = 0.0
    for a, b in zip(one, two, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if a.size:
            scale = float(np.abs(a.astype(np.float64)).max()) + 1e-9
            worst = max(worst, float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) / scale)
    return worst


def weighty(table: GroupTable) -> list[Group]:
    """Groups that some stored tensor of the model holds."""
    return [group for group in table.all() if group.size > 1 and group.stored]


Choice = Callable[[Group], IndexMap | None]


def changed(model: ir.Model, choose: Choice, fill: Fill | None = keep_zero) -> tuple[ir.Model, dict[Group, IndexMap]]:
    """A child in which every group that `choose` gives a map for is changed, all at once; without fill, by copying."""
    table = GroupTable(CoupledAxes.of(model))
    maps = {group: index_map for group in weighty(table) if (index_map := choose(group)) is not None}
    child = model.clone()
    if maps:
        apply(child, maps, replicate(maps) if fill is None else fill)
    return child, maps


def permuted(model: ir.Model, seed: int = 0) -> tuple[ir.Model, dict[Group, IndexMap]]:
    random = np.random.default_rng(seed)

    def choose(group: Group) -> IndexMap | None:
        return IndexMap(group.size, random.permutation(group.size)) if group.symmetric else None

    return changed(model, choose)


def widened(model: ir.Model, seed: int = 0) -> tuple[ir.Model, dict[Group, IndexMap]]:
    random = np.random.default_rng(seed)

    def choose(group: Group) -> IndexMap | None:
        if group.status != "free":
            return None
        wide = IndexMap.widen(group.size, group.size + int(random.integers(1, 4)))
        return wide.then(IndexMap(wide.child_size, random.permutation(wide.child_size)))

    return changed(model, choose, zero_out(seed))


def duplicated(model: ir.Model, seed: int = 0) -> tuple[ir.Model, dict[Group, IndexMap]]:
    random = np.random.default_rng(seed)

    def choose(group: Group) -> IndexMap | None:
        if group.status != "free":
            return None
        extra = random.integers(0, group.size, size=int(random.integers(1, 4)))
        return IndexMap(group.size, random.permutation(np.concatenate([np.arange(group.size), extra])))

    return changed(model, choose, None)


def assert_same(parent: ir.Model, child: ir.Model, tolerance: float = 2e-5, **feeding: Any) -> None:
    """Same outputs on two inputs, and a model that passes the full check."""
    with contextlib.suppress(onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        onnx.checker.check_model(ir.to_proto(parent), full_check=True)
        try:
            onnx.checker.check_model(ir.to_proto(child), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise AssertionError(f"the child no longer passes the full check: {error}") from error
    for seed in (0, 1):
        feeds = feeds_of(parent, seed, **feeding)
        before, after = run(parent, feeds), run(child, feeds)
        assert difference(before, after) <= tolerance
