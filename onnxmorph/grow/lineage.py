"""What the metadata of a child tell of its tensors: which are new since its parent."""

from __future__ import annotations

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.grow.sites import sites
from onnxmorph.records import index_maps, records

__all__ = ["new_tensors"]


def new_tensors(child: ir.Model, parent: ir.Model | None = None) -> frozenset[str]:
    """Keys of tensors that have entries which were not trained before.

    With the parent: what it lacks, or has in another shape, or with other numbers. Without: what the records say,
    namely tensors of which an axis grew, and those named after the layer that a morph put factors in the place of.
    """
    own = sites(child).values()
    if parent is not None:
        before = {site.key: site.tensor for site in sites(parent).values()}
        return frozenset(
            site.key
            for site in own
            if site.key not in before
            or tuple(before[site.key].shape.numpy()) != tuple(site.tensor.shape.numpy())
            or not np.array_equal(before[site.key].numpy(), site.tensor.numpy(), equal_nan=True)
        )
    keys = {site.key for site in own}
    found: set[str] = set()
    for entry in index_maps(child):
        for name, maps in entry["tensors"].items():
            if name in keys and any(min(axis["sources"], default=0) < 0 for axis in maps["axes"].values()):
                found.add(name)
    stems = {_stem(record) for record in _flat(records(child))} - {""}
    for key in keys:
        stem, _, rest = key.rpartition(".")
        layer, _, place = stem.rpartition(".")
        of_a_morph = bool(stems & {layer, stem}) and (rest == "a" or place.split("_")[0].isdecimal())
        if of_a_morph or key.endswith(".act.a"):
            found.add(key)
    return frozenset(found)


def _flat(entries: list[dict[str, object]]) -> list[dict[str, object]]:
    steps: list[dict[str, object]] = []
    for entry in entries:
        inner = entry.get("steps")
        steps += _flat(inner) if isinstance(inner, list) else [entry]
    return steps


def _stem(record: dict[str, object]) -> str:
    name = record.get("name")
    if not isinstance(name, str):
        return ""
    parts = [part for part in name.split("/") if part]
    return ".".join(parts[:-1]) if len(parts) > 1 else name
