"""Layer by layer, before and after a change of widths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnxmorph.graph.cost import cost
from onnxmorph.grow.morphnet.widths import Network

__all__ = ["Row", "rows"]


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
