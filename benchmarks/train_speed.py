"""Steps per second of training an ONNX graph, against the same network written by hand in torch.

Three networks: a ResNet-20 for images of 32 x 32 with live batch norms, an MLP, and a transformer encoder whose ONNX
graph is spelled out as exporters do (attention, GELU and layer normalisation of many nodes). Both sides have the same
weights, data, loss and optimizer; runs are interleaved, so that a busy machine slows both, and medians are compared.
The losses after the first steps are compared too: the same network is trained on both sides.

    python benchmarks/train_speed.py [--rounds 15] [--device cpu|cuda] [--threads N]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import nn

from onnxmorph._ir import ir
from onnxmorph.grow.graph_module import GraphModule, module


class Spelling:
    """Nodes and initializers of one ONNX graph, in order."""

    def __init__(self, opset: int = 17) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []
        self.opset = opset

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """One node with one output, whose name is given back."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def weight(self, name: str, value: torch.Tensor) -> str:
        """A trained tensor under its name in torch."""
        self.stored.append(numpy_helper.from_array(value.detach().numpy().copy(), name))
        return name

    def number(self, value: Any, dtype: type = np.float32) -> str:
        """A constant."""
        name = f"constant_{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def model(self, shape: list[int | str], output: str) -> ir.Model:
        """The graph, loaded."""
        made = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)],
            self.stored,
        )
        proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        return ir.serde.deserialize_model(proto)


class Mlp(nn.Module):
    """784-512-512-10."""

    shape = (784,)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(784, 512), nn.Linear(512, 512), nn.Linear(512, 10)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)

    def onnx(self) -> ir.Model:
        g, h = Spelling(), "x"
        for i, layer in enumerate(self.layers):
            h = g.op(
                "Gemm",
                h,
                g.weight(f"layers.{i}.weight", layer.weight),
                g.weight(f"layers.{i}.bias", layer.bias),
                transB=1,
            )
            h = g.op("Relu", h) if i < 2 else h
        return g.model(["n", 784], h)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.short = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 or inputs != outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.short is None else self.short(x)))


class ResNet(nn.Module):
    """ResNet-20 (He et al., 2016)."""

    shape = (3, 32, 32)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        sizes = [
            (16, 16, 1),
            (16, 16, 1),
            (16, 16, 1),
            (16, 32, 2),
            (32, 32, 1),
            (32, 32, 1),
            (32, 64, 2),
            (64, 64, 1),
            (64, 64, 1),
        ]
        self.blocks = nn.ModuleList([Block(*size) for size in sizes])
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn(self.conv(x)))
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((2, 3)))

    def onnx(self) -> ir.Model:
        g = Spelling()

        def conv(x: str, name: str, layer: nn.Conv2d) -> str:
            pad = layer.padding[0]
            return g.op(
                "Conv", x, g.weight(f"{name}.weight", layer.weight), strides=list(layer.stride), pads=[pad] * 4,
                kernel_shape=list(layer.kernel_size),
            )  # fmt: skip

        def norm(x: str, name: str, layer: nn.BatchNorm2d) -> str:
            parts = {
                "weight": layer.weight,
                "bias": layer.bias,
                "running_mean": layer.running_mean,
                "running_var": layer.running_var,
            }
            return g.op("BatchNormalization", x, *(g.weight(f"{name}.{part}", value) for part, value in parts.items()))

        h = g.op("Relu", norm(conv("x", "conv", self.conv), "bn", self.bn))
        for i, block in enumerate(self.blocks):
            y = g.op("Relu", norm(conv(h, f"blocks.{i}.conv1", block.conv1), f"blocks.{i}.bn1", block.bn1))
            y = norm(conv(y, f"blocks.{i}.conv2", block.conv2), f"blocks.{i}.bn2", block.bn2)
            h = g.op("Relu", g.op("Add", y, h if block.short is None else conv(h, f"blocks.{i}.short", block.short)))
        h = g.op("Flatten", g.op("GlobalAveragePool", h))
        h = g.op("Gemm", h, g.weight("fc.weight", self.fc.weight), g.weight("fc.bias", self.fc.bias), transB=1)
        return g.model(["n", 3, 32, 32], h)


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).reshape(n, t, c))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Four layers of width 128 over 64 steps."""

    shape = (64, 128)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(128, 4) for _ in range(4)])
        self.fc = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.fc(x.mean(1))

    def onnx(self) -> ir.Model:
        g, h = Spelling(), "x"

        def linear(x: str, name: str, layer: nn.Linear) -> str:
            y = g.op("MatMul", x, g.weight(f"{name}.weight", layer.weight.t().contiguous()))
            return g.op("Add", g.weight(f"{name}.bias", layer.bias), y)

        def norm(x: str, name: str, layer: nn.LayerNorm) -> str:
            centred = g.op("Sub", x, g.op("ReduceMean", x, axes=[-1]))
            square = g.op("ReduceMean", g.op("Pow", centred, g.number(2.0)), axes=[-1])
            scaled = g.op("Div", centred, g.op("Sqrt", g.op("Add", square, g.number(1e-5))))
            scaled = g.op("Mul", scaled, g.weight(f"{name}.weight", layer.weight))
            return g.op("Add", scaled, g.weight(f"{name}.bias", layer.bias))

        def gelu(x: str) -> str:
            part = g.op("Add", g.op("Erf", g.op("Div", x, g.number(2**0.5))), g.number(1.0))
            return g.op("Mul", g.op("Mul", x, part), g.number(0.5))

        for i, layer in enumerate(self.layers):
            name = f"layers.{i}"
            y = linear(norm(h, f"{name}.norm1", layer.norm1), f"{name}.qkv", layer.qkv)
            shape = g.op("Shape", h)
            sizes = [
                g.op("Unsqueeze", g.op("Gather", shape, g.number(axis, np.int64)), g.number([0], np.int64))
                for axis in (0, 1)
            ]
            rest = g.number([3, layer.heads, 128 // layer.heads], np.int64)
            y = g.op("Transpose", g.op("Reshape", y, g.op("Concat", *sizes, rest, axis=0)), perm=[2, 0, 3, 1, 4])
            q, k, v = (g.op("Gather", y, g.number(place, np.int64), axis=0) for place in range(3))
            scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
            scores = g.op("Div", scores, g.number((128 / layer.heads) ** 0.5))
            y = g.op("MatMul", g.op("Softmax", scores, axis=-1), v)
            flat = g.op("Concat", *sizes, g.number([128], np.int64), axis=0)
            y = g.op("Reshape", g.op("Transpose", y, perm=[0, 2, 1, 3]), flat)
            h = g.op("Add", h, linear(y, f"{name}.out", layer.out))
            y = gelu(linear(norm(h, f"{name}.norm2", layer.norm2), f"{name}.up", layer.up))
            h = g.op("Add", h, linear(y, f"{name}.down", layer.down))
        h = linear(g.op("ReduceMean", h, axes=[1], keepdims=0), "fc", self.fc)
        return g.model(["n", 64, 128], h)


def stepper(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], torch.Tensor]:
    """One step of training, and the loss before it."""
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    print("| network | by hand, steps/s | ONNX graph, steps/s | ratio | largest difference of the losses |")
    print("|---|---|---|---|---|")
    for kind, batch in ((Mlp, 64), (ResNet, 32), (Transformer, 16)):
        torch.manual_seed(0)
        hand = kind()
        graph: GraphModule = module(hand.onnx())
        hand, graph = hand.to(device), graph.to(device)
        x = torch.randn(batch, *kind.shape, device=device)
        y = torch.randint(0, 10, (batch,), device=device)
        sides = [stepper(hand, x, y), stepper(graph, x, y)]
        first = [[float(side()) for _ in range(5)] for side in sides]
        apart = max(abs(a - b) for a, b in zip(*first, strict=True))
        many = 20 if kind is Mlp else 4
        times: list[list[float]] = [[], []]
        for _ in range(arguments.rounds):
            for side, record in zip(sides, times, strict=True):
                if device.type == "cuda":
                    torch.cuda.synchronize()
                start = time.perf_counter()
                for _ in range(many):
                    side()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                record.append((time.perf_counter() - start) / many)
        by_hand, ours = (statistics.median(record) for record in times)
        ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
        print(f"| {kind.__name__} | {1 / by_hand:.1f} | {1 / ours:.1f} | {ratio:.2f} | {apart:.1e} |", flush=True)


if __name__ == "__main__":
    main()
