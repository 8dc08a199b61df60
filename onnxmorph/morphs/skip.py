"""Skips: what an earlier layer computes reaches a later one by a short way, at first without effect.

* ``add``: the later layer's output (after its batch norm, before its activation) gets ``y + g * x`` with a gate
  ``g = 0`` per channel where the channels agree, else ``y + W x`` with ``W = 0``. One of the two halves of a product is
  never zero, so the skip learns from the first step.
* ``concat``: the later layer also reads the earlier one's channels, by new columns of its kernel that are zero.

Where the earlier map is larger by a whole factor, average pooling brings it to size; a map that meets a matrix is
averaged over all positions first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.edit import Builder, drop_unused, opset_of, rename_value, replace_uses, take_name
from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.graph.kernels import WeightForm
from onnxmorph.graph.layers import LinearLayer
from onnxmorph.graph.shapes import Shapes
from onnxmorph.morphs.sequence import channel_rank
from onnxmorph.morphs.target import find_layer, layer_by_key
from onnxmorph.plan import Change, NewFactor, Plan

__all__ = ["SkipPlan", "plan_skip"]

_FIRST_OPSET_WITH_CEIL = 10
"""Before, average pooling always rounds its output down."""

_TRIAL_SIZES = ((2, 64), (3, 96), (2, 67), (3, 101), (2, 224))
"""Batch and other sizes given to symbolic dims to see how two maps relate: multiples of 32, then odd ones."""


def plan_skip(model: ir.Model, *, source: str | LinearLayer, target: str | LinearLayer, mode: str = "add") -> SkipPlan:
    """Decide how the output of ``source`` reaches ``target``; nothing is edited.

    Args:
        model: The parent.
        source: The earlier layer, as a person types it: what its activation gives is what is passed on.
        target: The later layer.
        mode: ``"add"`` or ``"concat"``.

    Raises:
        SelectionError: No such layer or mode.
        Refusal: It cannot be done exactly, with the reason.
    """
    if mode not in ("add", "concat"):
        raise SelectionError(f"no mode {mode!r}: choose add or concat")
    first, last = find_layer(model, source), find_layer(model, target)
    for layer in (first, last):
        if layer.blocked is not None:
            raise layer.blocked
        if layer.several_axes:
            raise Refusal(
                f"the channels of {layer.name} lie on several axes", way_out="name another layer", code="several-axes"
            )
    if first.key == last.key:
        raise SelectionError(f"{first.name} cannot skip to itself")
    if first.graph is not last.graph:
        raise Refusal(f"{first.name} and {last.name} are in different graphs", code="skip-scope")
    x, y = _given(first), _receives(last, mode)
    _check_order(first, last, x, y)
    if mode == "concat" and last.groups > 1:
        raise Refusal(
            f"{last.name} has {last.groups} groups: more input channels would reach only some",
            way_out="take --mode add",
            code="skip-groups",
        )
    return SkipPlan(first.key, last.key, first.name, last.name, mode, _bridge(model, first, last, x, y))


@dataclass(frozen=True)
class SkipPlan(Plan):
    """One skip, decided.

    Attributes:
        source: Key of the earlier layer.
        target: Key of the later layer.
        source_name: Name of the earlier layer, for people.
        target_name: Name of the later layer, for people.
        mode: ``add`` or ``concat``.
        bridge: How the maps are made to agree: ``same``, ``global`` and ``global-map`` (average over all positions, to
            a matrix or a map of one position), or per axis ``pool:2x2`` and ``pool-ceil:2x2``.
    """

    morph: ClassVar[str] = "skip"

    source: str
    target: str
    source_name: str
    target_name: str
    mode: str
    bridge: str

    def options(self) -> dict[str, Any]:
        """See :meth:`Plan.options`."""
        return dict(vars(self))

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> SkipPlan:
        """The plan that :meth:`options` came from."""
        return cls(*(options[name] for name in cls.__dataclass_fields__ if name != "morph"))

    def describe(self) -> str:
        """See :meth:`Plan.describe`."""
        averaged = ", averaged over all positions"
        how = {"same": "", "global": averaged, "global-map": averaged}.get(self.bridge, f", {self.bridge}")
        effect = "added to its output, gate or projection 0" if self.mode == "add" else "as further inputs, columns 0"
        return f"{self.target_name}: the output of {self.source_name}{how} is {effect}"

    def edit(self, child: ir.Model) -> Change:
        """See :meth:`Plan.edit`."""
        first, last = layer_by_key(child, self.source), layer_by_key(child, self.target)
        x, y = _given(first), _receives(last, self.mode)
        _check_order(first, last, x, y)
        label = f"{last.label}.skip"
        if self.mode == "add":
            producer = y.producer()
            build = Builder(child, last.graph, after=producer)
            branch, factors = self._branch(build, first, last, self._bridged(build, x, label), label)
            total = build.node("Add", [y, branch], name=f"{label}.sum", output=f"{label}.sum")
            replace_uses(y, total, except_nodes=build.nodes)
            take_name(child, total, y)
            return Change(factors, 0.0, (total.name or "",))
        build = Builder(child, last.graph, before=last.node)
        more = self._bridged(build, x, label)
        # Gemm with transA has its channels first.
        joined = build.node(
            "Concat", [last.input, more], name=f"{label}.concat", output=f"{label}.concat", axis=last.input_axis
        )
        kernel = last.kernel_array()
        zeros = np.zeros((kernel.shape[0], first.out_channels, *kernel.shape[2:]), dtype=kernel.dtype)
        wide = np.concatenate([kernel, zeros], axis=1)
        old = last.weight.value
        weight = build.initializer(f"{last.label}.weight", last.weight_from_kernel(wide))
        for index, given in enumerate(last.node.inputs):
            if given is old:
                last.node.replace_input_with(index, weight)
            elif given is last.input:
                last.node.replace_input_with(index, joined)
        if old.name and old.name in drop_unused(child, [old]):
            rename_value(child, weight, old.name)
        factor = NewFactor.of(weight.name or "", wide)
        return Change((factor,), 0.0, (last.output.name or "",))

    def _bridged(self, build: Builder, x: ir.Value, label: str) -> ir.Value:
        if self.bridge == "same":
            return x
        if self.bridge in ("global", "global-map"):
            pooled = build.node("GlobalAveragePool", [x], name=f"{label}.pool", output=f"{label}.pool")
            if self.bridge == "global-map":
                return pooled
            return build.node("Flatten", [pooled], name=f"{label}.flatten", output=f"{label}.flatten", axis=1)
        kind, _, sizes = self.bridge.partition(":")
        window = [int(size) for size in sizes.split("x")]
        settings: dict[str, Any] = {"kernel_shape": window, "strides": window}
        if kind == "pool-ceil":
            settings["ceil_mode"] = 1
        return build.node("AveragePool", [x], name=f"{label}.pool", output=f"{label}.pool", **settings)

    def _branch(
        self, build: Builder, first: LinearLayer, last: LinearLayer, x: ir.Value, label: str
    ) -> tuple[ir.Value, tuple[NewFactor, ...]]:
        dtype = last.dtype.numpy()
        if first.out_channels == last.out_channels:
            rank = channel_rank(last)
            trailing = rank - 1 - last.output_axis % rank
            gate = build.initializer(f"{label}.gate", np.zeros((last.out_channels, *(1,) * trailing), dtype=dtype))
            return build.node("Mul", [x, gate], name=f"{label}.scale", output=f"{label}.scale"), ()
        axes = len(last.kernel)
        kernel = np.zeros((last.out_channels, first.out_channels, *(1,) * axes), dtype=dtype)
        op = "Conv" if last.kernel else "MatMul"
        weight = build.initializer(f"{label}.weight", WeightForm(op).weight(kernel))
        settings: dict[str, Any] = {"kernel_shape": [1] * axes} if axes else {}
        out = build.node(op, [x, weight], name=f"{label}.projection", output=f"{label}.projection", **settings)
        return out, (NewFactor.of(weight.name or "", kernel),)


def _given(layer: LinearLayer) -> ir.Value:
    """What a layer passes on: its activation's output where that has the layer's own layout."""
    phi = layer.activation
    if phi is not None and phi.output is not None and not layer.layout_before_activation:
        return phi.output
    return _normalised(layer)


def _normalised(layer: LinearLayer) -> ir.Value:
    """The output after the batch norm, where that follows directly."""
    affine = layer.affine
    return layer.output if affine is None or affine.layout else affine.output


def _receives(layer: LinearLayer, mode: str) -> ir.Value:
    return _normalised(layer) if mode == "add" else layer.input


def _check_order(first: LinearLayer, last: LinearLayer, x: ir.Value, y: ir.Value) -> None:
    """``x`` must be there before ``y`` is needed, and must not depend on it."""
    graph = first.graph.graph if isinstance(first.graph, ir.Function) else first.graph
    places = {node: place for place, node in enumerate(graph)}
    producer, consumer = x.producer(), last.node
    before = producer is not None and producer in places and places[producer] < places[consumer]
    if not before:
        raise Refusal(
            f"{first.name} does not come before {last.name}", way_out="name the earlier layer first", code="skip-order"
        )
    if y.producer() is None and y is not last.input:
        raise Refusal(f"nothing produces the output of {last.name}", code="skip-order")


# -- how two maps relate ----------------------------------------------------------------------------------------------


def _bridge(model: ir.Model, first: LinearLayer, last: LinearLayer, x: ir.Value, y: ir.Value) -> str:
    """What brings ``x`` to the positions of ``y``; tried on sizes, since shape inference does not divide symbols.

    Raises:
        Refusal: Nothing does for every size.
    """
    if last.op == "Gemm" and last.input_axis == 0:
        raise Refusal(f"{last.name} reads its input transposed", way_out="name another layer", code="skip-layout")
    axis: int = last.output_axis if y is not last.input else last.input_axis
    shown: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    options: list[str] = []
    for one, two in _sizes(model, x, y):
        if shown is None:
            shown = one, two
            options = ["same", "global", "global-map", *(_pools(shown) if first.kernel and last.kernel else ())]
            if opset_of(model, last.graph if isinstance(last.graph, ir.Function) else None) < _FIRST_OPSET_WITH_CEIL:
                options = [option for option in options if not option.startswith("pool-ceil")]
        options = [option for option in options if _agree(option, one, two, first, axis)]
        if not options:
            break
    if options:
        return options[0]
    if shown is None:
        raise Refusal(
            f"the shapes of {first.name} and {last.name} cannot be told before a run",
            way_out="fix the model's input sizes",
            code="skip-shape-unknown",
        )
    one, two = shown
    raise Refusal(
        f"{first.name} gives {list(one)} where {last.name} has {list(two)}: no whole factor on every axis relates them",
        way_out="choose layers whose maps differ by a whole factor",
        code="skip-shape",
    )


def _sizes(model: ir.Model, x: ir.Value, y: ir.Value) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    tried: list[dict[str, list[int]]] = []
    for batch, size in _TRIAL_SIZES:
        fixed: dict[str, list[int]] = {}
        for value in model.graph.inputs:
            if value.name and value.shape is not None and not value.is_initializer():
                fixed[value.name] = [
                    dim if isinstance(dim, int) else batch if place == 0 else size
                    for place, dim in enumerate(value.shape)
                ]
        if fixed in tried:
            continue  # nothing is symbolic
        tried.append(fixed)
        shapes = Shapes.of(model, fixed)
        one, two = shapes.shape(x), shapes.shape(y)
        if one is None or two is None:
            continue
        known = tuple(dim for dim in one if isinstance(dim, int)), tuple(dim for dim in two if isinstance(dim, int))
        if (len(known[0]), len(known[1])) == (len(one), len(two)):
            yield known


def _pools(pair: tuple[tuple[int, ...], tuple[int, ...]]) -> list[str]:
    """Pooling windows that could relate two maps, by rounding either way."""
    one, two = pair[0][2:], pair[1][2:]
    if len(one) != len(two) or not one or min(*one, *two) < 1:
        return []
    window = "x".join(str(max(1, round(large / small))) for large, small in zip(one, two, strict=True))
    return [f"pool:{window}", f"pool-ceil:{window}"]


def _agree(option: str, one: Sequence[int], two: Sequence[int], first: LinearLayer, axis: int) -> bool:
    """Whether ``option`` brings positions ``one`` to ``two``; the channel axis ``axis`` aside."""
    if option == "global":
        return len(one) == len(first.kernel) + 2 > 2 and len(two) == 2 and one[0] == two[0]
    if len(one) != len(two):
        return False
    place, own = axis % len(two), first.output_axis % len(one)
    if option == "same":
        return place == own and all(one[index] == two[index] for index in range(len(two)) if index != place)
    if option == "global-map":
        pooled = len(one) == len(first.kernel) + 2 > 2 and one[0] == two[0]
        return place == 1 and pooled and all(size == 1 for size in two[2:])
    kind, _, sizes = option.partition(":")
    window = [int(size) for size in sizes.split("x")]
    rounded = [
        -(-large // size) if kind == "pool-ceil" else large // size for large, size in zip(one[2:], window, strict=True)
    ]
    return place == 1 and one[0] == two[0] and rounded == list(two[2:])
