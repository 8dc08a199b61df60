"""``verify``: whether a child computes what its parent computes, as far as running both can tell.

For every set of inputs the parent runs, and runs again with inputs and weights moved by one rounding; the child must
stay within a small multiple of what that moved, at the outputs and at every inner value on the frontier of what
changed. Then faults are planted in the child's changed weights and must be seen, which says what the verdict is worth.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.errors import RuntimeFailure, SelectionError
from onnxmorph.verify import runtime
from onnxmorph.verify.certificate import Certificate, Comparison
from onnxmorph.verify.changes import Changes, changes
from onnxmorph.verify.compare import LIMIT, Measurement, flatten, is_floating, measure, record
from onnxmorph.verify.faults import places, summarise, try_faults
from onnxmorph.verify.inputs import Feeds, InputPlan, InputSet, did_you_mean, read_inputs
from onnxmorph.verify.noise import moved_inputs, moved_weights, tensors
from onnxmorph.verify.runtime import Provider, ProviderChoice, Session
from onnxmorph.verify.signature import compare_signatures

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Reference", "verify"]

_MOST_INNER = 256
_MOST_SETS = 10
_FEWEST_SETS = 2
_RUNS_A_SET = 6
_MOST_FAILING_SETS = 2
_EXTRA_NOISE = 4
_KEPT_REFERENCES = 3
_MOST_KEPT_BYTES = 1 << 28

Array = np.ndarray[Any, Any]
Values = dict[str, Array | None]


@dataclass
class Reference:
    """What the parent gave for one set of inputs: its values, and the values it gives when moved by one rounding."""

    feeds: Feeds
    values: Values
    noisy: list[Values]
    repeats: list[Values]
    input_scale: float
    moved_child: Values | None = None
    escalated: bool = False

    def measure(self, name: str, child: Array | None) -> Measurement:
        """The child's value against the parent's value of this name."""
        return measure(
            self.values[name],
            child,
            [values[name] for values in self.noisy if name in values],
            [values[name] for values in self.repeats if name in values],
            moved_child=self.moved_child.get(name) if self.moved_child is not None else None,
            input_scale=self.input_scale,
        )

    def nbytes(self) -> int:
        """Memory the arrays take."""
        held = [self.values, *self.noisy, *self.repeats]
        return sum(array.nbytes for values in held for array in values.values() if array is not None)


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
    if signature.failures:
        certificate.failures += signature.failures
        certificate.seconds = time.perf_counter() - started
        return certificate
    verification = _Verification(parent_model, child_model, certificate, choice, started + time_budget)
    verification.prepare(frontier, inner, shapes, seed, inputs)
    verification.run()
    if faults and not certificate.failures:
        verification.plant_faults(seed)
    certificate.equivalent = not certificate.failures
    certificate.seconds = time.perf_counter() - started
    return certificate


class _Verification:
    """One verification while it runs: the sessions, the inputs, and what has been seen so far."""

    def __init__(
        self, parent: ir.Model, child: ir.Model, certificate: Certificate, choice: ProviderChoice, deadline: float
    ) -> None:
        self.parent, self.child = parent, child
        self.certificate, self.choice, self.deadline = certificate, choice, deadline
        self.references: list[Reference] = []
        self.comparisons: dict[str, Comparison] = {}
        self._varied: dict[tuple[str, tuple[int, ...]], Array] = {}
        self._repeated_shape: set[str] = set()
        self._moving: set[str] = set()
        self._kept_bytes = 0
        self._escalated = 0
        self.moved_child: Session | None = None

    # -- before the runs -----------------------------------------------------------------------------------------------

    def prepare(
        self,
        frontier: Sequence[tuple[str, str]] | None,
        inner: bool,
        shapes: Mapping[str, Sequence[int]] | None,
        seed: int,
        data: Path | str | Mapping[str, Any] | None,
    ) -> None:
        """Finds what to compare and what to feed, and makes the sessions."""
        self.seed = seed
        self.changes: Changes = changes(self.parent, self.child)
        self.outputs = [str(value.name) for value in self.parent.graph.outputs]
        asked = _checked_frontier(self.parent, self.child, frontier or ())
        self.asked = dict(asked)
        found = [name for name in self.changes.frontier if name not in self.asked] if inner else []
        if len(found) > _MOST_INNER:
            step = len(found) / _MOST_INNER
            self.certificate.warnings.append(
                f"{len(found)} inner values lie on the frontier of what changed; {_MOST_INNER} of them were compared"
            )
            found = [found[int(index * step)] for index in range(_MOST_INNER)]
        self.pairs = {name: name for name in found} | self.asked
        for name in self.outputs:
            self.pairs.pop(name, None)
        self.plan = InputPlan(self.parent, shapes=shapes, seed=seed, rows=self.changes.rows)
        self.real = read_inputs(data, self.parent) if data is not None else None
        self.parent_session = self._session(self.parent, list(self.pairs))
        self.certificate.tiers = ["optimisations off", "optimisations on (outputs)"]

    def _session(self, model: ir.Model, extra: Sequence[str] = (), *, optimise: bool = False) -> Session:
        return runtime.open_session(model, self.choice.name, extra, optimise=optimise)

    def _child_session(self, *, optimise: bool = False) -> Session | None:
        extra = [] if optimise else list(dict.fromkeys(self.pairs.values()))
        try:
            return self._session(self.child, extra, optimise=optimise)
        except RuntimeFailure as failure:
            self.certificate.failures.append(f"the parent loads and the child does not: {failure}")
            return None

    # -- the runs ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Feeds both models and fills the certificate's comparisons and failures."""
        sets = self._input_sets()
        child = self._child_session()
        child_optimised = self._child_session(optimise=True) if child is not None else None
        if child is None or child_optimised is None:
            return
        generator = np.random.default_rng([self.seed, 1])
        first = [str(value.name) for value in self.changes.tensors]
        self.moved = [self._session(moved_weights(self.parent, generator, first=first), list(self.pairs))]
        parent_optimised = self._session(self.parent, optimise=True)
        for name, child_name in [*((name, name) for name in self.outputs), *self.pairs.items()]:
            self.comparisons[name] = Comparison(name, child_name, "")
        leaves: dict[str, Comparison] = {}
        used: list[InputSet] = []
        failing = 0
        for index, item in enumerate(sets):
            if index >= _FEWEST_SETS and time.perf_counter() > self.deadline:
                break
            reference = self._reference(item.feeds, generator, parent_optimised, repeat=index < 2)
            if reference is None:
                continue
            used.append(item)
            try:
                values = self._values(child, item.feeds, "child")
                optimised = self._values(child_optimised, item.feeds, "child", only_outputs=True)
            except RuntimeFailure as failure:
                self.certificate.failures.append(
                    f"the parent runs at {item.description} and the child does not: {failure}"
                )
                break
            self._judge(reference, [values, optimised], leaves, len(used) - 1)
            self._keep(reference)
            failing += any(leaf.status == "differs" for leaf in leaves.values())
            if failing >= _MOST_FAILING_SETS:
                break
        self.certificate.inputs = len(used)
        self.certificate.coverage = self.plan.coverage(used)
        self._conclude(leaves)

    def _input_sets(self) -> list[InputSet]:
        begun = time.perf_counter()
        longest = 0.0

        def runs(feeds: Feeds) -> None:
            nonlocal longest
            start = time.perf_counter()
            self.parent_session.run(feeds)
            longest = max(longest, time.perf_counter() - start)

        search_end = begun + 0.3 * (self.deadline - begun)
        sets: list[InputSet] = []
        try:
            sizes = self.plan.find_sizes(runs, out_of_time=lambda: time.perf_counter() > search_end)
        except RuntimeFailure:
            if self.real is None:
                raise
            sizes = []
        left = max(self.deadline - time.perf_counter(), 0.0)
        affordable = int(left / (_RUNS_A_SET * max(longest, 1e-4)))
        if self.real is not None:
            sets.append(InputSet(self.real, "real data"))
        if sizes:
            sets += self.plan.sets(sizes, max(_FEWEST_SETS, min(_MOST_SETS, affordable)))
        return sets

    def _values(self, session: Session, feeds: Feeds, side: str, *, only_outputs: bool = False) -> Values:
        """Flattened values by the parent's names."""
        raw = session.run(feeds)
        names = {name: name for name in self.outputs}
        if not only_outputs:
            names |= self.pairs
        values: Values = {}
        for name, child_name in names.items():
            values.update(flatten(raw[child_name if side == "child" else name], name))
        return values

    def _reference(
        self, feeds: Feeds, generator: np.random.Generator, optimised: Session, *, repeat: bool
    ) -> Reference | None:
        values = self._values(self.parent_session, feeds, "parent")
        floats = [array for array in values.values() if array is not None and is_floating(array) and array.size]
        if floats and all(not np.isfinite(array.astype(np.float32)).any() for array in floats):
            return None  # nothing but NaN and infinity: says nothing
        repeats = [self._values(self.parent_session, feeds, "parent")] if repeat else []
        moved = moved_inputs(feeds, generator)
        noisy: list[Values] = []
        runs: list[Callable[[], Values]] = [
            lambda: self._values(self.parent_session, moved, "parent"),
            lambda: self._values(self.moved[0], moved, "parent"),
            lambda: self._values(optimised, feeds, "parent", only_outputs=True),
        ]
        for one in runs:
            try:
                noisy.append(one())
            except RuntimeFailure:  # a rounding can leave the domain of an operator; then it tells nothing about noise
                continue
        numbers = [
            float(np.nanmax(np.abs(value.astype(np.float64)), initial=0.0))
            for value in feeds.values()
            if isinstance(value, np.ndarray) and value.dtype.kind == "f"
        ]
        return Reference(feeds, values, noisy, repeats, max(numbers, default=1.0))

    def _judge(self, reference: Reference, tiers: list[Values], leaves: dict[str, Comparison], run: int) -> None:
        for values in tiers:
            for name, array in reference.values.items():
                if name not in values:
                    if values is tiers[0]:
                        self._leaf(leaves, name, array).status = "differs"
                        self._leaf(leaves, name, array).reason = "missing in the child's sequence or map"
                    continue
                measured = reference.measure(name, values[name])
                if self._skipped(name, array, values[name]):
                    self._leaf(leaves, name, array).status = "not-compared"
                    self._leaf(leaves, name, array).reason = "changes shape or is not floating-point"
                    continue
                if measured.worst() > self.certificate.limit and not measured.nondeterministic:
                    self._escalate(reference)
                    measured = reference.measure(name, values[name])
                record(self._leaf(leaves, name, array), measured, run, self.certificate.limit)
                self._watch(name, array, reference)
            for name in values.keys() - reference.values.keys():
                leaf = self._leaf(leaves, name, values[name])
                leaf.status, leaf.reason = "differs", "missing in the parent's sequence or map"

    def _leaf(self, leaves: dict[str, Comparison], name: str, array: Array | None) -> Comparison:
        if name not in leaves:
            child_name = self.pairs.get(name, name)
            leaves[name] = Comparison(name, child_name, str(array.dtype) if array is not None else "")
        return leaves[name]

    def _skipped(self, name: str, parent: Array | None, child: Array | None) -> bool:
        """Inner values found by name alone count only where they are floats of one shape: the rest may be resized."""
        if name not in self.pairs or name in self.asked:
            return False
        if parent is None or child is None:
            return True
        return not is_floating(parent) or parent.shape != child.shape

    def _escalate(self, reference: Reference) -> None:
        """More noise before anything is called different: a rare flip may not have shown in the first runs, and the
        child may be conditioned a little worse than the parent."""
        if reference.escalated:
            return
        self._escalated += 1
        reference.escalated = True
        generator = np.random.default_rng([self.seed, 2, self._escalated])
        while len(self.moved) < 1 + _EXTRA_NOISE // 2:
            self.moved.append(self._session(moved_weights(self.parent, generator), list(self.pairs)))
        for index in range(_EXTRA_NOISE):
            moved = moved_inputs(reference.feeds, generator)
            session = self.moved[index % len(self.moved)]
            try:
                reference.noisy.append(self._values(session, moved, "parent"))
            except RuntimeFailure:
                continue
        if self.moved_child is None:
            first = [str(value.name) for value in self.changes.tensors]
            self.moved_child = self._session(
                moved_weights(self.child, generator, first=first), list(dict.fromkeys(self.pairs.values()))
            )
        with contextlib.suppress(RuntimeFailure):
            reference.moved_child = self._values(self.moved_child, reference.feeds, "child")

    def _watch(self, name: str, array: Array | None, reference: Reference) -> None:
        """Notes whether a value ever differs between inputs of one shape; one that never does tells nothing."""
        if array is None or array.nbytes > 1 << 24 or name in self._moving:
            return
        key = (name, array.shape)
        known = self._varied.setdefault(key, array)
        if known is array:
            return
        self._repeated_shape.add(name)
        if not is_floating(array):
            if not np.array_equal(known, array):
                self._moving.add(name)
            return
        floor = max((reference.measure(name, array).noise_floor, 0.0))
        with np.errstate(invalid="ignore"):
            distance = np.abs(known.astype(np.float64) - array.astype(np.float64))
        if float(np.nanmax(distance, initial=0.0)) > 4 * floor:
            self._moving.add(name)

    def _keep(self, reference: Reference) -> None:
        size = reference.nbytes()
        if len(self.references) < _KEPT_REFERENCES and self._kept_bytes + size <= _MOST_KEPT_BYTES:
            self.references.append(reference)
            self._kept_bytes += size

    # -- after the runs ------------------------------------------------------------------------------------------------

    def _conclude(self, leaves: dict[str, Comparison]) -> None:
        certificate = self.certificate
        for name, leaf in leaves.items():
            leaf.constant = name in self._repeated_shape and name not in self._moving
        inner = [leaf for name, leaf in leaves.items() if name in self.pairs]
        outputs = [leaf for name, leaf in leaves.items() if name not in self.pairs]
        certificate.outputs = outputs
        certificate.inner = [leaf for leaf in inner if leaf.status != "not-compared"]
        for leaf in [*certificate.inner, *certificate.outputs]:
            if leaf.status == "differs":
                certificate.failures.append(_failure(leaf, "inner value" if leaf in inner else "output"))
        if not certificate.inputs and not certificate.failures:
            raise RuntimeFailure(
                "not verifiable here: the parent gives nothing but NaN and infinity on every set of inputs; "
                "give real data by --inputs"
            )
        compared = [leaf for leaf in [*outputs, *certificate.inner] if leaf.status != "nondeterministic"]
        if not compared and not certificate.failures:
            raise RuntimeFailure("not verifiable here: the parent differs from itself from run to run at every output")
        for leaf in outputs:
            if leaf.status == "nondeterministic":
                certificate.warnings.append(
                    f"output {leaf.name!r} differs from run to run in the parent itself and was not judged"
                )
            elif leaf.constant:
                certificate.warnings.append(
                    f"output {leaf.name!r} is the same on every input: it cannot show what happens upstream"
                )

    def plant_faults(self, seed: int) -> None:
        """Plants faults in the child's changed weights and notes the smallest size that is seen.

        Where no weight changed, any weight will do: the test then says what these inputs could see at all.
        """
        from onnxmorph.model import clone

        child = clone(self.child)
        tensor_of = tensors(child)
        changed = {value.name for value in self.changes.tensors}
        weights = [value for value in tensor_of if value.name in changed] or list(tensor_of)
        end = max(self.deadline, time.perf_counter() + 2.0)

        def seen() -> bool:
            try:
                session = self._session(child, list(dict.fromkeys(self.pairs.values())))
                return any(self._sees(session, reference) for reference in self.references)
            except RuntimeFailure:
                return True  # it does not even run any more

        trials = try_faults(places(weights, tensor_of, seed), tensor_of, seen, lambda: time.perf_counter() > end)
        self.certificate.faults = [trial.to_json() for trial in trials]
        self.certificate.detectable_fault, warnings = summarise(trials)
        self.certificate.warnings += warnings

    def _sees(self, session: Session, reference: Reference) -> bool:
        judged = {leaf.name for leaf in [*self.certificate.outputs, *self.certificate.inner]}
        judged -= {leaf.name for leaf in self.certificate.outputs if leaf.status == "nondeterministic"}
        values = self._values(session, reference.feeds, "child")
        return any(
            reference.measure(name, array).worst() > self.certificate.limit
            for name, array in values.items()
            if name in judged and name in reference.values
        )


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
