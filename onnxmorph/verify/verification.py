"""One verification while it runs: the sessions, the inputs, and what has been seen so far."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.errors import RuntimeFailure, SelectionError
from onnxmorph.verify.certificate import Certificate
from onnxmorph.verify.changes import Changes, changes
from onnxmorph.verify.compare import unit_rounding
from onnxmorph.verify.definitions import Definitions
from onnxmorph.verify.discontinuity import jumping, jumping_nodes
from onnxmorph.verify.faults import nearest_values, sample
from onnxmorph.verify.feeds import Assignment, Feeds, InputSet
from onnxmorph.verify.inputs import InputPlan
from onnxmorph.verify.locate import common_values, describe_value, first_apart
from onnxmorph.verify.noise import movable, moved_inputs, moved_tensors, tensors
from onnxmorph.verify.reach import reach
from onnxmorph.verify.real_data import samples
from onnxmorph.verify.reference import Reference
from onnxmorph.verify.request import Request
from onnxmorph.verify.reused import reused_names
from onnxmorph.verify.runner import Runnable, Running, Stage
from onnxmorph.verify.self_test import plant_faults, silenced_by
from onnxmorph.verify.specs import did_you_mean
from onnxmorph.verify.stochastic import draws
from onnxmorph.verify.ties import Ties, WeightDifference
from onnxmorph.verify.verdict import Verdict
from onnxmorph.verify.watch import Watch

__all__ = ["ChildFailure", "Verification"]

_MOST_INNER = 256
_MOST_SETS = 10
_MOST_REAL_SETS = 64
_FEWEST_SETS = 2
_RUNS_A_SET = 6
_REPEATED_SETS = 2
_MOST_FAILING_SETS = 2
_EXTRA_NOISE = 3
_COARSE_ROUNDINGS = 1 << 10
_KEPT_REFERENCES = 3
_MOST_KEPT_BYTES = 1 << 28
_FEW_KEPT_BYTES = 1 << 24
_MOST_MOVED_BYTES = 1 << 27
_LARGE_BYTES = 1 << 29
_GROUP_BYTES = 48 << 20
_PROBED_VALUES = 16
_SECONDS_TO_LOCATE = 10.0
_STATIC_MARGIN = 2.0
_LISTED_NODES = 20
_LISTED_WEIGHTS = 16
_AGREEING = ("equal", "within-noise", "within-tolerance")


class ChildFailure(RuntimeFailure):
    """The parent loads and runs, and the child does not."""


class Verification:
    """Runs both models on every set of inputs and fills the certificate.

    Args:
        parent: The parent.
        child: The child, of the same signature.
        request: What is wanted.
        certificate: Gets the comparisons, failures, warnings, coverage and faults.
        wide: Run 16-bit floating-point models as float32.
        unit: Relative error of one rounding where that is more than the run's own type has.

    Raises:
        SelectionError: The request names what is not there.
        RuntimeFailure: Inputs of such a type cannot be made up.
    """

    def __init__(
        self, parent: ir.Model, child: ir.Model, request: Request, certificate: Certificate, *, wide: bool, unit: float
    ) -> None:
        self.parent, self.child = parent, child
        self.request, self.certificate = request, certificate
        self.unit = unit
        self.reach = reach(self.parent)
        self.definitions = Definitions(parent, child)
        self.changes: Changes = changes(parent, child, self.definitions)
        self.reused = reused_names(parent, child, self.definitions)
        self.ties = Ties(parent, child, self.definitions, self.reused)
        self.size = sum(tensor.nbytes for tensor in tensors(parent).values())
        self.asked = dict(_checked_frontier(parent, child, request.frontier))
        if request.inner:
            # The same operands in another order: then neither a shape nor an integer has a reason to be another.
            ends = {value.name for value in parent.graph.outputs}
            self.asked |= {str(one.name): str(two.name) for one, two in self.ties.reordered if one.name not in ends}
        self.suspects = self._suspects()
        self.region = set(self.changes.region)
        if not self.changes.tensors and not self.changes.frontier:
            self.region |= {str(value.name) for value in self.suspects}
        outputs = [str(value.name) for value in parent.graph.outputs]
        request.tolerances.check(outputs)
        self.watch = Watch(parent, child, self.changes.frontier, self.ties)
        self.stage = Stage(
            certificate.provider,
            outputs,
            self._pairs(outputs),
            watched=self.watch.names,
            wide=wide,
            drawn=draws(parent, child),
        )
        self.plan = InputPlan(
            parent,
            shapes=request.shapes,
            seed=request.seed,
            rows=self.changes.rows,
            new_tables=self.changes.replaced,
        )
        self.verdict = Verdict(certificate, self.stage, request.tolerances, set(self.asked))
        steps = jumping_nodes(parent)
        self.verdict.jumping = jumping(parent, self.changes.nodes, nodes=steps)
        self.verdict.jumping_optimised = jumping(parent, nodes=steps)
        self.noise = np.random.default_rng([request.seed, 1])
        self.references: list[Reference] = []
        self._sizes: list[Assignment] = []
        self._kept_bytes = 0
        self._moved_child: Runnable | None = None
        self._coarse: Runnable | None = None
        self._near: list[Runnable] = []

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
        renamed = self._only_change() if self.request.inner else {}
        if self.request.inner and not self.changes.frontier and not self.changes.tensors:
            known = {output.name for node in self.parent.graph for output in node.outputs}
            found = [name for value in self.suspects for name in nearest_values(self.child, value) if name in known]
            renamed = self._renamed(found)
        if self.request.everywhere:
            found = [name for name in common_values(self.parent, self.child) if name not in self.asked]
        elif len(found) > _MOST_INNER:
            step = len(found) / _MOST_INNER
            self.certificate.warnings.append(
                f"{len(found)} inner values lie on the frontier of what changed; {_MOST_INNER} of them were compared "
                "(--inner all compares every one)"
            )
            found = [found[int(index * step)] for index in range(_MOST_INNER)]
        moved = {str(value.name): str(role.name) for value, role in self.reused.items()}
        pairs = renamed | {moved.get(name, name): name for name in found} | self.asked
        order = {output.name: place for place, node in enumerate(self.child.graph) for output in node.outputs}
        ordered = sorted(pairs.items(), key=lambda pair: order.get(pair[1], 0))
        return {name: child_name for name, child_name in ordered if name not in outputs}

    def _only_change(self) -> dict[str, str]:
        """The value whose node alone is another, where it goes by another name: nothing downstream makes up for it."""
        if self.ties.untied or len(self.ties.changed) != 1 or any(map(self._is_silent, self.ties.differences)):
            return {}
        ((before, after),) = self.ties.changed
        return {str(before.name): str(after.name)} if before.name and after.name else {}

    def _renamed(self, known: Collection[str]) -> dict[str, str]:
        """Values next to the suspects that the parent has under other names."""
        by_name = {output.name: output for node in self.child.graph for output in node.outputs}
        found = [name for value in self.suspects for name in nearest_values(self.child, value) if name not in known]
        pairs = {self.ties.parents_name(by_name[name]): name for name in found}
        return {before: after for before, after in pairs.items() if before is not None and before != after}

    # -- the runs ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Feeds both models, fills the certificate's comparisons and failures, and plants the faults.

        Raises:
            RuntimeFailure: The parent cannot be run, or nothing can be judged.
            ChildFailure: The child cannot be loaded.
        """
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
        self.child_running, self.child_optimised = self._open_child()
        self.parent_optimised = (
            self.stage.open(self.parent, optimise=True) if self.child_optimised is not None else None
        )
        self._near = [self._open_near()]
        self._far = self._open_far()
        if sets and certificate.provider != "CPUExecutionProvider":
            self._note_providers(sets[0].feeds)
        groups = self._groups(sets[0].feeds) if sets else []
        used: list[InputSet] = []
        failing = left_out = 0
        for index, item in enumerate(itertools.chain(sets, self._waking_sets(drawing))):
            if index >= _FEWEST_SETS and time.perf_counter() > self.request.deadline:
                left_out = max(len(sets) - index, 0)
                break
            try:
                judged = self._run_set(item, groups, len(used), repeat=index < _REPEATED_SETS)
            except ChildFailure as failure:
                certificate.failures.append(str(failure))
                certificate.failing_inputs = dict(item.feeds)
                used.append(item)
                break
            if judged:
                used.append(item)
            if self.verdict.differs:
                failing += 1
                if certificate.failing_inputs is None:
                    certificate.failing_inputs = dict(item.feeds)
            if failing >= _MOST_FAILING_SETS:
                break
        certificate.inputs = len(used)
        certificate.coverage = self.plan.coverage(used) | self.watch.coverage()
        if left_out:
            certificate.coverage["sets_left_out"] = left_out
        if self.stage.drawn:
            certificate.warnings.append(
                f"{len(self.stage.drawn)} random value(s) were fed alike to both models: {self.stage.drawn[0]!r}"
                + (" and others" if len(self.stage.drawn) > 1 else "")
            )
        self.verdict.conclude()
        self._weigh()
        if certificate.failures:
            self._locate()
        certificate.warnings += self.watch.warnings()
        if not certificate.failures and self._decides():
            certificate.unproven += self.watch.unseen()
        if not certificate.failures:
            self._prove()
        if self.request.faults and not certificate.failures and not certificate.unproven:
            plant_faults(
                certificate,
                (self.child, self.child_running),
                self.suspects,
                self.references,
                self.stage,
                self.request.tolerances,
                seed=self.request.seed,
                deadline=self.request.deadline,
            )

    def _note_providers(self, feeds: Feeds) -> None:
        """Which provider really ran the nodes: a session of one may leave some of them to another."""
        nodes: dict[str, dict[str, Any]] = {}
        for title, model in (("parent", self.parent), ("child", self.child)):
            with contextlib.suppress(RuntimeFailure):
                ran = self.stage.providers(model, feeds)
                elsewhere = sorted(name for name, provider in ran.items() if provider != self.stage.provider)
                nodes[title] = {
                    "nodes": dict(sorted(Counter(ran.values()).items())),
                    "elsewhere": elsewhere[:_LISTED_NODES],
                }
                if elsewhere:
                    self.certificate.warnings.append(
                        f"{len(elsewhere)} of {len(ran)} nodes of the {title} did not run on "
                        f"{self.stage.provider.removesuffix('ExecutionProvider')}, such as {elsewhere[0]!r}"
                    )
        self.certificate.settings = {**self.certificate.settings, "nodes": nodes}

    def _weigh(self) -> None:
        """Notes weights whose numbers differ though all else is the same: two functions, whether inputs showed it or
        not. Where they did not, that is no proof of a difference that anybody sees, and none of equivalence."""
        certificate = self.certificate
        compared = [*certificate.outputs, *certificate.inner]
        status = {(leaf.name, leaf.child_name): leaf.status for leaf in compared}
        shown = {name for (_, name), found in status.items() if found == "differs"}
        decides = self._decides()
        found = [difference for difference in self.ties.differences if difference.alone or not decides]
        # What is believed by name at first is only ever more than what the runs bear out.
        if not found and any(difference.named for difference in self.ties.differences):
            believed = Ties(
                self.parent,
                self.child,
                self.definitions,
                self.reused,
                lambda before, after: status.get((str(before.name), str(after.name)), "") in _AGREEING,
            )
            found = [difference for difference in believed.differences if difference.named]
        for difference in found[:_LISTED_WEIGHTS]:
            if self._is_silent(difference):
                continue
            seen = difference.child_value in shown
            certificate.weights.append(difference.to_json() | {"shown": seen, "counts": decides})
            if certificate.failures:
                continue
            if decides:
                certificate.unproven.append(
                    f"{difference}; all else at this node is the same, and no input showed it: data by --inputs may, "
                    "and --inner none goes by outputs alone"
                )
            else:
                certificate.warnings.append(f"{difference}, which no output showed")

    def _is_silent(self, difference: WeightDifference) -> bool:
        """Whether what is computed with a weight is multiplied by zeros in both models, whatever it is."""
        return bool(silenced_by(self.parent, difference.parents)) and bool(silenced_by(self.child, difference.weight))

    def _locate(self) -> None:
        """Names the first value that differs, looking inside where only outputs were seen to."""
        certificate = self.certificate
        apart = [leaf for leaf in certificate.inner if leaf.status == "differs"]
        outputs = [leaf.name for leaf in certificate.outputs if leaf.status == "differs"]
        if not apart and not outputs:
            return
        found = apart[0].child_name if apart else None
        if found is None and certificate.failing_inputs is not None:
            found = first_apart(
                self.parent,
                self.child,
                certificate.failing_inputs,
                lambda names: Stage(
                    self.stage.provider,
                    self.stage.outputs,
                    {name: name for name in names if name not in self.stage.outputs},
                    wide=self.stage.wide,
                    drawn=self.stage.drawn,
                ),
                limit=certificate.limit,
                seed=self.request.seed,
                out_of_time=lambda: time.perf_counter() > self.request.deadline + _SECONDS_TO_LOCATE,
            )
        kind = "output" if found is None or found in self.stage.outputs else "inner value"
        certificate.first_difference = describe_value(self.child, found or outputs[0], kind)

    def _prove(self) -> None:
        """Compares by algebra what can be, resting on values that the runs have shown to agree."""
        from onnxmorph.verify.static_proof import prove

        changed = [*self.changes.frontier, *self.changes.outputs]
        if not changed or not self.references:
            return
        shapes = {
            name: array.shape
            for reference in self.references[:1]
            for name, array in [*reference.values.items(), *reference.feeds.items()]
            if isinstance(array, np.ndarray)
        }
        agree = {
            leaf.name
            for leaf in [*self.certificate.outputs, *self.certificate.inner]
            if leaf.status != "nondeterministic"
        }
        resized = self._resized(agree)
        trusted = set(common_values(self.parent, self.child)) - resized
        unit = max((unit_rounding(np.dtype(dtype.numpy())) for dtype in self._float_types()), default=2.0**-24)
        values = [name for name in changed if name in agree and name not in resized]
        certificate = self.certificate
        certificate.static = prove(self.parent, self.child, values, trusted, shapes, unit=unit)
        for entry in certificate.static["values"]:
            residual, bound = entry.get("residual", 0.0), entry.get("rounding_bound", 0.0)
            if residual <= _STATIC_MARGIN * bound:
                continue
            words = (
                f"the new weights in front of {entry['value']!r} compose to something else than the parent's: off "
                f"by {residual:.2g} of its largest, where rounding explains {bound:.2g}"
            )
            if self._decides() and residual > certificate.limit * bound:
                certificate.unproven.append(f"{words}, and no input showed it")
            else:
                certificate.warnings.append(words)

    def _decides(self) -> bool:
        """Whether the verdict goes by more than outputs."""
        return self.request.inner and not self.request.tolerances

    def _float_types(self) -> set[ir.DataType]:
        """Types of the weights of both models."""
        return {
            tensor.dtype
            for model in (self.parent, self.child)
            for value, tensor in tensors(model).items()
            if movable(value, tensor)
        }

    def _resized(self, agree: Collection[str]) -> set[str]:
        """Names of values that mean something else in the child, or may: those on the frontier that could not be
        compared, and what follows from them."""
        resized = {name for name in self.changes.frontier if name not in agree}
        for node in self.child.graph:
            if any(value is not None and value.name in resized for value in node.inputs):
                resized.update(str(output.name) for output in node.outputs if output.name not in agree)
        return resized

    def _run_set(self, item: InputSet, groups: Sequence[list[str]], run: int, *, repeat: bool) -> bool:
        """Both models on one set of inputs.

        Returns:
            Whether the parent gave anything to judge by.

        Raises:
            ChildFailure: The child does not run on it.
        """
        judged = False
        for place, group in enumerate(groups):
            reference = self._reference(item, group, repeat=repeat, first=place == 0)
            if reference is None:
                continue
            judged = True
            watched = self.watch.names[1] if place == 0 else []
            with _blaming_child(f"the parent runs at {item.description} and the child does not"):
                values, inside = self.child_running.watch(item.feeds, group, watched)
                optimised = self.child_optimised.values(item.feeds, group) if self.child_optimised is not None else {}
            self.watch.add("child", inside)
            for tier, found in (("", values), ("optimised", optimised)):
                if found and not self.verdict.take(reference, found, run, optimised=bool(tier)):
                    self._escalate(reference)
                    self.verdict.take(reference, found, run, optimised=bool(tier))
            self._keep(reference)
        return judged

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
        sets = self._real_sets(runs)
        sizes: list[Assignment] = []
        try:
            sizes = self.plan.find_sizes(runs, out_of_time=lambda: time.perf_counter() > search_end)
        except RuntimeFailure:
            if not sets:
                raise
        left = max(self.request.deadline - time.perf_counter(), 0.0)
        affordable = int(left / (_RUNS_A_SET * max(longest, 1e-4)))
        if sizes:
            sets += self.plan.sets(sizes, max(_FEWEST_SETS, min(_MOST_SETS, affordable)))
            sets += self.plan.sweeps(sizes)
        self._sizes = sizes
        for item in sets:
            self._draw(drawing, item)
        return sets

    def _draw(self, drawing: Running | None, item: InputSet) -> None:
        """Adds what the parent draws at random to a set of inputs, where that is not given."""
        if drawing is not None:
            given = {name: item.feeds[name] for name in self.stage.drawn if name in item.feeds}
            own = {name: value for name, value in item.feeds.items() if name not in given}
            item.feeds |= drawing.values(own, self.stage.drawn) | given

    def _waking_sets(self, drawing: Running | None) -> Iterator[InputSet]:
        """Inputs of other kinds, where a weight is known to differ and nothing has shown it yet: they may wake what
        it is multiplied with."""
        known = [difference for difference in self.ties.differences if difference.alone or difference.named]
        for item in self.plan.waking(self._sizes) if known and self._decides() else ():
            if self.verdict.differs:
                return
            with contextlib.suppress(RuntimeFailure):  # an input the parent cannot take
                self._draw(drawing, item)
                yield item

    def _real_sets(self, runs: Callable[[Feeds], None]) -> list[InputSet]:
        """Samples of the data that was given, as many as there is room for; the parent must run on the first."""
        found: list[InputSet] = []
        if self.request.inputs is None:
            return found
        for item in samples(self.request.inputs, self.parent, seed=self.request.seed, drawn=self.stage.drawn):
            if len(found) >= _MOST_REAL_SETS:
                self.certificate.warnings.append(f"of the data given, the first {_MOST_REAL_SETS} portions were used")
                break
            if not found:
                runs({name: value for name, value in item.feeds.items() if name not in self.stage.drawn})
            found.append(item)
        return found

    def _open_child(self) -> tuple[Running, Running | None]:
        with _blaming_child("the parent loads and the child does not"):
            child = self.stage.open(self.child, child=True)
            large = self.size > _LARGE_BYTES
            return child, None if large else self.stage.open(self.child, child=True, optimise=True)

    def _open_near(self) -> Runnable:
        moved = moved_tensors(self.parent, self.noise, only=self.region, most_bytes=_MOST_MOVED_BYTES, whole=True)
        return self.stage.varied(self.parent_running, self.parent, moved)

    def _open_far(self) -> Runnable:
        moved = moved_tensors(self.parent, self.noise, most_bytes=_MOST_MOVED_BYTES)
        return self.stage.varied(self.parent_running, self.parent, moved)

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

    def _reference(self, item: InputSet, names: list[str], *, repeat: bool, first: bool) -> Reference | None:
        """The parent's values, and its noise; ``None`` where it does not run or gives only NaN and infinity."""
        feeds = item.feeds
        try:
            values, inside = self.parent_running.watch(feeds, names, self.watch.names[0] if first else [])
        except RuntimeFailure as failure:
            self.plan.dropped.append({"sizes": item.sizes, "inputs": item.description, "reason": str(failure)[:200]})
            return None
        reference = Reference(feeds, names, values, unit=self.unit, reach=self.reach)
        self.watch.add("parent", inside)
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

    def _escalate(self, reference: Reference) -> None:
        """More noise before anything is called different: a rare flip may not have shown in the first run, and the
        child may be conditioned a little worse than the parent."""
        reference.escalated = True
        while len(self._near) < _EXTRA_NOISE:
            self._near.append(self._open_near())
        for running in self._near[1:]:
            feeds = moved_inputs(reference.feeds, self.noise) if self.changes.at_inputs else reference.feeds
            with contextlib.suppress(RuntimeFailure):
                reference.near.append(running.values(feeds, reference.names))
        if self.verdict.jumping_optimised:
            self._move_coarsely(reference)
        changed = {str(value.name) for value in self.changes.tensors}
        if self._moved_child is None and changed:
            moved = moved_tensors(self.child, self.noise, only=changed, most_bytes=_MOST_MOVED_BYTES)
            self._moved_child = self.stage.varied(self.child_running, self.child, moved, child=True)
        if self._moved_child is not None:
            with contextlib.suppress(RuntimeFailure):
                reference.moved_child = self._moved_child.values(reference.feeds, reference.names)

    def _move_coarsely(self, reference: Reference) -> None:
        """The parent moved so far that quantizers and comparisons fall to the other side: how large its steps are."""
        if self._coarse is None:
            moved = moved_tensors(self.parent, self.noise, most_bytes=_MOST_MOVED_BYTES, roundings=_COARSE_ROUNDINGS)
            self._coarse = self.stage.varied(self.parent_running, self.parent, moved)
        names = [name for name in reference.names if name in self.verdict.jumping_optimised]
        with contextlib.suppress(RuntimeFailure):
            feeds = moved_inputs(reference.feeds, self.noise, _COARSE_ROUNDINGS)
            reference.coarse.append(self._coarse.values(feeds, names))

    def _keep(self, reference: Reference) -> None:
        size = reference.nbytes()
        few = len(self.references) < _KEPT_REFERENCES and self._kept_bytes + size <= _MOST_KEPT_BYTES
        # Other branches and other scales show other weights; where they cost little, most of the sets are kept.
        small = len(self.references) < _MOST_SETS and self._kept_bytes + size <= _FEW_KEPT_BYTES
        if few or small:
            self.references.append(reference)
            self._kept_bytes += size


@contextlib.contextmanager
def _blaming_child(what: str) -> Iterator[None]:
    try:
        yield
    except RuntimeFailure as failure:
        raise ChildFailure(f"{what}: {failure}") from failure


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
