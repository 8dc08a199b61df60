"""The layer a morph is about: found by what a person typed, and found again in a child."""

from __future__ import annotations

from onnxmorph._ir import ir
from onnxmorph.errors import Refusal
from onnxmorph.graph.layers import LinearLayer, layers

__all__ = ["find_layer", "layer_by_key", "size_on_axis"]


def find_layer(model: ir.Model, layer: str | LinearLayer) -> LinearLayer:
    """``layer`` itself, or the one layer of ``model`` that the text selects.

    Raises:
        SelectionError: It selects none, or several.
    """
    if isinstance(layer, LinearLayer):
        return layer
    from onnxmorph.graph.select import select_one

    return select_one(layers(model), layer)


def layer_by_key(child: ir.Model, key: str) -> LinearLayer:
    """The layer with :attr:`LinearLayer.key`, which edits of other layers leave alone.

    Raises:
        Refusal: An earlier edit took it away.
    """
    for layer in layers(child):
        if layer.key == key:
            return layer
    raise Refusal(f"the model has no layer {key!r}", code="layer-gone")


def size_on_axis(layer: LinearLayer, size: int, to: int) -> int:
    """What ``to`` outputs are on the axis of :attr:`LinearLayer.output_axis`, which now holds ``size``: all of them but
    where the channels lie on several axes, of which the last one changes.

    Raises:
        Refusal: No size of that axis makes as many.
    """
    if not layer.several_axes:
        return to
    others = max(1, layer.out_channels // max(1, size))
    if to % others:
        near = to // others * others
        raise Refusal(
            f"the outputs of {layer.name} lie on several axes, of which the last one can change: {to} is no multiple of"
            f" {others}",
            way_out=f"{near + others} is" if near == 0 else f"{near} and {near + others} are",
            code="size-step",
        )
    return to // others
