"""Recipes: several morphs in one go, written in TOML, planned as a whole.

::

    seed = 1

    [[step]]
    morph = "deepen"
    layers = "features.*"                                    # what a person types; globs select several; default "*"
    where = { op = "Conv", kernel = "3x3", min_out = 64, last = 2 }
    method = "mirror"
    width = "x2"

    [[step]]
    morph = "activate"
    on_refusal = "skip"                                      # default "fail": a layer that refuses fails the recipe

    [[step]]
    morph = "skip"                                           # between two layers: "from" and "to" in place of "layers"
    from = "conv1"
    to = "conv3"
    mode = "concat"

Every key of a step that is not ``morph``, ``layers``, ``where``, ``from``, ``to`` of a skip, or ``on_refusal`` is an
option of the morph. Steps see the graph as the steps before have left it. Everything is carried out in memory, verified
once at the end, and, when that fails, bisected to the first plan that broke it (:func:`first_wrong`).
"""

from __future__ import annotations

import difflib
import inspect
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.errors import ModelError, Refusal, SelectionError
from onnxmorph.graph.layers import LinearLayer, layers
from onnxmorph.graph.select import select
from onnxmorph.morphs import PLANNERS, plan_skip
from onnxmorph.plan import Child, Plan, apply

__all__ = ["Recipe", "RecipeError", "Step", "Where", "carry_out", "first_wrong", "parse_recipe", "read_recipe"]

_OWN_KEYS = ("morph", "layers", "where", "on_refusal")
_OWN_KEYS_OF_SKIP = ("morph", "from", "to", "on_refusal")
_STEPS = (*PLANNERS, "skip")


class RecipeError(SelectionError):
    """The recipe cannot be read: the message names the file, the step and the key."""


@dataclass(frozen=True)
class Where:
    """Which layers of those selected a step is about; every condition that is given must hold.

    Attributes:
        op: The layer's op.
        kernel: Its kernel, such as ``(3, 3)``.
        activation: Name of the activation that follows, ``"none"`` for none.
        min_out, max_out, min_in, max_in: Bounds on channels.
        first, last: Of the layers left, the first or last so many.
        position: Of the layers left, those at these places; negative ones count from the end.
    """

    op: str | None = None
    kernel: tuple[int, ...] | None = None
    activation: str | None = None
    min_out: int | None = None
    max_out: int | None = None
    min_in: int | None = None
    max_in: int | None = None
    first: int | None = None
    last: int | None = None
    position: tuple[int, ...] | None = None

    def choose(self, found: Sequence[LinearLayer]) -> list[LinearLayer]:
        """The layers that meet every condition, in order."""
        left = [layer for layer in found if self._fits(layer)]
        if self.position is not None:
            left = [left[place] for place in self.position if -len(left) <= place < len(left)]
        if self.first is not None:
            left = left[: self.first]
        if self.last is not None:
            left = left[len(left) - min(self.last, len(left)) :]
        return left

    def _fits(self, layer: LinearLayer) -> bool:
        bounds = (
            (self.min_out, self.max_out, layer.out_channels),
            (self.min_in, self.max_in, layer.in_channels),
        )
        if any((low is not None and size < low) or (high is not None and size > high) for low, high, size in bounds):
            return False
        if self.op is not None and layer.op.lower() != self.op.lower():
            return False
        if self.kernel is not None and layer.kernel != self.kernel:
            return False
        if self.activation is None:
            return True
        own = layer.activation
        return (own.name.lower() if own is not None else "none") == self.activation.lower()


@dataclass(frozen=True)
class Step:
    """One entry of a recipe.

    Attributes:
        number: Its place, from 1.
        morph: What it does.
        layers: To which layers, as a person types them.
        where: Which of those.
        options: How, as the morph's plan function takes it.
        skips: A layer that refuses is passed over.
        ends: Of a skip, where it begins and ends: it has these in place of ``layers``.
    """

    number: int
    morph: str
    layers: tuple[str, ...] = ("*",)
    where: Where = Where()
    options: Mapping[str, Any] = field(default_factory=dict)
    skips: bool = False
    ends: tuple[str, str] | None = None

    def __str__(self) -> str:
        return f"step {self.number} ({self.morph})"


@dataclass(frozen=True)
class Recipe:
    """Steps in order, with the name of the file they were read from."""

    name: str
    steps: tuple[Step, ...]


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a TOML file.

    Raises:
        RecipeError: Not TOML, or not a recipe, with the place.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise RecipeError(f"{path}: cannot be read: {reason}") from error
    return parse_recipe(text, name=str(path))


def parse_recipe(text: str, *, name: str = "recipe") -> Recipe:
    """Read a recipe from TOML text.

    Raises:
        RecipeError: Not TOML, or not a recipe, with the place.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{name}: not TOML: {error}") from error
    for key in document:
        if key not in ("step", "seed", "name", "description"):
            raise RecipeError(f"{name}: no key {key!r}{_nearest(key, ['step', 'seed', 'name', 'description'])}")
    entries = document.get("step")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise RecipeError(f"{name}: no steps; write them as [[step]] tables")
    seed = document.get("seed", 0)
    if not _is_integer(seed):
        raise RecipeError(f"{name}: seed must be a whole number, not {seed!r}")
    return Recipe(name, tuple(_step(name, number, entry, seed) for number, entry in enumerate(entries, start=1)))


def _step(name: str, number: int, entry: Mapping[str, Any], seed: int) -> Step:
    morph = entry.get("morph")
    if not isinstance(morph, str) or morph not in _STEPS:
        known = ", ".join(_STEPS)
        raise RecipeError(f"{name}: step {number}: no morph {morph!r}{_nearest(str(morph), _STEPS)}; there are {known}")
    where_in = f"{name}: step {number} ({morph})"
    own = _OWN_KEYS_OF_SKIP if morph == "skip" else _OWN_KEYS
    planner = plan_skip if morph == "skip" else PLANNERS[morph]
    parameters = inspect.signature(planner).parameters
    accepted = [key for key in list(parameters)[1:] if parameters[key].kind is inspect.Parameter.KEYWORD_ONLY]
    accepted = [key for key in accepted if key not in ("source", "target")]
    options: dict[str, Any] = {"seed": seed} if "seed" in accepted else {}
    for key, value in entry.items():
        if key in own:
            continue
        if key not in accepted:
            raise RecipeError(f"{where_in}: no option {key!r}{_nearest(key, [*accepted, *own])}")
        options[key] = _kernel(where_in, key, value) if key in ("kernel", "to") else value
        _check_kind(where_in, key, options[key], value, str(parameters[key].annotation))
    selected = entry.get("layers", "*")
    texts = [selected] if isinstance(selected, str) else selected
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise RecipeError(f"{where_in}: layers must be a text or a list of texts, not {selected!r}")
    mode = entry.get("on_refusal", "fail")
    if mode not in ("fail", "skip"):
        raise RecipeError(f"{where_in}: on_refusal is 'fail' or 'skip', not {mode!r}")
    if morph == "skip":
        ends = tuple(entry.get(key) for key in ("from", "to"))
        if not all(isinstance(end, str) for end in ends):
            raise RecipeError(f'{where_in}: write from = "LAYER" and to = "LAYER", as texts')
        return Step(number, morph, options=options, skips=mode == "skip", ends=(str(ends[0]), str(ends[1])))
    return Step(number, morph, tuple(texts), _where(where_in, entry.get("where", {})), options, mode == "skip")


def _where(where_in: str, conditions: Any) -> Where:
    if not isinstance(conditions, dict):
        raise RecipeError(f'{where_in}: where must be a table such as {{ op = "Conv" }}, not {conditions!r}')
    known = list(Where.__dataclass_fields__)
    values: dict[str, Any] = {}
    for key, value in conditions.items():
        if key not in known:
            raise RecipeError(f"{where_in}: no condition {key!r}{_nearest(key, known)}")
        if key == "kernel":
            sizes = _kernel(where_in, key, value)
            if isinstance(sizes, str):
                raise RecipeError(f'{where_in}: kernel must be a size such as 3 or "3x5", not {value!r}')
            values[key] = (sizes,) if isinstance(sizes, int) else tuple(sizes)
        elif key == "position":
            places = value if isinstance(value, list) else [value]
            if not all(_is_integer(place) for place in places):
                raise RecipeError(f"{where_in}: position takes whole numbers, not {value!r}")
            values[key] = tuple(places)
        elif key in ("op", "activation"):
            if not isinstance(value, str):
                raise RecipeError(f"{where_in}: {key} must be a text, not {value!r}")
            values[key] = value
        elif not _is_integer(value) or value < 0:
            raise RecipeError(f"{where_in}: {key} must be a whole number, not {value!r}")
        else:
            values[key] = value
    return Where(**values)


def _kernel(where_in: str, key: str, value: Any) -> Any:
    """``3``, ``"3x5"`` and ``[3, 5]`` are kernels; any other text is left to the morph (``to = "gelu"``)."""
    if _is_integer(value):
        return value
    if isinstance(value, list) and value and all(_is_integer(size) for size in value):
        return tuple(value)
    if isinstance(value, str):
        parts = value.split("x")
        return tuple(map(int, parts)) if all(part.isascii() and part.isdigit() for part in parts) else value
    raise RecipeError(f'{where_in}: {key} must be a number, a text such as "3x5" or a list, not {value!r}')


def _check_kind(where_in: str, key: str, value: Any, written: Any, annotation: str) -> None:
    """Whether a value is of a kind that the morph takes for this option, as its signature says."""
    kinds = [_KINDS[part.strip()] for part in annotation.split("|") if part.strip() in _KINDS]
    if kinds and not any(fits(value) for _, fits in kinds):
        raise RecipeError(f"{where_in}: {key} must be {' or '.join(kind for kind, _ in kinds)}, not {written!r}")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "int": ("a whole number", _is_integer),
    "float": ("a number", lambda value: _is_integer(value) or isinstance(value, float)),
    "str": ("a text", lambda value: isinstance(value, str)),
    "Collection[str]": (
        "a list of texts",
        lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    ),
    "Sequence[int]": (
        "a list of whole numbers",
        lambda value: isinstance(value, (list, tuple)) and all(_is_integer(item) for item in value),
    ),
}


def _nearest(text: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(text, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def carry_out(parent: ir.Model, recipe: Recipe) -> Child:
    """Carry out a recipe on a clone of ``parent``, which stays as it is.

    Returns:
        The child with every plan that was carried out; what was skipped is in its notes.

    Raises:
        RecipeError: A step selects no layer.
        Refusal: A layer refuses and its step does not skip; the reason names the step.
    """
    child = Child(files.clone(parent), ())
    for step in recipe.steps:
        child = _carry_out(child, step, recipe.name)
    return child


def _carry_out(child: Child, step: Step, name: str) -> Child:
    if step.ends is not None:
        return _carry_out_skip(child, step, step.ends, name)
    found = layers(child.model)
    chosen: dict[str, LinearLayer] = {}
    for text in step.layers:
        chosen.update({layer.key: layer for layer in select(found, text)})
    keys = [layer.key for layer in step.where.choose([layer for layer in found if layer.key in chosen])]
    if not keys:
        raise RecipeError(f"{name}: {step} selects no layer")
    planner = PLANNERS[step.morph]
    done, seen = 0, child.model
    for key in keys:
        if child.model is not seen:  # looking for all layers takes longer than most plans
            found, seen = layers(child.model), child.model
        layer = next((now for now in found if now.key == key), None)
        try:
            if layer is None:
                raise Refusal(f"an earlier change took the layer {key!r} away", code="layer-gone")
            made = planner(child.model, layer, **step.options)
            plans: list[Plan] = [made] if isinstance(made, Plan) else list(made)
            grown = apply(child.model, plans)
        except Refusal as refusal:
            if not step.skips:
                raise Refusal(f"{step}: {refusal.reason}", way_out=refusal.way_out, code=refusal.code) from refusal
            child = child.with_note(f"{step} skipped {key.rpartition('::')[2]}: {refusal}")
            continue
        except (TypeError, ValueError) as error:
            raise RecipeError(f"{name}: {step}: {error}") from error
        child = child.then(grown)
        done += 1
    if not done:
        raise Refusal(f"{step}: every layer it selects refuses: {child.notes[-1]}", code="all-refused")
    return child


def _carry_out_skip(child: Child, step: Step, ends: tuple[str, str], name: str) -> Child:
    try:
        plan = plan_skip(child.model, source=ends[0], target=ends[1], **step.options)
        return child.then(apply(child.model, [plan]))
    except SelectionError as error:
        raise RecipeError(f"{name}: {step}: {error}") from error
    except Refusal as refusal:
        if not step.skips:
            raise Refusal(f"{step}: {refusal.reason}", way_out=refusal.way_out, code=refusal.code) from refusal
        return child.with_note(f"{step} passed over: {refusal}")


def first_wrong(parent: ir.Model, plans: Sequence[Plan], equivalent: Callable[[ir.Model], bool]) -> int | None:
    """Which plan broke the equivalence: the least ``i`` such that the child of the first ``i + 1`` plans is wrong.

    Takes ``log2`` of the plans' number in children and verifications, supposing that what is broken stays broken; and
    one more where only the last plan is left, for the child of all plans may be right after all.

    Args:
        parent: The parent.
        plans: Those that made the wrong child, in order.
        equivalent: Whether a child computes what the parent does.

    Returns:
        The plan's place, or ``None`` when the child of all plans is right after all.

    Raises:
        ModelError: A child of some of the plans cannot be made again.
    """
    low, high = 0, len(plans)
    try:
        while high - low > 1:
            middle = (low + high) // 2
            if equivalent(apply(parent, plans[:middle]).model):
                low = middle
            else:
                high = middle
        if high == len(plans) and equivalent(apply(parent, plans).model):
            return None
    except Refusal as error:
        raise ModelError(f"the recipe's plans cannot be carried out again: {error}") from error
    return high - 1
