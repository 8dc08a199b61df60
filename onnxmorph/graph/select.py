"""From what a person types to linear layers.

A text is tried in this order, and the first kind that finds anything decides:

1. the exact name of the layer's node, or of the Add or Sub that carries its bias; its key;
2. the exact name of an output: of the layer, or of its linear node before the bias. Not that of a normalisation or an
   activation behind it, which is another value;
3. the name of its weight, with or without ``.weight``; its label, which is mostly that;
4. path components: ``conv3`` finds ``/features/conv3/Conv``, ``layer1.0.conv1`` finds ``/layer1/layer1.0/conv1/Conv``.
   Names are cut at ``/`` and ``.``, and the components typed must follow each other;
5. a glob over names, labels, outputs and weights: ``/layer1/*``, ``*conv?``;
6. a glob over path components: ``conv*`` finds ``/features/conv3/Conv`` where it finds no whole name;
7. ``#N``, the N-th layer of the table from 0; ``#-1`` is the last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from onnxmorph.errors import SelectionError
from onnxmorph.graph.labels import article

if TYPE_CHECKING:
    from onnxmorph._ir import ir
    from onnxmorph.graph.layers import LinearLayer

__all__ = ["select", "select_one"]

_MOST_LISTED = 10
_WEIGHT_SUFFIXES = (".weight", "/weight", "_weight", ".kernel", "/kernel", ".W", "_W", "_w")


def select(layers: Sequence[LinearLayer], what: str) -> list[LinearLayer]:
    """Every layer that ``what`` names, in the order of ``layers``.

    Raises:
        SelectionError: None does. The message names the nearest layers, or says what the text is the name of and which
            layer feeds it.
    """
    text = what.strip()
    if not text:
        raise SelectionError("no layer is named")
    for matches in _KINDS:
        found = [layer for layer in layers if matches(layer, text)]
        if found:
            return found
    numbered = re.fullmatch(r"#([+-]?\d{1,9})", text)
    if numbered is not None:
        return [_numbered(layers, int(numbered.group(1)))]
    raise SelectionError(_nothing(layers, text))


def select_one(layers: Sequence[LinearLayer], what: str) -> LinearLayer:
    """The one layer that ``what`` names.

    Raises:
        SelectionError: None does, or several; the message lists them.
    """
    found = select(layers, what)
    if len(found) == 1:
        return found[0]
    listed = ", ".join(_shown(layer) for layer in found[:_MOST_LISTED])
    rest = f" and {len(found) - _MOST_LISTED} more" if len(found) > _MOST_LISTED else ""
    raise SelectionError(
        f"'{what.strip()}' names {len(found)} layers: {listed}{rest}; give one, such as {_best(found)}"
    )


def _best(found: Sequence[LinearLayer]) -> str:
    """What to type for the first of several: its name where that is its own, else its number."""
    first = found[0]
    alone = sum(layer.name == first.name for layer in found) == 1
    return f"'{first.name}'" if alone else f"'#{first.index}'"


def _shown(layer: LinearLayer) -> str:
    return f"#{layer.index} {layer.name}"


def _numbered(layers: Sequence[LinearLayer], number: int) -> LinearLayer:
    """By position in the table; negative from the end."""
    if not layers:
        raise SelectionError(f"there is no layer #{number}: the model has no linear layers")
    wanted = number + len(layers) if number < 0 else number
    if not 0 <= wanted < len(layers):
        raise SelectionError(f"there is no layer #{number}: the model has layers #0 to #{len(layers) - 1}")
    return layers[wanted]


def _outputs(layer: LinearLayer) -> Iterator[str]:
    yield from (value.name for value in (layer.output, *(node.outputs[0] for node in layer.nodes)) if value.name)


def _weights(layer: LinearLayer) -> Iterator[str]:
    """The weight's name as stored and as used, each as it is and without its suffix; the label."""
    yield layer.label
    values = [value for value in (layer.weight.root, layer.weight.value) if value is not None]
    for name in {value.name: None for value in values if value.name}:
        if name is None:
            continue
        yield name
        yield from (name[: -len(suffix)] for suffix in _WEIGHT_SUFFIXES if name.endswith(suffix))


def _names(layer: LinearLayer) -> Iterator[str]:
    yield layer.name
    yield from (node.name for node in layer.nodes if node.name)


def _everything(layer: LinearLayer) -> Iterator[str]:
    yield from _names(layer)
    yield from _outputs(layer)
    yield from _weights(layer)


def _components(name: str) -> list[str]:
    return [part for part in re.split(r"[/.]", name) if part]


def _follows(wanted: Sequence[str], name: str) -> bool:
    """Whether the components ``wanted`` stand one after another in ``name``."""
    parts = _components(name)
    return any(parts[start : start + len(wanted)] == wanted for start in range(len(parts) - len(wanted) + 1))


def _by_path(layer: LinearLayer, text: str) -> bool:
    wanted = _components(text)
    return bool(wanted) and any(_follows(wanted, name) for name in _everything(layer))


def _by_glob(layer: LinearLayer, text: str) -> bool:
    return any(character in text for character in "*?[") and any(fnmatchcase(name, text) for name in _everything(layer))


def _by_glob_of_path(layer: LinearLayer, text: str) -> bool:
    wanted = _components(text)
    if not wanted or not any(character in text for character in "*?["):
        return False
    for name in _everything(layer):
        parts = _components(name)
        for start in range(len(parts) - len(wanted) + 1):
            if all(fnmatchcase(part, pattern) for part, pattern in zip(parts[start:], wanted, strict=False)):
                return True
    return False


_KINDS: tuple[Callable[[LinearLayer, str], bool], ...] = (
    lambda layer, text: text in (*_names(layer), layer.key),
    lambda layer, text: text in _outputs(layer),
    lambda layer, text: text in _weights(layer),
    _by_path,
    _by_glob,
    _by_glob_of_path,
)


def _nothing(layers: Sequence[LinearLayer], text: str) -> str:
    """Why a text names no layer: it is something else, or it is misspelled."""
    import difflib

    if not layers:
        return f"'{text}' names no layer: the model has no linear layers"
    other = _other_node(layers, text)
    if other is not None:
        return other
    names = {name: layer for layer in reversed(layers) for name in _everything(layer)}
    nearest = difflib.get_close_matches(text, names, n=5, cutoff=0.72)
    if not nearest:
        folded = {name.lower(): name for name in names}
        nearest = [folded[near] for near in difflib.get_close_matches(text.lower(), folded, n=5, cutoff=0.72)]
    if not nearest:
        last = {_components(name)[-1]: name for name in names if _components(name)}
        nearest = [last[near] for near in difflib.get_close_matches(text, last, n=5, cutoff=0.6)]
    if nearest:
        return f"'{text}' names no layer; did you mean {_either(_distinct(nearest, names))}?"
    some = ", ".join(_shown(layer) for layer in layers[:_MOST_LISTED])
    rest = f" and {len(layers) - _MOST_LISTED} more" if len(layers) > _MOST_LISTED else ""
    return f"'{text}' names no layer; there are {some}{rest}"


def _distinct(nearest: Iterable[str], layer_of: dict[str, LinearLayer]) -> list[str]:
    """One name per layer, the nearest first."""
    chosen: dict[int, str] = {}
    for name in nearest:
        chosen.setdefault(layer_of[name].index, f"'{name}'")
    return list(chosen.values())[:3]


def _either(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _other_node(layers: Sequence[LinearLayer], text: str) -> str | None:
    """What ``text`` names if it is no linear layer: a node, a value or a stored tensor; and the layer that feeds it."""
    graphs = list({id(_graph(layer)): _graph(layer) for layer in layers}.values())
    for graph in graphs:
        for node in graph:
            names = [node.name, *(value.name for value in node.outputs)]
            if text in names:
                what = f"'{text}' is {article(node.op_type)}" + ("" if text == node.name else "'s output")
                return f"{what}, no linear layer{_fed_by(layers, node)}"
    for layer in layers:
        if layer.bias is not None and any(
            value is not None and value.name == text for value in (layer.bias.root, layer.bias.value)
        ):
            return f"'{text}' is the bias of {_shown(layer)}; write '{layer.name}'"
    for graph in graphs:
        if any(value.name == text for value in graph.inputs):
            return f"'{text}' is an input, no linear layer"
    return None


def _graph(layer: LinearLayer) -> ir.Graph | ir.Function:
    return layer.graph


def _fed_by(layers: Sequence[LinearLayer], node: ir.Node) -> str:
    """The nearest layer upstream of ``node``, breadth first, as a clause of a sentence."""
    layer_of = {member: layer for layer in layers for member in layer.nodes}
    waiting, seen = [node], {node}
    while waiting:
        here = waiting.pop(0)
        if here in layer_of:
            layer = layer_of[here]
            return f"; the layer that feeds it is {_shown(layer)}"
        for value in here.inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and producer not in seen:
                seen.add(producer)
                waiting.append(producer)
    return ""
