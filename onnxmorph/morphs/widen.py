"""Width: more channels between layers, by one index map on one coupled group of axes (NM section 3.3, N2N section 2.2).

==================  ===============================  ================================  =========================
fill                what feeds a new channel         what reads it                     exact for
==================  ===============================  ================================  =========================
``zero-out``        random, at the parent's scale    0                                 any activation, BN
``zero-in``         0                                random, at the parent's scale     chains that take 0 to 0
``replicate``       a copy of a channel's            its share of the channel's        any element-wise chain
``pair``            random, the same for two         random, opposite for the two      any element-wise chain
==================  ===============================  ================================  =========================

Reductions over the widened axis (LayerNorm, RMSNorm, Softmax, Mean ...) mix new channels with old ones. Copying *every*
channel equally often leaves means, variances, maxima as they are, so a normalised axis is widened to a multiple of its
size by copies. Any other size needs a scheme (`onnxmorph.morphs.schemes`): ``mean``, whose new channels hold the mean
of the old ones, for LayerNorm; ``zero-in`` for RMSNorm, sums and attention scores. The rest is refused with its reason.

``zero-in`` is exact behind a ReLU too, but the slope of a ReLU at 0 is 0: such channels never get a gradient. It is
done, since a child is exact all the same, and plan and notes say so; ``zero-out``, the default, has no such channels.

The hidden sizes of LSTM, GRU and RNN are such axes too; see `onnxmorph.morphs.recurrent`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.graph.axes import (
    NEW,
    AxisEdit,
    CoupledAxes,
    Fill,
    Group,
    GroupTable,
    IndexMap,
    replicate,
    zero_out,
)
from onnxmorph.graph.axes import apply as rewrite
from onnxmorph.graph.axes.fills import NORMALISING, of_one_channel
from onnxmorph.graph.layers import LinearLayer
from onnxmorph.morphs.calls import fixed_width, layers_apart, merge_copies, own_copies, with_own_copies
from onnxmorph.morphs.domains import first_undefined
from onnxmorph.morphs.index_maps import TensorMaps
from onnxmorph.morphs.natural_units import resize_naturally, unit_of
from onnxmorph.morphs.recurrent import without_own_feedback
from onnxmorph.morphs.schemes import Scheme, refuse_tied, scheme_for
from onnxmorph.morphs.target import find_layer, layer_by_key, size_on_axis
from onnxmorph.morphs.untie import shared_weights
from onnxmorph.morphs.untie import untie as untie_weights
from onnxmorph.morphs.zeros import first_not_zero, first_without_slope
from onnxmorph.plan import Change, LongerOutput, Plan

__all__ = ["FILLS", "WidenPlan", "check_widen", "coupled_groups", "plan_widen", "why_not_widen"]

FILLS = ("zero-out", "zero-in", "replicate", "pair", "mean")

_EVENLY = frozenset({"layernorm", "rmsnorm", "mean", "max", "min"})
"""Reductions that equally many copies of every channel leave as they are."""

_TO_BE_FED = {
    "replicate": "feed copies in '{name}' what their originals are fed",
    "pair": "feed both of a new pair in '{name}' the same",
}
"""What a caller has to do with an input that has grown; with other fills, new entries take anything."""

_FIRST_IR_WITH_FREE_INITIALIZERS = 4

_FARTHEST = 4096
"""How far ``by`` looks for a size that the constraints allow."""


def why_not_widen(layer: LinearLayer, table: GroupTable) -> Refusal | None:
    """Why no fill can widen the output of ``layer``, or ``None`` when one can.

    Args:
        layer: A layer of the model that ``table`` was made from.
        table: Its coupled groups; made once for all layers.
    """
    if (fixed := fixed_width(layer)) is not None:
        return fixed
    try:
        _next_size(table, layer, _axis_size(table, layer) + 1, None, interface=False)
    except Refusal as refusal:
        return refusal
    return None


def check_widen(model: ir.Model) -> Callable[[LinearLayer], Refusal | None]:
    """What says of a model's layers why they cannot be widened; see :func:`why_not_widen`."""
    apart, twins = layers_apart(model)
    table = coupled_groups(apart)
    found: dict[tuple[int, ...], Refusal | None] = {}

    def why_not(layer: LinearLayer) -> Refusal | None:
        layer = twins.get(layer.key, layer)
        axes = None if fixed_width(layer) is not None else table.coupled.axes(layer.output)
        if axes is None:
            return why_not_widen(layer, table)
        # All layers that write into one residual stream have one answer, which takes a walk over all of them.
        key = tuple(table.coupled.factors.factors(axes[layer.output_axis]))
        if key not in found:
            found[key] = why_not_widen(layer, table)
        return found[key]

    return why_not


def plan_widen(
    model: ir.Model,
    layer: str | LinearLayer,
    *,
    to: int | None = None,
    by: float | str | None = None,
    fill: str | None = None,
    interface: bool = False,
    untie: bool = False,
    seed: int = 0,
) -> WidenPlan:
    """Decide how the output of ``layer``, and all that is coupled with it, grows wider; nothing is edited.

    Args:
        model: The parent.
        layer: What a person types, or a layer of ``model``.
        to: Output channels of the child; must meet the group's constraints.
        by: Or a factor, such as 1.5 or ``"x1.5"``: the next size that the constraints allow.
        fill: One of :data:`FILLS`; default ``zero-out``, or copies where the axis is normalised and ``to``
            is a multiple.
        interface: Also widen an axis that is the model's own signature (class count); the signature then changes.
        untie: Give every user of a weight that is coupled with the layer and used in several places its own copy.
        seed: Seeds what new channels hold and where they stand.

    Raises:
        SelectionError: No such layer, fill or size.
        Refusal: It cannot be done exactly, with the reason and the nearest sizes that can.
    """
    if fill is not None and fill not in FILLS:
        raise SelectionError(f"no fill {fill!r}: choose from {', '.join(FILLS)}")
    target = find_layer(model, layer)
    if (fixed := fixed_width(target)) is not None:
        raise fixed
    model, target = with_own_copies(model, target)
    table = coupled_groups(model)
    untied = shared_weights(table, target) if untie else ()
    if untied:
        model = files.clone(model)
        untie_weights(model, untied)
        target, table = layer_by_key(model, target.key), coupled_groups(model)
    size = _axis_size(table, target)
    if (to is None) == (by is None):
        raise SelectionError("give one of --to and --by")
    if to is not None:
        to = size_on_axis(target, size, to)
    if by is not None:
        wanted = size * _factor(by)
        to = _next_size(table, target, max(size + 1, math.ceil(wanted - 1e-9)), fill, interface=interface)
    assert to is not None
    if to <= size:
        raise Refusal(
            f"{target.name} has {size} outputs already" + ("" if to == size else f", more than {to}"),
            way_out="to drop channels, shrink",
            code="not-wider",
        )
    group, new = resize_naturally(table, target, to, interface=interface)
    _refuse_beyond_memory(group, new, target)
    chosen = _fill_for(group, new, fill)
    unit = unit_of(group, new, target)
    idle = (first_without_slope(group) or "") if chosen == "zero-in" else ""
    return WidenPlan(target.key, target.name, size, to, chosen, interface, seed, unit, untied, idle)


@dataclass(frozen=True)
class WidenPlan(Plan):
    """One axis widened, decided.

    Attributes:
        layer: Key of the layer whose output grows.
        name: The layer's name, for people.
        before: Outputs of the parent.
        to: Outputs of the child.
        fill: One of :data:`FILLS`.
        interface: The model's signature may change.
        seed: Seed of what new channels hold and where they stand.
        untied: Weights of which every user gets its own copy first.
        unit: What of the axis grows, in words, where the axis is more than channels: ``"heads 4 -> 6 of 16"``.
        idle: Why no gradient reaches the new channels, in words; empty where one does.
    """

    morph: ClassVar[str] = "widen"

    layer: str
    name: str
    before: int
    to: int
    fill: str
    interface: bool
    seed: int
    unit: str = ""
    untied: tuple[str, ...] = ()
    idle: str = ""

    def options(self) -> dict[str, Any]:
        """See :meth:`Plan.options`."""
        return {**vars(self), "untied": list(self.untied)}

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> WidenPlan:
        """The plan that :meth:`options` came from."""
        optional = {
            "unit": options.get("unit", ""),
            "untied": tuple(map(str, options.get("untied", ()))),
            "idle": options.get("idle", ""),
        }
        return cls(*({**options, **optional}[name] for name in cls.__dataclass_fields__ if name != "morph"))

    def describe(self) -> str:
        """See :meth:`Plan.describe`."""
        signature = "; the model's signature changes" if self.interface else ""
        unit = f" ({self.unit})" if self.unit else ""
        untied = f"; untied first: {', '.join(self.untied)}" if self.untied else ""
        sizes = f"from {self.before} to {self.to} channels{unit}"
        idle = f"; they will not learn: {self.idle}" if self.idle else ""
        return f"{self.name}: widen the output {sizes}, {self.fill}{signature}{untied}{idle}"

    def edit(self, child: ir.Model) -> Change:
        """See :meth:`Plan.edit`."""
        copies = untie_weights(child, self.untied)
        layer = layer_by_key(child, self.layer)
        if (fixed := fixed_width(layer)) is not None:
            raise fixed
        twins = own_copies(child, layer)
        table = coupled_groups(child)
        if (now := _axis_size(table, layer)) != self.before:
            raise Refusal(f"{self.name} has {now} outputs, not {self.before}", code="layer-changed")
        group, size = resize_naturally(table, layer, self.to, interface=self.interface)
        _fill_for(group, size, self.fill)
        rng = np.random.Generator(np.random.PCG64(self.seed))
        scheme = _scheme(group, size, self.fill)
        index_map = _index_map(group, size, self.fill, rng) if scheme is None else scheme.index_map(rng)
        filling = (
            _filling(self.fill, group, index_map, self.seed) if scheme is None else scheme.filling(index_map, self.seed)
        )
        tensor_maps, frontier = TensorMaps({group: index_map}, copies), group.frontier
        resized = group.resized
        longer = tuple(
            LongerOutput(str(member.value.name), member.axis, group.size)
            for member in group.members
            if member.value in child.graph.outputs
            and member.placements == ((0, 1),)
            and table.coupled.factors.size(member.expr) == group.size
            and np.array_equal(index_map.sources[: group.size], np.arange(group.size))
        )
        fed = [member.value.name for member in group.members if member.value in child.graph.inputs]
        written = rewrite(child, {group: index_map}, filling, interface=self.interface)
        if scheme is not None:
            scheme.rescale(child)
        merge_copies(child, twins)
        notes = [f"widened with it: {', '.join(written.tensors)}"] if len(written.tensors) > 1 else []
        if self.idle:
            other = ": take --fill zero-out" if not group.conditions and first_undefined(group) is None else ""
            notes.append(f"{self.name}: no gradient reaches the new channels, which are 0 where {self.idle}{other}")
        if self.interface:
            notes.append("the model's signature has changed")
            notes += [note for name in fed if (note := _TO_BE_FED.get(self.fill, "").format(name=name))]
        return Change((), 0.0, frontier, tuple(notes), tensor_maps.to_json(), resized, longer)


def coupled_groups(model: ir.Model) -> GroupTable:
    """Coupled groups; below IR version 4 a listed initializer is a constant, as ONNX Runtime has it."""
    return GroupTable(CoupledAxes.of(model, freeze=model.ir_version < _FIRST_IR_WITH_FREE_INITIALIZERS))


def _refuse_beyond_memory(group: Group, size: int, layer: LinearLayer) -> None:
    """Before anything is allocated: what cannot fit into this machine would only make it swap."""
    needed = 0.0
    for member in group.stored:
        tensor = member.value.const_value
        if tensor is not None:
            needed += tensor.nbytes * len(member.placements) * size / tensor.shape[member.axis]  # type: ignore[operator]
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows: it finds out by itself
        return
    if needed > memory:
        raise Refusal(
            f"the weights of {layer.name} and of what is coupled with it would take {needed / 2**30:.0f} GiB, more "
            f"than the {memory / 2**30:.0f} GiB of memory of this machine",
            code="memory",
        )


def _axis_size(table: GroupTable, layer: LinearLayer) -> int:
    axes = table.coupled.axes(layer.output)
    size = None if axes is None else table.coupled.factors.size(axes[layer.output_axis])
    if size is None:
        raise Refusal(f"the width of {layer.name} is not known before a run", code="unknown-size")
    return size


def _factor(by: float | str) -> float:
    try:
        factor = float(str(by).removeprefix("x"))
    except ValueError:
        factor = math.nan
    if not 1 < factor <= 1024:
        raise SelectionError(f"no factor {by!r}: give a number above 1, such as 1.5 or x2")
    return factor


def _next_size(table: GroupTable, layer: LinearLayer, size: int, fill: str | None, *, interface: bool) -> int:
    """The next size from ``size`` on that the constraints allow and that ``fill`` reaches."""
    first: Refusal | None = None
    hopeless: set[int] = set()
    for to in range(size, size + _FARTHEST):
        try:
            group, new = resize_naturally(table, layer, to, interface=interface)
        except Refusal as refusal:
            if refusal.code != "size-step":
                raise
            first = first or refusal
            continue
        # What stands in the way of one size of a group stands in the way of the next, except of whole copies.
        if group.atom in hopeless and new % group.size:
            continue
        try:
            _fill_for(group, new, fill)
        except Refusal as refusal:
            if first is None or first.code == "size-step":
                first = refusal
            if refusal.code != "pair-odd":
                hopeless.add(group.atom)
            continue
        return to
    assert first is not None
    raise first


def _scheme(group: Group, size: int, fill: str) -> Scheme | None:
    """What writes new channels for ``fill``: a scheme where the channels are mixed, ``None`` where they are not."""
    if fill == "mean" or (fill == "zero-in" and group.conditions):
        return scheme_for(group, size)
    return None


def _evenly(group: Group, size: int) -> bool:
    """Whether copies leave means as they are: every channel equally often, and no others on the axis beside them."""
    return size % group.size == 0 and group.fills_its_axes


def _fill_for(group: Group, size: int, fill: str | None) -> str:
    """The fill that is exact for a group: the one asked for, or where nothing was asked the first that is.

    Raises:
        Refusal: None is, with the reason.
    """
    if fill is None:
        return _default_fill(group, size)
    kinds = {condition.kind for condition in group.conditions}
    if fill in ("zero-in", "mean") and (kinds or fill == "mean"):
        if not kinds:
            raise Refusal("no mean is taken over the channels", way_out="take --fill zero-out", code="no-mean")
        found = scheme_for(group, size).fill
        if found != fill:
            raise Refusal(
                f"with {fill}, new channels change what is reduced: {group.conditions[0].text}",
                way_out=f"take --fill {found}",
                code=group.conditions[0].kind,
            )
        return fill
    allowed: frozenset[str] = frozenset()
    if fill == "replicate":
        allowed = _EVENLY if _evenly(group, size) else frozenset({"max", "min"})
    bad = next((condition for condition in group.conditions if condition.kind not in allowed), None)
    if bad is not None:
        raise Refusal(
            f"with {fill}, new channels change what is reduced: {bad.text}",
            way_out=_fill_that_works(group, size),
            code=bad.kind,
        )
    if fill == "replicate":
        refuse_tied(group)
    if fill == "zero-in" and (stays := first_not_zero(group)) is not None:
        raise Refusal(f"with zero-in, {stays}", way_out="take --fill zero-out", code="not-zero")
    if fill in ("zero-out", "pair") and (undefined := first_undefined(group)) is not None:
        raise Refusal(
            f"with {fill}, new channels hold any number, but {undefined}",
            way_out="take --fill replicate",
            code="undefined",
        )
    if fill == "pair" and (size - group.size) % 2:
        raise Refusal(
            f"pairs need an even number of new indices, not {size - group.size}",
            way_out=f"{size - 1} and {size + 1} of the group's indices are",
            code="pair-odd",
        )
    return fill


def _default_fill(group: Group, size: int) -> str:
    """``zero-out`` where channels do not mix; else copies where they are exact, else the scheme there is."""
    kinds = {condition.kind for condition in group.conditions}
    if not kinds:
        return "zero-out" if first_undefined(group) is None else _fill_for(group, size, "replicate")
    if (kinds <= _EVENLY and _evenly(group, size)) or kinds <= {"max", "min"}:
        try:
            return _fill_for(group, size, "replicate")
        except Refusal:
            pass  # a tied tensor cannot be copied, but may hold a mean
    try:
        return scheme_for(group, size).fill
    except Refusal as refusal:
        raise Refusal(refusal.reason, way_out=refusal.way_out or _sizes_by_copies(group), code=refusal.code) from None


def _fill_that_works(group: Group, size: int) -> str | None:
    try:
        return f"--fill {_default_fill(group, size)} does not"
    except Refusal as refusal:
        return refusal.way_out


def _sizes_by_copies(group: Group) -> str | None:
    kinds = {condition.kind for condition in group.conditions}
    if kinds <= _EVENLY:
        return f"widen to a multiple, by copies: {2 * group.size} and {3 * group.size} of the axis's {group.size} can"
    if kinds <= {"groupnorm", "instancenorm"}:
        return "widen by whole groups of the normalisation"
    return None


def _index_map(group: Group, size: int, fill: str, rng: np.random.Generator) -> IndexMap:
    """Where the child's channels come from; permuted where the order means nothing: new ones do not cluster."""
    old = np.arange(group.size)
    if fill == "replicate":
        times, rest = divmod(size, group.size)
        sources = np.concatenate([*(old for _ in range(times)), rng.permutation(group.size)[:rest]])
    else:
        sources = np.concatenate([old, np.full(size - group.size, NEW)])
    return IndexMap(group.size, rng.permutation(sources) if group.symmetric else sources)


def _filling(fill: str, group: Group, index_map: IndexMap, seed: int) -> Fill:
    if fill == "replicate":
        return replicate({group: index_map}, seed)
    if fill == "zero-out":
        return zero_out(seed)
    if fill == "zero-in":
        return without_own_feedback(_zero_in(seed), group)
    return without_own_feedback(_paired(group, index_map, seed), group)


def _draw(edit: AxisEdit, shape: Sequence[int], random: np.random.Generator) -> np.ndarray:
    """Numbers at the scale of the parent's own entries, in the stored type."""
    if edit.parent.dtype.kind in "iub":
        kept = edit.parent.reshape(-1)
        return np.asarray(kept[random.integers(kept.size, size=tuple(shape))])
    spread = float(np.sqrt(np.mean(np.square(edit.parent.astype(np.float64))))) if edit.parent.size else 0.0
    return np.asarray(random.standard_normal(tuple(shape)) * spread).astype(edit.parent.dtype)


def _refuse_tied(edit: AxisEdit) -> None:
    """One tensor cannot both be what feeds new channels and what reads them where the two differ."""
    if any("contracted" in roles and len(roles) > 1 for roles in edit.roles_of.values()):
        raise Refusal(
            f"'{edit.member.value.name}' both feeds and reads the channels",
            way_out="take --fill zero-out, or --untie to give each user its own",
            code="tied",
        )


def _is_parameter(edit: AxisEdit) -> bool:
    """A tensor per channel (scale, shift, mean, variance ...), not a weight that channels feed through."""
    return bool(edit.roles & {"scale", "shift", "mean", "variance", "slope", "quantisation", "index"})


def _zero_in(seed: int) -> Fill:
    """New channels are 0 all the way; what reads them is random, so that gradients reach what feeds them."""
    random = np.random.default_rng(seed)

    def fill(edit: AxisEdit) -> None:
        _refuse_tied(edit)
        front = edit.front()
        fed, read = edit.fed, edit.read
        if fed.any():
            if "variance" in edit.roles or "scale" in edit.roles:
                front[fed] = 1
            elif "quantisation" in edit.roles and edit.parent.dtype.kind == "f":
                front[fed] = np.moveaxis(edit.parent, edit.axis, 0)[:1]
        if read.any() and "index" not in edit.roles and edit.parent.size:
            front[read] = _draw(edit, front[read].shape, random)

    return fill


def _paired(group: Group, index_map: IndexMap, seed: int) -> Fill:
    """Two by two, new channels compute the same and are read with opposite signs."""
    random = np.random.default_rng(seed)
    new = index_map.new
    pairs = list(zip(new[0::2].tolist(), new[1::2].tolist(), strict=True))

    def fill(edit: AxisEdit) -> None:
        if group not in edit.coordinates or edit.parent.size == 0 or "index" in edit.roles:
            return
        _refuse_tied(edit)
        places, front = edit.coordinates[group], edit.front()
        fed, read = edit.fed, edit.read
        if (fed.any() or read.any()) and edit.parent.dtype.kind in "iub":
            raise Refusal(
                f"'{edit.member.value.name}' is quantised: pairs of opposite signs cannot be stored",
                way_out="take --fill zero-out",
                code="quantised",
            )
        for one, two in pairs:
            here, there = np.flatnonzero(places == one), np.flatnonzero(places == two)
            if read[here].any():
                drawn = _draw(edit, front[here].shape, random)
                front[here], front[there] = drawn, -drawn
            elif fed[here].any():
                # Parameters per channel are a kept channel's own: drawn at random, a variance could be negative.
                if edit.roles & NORMALISING and not edit.new.all():
                    drawn = front[of_one_channel(edit, here, seed)]
                elif _is_parameter(edit):
                    drawn = _borrowed(edit, here, random)
                else:
                    drawn = _draw(edit, front[here].shape, random)
                front[here], front[there] = drawn, drawn

    return fill


def _borrowed(edit: AxisEdit, here: np.ndarray, random: np.random.Generator) -> np.ndarray:
    kept = np.moveaxis(edit.parent, edit.axis, 0)
    return np.asarray(kept[random.integers(kept.shape[0], size=here.size)])
