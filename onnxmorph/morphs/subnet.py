"""Subnets: one linear layer becomes a small network of several, written in NM's notation (NM section 3.5, eq. 19-20).

A *sequential* subnet is a chain of factors whose composition is the layer's kernel, zero-padded to their extent. A
*stacked* one splits the kernel into a sum and makes each part a chain of its own; the outputs add up. Between
two factors stands a plain activation where its odd part is linear (mirrored channels), else a parametric one at a = 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.edit import Builder
from onnxmorph.equation import extent, solve_sequence, split
from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.graph.activations import Activation, named
from onnxmorph.graph.labels import article
from onnxmorph.graph.layers import LinearLayer
from onnxmorph.morphs.inner_activations import emit_inner, layers_own
from onnxmorph.morphs.sequence import (
    Between,
    LayerNames,
    adds_bias,
    check_borders,
    margins,
    replace_layer,
    sequence_nodes,
)
from onnxmorph.morphs.target import find_layer, layer_by_key
from onnxmorph.morphs.template import Template, TemplateError, TemplateFactor, parse_template
from onnxmorph.plan import Change, NewFactor, Plan

__all__ = ["SubnetPlan", "check_subnet", "plan_subnet", "why_not_subnet"]

_BATCH_NORM_EPSILON = 1e-5


def why_not_subnet(layer: LinearLayer) -> Refusal | None:
    """Why ``layer`` cannot become a subnet, or ``None`` when it can."""
    return layer.blocked or layer.weight_not_finite


def check_subnet(_model: ir.Model) -> Callable[[LinearLayer], Refusal | None]:
    """What says of a model's layers why they cannot be morphed so; see :func:`why_not_subnet`."""
    return why_not_subnet


def plan_subnet(model: ir.Model, layer: str | LinearLayer, *, template: str, seed: int = 0) -> SubnetPlan:
    """Decide how ``layer`` becomes the subnet that ``template`` describes; nothing is edited.

    Args:
        model: The parent.
        layer: What a person types, or a layer of ``model``.
        template: NM's notation, see :mod:`onnxmorph.morphs.template`. The last factor of every path has the layer's
            outputs; the layer's own batch norm and activation follow it as before.
        seed: Seeds the random part of the factors.

    Raises:
        TemplateError: The template cannot be read, or does not suit the layer; with the place.
        SelectionError: No such layer.
        Refusal: It cannot be done exactly here, with the reason.
    """
    target = find_layer(model, layer)
    if (refusal := why_not_subnet(target)) is not None:
        raise refusal
    target.kernel_array()
    parsed = parse_template(template)
    paths = tuple(_path(target, parsed, path) for path in parsed.paths)
    return SubnetPlan(target.key, target.name, target.op, template, paths, seed)


@dataclass(frozen=True)
class Gap:
    """What stands between two factors of a path.

    Attributes:
        width: Hidden channels.
        activation: Name of the activation, ``None`` for a linear gap.
        parameters: Its parameters.
        mirrored: Plain activation over mirrored channels; else parametric at a = 1.
        batch_norm: A neutral batch norm before the activation.
    """

    width: int
    activation: str | None
    parameters: Mapping[str, float]
    mirrored: bool
    batch_norm: bool

    def phi(self) -> Activation | None:
        """The activation itself."""
        return None if self.activation is None else named(self.activation, **self.parameters)


@dataclass(frozen=True)
class Path:
    """One chain of factors: the kernel of each and the gaps between them."""

    kernels: tuple[tuple[int, ...], ...]
    gaps: tuple[Gap, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """Kernel of the composition."""
        return extent(self.kernels) if self.kernels[0] else ()


@dataclass(frozen=True)
class SubnetPlan(Plan):
    """One layer turned into a subnet, decided.

    Attributes:
        layer: Key of the layer.
        name: The layer's name, for people.
        op: Its op.
        template: As typed.
        paths: What the template means for this layer.
        seed: Seed of the random part.
    """

    morph: ClassVar[str] = "subnet"

    layer: str
    name: str
    op: str
    template: str
    paths: tuple[Path, ...]
    seed: int

    def options(self) -> dict[str, Any]:
        """See :meth:`Plan.options`."""
        return {
            "layer": self.layer,
            "name": self.name,
            "op": self.op,
            "template": self.template,
            "paths": [
                {
                    "kernels": [list(kernel) for kernel in path.kernels],
                    "gaps": [{**vars(gap), "parameters": dict(gap.parameters)} for gap in path.gaps],
                }
                for path in self.paths
            ],
            "seed": self.seed,
        }

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> SubnetPlan:
        """The plan that :meth:`options` came from."""
        paths = tuple(
            Path(tuple(tuple(kernel) for kernel in path["kernels"]), tuple(Gap(**gap) for gap in path["gaps"]))
            for path in options["paths"]
        )
        return cls(options["layer"], options["name"], options["op"], options["template"], paths, options["seed"])

    def describe(self) -> str:
        """See :meth:`Plan.describe`."""
        described = []
        for path in self.paths:
            parts = []
            for index, kernel in enumerate(path.kernels):
                parts.append("x".join(map(str, kernel)) if kernel else "1")
                if index < len(path.gaps):
                    gap = path.gaps[index]
                    kind = "linear" if gap.activation is None else gap.activation
                    how = "" if gap.activation is None else " mirrored" if gap.mirrored else " at a=1"
                    parts.append(f"[{gap.width}{', bn' if gap.batch_norm else ''}, {kind}{how}]")
            described.append(" ".join(parts))
        return f"{self.name}: replace by the subnet {self.template}: {' | '.join(described)}"

    def edit(self, child: ir.Model) -> Change:
        """See :meth:`Plan.edit`."""
        layer = layer_by_key(child, self.layer)
        if layer.blocked is not None:
            raise layer.blocked
        rng = np.random.Generator(np.random.PCG64(self.seed))
        kernel = layer.kernel_array()
        whole = len(self.paths) == 1

        def between(path: Path, names: LayerNames) -> Between:
            return lambda at, x: _between(build, layer, names, path.gaps[at], at, x)

        parts = (kernel,) if whole else split(kernel, [path.extent for path in self.paths], rng=rng)
        build = Builder(child, layer.graph, before=layer.node)
        frontier = (layer.output.name or "",)
        outputs: list[ir.Value] = []
        factors: list[NewFactor] = []
        residual = 0.0
        for index, (path, part) in enumerate(zip(self.paths, parts, strict=True)):
            result = solve_sequence(
                part,
                [gap.width for gap in path.gaps],
                path.kernels,
                groups=layer.groups,
                slopes=[_slope(gap) for gap in path.gaps],
                rng=rng,
                offset=_offset(path, part),
            )
            if not result.exact:
                least = "" if result.least_width is None else f"{result.least_width} channels are exact"
                raise Refusal(
                    f"{layer.name}: {self.template} leaves a residual of {result.residual:.2g} ({result.why})",
                    way_out=least or "take wider factors",
                    code="width-too-small",
                )
            residual = max(residual, result.residual)
            names = LayerNames(layer, "" if whole else f"path{index}")
            outputs.append(
                sequence_nodes(
                    build,
                    layer,
                    names,
                    result.factors,
                    between(path, names),
                    keeps_bias=index == 0,
                )
            )
            factors += [
                NewFactor.of(names.initializer(place, "weight"), array) for place, array in enumerate(result.factors)
            ]
        total = outputs[0]
        for place, output in enumerate(outputs[1:], start=1):
            names = LayerNames(layer)
            total = build.node(
                "Add", [total, output], name=names.node(f"sum{place}", "Add"), output=names.value(f"sum{place}")
            )
        replace_layer(build, layer, total)
        return Change(tuple(factors), residual, frontier, _notes(layer))


def _notes(layer: LinearLayer) -> tuple[str, ...]:
    if not layer.shared_with:
        return ()
    return (f"{layer.name} shared its weight with {', '.join(layer.shared_with)}; its new factors are its own",)


def _slope(gap: Gap) -> float | None:
    phi = gap.phi() if gap.mirrored else None
    return None if phi is None or phi.odd_slope is None else float(phi.odd_slope)


def _offset(path: Path, part: np.ndarray) -> tuple[int, ...]:
    return tuple(margins(size, old)[0] for size, old in zip(path.extent, part.shape[2:], strict=True))


def _between(build: Builder, layer: LinearLayer, names: LayerNames, gap: Gap, at: int, x: ir.Value) -> ir.Value:
    """Batch norm and activation after factor ``at``."""
    if gap.batch_norm:
        x = _neutral_batch_norm(build, layer, names, gap.width, at, x)
    phi = gap.phi()
    if phi is None:
        return x
    return emit_inner(build, layer, names, phi, x, channels=gap.width, a=None if gap.mirrored else 1.0, part=f"act{at}")


def _neutral_batch_norm(
    build: Builder, layer: LinearLayer, names: LayerNames, width: int, at: int, x: ir.Value
) -> ir.Value:
    """A batch norm that passes its input on: the variance and epsilon add up to one."""
    dtype = layer.dtype.numpy()
    values = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0 - _BATCH_NORM_EPSILON}
    part = f"bn{at}"
    inputs = [
        build.initializer(names.initializer(part, role), np.full(width, value, dtype=dtype))
        for role, value in values.items()
    ]
    return build.node(
        "BatchNormalization",
        [x, *inputs],
        name=names.node(part, "BatchNormalization"),
        output=names.value(part),
        epsilon=_BATCH_NORM_EPSILON,
    )


# -- what a template means for a layer ---------------------------------------------------------------------------------


def _path(layer: LinearLayer, template: Template, factors: tuple[TemplateFactor, ...]) -> Path:
    kernels = tuple(_kernel(layer, template, factor) for factor in factors)
    last = factors[-1]
    if last.width != layer.out_channels:
        raise TemplateError(
            template.text,
            last.at,
            f"the last layer has {last.width} outputs, but {layer.name} has {layer.out_channels}",
        )
    if last.batch_norm or last.gap or last.activation is not None:
        raise TemplateError(
            template.text,
            last.at,
            f"what follows {layer.name} follows the last layer too: it takes no activation, batch norm or method",
        )
    path = Path(kernels, tuple(_gap(layer, template, factor) for factor in factors[:-1]))
    short = [
        (size, taps)
        for size, taps in zip(path.extent, layer.kernel, strict=True)
        if size < taps and len(template.paths) == 1
    ]
    if short:
        size, taps = short[0]
        raise TemplateError(
            template.text, factors[0].at, f"the layers reach over {size} taps in all, but {layer.name} has {taps}"
        )
    check_borders(layer, kernels)
    return path


def _kernel(layer: LinearLayer, template: Template, factor: TemplateFactor) -> tuple[int, ...]:
    axes = len(layer.kernel)
    if axes == 0:
        if any(size != 1 for size in factor.kernel):
            raise TemplateError(template.text, factor.at, f"{layer.name} is a {layer.op}: its kernel counts as 1")
        return ()
    if len(factor.kernel) == 1:
        return factor.kernel * axes
    if len(factor.kernel) != axes:
        raise TemplateError(
            template.text, factor.at, f"{layer.name} has {axes} kernel axes, this layer {len(factor.kernel)}"
        )
    return factor.kernel


def _channels_second(layer: LinearLayer) -> bool:
    """Whether what stands between factors has its channels on axis 1."""
    if not adds_bias(layer):
        return True
    rank = layer.shapes.rank(layer.node.outputs[0])
    if rank is not None and layer.equation is not None:
        rank += 1 - len(layer.equation.made)
    return rank is not None and rank + layer.output_axis == 1


def _gap(layer: LinearLayer, template: Template, factor: TemplateFactor) -> Gap:
    if factor.width % layer.groups:
        raise TemplateError(
            template.text,
            factor.at,
            f"{factor.width} outputs do not divide into the {layer.groups} groups of {layer.name}",
        )
    if factor.batch_norm and not _channels_second(layer):
        raise TemplateError(
            template.text,
            factor.at,
            f"{layer.name} is {article(layer.op)}, whose channels are not on axis 1, where a batch norm has them",
        )
    phi = _activation(layer, template, factor)
    if phi is None:
        if factor.gap == "mirror":
            raise TemplateError(template.text, factor.at, "a mirror needs an activation")
        return Gap(factor.width, None, {}, mirrored=False, batch_norm=factor.batch_norm)
    even = factor.width % (2 * layer.groups) == 0
    mirrored = phi.odd_slope is not None and even and factor.gap != "netmorph"
    if factor.gap == "mirror" and not mirrored:
        problem = (
            f"{phi.name} has no linear odd part" if phi.odd_slope is None else f"{factor.width} is not even per group"
        )
        raise TemplateError(template.text, factor.at, f"no mirror here: {problem}")
    return Gap(factor.width, phi.name, phi.means(), mirrored, factor.batch_norm)


def _activation(layer: LinearLayer, template: Template, factor: TemplateFactor) -> Activation | None:
    if factor.activation == "none":
        return None
    if factor.activation is not None:
        try:
            return named(factor.activation)
        except SelectionError as error:
            raise TemplateError(template.text, factor.at, str(error)) from error
    return layers_own(layer)
