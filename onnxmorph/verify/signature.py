"""What callers of a model rely on: names, order, types and shapes of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from onnxmorph._ir import ir

__all__ = ["SignatureDifferences", "compare_signatures", "required_inputs"]


@dataclass
class SignatureDifferences:
    """What a caller would notice (``failures``) and what only an unusual one would (``warnings``)."""

    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def required_inputs(model: ir.Model) -> list[ir.Value]:
    """Graph inputs a caller must give: those that no initializer stands behind."""
    return [value for value in model.graph.inputs if value.name not in model.graph.initializers]


def compare_signatures(parent: ir.Model, child: ir.Model) -> SignatureDifferences:
    """Differences between the interfaces of two models, each in one sentence; outputs are paired by name only.

    Symbolic dimensions may have other names as long as the same ones stay tied together.
    """
    found = SignatureDifferences()
    renamed: dict[str, str] = {}
    _compare("input", required_inputs(parent), required_inputs(child), renamed, found)
    tied = set(renamed)
    _compare("output", list(parent.graph.outputs), list(child.graph.outputs), renamed, found, tied)
    if len(set(renamed.values())) < len(renamed):
        found.failures.append("dimensions that were independent in the parent share one name in the child")
    before = {value.name for value in parent.graph.inputs if value.name in parent.graph.initializers}
    after = {value.name for value in child.graph.inputs if value.name in child.graph.initializers}
    if before - after:
        names = ", ".join(repr(name) for name in sorted(str(name) for name in before - after)[:3])
        found.warnings.append(
            f"{len(before - after)} initializer(s) that callers could override as inputs no longer can be: {names}"
        )
    return found


def _compare(
    kind: str,
    before: list[ir.Value],
    after: list[ir.Value],
    renamed: dict[str, str],
    found: SignatureDifferences,
    tied: Collection[str] | None = None,
) -> None:
    names, new_names = [str(value.name) for value in before], [str(value.name) for value in after]
    missing = [name for name in names if name not in new_names]
    extra = [name for name in new_names if name not in names]
    if missing:
        found.failures.append(f"{kind} {_listed(missing)} of the parent missing in the child")
    if extra:
        found.failures.append(f"{kind} {_listed(extra)} of the child not in the parent")
    if not missing and not extra and names != new_names:
        found.failures.append(f"{kind}s are in another order: {_listed(names)} became {_listed(new_names)}")
    by_name = {str(value.name): value for value in after}
    for value in before:
        other = by_name.get(str(value.name))
        if other is not None:
            _compare_value(kind, value, other, renamed, found, tied)


def _compare_value(
    kind: str,
    before: ir.Value,
    after: ir.Value,
    renamed: dict[str, str],
    found: SignatureDifferences,
    tied: Collection[str] | None,
) -> None:
    """``tied``: for outputs, names of dimensions that the inputs have too."""
    title = f"{kind} {before.name!r}"
    if _type_name(before) != _type_name(after):
        found.failures.append(f"{title}: type {_type_name(before)} became {_type_name(after)}")
        return
    if before.shape is None and after.shape is None:
        return
    if before.shape is None:
        found.warnings.append(f"{title}: the child declares a shape, {_shape(after)}, where the parent has none")
        return
    if after.shape is None:
        found.failures.append(f"{title}: shape {_shape(before)} is not declared in the child")
        return
    if len(before.shape) != len(after.shape):
        found.failures.append(f"{title}: shape {_shape(before)} became {_shape(after)}")
        return
    for old, new in zip(_dims(before.shape), _dims(after.shape), strict=True):
        if isinstance(old, int) or isinstance(new, int):
            if tied is not None and not isinstance(old, int) and str(old.value) not in tied:
                # A promise about what comes out, which running both holds it to; callers feed what they fed before.
                found.warnings.append(f"{title}: shape {_shape(before)} is now declared as {_shape(after)}")
                return
            if old != new:
                found.failures.append(f"{title}: shape {_shape(before)} became {_shape(after)}")
                return
        elif old.value and new.value and renamed.setdefault(str(old.value), str(new.value)) != str(new.value):
            found.failures.append(f"{title}: dimension {old.value!r} is no longer tied to the others of that name")
            return


def _dims(shape: ir.Shape) -> list[int | ir.SymbolicDim]:
    """Sizes, where a negative one, as some exporters spell it, is one that is left open."""
    return [ir.SymbolicDim(None) if isinstance(dim, int) and dim < 0 else dim for dim in shape]


def _type_name(value: ir.Value) -> str:
    return "undeclared" if value.type is None else str(value.type)


def _shape(value: ir.Value) -> str:
    assert value.shape is not None
    return "[" + ", ".join(str(dim) if isinstance(dim, int) else str(dim.value or "?") for dim in value.shape) + "]"


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
