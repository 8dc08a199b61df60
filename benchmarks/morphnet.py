"""MorphNet's table in small: accuracy at equal cost, against scaling all widths by one factor.

A convolutional network with batch norms is trained on a part of MNIST, CIFAR-10 or scikit-learn's digits. For each
budget of flops, with the same number of steps in all:

* ``uniform``: all widths times one factor, the largest within the budget, trained from scratch;
* ``shrunk``: the trained network, shrunk to the budget by `onnxmorph.grow.morphnet.shrink`;
* ``its widths, from scratch``: a network of the widths that were found, trained from scratch, as the paper does.

And at the cost of the first network: that network trained on, against the one shrunk to half and expanded again
(`expand`, a morph), trained on for the rest of the steps.

    python benchmarks/morphnet.py                                       # MNIST, widths that grow with depth
    python benchmarks/morphnet.py --network even --data digits --times 3 --budgets 0.5 0.25

Each table is a section of docs/morphnet.md. Every stage is kept as JSON in build/morphnet, by its settings; what is
there is not run again.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.paper.datasets import SHARED, available, images
from onnxmorph import model as files
from onnxmorph import train
from onnxmorph._ir import ir
from onnxmorph.grow.morphnet import expand, shrink
from onnxmorph.grow.morphnet.pricing import Pricing
from onnxmorph.grow.morphnet.widths import Network

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "build" / "morphnet"
PAGE = ROOT / "docs" / "morphnet.md"
STRENGTHS = (2.0, 8.0)
"""Of the regulariser on all channels at once, at the second budget."""
FIRST, REGULARISED, AFTER, LAST = 10, 8, 4, 6
"""Epochs: of the first network, with the regulariser, after channels are out, after the expansion."""


@dataclass(frozen=True)
class Net:
    """A network: convolutions of 3x3 with batch norm and ReLU, the mean over places, a linear layer.

    Attributes:
        widths: Channels of each convolution.
        strides: Of each convolution.
        says: What it is, for the page.
    """

    widths: tuple[int, ...]
    strides: tuple[int, ...]
    says: str


NETS = {
    "pyramid": Net((16, 32, 48), (2, 2, 1), "three 3x3 convolutions of 16, 32, 48 channels with batch norms"),
    "even": Net(
        (24,) * 6,
        (1, 1, 2, 1, 2, 1),
        "six 3x3 convolutions of 24 channels each with batch norms, the third and the fifth of stride 2",
    ),
}


def network(net: Net, widths: Sequence[int], image: Sequence[int], seed: int) -> onnx.ModelProto:
    """The network as ONNX, of other widths than its own where wished, with weights at He's scale."""
    random = np.random.default_rng(seed)
    nodes, stored = [], []

    def weight(name: str, array: Any) -> str:
        stored.append(numpy_helper.from_array(np.asarray(array, dtype=np.float32), name))
        return name

    value, channels = "image", image[0]
    for number, (width, stride) in enumerate(zip(widths, net.strides, strict=True), 1):
        scale = np.sqrt(2 / (9 * channels))
        kernel = weight(f"conv{number}.weight", random.standard_normal((width, channels, 3, 3)) * scale)
        nodes.append(
            helper.make_node(
                "Conv", [value, kernel], [f"c{number}"], f"conv{number}", pads=[1] * 4, strides=[stride] * 2
            )
        )
        norm = [
            weight(f"bn{number}.{name}", np.full(width, number_of))
            for name, number_of in (("weight", 1), ("bias", 0), ("mean", 0), ("var", 1))
        ]
        nodes.append(helper.make_node("BatchNormalization", [f"c{number}", *norm], [f"n{number}"], f"bn{number}"))
        nodes.append(helper.make_node("Relu", [f"n{number}"], [f"r{number}"], f"relu{number}"))
        value, channels = f"r{number}", width
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["p"], "pool"))
    nodes.append(helper.make_node("Flatten", ["p"], ["f"], "flat"))
    last = [
        weight("fc.weight", random.standard_normal((10, channels)) * np.sqrt(1 / channels)),
        weight("fc.bias", np.zeros(10)),
    ]
    nodes.append(helper.make_node("Gemm", ["f", *last], ["logits"], "fc", transB=1))
    graph = helper.make_graph(
        nodes,
        "morphnet",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *image])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@dataclass(frozen=True)
class Task:
    """What is learned by what.

    Attributes:
        name: Of the data, for people.
        net: The network.
        x, y, test_x, test_y: Images in [0, 1] and their classes, always the same ones.
        halved: Images were halved by the mean of four, so that a table takes minutes.
    """

    name: str
    net: Net
    x: Any
    y: Any
    test_x: Any
    test_y: Any
    halved: bool

    def fresh(self, widths: Sequence[int], seed: int) -> ir.Model:
        """The network of these widths, by way of a file."""
        CACHE.mkdir(parents=True, exist_ok=True)
        shape = tuple(self.x.shape[1:])
        key = [*widths, *self.net.strides, *shape, seed]
        path = CACHE / f"fresh-{'-'.join(map(str, key))}.onnx"
        if not path.exists():
            onnx.save(network(self.net, widths, shape, seed), path)
        return files.load(path)

    def uniform(self, share: float) -> list[int]:
        """All widths times the largest factor within the budget."""
        whole = cost(self.fresh(self.net.widths, 0))
        tried = {
            tuple(max(1, round(width * factor)) for width in self.net.widths): factor
            for factor in np.linspace(0.02, 1.0, 491)
        }
        ordered = sorted(tried, key=tried.__getitem__)
        low, high = 0, len(ordered) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if cost(self.fresh(ordered[middle], 0)) <= share * whole:
                low = middle
            else:
                high = middle - 1
        return list(ordered[low])

    def result(self, model: ir.Model) -> dict[str, Any]:
        """What is kept of a trained model."""
        net = train.module(model, mode="eval").eval()
        hits = 0
        with torch.no_grad():
            for start in range(0, len(self.test_x), 500):
                found = net(self.test_x[start : start + 500]).numpy().argmax(1)
                hits += int((found == self.test_y[start : start + 500]).sum())
        widths = [layer.out_channels for layer in Network(model).layers][: len(self.net.widths)]
        return {"accuracy": hits / len(self.test_x), "flops": cost(model), "widths": widths}


def load(data: str, net: str, samples: int, tested: int) -> Task:
    """The data at hand, and the network."""
    if data == "mnist" and available("mnist"):
        with np.load(SHARED / "mnist.npz") as file:
            x, y, test_x, test_y = (file[name] for name in ("x_train", "y_train", "x_test", "y_test"))
        order = np.random.default_rng(0).permutation(len(y))[:samples]
        small = _halved(x[order, None] / 255), y[order], _halved(test_x[:tested, None] / 255), test_y[:tested]
        return Task("MNIST", NETS[net], small[0], small[1].astype(np.int64), small[2], small[3].astype(np.int64), True)
    if data == "cifar" and available("cifar"):
        found = images("cifar", cache=ROOT / "build" / "paper" / "data", train_size=samples, test_size=tested)
        pictures = _halved(found.train_x), found.train_y, _halved(found.test_x), found.test_y
        return Task("CIFAR-10 recompressed as JPEG", NETS[net], *pictures, True)
    found = images("digits", cache=ROOT / "build" / "paper" / "data")
    return Task("scikit-learn's digits", NETS[net], found.train_x, found.train_y, found.test_x, found.test_y, False)


def _halved(x: Any) -> Any:
    side = x.shape[-1] // 2
    return x.reshape(*x.shape[:2], side, 2, side, 2).mean((3, 5)).astype(np.float32)


def cost(model: ir.Model) -> float:
    """Flops of one sample."""
    return Pricing(Network(model), "flops").total({})


class Stages:
    """Results by settings, kept on the disk, each with the model it gave."""

    def __init__(self, common: dict[str, Any]) -> None:
        self.common = common

    def run(self, settings: dict[str, Any], make: Callable[[], tuple[ir.Model, dict[str, Any]]]) -> dict[str, Any]:
        """What a stage gave; run if it has not been."""
        key = hashlib.sha256(json.dumps({**self.common, **settings}, sort_keys=True).encode()).hexdigest()[:16]
        path = CACHE / f"{key}.json"
        if not path.exists():
            started = time.monotonic()
            model, result = make()
            files.save(model, path.with_suffix(".onnx"), overwrite=True)
            result |= {"settings": settings, "seconds": round(time.monotonic() - started, 1)}
            path.write_text(json.dumps(result), encoding="utf-8")
            print(json.dumps(result), file=sys.stderr, flush=True)
        return {**json.loads(path.read_text(encoding="utf-8")), "path": str(path.with_suffix(".onnx"))}


def main() -> None:
    """Run what is missing, print the table, and put it into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", choices=("mnist", "cifar", "digits"), default="mnist", help="digits where not at hand"
    )
    parser.add_argument("--network", choices=tuple(NETS), default="pyramid")
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--tested", type=int, default=2000)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.25, 0.1], help="shares of the flops")
    parser.add_argument("--times", type=int, default=1, help="so many times the epochs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = load(options.data, options.network, options.samples, options.tested)
    rows = fill(task, options)
    text = section(task, options, rows)
    print(text)
    put(options.page, f"{options.data} {options.network}", text)


Rows = dict[tuple[str, str], list[dict[str, Any]]]
"""Results by budget and line, one a seed."""


def fill(task: Task, options: argparse.Namespace) -> Rows:
    """Train everything that the table needs."""
    common = {"data": task.name, "samples": len(task.x), "tested": len(task.test_x), "version": 3}
    stages = Stages(common if options.network == "pyramid" else {**common, "network": options.network})
    whole = cost(task.fresh(task.net.widths, 0))
    data = (task.x, task.y)
    plain = {"batch_size": 64, "rate": 3e-3}
    first_epochs, regularised, after, last = (options.times * one for one in (FIRST, REGULARISED, AFTER, LAST))
    all_epochs = first_epochs + regularised + after
    rows: Rows = {}

    def note(budget: str, line: str, result: dict[str, Any]) -> None:
        rows.setdefault((budget, line), []).append(result)

    def scratch(widths: Sequence[int], epochs: int, seed: int) -> dict[str, Any]:
        def make() -> tuple[ir.Model, dict[str, Any]]:
            model = train.fit(task.fresh(widths, seed), data, epochs=epochs, seed=seed, **plain).model
            return model, task.result(model)

        return stages.run({"kind": "scratch", "widths": list(widths), "epochs": epochs, "seed": seed}, make)

    for seed in options.seeds:
        first = scratch(task.net.widths, first_epochs, seed)
        note("100%", "first network", first)
        for share in options.budgets:

            def shrunken(
                share: float = share, seed: int = seed, path: str = first["path"], strength: float | None = None
            ) -> tuple[ir.Model, dict[str, Any]]:
                found = shrink(
                    files.load(path),
                    data,
                    f"flops={share * 100}%",
                    epochs=regularised,
                    finetune=after,
                    seed=seed,
                    strength=strength,
                    **plain,
                )
                more = {"removed": found.removed, "alive": found.alive, "removal_error": found.removal_error}
                return found.model, {**task.result(found.model), **more}

            settings = {
                "kind": "shrunk",
                "order": "slopes, first prices",
                "share": share,
                "seed": seed,
                "epochs": [first_epochs, regularised, after],
            }
            shrunk = stages.run(settings, shrunken)
            label = f"{share:.4g}"
            label = f"{float(label):.1%}".replace(".0%", "%")
            note(label, "uniform", scratch(task.uniform(share), all_epochs, seed))
            note(label, "shrunk", shrunk)
            note(label, "its widths, from scratch", scratch(shrunk["widths"], all_epochs, seed))
            for strength in STRENGTHS if share == options.budgets[1] and options.network == "pyramid" else ():
                other = stages.run({**settings, "strength": strength}, functools.partial(shrunken, strength=strength))
                note(label, f"shrunk, one strength ({strength:g}) for all", other)
            if share == options.budgets[0]:

                def expanded(seed: int = seed, path: str = shrunk["path"]) -> tuple[ir.Model, dict[str, Any]]:
                    wide = expand(files.load(path), f"flops={whole}", seed=seed).model
                    at_once = task.result(wide)["accuracy"]
                    model = train.fit(wide, data, epochs=last, seed=seed, **plain).model
                    return model, {**task.result(model), "at_once": at_once}

                grown = stages.run({**settings, "kind": "expanded", "last": last}, expanded)
                note("100%", "first network, trained on", scratch(task.net.widths, all_epochs + last, seed))
                note("100%", "shrunk to half, expanded, trained on", grown)
                note("100%", "those widths, from scratch", scratch(grown["widths"], all_epochs + last, seed))
    return rows


def put(page: Path, name: str, text: str) -> None:
    """Replace the section of a page between its marks, or add it at the end."""
    begin, end = f"<!-- table {name} -->", f"<!-- end of {name} -->"
    before = page.read_text(encoding="utf-8")
    head, mark, rest = before.partition(begin)
    tail = rest.partition(end)[2] if mark else "\n"
    page.write_text(f"{head.rstrip()}\n\n{begin}\n{text}{end}{tail}", encoding="utf-8")


def section(task: Task, options: argparse.Namespace, rows: Rows) -> str:
    """The table and how it came about, as Markdown."""
    seeds = " ".join(map(str, options.seeds))
    whole = cost(task.fresh(task.net.widths, 0))
    side = task.x.shape[-1]
    halved = f" (halved to {side}x{side} by the mean of four)" if task.halved else ""
    first, regularised, after, last = (options.times * one for one in (FIRST, REGULARISED, AFTER, LAST))
    lines = [
        f"### {task.name}, {task.net.says}",
        "",
        f"`{shlex.join(['python', 'benchmarks/morphnet.py', *sys.argv[1:]])}`",
        "",
        f"{task.name}{halved}, {len(task.x):,} images to train on and {len(task.test_x):,} to judge by; a network of"
        f" {task.net.says} ({whole / 1e6:.2f} M flops)."
        " AdamW at 3e-3, batches of 64, cosine within each training. Each line has had the same number of steps:"
        f" {first + regularised + after} epochs ({first} of the first network, {regularised} with the regulariser,"
        f" {after} after), {first + regularised + after + last} where widths were expanded or the first network trained"
        f" on; the first network alone {first}. Mean and spread (lowest to highest) over the seeds {seeds}.",
        "",
        "| flops | network | accuracy, mean | lowest to highest | widths, by seed |",
        "|---|---|---|---|---|",
    ]
    order = sorted(rows, key=lambda key: (float(key[0].rstrip("%")) == 100, -float(key[0].rstrip("%"))))
    for budget, line in order:
        results = rows[budget, line]
        reached = [result["accuracy"] * 100 for result in results]
        costs = statistics.fmean(result["flops"] for result in results) / whole
        widths = "; ".join(dict.fromkeys("-".join(map(str, result["widths"])) for result in results))
        lines.append(
            f"| {budget} ({costs:.1%}) | {line} | {statistics.fmean(reached):.2f} |"
            f" {min(reached):.2f} to {max(reached):.2f} | {widths} |"
        )
    shrunk = [(key[0], result) for key, found in rows.items() if key[1] == "shrunk" for result in found]
    told = "; ".join(
        f"at {budget}: {statistics.fmean(r['removed'] for b, r in shrunk if b == budget):.0f} channels went,"
        f" {statistics.fmean(r['alive'] for b, r in shrunk if b == budget):.1f} of them not dead, the outputs moved by"
        f" {statistics.fmean(r['removal_error'] for b, r in shrunk if b == budget):.2g} of their norm"
        for budget in dict.fromkeys(budget for budget, _ in shrunk)
    )
    against = []
    for budget in dict.fromkeys(budget for budget, line in rows if line == "uniform"):
        base = statistics.fmean(result["accuracy"] for result in rows[budget, "uniform"])
        for line in ("shrunk", "its widths, from scratch"):
            gain = 100 * (statistics.fmean(result["accuracy"] for result in rows[budget, line]) - base)
            against.append(f"{line} at {budget}: {gain:+.2f}")
    strengths = (
        " One strength for all channels, in a training as short as this one, overshoots the budget by far: the line is"
        " there to show why the reach is annealed."
    )
    lines += [
        "",
        f"Points of accuracy against uniform scaling: {'; '.join(against)}."
        + (strengths if any("one strength" in line for _, line in rows) else ""),
        "",
        f"Taking channels out ({told}).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
