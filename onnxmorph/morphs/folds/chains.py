"""Linear layers in a row that are one: ``F2 * (F1 * x + b1) + b2 = (F2 * F1) * x + (b2 + sum F2 b1)`` (NM eq. 6).

Between two of them stands nothing (*linear*), or an activation over mirrored channels (*mirror*): where
``phi(u) - phi(-u) = c u``, pairs of rows ``v, -v`` read with ``z, -z`` are the one row ``v`` read with ``c z``.

When a composition is one convolution. Layer 1 has kernel ``k1``, stride ``s1``, dilation ``d1`` and pads ``p1``; what
layer 2 reads at tap ``v`` of place ``p`` is place ``s2 p + d2 v - p2`` of layer 1, which reads the input at
``s1 s2 p + s1 d2 v + d1 u - (s1 p2 + p1)``. So, per axis,

* the taps are a lattice where ``k1 = 1`` (of ``s1 d2``), ``k2 = 1`` (of ``d1``), or ``s1 d2 = d1``;
* the stride is ``s1 s2``, the padding ``p1 + s1 p2``;
* layer 2 may pad only where layer 1 would have computed 0 beyond its border: it has one tap there, stride 1, no padding
  and no bias (or, of a ConvTranspose, it crops nothing on that side).

A composition is taken where it has no more numbers than what it replaces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.edit import Builder, drop_unused, rename_node, rename_value, replace_uses, take_name
from onnxmorph.equation import compose
from onnxmorph.graph.affine import only_user
from onnxmorph.graph.kernels import WeightForm
from onnxmorph.graph.layers import LinearLayer
from onnxmorph.morphs.folds.finding import (
    Array,
    Edited,
    Finding,
    Rule,
    View,
    attempt,
    rename_between,
    shared_name,
    through_no_ops,
)
from onnxmorph.morphs.folds.parameters import bias_or_zeros, input_position, rounded, set_bias
from onnxmorph.morphs.folds.rims import cut, without, zero_rim
from onnxmorph.morphs.sequence import adds_bias, on_the_left

__all__ = ["ChainRule", "Geometry", "One", "geometry_of", "put"]

_ROUNDINGS = 8.0
"""An entry is zero to rounding below this many units of the root mean square of the products that cancel in it.

The entries of factors that solve the morphism equation for a 0 miss it by the rounding of each product, which add up
like independent errors of a quarter of a unit."""

_LEAST_BITS = 2.0**-20
"""Single entries are set to 0 in types with smaller units than this; of 16 bits, too many would be by chance."""

_FREE_GEMM_BIAS = 11


class ChainRule(Rule):
    """Chains of layers that are one layer.

    Args:
        mirrored: Whether chains with activations over mirrored channels are meant; else those without any.
        larger: Also where the composition has more numbers than the chain.
    """

    def __init__(self, *, mirrored: bool, larger: bool = False) -> None:
        self.kind = "mirror" if mirrored else "linear"  # type: ignore[misc]
        self._mirrored = mirrored
        self._larger = larger

    def find(self, view: View) -> Iterator[Finding]:
        """See :meth:`Rule.find`."""
        done: set[ir.Node] = set()
        for layer in view.foldable:
            if layer.node in done:
                continue
            chain = attempt(lambda layer=layer: self._chain(view, layer)) or []  # type: ignore[misc]
            for length in range(len(chain), 1, -1):
                links = chain[:length]
                if self._mirrored and not any(link.pairs is not None for link in links):
                    break
                composed = attempt(lambda links=links: _compose(links))  # type: ignore[misc]
                if composed is None or not (self._larger or composed.size <= sum(map(_numbers, links))):
                    continue
                done.update(link.layer.node for link in links)
                yield _finding(view, links, composed)
                break

    def _chain(self, view: View, first: LinearLayer) -> list[_Link]:
        links = [_Link(first, None, ())]
        geometry: Geometry | None = geometry_of(first)
        bias = bool(np.any(bias_or_zeros(first)))
        while geometry is not None:
            link = _next(view, links[-1].layer, mirrored=self._mirrored)
            if link is None:
                break
            geometry = _joined(geometry, first, link.layer, biased=bias)
            if geometry is None:
                break
            bias = bias or bool(np.any(bias_or_zeros(link.layer)))
            links.append(link)
        return links


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Mirrored channels: ``u`` at ``rows``, ``-u`` at their partners, weighed ``c`` together."""

    rows: Array
    slopes: Array


@dataclass(frozen=True, eq=False)
class _Link:
    """A layer of a chain with what stands before it: nothing, or an activation over pairs of channels."""

    layer: LinearLayer
    pairs: _Pairs | None
    between: tuple[ir.Node, ...]


@dataclass(frozen=True)
class Geometry:
    """Kernel, strides, dilations and pads of a convolution; ``pads`` unknown where only the first layer's spelling is.

    Attributes:
        plain: All that follows the first layer is pointwise, so that its attributes stay as they are.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, ...], tuple[int, ...]] | None
    plain: bool = True


@dataclass(frozen=True, eq=False)
class One:
    """The one layer several amount to: kernel in the model's type, bias in float64 (``None``: the last layer's own)."""

    kernel: Array
    bias: Array | None
    geometry: Geometry

    @property
    def size(self) -> int:
        """Numbers of kernel and bias."""
        return int(self.kernel.size + self.kernel.shape[0])


def geometry_of(layer: LinearLayer) -> Geometry:
    """What a layer's attributes say; Gemm and MatMul have no axes."""
    pads = None
    if layer.pads is not None and layer.pads.explicit is not None and not layer.pads.sized:
        pads = layer.pads.explicit
    return Geometry(layer.kernel, layer.strides, layer.dilations, pads if layer.kernel else ((), ()))


def _numbers(link: _Link) -> int:
    layer = link.layer
    return layer.out_channels * (layer.in_channels // layer.groups) * int(np.prod(layer.kernel)) + layer.out_channels


def _next(view: View, layer: LinearLayer, *, mirrored: bool) -> _Link | None:
    """The layer that alone reads ``layer``, through nothing or through an activation over mirrored channels."""
    follows = through_no_ops(layer.output)
    if follows is not None and follows[0] in view.by_node:
        found = view.by_node[follows[0]]
        if _joins(layer, found) and found.input is (follows[1][-1].outputs[0] if follows[1] else layer.output):
            return _Link(found, None, tuple(follows[1]))
    phi = layer.activation
    if not mirrored or phi is None or phi.output is None or phi.input is not layer.output:
        return None
    if phi.odd_slope is None or layer.affine is not None or layer.layout_before_activation:
        return None
    if phi.output.is_graph_output():
        return None
    follows = through_no_ops(phi.output)
    found_layer = None if follows is None else view.by_node.get(follows[0])
    if follows is None or found_layer is None or not _joins(layer, found_layer):
        return None
    if found_layer.input is not (follows[1][-1].outputs[0] if follows[1] else phi.output):
        return None
    slopes = np.broadcast_to(np.asarray(phi.odd_slope, dtype=np.float64).reshape(-1), (layer.out_channels,))
    pairs = _mirrored_pairs(layer, found_layer, slopes)
    return None if pairs is None else _Link(found_layer, pairs, (*phi.nodes, *follows[1]))


def _joins(one: LinearLayer, two: LinearLayer) -> bool:
    """Whether two layers speak of the same channels in the same way."""
    if one.dtype != two.dtype or one.groups != two.groups or one.graph is not two.graph:
        return False
    if one.out_channels != two.in_channels:
        return False
    if (one.op, two.op) == ("ConvTranspose", "Conv"):
        return True
    if one.op != two.op or one.op == "ConvTranspose":
        return False
    return two.input_axis == (1 if one.op in ("Gemm", "Conv") else one.output_axis)


def _mirrored_pairs(one: LinearLayer, two: LinearLayer, slopes: Array) -> _Pairs | None:
    """Partners of all channels between two layers, to the last bit; ``None`` where some has none."""
    first = one.kernel_array().reshape(one.out_channels, -1)
    second = two.kernel_array()
    per_group, groups = one.out_channels // one.groups, one.groups
    readers = second.reshape(groups, second.shape[0] // groups, per_group, -1)
    columns = np.moveaxis(readers, 2, 1).reshape(one.out_channels, -1)
    bias = bias_or_zeros(one)[:, None].astype(first.dtype)
    rows = np.concatenate([first, bias, columns], axis=1) + first.dtype.type(0)  # -0 becomes 0
    mirrored = -rows + first.dtype.type(0)
    waiting: dict[tuple[int, float, bytes], list[int]] = {}
    kept: list[int] = []
    for channel in range(one.out_channels):
        group, slope = channel // per_group, float(slopes[channel])
        partners = waiting.get((group, slope, mirrored[channel].tobytes()))
        if partners:
            kept.append(partners.pop())
        else:
            waiting.setdefault((group, slope, rows[channel].tobytes()), []).append(channel)
    if any(waiting.values()):
        return None
    order = np.array(sorted(kept), dtype=np.int64)
    return _Pairs(order, slopes[order])


# -- geometry --------------------------------------------------------------------------------------------------------


def _joined(one: Geometry, first: LinearLayer, layer: LinearLayer, *, biased: bool) -> Geometry | None:
    """Geometry of what came before, which began with ``first``, and one more layer; ``None``: no convolution."""
    if not layer.kernel:
        return one
    if first.op == "ConvTranspose":
        return _transposed(first, layer, one, biased=biased)
    two = geometry_of(layer)
    ones = (1,) * len(layer.kernel)
    if two.pads is None:
        return None
    unpadded = not any(two.pads[0]) and not any(two.pads[1])
    if two.kernel == ones and two.strides == ones and unpadded:
        return one
    if one.pads is None:
        return None
    kernel, strides, dilations = [], [], []
    begin: list[int] = []
    end: list[int] = []
    for axis in range(len(ones)):
        k1, s1, d1 = one.kernel[axis], one.strides[axis], one.dilations[axis]
        k2, s2, d2 = two.kernel[axis], two.strides[axis], two.dilations[axis]
        p1, p2 = (one.pads[0][axis], one.pads[1][axis]), (two.pads[0][axis], two.pads[1][axis])
        if any(p2) and (biased or k1 != 1 or s1 != 1 or any(p1)):
            return None
        if k1 > 1 and k2 > 1 and s1 * d2 != d1:
            return None
        kernel.append(k1 + k2 - 1)
        strides.append(s1 * s2)
        dilations.append(d1 if k2 == 1 else s1 * d2)
        begin.append(p1[0] + s1 * p2[0])
        end.append(p1[1] + s1 * p2[1])
    return Geometry(tuple(kernel), tuple(strides), tuple(dilations), (tuple(begin), tuple(end)), plain=False)


def _transposed(one: LinearLayer, layer: LinearLayer, geometry: Geometry, *, biased: bool) -> Geometry | None:
    """A ConvTranspose and a convolution on its dense output: ``pad = pad1 + d (k2 - 1) - p2``."""
    two = geometry_of(layer)
    ones = (1,) * len(layer.kernel)
    if two.pads is None or two.strides != ones:
        return None
    if two.kernel == ones and not any(two.pads[0]) and not any(two.pads[1]):
        return geometry
    if geometry.pads is None or one.pads is None:
        return None
    kernel, dilations = [], []
    pads: tuple[list[int], list[int]] = ([], [])
    extra = one.pads.output_padding or (0,) * len(ones)
    for axis in range(len(ones)):
        k1, d1, k2, d2 = geometry.kernel[axis], geometry.dilations[axis], two.kernel[axis], two.dilations[axis]
        if k1 > 1 and k2 > 1 and d1 != d2:
            return None
        dilation = d2 if k1 == 1 else d1
        for side in (0, 1):
            crop, pad = geometry.pads[side][axis], two.pads[side][axis]
            if pad and (biased or crop > (extra[axis] if side else 0)):
                return None  # what is cropped there is not zero
            new = crop + dilation * (k2 - 1) - pad
            if new < 0:
                return None
            pads[side].append(new)
        kernel.append(k1 + k2 - 1)
        dilations.append(dilation)
    return Geometry(tuple(kernel), geometry.strides, tuple(dilations), (tuple(pads[0]), tuple(pads[1])), plain=False)


# -- composition -----------------------------------------------------------------------------------------------------


def _compose(links: Sequence[_Link]) -> One | None:
    """What a chain amounts to; ``None`` where it is no layer, or one that the type cannot hold."""
    first, last = links[0].layer, links[-1].layer
    geometry: Geometry | None = geometry_of(first)
    factors: list[Array] = []
    bias = np.zeros(0)
    for index, link in enumerate(links):
        layer = link.layer
        if index:
            biased = bool(np.any(bias))
            assert geometry is not None
            geometry = _joined(geometry, first, layer, biased=biased)
            if geometry is None:
                return None
        factor = layer.kernel_array().astype(np.float64)
        own = bias_or_zeros(layer)
        if link.pairs is not None:
            factors[-1] = factors[-1][link.pairs.rows]
            bias = bias[link.pairs.rows]
            factor = _columns(factor, link.pairs, layer.groups)
        if index:
            own = own + _through(factor, bias, layer.groups)
        factors.append(factor)
        bias = own
    assert geometry is not None
    groups = first.groups
    whole = compose(factors, groups)
    unit = float(np.finfo(last.dtype.numpy()).eps) if last.dtype.numpy().kind == "f" else 2.0**-7
    noise = np.sqrt(compose([np.square(factor) for factor in factors], groups)) * (_ROUNDINGS * unit)
    if unit < _LEAST_BITS:
        whole[np.abs(whole) <= noise] = 0
    if whole.ndim > 2 and not geometry.plain and geometry.pads is not None:
        axes = (0, 1)
        rim = zero_rim(np.all(np.abs(whole) <= noise, axis=axes))
        rim = _allowed(first, rim, geometry)
        whole, geometry = without(whole, rim), _smaller(first, geometry, rim)
    kernel, shift = rounded(whole, last.dtype), rounded(bias[:, None], last.dtype)
    if kernel is None or shift is None:
        return None
    carried = any(np.any(bias_or_zeros(link.layer)) for link in links[:-1])
    return One(kernel, shift.reshape(-1) if carried else None, geometry)


def _columns(factor: Array, pairs: _Pairs, groups: int) -> Array:
    """The columns of kept channels, times ``c``."""
    outputs, per_group = factor.shape[:2]
    grouped = factor.reshape(groups, outputs // groups, *factor.shape[1:])
    half = pairs.rows.reshape(groups, -1) % per_group
    taken = np.stack([grouped[group][:, half[group]] for group in range(groups)])
    weighed = taken * pairs.slopes.reshape(groups, 1, half.shape[1], *(1,) * (factor.ndim - 2))
    return weighed.reshape(outputs, half.shape[1], *factor.shape[2:])


def _through(factor: Array, bias: Array, groups: int) -> Array:
    """``sum over taps and channels of F b``, per output."""
    taps = factor.reshape(groups, factor.shape[0] // groups, factor.shape[1], -1).sum(axis=-1)
    return np.asarray(np.einsum("gjl,gl->gj", taps, bias.reshape(groups, -1)).reshape(-1))


def _allowed(first: LinearLayer, rim: Any, geometry: Geometry) -> Any:
    assert geometry.pads is not None
    if first.op != "ConvTranspose":
        return cut(rim, geometry.pads, geometry.dilations)
    turned = tuple((after, before) for before, after in rim)
    return tuple((after, before) for before, after in cut(turned, geometry.pads, geometry.dilations))


def _smaller(first: LinearLayer, geometry: Geometry, rim: Any) -> Geometry:
    assert geometry.pads is not None
    stored = tuple((after, before) for before, after in rim) if first.op == "ConvTranspose" else rim
    begin = tuple(p - d * b for p, d, (b, _) in zip(geometry.pads[0], geometry.dilations, stored, strict=True))
    end = tuple(p - d * e for p, d, (_, e) in zip(geometry.pads[1], geometry.dilations, stored, strict=True))
    kernel = tuple(size - before - after for size, (before, after) in zip(geometry.kernel, rim, strict=True))
    return Geometry(kernel, geometry.strides, geometry.dilations, (begin, end), plain=False)


# -- writing ---------------------------------------------------------------------------------------------------------


def _finding(view: View, links: Sequence[_Link], composed: One) -> Finding:
    chain = [link.layer for link in links]
    first, last = chain[0], chain[-1]
    mirrored = any(link.pairs is not None for link in links)
    between = [node for link in links for node in link.between]

    def edit() -> Edited:
        output = put(view.model, chain, first, last, composed)
        return Edited((last.output.name or output.name or "",), (output.producer(),) if output.producer() else ())  # type: ignore[arg-type]

    names = " and ".join(layer.name for layer in chain) if len(chain) < 4 else f"{first.name} ... {last.name}"
    how = "mirrored channels between them" if mirrored else "nothing between them"
    size = "x".join(map(str, composed.kernel.shape))
    text = f"{names}: {how}, one {first.op} of {size}"
    touches = frozenset[object]((*(node for layer in chain for node in layer.nodes), *between))
    return Finding(view.place(last.output), text, touches, edit)


def put(model: ir.Model, parts: Sequence[LinearLayer], first: LinearLayer, last: LinearLayer, one: One) -> ir.Value:
    """Write one layer on the input of ``first`` in the place of the node of ``last``, whose bias node stays.

    Args:
        model: Edited in place.
        parts: All layers that the new one replaces; their names make its name.
        first: Says how the data comes in: operator, side, transA, the spelling of the padding.
        last: Says what comes out: the name of the output, the bias where ``one`` has none.
        one: The layer.
    """
    node = last.node
    build = Builder(model, last.graph, before=node)
    form = WeightForm(
        first.op, first.groups, out_first=first.op == "Gemm" or on_the_left(first), equation=first.equation
    )
    weight_name = shared_name([_weight_name(layer) for layer in parts])
    weight = build.initializer(f"{weight_name}.folded", np.ascontiguousarray(form.weight(one.kernel)))
    source = first.node.inputs[input_position(first)]
    attributes: dict[str, Any] = {}
    if first.kernel:
        attributes = dict(first.node.attributes.items())
        attributes["kernel_shape"] = list(one.geometry.kernel)
        if not one.geometry.plain and one.geometry.pads is not None:
            attributes.pop("auto_pad", None)
            attributes |= {
                "pads": [*one.geometry.pads[0], *one.geometry.pads[1]],
                "strides": list(one.geometry.strides),
                "dilations": list(one.geometry.dilations),
            }
    elif first.op == "Gemm":
        attributes = {"transB": 1}
        if "transA" in first.node.attributes:
            attributes["transA"] = first.node.attributes["transA"]
        if one.bias is None and "beta" in node.attributes:
            attributes["beta"] = node.attributes["beta"]
    elif first.equation is not None:
        attributes = {"equation": first.node.attributes["equation"]}
    inputs: list[ir.Value | None] = [weight, source] if input_position(first) else [source, weight]
    kept_bias = node.inputs[2] if len(node.inputs) > 2 and not adds_bias(last) else None
    if kept_bias is not None:
        inputs.append(kept_bias)
    elif first.op == "Gemm" and build.opset < _FREE_GEMM_BIAS:
        zeros = np.zeros(last.out_channels, dtype=one.kernel.dtype)
        inputs.append(build.initializer(f"{weight_name}.bias", zeros))
    node_name = shared_name([layer.node.name or layer.name for layer in parts])
    new = build.node(first.op, inputs, name=f"{node_name}.folded", output=f"{node_name}.folded", **attributes)
    written = new.producer()
    if one.bias is not None:
        last = replace(last, label=weight_name.removesuffix(".weight"))
    old = node.outputs[0]
    if written is not None:
        written.metadata_props.update(node.metadata_props)
        if one.bias is not None:
            _write_bias(model, last, written, one.bias)
    if written is not None and len(last.nodes) == 1 and adds_bias(last) and one.bias is not None:
        # The bias got a node of its own behind the new one, which has taken its name.
        adder = only_user(written.outputs[0])
        new = new if adder is None else adder.outputs[0]
    replace_uses(old, new)
    take_name(model, new, old)
    drop_unused(model, [node])
    if one.bias is not None and len(last.nodes) > 1:
        rename_between(model, new, last.output.name or "")
    rename_value(model, weight, weight_name)
    if written is not None:
        rename_node(model, written, node_name)
    return new


def _weight_name(layer: LinearLayer) -> str:
    root = layer.weight.root
    return (root.name if root is not None else None) or f"{layer.label}.weight"


def _write_bias(model: ir.Model, last: LinearLayer, written: ir.Node, bias: Array) -> None:
    """The composed bias, where the last layer keeps its own: on its Add, or on the new node."""
    if len(last.nodes) > 1:
        set_bias(model, last, bias)
    else:
        set_bias(model, replace(last, node=written, nodes=(written,)), bias)
