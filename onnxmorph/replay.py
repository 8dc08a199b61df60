"""Replay: the morphs that a child records, carried out once more on its parent.

Plans are decided to the last bit, seeds included, so the same records on the same parent give the same graph and the
same weights. A child that says where it comes from can be made again, checked, or made of a parent that was trained on
since; then the graph is the same and the weights follow the parent's.

The first record of each time a model was grown carries the mark of the model it was grown from (``"parent"``): its
content hash or, where the child was not verified, a hash over a sample of its large weights. Where that is another one
than at replay, the parent is not what it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.diff import Diff, diff
from onnxmorph.errors import ModelError, Refusal, SelectionError
from onnxmorph.morphs import plan_from_record
from onnxmorph.plan import Child, apply
from onnxmorph.records import PARENT_KEY, is_sampled, mark_like, replace_records

__all__ = ["Replay", "outstanding", "replay", "replay_child"]

_DAMAGE = (SelectionError, TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError, AssertionError)
"""What a record that names impossible things may raise on its way through a morph."""


@dataclass(frozen=True)
class Replay:
    """What came of replaying a child.

    Attributes:
        child: Made anew; its model carries the same records.
        replayed: How many records were carried out.
        parent_changed: Whether the parent is another one than recorded; ``None`` where the records do not say.
        parent_sampled: Whether that was told from a sample of the parent's large weights: what differs is another one,
            but what does not may still differ in a few numbers of a large tensor.
        hashes: Content hashes: of the replayed child, of the one that is there.
        difference: From the child that is there to the replayed one; ``None`` where they are the same.
    """

    child: Child
    replayed: int
    parent_changed: bool | None
    hashes: tuple[str, str]
    difference: Diff | None
    parent_sampled: bool = False

    @property
    def same(self) -> bool:
        """Whether graph and weights are the same."""
        return self.hashes[0] == self.hashes[1]

    def describe(self) -> str:
        """The result and, where the two differ, how and why, for a person."""
        many = f"{self.replayed} morph{'s' if self.replayed > 1 else ''} replayed"
        if self.difference is None:
            return f"{many}: the same graph and weights"
        found = self.difference
        moved = [change for change in found.tensors if change.kind == "changed"]
        only_weights = len(moved) == len(found.tensors) and not (found.nodes or found.values or found.signature)
        if found.same:
            return f"{many}: the same nodes and weights in another order"
        if not only_weights:
            return f"{many}: it differs: {found.summary()}"
        far = max((change.max_abs or 0.0 for change in moved), default=0.0)
        which = f"{len(moved)} stored tensor{'s' if len(moved) > 1 else ''}"
        why = ""
        if self.parent_changed:
            why = "; the parent is not the one that the child was grown from"
        elif self.parent_changed is False:
            known = "is the one recorded"
            if self.parent_sampled:
                known += ", as far as a sample of its large weights tells"
            why = f"; the parent {known}, so the child was changed since, or another machine rounds otherwise"
        return f"{many}: the same graph, but {which} differ, by up to {far:.3g}{why}"


def outstanding(child: ir.Model, parent: ir.Model) -> list[dict[str, Any]]:
    """The records of ``child`` that ``parent`` does not have yet.

    Raises:
        Refusal: The child records nothing, nothing more than the parent, or another history than the parent's.
        ModelError: The metadata of one of them are damaged.
    """
    told, known = files.records(child), files.records(parent)
    if not told:
        raise Refusal(
            "the child records no morphs: it was not grown, or its metadata were taken away", code="no-records"
        )
    if [_deed(record) for record in told[: len(known)]] != [_deed(record) for record in known]:
        raise Refusal(
            f"the parent was grown by {len(known)} morphs that the child does not begin with",
            way_out="give the model that the child was grown from, or its ancestor",
            code="other-history",
        )
    if len(told) == len(known):
        raise Refusal("the child records no more morphs than its parent", code="no-records")
    return told[len(known) :]


def _deed(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in (PARENT_KEY, "onnxmorph")}


def replay(parent: ir.Model, records: Sequence[Mapping[str, Any]]) -> Child:
    """Carry out recorded morphs on a clone of ``parent``, which stays as it is.

    Args:
        parent: The model to start from.
        records: In order, as :func:`onnxmorph.model.records` gives them. Those that carry a parent's mark get that
            of the model that they now start from.

    Raises:
        ModelError: A record is damaged, or names a morph that this version does not have.
        Refusal: A morph cannot be carried out on this parent; the reason names the step.
    """
    plans = [plan_from_record(record) for record in records]
    child = Child(files.clone(parent), ())
    for number, (plan, record) in enumerate(zip(plans, records, strict=True), start=1):
        where = f"record {number} ({plan.morph})"
        mark = {PARENT_KEY: mark_like(record[PARENT_KEY], child.model)} if PARENT_KEY in record else {}
        try:
            child = child.then(apply(child.model, [plan]))
        except Refusal as refusal:
            raise Refusal(f"{where}: {refusal.reason}", way_out=refusal.way_out, code=refusal.code) from refusal
        except _DAMAGE as error:
            raise ModelError(f"{where} is damaged: it cannot be carried out ({error})") from error
        if mark:
            *before, last = files.records(child.model)
            replace_records(child.model, [*before, {**last, **mark}])
    return child


def replay_child(child: ir.Model, parent: ir.Model) -> Replay:
    """Replay what ``child`` records on ``parent``, and compare.

    Raises:
        ModelError: See :func:`replay`.
        Refusal: See :func:`replay` and :func:`outstanding`.
    """
    records = outstanding(child, parent)
    made = replay(parent, records)
    marks = [record.get(PARENT_KEY) for record in records]
    now = [record.get(PARENT_KEY) for record in files.records(made.model)[-len(records) :]]
    told = next(((one, two) for one, two in zip(marks, now, strict=True) if one is not None), None)
    hashes = files.content_hash(made.model), files.content_hash(child)
    difference = None if hashes[0] == hashes[1] else diff(child, made.model)
    if told is None:
        return Replay(made, len(records), None, hashes, difference)
    return Replay(made, len(records), told[0] != told[1], hashes, difference, is_sampled(told[0]))
