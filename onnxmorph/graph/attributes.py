"""Attributes of a node, read with their type checked: a file may hold any type under any name."""

from __future__ import annotations

from typing import Any

from onnxmorph._ir import ir

__all__ = ["WrongAttribute", "floating", "floatings", "integer", "integers", "text", "texts"]


class WrongAttribute(ValueError):
    """An attribute has another type than the operator's, or refers to one of the function's own."""


def _value(node: ir.Node, name: str, *kinds: str) -> Any:
    attribute = node.attributes.get(name)
    if attribute is None:
        return None
    if attribute.is_ref():
        raise WrongAttribute(f"its attribute '{name}' comes from each call of the function")
    if attribute.type.name not in kinds:
        raise WrongAttribute(f"its attribute '{name}' is {attribute.type.name}, not {' or '.join(kinds)}")
    return attribute.value


def integer(node: ir.Node, name: str, default: int) -> int:
    """A whole number, or the default where it is absent.

    Raises:
        WrongAttribute: It is something else.
    """
    value = _value(node, name, "INT")
    return default if value is None else int(value)


def integers(node: ir.Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """Whole numbers; absent or, as some exporters write the default, empty gives the default.

    Raises:
        WrongAttribute: It is something else.
    """
    value = _value(node, name, "INTS")
    return tuple(int(number) for number in value) if value else default


def floating(node: ir.Node, name: str, default: float) -> float:
    """A float, or the default where it is absent.

    Raises:
        WrongAttribute: It is something else.
    """
    value = _value(node, name, "FLOAT")
    return default if value is None else float(value)


def text(node: ir.Node, name: str, default: str) -> str:
    """A string, or the default where it is absent.

    Raises:
        WrongAttribute: It is something else.
    """
    value = _value(node, name, "STRING")
    if value is None:
        return default
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def floatings(node: ir.Node, name: str) -> tuple[float, ...]:
    """Floats; none where the attribute is absent.

    Raises:
        WrongAttribute: It is something else.
    """
    value = _value(node, name, "FLOATS")
    return tuple(float(number) for number in value) if value else ()


def texts(node: ir.Node, name: str) -> tuple[str, ...]:
    """Strings; none where the attribute is absent.

    Raises:
        WrongAttribute: It is something else.
    """
    value = _value(node, name, "STRINGS") or ()
    return tuple(one.decode(errors="replace") if isinstance(one, bytes) else str(one) for one in value)
