"""What a sweep can do to one layer: morphs by name, their variants, and how each makes a child.

``morphs`` holds every morph but depth, which `deepen` sweeps by itself. Sizes are chosen as a user would who wants the
morph and does not mind the size: half as wide again, or, where the axis only takes whole copies, twice as wide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxmorph.errors import Refusal
    from onnxmorph.graph.layers import LinearLayer
    from onnxmorph.plan import Child

__all__ = ["MORPHS", "Morph", "title"]

Grow = Callable[["ir.Model", "LinearLayer", str], "Child"]


@dataclass(frozen=True)
class Morph:
    """One kind of sweep.

    Attributes:
        variants: What it can do to a layer, by name.
        default: Those it does unless told otherwise.
        grow: The child of a layer by a variant; raises `Refusal`.
        aims: Share of float layers with constant weights that should be done, by the first word of the variants: a
            layer counts as done by `widen` where any variant of it was.
    """

    variants: tuple[str, ...]
    default: tuple[str, ...]
    grow: Grow
    aims: Mapping[str, float]


def title(variants: tuple[str, ...] | list[str]) -> str:
    """The variants in brackets, where they are few."""
    return f" ({', '.join(variants)})" if len(variants) <= 5 else ""


def _deepen(model: ir.Model, layer: LinearLayer, variant: str) -> Child:
    from onnxmorph.morphs import plan_deepen

    return plan_deepen(model, layer, method=variant).apply(model)


# ---- widths ---------------------------------------------------------------------------------------------------------

_FACTORS = (1.5, 2)
"""Widths tried, in this order: copies of a normalised axis want whole multiples."""


def _widen(model: ir.Model, layer: LinearLayer, variant: str) -> Child:
    from onnxmorph.errors import Refusal
    from onnxmorph.morphs import plan_widen

    fill = variant or None
    refusals: list[Refusal] = []
    for factor in _FACTORS:
        try:
            return plan_widen(model, layer, by=factor, fill=fill).apply(model)
        except Refusal as refusal:
            refusals.append(refusal)
    raise refusals[0]


def _shrink(model: ir.Model, layer: LinearLayer, _variant: str) -> Child:
    """Widened, then shrunk to what it was; channels that hold a mean cannot go, copies can."""
    from onnxmorph.errors import Refusal
    from onnxmorph.morphs import plan_shrink
    from onnxmorph.morphs.target import layer_by_key

    wide = _widen(model, layer, "")
    try:
        narrow = plan_shrink(wide.model, layer_by_key(wide.model, layer.key), to=layer.out_channels)
    except Refusal:
        wide = _widen(model, layer, "replicate")
        narrow = plan_shrink(wide.model, layer_by_key(wide.model, layer.key), to=layer.out_channels)
    return wide.then(narrow.apply(wide.model))


# ---- kernels and subnets --------------------------------------------------------------------------------------------


def _kernel(model: ir.Model, layer: LinearLayer, variant: str) -> Child:
    from onnxmorph.morphs import plan_kernel

    more = {"+2": 2, "+1": 1}[variant]
    return plan_kernel(model, layer, to=tuple(size + more for size in layer.kernel) or 3).apply(model)


_TEMPLATES = {
    "sequential": "({k}:{n}x4)(1:{n})",
    "relu,bn": "({k}:{n}x4,relu,bn)(1:{n})",
    "stacked": "({k}:{n}x4)(1:{n})|({k}:{n})",
}
"""Templates by variant, for a layer of kernel k and n outputs."""


def _subnet(model: ir.Model, layer: LinearLayer, variant: str) -> Child:
    from onnxmorph.morphs import plan_subnet

    size = "x".join(map(str, layer.kernel)) or "1"
    template = _TEMPLATES[variant].format(k=size, n=layer.out_channels)
    return plan_subnet(model, layer, template=template).apply(model)


# ---- wiring ---------------------------------------------------------------------------------------------------------

_SOURCES = 12
"""Earlier layers tried as where a skip begins."""


def _skip(model: ir.Model, layer: LinearLayer, variant: str) -> Child:
    """From the nearest earlier layer that it can come from, the direct predecessor last."""
    from onnxmorph.errors import Refusal
    from onnxmorph.graph.layers import layers
    from onnxmorph.morphs import plan_skip

    refusal: Refusal | None = None
    for source in _earlier(layers(model), layer):
        try:
            return plan_skip(model, source=source, target=layer, mode=variant).apply(model)
        except Refusal as one:
            # What is said of the target itself says more than what is said of one pair.
            refusal = one if refusal is None or one.code == refusal.code else refusal
    raise refusal or Refusal(f"no layer stands before {layer.name}", code="first-layer")


def _earlier(found: list[LinearLayer], layer: LinearLayer) -> Iterator[LinearLayer]:
    """Layers of the same graph before this one, the nearest first; the very nearest, which feeds it, last."""
    before = [one for one in found[: layer.index] if one.graph is layer.graph and one.blocked is None][::-1]
    yield from [*before[1:_SOURCES], *before[:1]]


def _duplicate(model: ir.Model, layer: LinearLayer, _variant: str) -> Child:
    from onnxmorph.morphs import plan_duplicate

    return plan_duplicate(model, layer).apply(model)


def _activate(model: ir.Model, layer: LinearLayer, variant: str) -> Child:
    from onnxmorph.morphs import plan_activate
    from onnxmorph.plan import apply

    to = None if variant == "parametric" else _other(layer) if variant == "to another" else variant
    return apply(model, plan_activate(model, layer, to=to))


def _other(layer: LinearLayer) -> str:
    own = "" if layer.activation is None else layer.activation.name.lower()
    return "silu" if own.startswith("gelu") else "gelu"


# ---- and back -------------------------------------------------------------------------------------------------------


def _fold(model: ir.Model, layer: LinearLayer, variant: str) -> Child:
    """The child of a morph, folded."""
    from onnxmorph.morphs.fold import fold

    morph, _, kind = variant.partition(" ")
    grown = _PARTS[morph](model, layer, kind)
    return grown.then(fold(grown.model))


_PARTS: dict[str, Grow] = {
    "deepen": _deepen,
    "widen": _widen,
    "shrink": _shrink,
    "kernel": _kernel,
    "subnet": _subnet,
    "skip": _skip,
    "duplicate": _duplicate,
    "activate": _activate,
    "fold": _fold,
}

_VARIANTS = (
    *(f"widen {fill}" for fill in ("zero-out", "zero-in", "replicate", "pair", "mean")),
    "shrink",
    *("kernel +2", "kernel +1"),
    *(f"subnet {name}" for name in _TEMPLATES),
    *("skip add", "skip concat"),
    *("activate parametric", "activate to another"),
    "duplicate",
    *("fold deepen mirror", "fold widen replicate"),
)


def _any(model: ir.Model, layer: LinearLayer, variant: str) -> Child:
    morph, _, kind = variant.partition(" ")
    return _PARTS[morph](model, layer, kind)


_METHODS = ("auto", "mirror", "netmorph", "identity", "residual")

MORPHS = {
    "deepen": Morph(_METHODS, ("auto",), _deepen, {}),
    "morphs": Morph(_VARIANTS, _VARIANTS, _any, {"widen": 0.95, "kernel": 1.0, "subnet": 0.95}),
}
"""What a sweep can be of."""
