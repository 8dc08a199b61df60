#!/usr/bin/env python3
"""Children of many models, verified on CUDA and on the CPU: who ran each node, how far apart, and what TF32 would do.

    python benchmarks/providers.py                       # the shared zoo where it is there, else the samples
    python benchmarks/providers.py MODEL ...             # these
    python benchmarks/providers.py --provider cpu        # without a GPU: the same run, and what is left to show

One layer from the middle of each model is deepened. Per provider: nodes of the child that it ran, and those it left to
another, from a profile of a run; the verdict; and the largest difference between parent and child over the parent's own
noise. Then TF32: outputs of the parent on CUDA against the CPU's, as the largest difference over the largest number,
as every session of onnxmorph is set up and with TF32 let in, each in a process of its own, since the CUDA libraries
read the environment once.

Without CUDA the columns for it stay away, and the last line says so: nothing here stands in for a GPU.
"""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from onnxmorph import model as files  # noqa: E402
from onnxmorph._ir import ir  # noqa: E402
from onnxmorph.errors import OnnxMorphError, Refusal, RuntimeFailure  # noqa: E402
from onnxmorph.graph.layers import layers  # noqa: E402
from onnxmorph.morphs import plan_deepen  # noqa: E402
from onnxmorph.verify import verify  # noqa: E402
from onnxmorph.verify.inputs import InputPlan  # noqa: E402
from onnxmorph.verify.runtime import choose_provider, open_session, prepare, providers_by_node  # noqa: E402

CPU = "CPUExecutionProvider"


def child_of(parent: ir.Model) -> tuple[str, ir.Model]:
    """The child that comes of deepening a layer from the middle, or the nearest that can be, and the layer's name.

    Raises:
        Refusal: No layer can be deepened; the reason of the last one tried.
    """
    able = [layer for layer in layers(parent) if layer.blocked is None]
    middle = len(able) // 2
    last = Refusal("no layer with weights of its own", code="no-layer")
    for layer in sorted(able, key=lambda each: abs(able.index(each) - middle)):
        try:
            return layer.name, plan_deepen(parent, layer).apply(parent).model
        except Refusal as refusal:
            last = refusal
    raise last


def feeds_for(model: ir.Model) -> dict[str, Any]:
    """One set of inputs that the model runs on.

    Raises:
        RuntimeFailure: There is none.
    """
    session = open_session(model, CPU)

    def runs(feeds: dict[str, Any]) -> None:
        session.run(feeds)

    plan = InputPlan(model, seed=0)
    sizes = plan.find_sizes(runs, most=1)
    return dict(plan.sets(sizes, 1)[0].feeds)


def nodes_of(model: ir.Model, feeds: Mapping[str, Any], provider: str) -> str:
    """Who ran the nodes, as stored and as optimised."""
    told = []
    for optimise in (False, True):
        ran = Counter(providers_by_node(prepare(model).form, feeds, provider, optimise=optimise).values())
        told.append(", ".join(f"{name.removesuffix('ExecutionProvider')} {count}" for name, count in ran.most_common()))
    return " / ".join(told)


def row(path: Path, providers: Sequence[str], work: Path) -> tuple[list[str], bool]:
    """The cells of one model, and whether its child was found equal everywhere."""
    parent = files.load(path)
    layer, child = child_of(parent)
    feeds = feeds_for(parent)
    cells, equal = [path.stem, layer], True
    for provider in providers:
        full = "CUDAExecutionProvider" if provider == "cuda" else CPU
        certificate = verify(parent, child, provider="cuda" if provider == "cuda" else "cpu", time_budget=2)
        equal = equal and certificate.equivalent
        worst = max((value.ratio for value in (*certificate.outputs, *certificate.inner)), default=float("nan"))
        cells += [nodes_of(child, feeds, full), "equivalent" if certificate.equivalent else "NOT EQUIVALENT"]
        cells.append(f"{worst:.2g}")
    if "cuda" in providers:
        expected = open_session(parent, CPU).run(feeds)
        cells += [f"{off_cpu(parent, feeds, expected, work, tf32=on):.1e}" for on in (False, True)]
    return cells, equal


def off_cpu(model: ir.Model, feeds: Mapping[str, Any], expected: Mapping[str, Any], work: Path, *, tf32: bool) -> float:
    """Largest difference of an output on CUDA from the CPU's, over that output's largest number.

    Args:
        model: What is run.
        feeds: Its inputs.
        expected: Its outputs on the CPU.
        work: A folder for what the other process reads and writes.
        tf32: Whether CUDA may round the factors of products to 10 bits.

    Raises:
        RuntimeFailure: The process that ran it failed.
    """
    graph, asked, answer = work / "model.onnx", work / "feeds.pickle", work / "outputs.pickle"
    files.save(model, graph, overwrite=True)
    asked.write_bytes(pickle.dumps((dict(feeds), tf32)))
    environment = {name: value for name, value in os.environ.items() if name != "NVIDIA_TF32_OVERRIDE"}
    if not tf32:
        environment["NVIDIA_TF32_OVERRIDE"] = "0"
    command = [sys.executable, __file__, "--worker", str(graph), str(asked), str(answer)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeFailure(f"the run on CUDA failed: {done.stderr.strip().splitlines()[-1:]}")
    found = pickle.loads(answer.read_bytes())
    return max((apart(found[name], expected[name]) for name in expected), default=0.0)


def apart(found: Any, expected: Any) -> float:
    """Largest difference over the largest number, of float arrays; 0 for everything else."""
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f" or not found.size:
        return 0.0
    a, b = found.astype(np.float64), np.asarray(expected, np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    scale = float(np.abs(b[finite]).max(initial=0.0)) or 1.0
    return float(np.abs(a - b)[finite].max(initial=0.0)) / scale


def worker(graph: str, asked: str, answer: str) -> None:
    """Runs a model on CUDA with TF32 as asked, and writes its outputs."""
    import onnxruntime

    feeds, tf32 = pickle.loads(Path(asked).read_bytes())
    onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    provider = ("CUDAExecutionProvider", {"use_tf32": "1" if tf32 else "0", "cudnn_conv_algo_search": "HEURISTIC"})
    session = onnxruntime.InferenceSession(graph, sess_options=options, providers=[provider])
    session.disable_fallback()
    if session.get_providers()[0] != provider[0]:
        sys.exit("the session does not run on CUDA")
    names = [output.name for output in session.get_outputs()]
    Path(answer).write_bytes(pickle.dumps(dict(zip(names, session.run(names, feeds), strict=True))))


def main() -> int:
    """Print a Markdown table; the exit status is 1 where a child was not found equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument(
        "--provider", choices=("auto", "cuda", "cpu"), default="auto", help="auto: both where CUDA works"
    )
    options = parser.parse_args()
    choice = choose_provider(options.provider)
    cuda = choice.name != CPU
    providers = ["cuda", "cpu"] if cuda else ["cpu"]
    zoo = ROOT.parent / "shared" / "zoo" / "models"
    paths = options.models or sorted((zoo if zoo.is_dir() else ROOT / "models").glob("*.onnx"))
    heads = ["model", "deepened layer"]
    for provider in providers:
        name = provider.upper()
        heads += [f"nodes, as stored / optimised ({name})", f"verdict ({name})", f"difference / noise ({name})"]
    if cuda:
        heads += ["parent off the CPU, TF32 off", "TF32 on"]
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            try:
                cells, equal = row(path, providers, Path(folder))
                counts["equivalent" if equal else "not equivalent"] += 1
            except OnnxMorphError as error:
                cells = [path.stem, str(error), *[""] * (len(heads) - 2)]
                counts["without a child, or not run here"] += 1
            print("| " + " | ".join(cells) + " |", flush=True)
    print(f"\n{len(paths)} models: " + ", ".join(f"{count} {what}" for what, count in counts.items()) + ".")
    if not cuda:
        print(f"\nOn the CPU alone: {choice.reason}. Left to show on CUDA: these verdicts, who runs each node, TF32.")
    return 1 if counts["not equivalent"] else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:5])
    else:
        sys.exit(main())
