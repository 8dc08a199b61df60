"""What a change of widths came to: against the budget, and layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnxmorph._ir import ir
from onnxmorph.graph.cost import cost
from onnxmorph.grow.morphnet.widths import Network
from onnxmorph.plan import Child

__all__ = ["AtBudget", "Row", "rows"]


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
        name: Its name.
        op: Its operator.
        channels: Output channels before and after.
        parameters: Before and after.
        macs: Multiply-accumulates for one sample before and after; ``None`` where not known.
    """

    name: str
    op: str
    channels: tuple[int, int]
    parameters: tuple[int, int]
    macs: tuple[int | None, int | None]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "name": self.name,
            "op": self.op,
            "channels": list(self.channels),
            "parameters": list(self.parameters),
            "macs": list(self.macs),
        }


@dataclass(frozen=True, kw_only=True)
class AtBudget:
    """A model that was brought to a budget.

    Attributes:
        child: The model, and the plans that changed its widths.
        metric: One of `onnxmorph.grow.morphnet.budget.METRICS`.
        before: What the model cost.
        limit: What it may cost.
        after: What it costs.
        rows: Layer by layer.
        notes: What a user should know.
    """

    child: Child
    metric: str
    before: float
    limit: float
    after: float
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def model(self) -> ir.Model:
        """The model at the budget."""
        return self.child.model

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "metric": self.metric,
            "before": self.before,
            "limit": self.limit,
            "after": self.after,
            "layers": [row.to_json() for row in self.rows],
        }


def rows(before: Network, after: Network) -> tuple[Row, ...]:
    """Every layer that both have, in the order of the first."""
    later = {layer.key: layer for layer in after.layers}
    found = []
    for layer in before.layers:
        other = later.get(layer.key)
        if other is None:
            continue
        one, two = cost(layer, before.sample), cost(other, after.sample)
        found.append(
            Row(
                layer.name,
                layer.op,
                (layer.out_channels, other.out_channels),
                (one.parameters, two.parameters),
                (one.macs, two.macs),
            )
        )
    return tuple(found)
