"""The operators that can be trained through: one function each, found by domain, name and opset version.

An operator function takes the `Call` of its node and one tensor per input (``None`` for one left out), and gives a
tensor, or a tuple with one entry per output. It never changes what it was given: values are shared and remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["Operator", "domain_of", "find", "known", "load_operators", "operator"]

Function = TypeVar("Function", bound=Callable[..., Any])

_STANDARD = ("", "ai.onnx")


@dataclass(frozen=True, slots=True)
class Operator:
    """How one operator is computed, for a range of opset versions.

    Attributes:
        name: Operator type, such as ``"Conv"``.
        domain: ``""`` for the standard one.
        since: First opset version of its domain that it serves.
        until: Last one, or ``None``.
        run: ``run(call, *inputs)``.
        gradient: Whether a gradient passes from its floating-point outputs to its inputs.
        host: Positions of inputs that are read as numbers and steer shapes, so that they had better not be on a GPU.
        pure: The same inputs always give the same result: it may be computed once and remembered.
    """

    name: str
    domain: str
    since: int
    until: int | None
    run: Callable[..., Any]
    gradient: bool
    host: tuple[int, ...]
    pure: bool


_OPERATORS: dict[tuple[str, str], list[Operator]] = {}


def operator(
    *names: str,
    domain: str = "",
    since: int = 1,
    until: int | None = None,
    gradient: bool = True,
    host: Iterable[int] = (),
    pure: bool = True,
) -> Callable[[Function], Function]:
    """Decorator: the function computes the operators of these names; see `Operator` for the rest."""

    def register(run: Function) -> Function:
        for name in names:
            entry = Operator(name, domain, since, until, run, gradient, tuple(host), pure)
            _OPERATORS.setdefault((domain, name), []).append(entry)
        return run

    return register


def domain_of(domain: str) -> str:
    """The standard domain has two spellings."""
    return "" if domain in _STANDARD else domain


def load_operators() -> None:
    """Import every family of operators, which registers them."""
    from onnxmorph.grow import ops  # noqa: F401


def find(domain: str, name: str, version: int) -> Operator | None:
    """The operator of this domain and name in this opset version, or ``None`` where there is none here."""
    for entry in _OPERATORS.get((domain_of(domain), name), ()):
        if entry.since <= version and (entry.until is None or version <= entry.until):
            return entry
    return None


def known() -> list[tuple[str, str]]:
    """Domain and name of every operator there is."""
    return sorted(_OPERATORS)
