"""Expanding to a budget: the largest factor by which all widths can grow, function-preserving.

MorphNet's second half: ``the largest omega with F(omega * widths) <= budget``, found by bisection. The original builds
the wider network and trains it from scratch; here every width is widened as a morph, so the child computes what its
parent does and starts from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.errors import Refusal
from onnxmorph.grow.morphnet.budget import Budget, amount_text
from onnxmorph.grow.morphnet.pricing import Pricing
from onnxmorph.grow.morphnet.report import AtBudget, rows
from onnxmorph.grow.morphnet.widths import Network, Width
from onnxmorph.morphs import plan_widen
from onnxmorph.plan import Child, apply

__all__ = ["Expanded", "expand", "largest_factor"]

_LARGEST = 1024.0
_BISECTIONS = 40


@dataclass(frozen=True, kw_only=True)
class Expanded(AtBudget):
    """A model that was widened to a budget.

    Attributes:
        factor: The omega.
    """

    factor: float

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**super().to_json(), "factor": self.factor}


def expand(
    model: ir.Model,
    budget: Budget | str,
    *,
    fill: str | None = None,
    multiple: int = 1,
    seed: int = 0,
    threads: int = 1,
) -> Expanded:
    """Widen all widths of a model by one factor, the largest that a budget allows.

    Args:
        model: Left as it is.
        budget: Such as ``"flops=2x"``; see `Budget.parse`.
        fill: What new channels hold; see `onnxmorph.morphs.plan_widen`.
        multiple: Widths are rounded to multiples of it.
        seed: Of what new channels hold.
        threads: That a latency is measured with.

    Raises:
        SelectionError: It is no budget.
        Refusal: No width is free (``no-free-group``), or the budget allows no channel more (``budget-too-small``, with
            the least).
    """
    wanted = Budget.parse(budget) if isinstance(budget, str) else budget
    network = Network(model)
    pricing = Pricing.measure(network, wanted.metric, threads=threads)
    before = pricing.total({})
    limit = wanted.of(before)
    able = [width for width in network.widths if _axis_is_alone(width)]
    stayed: dict[str, None] = {}
    if not able:
        raise Refusal(f"no width of the model can grow: {network.why_none()}", code="no-free-group")
    while True:
        factor = largest_factor(pricing, able, limit, multiple)
        sizes = _sizes(able, factor, multiple)
        if not any(sizes[width.group.atom] > width.size for width in able):
            raise _too_small(pricing, able, before, limit, multiple)
        try:
            child = _widened(model, [(width, sizes[width.group.atom]) for width in able], fill, seed)
        except _CannotError as stop:
            stayed[f"{stop.width.layer.name} keeps its {stop.width.size} channels: {stop.refusal}"] = None
            able = [width for width in able if width is not stop.width]
            if not able:
                raise Refusal(
                    f"no width of the model can grow: {stop.refusal.reason}",
                    way_out=stop.refusal.way_out,
                    code="no-free-group",
                ) from stop
            continue
        break
    notes = [*stayed, *pricing.notes()]
    for note in notes:
        child = child.with_note(note)
    return Expanded(
        child=child,
        metric=wanted.metric,
        before=before,
        limit=limit,
        after=pricing.total(sizes),
        rows=rows(network, Network(child.model)),
        notes=tuple(notes),
        factor=factor,
    )


def largest_factor(pricing: Pricing, widths: Sequence[Width], limit: float, multiple: int = 1) -> float:
    """The largest omega at which ``F(omega * widths)``, widths rounded, is within a limit; 1 where none above is."""

    def affordable(factor: float) -> bool:
        return pricing.total(_sizes(widths, factor, multiple)) <= limit * (1 + 1e-9)

    low, high = 1.0, 2.0
    while high < _LARGEST and affordable(high):
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if affordable(middle):
            low = middle
        else:
            high = middle
    return low


def _sizes(widths: Sequence[Width], factor: float, multiple: int) -> dict[int, int]:
    return {width.group.atom: _rounded(width.size * factor, width.size, multiple) for width in widths}


def _rounded(wanted: float, size: int, multiple: int) -> int:
    """To the nearest multiple, but never narrower than it is."""
    return max(size, multiple * int(wanted / multiple + 0.5))


class _CannotError(Exception):
    def __init__(self, width: Width, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.width, self.refusal = width, refusal


def _widened(model: ir.Model, wanted: Sequence[tuple[Width, int]], fill: str | None, seed: int) -> Child:
    child = Child(files.clone(model), ())
    for width, size in wanted:
        if size == width.size:
            continue
        try:
            # Of a part of an axis, such as heads or a branch of a concatenation, the other parts may have changed.
            now = width if width.is_whole_axis else Network(child.model).again(width)
            plan = plan_widen(child.model, width.layer.key, to=now.of_axis(size), fill=fill, seed=seed)
            child = child.then(apply(child.model, [plan]))
        except Refusal as refusal:
            raise _CannotError(width, refusal) from refusal
    return child


def _axis_is_alone(width: Width) -> bool:
    """Whether asking for more outputs of the layer changes this group and no other one."""
    from onnxmorph.morphs.natural_units import resize_naturally

    outputs = width.of_axis(width.size + 1)
    if outputs is None:
        return False
    try:
        group, size = resize_naturally(width.group.table, width.layer, outputs)
    except Refusal:
        return False
    return group == width.group and size == width.size + 1


def _too_small(pricing: Pricing, able: Sequence[Width], before: float, limit: float, multiple: int) -> Refusal:
    least = min(
        pricing.total({width.group.atom: _rounded(width.size + multiple, width.size, multiple)}) for width in able
    )
    metric = pricing.metric
    if limit < before:
        return Refusal(
            f"the model costs {amount_text(metric, before)}, over the budget of {amount_text(metric, limit)}",
            way_out="shrink it first, or give it a larger budget",
            code="budget-too-small",
        )
    return Refusal(
        f"{amount_text(metric, limit)} leaves no room beside the {amount_text(metric, before)} that the model costs",
        way_out=f"the least with a wider layer is {metric}={least / before:.2%} of its own",
        code="budget-too-small",
    )
