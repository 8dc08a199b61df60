"""What tells whether a channel is alive, and what turns it down: batch norm's gamma, or the norm of what feeds it.

The gate of channel i at one place where it is made is ``|gamma_i|`` where a batch norm follows the layer directly, and

    (1 - f) RMS(w_i) + f mean |w_i|

over the row w_i of the layer's kernel otherwise (MorphNet's group lasso for networks without batch norms). Both are
divided by their mean over the channels before the training, so that 1 is an ordinary channel, whatever the fan-in is or
the scale of the exporter. Channels that are tied, by a residual sum or a depthwise convolution, have several gates, and
the largest of them counts.

Turning a gate down scales gamma and beta, or the row and its bias, together: both gates are proportional to what is
scaled, and a channel whose gate is 0 is exactly 0 before its activation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from onnxmorph._ir import ir
from onnxmorph.graph.axes import Member
from onnxmorph.graph.constants import chain
from onnxmorph.grow.morphnet.widths import Network, Width
from onnxmorph.grow.sites import Site, sites

__all__ = ["Gates", "gates_of", "largest_lowered"]

Tensor = torch.Tensor


@dataclass
class _Part:
    """One axis of one parameter: for each position of the axis the channel it belongs to, -1 for none."""

    key: str
    axis: int
    places: Tensor

    def scale(self, parameters: Mapping[str, Tensor], factors: Tensor) -> None:
        """Multiply what belongs to each channel, in place."""
        tensor = parameters[self.key]
        padded = torch.cat([factors, factors.new_ones(1)])[self.places]  # -1: the 1 at the end
        shape = [1] * tensor.dim()
        shape[self.axis] = -1
        tensor.mul_(padded.reshape(shape).to(tensor.dtype))

    def pull(self, parameters: Mapping[str, Tensor], channels: int) -> Tensor:
        """Per channel the sum of each number times its gradient; 0 where there is no gradient."""
        tensor = parameters[self.key]
        total = torch.zeros(channels, device=tensor.device)
        if tensor.grad is None:
            return total
        product = (tensor.detach() * tensor.grad).float().movedim(self.axis, 0).reshape(tensor.shape[self.axis], -1)
        held = self.places >= 0
        return total.index_add_(0, self.places[held], product[held].sum(1))


@dataclass
class _Gate:
    """One place where the channels of a width are made."""

    part: _Part
    along: tuple[_Part, ...]
    is_scale: bool
    l1: float
    closed: tuple[_Part, ...] = ()
    """What has no effect once a gamma is 0, and is set to 0 with it, so that anyone can see that the channel is 0."""
    ordinary: float = 1.0

    def values(self, parameters: Mapping[str, Tensor], channels: int) -> Tensor:
        """Per channel; 1 is ordinary."""
        tensor = parameters[self.part.key].detach().float()
        rows = tensor.movedim(self.part.axis, 0).reshape(tensor.shape[self.part.axis], -1)
        held = self.part.places >= 0
        where = self.part.places[held]
        rows = rows[held]
        counts = torch.zeros(channels, device=rows.device).index_add_(
            0, where, torch.full((len(where),), float(rows.shape[1]), device=rows.device)
        )
        counts = counts.clamp(min=1.0)
        total = torch.zeros(channels, device=rows.device)
        mean = total.index_add(0, where, rows.abs().sum(1)) / counts
        if self.is_scale:
            return mean / self.ordinary
        root = (total.index_add(0, where, rows.square().sum(1)) / counts).sqrt()
        return ((1.0 - self.l1) * root + self.l1 * mean) / self.ordinary


@dataclass
class Gates:
    """All gates of one width.

    Attributes:
        width: Of which.
        gates: One for each place where its channels are made.
    """

    width: Width
    gates: list[_Gate] = field(repr=False)

    @property
    def keys(self) -> list[str]:
        """The parameters that decide."""
        return [gate.part.key for gate in self.gates]

    @property
    def by_scale(self) -> bool:
        """Whether all of them are gammas of batch norms."""
        return all(gate.is_scale for gate in self.gates)

    def to(self, device: torch.device) -> None:
        """Index tensors to a device."""
        for gate in self.gates:
            for part in (gate.part, *gate.along, *gate.closed):
                part.places = part.places.to(device)

    def measure_ordinary(self, parameters: Mapping[str, Tensor]) -> None:
        """Take the present mean of each gate as 1."""
        for gate in self.gates:
            gate.ordinary = 1.0
            found = float(gate.values(parameters, self.width.size).mean())
            gate.ordinary = found if found > 0 else 1.0

    def each(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """``(gates, channels)``."""
        return torch.stack([gate.values(parameters, self.width.size) for gate in self.gates])

    def values(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Per channel the largest of its gates."""
        return self.each(parameters).amax(0)

    def saliency(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Per channel the square of the slope of the loss along the channel, on the batch of the last step.

        Half of its mean over batches is about what the loss gains when the channel goes: the second-order term with the
        empirical Fisher matrix in place of the Hessian (Molchanov et al., CVPR 2019, eq. 8).
        """
        total = torch.zeros(self.width.size, device=parameters[self.gates[0].part.key].device)
        for gate in self.gates:
            for part in (gate.part, *gate.along):
                total = total + part.pull(parameters, self.width.size)
        return total.square()

    def lower(self, parameters: Mapping[str, Tensor], by: Tensor) -> None:
        """The proximal step of ``sum over channels of by * (the largest gate)``, in place; ``by`` is per channel."""
        now = self.each(parameters)
        then = largest_lowered(now, by)
        self._scale(parameters, torch.where(now > 0, then / now.clamp(min=1e-30), torch.zeros_like(now)))

    def close(self, parameters: Mapping[str, Tensor], channels: Tensor) -> None:
        """Set channels (a bool for each) to zero wherever they are made, in place."""
        factors = torch.where(channels, 0.0, 1.0)
        self._scale(parameters, factors.expand(len(self.gates), -1))
        for gate in self.gates:
            for part in gate.closed:
                part.scale(parameters, factors)

    def _scale(self, parameters: Mapping[str, Tensor], factors: Tensor) -> None:
        for gate, own in zip(self.gates, factors, strict=True):
            for part in (gate.part, *gate.along):
                part.scale(parameters, own)


def largest_lowered(values: Tensor, by: Tensor | float) -> Tensor:
    """The proximal operator of ``by * max`` on each column of non-negative numbers.

    The minimiser over v of ``by * max(v) + |v - values|^2 / 2``: the largest entries come down to one level, by ``by``
    in all, the others stay (Moreau's decomposition with the projection on the l1 ball).

    Args:
        values: ``(gates, channels)``, none negative.
        by: Not negative; one number, or one per channel.
    """
    if values.shape[0] == 1:
        return (values - by).clamp(min=0.0)
    falling = values.sort(0, descending=True).values
    many = torch.arange(1, len(values) + 1, device=values.device, dtype=values.dtype).unsqueeze(1)
    level = ((falling.cumsum(0) - by) / many).amax(0).clamp(min=0.0)
    return torch.minimum(values, level)


def gates_of(network: Network, widths: Sequence[Width], trained: Iterable[str], *, l1: float = 0.0) -> list[Gates]:
    """The gates of those widths that a training can turn down.

    Args:
        network: The analysed model.
        widths: Of the network.
        trained: Keys of the tensors that are trained; a channel made by one that is not cannot be turned down.
        l1: The share f of the mean in the group lasso, 0 to 1.
    """
    stored_at = sites(network.model)
    able = set(trained)
    shared = {read for node, position in network.table.coupled.own_copy if (read := node.inputs[position]) is not None}
    norms: dict[ir.Value, tuple[ir.Value | None, ...]] = {}
    biases: dict[ir.Value, ir.Value | None] = {}
    for layer in network.layers:
        if layer.weight.root is None:
            continue
        norm = layer.batch_norm
        if norm is not None and not layer.shared_with:
            norms[layer.weight.root] = tuple(_root(value) for value in norm.inputs[1:4])
        biases[layer.weight.root] = None if layer.bias is None else layer.bias.root
    found = []
    for width in widths:
        own = {one.value: one for one in width.group.stored if one.value not in shared}
        made: list[_Gate] = []
        complete = True
        for member in width.group.stored:
            if not member.roles & {"produced", "embedding"}:
                continue
            bias = own.get(biases[member.value]) if biases.get(member.value) is not None else None  # type: ignore[arg-type]
            gamma, beta, mean = (
                own.get(value) if value is not None else None for value in norms.get(member.value, (None,) * 3)
            )
            if gamma is not None:
                turned, closed = [gamma, beta], [member, bias, mean]
            else:
                turned, closed = [member, bias], []
            parts = [_part(width, one, stored_at) for one in turned if one is not None]
            if parts[0] is None or parts[0].key not in able:
                complete = False
                break
            along = tuple(part for part in parts[1:] if part is not None and part.key in able)
            ended = [_part(width, one, stored_at) for one in closed if one is not None]
            gate = _Gate(parts[0], along, gamma is not None, l1, tuple(part for part in ended if part is not None))
            made.append(gate)
        if made and complete:
            found.append(Gates(width, made))
    return found


def _part(width: Width, member: Member, stored_at: Mapping[ir.Value, Site]) -> _Part | None:
    site = stored_at.get(member.value)
    if site is None:
        return None
    places = width.group.coupled.factors.coordinate(member.expr, width.group.atom)
    return _Part(site.key, member.axis, torch.from_numpy(np.array(places, dtype=np.int64)))


def _root(value: ir.Value | None) -> ir.Value | None:
    return None if value is None else chain(value).root
