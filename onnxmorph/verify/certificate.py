"""What was run, how far parent and child differ, how far the parent differs from itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Certificate", "Comparison"]


@dataclass
class Comparison:
    """One value of the parent against its counterpart in the child, over every set of inputs.

    Attributes:
        name: Name of the value in the parent; ``"name[2]"`` or ``"name['key']"`` for a member of a sequence or map.
        max_abs: Largest absolute difference of any element.
        max_rel: Largest absolute difference over the largest magnitude of the value in the same run.
        noise_floor: How far the parent moves from itself, largest over all elements, in the run that gave ``max_abs``.
        ratio: Largest quotient of difference and noise floor over all runs; the verdict is ``ratio <= limit``.
        channel_ratio: The same quotient, of root mean squares of single channels; sees a fault in one of many.
        channel: ``(axis, index)`` of the channel that gave ``channel_ratio``.
        status: ``equal``, ``within-noise``, ``within-tolerance``, ``differs``, ``nondeterministic`` (the parent does
            not repeat itself, so nothing can be said) or ``not-compared``.
        constant: The value was the same on every input: it says nothing about what lies upstream.
        reason: Why it differs or was not compared, in words.
        tolerance: The tolerance it was judged by in the place of noise, where it has one; `excess` is the largest
            difference over what that allows, and the status ``within-tolerance`` where it is within.
    """

    name: str
    child_name: str
    dtype: str
    max_abs: float = 0.0
    max_rel: float = 0.0
    noise_floor: float = 0.0
    ratio: float = 0.0
    channel_ratio: float = 0.0
    channel: tuple[int, int] | None = None
    status: str = "equal"
    constant: bool = False
    worst_input: int | None = None
    reason: str | None = None
    tolerance: dict[str, float] | None = None
    excess: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values; non-finite numbers become the strings ``"inf"`` and ``"nan"``."""
        document: dict[str, Any] = {
            "name": self.name,
            "max_abs": self.max_abs,
            "max_rel": self.max_rel,
            "noise_floor": self.noise_floor,
            "ratio": self.ratio,
            "channel_ratio": self.channel_ratio,
            "channel": list(self.channel) if self.channel else None,
            "status": self.status,
            "dtype": self.dtype,
            "constant": self.constant,
        }
        if self.child_name != self.name:
            document["child_name"] = self.child_name
        if self.worst_input is not None:
            document["worst_input"] = self.worst_input
        if self.reason:
            document["reason"] = self.reason
        if self.tolerance is not None:
            document["tolerance"], document["excess"] = self.tolerance, self.excess
        finite: dict[str, Any] = _finite(document)
        return finite


@dataclass
class Certificate:
    """The verdict on one parent and child, with everything it rests on.

    Attributes:
        equivalent: No failure: every output and compared inner value agrees within ``limit`` noise floors.
        provider: ONNX Runtime's name of the execution provider that ran.
        provider_reason: Why this provider.
        inputs: Number of sets of inputs both models ran on.
        outputs: One comparison an output, in the order of the model.
        inner: Comparisons at inner values, upstream first.
        detectable_fault: Smallest planted fault that was seen, as a share of its tensor's spread; ``None`` when no
            fault was planted (nothing changed, or not asked for) or none was seen, which a warning then says.
        limit: Largest ratio that counts as rounding.
        failures: Why the models are not equivalent, upstream first.
        weights: Weights whose numbers differ where all else is the same, as JSON values: what is computed with them,
            the numbers, and whether any input showed it (``shown``) and the verdict goes by it (``counts``).
        unproven: Why the models are not equivalent though no input showed it: known from the files alone.
        warnings: What the verdict does not cover.
        coverage: Sizes, ids and distributions used, and sizes the parent could not run.
        precision: ``"as stored"`` or ``"float32 upcast"``.
        settings: How the provider was set up: TF32, determinism, optimisations, and the nodes it left to another.
        also: The same verification on other providers, where that was asked for; their failures are among these.
        static: What was proved by algebra: of how many values, the largest residual, what rounding explains of it.
        first_difference: The first value, in the order of the child, that differs, with the node that computes it.
        failing_inputs: The first set of inputs on which the models differ, by name; not part of the document.
    """

    equivalent: bool
    provider: str
    inputs: int
    outputs: list[Comparison] = field(default_factory=list)
    inner: list[Comparison] = field(default_factory=list)
    detectable_fault: float | None = None
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    provider_reason: str = ""
    limit: float = 0.0
    precision: str = "as stored"
    tiers: list[str] = field(default_factory=list)
    coverage: dict[str, Any] = field(default_factory=dict)
    faults: list[dict[str, Any]] = field(default_factory=list)
    seed: int = 0
    parent_hash: str = ""
    child_hash: str = ""
    runtime: str = ""
    threads: int = 0
    seconds: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)
    also: list[Certificate] = field(default_factory=list)
    static: dict[str, Any] | None = None
    first_difference: dict[str, Any] | None = None
    failing_inputs: dict[str, Any] | None = None
    weights: list[dict[str, Any]] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """``"equivalent"``, ``"not equivalent"`` where a run showed it, ``"unproven"`` where only the files do."""
        if self.equivalent:
            return "equivalent"
        return "unproven" if self.unproven and not self.failures else "not equivalent"

    @property
    def reasons(self) -> list[str]:
        """Why the models are not equivalent, or not shown to be."""
        return [*self.failures, *self.unproven]

    def join(self, other: Certificate) -> None:
        """Makes this the verdict on two providers: both must find the models equivalent."""
        title = other.provider.removesuffix("ExecutionProvider")
        self.also.append(other)
        self.equivalent = self.equivalent and other.equivalent
        self.failures += [f"on {title}: {failure}" for failure in other.failures]
        self.unproven += [reason for reason in other.unproven if reason not in self.unproven]
        self.warnings += [f"on {title}: {warning}" for warning in other.warnings if warning not in self.warnings]
        if self.failing_inputs is None:
            self.failing_inputs = other.failing_inputs

    def to_json(self) -> dict[str, Any]:
        """The certificate as one JSON document (``"schema": 1``); NaN and infinities are spelled as strings."""
        document: dict[str, Any] = {
            "schema": 1,
            "equivalent": self.equivalent,
            "provider": self.provider,
            "provider_reason": self.provider_reason,
            "runtime": self.runtime,
            "precision": self.precision,
            "tiers": self.tiers,
            "threads": self.threads,
            "inputs": self.inputs,
            "limit": self.limit,
            "outputs": [comparison.to_json() for comparison in self.outputs],
            "inner": [comparison.to_json() for comparison in self.inner],
            "static": self.static,
            "detectable_fault": self.detectable_fault,
            "faults": self.faults,
            "first_difference": self.first_difference,
            "failures": self.failures,
            "unproven": self.unproven,
            "weights": self.weights,
            "warnings": self.warnings,
            "coverage": self.coverage,
            "seed": self.seed,
            "parent": self.parent_hash,
            "child": self.child_hash,
            "settings": self.settings,
            "seconds": round(self.seconds, 3),
        }
        if self.also:
            document["also"] = [other.to_json() for other in self.also]
        finite: dict[str, Any] = _finite(document)
        return finite

    def describe(self) -> str:
        """A few lines for a terminal: the verdict, the worst value, what was seen and what was not."""
        verdict = {"not equivalent": "NOT equivalent", "unproven": "NOT SHOWN to be equivalent"}.get(
            self.verdict, self.verdict
        )
        runs = "1 set of inputs" if self.inputs == 1 else f"{self.inputs} sets of inputs"
        providers = " and ".join(run.provider.removesuffix("ExecutionProvider") for run in [self, *self.also])
        lines = [f"{verdict}: {runs} on {providers} ({self.precision})"]
        compared = [*self.outputs, *self.inner]
        if compared:
            worst = max(compared, key=lambda comparison: max(comparison.ratio, comparison.channel_ratio))
            ratio = _measured(max(worst.ratio, worst.channel_ratio))
            lines.append(
                f"largest difference {_measured(max(c.max_abs for c in compared))}; worst at {worst.name!r}: {ratio} "
                f"times the parent's own noise (limit {self.limit:g})"
            )
            lines.append(f"compared {len(self.outputs)} output(s) and {len(self.inner)} inner value(s)")
        if self.detectable_fault is not None:
            lines.append(f"a planted fault of {self.detectable_fault:.0%} of one weight's spread was seen")
        if self.static is not None and self.static["proved"]:
            found = self.static
            explained = found["residual"] <= 2 * found["rounding_bound"]
            lines.append(
                f"by algebra {found['proved']} of {found['of']} changed value(s) {'' if explained else 'do not '}come "
                f"to the parent's: residual {_measured(found['residual'])}, of which rounding explains "
                f"{_measured(found['rounding_bound'])}"
            )
        lines += _reached(self.coverage)
        lines += [f"failure: {failure}" for failure in self.failures]
        lines += [f"unproven: {reason}" for reason in self.unproven]
        if self.first_difference is not None:
            found = self.first_difference
            node = f", computed by {found['op']}" if "op" in found else ""
            node += f" {found['node']!r}" if "node" in found else ""
            lines.append(f"first difference: {found['kind']} {found['value']!r}{node}")
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


def _measured(number: float) -> str:
    """Two digits, and always a point or an exponent: what is measured is no count."""
    text = f"{number:.2g}"
    return text if any(mark in text for mark in ".en") else f"{text}.0"


def _reached(coverage: Mapping[str, Any]) -> list[str]:
    """What the inputs reached inside, in a line or two."""
    lines: list[str] = []
    activations = coverage.get("activations", ())
    if activations:
        channels = sum(entry["channels"] for entry in activations)
        both = sum(min(entry["negative"], entry["positive"]) for entry in activations)
        alive = sum(entry["alive"] for entry in activations)
        lines.append(
            f"at {len(activations)} activation(s) that changed, {both} of {channels} channels saw both signs and "
            f"{alive} were alive"
        )
    for name, entry in coverage.get("ids", {}).items():
        if entry.get("table_changed"):
            lines.append(f"{entry['distinct']} of {entry['table']} rows of the table behind {name!r} were read")
    return lines


def _finite(value: Any) -> Any:
    """``value`` with numpy scalars unpacked and NaN and infinities spelled out, so that strict JSON parsers read it."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value
