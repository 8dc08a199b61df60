"""The activation between two factors of a layer: which one, and its nodes."""

from __future__ import annotations

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.edit import Builder
from onnxmorph.graph.activations import Activation, emit, emit_parametric, named
from onnxmorph.graph.layers import LinearLayer
from onnxmorph.morphs.sequence import LayerNames, channel_rank

__all__ = ["emit_inner", "layers_own"]


def layers_own(layer: LinearLayer) -> Activation:
    """The activation that follows a layer, as it can stand within; ReLU where there is none, or none with a name."""
    own = layer.activation
    if own is None or own.name == "Custom":
        return named("Relu")
    return named(own.name, **own.means())


def emit_inner(
    build: Builder,
    layer: LinearLayer,
    names: LayerNames,
    phi: Activation,
    x: ir.Value,
    *,
    channels: int,
    a: float | np.ndarray | None,
    part: str = "act",
) -> ir.Value:
    """The nodes of an activation on what a factor of ``layer`` gives.

    Args:
        build: Where nodes go.
        layer: The layer that is replaced or followed.
        names: Names of its parts.
        phi: The activation.
        x: Output of the factor, its channels where those of the layer's output are.
        channels: Of ``x``.
        a: Of a P-activation (NM eq. 9), one number or one per channel: at 1 it is the identity. ``None``: plain.
        part: Name of the part.

    Returns:
        What it gives.
    """
    output = names.value(part)
    if a is None:
        return emit(build, phi, x, output_name=output, channels=channels, dtype=layer.dtype)
    return emit_parametric(
        build,
        phi,
        x,
        a=a,
        per_channel=True,
        channels=channels,
        channel_axis=layer.output_axis,
        rank=channel_rank(layer),
        label=names.part(part),
        output_name=output,
        dtype=layer.dtype,
    )
