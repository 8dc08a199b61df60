"""What verification costs: time against its floor, and memory for a model of two gigabytes.

    python benchmarks/verify.py --floor [--processor] MODEL...   Markdown table: seconds, floor, ratio, for each model
    python benchmarks/verify.py --memory [--gigabytes 2] [--folder DIR]

*Floor*: two sessions of the reference tier are created, one of the parent and one of the child, and every run that the
verification made is made again on them with the same inputs and outputs (those of the other tier on sessions of that
tier, whose making is not counted), with nothing in between. Best of several, since other programs only add; with
``--processor`` both are processor time of all threads, which other programs hardly change.

*Memory*: the largest anonymous memory of the process (``RssAnon`` of ``/proc/self/status``, sampled every 2 ms) above
what it was with everything imported and both models loaded. Mapped files are not in it, and what ONNX Runtime
allocates is, so the figure is an upper bound of our own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.errors import OnnxMorphError
from onnxmorph.morphs import plan_deepen
from onnxmorph.verify import Certificate, runtime, verify

_HIDDEN = 4096

Clock = Callable[[], float]


# -- time -------------------------------------------------------------------------------------------------------------


@dataclass
class Log:
    """Sessions made and runs made on them, in order."""

    sessions: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    runs: list[tuple[int, Any, Any]] = field(default_factory=list)


@contextmanager
def logged() -> Iterator[Log]:
    """Notes every session made and every run inside."""
    log = Log()
    made: dict[int, int] = {}
    init, run = runtime.Session.__init__, runtime.Session.run

    def new_init(self: runtime.Session, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        made[id(self)] = len(log.sessions)
        log.sessions.append((args, kwargs))

    def new_run(self: runtime.Session, feeds: Any, outputs: Any = None) -> Any:
        log.runs.append((made[id(self)], feeds, outputs))
        return run(self, feeds, outputs)

    runtime.Session.__init__, runtime.Session.run = new_init, new_run  # type: ignore[method-assign]
    try:
        yield log
    finally:
        runtime.Session.__init__, runtime.Session.run = init, run  # type: ignore[method-assign]


def floor_seconds(log: Log, clock: Clock) -> float:
    """Two sessions created, and every run of the log; sessions beyond the first parent's and child's are free."""
    reference = [place for place, (_, kwargs) in enumerate(log.sessions) if not kwargs.get("optimise")][:2]
    sessions = {
        place: runtime.Session(*args, **kwargs)
        for place, (args, kwargs) in enumerate(log.sessions)
        if place not in reference
    }
    started = clock()
    for place in reference:
        args, kwargs = log.sessions[place]
        sessions[place] = runtime.Session(*args, **kwargs)
    for place, feeds, outputs in log.runs:
        sessions[place].run(feeds, outputs)
    return clock() - started


def pair_of(path: Path) -> tuple[ir.Model, ir.Model]:
    """A model and a child of it, deepened at the first layer that takes it; the model itself where none does."""
    from onnxmorph.graph.layers import layers

    parent = files.load(path)
    for layer in layers(parent):
        try:
            return parent, plan_deepen(parent, layer).apply(parent).model
        except OnnxMorphError:
            continue
    return parent, parent


def time_of(
    parent: ir.Model, child: ir.Model, repeats: int, clock: Clock
) -> tuple[float, float, float, Certificate, Log]:
    """Best seconds of a verification and of its floor, the median of their ratios, and what the last one gave."""
    took: list[float] = []
    floors: list[float] = []
    with logged() as log:
        certificate = verify(parent, child, provider="cpu")
    for _ in range(repeats):
        started = clock()
        certificate = verify(parent, child, provider="cpu")
        took.append(clock() - started)
        floors.append(floor_seconds(log, clock))
    ratio = statistics.median(one / other for one, other in zip(took, floors, strict=True))
    return min(took), min(floors), ratio, certificate, log


def print_floor(paths: Sequence[Path], repeats: int, clock: Clock) -> None:
    """The table of times."""
    print("| model | verdict | sets | sessions | runs | seconds | floor | ratio |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    runtime.runtime_version()
    for path in paths:
        try:
            parent, child = pair_of(path)
            took, floor, ratio, certificate, log = time_of(parent, child, repeats, clock)
        except OnnxMorphError as error:
            print(f"| {path.stem} | {str(error)[:60]} | | | | | | |")
            continue
        verdict = "equivalent" if certificate.equivalent else "not equivalent"
        print(
            f"| {path.stem} | {verdict} | {certificate.inputs} | {len(log.sessions)} | {len(log.runs)} | {took:.3f} | "
            f"{floor:.3f} | {ratio:.2f} |",
            flush=True,
        )


# -- memory -----------------------------------------------------------------------------------------------------------


def anonymous_bytes() -> int:
    """Anonymous memory of this process that is resident now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell RssAnon")


@contextmanager
def peak() -> Iterator[Callable[[], int]]:
    """Gives the largest anonymous memory inside, above what it was at the beginning, in bytes."""
    before = anonymous_bytes()
    most = before
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            most = max(most, anonymous_bytes())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: most - before
    finally:
        done.set()
        thread.join()


def write_large(path: Path, gigabytes: float) -> None:
    """A model of ``Gemm`` layers of 4096 units with this many gigabytes of float32 weights beside it."""
    from onnx import TensorProto, helper

    layers = max(2, round(gigabytes * 1e9 / (4 * _HIDDEN * _HIDDEN)))
    generator = np.random.default_rng(0)
    nodes, tensors, offset = [], [], 0
    with path.with_suffix(".onnx.data").open("wb") as data:
        for index in range(layers):
            weight = generator.standard_normal((_HIDDEN, _HIDDEN), dtype=np.float32) * np.float32(_HIDDEN**-0.5)
            tensor = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=weight.shape)
            tensor.data_location = TensorProto.EXTERNAL
            facts = {"location": data.name.rpartition("/")[2], "offset": offset, "length": weight.nbytes}
            for key, value in facts.items():
                tensor.external_data.add(key=key, value=str(value))
            data.write(weight.tobytes())
            offset += weight.nbytes
            tensors.append(tensor)
            before = f"r{index - 1}" if index else "x"
            after = f"h{index}" if index + 1 < layers else "y"
            nodes.append(helper.make_node("Gemm", [before, f"w{index}"], [after], transB=1, name=f"fc{index}"))
            if index + 1 < layers:
                nodes.append(helper.make_node("Relu", [f"h{index}"], [f"r{index}"], name=f"relu{index}"))
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", _HIDDEN]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "large", value[:1], value[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def print_memory(folder: Path, gigabytes: float) -> None:
    """Verifies a large model against a deeper one and prints the largest memory."""
    path, child = folder / "large.onnx", folder / "deeper.onnx"
    if not path.exists():
        write_large(path, gigabytes)
    if not child.exists():
        from onnxmorph.graph.layers import layers

        parent = files.load(path)
        grown = plan_deepen(parent, layers(parent)[1], method="identity").apply(parent)
        files.save(grown.model, child, share_weights=True)
    parent, grown_model = files.load(path), files.load(child)
    size = sum(value.const_value.nbytes for value in parent.graph.initializers.values() if value.const_value)
    runtime.choose_provider("cpu")
    with peak() as most:
        started = time.perf_counter()
        certificate = verify(parent, grown_model, provider="cpu", time_budget=60)
        took = time.perf_counter() - started
        largest = most()
    print(certificate.describe())
    print(
        f"weights {size / 1e9:.2f} GB; peak of anonymous memory above the start {largest / 1e6:.0f} MB; "
        f"{took:.1f} s, {certificate.inputs} sets of inputs"
    )


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--floor", action="store_true", help="time against the floor, for each model")
    parser.add_argument("--processor", action="store_true", help="processor time rather than time on the wall")
    parser.add_argument("--memory", action="store_true", help="memory for a large model")
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, help="where the large model is kept (default: a temporary folder)")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.floor:
        print_floor(options.models, options.repeats, time.process_time if options.processor else time.perf_counter)
    if options.memory:
        if options.folder is not None:
            options.folder.mkdir(parents=True, exist_ok=True)
            print_memory(options.folder, options.gigabytes)
        else:
            with tempfile.TemporaryDirectory() as folder:
                print_memory(Path(folder), options.gigabytes)
    if not (options.floor or options.memory):
        parser.print_usage(sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
