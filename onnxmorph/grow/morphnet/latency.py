"""How long each operator takes in ONNX Runtime, at its own shapes, and how that depends on the widths.

MorphNet takes the peak speed and the bandwidth of a chip from its data sheet. Here both are measured: the model is run
under ONNX Runtime's profiler at its own widths and with every free width halved. An operator that took t1 for the work
w1 and t2 for w2 takes ``t = fixed + per_unit * work``, work being multiply-accumulates for layers and elements written
for everything else. The sum is scaled to the time that the whole model takes with all optimisations on.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.errors import Refusal, RuntimeFailure
from onnxmorph.graph.axes import IndexMap
from onnxmorph.graph.axes import apply as rewrite
from onnxmorph.grow.morphnet.widths import Network

__all__ = ["Timing", "measure", "timings"]

_ROUNDS = 30
_SECONDS = 3.0
"""At most so long for one measurement."""
_LEAST_RUNS = 5


@dataclass(frozen=True)
class Timing:
    """Of one operator, in seconds for one sample.

    Attributes:
        fixed: Whatever the widths.
        growing: In proportion to its work; at the model's own widths.
        work: Multiply-accumulates of a layer, elements written by anything else.
    """

    fixed: float
    growing: float
    work: float


def measure(model: ir.Model, *, threads: int = 1, feeds: Mapping[str, Any] | None = None) -> float:
    """Median seconds of one run of a model on one sample, on the CPU with all of ONNX Runtime's optimisations.

    Raises:
        RuntimeFailure: It does not run.
        Refusal: Its inputs have sizes that are not known.
    """
    session = _session(model, threads=threads, optimised=True, profile=None)
    given = dict(feeds) if feeds is not None else _feeds(model)
    times = _timed(lambda: session.run(given))
    return statistics.median(times)


def timings(network: Network, *, threads: int = 1) -> tuple[dict[str, Timing], float]:
    """What each operator costs, by the name of its first output, and what the whole model took.

    Raises:
        RuntimeFailure: The model does not run.
        Refusal: Its inputs have sizes that are not known.
    """
    from onnxmorph.graph.cost import cost

    whole = measure(network.model, threads=threads)
    halves = {width.group: max(1, width.size // 2) for width in network.widths if width.size > 1}
    full = _profile(network.model, threads)
    half: dict[str, float] = {}
    if halves:
        smaller = files.clone(network.model)
        try:
            rewrite(smaller, {group: IndexMap.keep(group.size, np.arange(size)) for group, size in halves.items()})
            half = _profile(smaller, threads)
        except (Refusal, RuntimeFailure, ValueError):
            half = {}  # then everything is taken to be in proportion
    factors = network.table.coupled.factors
    sizes = {group.atom: size for group, size in halves.items()}
    work: dict[str, tuple[float, float]] = {}
    for layer in network.layers:
        macs = cost(layer, network.sample).macs
        axes = network.table.coupled.axes(layer.weight.root) if layer.weight.root is not None else None
        if macs and axes is not None:
            share = float(np.prod([(factors.size(axis, sizes) or 0) / (factors.size(axis) or 1) for axis in axes]))
            work[layer.node.outputs[0].name or ""] = (float(macs), macs * share)
    for value, axes in network.table.coupled.known_values():
        if value.name and value.name not in work:
            known = [axis for axis in axes if factors.size(axis)]
            now = float(np.prod([factors.size(axis) or 1 for axis in known]))
            work[value.name] = (now, float(np.prod([factors.size(axis, sizes) or 1 for axis in known])))
    found = {name: _timing(seconds, half.get(name), *work.get(name, (1.0, 1.0))) for name, seconds in full.items()}
    total = sum(one.fixed + one.growing for one in found.values())
    scale = whole / total if total > 0 else 1.0
    return {name: Timing(t.fixed * scale, t.growing * scale, t.work) for name, t in found.items()}, whole


def _timing(full: float, half: float | None, work: float, less: float) -> Timing:
    """A line through both measurements, neither part of it negative: noise is no law."""
    if less >= work:
        return Timing(full, 0.0, work)
    if half is None:
        return Timing(0.0, full, work)
    slope = max(0.0, (full - half) / (work - less))
    growing = min(full, slope * work)
    return Timing(full - growing, growing, work)


def _profile(model: ir.Model, threads: int) -> dict[str, float]:
    """Median seconds of each operator by the name of its first output."""
    named = files.clone(model)
    outputs: dict[str, str] = {}
    for number, node in enumerate(named.graph):
        node.name = f"n{number}_"
        if node.outputs and node.outputs[0].name:
            outputs[node.name] = node.outputs[0].name
    with tempfile.TemporaryDirectory() as folder:
        session = _session(named, threads=threads, optimised=False, profile=str(Path(folder) / "profile"))
        feeds = _feeds(named)
        _timed(lambda: session.run(feeds))
        try:
            events = json.loads(Path(session.session.end_profiling()).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RuntimeFailure(f"ONNX Runtime's profile cannot be read: {error}") from error
    times: dict[str, list[float]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            times.setdefault(name.removesuffix("_kernel_time"), []).append(float(event["dur"]) * 1e-6)
    found: dict[str, float] = {}
    for name, durations in times.items():
        if name in outputs:
            # Microseconds are all the profiler counts: the mean resolves what the median cannot.
            inner = sorted(durations)[: max(1, len(durations) * 3 // 4)]
            found[outputs[name]] = statistics.fmean(inner)
    return found


def _timed(run: Callable[[], Any]) -> list[float]:
    run()
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < _ROUNDS:
        before = time.perf_counter()
        run()
        times.append(time.perf_counter() - before)
        if len(times) >= _LEAST_RUNS and time.perf_counter() - started > _SECONDS:
            break
    return times


@dataclass(frozen=True)
class _Open:
    """A session, and what it points into."""

    session: Any
    kept: tuple[Any, ...]

    def run(self, feeds: Mapping[str, Any]) -> None:
        """Run once.

        Raises:
            RuntimeFailure: It does not run.
        """
        try:
            self.session.run(None, dict(feeds))
        except Exception as error:
            raise RuntimeFailure(f"ONNX Runtime cannot run the model: {' '.join(str(error).split())[:300]}") from error


def _session(model: ir.Model, *, threads: int, optimised: bool, profile: str | None) -> _Open:
    import onnxruntime as ort

    form = files.runtime_form(model)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    level = ort.GraphOptimizationLevel
    # Basic optimisations fold batch norms as a deployed model has them; further ones rename what they fuse.
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_ENABLE_BASIC
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    names = list(form.initializers)
    values = [ort.OrtValue.ortvalue_from_numpy(form.initializers[name]) for name in names]
    if names:
        options.add_external_initializers(names, values)
    try:
        session = ort.InferenceSession(form.proto, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise RuntimeFailure(f"ONNX Runtime cannot load the model: {' '.join(str(error).split())[:300]}") from error
    return _Open(session, (options, values))


def _feeds(model: ir.Model) -> dict[str, Any]:
    """One sample: every open first axis is 1; other open sizes are not known."""
    feeds: dict[str, Any] = {}
    random = np.random.default_rng(0)
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        shape: Sequence[Any] = () if value.shape is None else tuple(value.shape)
        sizes = [1 if axis == 0 and not isinstance(size, int) else size for axis, size in enumerate(shape)]
        if value.shape is None or not all(isinstance(size, int) for size in sizes) or value.dtype is None:
            raise Refusal(
                f"the latency depends on the sizes of the input '{value.name}', which are open",
                way_out="fix them in the model, or give a budget of flops or params",
                code="unknown-cost",
            )
        kind = value.dtype.numpy()
        if np.dtype(kind).kind in "iub":
            feeds[value.name or ""] = np.zeros(sizes, dtype=kind)
        else:
            feeds[value.name or ""] = random.standard_normal(sizes).astype(kind)
    return feeds
