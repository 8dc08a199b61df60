"""VGG16 (NetMorph) of the paper's Table 2 by one recipe, from a VGG16 of real size: wall time and peak memory.

    python benchmarks/vgg16.py                     # grow and verify
    python benchmarks/vgg16.py --no-verify

The parent has the layers of VGG16 (138 million parameters, 553 MB of external data; random weights at the scale of He,
since no trained ones are at hand). The recipe expands the last convolution of the blocks with 64, 128 and 256 channels,
``(3:c)`` into ``(3:cx4)(1:c)``, as the paper does. What is measured is the whole process ``onnxmorph apply``.

On two cores that nine other processes were using (wall time tells little there, CPU time and memory do), 2026-11-22::

    parent: 138.4 million parameters
    residual of the morphism equation: 3.1e-08
    equivalent: 2 sets of inputs on CPU (as stored)
    largest difference 2e-05; worst at 'fc8': 5.8 times the parent's own noise (limit 16)
    a planted fault of 5% of one weight's spread was seen
    onnxmorph apply: 90.2 s wall, 12.2 s cpu, 1828 MiB peak, exit code 0
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
CLASSIFIER = (4096, 4096, 1000)

RECIPE = """
[[step]]
morph = "subnet"
layers = "conv1_2"
template = "(3:64x4)(1:64)"

[[step]]
morph = "subnet"
layers = "conv2_2"
template = "(3:128x4)(1:128)"

[[step]]
morph = "subnet"
layers = "conv3_3"
template = "(3:256x4)(1:256)"
"""


def vgg16(path: Path) -> int:
    """Write VGG16 with external data; the number of its parameters."""
    random = np.random.default_rng(0)
    nodes, initializers = [], []
    value, channels, count = "image", 3, 0

    def weight(name: str, *shape: int) -> str:
        nonlocal count
        scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.01
        array = random.standard_normal(shape, dtype=np.float32) * np.float32(scale)
        count += array.size
        initializers.append(numpy_helper.from_array(array, name))
        return name

    for block, sizes in enumerate(BLOCKS, start=1):
        for layer, size in enumerate(sizes, start=1):
            name = f"conv{block}_{layer}"
            inputs = [value, weight(f"{name}.weight", size, channels, 3, 3), weight(f"{name}.bias", size)]
            nodes.append(helper.make_node("Conv", inputs, [name], name=name, pads=[1] * 4))
            nodes.append(helper.make_node("Relu", [name], [f"{name}_relu"], name=f"{name}_relu"))
            value, channels = f"{name}_relu", size
        nodes.append(helper.make_node("MaxPool", [value], [f"pool{block}"], kernel_shape=[2, 2], strides=[2, 2]))
        value = f"pool{block}"
    nodes.append(helper.make_node("Flatten", [value], ["flat"]))
    value, features = "flat", channels * 49
    for layer, size in enumerate(CLASSIFIER, start=6):
        name = f"fc{layer}"
        inputs = [value, weight(f"{name}.weight", size, features), weight(f"{name}.bias", size)]
        nodes.append(helper.make_node("Gemm", inputs, [name], name=name, transB=1))
        value, features = name, size
        if layer < 8:
            nodes.append(helper.make_node("Relu", [value], [f"{name}_relu"], name=f"{name}_relu"))
            value = f"{name}_relu"
    graph = helper.make_graph(
        nodes,
        "vgg16",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["N", 1000])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
    return count


def main() -> int:
    """Make the parent, run the recipe, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-verify", action="store_true")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make is not None:
        print(f"parent: {vgg16(options.make) / 1e6:.1f} million parameters", flush=True)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        parent, child, recipe = (Path(folder) / name for name in ("vgg16.onnx", "child.onnx", "netmorph.toml"))
        # In a process of its own: a child's peak memory starts from what its parent held when it was forked.
        subprocess.run([sys.executable, __file__, "--make", str(parent)], check=True)
        recipe.write_text(RECIPE, encoding="utf-8")
        command = [sys.executable, "-m", "onnxmorph_cli", "apply", str(recipe), str(parent), "-o", str(child)]
        command += ["--no-verify"] if options.no_verify else ["--shape", "image:1,3,224,224"]
        started = time.monotonic()
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        print(f"onnxmorph apply: {wall:.1f} s wall, {usage.ru_utime + usage.ru_stime:.1f} s cpu,", end=" ")
        print(f"{usage.ru_maxrss / 1024:.0f} MiB peak, exit code {os.waitstatus_to_exitcode(status)}")
        return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
