"""Normalisations: per-channel parameters are carried, normalised axes get a condition."""

from __future__ import annotations

from onnxmorph.graph.axes.factors import Expr
from onnxmorph.graph.axes.site import Barrier, Site, rule

__all__: list[str] = []

_PER_CHANNEL_SCALE = 21
"""Since opset 21 GroupNormalization's scale has one entry per channel; before, one per group."""


def _parameter(site: Site, position: int, axis: Expr, role: str) -> None:
    """A vector with one entry per index of ``axis``."""
    if not site.has(position):
        return
    axes = site.axes(position)
    if len(axes) != 1:
        raise Barrier(f"{site.label} has a parameter of {len(axes)} axes")
    site.unify(axes[0], axis)
    site.role(position, 0, role)


@rule("BatchNormalization")
def batch_normalization(site: Site) -> None:
    """scale, B, mean, var over axis 1; in training mode also running mean and variance."""
    axes = site.axes(0)
    if len(axes) < 2:
        raise Barrier(f"{site.label} has an input without channels")
    for position, role in ((1, "scale"), (2, "shift"), (3, "mean"), (4, "variance")):
        _parameter(site, position, axes[1], role)
    site.give(0, axes)
    for output in range(1, len(site.node.outputs)):
        site.give(output, [axes[1]])


@rule("InstanceNormalization")
def instance_normalization(site: Site) -> None:
    """Normalised over the spatial axes; scale and B over axis 1."""
    axes = site.axes(0)
    if len(axes) < 2:
        raise Barrier(f"{site.label} has an input without channels")
    _parameter(site, 1, axes[1], "scale")
    _parameter(site, 2, axes[1], "shift")
    site.condition(axes[2:], "instancenorm")
    site.give(0, axes)


@rule("GroupNormalization")
def group_normalization(site: Site) -> None:
    """C = (num_groups, C/num_groups): groups are free, what is inside one is normalised together."""
    axes = site.axes(0)
    if len(axes) < 2:
        raise Barrier(f"{site.label} has an input without channels")
    row, inside = site.rows(axes[1], int(site.attribute("num_groups")), "num_groups")
    axis = row + inside
    for position, role in ((1, "scale"), (2, "shift")):
        _parameter(site, position, axis if site.opset >= _PER_CHANNEL_SCALE else row, role)
    if row:
        site.size_attribute("num_groups", row)
    site.condition([inside, *axes[2:]], "groupnorm")
    site.give(0, axes)


@rule("GroupNorm", domain="com.microsoft")
def group_norm(site: Site) -> None:
    """The fused form, channels last unless told otherwise."""
    axes = site.axes(0)
    place = len(axes) - 1 if site.attribute("channels_last", 1) else 1
    row, inside = site.rows(axes[place], int(site.attribute("groups")), "groups")
    _parameter(site, 1, row + inside, "scale")
    _parameter(site, 2, row + inside, "shift")
    if row:
        site.size_attribute("groups", row)
    site.condition([inside, *(expr for axis, expr in enumerate(axes) if axis not in (0, place))], "groupnorm")
    site.give(0, axes)


def _over_last_axes(site: Site, kind: str, axis: int, parameters: dict[int, str]) -> None:
    axes = site.axes(0)
    axis = site.axis(axis, len(axes))
    normalised = axes[axis:]
    for position, role in parameters.items():
        if site.has(position):
            site.broadcast([normalised, site.axes(position)])
            for place in range(len(site.axes(position))):
                site.role(position, place, role)
    site.condition(normalised, kind)
    site.give(0, axes)
    for output in range(1, len(site.node.outputs)):
        site.give(output, [*axes[:axis], *(() for _ in normalised)])


@rule("LayerNormalization")
def layer_normalization(site: Site) -> None:
    """Over the axes from ``axis`` on."""
    _over_last_axes(site, "layernorm", int(site.attribute("axis", -1)), {1: "scale", 2: "shift"})


@rule("RMSNormalization")
def rms_normalization(site: Site) -> None:
    """Over the axes from ``axis`` on, without centring."""
    _over_last_axes(site, "rmsnorm", int(site.attribute("axis", -1)), {1: "scale"})


@rule("SimplifiedLayerNormalization")
def simplified_layer_normalization(site: Site) -> None:
    """ONNX Runtime's name for RMSNormalization, in the standard domain."""
    _over_last_axes(site, "rmsnorm", int(site.attribute("axis", -1)), {1: "scale"})


@rule("SimplifiedLayerNormalization", domain="com.microsoft")
def microsoft_simplified_layer_normalization(site: Site) -> None:
    """The same in the contributed domain."""
    _over_last_axes(site, "rmsnorm", int(site.attribute("axis", -1)), {1: "scale"})


@rule("SkipLayerNormalization", domain="com.microsoft")
def skip_layer_normalization(site: Site) -> None:
    """layernorm(input + skip + bias); inputs: input, skip, gamma, beta, bias; last output: the sum."""
    _skip(site, "layernorm", {2: "scale", 3: "shift", 4: "bias"})


@rule("SkipSimplifiedLayerNormalization", domain="com.microsoft")
def skip_simplified_layer_normalization(site: Site) -> None:
    """rmsnorm(input + skip + bias); inputs: input, skip, gamma, bias."""
    _skip(site, "rmsnorm", {2: "scale", 3: "bias"})


def _skip(site: Site, kind: str, parameters: dict[int, str]) -> None:
    axes = site.broadcast([site.axes(0), site.axes(1)])
    for position, role in parameters.items():
        if site.has(position):
            site.unify(site.axes(position)[-1], axes[-1])
            site.role(position, site.rank(position) - 1, role)
    site.condition(axes[-1], kind)
    site.give(0, axes)
    for output in (1, 2):
        site.give(output, [*axes[:-1], ()])
    site.give(3, axes)


@rule("LpNormalization")
def lp_normalization(site: Site) -> None:
    """Divided by the norm over one axis."""
    axes = site.axes(0)
    axis = site.axis(int(site.attribute("axis", -1)), len(axes))
    site.condition(axes[axis], "l2" if int(site.attribute("p", 2)) == 2 else "l1")
    site.give(0, axes)


@rule("MeanVarianceNormalization")
def mean_variance_normalization(site: Site) -> None:
    """Over axes, by default all but channels."""
    axes = site.axes(0)
    over = site.integers("axes") or [0, 2, 3]
    site.condition([axes[site.axis(axis, len(axes))] for axis in over], "instancenorm")
    site.give(0, axes)


@rule("LRN")
def local_response_normalization(site: Site) -> None:
    """Over neighbouring channels: even their order matters."""
    axes = site.axes(0)
    site.condition(axes[1], "lrn", order=True)
    site.give(0, axes)


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(site: Site) -> None:
    """Over one axis; before opset 13 over all axes from ``axis`` on, which defaulted to 1."""
    axes = site.axes(0)
    hard = site.node.op_type == "Hardmax"  # of equal elements the first wins, so their order matters
    kind = "max" if hard else "softmax"
    if site.opset < 13:
        axis = int(site.attribute("axis", 1))
        over = axes[axis if axis == len(axes) else site.axis(axis, len(axes)) :]
    else:
        over = [axes[site.axis(int(site.attribute("axis", -1)), len(axes))]]
    site.condition(over, kind, order=hard)
    site.give(0, axes)


@rule("EmbedLayerNormalization", domain="com.microsoft")
def embed_layer_normalization(site: Site) -> None:
    """layernorm of three summed embeddings; inputs: ids, segments, three tables, gamma, beta, mask, positions."""
    ids = site.axes(0)
    width = site.axes(2)[1]
    for position in (2, 3, 4):
        if site.has(position):
            table = site.axes(position)
            site.pin(table[0], "vocabulary", f"rows of a table that {site.label} looks up")
            site.unify(table[1], width)
            site.role(position, 1, "embedding")
    _parameter(site, 5, width, "scale")
    _parameter(site, 6, width, "shift")
    site.condition(width, "layernorm")
    for position in (1, 7, 8):
        if site.has(position):
            site.pin(site.axes(position), "index", f"ids, mask or positions of {site.label}")
    site.give(0, [*ids, width])
    site.give(1, [ids[0]])
    site.give(2, [*ids, width])
