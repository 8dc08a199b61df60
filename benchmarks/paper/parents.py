"""Parents of the tables as ONNX models, written here node by node, and models drawn anew to be trained from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxmorph import layers
from onnxmorph._ir import ir
from onnxmorph.edit import set_initializer
from onnxmorph.grow.roles import roles
from onnxmorph.model import clone

__all__ = ["Convolution", "convolutional", "drawn_anew", "perceptron"]

OPSET = 17
START_OF_SLOPES = 0.25
"""Of PReLU, from scratch: the value of its paper (He et al., 2015), and what frameworks take."""


@dataclass(frozen=True)
class Convolution:
    """One convolution with its activation; ``pooled``: halved by max pooling afterwards."""

    kernel: int
    channels: int
    pooled: bool = False


def perceptron(image: Sequence[int], hidden: Sequence[int], classes: int, activation: str = "Relu") -> ir.Model:
    """Linear layers ``fc1``, ``fc2`` ... with an activation between, on images laid flat; weights are zero.

    Without hidden layers it is softmax regression (the softmax itself is in the loss).
    """
    graph = _Graph(image)
    value = graph.node("Flatten", ["image"], "flat", axis=1)
    width = int(np.prod(image))
    for number, size in enumerate([*hidden, classes], start=1):
        last = number == len(hidden) + 1
        value = graph.linear(f"fc{number}", value, (size, width), "logits" if last else None)
        if not last:
            value = graph.node(activation, [value], f"fc{number}_act")
        width = size
    return graph.model(classes)


def convolutional(
    image: Sequence[int], stack: Sequence[Convolution], classes: int, activation: str = "Relu"
) -> ir.Model:
    """Convolutions ``conv1``, ``conv2`` ... with activations, pooled where said, and one linear layer ``fc``."""
    graph = _Graph(image)
    value = "image"
    channels, height, width = image
    for number, one in enumerate(stack, start=1):
        shape = (one.channels, channels, one.kernel, one.kernel)
        value = graph.linear(f"conv{number}", value, shape, None, pads=[one.kernel // 2] * 4)
        value = graph.node(activation, [value], f"conv{number}_act")
        channels = one.channels
        if one.pooled and min(height, width) > 1:
            value = graph.node("MaxPool", [value], f"pool{number}", kernel_shape=[2, 2], strides=[2, 2])
            height, width = height // 2, width // 2
    value = graph.node("Flatten", [value], "flat", axis=1)
    graph.linear("fc", value, (classes, channels * height * width), "logits")
    return graph.model(classes)


def drawn_anew(model: ir.Model, seed: int) -> ir.Model:
    """The same network as nothing has trained it: kernels by He's scale, biases zero, slopes 0.25.

    Layers that no activation follows get the scale 1 / fan-in (LeCun), as do those before a tanh. The parameter ``a``
    of a P-activation is a slope like others.
    """
    fresh = clone(model)
    random = np.random.default_rng([seed, 7])
    kinds = roles(fresh)
    for layer in layers(fresh):
        kernel = layer.kernel_array()
        fan_in = int(np.prod(kernel.shape[1:]))
        rectified = layer.activation is not None and layer.activation.name not in ("Tanh", "Sigmoid")
        scale = np.sqrt((2.0 if rectified else 1.0) / fan_in)
        drawn = (random.standard_normal(kernel.shape) * scale).astype(kernel.dtype)
        stored = layer.weight.root
        if stored is None or not stored.is_initializer():
            raise ValueError(f"the weight of {layer.name} is not stored as an initializer")
        set_initializer(stored, layer.weight_from_kernel(drawn))
    for name, value in fresh.graph.initializers.items():
        kind = kinds.get(name)
        if kind in ("bias", "slope", "a") and value.const_value is not None:
            array = value.const_value.numpy()
            start = 0.0 if kind == "bias" else START_OF_SLOPES
            set_initializer(value, np.full_like(array, start))
    return fresh


class _Graph:
    """A graph in the making; names are those of the layers."""

    def __init__(self, image: Sequence[int]) -> None:
        self.image = list(image)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def linear(
        self, name: str, value: str, shape: tuple[int, ...], output: str | None, pads: Sequence[int] | None = None
    ) -> str:
        for what, size in (("weight", shape), ("bias", shape[:1])):
            self.initializers.append(
                onnx.numpy_helper.from_array(np.zeros(size, dtype=np.float32), name=f"{name}.{what}")
            )
        inputs = [value, f"{name}.weight", f"{name}.bias"]
        out = output or f"{name}_out"
        attributes: dict[str, Any] = {"transB": 1} if pads is None else {"pads": list(pads)}
        self.nodes.append(helper.make_node("Gemm" if pads is None else "Conv", inputs, [out], name=name, **attributes))
        return out

    def model(self, classes: int) -> ir.Model:
        graph = helper.make_graph(
            self.nodes,
            "paper",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *self.image])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
            self.initializers,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        onnx.checker.check_model(made, full_check=True)
        return ir.from_proto(made)
