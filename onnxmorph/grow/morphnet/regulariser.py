"""MorphNet's regulariser, kept on course for a budget.

    strength * sum over widths g  price_g * sum over channels i of g  gate_gi,

price_g being what one channel of g costs (`Pricing.price`), in units of the mean price, and gate_gi the largest of the
channel's gates. Its step is taken apart from the optimizer's, as AdamW does
with weight decay, and it is the proximal one: gates reach 0 and stay there instead of swinging around it, and an
optimizer that divides by the size of the gradient does not undo the prices.

Nothing is searched for by training again and again; the reach of the regulariser is annealed. The cost is to fall
geometrically from the model's own to the budget over the first four fifths of the steps, and only those channels are
turned down that are the next to go and must be gone for the cost of that moment. Turned down all at once, as with one
strength for all, they die nearly together in a short training, and more of them than the budget asks for. A channel
that the loss holds up leaves the reach again, and another one takes its place.

The next to go are those with which the loss gains least for what they cost, ``E[(slope of the loss along i)^2] /
price_g``, the slope being that of the loss when all that makes the channel is scaled (`Gates.saliency`). In the paper a
gamma stays at 0 as long as the loss pulls less than ``strength * price``: the same two quantities weighed, but it takes
an equilibrium, and so a long training, to find out.

Prices are those of the model as it came, whatever has died since; of one strength for all, as in the paper, those of
the moment. A layer that shrinks makes its neighbours cheap, so that with the prices of the moment it goes on shrinking
alone: of widths 16, 32, 48 a tenth of the flops left 13, 3, 41, which learn worse than 5, 10, 14
(benchmarks/morphnet.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from onnxmorph.grow.graph_module import GraphModule
from onnxmorph.grow.morphnet.gates import Gates
from onnxmorph.grow.morphnet.pricing import Pricing

__all__ = ["Regulariser", "living", "next_to_go"]

_ARRIVAL = 0.8
"""Share of the steps after which the budget is to be met."""
_LOOKS = 100
"""How often in a training the living channels are counted, the prices and the strength renewed."""
_LISTENING = 0.1
"""Share of the steps in which the slopes are only listened to."""
_MEMORY = 0.98
"""Of the mean of squared slopes, from step to step."""
_LARGEST = 0.5
"""Of a gate in one step."""
_STRENGTH = 20.0
_SLOWEST = 0.3
"""Share of the full pull that stays when the schedule of the rate has come to its end: late channels close as well."""

Tensor = torch.Tensor


class Regulariser:
    """The step after each step of the optimizer; an `onnxmorph.grow.loop.AfterStep`."""

    def __init__(
        self,
        gates: Sequence[Gates],
        pricing: Pricing,
        *,
        limit: float,
        steps: int,
        threshold: float,
        strength: float | None = None,
    ) -> None:
        """Made for one training.

        Args:
            gates: Of the widths that may shrink; their ordinary values are set.
            pricing: Of the same network.
            limit: What the model may cost in the end.
            steps: Of the training.
            threshold: Channels below are dead; 1 is an ordinary channel.
            strength: Ordinary channels, at the mean price, that the regulariser turns down to nothing one after the
                other in a training at full rate. ``None``: `_STRENGTH`, within the annealed reach; otherwise it reaches
                all channels, as MorphNet's does, until the budget is met.
        """
        self.gates, self.pricing, self.limit = gates, pricing, limit
        self.steps, self.threshold = steps, threshold
        self.annealed = strength is None
        self.strength = _STRENGTH if strength is None else strength
        self.start = pricing.total({})
        self.every = max(1, steps // _LOOKS)
        self._pull: list[Tensor] = []
        """Per width and channel what its gate loses in the next steps, at the full rate."""
        self._slopes: list[Tensor] = []
        """Per width and channel the running mean of squared slopes."""
        self._placed = False

    @torch.no_grad()
    def __call__(self, net: GraphModule, step: int, rate: float) -> None:
        """See `AfterStep`."""
        parameters = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        if not self._placed:
            device = next(iter(parameters.values())).device
            for gates in self.gates:
                gates.to(device)
            self._pull = [pull.to(device) for pull in self._pull]
            self._slopes = [slope.to(device) for slope in self._slopes]
            self._placed = True
        now = [gates.saliency(parameters) for gates in self.gates]
        self._slopes = (
            [_MEMORY * old + (1 - _MEMORY) * new for old, new in zip(self._slopes, now, strict=True)]
            if self._slopes
            else now
        )
        if not self._pull or step % self.every == 0:
            self._look(parameters, step)
        for gates, pull in zip(self.gates, self._pull, strict=True):
            gates.lower(parameters, (pull * max(rate, _SLOWEST)).clamp(max=_LARGEST))

    def _look(self, parameters: Mapping[str, Tensor], step: int) -> None:
        sizes = living(self.gates, parameters, self.threshold)
        prices = self._prices(sizes)
        values = [gates.values(parameters) for gates in self.gates]
        if self.annealed:
            share = (step / self.steps - _LISTENING) / (_ARRIVAL - _LISTENING)
            wanted = self.start * (self.limit / self.start) ** min(1.0, max(0.0, share))
            worth = self._worth(values)
            reached = next_to_go(self.gates, worth, prices, self.pricing, wanted)
        elif self.pricing.total(sizes) > self.limit:
            reached = [torch.ones_like(value, dtype=torch.bool) for value in values]
        else:
            reached = [value < self.threshold for value in values]
        # Whom the annealed reach has chosen by its price goes as fast as any other.
        self._pull = [
            one.to(torch.float32) * (self.strength / self.steps * (1.0 if self.annealed else price))
            for one, price in zip(reached, prices, strict=True)
        ]

    def _prices(self, sizes: Mapping[int, int]) -> list[float]:
        """Per width what a channel costs, in units of the mean over the channels that are alive."""
        at = {} if self.annealed else dict(sizes)
        raw = [self.pricing.price(gates.width, at) for gates in self.gates]
        counts = [sizes[gates.width.group.atom] for gates in self.gates]
        mean = sum(price * count for price, count in zip(raw, counts, strict=True)) / max(1, sum(counts))
        return [price / mean if mean > 0 else 1.0 for price in raw]

    def _worth(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Per channel what the loss loses with it; of the dead, less than of any other."""
        return [
            torch.where(value >= self.threshold, slope.clamp(min=0.0), -1.0 + value)
            for value, slope in zip(values, self._slopes or values, strict=True)
        ]

    @torch.no_grad()
    def going(self, parameters: Mapping[str, Tensor]) -> list[Tensor]:
        """The channels to take out in the end, a bool for each: the dead, and what the budget asks for besides.

        One always stays in each width.
        """
        for gates in self.gates:
            gates.to(torch.device("cpu"))
        self._placed = False
        self._slopes = [slope.cpu() for slope in self._slopes]
        values = [gates.values(parameters) for gates in self.gates]
        sizes = living(self.gates, parameters, self.threshold)
        worth = self._worth(values) if self.annealed else values
        prices = self._prices(sizes) if self.annealed else [1.0 for _ in self.gates]
        chosen = next_to_go(self.gates, worth, prices, self.pricing, self.limit)
        out = []
        for one, value in zip(chosen, values, strict=True):
            gone = one | (value < self.threshold)
            if bool(gone.all()):
                gone[int(value.argmax())] = False
            out.append(gone)
        return out

    def state_dict(self) -> dict[str, Any]:
        """See `AfterStep`."""
        return {
            "pull": [pull.cpu() for pull in self._pull],
            "slopes": [slope.cpu() for slope in self._slopes],
            "ordinary": [[gate.ordinary for gate in gates.gates] for gates in self.gates],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `AfterStep`."""
        self._pull, self._slopes, self._placed = list(state["pull"]), list(state["slopes"]), False
        for gates, ordinary in zip(self.gates, state["ordinary"], strict=True):
            for gate, value in zip(gates.gates, ordinary, strict=True):
                gate.ordinary = float(value)

    def settings(self) -> dict[str, Any]:
        """See `AfterStep`."""
        return {
            "regulariser": "morphnet",
            "metric": self.pricing.metric,
            # A measured latency is another one each time; what was asked for is not.
            "limit": 0.0 if self.pricing.metric == "latency" else self.limit,
            "threshold": self.threshold,
            "strength": None if self.annealed else self.strength,
            "widths": [gates.width.size for gates in self.gates],
        }


def living(gates: Sequence[Gates], parameters: Mapping[str, Tensor], threshold: float) -> dict[int, int]:
    """How many channels of each width are alive, at least 1, by the group's atom."""
    return {one.width.group.atom: max(1, int((one.values(parameters) >= threshold).sum())) for one in gates}


def next_to_go(
    gates: Sequence[Gates], values: Sequence[Tensor], prices: Sequence[float], pricing: Pricing, wanted: float
) -> list[Tensor]:
    """The channels that are worth least for their price, so many that the rest costs what is wanted.

    Args:
        gates: Of the widths.
        values: What each channel is worth.
        prices: By which the values of each width are divided.
        pricing: What the rest costs.
        wanted: At most so much; or one channel stays in each width.

    Returns:
        A bool per channel of each width; the largest of a width is never among them.
    """
    times = [
        (value / price if price > 0 else torch.full_like(value, torch.inf)).double().cpu()
        for value, price in zip(values, prices, strict=True)
    ]
    bars = np.unique(torch.cat([time[time.isfinite()] for time in times]).numpy())

    def below(bar: float) -> list[Tensor]:
        chosen = [time <= bar for time in times]
        for one, time in zip(chosen, times, strict=True):
            one[int(time.argmax())] = False
        return chosen

    def cost(chosen: Sequence[Tensor]) -> float:
        return pricing.total({own.width.group.atom: int((~one).sum()) for own, one in zip(gates, chosen, strict=True)})

    low, high = 0, len(bars)  # how many bars are passed
    while low < high:
        middle = (low + high) // 2
        if cost(below(float(bars[middle - 1]) if middle else -math.inf)) <= wanted * (1 + 1e-9):
            high = middle
        else:
            low = middle + 1
    chosen = below(float(bars[low - 1]) if low else -math.inf)
    return [one.to(value.device) for one, value in zip(chosen, values, strict=True)]
