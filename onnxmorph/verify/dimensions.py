"""Symbolic dimensions: ``N``, ``past + seq``, ``2*T``."""

from __future__ import annotations

import re
from collections.abc import Iterable

from onnxmorph.verify.feeds import Assignment

__all__ = ["is_past", "size", "symbols"]

_TOKEN = re.compile(r"[A-Za-z_][\w.]*|\d+|[+\-*/]+|\S")
_SIMPLE = re.compile(r"^[\w.]+(\s*([+\-*]|//)\s*[\w.]+)+$")


def symbols(dims: Iterable[int | str]) -> list[str]:
    """Independent symbols of these dimensions, in order of appearance; ``past + seq`` counts as two."""
    found: dict[str, None] = {}
    for dim in dims:
        if isinstance(dim, str):
            for part in _parts(dim):
                found.setdefault(part)
    return list(found)


def _parts(dim: str) -> list[str]:
    if not _SIMPLE.match(dim):
        return [dim]
    return [token for token in _TOKEN.findall(dim) if token[0].isalpha() or token[0] == "_"]


def size(dim: int | str, sizes: Assignment) -> int:
    """Number of elements along a dimension; sums, differences, products and quotients of symbols are worked out."""
    if isinstance(dim, int):
        return dim
    if dim in sizes:
        return sizes[dim]
    tokens = _TOKEN.findall(dim)
    total = _term(tokens[0], sizes)
    for sign, token in zip(tokens[1::2], tokens[2::2], strict=False):
        number = _term(token, sizes)
        if sign == "+":
            total += number
        elif sign == "-":
            total -= number
        elif sign == "*":
            total *= number
        elif number:
            total //= number
    return max(total, 0)


def _term(token: str, sizes: Assignment) -> int:
    return int(token) if token.isdigit() else sizes.get(token, 1)


def is_past(symbol: str) -> bool:
    """Whether a symbol is the length of what was seen before, by its name."""
    name = symbol.lower()
    return ("past" in name or "cache" in name) and "total" not in name
