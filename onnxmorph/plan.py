"""Plans: what a morph would do, as pure data; and the child that comes of carrying plans out.

A morph is *planned* (pure data: what would change, and why it may not), then *applied*, then *verified*. The same plan
serves a dry run, the record in the child's metadata, and a replay on the parent.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

import onnxmorph
from onnxmorph import model as files
from onnxmorph._ir import ir

__all__ = ["Change", "Child", "LongerOutput", "NewFactor", "Plan", "apply"]


@dataclass(frozen=True)
class NewFactor:
    """One new kernel of a child, and how it looks: NM asks for few zeros and one scale.

    Attributes:
        name: The initializer that holds it.
        shape: ``(out, in/groups, *kernel)``.
        occupancy: Share of entries that are not zero, 0 to 1.
        scale_ratio: Standard deviation over He's ``sqrt(2 / fan_in)``.
    """

    name: str
    shape: tuple[int, ...]
    occupancy: float
    scale_ratio: float

    @classmethod
    def of(cls, name: str, kernel: np.ndarray) -> NewFactor:
        """What there is to tell of a kernel ``(out, in/groups, *kernel)`` in an initializer of this name."""
        from onnxmorph.equation.factorization import occupancy, scale_ratio

        return cls(name, tuple(kernel.shape), occupancy(kernel), scale_ratio(kernel))

    def to_json(self) -> dict[str, Any]:
        """The factor as the command line prints it."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "occupancy": self.occupancy,
            "scale_ratio": self.scale_ratio,
        }


@dataclass(frozen=True)
class LongerOutput:
    """An output of the model whose first ``parent_size`` indices on ``axis`` are the parent's."""

    name: str
    axis: int
    parent_size: int


@dataclass(frozen=True)
class Change:
    """What carrying out one plan did to the child.

    Attributes:
        factors: The new kernels.
        residual: Relative residual of the morphism equation on the stored factors; 0 where nothing was solved.
        frontier: Names of values at the border of the changed region; each keeps its meaning from parent to child.
        notes: Things a user should know, one sentence each.
        index_maps: Per stored tensor of the child that was rewritten, where the indices of its axes come from, as JSON:
            ``{name: {"parent": name, "axes": {axis: {"parent_size": n, "sources": [...]}}}}``; -1 is new.
        resized: Names of computed values whose shape changed: they are on no border, whatever else changes.
        longer: Outputs of the model that have more than the parent's numbers, as was asked for, behind those.
    """

    factors: tuple[NewFactor, ...] = ()
    residual: float = 0.0
    frontier: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    index_maps: Mapping[str, Any] = field(default_factory=dict)
    resized: tuple[str, ...] = ()
    longer: tuple[LongerOutput, ...] = ()


class Plan(abc.ABC):
    """One morph of one model, decided but not carried out."""

    morph: ClassVar[str]

    @property
    def is_morph(self) -> bool:
        """Whether the child computes what its parent does; ``False`` only where somebody asked for less."""
        return True

    @abc.abstractmethod
    def options(self) -> dict[str, Any]:
        """Every decision, resolved, as JSON values: what replays the plan on the same parent to the same child."""

    @abc.abstractmethod
    def describe(self) -> str:
        """What would change, for a person, one line per change."""

    @abc.abstractmethod
    def edit(self, child: ir.Model) -> Change:
        """Carry the plan out on ``child``, in place.

        Raises:
            Refusal: The plan cannot be carried out exactly; ``child`` must then be thrown away.
        """

    def record(self) -> dict[str, Any]:
        """The entry for the child's metadata."""
        return {"morph": self.morph, "onnxmorph": onnxmorph.__version__, **self.options()}

    def apply(self, parent: ir.Model) -> Child:
        """A child of ``parent`` by this plan alone; see :func:`apply`."""
        return apply(parent, [self])


@dataclass(frozen=True)
class Child:
    """A child and what was done to make it."""

    model: ir.Model
    plans: tuple[Plan, ...]
    changes: tuple[Change, ...] = field(default=())

    further_notes: tuple[str, ...] = ()

    def then(self, grown: Child) -> Child:
        """This child grown further: the model of ``grown``, which was made from this one, with both histories."""
        return Child(
            grown.model,
            (*self.plans, *grown.plans),
            (*self.changes, *grown.changes),
            (*self.further_notes, *grown.further_notes),
        )

    def with_note(self, note: str) -> Child:
        """This child with one more thing that a user should know."""
        return replace(self, further_notes=(*self.further_notes, note))

    @property
    def is_morph(self) -> bool:
        """Whether every plan was to keep what the model computes."""
        return all(plan.is_morph for plan in self.plans)

    @property
    def factors(self) -> tuple[NewFactor, ...]:
        """The new kernels of all changes, in order."""
        return tuple(factor for change in self.changes for factor in change.factors)

    @property
    def residual(self) -> float:
        """The largest relative residual of all changes."""
        return max((change.residual for change in self.changes), default=0.0)

    @property
    def longer(self) -> tuple[LongerOutput, ...]:
        """Outputs that were asked to have more numbers than the parent's, each axis once."""
        found: dict[tuple[str, int], LongerOutput] = {}
        for output in (output for change in self.changes for output in change.longer):
            found.setdefault((output.name, output.axis), output)
        return tuple(found.values())

    @property
    def frontier(self) -> tuple[str, ...]:
        """Values at the borders of what changed that both models have, each once; none that any change has resized."""
        resized = {name for change in self.changes for name in change.resized}
        found = dict.fromkeys(name for change in self.changes for name in change.frontier)
        return tuple(name for name in found if name not in resized)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know, each once."""
        made = (note for change in self.changes for note in change.notes)
        return tuple(dict.fromkeys((*made, *self.further_notes)))


def apply(parent: ir.Model, plans: Sequence[Plan]) -> Child:
    """Carry out plans one after the other on a clone of ``parent``, which stays as it is.

    Tensors that do not change are the parent's own. Each plan was made on ``parent`` or on a child of it; layers are
    found again by a key that edits of other layers leave alone.

    Raises:
        Refusal: A plan cannot be carried out exactly.
    """
    child = files.clone(parent)
    changes = []
    for plan in plans:
        change = plan.edit(child)
        files.add_record(child, plan.record())
        if change.index_maps:
            files.add_index_maps(child, change.index_maps)
        changes.append(change)
    return Child(child, tuple(plans), tuple(changes))
