"""What a sweep can do to one layer: morphs by name, their variants, and how each makes a child.

``morphs`` holds every morph but depth, which `deepen` sweeps by itself. Sizes are chosen as a user would who wants the
morph and does not mind the size: half as wide again, or, where the axis only takes whole copies, twice as wide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxmorph.errors import Refusal
    from onnxmorph.graph.layers import LinearLayer
    from onnxmorph.plan import Child, Plan

__all__ = ["MORPHS", "Morph", "title"]

Make = Callable[["ir.Model", "LinearLayer", str], "list[Plan]"]


@dataclass(frozen=True)
class Morph:
    """One kind of sweep.

    Attributes:
        variants: What it can do to a layer, by name.
        default: Those it does unless told otherwise.
        plan: Plans for a layer by a variant; raises `Refusal`.
        back: For some variants, what takes a child of layers back again; gives what is refused, by layer.
        together: Whether layers of one variant are tried in one child, and one by one only where that is not right.
        aims: Share of float layers with constant weights that should be done, by the first word of the variants: a
            layer counts as done by `widen` where any variant of it was.
    """

    variants: tuple[str, ...]
    default: tuple[str, ...]
    plan: Make
    back: Callable[[Child, Sequence[LinearLayer], str], tuple[Child, dict[int, Refusal]]] | None = None
    together: bool = False
    aims: Mapping[str, float] = field(default_factory=dict)


def title(variants: tuple[str, ...] | list[str]) -> str:
    """The variants in brackets, where they are few."""
    return f" ({', '.join(variants)})" if len(variants) <= 5 else ""


def _deepen(model: ir.Model, layer: LinearLayer, variant: str) -> list[Plan]:
    from onnxmorph.morphs import plan_deepen

    return [plan_deepen(model, layer, method=variant)]


# ---- widths ---------------------------------------------------------------------------------------------------------

_FACTORS = (1.5, 2)
"""Widths tried, in this order: copies of a normalised axis want whole multiples."""


def _widen(model: ir.Model, layer: LinearLayer, variant: str) -> list[Plan]:
    from onnxmorph.errors import Refusal
    from onnxmorph.morphs import plan_widen

    interface = variant == "interface"
    fill = None if interface else variant or None
    refusals: list[Refusal] = []
    for factor in _FACTORS:
        try:
            return [plan_widen(model, layer, by=factor, fill=fill, interface=interface)]
        except Refusal as refusal:
            refusals.append(refusal)
    raise refusals[0]


def _widen_to_shrink(model: ir.Model, layer: LinearLayer, _variant: str) -> list[Plan]:
    """By copies where the axis is normalised: channels that hold a mean cannot go again, copies can."""
    from onnxmorph.errors import Refusal

    try:
        return _widen(model, layer, "zero-out")
    except Refusal:
        return _widen(model, layer, "replicate")


# ---- kernels and subnets --------------------------------------------------------------------------------------------


def _kernel(model: ir.Model, layer: LinearLayer, variant: str) -> list[Plan]:
    from onnxmorph.morphs import plan_kernel

    more = {"+2": 2, "+1": 1}[variant]
    return [plan_kernel(model, layer, to=tuple(size + more for size in layer.kernel) or 3)]


_TEMPLATES = {
    "sequential": "({k}:{n}x4)(1:{n})",
    "relu,bn": "({k}:{n}x4,relu,bn)(1:{n})",
    "stacked": "({k}:{n}x4)(1:{n})|({k}:{n})",
}
"""Templates by variant, for a layer of kernel k and n outputs."""


def _subnet(model: ir.Model, layer: LinearLayer, variant: str) -> list[Plan]:
    from onnxmorph.morphs import plan_subnet

    size = "x".join(map(str, layer.kernel)) or "1"
    template = _TEMPLATES[variant].format(k=size, n=layer.out_channels)
    return [plan_subnet(model, layer, template=template)]


# ---- wiring ---------------------------------------------------------------------------------------------------------

_SOURCES = 6
"""Earlier layers tried as where a skip begins."""


def _skip(model: ir.Model, layer: LinearLayer, variant: str) -> list[Plan]:
    """From the nearest earlier layer that it can come from, the direct predecessor last."""
    from onnxmorph.errors import Refusal
    from onnxmorph.graph.layers import layers
    from onnxmorph.morphs import plan_skip

    refusal: Refusal | None = None
    for source in _earlier(layers(model), layer):
        try:
            return [plan_skip(model, source=source, target=layer, mode=variant)]
        except Refusal as one:
            # What is said of the target itself says more than what is said of one pair.
            refusal = one if refusal is None or one.code == refusal.code else refusal
    raise refusal or Refusal(f"no layer stands before {layer.name}", code="first-layer")


def _earlier(found: list[LinearLayer], layer: LinearLayer) -> Iterator[LinearLayer]:
    """Layers of the same graph before this one, the nearest first; the very nearest, which feeds it, last."""
    before = [one for one in found[: layer.index] if one.graph is layer.graph and one.blocked is None][::-1]
    yield from [*before[1:_SOURCES], *before[:1]]


def _duplicate(model: ir.Model, layer: LinearLayer, _variant: str) -> list[Plan]:
    from onnxmorph.morphs import plan_duplicate

    return [plan_duplicate(model, layer)]


def _activate(model: ir.Model, layer: LinearLayer, variant: str) -> list[Plan]:
    from onnxmorph.morphs import plan_activate

    to = None if variant == "parametric" else _other(layer) if variant == "to another" else variant
    return list(plan_activate(model, layer, to=to))


def _other(layer: LinearLayer) -> str:
    own = "" if layer.activation is None else layer.activation.name.lower()
    return "silu" if own.startswith("gelu") else "gelu"


# ---- and back -------------------------------------------------------------------------------------------------------


def _back(child: Child, layers: Sequence[LinearLayer], variant: str) -> tuple[Child, dict[int, Refusal]]:
    from onnxmorph.errors import Refusal
    from onnxmorph.morphs import plan_shrink
    from onnxmorph.morphs.fold import fold
    from onnxmorph.morphs.target import layer_by_key

    refused: dict[int, Refusal] = {}
    if variant.startswith("fold"):
        try:
            child = child.then(fold(child.model))
        except Refusal as refusal:
            refused = {layer.index: refusal for layer in layers}
    if variant == "shrink":
        for layer in reversed(layers):  # new channels of a later layer may read new ones of an earlier
            now = layer_by_key(child.model, layer.key)
            if now.out_channels == layer.out_channels:
                continue  # with another layer of its group
            try:
                child = child.then(plan_shrink(child.model, now, to=layer.out_channels).apply(child.model))
            except Refusal as refusal:
                refused[layer.index] = refusal
    return child, refused


def _fold(model: ir.Model, layer: LinearLayer, variant: str) -> list[Plan]:
    """What is folded again."""
    morph, _, kind = variant.partition(" ")
    return _PARTS[morph](model, layer, kind)


_PARTS: dict[str, Make] = {
    "deepen": _deepen,
    "widen": _widen,
    "shrink": _widen_to_shrink,
    "kernel": _kernel,
    "subnet": _subnet,
    "skip": _skip,
    "duplicate": _duplicate,
    "activate": _activate,
    "fold": _fold,
}

_VARIANTS = (
    *(f"widen {fill}" for fill in ("zero-out", "zero-in", "replicate", "pair", "mean", "interface")),
    "shrink",
    *("kernel +2", "kernel +1"),
    *(f"subnet {name}" for name in _TEMPLATES),
    *("skip add", "skip concat"),
    *("activate parametric", "activate to another"),
    "duplicate",
    *("fold deepen mirror", "fold widen replicate"),
)


def _any(model: ir.Model, layer: LinearLayer, variant: str) -> list[Plan]:
    morph, _, kind = variant.partition(" ")
    return _PARTS[morph](model, layer, kind)


_METHODS = ("auto", "mirror", "netmorph", "identity", "residual")

MORPHS = {
    "deepen": Morph(_METHODS, ("auto",), _deepen),
    "morphs": Morph(
        _VARIANTS, _VARIANTS, _any, _back, together=True, aims={"widen": 0.95, "kernel": 1.0, "subnet": 0.95}
    ),
}
"""What a sweep can be of."""
