"""What of a network is its fit hypothesis: a prefix of its channels (KELS), or a random share of its weights (WELS).

KELS keeps of each kernel the first ``ceil(s Co)`` of ``Co`` outputs and the first ``ceil(s Ci)`` of ``Ci`` inputs. Here
that is decided once per coupled group of axes (:mod:`onnxmorph.graph.axes`) rather than per kernel: what is added to a
shortcut, gated, concatenated or grouped is then cut at the same place wherever it appears, and the slice is a network.
Inputs and outputs of the model are pinned and stay whole, as the first and the last layer do in the paper.

A group can be cut only where the rest, once zero, has no effect. A layer norm over the channels counts them, zeros
included, so such a group stays whole, and all that reads it with it; :attr:`Split.whole` says which layers and why.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxmorph._ir import ir
from onnxmorph.errors import ModelError, Refusal, SelectionError
from onnxmorph.graph.axes import Group, GroupTable
from onnxmorph.graph.constants import stored
from onnxmorph.graph.layers import LinearLayer
from onnxmorph.grow.roles import roles
from onnxmorph.grow.sites import FLOATS, Site, sites
from onnxmorph.grow.stored import with_values
from onnxmorph.morphs.folds.channels import droppable
from onnxmorph.morphs.folds.finding import View
from onnxmorph.records import as_json

__all__ = ["EVOLUTION_KEY", "WEIGHTS", "Slice", "Split", "find_split", "mark_evolved", "split_of"]

EVOLUTION_KEY = "onnxmorph.evolution"
"""Metadata of an evolved model: its split, and how many generations it has been through."""

WEIGHTS = frozenset({"kernel", "bias", "recurrent", "embedding"})
"""Roles of what is kept in part. Scales, shifts and statistics of norms and parameters of activations stay whole."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Slice:
    """How much of one coupled group is kept.

    Attributes:
        tensor: Key of a stored tensor that holds the group.
        axis: Its axis that does.
        size: Indices of the group.
        kept: How many of them are kept, the first ones.
        layer: Name of the layer whose outputs these are, for people.
    """

    tensor: str
    axis: int
    size: int
    kept: int
    layer: str


@dataclass(frozen=True)
class Split:
    """The fit hypothesis of one graph, whatever its numbers are.

    Attributes:
        kind: ``"kels"`` or ``"wels"``.
        share: Of the channels or weights, above 0 and below 1.
        seed: Of the random mask of WELS.
        slices: What KELS keeps, per group.
        whole: Layers of which KELS keeps all outputs, with the reason; without those that give the model's outputs.
    """

    kind: Literal["kels", "wels"]
    share: float
    seed: int = 0
    slices: tuple[Slice, ...] = ()
    whole: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain data, for metadata."""
        return {
            "split": self.kind,
            "share": self.share,
            "seed": self.seed,
            "slices": [[one.tensor, one.axis, one.size, one.kept, one.layer] for one in self.slices],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Split:
        """The inverse of `to_json`.

        Raises:
            ModelError: It is not what `to_json` wrote.
        """
        try:
            slices = tuple(
                Slice(str(name), int(axis), int(size), int(kept), str(layer))
                for name, axis, size, kept, layer in data["slices"]
            )
            kind, share, seed = data["split"], float(data["share"]), int(data["seed"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the metadata {EVOLUTION_KEY!r} of the model is damaged: {error}") from error
        if kind not in ("kels", "wels") or not 0 < share < 1 or any(not 0 < one.kept < one.size for one in slices):
            raise ModelError(f"the metadata {EVOLUTION_KEY!r} of the model is damaged: no such split")
        return cls(kind, share, seed, slices)

    def groups(self, table: GroupTable, model: ir.Model) -> dict[Group, int]:
        """The groups of a model of this graph, with how many of their indices are kept.

        Raises:
            Refusal: The graph is another one.
        """
        by_key = {site.key: site.value for site in sites(model).values()}
        found: dict[Group, int] = {}
        for one in self.slices:
            value = by_key.get(one.tensor)
            axes = None if value is None else table.coupled.axes(value)
            held = [] if value is None or axes is None or one.axis >= len(axes) else table.of_axis(value, one.axis)
            group = next((group for group in held if group.size == one.size and group not in found), None)
            if group is None:
                raise Refusal(
                    f"the split is of another graph: '{one.tensor}' has no {one.size} channels on axis {one.axis}",
                    way_out="split it anew with --share",
                    code="other-model",
                )
            found[group] = one.kept
        return found

    def masks(self, model: ir.Model) -> dict[str, Mask]:
        """What of each stored tensor belongs to the fit hypothesis, by its key; tensors not named belong to it whole.

        Raises:
            Refusal: The graph is another one.
        """
        if self.kind == "wels":
            return _random_masks(model, self.share, self.seed)
        view = View(model)
        return _masks(model, view.table, self.groups(view.table, model))


def find_split(model: ir.Model, kind: Literal["kels", "wels"] = "kels", share: float = 0.5, *, seed: int = 0) -> Split:
    """Decide what of a network is its fit hypothesis. The numbers of the model play no part in it.

    Args:
        model: Left as it is.
        kind: ``"kels"``, by channels, or ``"wels"``, by single weights.
        share: Of the channels, or of the weights, that is kept; above 0 and below 1.
        seed: Of the random mask of WELS.

    Raises:
        SelectionError: There is no such split, or no such share.
        Refusal: Nothing of the network can be split (``nothing-to-split``).
    """
    if kind not in ("kels", "wels"):
        raise SelectionError(f"no split is called {kind!r}; there are kels and wels")
    if not (math.isfinite(share) and 0 < share < 1):
        raise SelectionError(f"the share is {share}, and must lie between 0 and 1")
    if kind == "wels":
        if not _random_masks(model, share, seed):
            raise Refusal("the model has no kernels to split", code="nothing-to-split")
        return Split("wels", share, seed)
    return _Choice(model, share).split()


def split_of(model: ir.Model) -> tuple[Split, int] | None:
    """The split that an evolved model's metadata tell of, and its generation; ``None`` for one nobody evolved.

    Raises:
        ModelError: The metadata is there but damaged.
    """
    text = model.metadata_props.get(EVOLUTION_KEY)
    if text is None:
        return None
    try:
        data = json.loads(text)
        return Split.from_json(data), int(data["generation"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"the metadata {EVOLUTION_KEY!r} of the model is damaged: {error}") from error


def mark_evolved(model: ir.Model, split: Split, generation: int) -> None:
    """Write into a model's metadata how it is split, and how many generations it has been through."""
    model.metadata_props[EVOLUTION_KEY] = as_json({**split.to_json(), "generation": generation})


def _masks(model: ir.Model, table: GroupTable, kept: Mapping[Group, int]) -> dict[str, Mask]:
    """What of each weight lies among the first indices of all its groups, by its key; whole weights are left out."""
    kinds = roles(model)
    prefixes = {group.atom: np.arange(count) for group, count in kept.items()}
    held = {member.value for group in kept for member in group.stored}
    masks: dict[str, Mask] = {}
    for value, site in sites(model).items():
        if value not in held or kinds[site.key] not in WEIGHTS:
            continue
        # A tensor whose users have each their own copy belongs to the hypothesis where it does for one of them.
        uses = [use for use in table.coupled.own_copy if use[0].inputs[use[1]] is value]
        exprs = [table.coupled.own_copy[use] for use in uses] or [table.coupled.axes(value) or []]
        mask = np.zeros(_shape(site), dtype=bool)
        for axes in exprs:
            part = np.ones(mask.shape, dtype=bool)
            for axis, expr in enumerate(axes):
                outside = np.ones(mask.shape[axis], dtype=bool)
                outside[table.coupled.factors.gather(expr, prefixes)] = False
                part &= ~outside.reshape([-1 if place == axis else 1 for place in range(mask.ndim)])
            mask |= part
        if not mask.all():
            masks[site.key] = mask
    return masks


def _shape(site: Site) -> tuple[int, ...]:
    return tuple(int(size) for size in site.tensor.shape.numpy())


def _random_masks(model: ir.Model, share: float, seed: int) -> dict[str, Mask]:
    """Of each kernel a random share, rounded up; biases stay."""
    kinds = roles(model)
    masks: dict[str, Mask] = {}
    for site in sites(model).values():
        size = site.tensor.size
        if kinds[site.key] not in ("kernel", "recurrent", "embedding") or size < 2:
            continue
        order = np.random.default_rng([seed, zlib.crc32(site.key.encode())]).permutation(size)
        mask = np.zeros(size, dtype=bool)
        mask[order[: math.ceil(share * size - 1e-9)]] = True
        masks[site.key] = mask.reshape(_shape(site))
    return masks


# -- which groups ----------------------------------------------------------------------------------------------------


class _Choice:
    """Which groups are cut. Groups are the same objects throughout: of one analysis of the model as it was given."""

    def __init__(self, model: ir.Model, share: float) -> None:
        self.model = model
        self.share = share
        self.view = View(model)
        self.rejected: dict[Group, str] = {}
        self.keys = {value: site.key for value, site in sites(model).items()}

    def split(self) -> Split:
        """Groups are chosen, what lies outside is zeroed, and those for which that is not the same as cutting go."""
        while True:
            chosen = self._chosen()
            if not chosen:
                why = next(iter(self._whole(chosen)), ("", "no layer between input and output has channels to cut"))
                raise Refusal(
                    f"no channels can be split: {why[0] and why[0] + ': '}{why[1]}",
                    way_out="--split wels masks single weights",
                    code="nothing-to-split",
                )
            wrong = self._with_effect(chosen)
            if not wrong:
                break
            self.rejected.update(wrong)
        slices = tuple(self._slice(group, kept, layer) for group, (kept, layer) in chosen.items())
        return Split("kels", self.share, 0, slices, tuple(self._whole(chosen)))

    def _chosen(self) -> dict[Group, tuple[int, LinearLayer]]:
        chosen: dict[Group, tuple[int, LinearLayer]] = {}
        for layer in self.view.layers:
            for group in self._groups(layer):
                kept = max(1, math.ceil(self.share * group.size - 1e-9))
                if group in chosen or kept == group.size or self._why_not(group) is not None:
                    continue
                if not any(_are_factors(group, other) for other in chosen):
                    chosen[group] = (kept, layer)
        return chosen

    def _groups(self, layer: LinearLayer) -> Sequence[Group]:
        """Groups of a layer's outputs, outer factors first: heads before the size of a head."""
        axes = self.view.table.coupled.axes(layer.output)
        if axes is None or layer.fixed_width is not None or not -len(axes) <= layer.output_axis < len(axes):
            return ()
        return self.view.table.of_axis(layer.output, layer.output_axis % len(axes))

    def _why_not(self, group: Group) -> str | None:
        refusal = group.refusal()
        if refusal is not None:
            return refusal.reason
        if not any(member.value in self.keys for member in group.stored):
            return "none of its weights is stored as floating-point numbers"
        if any((tensor := stored(member.value)) is None or tensor.dtype not in FLOATS for member in group.stored):
            return "weights of its channels are quantised, or of no type that is trained"
        return self.rejected.get(group)

    def _with_effect(self, chosen: Mapping[Group, tuple[int, LinearLayer]]) -> dict[Group, str]:
        """Groups whose rest, zeroed, still has an effect."""
        counts = {group: kept for group, (kept, _) in chosen.items()}
        masks = _masks(self.model, self.view.table, counts)
        # The weights are replaced by random ones, so that nothing passes because of what they happen to be.
        rng = np.random.default_rng(0)
        trial = with_values(
            self.model, {key: np.where(mask, rng.normal(0.0, 0.1, mask.shape), 0.0) for key, mask in masks.items()}
        )
        view = View(trial)
        slices = tuple(self._slice(group, kept, layer) for group, (kept, layer) in chosen.items())
        found = Split("kels", self.share, 0, slices).groups(view.table, trial)
        wrong: dict[Group, str] = {}
        for group, (twin, kept) in zip(chosen, found.items(), strict=True):
            if not droppable(view, twin).without_effect[kept:].all():
                notes = [condition.text for condition in group.conditions]
                wrong[group] = notes[0] if notes else "what reads its channels sees zeros too"
        return wrong

    def _slice(self, group: Group, kept: int, layer: LinearLayer) -> Slice:
        held = [member for member in group.stored if member.value in self.keys]
        member = min(held, key=lambda one: ("produced" not in one.roles, self.keys[one.value], one.axis))
        return Slice(self.keys[member.value], member.axis, group.size, kept, layer.name)

    def _whole(self, chosen: Mapping[Group, tuple[int, LinearLayer]]) -> Iterable[tuple[str, str]]:
        for layer in self.view.layers:
            groups = self._groups(layer)
            if any(group in chosen for group in groups) or all(group.interface for group in groups):
                continue
            reasons = [self._why_not(group) for group in groups if group.size > 1]
            yield layer.name, next((reason for reason in reasons if reason), "it has too few channels")


def _are_factors(one: Group, other: Group) -> bool:
    """Whether two groups are factors of one axis, so that to cut both would keep the share of a share."""
    factors = one.coupled.factors
    theirs = {(value, axis) for value, axis, _, _ in other.entries}
    for value, axis, expr, _ in one.entries:
        if (value, axis) in theirs:
            both = (factors.coordinate(expr, one.atom) >= 0) & (factors.coordinate(expr, other.atom) >= 0)
            if both.any():
                return True
    return False
