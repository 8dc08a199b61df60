#!/usr/bin/env python3
"""Train and export the sample models of this folder: small real networks on scikit-learn's handwritten digits.

    python models/make.py                        # all of them, about a minute on one core
    python models/make.py --only digits_cnn      # one, or several separated by commas
    python models/make.py --out /tmp/samples     # elsewhere

Needs torch >= 2.6, scikit-learn, onnx and onnxscript; onnxmorph itself needs none of these but onnx. The data ships
inside scikit-learn (1,797 grey images of 8x8 pixels, from UCI), so nothing is downloaded. Seeds are fixed and torch
runs on one thread: a second run on the same machine and torch gives the same files, byte for byte.

Every model takes `image`, float32 of shape (batch, 1, 8, 8) with values in [0, 1], batch dynamic. The last 360 images
of a seeded permutation are held out; they are written to `digits_test.npz` (for `--inputs`) and their classes to
`digits_labels.npz`. What a model reached on them stands in its metadata under `sample.result`, and is printed.
"""

from __future__ import annotations

import argparse
import copy
import io
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

HELD_OUT = 360
NOISE = 0.4  # standard deviation of what the denoiser takes away


@dataclass(frozen=True)
class Digits:
    """Images (n, 1, 8, 8) in [0, 1] and their classes, split into what is learned and what is held out."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def load() -> Digits:
    """The digits of scikit-learn, shuffled by a fixed permutation."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x = torch.from_numpy((data.images[order, None] / 16).astype(np.float32))
    y = torch.from_numpy(data.target[order].astype(np.int64))
    return Digits(x[:-HELD_OUT], y[:-HELD_OUT], x[-HELD_OUT:], y[-HELD_OUT:])


# ---- networks -------------------------------------------------------------------------------------------------------


class Mlp(nn.Module):
    """Three fully connected layers with ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 64)
        self.relu1 = nn.ReLU()
        self.fc2 = nn.Linear(64, 48)
        self.relu2 = nn.ReLU()
        self.head = nn.Linear(48, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.relu1(self.fc1(image.flatten(1)))
        return self.head(self.relu2(self.fc2(x)))


class Cnn(nn.Module):
    """A plain stack of 3x3 convolutions with ReLU, pooled into one linear layer: VGG in small."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential()
        for i, (a, b) in enumerate(((1, 16), (16, 24), (24, 32)), 1):
            self.features.add_module(f"conv{i}", nn.Conv2d(a, b, 3, padding=1))
            self.features.add_module(f"relu{i}", nn.ReLU())
            if i > 1:
                self.features.add_module(f"pool{i}", nn.MaxPool2d(2))
        self.classifier = nn.Linear(32 * 4, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.features(image).flatten(1))


class ResidualBlock(nn.Module):
    """conv-BN-SiLU-conv-BN plus a shortcut, by a 1x1 convolution where the shape changes."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(a, b, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(b)
        self.act1 = nn.SiLU()
        self.conv2 = nn.Conv2d(b, b, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(b)
        self.downsample = nn.Identity() if a == b else nn.Sequential(nn.Conv2d(a, b, 1, stride), nn.BatchNorm2d(b))
        self.act2 = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        return self.act2(y + self.downsample(x))


class ResNet(nn.Module):
    """A stem and two residual blocks, batch norms kept as nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.act = nn.SiLU()
        self.layer1 = ResidualBlock(16, 16, 1)
        self.layer2 = ResidualBlock(16, 32, 2)
        self.head = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.act(self.bn(self.stem(image)))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Block(nn.Module):
    """A pre-norm transformer block: attention with q, k, v fused, and a GELU MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 2 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(c // self.heads)).softmax(-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(n, t, c))
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


class Transformer(nn.Module):
    """A vision transformer on patches of 2x2: 16 tokens of 32 numbers, two blocks, their mean into the head."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(1, 32, 2, 2)
        self.pos_embed = nn.Parameter(torch.randn(1, 16, 32) * 0.1)
        self.blocks = nn.ModuleList(Block(32, 4) for _ in range(2))
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class SqueezeExcite(nn.Module):
    """Channels scaled by a gate that the pooled channels open."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, width // 4, 1)
        self.relu = nn.ReLU()
        self.expand = nn.Conv2d(width // 4, width, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(self.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))


class InvertedResidual(nn.Module):
    """MobileNet's block: widen 1x1, depthwise 3x3, squeeze-excite, narrow 1x1, add."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(width, inner, 1)
        self.act1 = nn.Hardswish()
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.act2 = nn.Hardswish()
        self.se = SqueezeExcite(inner)
        self.project = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.se(self.act2(self.depthwise(self.act1(self.expand(x))))))


class Mobile(nn.Module):
    """Two inverted residuals with HardSwish, depthwise convolutions and squeeze-excite."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.act = nn.Hardswish()
        self.block1 = InvertedResidual(16, 48)
        self.down = nn.Conv2d(16, 32, 2, 2)
        self.block2 = InvertedResidual(32, 64)
        self.head = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.block2(self.down(self.block1(self.act(self.stem(image)))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Unet(nn.Module):
    """A denoiser: down by strided convolutions, up by ConvTranspose, joined to what was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.enc1 = nn.Conv2d(1, 12, 3, padding=1)
        self.enc2 = nn.Conv2d(12, 24, 3, 2, 1)
        self.enc3 = nn.Conv2d(24, 32, 3, 2, 1)
        self.up1 = nn.ConvTranspose2d(32, 24, 2, 2)
        self.dec1 = nn.Conv2d(48, 24, 3, padding=1)
        self.up2 = nn.ConvTranspose2d(24, 12, 3, 2, 1, output_padding=1)
        self.dec2 = nn.Conv2d(24, 12, 3, padding=1)
        self.last = nn.Conv2d(12, 1, 1)
        self.act = nn.LeakyReLU(0.1)

    def forward(self, image: Tensor) -> Tensor:
        a = self.act(self.enc1(image))
        b = self.act(self.enc2(a))
        c = self.act(self.enc3(b))
        d = self.act(self.dec1(torch.cat([self.up1(c), b], 1)))
        e = self.act(self.dec2(torch.cat([self.up2(d), a], 1)))
        return torch.sigmoid(self.last(e))


# ---- training and export --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """One sample model: its network, how it is trained and exported, and a line for the reader."""

    network: Callable[[], nn.Module]
    epochs: int
    exporter: str  # 'legacy' (TorchScript) or 'dynamo' (torch.export)
    opset: int
    about: str
    denoises: bool = False
    keep_batch_norm: bool = False


SAMPLES = {
    "digits_mlp": Sample(Mlp, 40, "legacy", 17, "fully connected, ReLU"),
    "digits_cnn": Sample(Cnn, 40, "legacy", 17, "plain convolutions, ReLU"),
    "digits_resnet": Sample(
        ResNet, 30, "legacy", 13, "residual adds, batch norms as nodes, SiLU", keep_batch_norm=True
    ),
    "digits_transformer": Sample(Transformer, 80, "legacy", 17, "vision transformer, LayerNorm, GELU by Erf"),
    "digits_mobile": Sample(Mobile, 40, "dynamo", 18, "depthwise, squeeze-excite, HardSwish"),
    "digits_unet": Sample(Unet, 60, "dynamo", 18, "denoiser: ConvTranspose, skip by Concat, LeakyReLU", denoises=True),
}


def noisy(x: Tensor, seed: int) -> Tensor:
    """The images under normal noise, the same for the same seed."""
    return x + NOISE * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


def train(sample: Sample, data: Digits) -> nn.Module:
    """Adam with a cosine schedule on mini-batches of 64; seeded."""
    torch.manual_seed(0)
    net = sample.network().train()
    steps = sample.epochs * math.ceil(len(data.train_x) / 64)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(1)
    for epoch in range(sample.epochs):
        for rows in torch.randperm(len(data.train_x), generator=order).split(64):
            x, y = data.train_x[rows], data.train_y[rows]
            if sample.denoises:
                loss = F.mse_loss(net(noisy(x, epoch)), x)
            else:
                loss = F.cross_entropy(net(x), y, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


@torch.no_grad()
def result(sample: Sample, net: nn.Module, data: Digits) -> str:
    """What the network does on the images held out, in words."""
    if sample.denoises:
        x = noisy(data.test_x, 10_000)
        before, after = (torch.sqrt(F.mse_loss(v, data.test_x)).item() for v in (x, net(x)))
        return f"RMS error {before:.3f} -> {after:.3f}"
    hits = int((net(data.test_x).argmax(1) == data.test_y).sum())
    return f"{hits} of {len(data.test_y)} right ({100 * hits / len(data.test_y):.1f} %)"


def export(sample: Sample, net: nn.Module, image: Tensor, output: str) -> onnx.ModelProto:
    """The network as torch writes it, less what names the machine it was written on (stack traces, doc strings)."""
    buffer = io.BytesIO()
    if sample.exporter == "legacy":
        # Left to itself the exporter folds batch norms into the convolutions before them.
        mode = torch.onnx.TrainingMode.PRESERVE if sample.keep_batch_norm else torch.onnx.TrainingMode.EVAL
        torch.onnx.export(
            net,
            (image,),
            buffer,
            dynamo=False,
            opset_version=sample.opset,
            input_names=["image"],
            output_names=[output],
            dynamic_axes={"image": {0: "batch"}, output: {0: "batch"}},
            training=mode,
        )
        model = onnx.load_model_from_string(buffer.getvalue())
    else:
        program = torch.onnx.export(
            net,
            (image,),
            dynamo=True,
            opset_version=sample.opset,
            input_names=["image"],
            output_names=[output],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            optimize=True,
            verbose=False,
        )
        assert program is not None
        model = copy.deepcopy(program.model_proto)
    for node in model.graph.node:
        node.doc_string = ""
        kept = [entry for entry in node.metadata_props if entry.key == "namespace"]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    return model


def make(name: str, data: Digits, out: Path) -> str:
    """Train, export and write one sample; the line of the table that tells about it."""
    sample = SAMPLES[name]
    net = train(sample, data)
    reached = result(sample, net, data)
    model = export(sample, net, data.test_x[:2], "denoised" if sample.denoises else "logits")
    parameters = sum(p.numel() for p in net.parameters())
    helper.set_model_props(
        model,
        {
            "sample.about": sample.about,
            "sample.data": f"scikit-learn digits, {HELD_OUT} of 1797 images held out",
            "sample.result": reached,
            "sample.exporter": f"torch {torch.__version__.split('+')[0]}, {sample.exporter}",
        },
    )
    onnx.checker.check_model(model, full_check=True)
    path = out / f"{name}.onnx"
    onnx.save_model(model, path)
    return (
        f"| {name}.onnx | {sample.about} | {sample.exporter}, opset {sample.opset} | {parameters:,} "
        f"| {path.stat().st_size / 1000:.0f} kB | {reached} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train and export the sample models.")
    parser.add_argument("--only", default=",".join(SAMPLES), help="names, separated by commas")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where the files go")
    options = parser.parse_args(arguments)
    names = options.only.split(",")
    if unknown := [name for name in names if name not in SAMPLES]:
        parser.error(f"no sample called {', '.join(unknown)}; there are {', '.join(SAMPLES)}")
    warnings.filterwarnings("ignore", module=r"torch\.onnx.*|torch\.export.*|onnxscript.*|copyreg")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    options.out.mkdir(parents=True, exist_ok=True)
    data = load()
    np.savez_compressed(options.out / "digits_test.npz", image=data.test_x.numpy())
    np.savez_compressed(options.out / "digits_labels.npz", label=data.test_y.numpy())
    print("| model | what it has | exporter | parameters | file | on held-out images |")
    print("|---|---|---|---|---|---|")
    for name in names:
        print(make(name, data, options.out), flush=True)


if __name__ == "__main__":
    main()
