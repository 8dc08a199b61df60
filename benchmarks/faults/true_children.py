"""Children that compute what their parent computes: every kind of morph, and rewrites that other tools make."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.errors import OnnxMorphError, Refusal
from onnxmorph.graph.layers import LinearLayer, layers
from onnxmorph.morphs import (
    plan_activate,
    plan_deepen,
    plan_duplicate,
    plan_fold,
    plan_kernel,
    plan_skip,
    plan_subnet,
    plan_widen,
)
from onnxmorph.plan import Plan, apply
from onnxmorph.verify.noise import graphs, tensors

__all__ = ["KINDS", "TrueChild", "true_children"]

_MOST_NUMBERS = 1 << 20
_TRIES = 4


@dataclass(frozen=True)
class TrueChild:
    """A child, how it was made, and what in it is new: names of constants and of computed values."""

    model: ir.Model
    kind: str
    what: str
    constants: frozenset[str]
    values: frozenset[str]


Planner = Callable[[ir.Model, LinearLayer, np.random.Generator], "Plan | Sequence[Plan]"]


def _seed(generator: np.random.Generator) -> int:
    return int(generator.integers(1 << 16))


def _deepen(method: str, **options: Any) -> Planner:
    return lambda model, layer, generator: plan_deepen(
        model,
        layer,
        method=method,
        kernel=int(generator.choice([1, 3])) if layer.kernel and generator.random() < 0.5 else None,
        seed=_seed(generator),
        **options,
    )


def _widen(fill: str | None) -> Planner:
    return lambda model, layer, generator: plan_widen(
        model, layer, by=float(generator.choice([1.25, 1.5, 2])), fill=fill, seed=_seed(generator)
    )


def _subnet(model: ir.Model, layer: LinearLayer, generator: np.random.Generator) -> Plan:
    size, out = "x".join(map(str, layer.kernel)) or "1", layer.out_channels
    templates = (f"({size}:{4 * out})(1:{out})", f"({size}:{4 * out})(1:{out})|({size}:{out})")
    return plan_subnet(model, layer, template=str(generator.choice(templates)), seed=_seed(generator))


def _skip(model: ir.Model, layer: LinearLayer, generator: np.random.Generator) -> Plan:
    found = [other for other in layers(model) if other.index < layer.index]
    if not found:
        raise Refusal("nothing comes before the first layer")
    mode = str(generator.choice(["add", "concat"]))
    return plan_skip(model, source=found[int(generator.integers(len(found)))], target=layer, mode=mode)


MORPHS: dict[str, Planner] = {
    "deepen mirror": _deepen("mirror"),
    "deepen mirror relu": _deepen("mirror", activation="relu"),
    "deepen netmorph": _deepen("netmorph"),
    "deepen identity": _deepen("identity"),
    "deepen residual": _deepen("residual"),
    "widen by default": _widen(None),
    "widen zero-in": _widen("zero-in"),
    "widen replicate": _widen("replicate"),
    "widen pair": _widen("pair"),
    "kernel": lambda model, layer, generator: plan_kernel(
        model, layer, to=[size + int(generator.choice([1, 2, 4])) for size in layer.kernel] or 3
    ),
    "subnet": _subnet,
    "skip": _skip,
    "duplicate": lambda model, layer, generator: plan_duplicate(model, layer, times=int(generator.integers(1, 3))),
    "activate": lambda model, layer, generator: plan_activate(
        model, layer, to=(None, "gelu", "tanh")[int(generator.integers(3))]
    ),
    "fold": lambda model, _layer, _generator: plan_fold(model),
}


def _resaved(model: ir.Model, _: np.random.Generator) -> ir.Model:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "again.onnx"
        files.save(model, path, external=False)
        return ir.from_proto(ir.to_proto(files.load(path)))


def _renamed(model: ir.Model, _: np.random.Generator) -> ir.Model:
    copy = files.clone(model)
    kept = {value.name for value in (*copy.graph.inputs, *copy.graph.outputs)}
    for node in copy.graph:
        node.name = f"renamed_{node.name}"
        for output in node.outputs:
            if output.name and output.name not in kept and not _used_below(output, copy.graph):
                output.name = f"renamed_{output.name}"
    return copy


def _used_below(value: ir.Value, graph: ir.Graph) -> bool:
    return any(use.node.graph is not graph for use in value.uses())


def _optimised(model: ir.Model, level: str) -> ir.Model:
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        ort.InferenceSession(
            ir.to_proto(model).SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
        )
        return ir.from_proto(ir.to_proto(files.load(options.optimized_model_filepath)))


def _constants_as_nodes(model: ir.Model, _: np.random.Generator) -> ir.Model:
    copy = files.clone(model)
    inputs = set(copy.graph.inputs)
    for name, value in list(copy.graph.initializers.items()):
        if value in inputs or value.is_graph_output() or not value.uses():
            continue
        assert value.const_value is not None
        node = ir.Node("", "Constant", [], attributes=[ir.AttrTensor("value", value.const_value)])
        first = next(iter(copy.graph))
        copy.graph.insert_before(first, node)
        ir.convenience.replace_all_uses_with(value, node.outputs[0])
        del copy.graph.initializers[name]
        value.name = f"{name}__old"
        node.outputs[0].name = name
    return copy


REWRITES: dict[str, Callable[[ir.Model, np.random.Generator], ir.Model]] = {
    "saved again": _resaved,
    "names changed": _renamed,
    "ONNX Runtime basic": lambda model, _: _optimised(model, "ORT_ENABLE_BASIC"),
    "ONNX Runtime extended": lambda model, _: _optimised(model, "ORT_ENABLE_EXTENDED"),
    "weights in Constant nodes": _constants_as_nodes,
}

KINDS = (*MORPHS, *REWRITES)


def true_children(parent: ir.Model, seed: int, *, most: int) -> Iterator[TrueChild]:
    """Children of random kinds, each kind at most once; kinds that refuse this model are passed over."""
    generator = np.random.default_rng([seed, 11])
    made = 0
    found = layers(parent)
    small = [
        layer for layer in found if layer.blocked is None and layer.out_channels * layer.in_channels < _MOST_NUMBERS
    ]
    for kind in generator.permutation(KINDS):
        if made >= most:
            return
        child = _rewritten(parent, str(kind), generator) if kind in REWRITES else None
        for _ in range(_TRIES if kind in MORPHS and small else 0):
            layer = small[int(generator.integers(len(small)))]
            try:
                plans = MORPHS[str(kind)](parent, layer, generator)
                grown = apply(parent, [plans] if isinstance(plans, Plan) else list(plans))
            except OnnxMorphError:
                continue
            if grown.is_morph and grown.changes:
                child = (grown.model, f"{kind} of {layer.name}")
                break
        if child is not None:
            made += 1
            yield _described(parent, child[0], str(kind), child[1])


def _rewritten(parent: ir.Model, kind: str, generator: np.random.Generator) -> tuple[ir.Model, str] | None:
    try:
        return REWRITES[kind](parent, generator), kind
    except Exception:  # another program that cannot read or write this model: no pair
        return None


def _described(parent: ir.Model, child: ir.Model, kind: str, what: str) -> TrueChild:
    known = {value.name for value in tensors(parent)}
    constants = frozenset(str(value.name) for value in tensors(child) if value.name not in known)
    before = {output.name for graph in graphs(parent) for node in graph for output in node.outputs}
    after = {str(output.name) for graph in graphs(child) for node in graph for output in node.outputs}
    return TrueChild(child, kind, what, constants, frozenset(after - before))
