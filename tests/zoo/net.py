"""A short way to write small ONNX models by hand: one object that collects nodes, weights, inputs and outputs.

Everything is seeded, so one call always gives the same bytes. A `Net` also serves as the body of an If, Loop, Scan or
function: write the nodes, then take `graph()` or `function()` in place of `model()`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Store = Literal["initializer", "constant", "input"]
"""Where a weight lives: a graph initializer, a Constant node, or an initializer that is a graph input too (IR 3)."""


@dataclass(frozen=True)
class Case:
    """One model of the zoo.

    `layers` counts its linear layers: Conv, ConvTranspose, Gemm and MatMul of every scope, whose weight is known before
    a run or has a default. `unrunnable` says why ONNX Runtime cannot run it on a CPU, and is empty where it can.
    """

    name: str
    build: Callable[[], onnx.ModelProto]
    layers: int
    unrunnable: str = ""


class Register:
    """Collects the cases of one module: `case = Register("conv")`, then `@case("same_upper", layers=1)`."""

    def __init__(self, theme: str) -> None:
        self.theme = theme
        self.cases: list[Case] = []

    def __call__(
        self, name: str, *, layers: int, unrunnable: str = ""
    ) -> Callable[[Callable[[], onnx.ModelProto]], Callable[[], onnx.ModelProto]]:
        def keep(build: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
            self.add(name, build, layers=layers, unrunnable=unrunnable)
            return build

        return keep

    def add(self, name: str, build: Callable[[], onnx.ModelProto], *, layers: int, unrunnable: str = "") -> None:
        self.cases.append(Case(f"{self.theme}/{name}", build, layers, unrunnable))


def ir_version_for(opset: int) -> int:
    """The lowest IR version that may carry an opset of the default domain."""
    return int(helper.find_min_ir_version_for([helper.make_opsetid("", opset)]))


class Net:
    """A graph under construction; every method that makes a value returns its name."""

    def __init__(
        self,
        *,
        opset: int = 17,
        seed: int = 0,
        dtype: int = TensorProto.FLOAT,
        store: Store = "initializer",
        named: bool = True,
    ) -> None:
        self.opset = opset
        self.dtype = dtype
        self.store = store
        self.named = named
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.value_info: list[onnx.ValueInfoProto] = []
        self.functions: list[onnx.FunctionProto] = []
        self.domains: dict[str, int] = {}

    # ---- values

    def input(self, name: str, shape: Sequence[int | str | None], dtype: int | None = None) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, self.dtype if dtype is None else dtype, shape))
        return name

    def output(
        self, name: str, shape: Sequence[int | str | None] | None = None, dtype: int | None = None
    ) -> onnx.ValueInfoProto:
        info = helper.make_tensor_value_info(name, self.dtype if dtype is None else dtype, shape)
        self.outputs.append(info)
        return info

    def weight(self, name: str, array: np.ndarray, *, store: Store | None = None) -> str:
        """Keep an array under a name, as a weight of this graph; its element type stays."""
        tensor = numpy_helper.from_array(np.asarray(array, order="C"), name)
        store = self.store if store is None else store
        if store == "constant":
            tensor.ClearField("name")
            self.nodes.append(
                helper.make_node("Constant", [], [name], name=f"Constant_{name}" if self.named else "", value=tensor)
            )
            return name
        self.initializers.append(tensor)
        if store == "input":
            self.inputs.append(helper.make_tensor_value_info(name, tensor.data_type, list(array.shape)))
        return name

    def ints(self, name: str, values: Sequence[int], *, scalar: bool = False) -> str:
        """An int64 constant: the target of a Reshape, the axes of a reduction. Never a graph input."""
        array = np.array(values[0] if scalar else values, np.int64)
        return self.weight(name, array, store="constant" if self.store == "constant" else "initializer")

    def draw(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        """Normal numbers in the element type of this net."""
        return (self.random.standard_normal(shape) * scale).astype(helper.tensor_dtype_to_np_dtype(self.dtype))

    def numbers(self, *values: float) -> np.ndarray:
        return np.array(values, helper.tensor_dtype_to_np_dtype(self.dtype))

    def scalar(self, name: str, value: float) -> str:
        return self.weight(name, np.array(value, helper.tensor_dtype_to_np_dtype(self.dtype)))

    # ---- nodes

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        outputs: str | Sequence[str],
        *,
        name: str | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Append a node; the first output's name comes back."""
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        if name is None:
            name = f"/{names[0]}/{op}" if self.named else ""
        if domain:
            self.domains.setdefault(domain, 1)
        self.nodes.append(helper.make_node(op, list(inputs), names, name=name, domain=domain, **attributes))
        return names[0]

    def conv(
        self,
        x: str,
        out_channels: int,
        in_channels: int,
        kernel: Sequence[int] = (3, 3),
        *,
        name: str = "conv1",
        bias: bool = True,
        group: int = 1,
        op: str = "Conv",
        kernel_shape: bool = True,
        **attributes: Any,
    ) -> str:
        """A Conv or ConvTranspose with weight NAME.weight and, with `bias`, NAME.bias."""
        fan_in = in_channels // group * math.prod(kernel)
        shape = (
            (out_channels, in_channels // group, *kernel)
            if op == "Conv"
            else (in_channels, out_channels // group, *kernel)
        )
        inputs = [x, self.weight(f"{name}.weight", self.draw(*shape, scale=math.sqrt(2 / fan_in)))]
        if bias:
            inputs.append(self.weight(f"{name}.bias", self.draw(out_channels, scale=0.3)))
        if group != 1:
            attributes["group"] = group
        if kernel_shape:
            attributes["kernel_shape"] = list(kernel)
        return self.node(op, inputs, f"{name}_out", name=f"/{name}/{op}" if self.named else "", **attributes)

    def gemm(
        self, x: str, out_features: int, in_features: int, *, name: str = "fc1", bias: bool = True, **attributes: Any
    ) -> str:
        """A Gemm, `transB=1` unless told otherwise, as torch writes it."""
        attributes.setdefault("transB", 1)
        shape = (out_features, in_features) if attributes["transB"] else (in_features, out_features)
        inputs = [x, self.weight(f"{name}.weight", self.draw(*shape, scale=math.sqrt(2 / in_features)))]
        if bias:
            inputs.append(self.weight(f"{name}.bias", self.draw(out_features, scale=0.3)))
        return self.node("Gemm", inputs, f"{name}_out", name=f"/{name}/Gemm" if self.named else "", **attributes)

    def matmul(
        self,
        x: str,
        out_features: int,
        in_features: int,
        *,
        name: str = "proj",
        bias: Literal["left", "right", "sub", "none"] = "right",
        bias_shape: Sequence[int] | None = None,
    ) -> str:
        """x @ W, and the bias by an Add on either side, or a Sub."""
        weight = self.weight(f"{name}.weight", self.draw(in_features, out_features, scale=math.sqrt(2 / in_features)))
        product = f"{name}_out" if bias == "none" else f"{name}_matmul"
        self.node("MatMul", [x, weight], product, name=f"/{name}/MatMul" if self.named else "")
        if bias == "none":
            return product
        shape = (out_features,) if bias_shape is None else tuple(bias_shape)
        b = self.weight(f"{name}.bias", self.draw(*shape, scale=0.3))
        pair = [b, product] if bias == "left" else [product, b]
        op = "Sub" if bias == "sub" else "Add"
        return self.node(op, pair, f"{name}_out", name=f"/{name}/{op}" if self.named else "")

    def batch_norm(self, x: str, channels: int, *, name: str = "bn1") -> str:
        inputs = [
            x,
            self.weight(f"{name}.weight", self.draw(channels, scale=0.3) + self.numbers(1.0)),
            self.weight(f"{name}.bias", self.draw(channels, scale=0.3)),
            self.weight(f"{name}.running_mean", self.draw(channels, scale=0.3)),
            self.weight(f"{name}.running_var", np.abs(self.draw(channels, scale=0.3)) + self.numbers(0.5)),
        ]
        return self.node("BatchNormalization", inputs, f"{name}_out", epsilon=1e-5)

    def relu(self, x: str, name: str = "relu1") -> str:
        return self.node("Relu", [x], f"{name}_out")

    def reduce_mean(self, x: str, output: str, axes: Sequence[int], keepdims: int = 1) -> str:
        """ReduceMean, whose axes became an input in opset 18."""
        if self.opset >= 18:
            return self.node("ReduceMean", [x, self.ints(f"{output}_axes", axes)], output, keepdims=keepdims)
        return self.node("ReduceMean", [x], output, axes=list(axes), keepdims=keepdims)

    def unsqueeze(self, x: str, output: str, axes: Sequence[int]) -> str:
        """Unsqueeze, whose axes became an input in opset 13."""
        if self.opset >= 13:
            return self.node("Unsqueeze", [x, self.ints(f"{output}_axes", axes)], output)
        return self.node("Unsqueeze", [x], output, axes=list(axes))

    def clip(self, x: str, output: str, low: float | None, high: float | None) -> str:
        """Clip, whose bounds became inputs in opset 11."""
        if self.opset < 11:
            bounds: dict[str, Any] = {"min": low, "max": high}
            return self.node("Clip", [x], output, **{k: v for k, v in bounds.items() if v is not None})
        inputs = [x, "" if low is None else self.scalar(f"{output}_min", low)]
        if high is not None:
            inputs.append(self.scalar(f"{output}_max", high))
        return self.node("Clip", inputs, output)

    # ---- what comes out

    def graph(self, name: str) -> onnx.GraphProto:
        return helper.make_graph(
            self.nodes, name, self.inputs, self.outputs, self.initializers, value_info=self.value_info
        )

    def function(self, name: str, domain: str, attributes: Sequence[str] = ()) -> onnx.FunctionProto:
        """A model-local function; weights must be Constant nodes or inputs, a function has no initializers."""
        if self.initializers:
            raise ValueError("a function holds no initializers: use store='constant'")
        return helper.make_function(
            domain,
            name,
            [value.name for value in self.inputs],
            [value.name for value in self.outputs],
            self.nodes,
            [helper.make_opsetid("", self.opset)],
            attributes=list(attributes),
        )

    def model(
        self, name: str = "net", *, ir_version: int | None = None, producer: str = "onnxmorph-zoo"
    ) -> onnx.ModelProto:
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid(domain, version) for domain, version in self.domains.items()]
        lowest = max(ir_version_for(self.opset), 8 if self.functions else 3)
        if self.store != "input":
            lowest = max(lowest, 4)  # IR 3 wants every initializer among the graph inputs
        return helper.make_model(
            self.graph(name),
            opset_imports=opsets,
            functions=self.functions,
            ir_version=lowest if ir_version is None else ir_version,
            producer_name=producer,
        )
