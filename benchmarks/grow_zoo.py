"""Graphs in torch over many models: the forward pass against ONNX Runtime, gradients against finite differences.

For each model: the largest difference of any output, relative to the largest number of that output, with the runtime's
optimisations off; how many tensors are trained, and how many have a gradient; and the slope of a sum of the outputs
along random directions in all trained tensors at once, in double precision, against central differences; and whether
what was not trained goes back byte for byte.

    python benchmarks/grow_zoo.py [--write docs/train_zoo.md] [FOLDER_OR_MODEL ...]

Without arguments: the samples in models/ (and models/fetched where they were fetched), the shared zoo beside the
project where it is there, and the generated models of the tests.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from onnxmorph import model as files  # noqa: E402
from onnxmorph._ir import ir  # noqa: E402
from onnxmorph.errors import OnnxMorphError, Refusal  # noqa: E402
from onnxmorph.grow.graph_module import module, write_back  # noqa: E402
from onnxmorph.verify.inputs import InputPlan  # noqa: E402
from onnxmorph.verify.runtime import open_session  # noqa: E402
from tests import zoo_graphs  # noqa: E402

DIRECTIONS = 2
_STEPS = (1e-6, 1e-7)
_LONG = 0.7
"""Seconds of a forward pass beyond which slopes, which take many in double precision, are left out."""


@dataclass
class Row:
    """What was found of one model."""

    name: str
    forward: float | None = None
    trained: int = 0
    reached: int = 0
    slope: float | None = None
    back: bool | None = None
    word: str = ""


def feeds_of(model: ir.Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs of a size that the runtime takes, and what it gives for them."""
    session = open_session(model, "CPUExecutionProvider")
    names = [value.name or "" for value in model.graph.outputs]
    plan = InputPlan(model, seed=0)
    sizes = plan.find_sizes(lambda feeds: session.run(feeds, names) and None, most=1)
    feeds = dict(plan.sets(sizes, 1)[0].feeds)
    return feeds, session.run(feeds, names)


def examine(name: str, path: Path) -> Row:
    """One model."""
    row = Row(name)
    try:
        model = files.load(path)
        feeds, wanted = feeds_of(model)
    except (OnnxMorphError, RuntimeError, TypeError, ValueError) as error:
        row.word = f"not run by ONNX Runtime here: {str(error).removeprefix(f'{path}: ')[:60]}"
        return row
    try:
        net = module(model, mode="eval")
        started = time.monotonic()
        with torch.no_grad():
            found = net.run(**feeds)
        seconds = time.monotonic() - started
        row.forward = max((_apart(found[key], wanted[key]) for key in net.output_names), default=0.0)
        row.back = files.content_hash(write_back(net, model)) == files.content_hash(model)
        if seconds > _LONG:
            row.word = f"a forward pass takes {seconds:.1f} s: slopes not tried"
        else:
            gradients(row, model, feeds)
    except Refusal as refusal:
        row.word = refusal.reason[:90]
    except OnnxMorphError as error:
        row.word = f"FAILED: {str(error)[:90]}"
    return row


def _apart(found: Any, wanted: Any) -> float:
    if isinstance(wanted, list):
        return max((_apart(one, other) for one, other in zip(found, wanted, strict=True)), default=0.0)
    array = found.float().numpy() if found.dtype == torch.bfloat16 else found.numpy()
    a, b = np.asarray(array, dtype=np.float64), np.asarray(wanted, dtype=np.float64)
    if a.shape != b.shape:
        return float("inf")
    both = ~(np.isnan(a) & np.isnan(b)) & (a != b)
    scale = max(float(np.abs(b[np.isfinite(b)]).max(initial=0.0)), 1e-2)
    return float(np.abs(a - b)[both].max(initial=0.0)) / scale


def gradients(row: Row, model: ir.Model, feeds: Mapping[str, Any]) -> None:
    """Slopes along random directions, by backward and by differences."""
    net = module(model, precision="float64")
    net.eval()
    given = {key: torch.from_numpy(np.array(value)) for key, value in feeds.items()}

    def total() -> torch.Tensor:
        parts = [
            (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)).sum()
            for result in net.run(**given).values()
            for out in (result if isinstance(result, list) else [result])
            if isinstance(out, torch.Tensor) and out.is_floating_point()
        ]
        return torch.stack(parts).sum()

    total().backward()
    weights = [tensor for tensor in net.parameters() if tensor.requires_grad]
    row.trained, row.reached = len(weights), sum(tensor.grad is not None for tensor in weights)
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for _ in range(DIRECTIONS):
        moved = [
            torch.randn(w.shape, generator=generator, dtype=w.dtype) * (w.detach().std(correction=0) + 1e-3)
            for w in weights
        ]
        slope = sum(float((w.grad * d).sum()) for w, d in zip(weights, moved, strict=True) if w.grad is not None)
        # A smaller step where rectifiers change sides within the larger one.
        found = min(_difference(total, weights, moved, slope, step) for step in _STEPS)
        worst = max(worst, found)
    row.slope = worst


def _difference(total: Any, weights: Any, moved: Any, slope: float, step: float) -> float:
    """How far a slope is from a central difference, relative to the larger."""
    values = []
    with torch.no_grad():
        for sign in (1, -2, 1):
            for weight, direction in zip(weights, moved, strict=True):
                weight.add_(direction, alpha=sign * step)
            values.append(float(total()))
    difference = (values[0] - values[1]) / (2 * step)
    return abs(slope - difference) / max(abs(slope), abs(difference), 1e-6)


def models(words: list[str]) -> Iterator[tuple[str, str, Path]]:
    """Family, name and file of what is to be examined."""
    shared = ROOT / ".." / "shared" / "zoo" / "models"
    if words:
        for word in words:
            path = Path(word)
            for file in sorted(path.rglob("*.onnx")) if path.is_dir() else [path]:
                yield "named", file.name, file
        return
    for family, folder in (
        ("samples", ROOT / "models"),
        ("fetched", ROOT / "models" / "fetched"),
        ("shared zoo", shared),
    ):
        found = folder.rglob("*.onnx") if family == "fetched" else folder.glob("*.onnx")
        for file in sorted(found):
            yield family, file.name, file
    with tempfile.TemporaryDirectory() as scratch:
        for case in zoo_graphs.CASES.values():
            file = Path(scratch) / "model.onnx"
            onnx.save(case.build(), file)
            yield f"generated: {case.name.split('/')[0]}", case.name, file


def table(rows: list[Row]) -> str:
    """As Markdown."""
    lines = [
        "| model | forward | trained | with gradient | slopes | unchanged goes back | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        forward = "" if row.forward is None else f"{row.forward:.1e}"
        slope = "" if row.slope is None else f"{row.slope:.1e}"
        counts = (str(row.trained), str(row.reached)) if row.trained else ("", "")
        back = "" if row.back is None else "yes" if row.back else "NO"
        lines.append(f"| {row.name} | {forward} | {counts[0]} | {counts[1]} | {slope} | {back} | {row.word} |")
    return "\n".join(lines)


def summary(families: Mapping[str, list[Row]]) -> str:
    """One line a family."""
    lines = [
        "| models | run | within 1e-5 | trained | slopes within 1e-4 | go back unchanged |",
        "|---|---|---|---|---|---|",
    ]
    for family, rows in families.items():
        run = [row for row in rows if row.forward is not None]
        trained = [row for row in run if row.slope is not None]
        close = sum((row.forward or 0) <= 1e-5 for row in run)
        lines.append(
            f"| {family} | {len(run)} of {len(rows)} | {close} | {len(trained)}"
            f" | {sum((row.slope or 0) <= 1e-4 for row in trained)} | {sum(bool(row.back) for row in run)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    families: dict[str, list[Row]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for family, name, path in models(arguments.models):
            families.setdefault(family, []).append(examine(name, path))
            print(table([families[family][-1]]).splitlines()[-1], file=sys.stderr, flush=True)
    whole = {family: rows for family, rows in families.items() if not family.startswith("generated")}
    odd = [
        row
        for family, rows in families.items()
        if family.startswith("generated")
        for row in rows
        if row.word or (row.forward or 0) > 1e-5 or (row.slope or 0) > 1e-4 or row.back is False
    ]
    text = "\n\n".join(
        [
            "# Training over the zoo",
            "Printed by `python benchmarks/grow_zoo.py --write docs/train_zoo.md`. *Forward*: the largest difference of"
            " any output from ONNX Runtime, relative to the largest number of that output (or 0.01), as stored (16-bit"
            " models in 16 bits). *Slopes*: the largest relative difference of the gradient from central differences"
            f" along {DIRECTIONS} random directions in all trained tensors, in double precision, with the better of the"
            f" steps {_STEPS[0]:g} and {_STEPS[1]:g} of a tensor's spread, since rectifiers change sides within larger"
            " ones. The `light_*` models that are not `.random` have weights that are all equal: every maximum is a"
            " tie, and there is no slope to compare with.",
            summary(families),
            *(f"## {family.capitalize()}\n\n{table(rows)}" for family, rows in whole.items()),
            *([f"## Generated models with something to tell\n\n{table(odd)}"] if odd else []),
        ]
    )
    if arguments.write is not None:
        arguments.write.write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
