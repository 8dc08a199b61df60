"""``verify``: whether a child computes what its parent computes, as far as running both can tell.

For every set of inputs the parent runs, and runs again with weights moved by one rounding; the child must stay within a
small multiple of what that moved, at the outputs and at every inner value on the frontier of what changed. Then faults
are planted in the child's changed weights and must be seen, which says what the verdict is worth.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.errors import RuntimeFailure, SelectionError
from onnxmorph.verify import runtime
from onnxmorph.verify.certificate import Certificate, Comparison
from onnxmorph.verify.changes import Changes, changes
from onnxmorph.verify.compare import LIMIT, Array, record
from onnxmorph.verify.faults import nearest_values, places, sample, summarise, try_faults
from onnxmorph.verify.inputs import Feeds, InputPlan, InputSet, did_you_mean, read_inputs
from onnxmorph.verify.noise import is_floating, moved_inputs, moved_weights, tensors
from onnxmorph.verify.reach import reach
from onnxmorph.verify.reference import Reference
from onnxmorph.verify.runner import Running, Stage, Values
from onnxmorph.verify.runtime import Provider
from onnxmorph.verify.signature import compare_signatures
from onnxmorph.verify.stochastic import draws
from onnxmorph.verify.upcast import narrow_types

__all__ = ["verify"]

_MOST_INNER = 256
_MOST_SETS = 10
_FEWEST_SETS = 2
_RUNS_A_SET = 6
_REPEATED_SETS = 2
_MOST_FAILING_SETS = 2
_EXTRA_NOISE = 3
_KEPT_REFERENCES = 3
_MOST_KEPT_BYTES = 1 << 28
_MOST_MOVED_BYTES = 1 << 27
_LARGE_BYTES = 1 << 29
_GROUP_BYTES = 48 << 20
_PROBED_VALUES = 16
_SECONDS_FOR_FAULTS = 2.0


@dataclass(frozen=True)
class _Request:
    """What the caller asked for, besides the two models."""

    inputs: Path | str | Mapping[str, Any] | None
    shapes: Mapping[str, Sequence[int]] | None
    seed: int
    frontier: Sequence[tuple[str, str]]
    inner: bool
    faults: bool
    deadline: float


def verify(
    parent: ir.Model | str | os.PathLike[str],
    child: ir.Model | str | os.PathLike[str],
    *,
    provider: Provider = "auto",
    inputs: Path | str | Mapping[str, Any] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    frontier: Sequence[tuple[str, str]] | None = None,
    inner: bool = True,
    faults: bool = True,
    limit: float = LIMIT,
    time_budget: float = 20.0,
) -> Certificate:
    """Runs parent and child in ONNX Runtime and says whether they compute the same, to rounding.

    Args:
        parent: The model, or the path of its file.
        child: The model, or the path of its file.
        provider: ``auto`` takes CUDA where a trial run works, else the CPU.
        inputs: Real data, used before made-up inputs: arrays by input name, an ``.npz``, or a folder of ``.npy`` files.
        shapes: Full shape of some inputs, by name, where the model leaves dimensions open.
        seed: Seed of everything random.
        frontier: Inner values to compare besides those found by name, as pairs of names in parent and child; these must
            exist and agree in shape.
        inner: Whether inner values of the same name are compared; ``False`` judges by outputs (and ``frontier``) alone.
        faults: Whether faults are planted to see how small a one would have been noticed.
        limit: Largest quotient of difference and noise that counts as rounding.
        time_budget: Seconds after which no more inputs are tried; at least two sets always run.

    Returns:
        The certificate; ``equivalent`` is the verdict.

    Raises:
        ModelError: A file is no usable model.
        RuntimeFailure: The parent cannot be run here, or gives nothing that can be compared: not verifiable here.
        SelectionError: ``inputs``, ``shapes`` or ``frontier`` name what is not there.
    """
    from onnxmorph import model as files

    started = time.perf_counter()
    choice = runtime.choose_provider(provider)
    parent_model = files.load(parent) if not isinstance(parent, ir.Model) else parent
    child_model = files.load(child) if not isinstance(child, ir.Model) else child
    certificate = Certificate(
        equivalent=False,
        provider=choice.name,
        inputs=0,
        provider_reason=choice.reason,
        limit=limit,
        seed=seed,
        runtime=runtime.runtime_version(),
        threads=runtime.threads(),
        parent_hash=files.content_hash(parent_model),
        child_hash=files.content_hash(child_model),
    )
    signature = compare_signatures(parent_model, child_model)
    certificate.warnings += signature.warnings
    certificate.failures += signature.failures
    if not signature.failures:
        request = _Request(inputs, shapes, seed, tuple(frontier or ()), inner, faults, started + time_budget)
        _verify(parent_model, child_model, request, certificate)
    certificate.equivalent = not certificate.failures
    certificate.seconds = time.perf_counter() - started
    return certificate


def _verify(parent: ir.Model, child: ir.Model, request: _Request, certificate: Certificate) -> None:
    """Runs the two models as they are or, where ONNX Runtime cannot run their 16-bit types here, as float32."""
    narrow = max(narrow_types(parent), narrow_types(child))
    try:
        _Verification(parent, child, request, certificate, wide=False, unit=0.0).run()
    except RuntimeFailure as failure:
        if not narrow:
            if isinstance(failure, _ChildFailure):
                certificate.failures.append(str(failure))
                return
            raise
        try:
            _Verification(parent, child, request, certificate, wide=True, unit=narrow).run()
        except _ChildFailure as child_failure:
            certificate.failures.append(str(child_failure))
        except RuntimeFailure:
            raise failure from None
        certificate.precision = "float32 upcast"
        certificate.warnings.append(f"both models were run as float32, since as stored they are {failure}")


class _ChildFailure(RuntimeFailure):
    """The parent loads and the child does not."""


class _Verification:
    """One verification while it runs: the sessions, the inputs, and what has been seen so far."""

    def __init__(
        self, parent: ir.Model, child: ir.Model, request: _Request, certificate: Certificate, *, wide: bool, unit: float
    ) -> None:
        self.parent, self.child = parent, child
        self.request, self.certificate = request, certificate
        self.unit = unit
        self.reach = reach(self.parent)
        self.changes: Changes = changes(parent, child)
        self.size = sum(tensor.nbytes for tensor in tensors(parent).values())
        self.asked = dict(_checked_frontier(parent, child, request.frontier))
        self.suspects = self._suspects()
        self.region = set(self.changes.region)
        if not self.changes.tensors and not self.changes.frontier:
            self.region |= {str(value.name) for value in self.suspects}
        outputs = [str(value.name) for value in parent.graph.outputs]
        self.stage = Stage(certificate.provider, outputs, self._pairs(outputs), wide, draws(parent, child))
        self.plan = InputPlan(parent, shapes=request.shapes, seed=request.seed, rows=self.changes.rows)
        self.real = read_inputs(request.inputs, parent) if request.inputs is not None else None
        self.noise = np.random.default_rng([request.seed, 1])
        self.leaves: dict[str, Comparison] = {}
        self.references: list[Reference] = []
        self._kept_bytes = 0
        self._moved_child: Running | None = None
        self._near: list[Running] = []
        self._variation = _Variation()

    # -- what to compare -----------------------------------------------------------------------------------------------

    def _suspects(self) -> list[ir.Value]:
        """Weights of the child in which faults will be planted: those that changed, else any."""
        changed = self.changes.tensors
        return sample(changed if changed else list(tensors(self.child)), tensors(self.child), self.request.seed)

    def _pairs(self, outputs: Sequence[str]) -> dict[str, str]:
        """Inner values to compare, upstream first: those asked for, and the frontier of what changed.

        Between two models that do not differ, the values next to the weights that faults will be planted in stand for
        the frontier: there a difference of that weight would put it.
        """
        found = [name for name in self.changes.frontier if name not in self.asked] if self.request.inner else []
        if self.request.inner and not self.changes.frontier and not self.changes.tensors:
            known = {output.name for node in self.parent.graph for output in node.outputs}
            found = [name for value in self.suspects for name in nearest_values(self.child, value) if name in known]
        if len(found) > _MOST_INNER:
            step = len(found) / _MOST_INNER
            self.certificate.warnings.append(
                f"{len(found)} inner values lie on the frontier of what changed; {_MOST_INNER} of them were compared"
            )
            found = [found[int(index * step)] for index in range(_MOST_INNER)]
        pairs = {name: name for name in found} | self.asked
        order = {output.name: place for place, node in enumerate(self.child.graph) for output in node.outputs}
        ordered = sorted(pairs.items(), key=lambda pair: order.get(pair[1], 0))
        return {name: child_name for name, child_name in ordered if name not in outputs}

    # -- the runs ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Feeds both models, fills the certificate's comparisons and failures, and plants the faults."""
        certificate = self.certificate
        certificate.tiers = ["optimisations off"]
        if self.size <= _LARGE_BYTES:
            certificate.tiers.append("optimisations on (outputs)")
        else:  # optimised sessions hold repacked copies of all weights
            certificate.warnings.append(
                "optimised sessions were left out: their copies of the weights would fill memory"
            )
        self.parent_running = self.stage.open(self.parent)
        drawing = self.stage.open(self.parent, drawing=True) if self.stage.drawn else None
        sets = self._input_sets(drawing)
        child, child_optimised = self._open_child()
        self.parent_optimised = self.stage.open(self.parent, optimise=True) if child_optimised is not None else None
        self._near = [self._open_near()]
        self._far = self.stage.open(moved_weights(self.parent, self.noise, most_bytes=_MOST_MOVED_BYTES))
        groups = self._groups(sets[0].feeds) if sets else []
        used: list[InputSet] = []
        failing = 0
        for index, item in enumerate(sets):
            if index >= _FEWEST_SETS and time.perf_counter() > self.request.deadline:
                break
            judged = False
            try:
                for group in groups:
                    reference = self._reference(item, group, repeat=index < _REPEATED_SETS)
                    if reference is None:
                        continue
                    judged = True
                    with _blaming_child(f"the parent runs at {item.description} and the child does not"):
                        values = child.values(item.feeds, group)
                        optimised = child_optimised.values(item.feeds, group) if child_optimised is not None else {}
                    self._judge(reference, values, len(used), optimised=False)
                    if optimised:
                        self._judge(reference, optimised, len(used), optimised=True)
                    self._keep(reference)
            except _ChildFailure as failure:
                certificate.failures.append(str(failure))
                used.append(item)
                break
            if judged:
                used.append(item)
            failing += any(leaf.status == "differs" for leaf in self.leaves.values())
            if failing >= _MOST_FAILING_SETS:
                break
        certificate.inputs = len(used)
        certificate.coverage = self.plan.coverage(used)
        if self.stage.drawn:
            certificate.warnings.append(
                f"{len(self.stage.drawn)} random value(s) were fed alike to both models: {self.stage.drawn[0]!r}"
                + (" and others" if len(self.stage.drawn) > 1 else "")
            )
        self._conclude()
        if self.request.faults and not certificate.failures:
            self._plant_faults()

    def _input_sets(self, drawing: Running | None) -> list[InputSet]:
        begun = time.perf_counter()
        longest = 0.0
        trial = drawing or self.parent_running
        outputs = self.stage.outputs

        def runs(feeds: Feeds) -> None:
            nonlocal longest
            start = time.perf_counter()
            trial.values(feeds, outputs)
            longest = max(longest, time.perf_counter() - start)

        search_end = begun + 0.3 * max(self.request.deadline - begun, 0.0)
        sets: list[InputSet] = []
        if self.real is not None:
            runs(self.real)
            sets.append(InputSet(self.real, "real data"))
        try:
            sizes = self.plan.find_sizes(runs, out_of_time=lambda: time.perf_counter() > search_end)
        except RuntimeFailure:
            if self.real is None:
                raise
            sizes = []
        left = max(self.request.deadline - time.perf_counter(), 0.0)
        affordable = int(left / (_RUNS_A_SET * max(longest, 1e-4)))
        if sizes:
            sets += self.plan.sets(sizes, max(_FEWEST_SETS, min(_MOST_SETS, affordable)))
        if drawing is not None:
            for item in sets:
                item.feeds |= drawing.values(item.feeds, self.stage.drawn)
        return sets

    def _open_child(self) -> tuple[Running, Running | None]:
        with _blaming_child("the parent loads and the child does not"):
            child = self.stage.open(self.child, child=True)
            large = self.size > _LARGE_BYTES
            return child, None if large else self.stage.open(self.child, child=True, optimise=True)

    def _open_near(self) -> Running:
        return self.stage.open(moved_weights(self.parent, self.noise, only=self.region, most_bytes=_MOST_MOVED_BYTES))

    def _groups(self, feeds: Feeds) -> list[list[str]]:
        """Values to look at in one run: all of them, or as many as fit into memory in all their copies."""
        names = list(self.stage.pairs)
        groups: list[list[str]] = [list(self.stage.outputs)]
        room = _GROUP_BYTES
        for start in range(0, len(names), _PROBED_VALUES):
            chunk = names[start : start + _PROBED_VALUES]
            values = self.parent_running.values(feeds, chunk)
            sizes = {name: array.nbytes if (array := values.get(name)) is not None else 0 for name in chunk}
            if start == 0 and max(sizes.values()) * len(names) < room:
                return [[*self.stage.outputs, *names]]
            for name, size in sizes.items():
                if size > room and len(groups[-1]) > 0:
                    groups.append([])
                    room = _GROUP_BYTES
                groups[-1].append(name)
                room -= size
        return groups

    def _reference(self, item: InputSet, names: list[str], *, repeat: bool) -> Reference | None:
        """The parent's values, and its noise; ``None`` where it does not run or gives only NaN and infinity."""
        feeds = item.feeds
        try:
            reference = Reference(
                feeds, names, self.parent_running.values(feeds, names), unit=self.unit, reach=self.reach
            )
        except RuntimeFailure as failure:
            self.plan.dropped.append({"sizes": item.sizes, "inputs": item.description, "reason": str(failure)[:200]})
            return None
        if reference.says_nothing():
            self.plan.dropped.append({"inputs": item.description, "reason": "the parent gives only NaN and infinity"})
            return None
        if repeat:
            reference.repeats.append(self.parent_running.values(feeds, names))
        moved = moved_inputs(feeds, self.noise)
        # A rounding can leave the domain of an operator; such a run tells nothing about noise.
        with contextlib.suppress(RuntimeFailure):
            reference.near.append(self._near[0].values(moved if self.changes.at_inputs else feeds, names))
        outputs = [name for name in names if name in self.stage.outputs]
        if outputs:
            with contextlib.suppress(RuntimeFailure):
                reference.far.append(self._far.values(moved, outputs))
            if self.parent_optimised is not None:
                with contextlib.suppress(RuntimeFailure):
                    reference.far.append(self.parent_optimised.values(feeds, outputs))
        return reference

    # -- the verdict ---------------------------------------------------------------------------------------------------

    def _judge(self, reference: Reference, values: Values, run: int, *, optimised: bool) -> None:
        known = {name: array for name, array in reference.values.items() if not optimised or self._is_output(name)}
        for name, array in known.items():
            if name not in values:
                self._differs(name, array, "missing in the child's sequence or map")
                continue
            if self._skipped(name, array, values[name]):
                leaf = self._leaf(name, array)
                leaf.status, leaf.reason = "not-compared", "changes shape or is not floating-point"
                continue
            measured = reference.measure(name, values[name], optimised=optimised)
            if measured.worst() > self.certificate.limit and not measured.nondeterministic:
                self._escalate(reference)
                measured = reference.measure(name, values[name], optimised=optimised)
            record(self._leaf(name, array), measured, run, self.certificate.limit)
            if not optimised:
                self._variation.watch(name, array, measured.noise_floor)
        for name in values.keys() - known.keys():
            self._differs(name, values[name], "missing in the parent's sequence or map")

    def _is_output(self, leaf: str) -> bool:
        """Whether a flattened value belongs to a graph output: inner values are never taken apart by tier."""
        return leaf not in self.stage.pairs

    def _leaf(self, name: str, array: Array | None) -> Comparison:
        if name not in self.leaves:
            dtype = str(array.dtype) if array is not None else ""
            self.leaves[name] = Comparison(name, self.stage.pairs.get(name, name), dtype)
        return self.leaves[name]

    def _differs(self, name: str, array: Array | None, reason: str) -> None:
        leaf = self._leaf(name, array)
        leaf.status, leaf.reason = "differs", reason

    def _skipped(self, name: str, parent: Array | None, child: Array | None) -> bool:
        """Inner values found by name alone count only where they are floats of one shape: the rest may be resized."""
        if name not in self.stage.pairs or name in self.asked:
            return False
        if parent is None or child is None:
            return True
        return not is_floating(parent) or parent.shape != child.shape

    def _escalate(self, reference: Reference) -> None:
        """More noise before anything is called different: a rare flip may not have shown in the first run, and the
        child may be conditioned a little worse than the parent."""
        if reference.escalated:
            return
        reference.escalated = True
        while len(self._near) < _EXTRA_NOISE:
            self._near.append(self._open_near())
        for running in self._near[1:]:
            feeds = moved_inputs(reference.feeds, self.noise) if self.changes.at_inputs else reference.feeds
            with contextlib.suppress(RuntimeFailure):
                reference.near.append(running.values(feeds, reference.names))
        changed = {str(value.name) for value in self.changes.tensors}
        if self._moved_child is None and changed:
            self._moved_child = self.stage.open(
                moved_weights(self.child, self.noise, only=changed, most_bytes=_MOST_MOVED_BYTES), child=True
            )
        if self._moved_child is not None:
            with contextlib.suppress(RuntimeFailure):
                reference.moved_child = self._moved_child.values(reference.feeds, reference.names)

    def _keep(self, reference: Reference) -> None:
        size = reference.nbytes()
        if len(self.references) < _KEPT_REFERENCES and self._kept_bytes + size <= _MOST_KEPT_BYTES:
            self.references.append(reference)
            self._kept_bytes += size

    def _conclude(self) -> None:
        certificate = self.certificate
        for name, leaf in self.leaves.items():
            leaf.constant = self._variation.constant(name)
        order = {name: place for place, name in enumerate(self.stage.pairs)}
        inner = sorted((leaf for name, leaf in self.leaves.items() if name in order), key=lambda leaf: order[leaf.name])
        certificate.outputs = [leaf for name, leaf in self.leaves.items() if name not in order]
        certificate.inner = [leaf for leaf in inner if leaf.status != "not-compared"]
        for kind, compared in (("inner value", certificate.inner), ("output", certificate.outputs)):
            certificate.failures += [_failure(leaf, kind) for leaf in compared if leaf.status == "differs"]
        if certificate.failures:
            if not any(leaf.status == "differs" for leaf in certificate.outputs) and certificate.inputs:
                certificate.failures.append(
                    "all outputs agree, so either they hide this fault or the child reuses a name for another value; "
                    "in the second case compare outputs alone"
                )
            return
        if not certificate.inputs:
            raise RuntimeFailure(
                "not verifiable here: the parent fails or gives nothing but NaN and infinity on every set of inputs; "
                "give real data by --inputs"
            )
        judged = [leaf for leaf in [*certificate.outputs, *certificate.inner] if leaf.status != "nondeterministic"]
        if not judged:
            raise RuntimeFailure("not verifiable here: the parent differs from itself from run to run at every output")
        for leaf in certificate.outputs:
            if leaf.status == "nondeterministic":
                certificate.warnings.append(
                    f"output {leaf.name!r} differs from run to run in the parent itself and was not judged"
                )
            elif leaf.constant:
                certificate.warnings.append(
                    f"output {leaf.name!r} is the same on every input: it cannot show what happens upstream"
                )

    # -- the negative self-test ----------------------------------------------------------------------------------------

    def _plant_faults(self) -> None:
        """Plants faults in the child's changed weights and notes the smallest size that is seen."""
        from onnxmorph.model import clone

        child = clone(self.child)
        names = {value.name for value in self.suspects}
        tensor_of = {value: tensor for value, tensor in tensors(child).items() if value.name in names}
        end = max(self.request.deadline, time.perf_counter() + _SECONDS_FOR_FAULTS)

        def seen() -> bool:
            try:
                running = self.stage.open(child, child=True)
                return any(self._sees(running, reference) for reference in self.references)
            except RuntimeFailure:
                return True  # it does not even run any more

        planted = places(list(tensor_of), tensor_of, self.request.seed)
        trials = try_faults(planted, tensor_of, seen, lambda: time.perf_counter() > end)
        self.certificate.faults = [trial.to_json() for trial in trials]
        self.certificate.detectable_fault, warnings = summarise(trials)
        self.certificate.warnings += warnings

    def _sees(self, running: Running, reference: Reference) -> bool:
        judged = {
            leaf.name
            for leaf in [*self.certificate.outputs, *self.certificate.inner]
            if leaf.status != "nondeterministic"
        }
        return any(
            reference.measure(name, array).worst() > self.certificate.limit
            for name, array in running.values(reference.feeds, reference.names).items()
            if name in judged and name in reference.values
        )


class _Variation:
    """Whether values ever differ between inputs of one shape; one that never does says nothing of what is upstream."""

    _MOST_BYTES = 1 << 24

    def __init__(self) -> None:
        self._first: dict[tuple[str, tuple[int, ...]], Array] = {}
        self._compared: set[str] = set()
        self._moving: set[str] = set()

    def watch(self, name: str, array: Array | None, noise_floor: float) -> None:
        """Notes one more value of this name."""
        if array is None or array.nbytes > self._MOST_BYTES or name in self._moving:
            return
        first = self._first.setdefault((name, array.shape), array)
        if first is array:
            return
        self._compared.add(name)
        if not is_floating(array):
            moves = not np.array_equal(first, array)
        else:
            with np.errstate(invalid="ignore"):
                distance = np.abs(first.astype(np.float64) - array.astype(np.float64))
            moves = float(np.nanmax(distance, initial=0.0)) > 4 * noise_floor
        if moves:
            self._moving.add(name)

    def constant(self, name: str) -> bool:
        """Whether inputs of one shape were compared and never moved the value."""
        return name in self._compared and name not in self._moving


@contextlib.contextmanager
def _blaming_child(what: str) -> Iterator[None]:
    try:
        yield
    except RuntimeFailure as failure:
        raise _ChildFailure(f"{what}: {failure}") from failure


def _failure(leaf: Comparison, kind: str) -> str:
    if leaf.reason:
        return f"{kind} {leaf.name!r}: {leaf.reason}"
    text = (
        f"{kind} {leaf.name!r} differs by {leaf.max_abs:.3g} ({leaf.max_rel:.2g} of its largest magnitude), "
        f"{max(leaf.ratio, leaf.channel_ratio):.3g} times the parent's own noise"
    )
    if leaf.channel is not None and leaf.channel_ratio > leaf.ratio:
        text += f", most in channel {leaf.channel[1]} of axis {leaf.channel[0]}"
    return text


def _checked_frontier(parent: ir.Model, child: ir.Model, frontier: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    for side, model in ((0, parent), (1, child)):
        names = [str(output.name) for node in model.graph for output in node.outputs if output.name]
        for pair in frontier:
            if pair[side] not in names:
                title = ("parent", "child")[side]
                raise SelectionError(
                    f"frontier: the {title} computes no value {pair[side]!r}{did_you_mean(pair[side], names)}"
                )
    return [(str(before), str(after)) for before, after in frontier]
