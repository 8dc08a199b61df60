"""Whether a planted fault changes anything, decided without the verifier.

The model is run with and without the fault, node by node as written (optimisations off, one thread, so that whatever
does not depend on the fault is the same to the bit), on inputs of its own making: signed numbers at several scales,
all ids of a table. Every value is looked at that parent and child both have, by name, shape and number: hidden channels
that are new in a child and have no say are nobody's loss.

``effect`` is the largest difference of any such value, in units of the rounding of its own type at its own largest
magnitude. A sum of a few hundred products, done in another order, moves by a few such units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnxmorph._ir import ir
from onnxmorph.errors import RuntimeFailure
from onnxmorph.verify.inputs import InputPlan

__all__ = ["Truth", "serialised"]

Array = np.ndarray[Any, Any]
Feeds = dict[str, Any]

_SETS = 8
_SCALES = (1.0, 3.0, 0.3, 1.0, 10.0, 1.0)
_ALIKE = 2e-3
_MOST_BYTES = 256 << 20


def serialised(model: ir.Model, extra: Sequence[str] = ()) -> bytes:
    """The model as one protobuf, with more of its values as outputs."""
    proto = ir.to_proto(model)
    known = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra if name not in known)
    return bytes(proto.SerializeToString())


def session(model: bytes, *, optimise: bool = False) -> Any:
    """An ONNX Runtime session on one thread of the CPU."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    return ort.InferenceSession(model, sess_options=options, providers=["CPUExecutionProvider"])


@dataclass
class _Before:
    """A model without its fault: which of its values count, and what they are on every set of inputs."""

    names: list[str]
    values: list[dict[str, Array]]
    running: Any


class Truth:
    """What a parent computes on inputs that are fixed for it."""

    def __init__(self, parent: ir.Model, seed: int) -> None:
        running = session(serialised(parent))
        plan = InputPlan(parent, seed=seed + 77)

        def runs(feeds: Feeds) -> None:
            try:
                running.run(None, feeds)
            except Exception as error:
                raise RuntimeFailure(str(error)) from error

        sizes = plan.find_sizes(runs, most=3)
        self._ids = {spec.name: spec.role.id_range() for spec in plan.specs if spec.kind() == "ids"}
        floats = {spec.name for spec in plan.specs if spec.kind() == "signal"}
        self.feeds = [
            _own(plan.make(sizes[index % len(sizes)], "normal", index), floats, seed, index) for index in range(_SETS)
        ]
        self._walk_ids()
        self.feeds = [feeds for feeds in self.feeds if _accepted(runs, feeds)]
        names = _computed(parent)
        wide = session(serialised(parent, names))
        self._parent = dict(zip(_names(wide), wide.run(None, self.feeds[0]), strict=True))

    @property
    def nbytes(self) -> int:
        """Memory that all values of the parent take for one set of inputs."""
        return sum(np.asarray(value).nbytes for value in self._parent.values())

    def _walk_ids(self) -> None:
        """Ids one after the other through the whole table, as far as there are places."""
        place: dict[str, int] = {}
        for feeds in self.feeds:
            for name, bounds in self._ids.items():
                assert bounds is not None
                low, high = bounds
                start, count = place.get(name, 0), feeds[name].size
                ids = (start + np.arange(count)) % (high - low) + low
                feeds[name] = ids.reshape(feeds[name].shape).astype(feeds[name].dtype)
                place[name] = start + count

    def _looking_up(self, rows: Sequence[int]) -> list[Feeds]:
        """Inputs that ask for these rows of every table that has them."""
        made: list[Feeds] = []
        for row in rows:
            feeds: Feeds = {name: value.copy() if name in self._ids else value for name, value in self.feeds[0].items()}
            for name, bounds in self._ids.items():
                assert bounds is not None
                if bounds[0] <= row < bounds[1]:
                    feeds[name].reshape(-1)[0] = row
            made.append(feeds)
        return made if self._ids else []

    def is_true(self, model: ir.Model) -> bool | None:
        """Whether a child gives what its parent gives, to far more than rounding; ``None`` where it does not run."""
        try:
            answer = session(serialised(model)).run(None, self.feeds[0])
        except Exception:
            return None
        names = (str(output.name) for output in model.graph.outputs)
        return all(_alike(self._parent.get(name), value) for name, value in zip(names, answer, strict=True))

    def before(self, model: ir.Model) -> _Before:
        """The values of a true child that its parent has too."""
        running = session(serialised(model, _computed(model)))
        first = dict(zip(_names(running), running.run(None, self.feeds[0]), strict=True))
        names = [name for name, value in first.items() if _alike(self._parent.get(name), value)]
        size = sum(np.asarray(first[name]).nbytes for name in names)
        if size * len(self.feeds) > _MOST_BYTES:
            step = size * len(self.feeds) / _MOST_BYTES
            keep = set(names[:: max(1, int(np.ceil(step)))]) | {str(output.name) for output in model.graph.outputs}
            names = [name for name in names if name in keep]
        values = [dict(zip(names, running.run(names, feeds), strict=True)) for feeds in self.feeds]
        return _Before(names, values, running)

    def effect(self, before: _Before, faulty: ir.Model, rows: Sequence[int] = ()) -> tuple[float, float] | None:
        """Largest effect of the fault on any value and on any output; ``None`` where the model does not run."""
        try:
            running = session(serialised(faulty, before.names))
            there = set(_names(running))
            largest = at_outputs = 0.0
            outputs = {str(output.name) for output in faulty.graph.outputs}
            names = [name for name in before.names if name in there]
            looked_up = self._looking_up(rows)
            pairs = list(zip(self.feeds, before.values, strict=True))
            pairs += [(feeds, dict(zip(names, before.running.run(names, feeds), strict=True))) for feeds in looked_up]
            for feeds, values in pairs:
                after = dict(zip(names, running.run(names, feeds), strict=True))
                for name in names:
                    if name not in outputs and _resized(values[name], after[name]):
                        continue  # no counterpart any more; what follows from it counts
                    size = _effect(values[name], after[name])
                    largest = max(largest, size)
                    if name in outputs:
                        at_outputs = max(at_outputs, size)
        except Exception:
            return None
        return largest, at_outputs


def _own(feeds: Feeds, floats: set[str], seed: int, index: int) -> Feeds:
    generator = np.random.default_rng([seed, 5, index])
    for name, value in feeds.items():
        if name in floats and isinstance(value, np.ndarray):
            numbers = generator.standard_normal(value.shape) * _SCALES[index % len(_SCALES)]
            feeds[name] = numbers.astype(value.dtype)
    return feeds


def _accepted(runs: Any, feeds: Feeds) -> bool:
    try:
        runs(feeds)
    except RuntimeFailure:
        return False
    return True


def _computed(model: ir.Model) -> list[str]:
    """Names of what the nodes of the main graph compute."""
    return [
        str(output.name)
        for node in model.graph
        if node.op_type != "Constant"
        for output in node.outputs
        if output.name and (output.uses() or output.is_graph_output())
    ]


def _names(running: Any) -> list[str]:
    return [output.name for output in running.get_outputs()]


def _alike(parent: Any, child: Any) -> bool:
    """Whether a child's value is its parent's, to far more than rounding."""
    if not isinstance(parent, np.ndarray) or not isinstance(child, np.ndarray):
        return parent is not None and child is not None and type(parent) is type(child)
    if parent.shape != child.shape or parent.dtype != child.dtype:
        return False
    if parent.dtype.kind != "f":
        return bool(np.mean(parent == child) > 0.98) if parent.size else True
    with np.errstate(invalid="ignore"):
        distance = np.abs(parent.astype(np.float64) - child.astype(np.float64))
    finite = distance[np.isfinite(distance)]
    magnitude = np.abs(parent.astype(np.float64))
    coarse = 0.05 if parent.dtype.itemsize == 2 else _ALIKE
    return float(finite.max(initial=0.0)) <= coarse * float(magnitude[np.isfinite(magnitude)].max(initial=0.0)) + 1e-6


def _resized(before: Any, after: Any) -> bool:
    return isinstance(before, np.ndarray) and isinstance(after, np.ndarray) and before.shape != after.shape


def _effect(before: Any, after: Any) -> float:
    if not isinstance(before, np.ndarray):
        return 0.0 if _same_leaves(before, after) else float("inf")
    if not isinstance(after, np.ndarray) or before.shape != after.shape or before.dtype != after.dtype:
        return float("inf")
    if before.dtype.kind != "f":
        return 0.0 if np.array_equal(before, after) else float("inf")
    if np.array_equal(before, after, equal_nan=True):
        return 0.0
    one, other = before.astype(np.float64), after.astype(np.float64)
    finite = np.isfinite(one)
    if not np.array_equal(finite, np.isfinite(other)):
        return float("inf")
    largest = float(np.abs(one[finite]).max(initial=0.0))
    unit = float(np.finfo(before.dtype).eps) / 2 * (largest if largest > 0 else 1.0)
    return float(np.abs(one - other)[finite].max(initial=0.0)) / unit


def _same_leaves(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) or isinstance(other, Mapping):
        return bool(one == other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_same_leaves(a, b) for a, b in zip(one, other, strict=True))
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))
