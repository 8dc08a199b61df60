"""What each stored tensor is to the network: kernel, bias, scale of a norm, embedding, parameter of an activation ...

Training chooses what moves by role, not by type: the square root of a head's size, an image's mean, a mask of minus
infinities and a weight are all float tensors, and only the last one is to be trained. A role comes from the operand of
the operator that a tensor ends up in, found through whatever stands between (Transpose, Reshape, Cast, a weight norm).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.graph.constants import stored
from onnxmorph.graph.scopes import nodes
from onnxmorph.grow.sites import Site, sites
from onnxmorph.records import RECORD_KEY

__all__ = ["NATURALLY_TRAINED", "roles"]

NATURALLY_TRAINED = frozenset(
    {"kernel", "bias", "norm_scale", "norm_bias", "scale", "slope", "a", "embedding", "recurrent"}
)
"""Roles that are trained unless told otherwise. The others: ``running_mean``, ``running_var`` and ``constant``."""

_NORM = {1: "norm_scale", 2: "norm_bias"}
_OPERANDS: dict[tuple[str, str], Mapping[int, str]] = {
    ("", "Conv"): {1: "kernel", 2: "bias"},
    ("", "ConvTranspose"): {1: "kernel", 2: "bias"},
    ("", "DeformConv"): {1: "kernel", 3: "bias"},
    ("", "Gemm"): {0: "kernel", 1: "kernel", 2: "bias"},
    ("", "MatMul"): {0: "kernel", 1: "kernel"},
    ("", "Einsum"): {0: "kernel", 1: "kernel", 2: "kernel"},
    ("", "BatchNormalization"): {1: "norm_scale", 2: "norm_bias", 3: "running_mean", 4: "running_var"},
    ("", "InstanceNormalization"): _NORM,
    ("", "GroupNormalization"): _NORM,
    ("", "LayerNormalization"): _NORM,
    ("", "RMSNormalization"): {1: "norm_scale"},
    ("", "SimplifiedLayerNormalization"): {1: "norm_scale"},
    ("", "LSTM"): {1: "recurrent", 2: "recurrent", 3: "bias", 7: "recurrent"},
    ("", "GRU"): {1: "recurrent", 2: "recurrent", 3: "bias"},
    ("", "RNN"): {1: "recurrent", 2: "recurrent", 3: "bias"},
    ("", "Gather"): {0: "embedding"},
    ("", "PRelu"): {1: "slope"},
    ("com.microsoft", "FusedConv"): {1: "kernel", 2: "bias"},
    ("com.microsoft", "NhwcFusedConv"): {1: "kernel", 2: "bias"},
    ("com.microsoft", "FusedGemm"): {0: "kernel", 1: "kernel", 2: "bias"},
    ("com.microsoft", "FusedMatMul"): {0: "kernel", 1: "kernel"},
    ("com.microsoft", "GemmFastGelu"): {1: "kernel", 2: "bias"},
    ("com.microsoft", "BiasGelu"): {1: "bias"},
    ("com.microsoft", "FastGelu"): {1: "bias"},
    ("com.microsoft", "BiasAdd"): {1: "bias"},
    ("com.microsoft", "BiasSplitGelu"): {1: "bias"},
    ("com.microsoft", "Attention"): {1: "kernel", 2: "bias"},
    ("com.microsoft", "MultiHeadAttention"): {3: "bias"},
    ("com.microsoft", "GroupNorm"): _NORM,
    ("com.microsoft", "LayerNormalization"): _NORM,
    ("com.microsoft", "SimplifiedLayerNormalization"): {1: "norm_scale"},
    ("com.microsoft", "SkipLayerNormalization"): {2: "norm_scale", 3: "norm_bias", 4: "bias"},
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): {2: "norm_scale", 3: "bias"},
    ("com.microsoft", "EmbedLayerNormalization"): {
        2: "embedding",
        3: "embedding",
        4: "embedding",
        5: "norm_scale",
        6: "norm_bias",
    },
}
_LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "FusedMatMul"})
_LAYOUT = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast"})
_PASSING = frozenset({"Expand", "Tile", "Slice", *_LAYOUT})
"""What a table goes through, possibly to a size known only in a run, before it is added or concatenated."""
_LARGEST = 1e4
"""Numbers beyond this in an added constant make it a mask."""
_GROWN = re.compile(r"\.a(_\d+)?$")
"""Names that morphs give the parameter of a parametric activation."""
_STATISTICS = frozenset({"running_mean", "running_var"})
_PRIORITY = ("running_mean", "running_var", "a", "slope", "kernel", "recurrent", "norm_scale", "norm_bias")


def roles(model: ir.Model) -> dict[str, str]:
    """The role of each stored floating-point tensor, by the keys of `sites`."""
    return _Reading(model).roles()


class _Reading:
    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.sites = sites(model)
        self.grown = RECORD_KEY in model.metadata_props
        self.fixed: set[ir.Value] = set()
        """Values computed from nothing but stored tensors."""
        self.learned: set[ir.Value] = set()
        """Values that a trained tensor has had a part in."""
        self.given_to: dict[ir.Value, list[ir.Value]] = {}
        """What calls of a function give to each of its inputs."""
        self.found: dict[Site, set[str]] = {}
        self.normalised: set[ir.Value] = set()
        """Results of multiplying by the scale of a normalisation, which its bias is added to."""

    def roles(self) -> dict[str, str]:
        for function in self.model.functions.values():
            self.learned.update(function.inputs)
        for _, node in nodes(self.model):
            function_called = self.model.functions.get(node.op_identifier())
            if function_called is not None:
                for formal, given in zip(function_called.inputs, node.inputs, strict=False):
                    if given is not None:
                        self.given_to.setdefault(formal, []).append(given)
        for _, node in nodes(self.model):
            self._visit(node)
        out = {}
        for site in self.sites.values():
            kinds = self.found.get(site, set())
            if kinds & _STATISTICS and kinds - _STATISTICS:
                kinds = set()  # statistics that are a weight too, such as one vector of zeros: neither may move
            out[site.key] = next((kind for kind in _PRIORITY if kind in kinds), min(kinds, default="constant"))
        return out

    def _is_fixed(self, value: ir.Value | None) -> bool:
        if value is None:
            return False
        if value in self.given_to:
            return all(self._is_fixed(given) for given in self.given_to[value])
        return value in self.fixed or stored(value) is not None

    def _visit(self, node: ir.Node) -> None:
        domain = "" if node.domain == "ai.onnx" else node.domain
        given = [value for value in node.inputs if value is not None]
        if given and all(self._is_fixed(value) for value in given) and node.op_type not in ("If", "Loop", "Scan"):
            self.fixed.update(node.outputs)
        learned = any(value in self.learned for value in given)
        for place, role in _OPERANDS.get((domain, node.op_type), {}).items():
            value = node.inputs[place] if place < len(node.inputs) else None
            if self._is_fixed(value) and self._give(value, role):
                learned = True
        if domain == "" and node.op_type in ("Add", "Sub", "Mul", "Div", "Concat", "Sum"):
            learned = self._combined(node) or learned
        if learned or node.op_type in ("If", "Loop", "Scan") or self._is_function(node):
            self.learned.update(node.outputs)

    def _is_function(self, node: ir.Node) -> bool:
        return node.op_identifier() in self.model.functions

    def _give(self, value: ir.Value | None, role: str) -> bool:
        """Give a role to what ``value`` is computed from."""
        given = False
        for site in self._sources(value):
            kind = role
            if role == "slope" and self.grown and _GROWN.search(site.value.name or ""):
                kind = "a"
            if role == "embedding" and (self._few(site) or _is_rotary(site)):
                continue
            if role in ("kernel", "bias") and site.tensor.size <= 1 and site.value is not value:
                continue  # a factor on the way to the kernel
            self.found.setdefault(site, set()).add(kind)
            given = True
        return given

    def _sources(self, value: ir.Value | None, passing: frozenset[str] | None = None) -> Iterator[Site]:
        """Stored tensors that ``value`` is computed from as data, through ``passing`` operators, or all."""
        waiting, seen = [value], set()
        while waiting:
            here = waiting.pop()
            if here is None or here in seen:
                continue
            seen.add(here)
            if here in self.sites:
                yield self.sites[here]
                continue
            waiting.extend(self.given_to.get(here, ()))
            node = here.producer()
            if node is None or node.op_type in ("DequantizeLinear", "Shape", "Size", "ConstantOfShape", "Constant"):
                continue
            if passing is not None and node.op_type not in passing:
                continue
            waiting.extend(node.inputs[:1] if node.op_type in _PASSING else node.inputs)

    @staticmethod
    def _few(site: Site) -> bool:
        return len(site.tensor.shape) < 2

    def _combined(self, node: ir.Node) -> bool:
        """Tensors that are added to, multiplied with or put beside what the network computes."""
        operands = [value for value in node.inputs if value is not None]
        others = [value for value in operands if not self._is_fixed(value)]
        gave = False
        for value in operands:
            rest = [other for other in operands if other is not value]
            for site in self._sources(value, _PASSING):
                role = "a" if self._is_parameter_of_mix(node, site) else self._role_beside(node, site, others)
                # What meets only the inputs is a preparation of them, unless it belongs to a normalisation.
                counts = role in ("a", "norm_scale", "norm_bias") or any(other in self.learned for other in rest)
                if role is not None and counts:
                    self.found.setdefault(site, set()).add(role)
                    gave = True
                    if role == "norm_scale":
                        self.normalised.update(node.outputs)
        return gave

    def _role_beside(self, node: ir.Node, site: Site, others: list[ir.Value]) -> str | None:
        if node.op_type == "Div":
            return None
        makers = [self._maker(other) for other in others]
        after_linear = any(maker is not None and maker.op_type in _LINEAR for maker in makers)
        adds = node.op_type in ("Add", "Sub", "Sum")
        if site.tensor.size <= 1:
            return "bias" if adds and after_linear and len(site.tensor.shape) > 0 else None
        per_channel = sum(int(size) > 1 for size in site.tensor.shape.numpy()) == 1
        if node.op_type == "Concat":
            return "embedding" if _is_table(site) and len(site.tensor.shape) > 1 else None
        if node.op_type == "Mul":
            if not per_channel or not _moderate(site):
                return None
            normed = any(maker is not None and maker.op_type in ("Div", "InstanceNormalization") for maker in makers)
            return "norm_scale" if normed or self._standardised(others) else "scale"
        if any(other in self.normalised for other in others):
            return "norm_bias"
        if per_channel:
            return "bias" if _moderate(site) else None
        return "embedding" if _is_table(site) else None

    @staticmethod
    def _maker(value: ir.Value) -> ir.Node | None:
        """The node that computes a value, seen through changes of layout."""
        node = value.producer()
        while node is not None and node.op_type in _LAYOUT and node.inputs and node.inputs[0] is not None:
            node = node.inputs[0].producer()
        return node

    @staticmethod
    def _standardised(others: list[ir.Value]) -> bool:
        """``x * rsqrt(...)``: a product with a Reciprocal, or with something divided by a square root."""
        for other in others:
            node = other.producer()
            if node is not None and node.op_type == "Mul":
                makers = (value.producer() for value in node.inputs if value is not None)
                if any(maker is not None and maker.op_type in ("Reciprocal", "Sqrt", "Div") for maker in makers):
                    return True
        return False

    def _is_parameter_of_mix(self, node: ir.Node, site: Site) -> bool:
        """``a`` of ``(1 - a) phi(x) + a x``: subtracted from one, and a factor beside it."""
        if node.op_type not in ("Sub", "Mul"):
            return False
        users = site.value.consumers()
        subtracted = any(
            user.op_type == "Sub" and len(user.inputs) == 2 and user.inputs[1] is site.value and _is_one(user.inputs[0])
            for user in users
        )
        return subtracted and any(user.op_type == "Mul" for user in users)


def _is_one(value: ir.Value | None) -> bool:
    tensor = stored(value)
    return tensor is not None and tensor.size == 1 and float(np.asarray(tensor.numpy()).reshape(())) == 1.0


def _moderate(site: Site) -> bool:
    numbers = np.asarray(site.tensor.numpy(), dtype=np.float64)
    return bool(np.isfinite(numbers).all() and np.abs(numbers).max(initial=0.0) <= _LARGEST)


def _is_table(site: Site) -> bool:
    """Learned numbers rather than a grid of coordinates or a mask."""
    if not _moderate(site):
        return False
    numbers = np.asarray(site.tensor.numpy(), dtype=np.float64)
    return not np.array_equal(numbers, np.rint(numbers)) or not numbers.any()


def _is_rotary(site: Site) -> bool:
    """A table of cosines or sines by position: its rows follow the double-angle formulas from 1 or 0 on."""
    shape = site.tensor.shape.numpy()
    if len(shape) != 2 or shape[0] < 3 or shape[1] < 1:
        return False
    zero, one, two = (np.asarray(row, dtype=np.float64) for row in np.asarray(site.tensor.numpy()[:3]))
    if np.abs(one).max() > 1.0 + 1e-3:
        return False
    if np.allclose(zero, 1.0):
        return bool(np.allclose(two, 2 * one * one - 1, atol=1e-2))
    return bool(
        np.allclose(zero, 0.0)
        and one.any()
        and np.allclose(two, 2 * one * np.sqrt(np.maximum(0.0, 1 - one * one)), atol=1e-2)
    )
