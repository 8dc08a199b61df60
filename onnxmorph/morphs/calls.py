"""Functions of the model's own that are called several times: every call its own copy, while something is changed.

A function is one list of nodes, so that what passes through two calls of it would have to change alike. Where each call
has a copy, a layer behind one of them changes alone; copies that came out the same are one function again afterwards.
A function that holds the layer itself, or weights of its own, keeps its calls together: they have those in common.
"""

from __future__ import annotations

import copy
from collections import defaultdict

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.errors import Refusal
from onnxmorph.graph.constants import stored
from onnxmorph.graph.layers import LinearLayer, layers
from onnxmorph.morphs.target import layer_by_key

__all__ = ["fixed_width", "layers_apart", "merge_copies", "own_copies", "with_own_copies"]

Identifier = tuple[str, str, str]

MOST_COPIES = 1024
"""Copies; calls of calls of calls multiply, and beyond this many functions stay shared."""


def fixed_width(layer: LinearLayer) -> Refusal | None:
    """Why not even the width of a layer can change; a weight that a function is called with can, at its calls."""
    refusal = layer.fixed_width
    return None if refusal is not None and refusal.code == "weight-is-function-input" else refusal


def with_own_copies(model: ir.Model, layer: LinearLayer) -> tuple[ir.Model, LinearLayer]:
    """The model and the layer to plan with: a clone in which calls have their own functions, where any is shared."""
    if not _shared(model, _kept(model, layer)):
        return model, layer
    apart = files.clone(model)
    here = layer_by_key(apart, layer.key)
    own_copies(apart, here)
    return apart, here


def layers_apart(model: ir.Model) -> tuple[ir.Model, dict[str, LinearLayer]]:
    """A model in which calls have their own functions, and its layers by key: what to ask of all layers at once."""
    apart = model
    if _shared(model, _kept(model, None)):
        apart = files.clone(model)
        own_copies(apart)
    return apart, {layer.key: layer for layer in layers(apart)} if apart is not model else {}


def own_copies(model: ir.Model, layer: LinearLayer | None = None) -> dict[Identifier, Identifier]:
    """Give every call of a function its own copy, in place, but of functions that hold ``layer``, or weights.

    The first call keeps the function itself, so that nodes and values stay what they are.

    Returns:
        For every copy the function that it is a copy of.
    """
    kept = _kept(model, layer)
    origins: dict[Identifier, Identifier] = {}
    while shared := _shared(model, kept):
        identifier, calls = shared
        function = model.functions[identifier]
        for node in calls[1:]:
            if len(origins) >= MOST_COPIES:
                return origins
            twin = function.clone()
            twin.name = _free_name(model, identifier)
            for value in (*twin.inputs, *(output for inner in twin.all_nodes() for output in inner.outputs)):
                value.type = copy.copy(value.type)
            model.functions[twin.identifier()] = twin
            node.op_type = twin.name
            origins[twin.identifier()] = origins.get(identifier, identifier)
    return origins


def merge_copies(model: ir.Model, origins: dict[Identifier, Identifier]) -> None:
    """Make copies that are the same again one function, in place.

    Args:
        model: The model that :func:`own_copies` was given, edited since.
        origins: What that returned.
    """
    left = dict(origins)
    merged = bool(left)
    while merged:
        merged = False
        same: dict[tuple[Identifier, bytes], Identifier] = {}
        for identifier in [*dict.fromkeys(left.values()), *left]:
            key = (left.get(identifier, identifier), _content(model.functions[identifier]))
            first = same.setdefault(key, identifier)
            if first == identifier:
                continue
            for node in _calls(model)[identifier]:
                node.op_type = first[1]
            del model.functions[identifier]
            del left[identifier]
            merged = True


def _content(function: ir.Function) -> bytes:
    proto = ir.to_proto(function)
    proto.name = ""
    return bytes(proto.SerializeToString(deterministic=True))


def _calls(model: ir.Model) -> dict[Identifier, list[ir.Node]]:
    found: dict[Identifier, list[ir.Node]] = defaultdict(list)
    for graph in _graphs(model):
        for node in graph.all_nodes():
            if node.op_identifier() in model.functions:
                found[node.op_identifier()].append(node)
    return found


def _graphs(model: ir.Model) -> list[ir.Graph | ir.Function]:
    return [model.graph, *model.functions.values()]


def _shared(model: ir.Model, kept: set[Identifier]) -> tuple[Identifier, list[ir.Node]] | None:
    """A function that is called more than once, with its calls; ``None`` when there is none left."""
    if not model.functions:
        return None
    found = ((one, calls) for one, calls in _calls(model).items() if len(calls) > 1 and one not in kept)
    return next(found, None)


def _kept(model: ir.Model, layer: LinearLayer | None) -> set[Identifier]:
    """The functions that stay one for all their calls: of a layer, and of weights that the calls share."""
    kept = set()
    for identifier, function in model.functions.items():
        for node in function.all_nodes():
            tensor = stored(node.outputs[0]) if node.op_type == "Constant" and node.outputs else None
            weight = tensor is not None and tensor.dtype.is_floating_point() and tensor.size > 1
            if weight or (layer is not None and node is layer.node):
                kept.add(identifier)
                break
    return kept


def _free_name(model: ir.Model, identifier: Identifier) -> str:
    domain, name, overload = identifier
    taken = {node.op_type for graph in _graphs(model) for node in graph.all_nodes()}
    number = 2
    while (domain, f"{name}_{number}", overload) in model.functions or f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"
