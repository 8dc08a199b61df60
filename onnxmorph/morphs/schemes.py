"""Schemes: exact new channels where an operator mixes the channels (LayerNorm, RMSNorm, mean, sum, attention scores).

**LayerNorm**, ``h`` channels to ``H``. Every channel is there ``t = floor(H/h)`` times, and the ``r = H - t h`` that
are left hold the mean ``m`` of the ``h``. Then the mean over the child's channels is ``(t h m + r m)/H = m``, and the
variance ``(t sum (x-m)^2 + r (m-m)^2)/H = s v`` with ``s = t h/H``. So

    (x - m)/sqrt(s v + s e) * (g sqrt(s)) + b  =  (x - m)/sqrt(v + e) * g + b:

epsilon becomes ``s e`` and gamma ``sqrt(s) g``; with a new beta of 0, a new channel is ``(m - m) ... = 0`` after the
norm, so that whoever reads it there may do so with any weight (and gradients reach it); who reads the stream before the
norm has weight 0 for it.
**RMSNorm**: new channels are 0, the mean square becomes ``h/H`` times what it was: the same with ``s = h/H``.
**Mean over channels** written out (also of the squares): new entries are 0, and the mean is multiplied by ``1/s``.
**Sums, norms, scalar products**: new entries are 0; of two activations multiplied with each other one is silenced, the
other drawn at random, so that gradients reach both.

What must hold what is worked out in `onnxmorph.morphs.demands`; here new numbers are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxmorph._ir import ir
from onnxmorph.edit import Builder, take_name
from onnxmorph.errors import Refusal
from onnxmorph.graph.axes import NEW, AxisEdit, Fill, Group, IndexMap, replicate
from onnxmorph.graph.axes.trace import reaching
from onnxmorph.graph.recurrent import is_recurrent
from onnxmorph.morphs.demands import NORMALISATIONS, Demands, Functional, Key, is_tied
from onnxmorph.morphs.recurrent import without_own_feedback

__all__ = ["Scheme", "refuse_tied", "scheme_for"]

_TILED = frozenset({"layernorm", "mean"})
"""What copies of all channels leave as it is, up to a factor."""

_BETWEEN_ACTIVATIONS = frozenset({"bilinear", "attention"})

_FAINT = 0.02
"""Scale of new biases where all of the parent's are 0."""


@dataclass(frozen=True, eq=False)
class Scheme:
    """Exact new channels for one group and size.

    Attributes:
        demands: What every stored tensor's new entries must hold.
        silent: Per stored tensor, at which of the parent's places new entries must be 0; elsewhere anything will do.
    """

    demands: Demands
    silent: Mapping[Key, NDArray[np.bool_]]

    @property
    def fill(self) -> str:
        """``"mean"`` where new channels hold a mean, else ``"zero-in"``."""
        return "mean" if self.demands.centred else "zero-in"

    def index_map(self, random: np.random.Generator) -> IndexMap:
        """Every channel as often as there are copies, the rest new; permuted where the order means nothing."""
        group = self.demands.group
        kept = np.tile(np.arange(group.size), self.demands.copies)
        sources = np.concatenate([kept, np.full(self.demands.size - kept.size, NEW)])
        return IndexMap(group.size, random.permutation(sources) if group.symmetric else sources)

    def filling(self, index_map: IndexMap, seed: int) -> Fill:
        """The fill that writes what the demands say."""
        random = np.random.default_rng(seed)
        copied = replicate({self.demands.group: index_map}, seed)
        demands = self.demands

        def fill(edit: AxisEdit) -> None:
            key = (edit.member.value, edit.member.use)
            copied(edit)
            tied = is_tied(edit.member)
            fed, read, front = (edit.new if tied else edit.fed), edit.read, edit.front()
            if read.any() and not tied and "index" not in edit.roles and demands.reads_zeros(key):
                front[read] = _drawn(edit, front[read].shape, random)
            # A constant that is only carried (concatenated, added to) has no role, and its demand all the same.
            carried = not edit.roles and key in demands.fed
            if fed.any() and "index" not in edit.roles and (carried or not edit.roles <= {"quantisation"}):
                self._write(edit, fed, key, random)
            if key in demands.scaled and "scale" in edit.roles:
                front[...] = (front.astype(np.float64) * demands.scaled[key]).astype(front.dtype)

        return without_own_feedback(fill, demands.group)

    def _write(self, edit: AxisEdit, fed: NDArray[np.bool_], key: Key, random: np.random.Generator) -> None:
        front, entry = edit.front(), self.demands.fed.get(key)
        silent = self.silent.get(key)
        if entry is None or silent is not None:
            drawn = _borrowed(edit, front[fed].shape, random)
            front[fed] = drawn
            if silent is not None:
                front[np.flatnonzero(fed)[silent[edit.anchor[fed]]]] = edit.zero
        elif isinstance(entry, float):
            front[fed] = entry
        elif entry.any():
            front[fed] = _combined(edit, fed, self.demands.group, entry)

    def rescale(self, model: ir.Model) -> list[str]:
        """Adjust the operators that count channels, in the child and after its tensors were written.

        Returns:
            Names of the nodes that were changed.
        """
        changed = []
        for one in self.demands.rescales:
            node = one.node
            if one.kind == "normalisation":
                norm = NORMALISATIONS["" if node.domain == "ai.onnx" else node.domain, node.op_type]
                given = node.attributes.get("epsilon")
                epsilon = norm.epsilon if given is None else given.as_float()
                node.attributes["epsilon"] = ir.AttrFloat32("epsilon", epsilon * one.ratio)
            elif one.kind == "attention":
                node.attributes["scale"] = ir.AttrFloat32("scale", one.ratio)
            else:
                _divide(model, node, one.ratio)
            changed.append(node.name or "")
        return changed


def scheme_for(group: Group, size: int, *, copies: int | None = None) -> Scheme:
    """Exact new channels for a group with conditions.

    Args:
        group: The group that grows.
        size: Its indices in the child.
        copies: Copies of every channel; default: as many as fit where a norm subtracts the mean, else 1.

    Raises:
        Refusal: There are none, with the operator that stands in the way.
    """
    kinds = {condition.kind for condition in group.conditions}
    fit = size // group.size
    tried = [copies] if copies is not None else [1]
    if copies is None and fit > 1 and kinds <= _TILED and "layernorm" in kinds:
        tried = [fit, 1]
    first: Refusal | None = None
    for count in tried:
        for side in (1, 0) if kinds & _BETWEEN_ACTIVATIONS else (1,):
            try:
                demands = Demands(group, size, count, side)
                if count > 1:
                    refuse_tied(group)
                return Scheme(demands, _silent_parts(demands, kinds))
            except Refusal as refusal:
                first = first or refusal
    assert first is not None
    raise first


def refuse_tied(group: Group) -> None:
    """Raises a `Refusal` where one tensor both feeds and reads the channels: copies of it could not be both."""
    for member in group.stored:
        if is_tied(member):
            raise Refusal(
                f"'{member.value.name}' both feeds and reads the channels, so copies cannot share it",
                way_out="--untie gives each user its own",
                code="tied",
            )


def _silent_parts(demands: Demands, kinds: set[str]) -> dict[Key, NDArray[np.bool_]]:
    """Of fused projections, only the part that becomes the silenced operand must be 0: the other is drawn."""
    if not demands.silenced or not kinds <= _BETWEEN_ACTIVATIONS:
        return {}
    out: dict[Key, NDArray[np.bool_]] = {}
    coupled = demands.group.coupled
    for key, entry in demands.fed.items():
        giver = demands.givers.get(key)
        # The units of a recurrent layer are 0 as a whole: what they read of themselves is.
        if not isinstance(entry, np.ndarray) or giver is None or is_recurrent(giver.producer()):
            continue
        axes = coupled.axes(giver)
        member = next((one for one in demands.group.stored if (one.value, one.use) == key), None)
        expr = None if axes is None else axes[demands.held[giver]]
        if member is None or expr is None or coupled.factors.factors(expr) != coupled.factors.factors(member.expr):
            continue
        places = [reaching(coupled, giver, demands.held[giver], target) for target in dict.fromkeys(demands.silenced)]
        mask = np.logical_or.reduce(places)
        if not mask.all():
            out[key] = mask
    return out


def _borrowed(edit: AxisEdit, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.generic]:
    """Numbers of the parent's own tensor; where those are all 0, faint ones: 0 and an unread channel never learn."""
    kept = edit.parent.reshape(-1)
    if kept.size == 0:
        return np.zeros(shape, dtype=edit.array.dtype)
    if edit.array.dtype.kind not in "iub" and not np.any(kept):
        return np.asarray((random.standard_normal(shape) * _FAINT).astype(edit.array.dtype))
    return np.asarray(kept[random.integers(kept.size, size=shape)])


def _drawn(edit: AxisEdit, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.generic]:
    """Numbers at the scale of the parent's tensor."""
    if edit.parent.dtype.kind in "iub":
        return _borrowed(edit, shape, random)
    spread = float(np.sqrt(np.mean(np.square(edit.parent.astype(np.float64))))) if edit.parent.size else 0.0
    return np.asarray((random.standard_normal(shape) * spread).astype(edit.parent.dtype))


def _combined(edit: AxisEdit, fed: NDArray[np.bool_], group: Group, functional: Functional) -> NDArray[np.generic]:
    """``sum_j a_j T_j`` for every new place, ``T_j`` being the parent's entry with index ``j`` of the group there."""
    if edit.array.dtype.kind in "iub":
        raise Refusal(f"'{edit.member.value.name}' is quantised and cannot hold a mean", code="quantised")
    factors = group.coupled.factors
    parent = np.moveaxis(edit.parent, edit.axis, 0)
    if factors.factors(edit.member.expr) == [group.atom]:
        one = np.tensordot(functional, parent.astype(np.float64), axes=(0, 0))
        return np.broadcast_to(one.astype(edit.array.dtype), edit.front()[fed].shape)
    stride = next(iter(step for _, step in edit.member.placements))
    rows = edit.anchor[fed][:, None] + stride * np.arange(group.size)[None, :]
    if len({step for _, step in edit.member.placements}) > 1:
        raise Refusal(f"'{edit.member.value.name}' holds the channels in several ways", code="no-scheme")
    out = np.empty(edit.front()[fed].shape, dtype=edit.array.dtype)
    for place, row in enumerate(rows):
        out[place] = np.tensordot(functional, parent[row].astype(np.float64), axes=(0, 0)).astype(edit.array.dtype)
    return out


def _divide(model: ir.Model, node: ir.Node, ratio: float) -> None:
    """``mean -> mean / ratio``; the name of the mean goes to the quotient, which is what the parent's mean was."""
    graph = node.graph
    if graph is None:
        raise ValueError(f"node '{node.name}' is in no graph")
    output = node.outputs[0]
    build = Builder(model, graph, after=node)
    dtype = output.dtype if output.dtype is not None else _type_of(model, node)
    factor = build.initializer(f"{output.name}_share", np.array(1 / ratio, dtype=dtype.numpy()), dtype)
    users = list(output.uses())
    graph_output = output.is_graph_output()
    if graph_output:
        raise Refusal(f"the mean '{output.name}' is a graph output", code="graph-output")
    new = build.node("Mul", [output, factor], like=output)
    for user, position in users:
        user.replace_input_with(position, new)
    take_name(model, new, output)


def _given(model: ir.Model, formal: ir.Value) -> ir.Value | None:
    """What a function is called with for one of its inputs."""
    for identifier, function in model.functions.items():
        if formal in function.inputs:
            place = list(function.inputs).index(formal)
            graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
            for graph in graphs:
                for node in graph.all_nodes():
                    if node.op_identifier() == identifier and place < len(node.inputs):
                        return node.inputs[place]
    return None


def _type_of(model: ir.Model, node: ir.Node) -> ir.DataType:
    read = node.inputs[0]
    while read is not None and read.dtype is None:
        producer = read.producer()
        read = _given(model, read) if producer is None else next(iter(producer.inputs), None)
    if read is None or read.dtype is None:
        raise Refusal(f"the type of '{node.outputs[0].name}' is not known", code="unknown-type")
    return read.dtype
