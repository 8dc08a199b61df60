"""What a model may cost: ``flops=50%``, ``params=300k``, ``latency=5ms``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from onnxmorph.errors import SelectionError

__all__ = ["METRICS", "Budget", "amount_text"]

METRICS = ("flops", "macs", "params", "latency")
"""``flops`` counts a multiply-accumulate as two, ``macs`` as one, both for one sample; ``params`` are those of layers,
kernels and biases; ``latency`` is measured in seconds for one sample."""

_PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


@dataclass(frozen=True)
class Budget:
    """An upper limit of one cost.

    Attributes:
        metric: One of `METRICS`.
        share: Of the model's own cost; ``None`` where the amount is given.
        amount: Operations, parameters or seconds; ``None`` where the share is given.
    """

    metric: str
    share: float | None = None
    amount: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """From what a person types: ``flops=50%``, ``flops=1.5x``, ``macs=12M``, ``params=300k``, ``latency=5ms``.

        Raises:
            SelectionError: It is none of these, or not positive.
        """
        metric, equals, wanted = text.strip().lower().partition("=")
        if not equals or metric not in METRICS:
            raise SelectionError(
                f"no budget {text!r}: write {', '.join(METRICS[:-1])} or {METRICS[-1]}, '=' and how much:"
                " flops=50%, params=300k, latency=5ms"
            )
        found = re.fullmatch(r"(\d+\.?\d*(?:e[+-]?\d+)?|\.\d+)\s*(%|x|[a-zµ]*)", wanted.strip())
        number = float(found[1]) if found else math.nan
        if found is None or not (math.isfinite(number) and number > 0):
            raise SelectionError(f"no budget {text!r}: {wanted!r} is not a positive amount")
        unit = found[2]
        if unit in ("%", "x"):
            return cls(metric, share=number / 100 if unit == "%" else number)
        units = _SECONDS if metric == "latency" else _PREFIXES
        if unit not in units:
            known = "ms, us, s" if metric == "latency" else "k, M, G"
            raise SelectionError(f"no budget {text!r}: no unit {unit or 'at all'!r}; there are {known} and %")
        return cls(metric, amount=number * units[unit])

    def of(self, cost: float) -> float:
        """The limit, for a model of this cost."""
        if self.amount is not None:
            return self.amount
        assert self.share is not None
        return self.share * cost

    def __str__(self) -> str:
        limit = f"{self.share:.4g} of its own" if self.share is not None else amount_text(self.metric, self.amount or 0)
        return f"{self.metric} {limit}"


def amount_text(metric: str, amount: float) -> str:
    """A cost for a person: ``1.24 M flops``, ``3.1 ms``."""
    if metric == "latency":
        unit, factor = next(((u, f) for u, f in (("s", 1.0), ("ms", 1e-3)) if amount >= f), ("us", 1e-6))
        return f"{amount / factor:.3g} {unit}"
    for letter, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if amount >= factor:
            return f"{amount / factor:.4g} {letter} {metric}"
    return f"{amount:.0f} {metric}"
