"""Depth: one linear layer becomes two with a non-linearity between, computing the same (NM section 3.2, eq. 6, 9-11).

Four exact ways, each a *method*:

* ``mirror``: ``F1 = [V; -V]``, the plain activation, ``F2 = [Z, -Z] / c`` with ``Z * V = G``; for every phi whose odd
  part is linear, ``phi(x) - phi(-x) = c x``. Nothing to un-learn, no zeros.
* ``netmorph``: ``F1``, a parametric activation at a = 1 (the identity), ``F2`` with ``F2 * F1 = G``.
* ``identity``: the layer stays as it is and an identity kernel follows: after the layer's own activation where that is
  idempotent (Net2DeeperNet), else after a parametric activation at a = 1. Exact to the last bit. With a width above the
  layer's own channels, ``F1 = [G; R]`` and ``F2 = [I, 0]`` take its place: the activation between is parametric, at
  a = 1 on what is kept and at a = 0, plain, on the new channels R, which nothing reads yet (`equation.beside`).
* ``residual``: ``y + W2 phi(W1 y)`` with ``W2 = 0`` after the layer's activation.

``auto`` takes mirror where phi allows, else netmorph; in float16 and bfloat16 and for quantised weights, where one
rounding of a new factor is far above the noise of the parent, it takes identity; so it does for kernels that are zero.
What each of them learns afterwards: docs/paper_tables.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.edit import Builder, replace_uses, take_name
from onnxmorph.equation import Factorization, beside, default_width, identity_kernel, least_width, mirror, solve
from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.graph.activations import Activation, named
from onnxmorph.graph.labels import article
from onnxmorph.graph.layers import LinearLayer
from onnxmorph.morphs.inner_activations import emit_inner, layers_own
from onnxmorph.morphs.sequence import (
    LayerNames,
    check_borders,
    margins,
    plain_layer,
    replace_layer,
    sequence_nodes,
)
from onnxmorph.morphs.target import find_layer, layer_by_key
from onnxmorph.plan import Change, NewFactor, Plan

__all__ = ["METHODS", "DeepenPlan", "check_deepen", "plan_deepen", "why_not_deepen"]

METHODS = ("auto", "mirror", "netmorph", "identity", "residual")

_LOW_PRECISION = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def why_not_deepen(layer: LinearLayer) -> Refusal | None:
    """Why ``layer`` cannot be deepened by any method, or ``None`` when it can."""
    return layer.blocked or layer.weight_not_finite


def check_deepen(_model: ir.Model) -> Callable[[LinearLayer], Refusal | None]:
    """What says of a model's layers why they cannot be morphed so; see :func:`why_not_deepen`."""
    return why_not_deepen


def plan_deepen(
    model: ir.Model,
    layer: str | LinearLayer,
    *,
    method: str = "auto",
    kernel: Sequence[int] | int | None = None,
    width: int | str | None = None,
    activation: str = "same",
    seed: int = 0,
) -> DeepenPlan:
    """Decide how to put a new layer after ``layer``; nothing is edited.

    Args:
        model: The parent.
        layer: What a person types (see :mod:`onnxmorph.graph.select`) or a layer of ``model``.
        method: One of :data:`METHODS`.
        kernel: Kernel of the new layer, one number for all axes or one per axis; default 1. ``mirror`` and ``netmorph``
            keep the layer's own kernel on the first factor.
        width: Channels between the two, a number or ``"xM"`` for M times the layer's output channels. Default: the
            least at which the equation is exact and both factors have a scale near He's; of ``identity`` the layer's
            own, and with more of them the others are new ones that nothing reads yet.
        activation: ``"same"`` for the layer's own (ReLU where it has none), or a name.
        seed: Seeds the random part of the factors; the same seed gives the same child.

    Returns:
        The plan. :meth:`DeepenPlan.edit` carries it out.

    Raises:
        SelectionError: No such layer, method or activation.
        Refusal: It cannot be done exactly here, with the reason.
    """
    if method not in METHODS:
        raise SelectionError(f"no method {method!r}: choose from {', '.join(METHODS)}")
    target = find_layer(model, layer)
    if (refusal := why_not_deepen(target)) is not None:
        raise refusal
    kernel_now = target.kernel_array()
    phi = _inner_activation(target, activation)
    taps = _new_kernel(target, kernel)
    if method == "mirror" and phi.odd_slope is None:
        raise Refusal(
            f"{phi.name} has no linear odd part, so there is no mirror depth for {target.name}",
            way_out="take --method netmorph, or --activation relu",
            code="mirror-activation",
        )
    resolved = _automatic(target, phi, kernel_now, taps, width) if method == "auto" else method
    hidden = _hidden_width(target, resolved, width, kernel_now, taps)
    wider = hidden > target.out_channels
    if target.several_axes and resolved in ("identity", "residual") and not (wider and resolved == "identity"):
        raise Refusal(
            f"the channels of {target.name} lie on several axes, which no {resolved} layer after it could mix",
            way_out=None if method == "auto" else "take --method mirror or netmorph",
            code="several-axes",
        )
    place, parametric = _place(target, resolved, phi, chosen=activation != "same", wider=wider)
    if place == "replace":
        check_borders(target, [target.kernel, taps])
    return DeepenPlan(
        layer=target.key,
        name=target.name,
        op=target.op,
        method=resolved,
        kernel=taps,
        width=hidden,
        activation=phi.name,
        parameters=phi.means(),
        parametric=parametric,
        place=place,
        seed=seed,
    )


def parse_width(text: int | str, channels: int) -> int:
    """``64`` or ``"64"`` is 64 channels, ``"x4"`` and ``"x1.5"`` that many times ``channels``, rounded up.

    Raises:
        SelectionError: The text is neither.
    """
    match = re.fullmatch(r"x(\d+(?:\.\d+)?)|(\d+)", str(text).strip())
    size = 0 if match is None else int(np.ceil(float(match[1]) * channels)) if match[1] else int(match[2])
    if size < 1:
        raise SelectionError(f"no width {text!r}: give a number of channels such as 64, or a multiple such as x2")
    return size


@dataclass(frozen=True)
class DeepenPlan(Plan):
    """One layer deepened, decided.

    Attributes:
        layer: Key of the layer (:attr:`LinearLayer.key`).
        name: The layer's name, for people.
        op: Its op.
        method: ``mirror``, ``netmorph``, ``identity`` or ``residual``.
        kernel: Kernel axes of the new layer; ``()`` for Gemm and MatMul.
        width: Channels between the two.
        activation: Name of the activation between.
        parameters: Its parameters.
        parametric: The activation is a P-activation at a = 1 (NM eq. 9).
        place: ``"replace"`` the layer by two, or insert ``"after-layer"`` or ``"after-activation"``.
        seed: Seed of the random part.
    """

    morph: ClassVar[str] = "deepen"

    layer: str
    name: str
    op: str
    method: str
    kernel: tuple[int, ...]
    width: int
    activation: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    parametric: bool = False
    place: str = "replace"
    seed: int = 0

    def options(self) -> dict[str, Any]:
        """See :meth:`Plan.options`."""
        return {
            "layer": self.layer,
            "name": self.name,
            "op": self.op,
            "method": self.method,
            "kernel": list(self.kernel),
            "width": self.width,
            "activation": self.activation,
            "parameters": dict(self.parameters),
            "parametric": self.parametric,
            "place": self.place,
            "seed": self.seed,
        }

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> DeepenPlan:
        """The plan that :meth:`options` came from."""
        names = [one.name for one in fields(cls)]
        values = {name: options[name] for name in names}
        return cls(**{**values, "kernel": tuple(options["kernel"])})

    def describe(self) -> str:
        """See :meth:`Plan.describe`."""
        size = "x".join(map(str, self.kernel)) if self.kernel else "1"
        phi = f"{self.activation}, parametric at a=1" if self.parametric else self.activation
        if self.method == "residual":
            branch = f"{size} kernel to {self.width} channels, {phi}, zero projection"
            return f"after {self.name}: add a residual branch, {branch}"
        if self.method == "identity" and self.place == "replace":
            return (
                f"{self.name}: replace by two {self.op} layers (identity), {self.width} channels between, its own and"
                f" new ones, {self.activation}, parametric at a=1 on its own, new kernel {size}"
            )
        if self.method == "identity":
            where = "its activation" if self.place == "after-activation" else "it"
            order = f"{size} identity layer, {phi}" if not self.parametric else f"{phi}, {size} identity layer"
            return f"after {self.name}: keep the layer; after {where} add {order}"
        return (
            f"{self.name}: replace by two {self.op} layers ({self.method}), {self.width} channels between, {phi},"
            f" new kernel {size}"
        )

    def edit(self, child: ir.Model) -> Change:
        """See :meth:`Plan.edit`."""
        layer = layer_by_key(child, self.layer)
        if layer.blocked is not None:
            raise layer.blocked
        notes = []
        if layer.shared_with and self.place == "replace":
            notes.append(
                f"{layer.name} shared its weight with {', '.join(layer.shared_with)};"
                " its new factors are its own, the others keep the shared weight"
            )
        change = {"replace": self._replace, "after-layer": self._insert, "after-activation": self._insert}[self.place](
            child, layer
        )
        return Change(change.factors, change.residual, change.frontier, (*change.notes, *notes))

    # -- two factors in place of one ---------------------------------------------------------------------------------

    def _replace(self, child: ir.Model, layer: LinearLayer) -> Change:
        phi = named(self.activation, **self.parameters)
        result = self._factorise(layer, phi)
        names = LayerNames(layer)
        frontier = (layer.output.name or "",)
        build = Builder(child, layer.graph, before=layer.node)
        out = sequence_nodes(
            build,
            layer,
            names,
            result.factors,
            lambda _, x: self._activation(build, layer, names, phi, x, self.width, fresh=result.fresh),
        )
        replace_layer(build, layer, out)
        factors = tuple(
            NewFactor.of(names.initializer(index, "weight"), kernel) for index, kernel in enumerate(result.factors)
        )
        notes: tuple[str, ...] = ()
        if result.fresh is not None:
            new = int(np.count_nonzero(result.fresh))
            notes = (
                f"{new} of the {self.width} channels between are new: nothing reads them before the child is trained",
            )
        return Change(factors, result.residual, frontier, notes)

    def _factorise(self, layer: LinearLayer, phi: Activation) -> Factorization:
        kernel = layer.kernel_array()
        rng = np.random.Generator(np.random.PCG64(self.seed))
        kernels = (layer.kernel, self.kernel)
        offset = tuple(margins(size)[0] for size in self.kernel)
        if self.method == "mirror":
            slope = phi.odd_slope
            if slope is None:
                raise Refusal(
                    f"{phi.name} has no linear odd part, so there is no mirror depth", code="mirror-activation"
                )
            result = mirror(kernel, self.width, kernels, float(slope), groups=layer.groups, rng=rng, offset=offset)
        elif self.method == "identity":
            result = beside(kernel, self.width, self.kernel, groups=layer.groups, rng=rng, tap=offset)
        else:
            result = solve(kernel, self.width, kernels, groups=layer.groups, rng=rng, offset=offset)
        if not result.exact:
            raise Refusal(
                f"{layer.name}: {self.width} channels between leave a residual of {result.residual:.2g} ({result.why})",
                way_out=None if result.least_width is None else f"{result.least_width} channels are exact",
                code="width-too-small",
            )
        return result

    def _activation(
        self,
        build: Builder,
        layer: LinearLayer,
        names: LayerNames,
        phi: Activation,
        x: ir.Value,
        channels: int,
        fresh: np.ndarray | None = None,
    ) -> ir.Value:
        a = None if not self.parametric else 1.0 if fresh is None else np.where(fresh, 0.0, 1.0)
        return emit_inner(build, layer, names, phi, x, channels=channels, a=a)

    # -- a new layer after the one that stays ------------------------------------------------------------------------

    def _insert(self, child: ir.Model, layer: LinearLayer) -> Change:
        phi = named(self.activation, **self.parameters)
        names = LayerNames(layer)
        own = layer.activation
        value = layer.output
        if self.place == "after-activation" and own is not None and own.output is not None:
            value = own.output
        build = Builder(child, layer.graph, after=value.producer())
        if self.method == "identity":
            out, factors = self._identity(build, layer, names, phi, value)
        else:
            out, factors = self._residual(build, layer, names, phi, value)
        replace_uses(value, out, except_nodes=build.nodes)
        take_name(child, out, value, old_name=names.value(0))
        return Change(factors, 0.0, (out.name or "",))

    def _identity(
        self, build: Builder, layer: LinearLayer, names: LayerNames, phi: Activation, value: ir.Value
    ) -> tuple[ir.Value, tuple[NewFactor, ...]]:
        groups = layer.groups if any(size != 1 for size in self.kernel) else 1
        kernel = identity_kernel(layer.out_channels, self.kernel, groups=groups, dtype=layer.dtype.numpy())
        x = value
        if self.parametric:
            x = self._activation(build, layer, names, phi, x, layer.out_channels)
        out = plain_layer(build, layer, names, 1, x, kernel, groups)
        if not self.parametric:
            out = self._activation(build, layer, names, phi, out, layer.out_channels)
        return out, (NewFactor.of(names.initializer(1, "weight"), kernel),)

    def _residual(
        self, build: Builder, layer: LinearLayer, names: LayerNames, phi: Activation, value: ir.Value
    ) -> tuple[ir.Value, tuple[NewFactor, ...]]:
        rng = np.random.Generator(np.random.PCG64(self.seed))
        dtype = layer.dtype.numpy()
        fan_in = layer.out_channels * int(np.prod(self.kernel))
        first = rng.standard_normal((self.width, layer.out_channels, *self.kernel)) * np.sqrt(2.0 / fan_in)
        kernel = first.astype(dtype)
        zero = np.zeros((layer.out_channels, self.width, *(1 for _ in self.kernel)), dtype=dtype)
        hidden = plain_layer(build, layer, names, 1, value, kernel, 1)
        hidden = self._activation(build, layer, names, phi, hidden, self.width)
        branch = plain_layer(build, layer, names, 2, hidden, zero, 1)
        out = build.node("Add", [value, branch], name=names.node("residual", "Add"), output=names.value("sum"))
        return out, (
            NewFactor.of(names.initializer(1, "weight"), kernel),
            NewFactor.of(names.initializer(2, "weight"), zero),
        )


# -- decisions --------------------------------------------------------------------------------------------------------


def _inner_activation(layer: LinearLayer, activation: str) -> Activation:
    return layers_own(layer) if activation == "same" else named(activation)


_VANISHING = 1e-20
"""Kernels below this have no room under them for the rounding of their factors; zero ones have no scale."""


def _automatic(
    layer: LinearLayer, phi: Activation, kernel: np.ndarray, taps: tuple[int, ...], width: int | str | None
) -> str:
    """The method for a layer where none was asked for."""
    if layer.dtype in _LOW_PRECISION or layer.weight.quantized or not np.any(np.abs(kernel) > _VANISHING):
        return "identity"
    if phi.odd_slope is None:
        return "netmorph"
    if width is None:
        return "mirror"
    return _method_for_width(layer, kernel, taps, parse_width(width, layer.out_channels))


def _method_for_width(layer: LinearLayer, kernel: np.ndarray, taps: tuple[int, ...], width: int) -> str:
    """Mirror wants two channels where netmorph wants one: netmorph where only that fits the width asked for."""
    kernels, groups = (layer.kernel, taps), layer.groups
    offset = tuple(margins(size)[0] for size in taps)
    least, mirrored = (least_width(kernel, kernels, groups, mirrored=pairs, offset=offset) for pairs in (False, True))
    if width % (2 * groups) == 0 and width >= mirrored:
        return "mirror"
    return "netmorph" if width % groups == 0 and width >= least else "mirror"


def _new_kernel(layer: LinearLayer, kernel: Sequence[int] | int | None) -> tuple[int, ...]:
    axes = len(layer.kernel)
    sizes = (1,) if kernel is None else (kernel,) if isinstance(kernel, int) else tuple(kernel)
    if any(size < 1 for size in sizes):
        raise SelectionError(f"no kernel {'x'.join(map(str, sizes))}: sizes start at 1")
    if axes == 0:
        if any(size != 1 for size in sizes):
            raise Refusal(
                f"{layer.name} is {article(layer.op)}, which has no kernel axes",
                way_out="leave --kernel out",
                code="no-kernel",
            )
        return ()
    if len(sizes) == 1:
        return sizes * axes
    if len(sizes) != axes:
        raise SelectionError(f"{layer.name} has {axes} kernel axes, but {'x'.join(map(str, sizes))} has {len(sizes)}")
    return sizes


def _hidden_width(
    layer: LinearLayer, method: str, width: int | str | None, kernel: np.ndarray, taps: tuple[int, ...]
) -> int:
    """Channels between the two layers, as asked for or by default."""
    channels = layer.out_channels
    if method == "residual" or (method == "identity" and width is None):
        return channels if width is None else parse_width(width, channels)
    if width is None:
        return default_width(kernel, (layer.kernel, taps), groups=layer.groups, mirrored=method == "mirror")
    hidden = parse_width(width, channels)
    if method == "identity" and hidden < channels:
        raise Refusal(
            f"an identity layer has as many channels as {layer.name}, {channels}, or more",
            way_out="leave --width out, or take --method netmorph",
            code="identity-width",
        )
    if method != "identity" or hidden > channels:
        _check_width(layer, hidden, method, layer.groups)
    return hidden


def _place(layer: LinearLayer, method: str, phi: Activation, *, chosen: bool, wider: bool) -> tuple[str, bool]:
    """Where the new layer goes, and whether its activation is parametric."""
    if method == "mirror":
        return "replace", False
    if method == "netmorph" or (method == "identity" and wider):
        return "replace", True
    own = layer.activation
    follows = own is not None and own.output is not None and not layer.layout_before_activation
    if method == "residual":
        return ("after-activation" if follows else "after-layer"), False
    if follows and not chosen and own is not None and own.idempotent and _same_function(own, phi):
        return "after-activation", False
    return "after-layer", True


def _same_function(own: Activation, phi: Activation) -> bool:
    """Whether both compute the same; one whose parameters differ from channel to channel is no mean of them."""
    return own.name == phi.name and all(
        np.all(np.asarray(value) == np.asarray(phi.parameters.get(name))) for name, value in own.parameters.items()
    )


def _check_width(layer: LinearLayer, width: int, method: str, groups: int) -> None:
    unit = groups * (2 if method == "mirror" else 1)
    if width % unit:
        below, above = width - width % unit, width + unit - width % unit
        what = (
            f"{groups} groups"
            if method != "mirror"
            else "mirrored pairs" + (f" in {groups} groups" if groups > 1 else "")
        )
        near = f"{below} and {above} are" if below else f"{above} is"
        raise Refusal(f"{width} channels do not divide into {what} for {layer.name}", way_out=near, code="width-groups")
