"""The slim net: the fit hypothesis of KELS cut out, as a network of its own.

A slim net is no morph of the network it is cut from: it computes what that network computes with all weights outside of
the fit hypothesis *zeroed*, and that is what it is verified against. Its certificate holds the hash of the zeroed
network and says that this is no morphism.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import onnxmorph
from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.delivery import Check, Delivery, travelling
from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.graph.axes import Group
from onnxmorph.grow.evolution.split import EVOLUTION_KEY, Split, find_split, split_of
from onnxmorph.grow.evolution.weights import zeroed
from onnxmorph.morphs.folds.channels import drop_channels, droppable
from onnxmorph.morphs.folds.finding import View
from onnxmorph.records import INDEX_MAPS_KEY, RECORD_KEY, as_json, content_hash, records

__all__ = ["SLIM_KEY", "Slim", "deliver_slim", "slim"]

SLIM_KEY = "onnxmorph.slim"
"""Metadata of a slim net: what it was cut from, and how."""


@dataclass(frozen=True)
class Slim:
    """A slim net and what it is equal to.

    Attributes:
        model: The slim net.
        zeroed: The network it was cut from, with all weights outside of the fit hypothesis zero.
        split: The fit hypothesis.
        frontier: Names of values that both have and that are the same in both.
    """

    model: ir.Model
    zeroed: ir.Model
    split: Split
    frontier: tuple[str, ...]

    def describe(self) -> str:
        """What was cut, a line per group of layers."""
        return "\n".join(f"{one.layer}: the first {one.kept} of {one.size} channels" for one in self.split.slices)


def slim(model: ir.Model, *, share: float | None = None, split: Split | None = None) -> Slim:
    """Cut the fit hypothesis out of a network.

    Args:
        model: Left as it is.
        share: Of the channels that are kept; default: what the model's metadata say it was evolved with.
        split: Or a split of this graph.

    Raises:
        SelectionError: The model was not evolved, and no share is given.
        Refusal: It was evolved with WELS, which leaves nothing to cut (``wels``); it has no channels that can be cut.
    """
    chosen = split if split is not None else _split(model, share)
    if chosen.kind == "wels":
        raise Refusal(
            "the model was evolved by single weights (wels), which are scattered over all channels, so there is no "
            "slim net in it",
            way_out="evolve with --split kels",
            code="wels",
        )
    without = zeroed(model, chosen)
    child = files.clone(without)
    view = View(child)
    kept: dict[Group, np.ndarray[tuple[int], np.dtype[np.int64]]] = {}
    for (group, count), one in zip(chosen.groups(view.table, child).items(), chosen.slices, strict=True):
        if not droppable(view, group).without_effect[count:].all():
            raise Refusal(f"{one.layer}: what lies outside of the split has an effect even when zero", code="not-exact")
        kept[group] = np.arange(count)
    stands_for = {
        group: np.where(np.arange(group.size) < first.size, np.arange(group.size), -1) for group, first in kept.items()
    }
    edited = drop_channels(view, kept, stands_for, {group: np.zeros(group.size, dtype=bool) for group in kept})
    _mark(child, model, without, chosen)
    resized = set(edited.resized)
    return Slim(child, without, chosen, tuple(name for name in edited.frontier if name not in resized))


def _split(model: ir.Model, share: float | None) -> Split:
    if share is not None:
        return find_split(model, "kels", share)
    told = split_of(model)
    if told is None:
        raise SelectionError("the model's metadata tell of no evolution: give --share")
    return told[0]


def _mark(child: ir.Model, model: ir.Model, without: ir.Model, split: Split) -> None:
    """Records of morphs speak of a graph with the channels that are gone, so they move into the entry of the cut."""
    files.drop_certificate(child)
    entry = {
        "onnxmorph": onnxmorph.__version__,
        **split.to_json(),
        "of": content_hash(model),
        "zeroed": content_hash(without),
        "records": records(model),
    }
    for key in (RECORD_KEY, INDEX_MAPS_KEY, EVOLUTION_KEY):
        child.metadata_props.pop(key, None)
    child.metadata_props[SLIM_KEY] = as_json(entry)


def deliver_slim(
    cut: Slim, path: Path, *, check: Check | None, overwrite: bool = False, zeroed_path: Path | None = None
) -> Delivery:
    """Write a slim net and show that what was written computes what the zeroed network computes.

    Args:
        cut: What `slim` made.
        path: Of its ``.onnx`` file.
        check: How to compare; ``None`` writes without, and the metadata say so.
        overwrite: Replace files of these names.
        zeroed_path: Where the zeroed network goes too, for those who want to compare for themselves.

    Returns:
        What was written; nothing was where the certificate says that the two are not equivalent.

    Raises:
        ModelError: It cannot be written there; nothing was changed.
        RuntimeFailure: It cannot be verified here; nothing was written.
    """
    with files.staged(cut.model, path, overwrite=overwrite) as written:
        certificate = None
        if check is None:
            written.attach_certificate({"schema": 1, "equivalent": None, "verified": False})
        else:
            from onnxmorph.verify import verify

            certificate = verify(
                cut.zeroed,
                written.load(),
                provider=check.provider,
                inputs=check.inputs,
                shapes=check.shapes or None,
                seed=check.seed,
                frontier=_of_both(cut),
            )
            if not certificate.equivalent:
                return Delivery(None, None, certificate)
            written.attach_certificate({**travelling(certificate), "morphism": False})
        if zeroed_path is not None:
            files.save(cut.zeroed, zeroed_path, overwrite=overwrite)
        written.commit()
        beside = None if written.data_path is None else path.with_name(written.data_path.name)
        return Delivery(path, beside, certificate)


def _of_both(cut: Slim) -> list[tuple[str, str]]:
    def computed(model: ir.Model) -> set[str | None]:
        return {output.name for node in model.graph for output in node.outputs if output.name}

    both = computed(cut.zeroed) & computed(cut.model)
    return [(name, name) for name in cut.frontier if name in both]
