"""One activation, however many nodes the exporter spelled it with.

`recognise` finds it behind a value, `named` makes one from what a person types, `emit` and `emit_parametric` spell one
in a model's own opset and type.
"""

from __future__ import annotations

from onnxmorph.graph.activations.activation import Activation, named
from onnxmorph.graph.activations.emission import emit, emit_parametric, why_not_emit
from onnxmorph.graph.activations.recognition import recognise

__all__ = ["Activation", "emit", "emit_parametric", "named", "recognise", "why_not_emit"]
