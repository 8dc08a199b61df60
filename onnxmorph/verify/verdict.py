"""From measurements to a verdict: what is known of each value, and why the models are not equivalent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np

from onnxmorph.errors import RuntimeFailure
from onnxmorph.verify.certificate import Certificate, Comparison
from onnxmorph.verify.compare import Measurement, record
from onnxmorph.verify.noise import is_floating
from onnxmorph.verify.reference import Reference
from onnxmorph.verify.runner import Stage, Values
from onnxmorph.verify.tolerance import Tolerances
from onnxmorph.verify.variation import Variation

__all__ = ["Verdict"]

_MOST_STEPPED = 1 / 3
"""Share of the runs in which a value may fall to the other side of a border, by steps the parent makes itself."""

Array = np.ndarray[Any, Any]


class Verdict:
    """What is known of each value so far.

    Args:
        certificate: Where it ends up.
        stage: Says which values are outputs and which are inner ones.
        tolerances: Outputs that are judged by these rather than by noise.
        asked: Inner values that must agree in shape too.

    Attributes:
        jumping: Values that may move by a whole step where rounding decides; seldom, and the parent's own steps.
        jumping_optimised: The same for runs with optimisations on, which may round otherwise anywhere.
    """

    def __init__(self, certificate: Certificate, stage: Stage, tolerances: Tolerances, asked: Collection[str]) -> None:
        self.certificate = certificate
        self.stage = stage
        self.tolerances = tolerances
        self.asked = asked
        self.leaves: dict[str, Comparison] = {}
        self.jumping: Collection[str] = frozenset()
        self.jumping_optimised: Collection[str] = frozenset()
        self._variation = Variation()
        self._judged: Counter[str] = Counter()
        self._stepped: dict[str, list[tuple[Measurement, int]]] = {}
        self._empty: set[str] = set()
        self._filled: set[str] = set()

    @property
    def differs(self) -> bool:
        """Whether any value that counts differs."""
        return any(leaf.status == "differs" and self.counts(leaf) for leaf in self.leaves.values())

    def counts(self, leaf: Comparison) -> bool:
        """Whether the verdict goes by this value: inner ones do not where outputs are judged by tolerances."""
        return not self.tolerances or leaf.name not in self.stage.pairs

    def take(self, reference: Reference, values: Values, run: int, *, optimised: bool) -> bool:
        """Adds the child's values of one run.

        Returns:
            Whether all is well so far as it is known; ``False`` asks for more noise, after which `take` it again.
        """
        known = {name: array for name, array in reference.values.items() if not optimised or self._is_output(name)}
        limit = self.certificate.limit
        for name, array in known.items():
            (self._empty if array is not None and array.size == 0 else self._filled).add(name)
            if name not in values:
                self._different(name, array, "missing in the child's sequence or map")
                continue
            if self._skipped(name, array, values[name]):
                leaf = self._leaf(name, array)
                leaf.status, leaf.reason = "not-compared", "changes shape or is not floating-point"
                continue
            measured = reference.measure(name, values[name], optimised=optimised)
            if measured.worst() > limit and not measured.nondeterministic and not reference.escalated:
                return False
            leaf = self._leaf(name, array)
            self._judged[name] += 1
            jumps = _base(name) in (self.jumping_optimised if optimised else self.jumping)
            if measured.worst() > limit and jumps and not measured.nondeterministic:
                step = reference.measure_steps(name, values[name])
                if step is not None:
                    self._stepped.setdefault(name, []).append((measured, run))
                    measured = step
            tolerance = self.tolerances.of(name) if self._is_output(name) else None
            if tolerance is None or array is None or values[name] is None or measured.reason is not None:
                record(leaf, measured, run, limit)
            else:
                record(leaf, measured, run, float("inf"))
                self._hold(leaf, tolerance.excess(array, np.asarray(values[name])), run)
                leaf.tolerance = tolerance.to_json()
            if not optimised:
                self._variation.watch(name, array, measured.noise_floor)
        for name in values.keys() - known.keys():
            self._different(name, values[name], "missing in the parent's sequence or map")
        return True

    @staticmethod
    def _hold(leaf: Comparison, excess: float, run: int) -> None:
        """Notes what share of its tolerance an output has used."""
        if leaf.status == "nondeterministic":
            return
        if excess > (leaf.excess or 0.0):
            leaf.worst_input = run
        leaf.excess = max(excess, leaf.excess or 0.0)
        leaf.status = "differs" if leaf.excess > 1 else "within-tolerance" if leaf.max_abs > 0 else "equal"

    def _is_output(self, leaf: str) -> bool:
        """Whether a flattened value belongs to a graph output: inner values are never taken apart by tier."""
        return leaf not in self.stage.pairs

    def _leaf(self, name: str, array: Array | None) -> Comparison:
        if name not in self.leaves:
            dtype = str(array.dtype) if array is not None else ""
            self.leaves[name] = Comparison(name, self.stage.pairs.get(name, name), dtype)
        return self.leaves[name]

    def _different(self, name: str, array: Array | None, reason: str) -> None:
        leaf = self._leaf(name, array)
        leaf.status, leaf.reason = "differs", reason

    def _skipped(self, name: str, parent: Array | None, child: Array | None) -> bool:
        """Inner values found by name alone count only where they are floats of one shape: the rest may be resized."""
        if name not in self.stage.pairs or name in self.asked:
            return False
        if parent is None or child is None:
            return True
        return not is_floating(parent) or parent.shape != child.shape

    def _hold_steps(self) -> None:
        """Values that fell to the other side of a border more often than seldom differ after all."""
        kept: list[str] = []
        for name, steps in self._stepped.items():
            if len(steps) <= max(1, _MOST_STEPPED * self._judged[name]):
                kept.append(name)
                continue
            for measured, run in steps:
                record(self.leaves[name], measured, run, self.certificate.limit)
        if kept:
            self.certificate.warnings.append(
                f"{len(kept)} value(s) behind a quantizer, a comparison or the like fell to the other side of a border "
                f"on one set of inputs or few, by no more than the parent does under noise: {kept[0]!r}"
            )

    def conclude(self) -> None:
        """Fills the certificate's comparisons and failures.

        Raises:
            RuntimeFailure: Nothing could be judged.
        """
        certificate = self.certificate
        self._hold_steps()
        for name, leaf in self.leaves.items():
            leaf.constant = self._variation.constant(name)
        order = {name: place for place, name in enumerate(self.stage.pairs)}
        inner = sorted((leaf for name, leaf in self.leaves.items() if name in order), key=lambda leaf: order[leaf.name])
        certificate.outputs = [leaf for name, leaf in self.leaves.items() if name not in order]
        certificate.inner = [leaf for leaf in inner if leaf.status != "not-compared"]
        for kind, compared in (("inner value", certificate.inner), ("output", certificate.outputs)):
            for leaf in compared:
                if leaf.status == "differs":
                    (certificate.failures if self.counts(leaf) else certificate.warnings).append(_words(leaf, kind))
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
        empty = self._empty - self._filled
        if all(leaf.name in empty for leaf in certificate.outputs):
            raise RuntimeFailure(
                "not verifiable here: every output is empty on every set of inputs, so that nothing was compared"
            )
        for leaf in certificate.outputs:
            if leaf.name in empty:
                certificate.warnings.append(
                    f"output {leaf.name!r} is empty on every set of inputs: nothing of it was compared"
                )
                continue
            if leaf.status == "nondeterministic":
                certificate.warnings.append(
                    f"output {leaf.name!r} differs from run to run in the parent itself and was not judged"
                )
            elif leaf.constant:
                certificate.warnings.append(
                    f"output {leaf.name!r} is the same on every input: it cannot show what happens upstream"
                )


def _base(leaf: str) -> str:
    """The value that a member of a sequence or map belongs to."""
    return leaf.split("[", 1)[0]


def _words(leaf: Comparison, kind: str) -> str:
    if leaf.reason:
        return f"{kind} {leaf.name!r}: {leaf.reason}"
    text = f"{kind} {leaf.name!r} differs by {leaf.max_abs:.3g} ({leaf.max_rel:.2g} of its largest magnitude), "
    if leaf.excess is not None:
        return text + f"{leaf.excess:.3g} times what its tolerance allows"
    text += f"{max(leaf.ratio, leaf.channel_ratio):.3g} times the parent's own noise"
    if leaf.channel is not None and leaf.channel_ratio > leaf.ratio:
        text += f", most in channel {leaf.channel[1]} of axis {leaf.channel[0]}"
    return text
