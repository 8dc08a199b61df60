"""What a model costs as a function of its widths: the cost model that report, regulariser and expansion share.

The cost of each layer is that of `onnxmorph.graph.cost`, spread over the axes of its stored weight (and over the places
it is applied at, where those are channels of something else): ``C A_in A_out`` for a convolution, ``C A`` for a
depthwise one, with A the widths of coupled groups. The price of a channel of a group is the derivative of the whole,

    dF / dA_g = sum over layers that read it  C A_out  +  sum over layers that make it  C A_in,

which is what MorphNet (Gordon et al., CVPR 2018, eq. 6) multiplies sum |gamma| with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxmorph._ir import ir
from onnxmorph.errors import Refusal
from onnxmorph.graph.axes.factors import Expr
from onnxmorph.graph.constants import chain
from onnxmorph.graph.cost import cost
from onnxmorph.graph.layers import LinearLayer
from onnxmorph.grow.morphnet.widths import Network, Width, Widths

if TYPE_CHECKING:
    from onnxmorph.grow.morphnet.latency import Timing

__all__ = ["Pricing"]


@dataclass(frozen=True)
class _Term:
    """``coefficient`` times the sizes of axes."""

    coefficient: float
    axes: tuple[Expr, ...] = ()


class Pricing:
    """The cost of a network for any widths, in one metric."""

    def __init__(self, network: Network, metric: str, timings: Mapping[str, Timing] | None = None) -> None:
        self.network, self.metric = network, metric
        self.measured: float | None = None
        """Seconds of one run of the whole model, where a latency was measured for this."""
        self._factors = network.table.coupled.factors
        self._free = {width.group.atom for width in network.widths}
        self.unknown: list[LinearLayer] = []
        """Layers whose cost is not known before a run; they count as nothing."""
        if metric == "params":
            terms = list(self._parameters())
        elif metric == "latency":
            if timings is None:
                raise ValueError("latency needs timings")
            terms = list(self._latency(timings))
        else:
            terms = [
                _Term(term.coefficient * (2 if metric == "flops" else 1), term.axes) for term in self._multiplications()
            ]
        self.fixed = sum(term.coefficient for term in terms if not term.axes)
        self._terms = [term for term in terms if term.axes]
        self._of: dict[int, list[_Term]] = {}
        for term in self._terms:
            for atom in {leaf for axis in term.axes for leaf in self._factors.leaves(axis)}:
                self._of.setdefault(atom, []).append(term)
        if not self.total({}) > 0:
            raise Refusal(
                f"the {metric} of the model are not known before a run",
                way_out="fix the sizes of its inputs" if self.unknown else None,
                code="unknown-cost",
            )

    @classmethod
    def measure(cls, network: Network, metric: str, *, threads: int) -> Pricing:
        """The cost of a network, for which its operators are timed where the metric is latency.

        Raises:
            Refusal: The cost is not known (``unknown-cost``).
            RuntimeFailure: The model to be timed does not run.
        """
        if metric != "latency":
            return cls(network, metric)
        from onnxmorph.grow.morphnet.latency import timings

        found, seconds = timings(network, threads=threads)
        pricing = cls(network, metric, found)
        pricing.measured = seconds
        return pricing

    def notes(self) -> list[str]:
        """What a user should know of the cost."""
        return [f"{len(self.unknown)} layers whose cost is not known count as nothing"] if self.unknown else []

    def total(self, sizes: Widths) -> float:
        """The cost when groups have these sizes; operations, parameters or seconds."""
        return self.fixed + sum(self._value(term, sizes) for term in self._terms)

    def price(self, width: Width, sizes: Widths) -> float:
        """What one channel more of a width adds when groups have these sizes."""
        atom = width.group.atom
        now = sizes.get(atom, width.size)
        terms = self._of.get(atom, ())
        low = max(1, now - 1)
        many, few = {**sizes, atom: low + 1}, {**sizes, atom: low}
        return sum(self._value(term, many) - self._value(term, few) for term in terms)

    def least(self, widths: Iterable[Width]) -> float:
        """The cost when each of these widths is 1."""
        return self.total({width.group.atom: 1 for width in widths})

    def _value(self, term: _Term, sizes: Widths) -> float:
        value = term.coefficient
        for axis in term.axes:
            value *= self._factors.size(axis, sizes) or 0
        return value

    def _term(self, amount: float, axes: Sequence[Expr]) -> _Term:
        """An amount spread over those axes that depend on what is free."""
        free = tuple(axis for axis in axes if self._free.intersection(self._factors.leaves(axis)))
        now = math.prod(self._factors.size(axis) or 0 for axis in free)
        return _Term(amount / now, free) if now else _Term(amount)

    def _axes(self, value: ir.Value | None) -> Sequence[Expr]:
        return () if value is None else self.network.table.coupled.axes(value) or ()

    def _parameters(self) -> Iterable[_Term]:
        seen: set[ir.Value] = set()
        for layer in self.network.layers:
            own = cost(layer, self.network.sample).parameters
            bias = layer.cell.biases if layer.cell is not None else layer.out_channels if layer.bias is not None else 0
            for source, amount in ((layer.weight, own - bias), (layer.bias, bias)):
                root = None if source is None else source.root
                if root is not None and root in seen:
                    continue
                if root is not None:
                    seen.add(root)
                if source is layer.weight:
                    yield from self._spread(layer, amount)
                else:
                    yield self._term(amount, self._axes(root))

    def _multiplications(self) -> Iterable[_Term]:
        for layer in self.network.layers:
            macs = cost(layer, self.network.sample).macs
            if macs is None:
                self.unknown.append(layer)
                continue
            yield from self._spread(layer, macs, self._places(layer))

    def _spread(self, layer: LinearLayer, amount: float, places: Sequence[Expr] = ()) -> Iterable[_Term]:
        """An amount that is proportional to a layer's stored weight, or to both of a recurrent layer."""
        roots = [layer.weight.root]
        if layer.cell is not None and len(layer.node.inputs) > 2:
            roots.append(chain(layer.node.inputs[2]).root if layer.node.inputs[2] is not None else None)
        sizes = [math.prod(self._factors.size(axis) or 0 for axis in self._axes(root)) for root in roots]
        if len(roots) > 1 and all(sizes):
            for root, size in zip(roots, sizes, strict=True):
                yield self._term(amount * size / sum(sizes), [*self._axes(root), *places])
            return
        yield self._term(amount, [*self._axes(roots[0]), *places])

    def _places(self, layer: LinearLayer) -> list[Expr]:
        """The axes that a kernel is applied along."""
        if layer.op == "ConvTranspose":
            value, channel = layer.input, layer.input_axis
        else:
            value, channel = layer.node.outputs[0], layer.output_axis
        axes = list(self._axes(value))
        if layer.cell is not None or not -len(axes) <= channel < len(axes):
            return []
        del axes[channel]
        return axes

    def _latency(self, timings: Mapping[str, Timing]) -> Iterable[_Term]:
        by_output = {layer.node.outputs[0].name: layer for layer in self.network.layers}
        values = {value.name: value for value, _ in self.network.table.coupled.known_values()}
        for name, timing in timings.items():
            layer = by_output.get(name)
            yield _Term(timing.fixed)
            if layer is not None:
                yield from self._spread(layer, timing.growing, self._places(layer))
            else:
                yield self._term(timing.growing, self._axes(values.get(name)))
