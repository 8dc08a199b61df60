"""Grow trained ONNX models without changing what they compute.

::

    import onnxmorph as om
    from onnxmorph.verify import verify

    parent = om.load("model.onnx")
    child = om.plan_deepen(parent, "conv3").apply(parent)
    assert verify(parent, child.model).equivalent
    om.save(child.model, "deeper.onnx")

Names are imported when they are first used, so that ``import onnxmorph`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxmorph._on_use import names_on_use
from onnxmorph.errors import ModelError, NotEquivalent, OnnxMorphError, Refusal, RuntimeFailure, SelectionError

if TYPE_CHECKING:
    from onnxmorph import train
    from onnxmorph.graph.layers import LinearLayer, layers
    from onnxmorph.model import load, save
    from onnxmorph.morphs import (
        plan_activate,
        plan_deepen,
        plan_duplicate,
        plan_fold,
        plan_from_record,
        plan_kernel,
        plan_shrink,
        plan_skip,
        plan_subnet,
        plan_widen,
    )
    from onnxmorph.plan import Child, Plan, apply
    from onnxmorph.recipe import carry_out, read_recipe
    from onnxmorph.verify import Certificate

__all__ = [
    "Certificate",
    "Child",
    "LinearLayer",
    "ModelError",
    "NotEquivalent",
    "OnnxMorphError",
    "Plan",
    "Refusal",
    "RuntimeFailure",
    "SelectionError",
    "__version__",
    "apply",
    "carry_out",
    "layers",
    "load",
    "plan_activate",
    "plan_deepen",
    "plan_duplicate",
    "plan_fold",
    "plan_from_record",
    "plan_kernel",
    "plan_shrink",
    "plan_skip",
    "plan_subnet",
    "plan_widen",
    "read_recipe",
    "save",
    "train",
]

__version__ = "0.1.0"

_HOMES = {
    "graph.layers": ("LinearLayer", "layers"),
    "model": ("load", "save"),
    "morphs": (
        "plan_activate",
        "plan_deepen",
        "plan_duplicate",
        "plan_fold",
        "plan_from_record",
        "plan_kernel",
        "plan_shrink",
        "plan_skip",
        "plan_subnet",
        "plan_widen",
    ),
    "plan": ("Child", "Plan", "apply"),
    "recipe": ("carry_out", "read_recipe"),
    "verify": ("Certificate",),
    "train": (),
}


__getattr__, __dir__ = names_on_use(__name__, _HOMES)
