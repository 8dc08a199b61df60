"""One node as its rule sees it: axes of its inputs, constants, and the verbs a rule is written in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.graph.axes.contents import Content, Number, constant_content
from onnxmorph.graph.axes.factors import Expr
from onnxmorph.graph.axes.notes import Block, Condition, Constraint, Pin
from onnxmorph.graph.axes.uses import AttributeUse, Frozen, IndexUse, SizeUse, SplitUse, ViewUse, Wanted

if TYPE_CHECKING:
    from onnxmorph.graph.axes.analysis import CoupledAxes

__all__ = ["RULES", "Axes", "Barrier", "Site", "rule"]

Axes = list[Expr]

RULES: dict[tuple[str, str], Callable[[Site], None]] = {}
"""(domain, operator) -> rule."""


def rule(*ops: str, domain: str = "") -> Callable[[Callable[[Site], None]], Callable[[Site], None]]:
    """Register a rule for operators of one domain."""

    def register(function: Callable[[Site], None]) -> Callable[[Site], None]:
        for op in ops:
            if (domain, op) in RULES:
                raise ValueError(f"two rules for {op}")
            RULES[domain, op] = function
        return function

    return register


class Barrier(Exception):
    """The rule cannot follow this node; everything that touches it is blocked with this reason."""

    def __init__(self, reason: str, kind: str = "not-followed") -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind = kind


class Site:
    """A node being read. Rules read with `axes`, `attribute`, `integers`; they say what they find with the rest."""

    def __init__(self, coupled: CoupledAxes, node: ir.Node, opset: int, imports: dict[str, int]) -> None:
        self.coupled = coupled
        self.imports = imports
        self.factors = coupled.factors
        self.node = node
        self.opset = opset
        self.shape_operands: set[int] = set()

    # ---- reading --------------------------------------------------------------------------------------------------

    @property
    def label(self) -> str:
        """The node as messages name it."""
        return f"{self.node.op_type} '{self.node.name or next((o.name for o in self.node.outputs if o.name), '')}'"

    def has(self, position: int) -> bool:
        """Whether an optional input is given."""
        return position < len(self.node.inputs) and self.node.inputs[position] is not None

    def value(self, position: int) -> ir.Value:
        """An input, which must be given."""
        value = self.node.inputs[position] if position < len(self.node.inputs) else None
        if value is None:
            raise Barrier(f"{self.label} lacks its input {position}")
        return value

    def axes(self, position: int) -> Axes:
        """The axes of an input; a barrier when its rank is unknown."""
        axes = self.coupled.operand(self.value(position), self.node, position)
        if axes is None:
            raise Barrier(f"the rank of '{self.value(position).name}' is not known", "unknown-rank")
        return axes

    def rank(self, position: int) -> int:
        """Number of axes of an input."""
        return len(self.axes(position))

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value; a barrier when it refers to a function's own."""
        attribute = self.node.attributes.get(name)
        if attribute is None:
            return default
        if attribute.is_ref():
            raise Barrier(f"attribute '{name}' of {self.label} is set by the function's caller")
        value = attribute.value
        return value.decode() if isinstance(value, bytes) else value

    def constant(self, position: int) -> bool:
        """Whether an input is known before a run."""
        return self.has(position) and self.coupled.is_constant(self.value(position))

    def array(self, position: int) -> np.ndarray[Any, Any] | None:
        """The numbers of a small constant input."""
        return self.coupled.small_array(self.value(position)) if self.has(position) else None

    def content(self, position: int) -> Content | None:
        """What a small input holds, in terms of axis sizes. A tensor whose numbers are read has no axis to change."""
        if not self.has(position):
            return None
        content = self.coupled.content(self.value(position))
        if content is not None:
            self.coupled.pin_list(self.value(position), self.node, position)
        return content

    def integers(self, name: str, position: int | None = None) -> list[int] | None:
        """Integers of an attribute or of a constant input; ``None`` when absent, a barrier when computed."""
        value = self.attribute(name)
        if value is not None:
            return [int(one) for one in (value if isinstance(value, Sequence) else [value])]
        if position is None or not self.has(position):
            return None
        content = self.content(position) if self.has(position) else None
        if content is not None and not any(number.depends for number in content.reshape(-1)):
            values = [number.value(self.factors.size) for number in content.reshape(-1)]
            if all(one is not None for one in values):
                return [int(one) for one in values if one is not None]
        raise Barrier(f"'{name}' of {self.label} is computed", "computed-operand")

    def axis(self, axis: int, rank: int) -> int:
        """A possibly negative axis number as one from 0; a barrier when out of range."""
        if not -rank <= axis < rank:
            raise Barrier(f"{self.label} names axis {axis} of {rank}")
        return axis % rank

    def walk(self, body: ir.Graph) -> None:
        """Read the nodes of a body."""
        self.coupled.walk(body, self.imports)

    def size(self, expr: Expr) -> int | None:
        """Number of indices of an axis, ``None`` when unknown."""
        return self.factors.size(expr)

    def means(self, number: Number, expr: Expr) -> bool:
        """Whether a number is the size of an axis, whatever the unknown sizes are."""
        factors = self.factors
        large = number.value(lambda one: factors.stand_in(one, True)) == factors.stand_in(expr, True)
        return large and number.value(lambda one: factors.stand_in(one, False)) == factors.stand_in(expr, False)

    def axis_of(self, number: Number) -> Expr | None:
        """The axis whose size a number is, perhaps after tests and casts; ``None`` when it is computed otherwise."""
        if number.axis is not None:
            return number.axis
        return next((expr for expr in number.axes() if self.means(number, expr)), None)

    # ---- saying ---------------------------------------------------------------------------------------------------

    def give(self, position: int, axes: Sequence[Expr]) -> None:
        """Set the axes of an output."""
        if position < len(self.node.outputs):
            self.coupled.give(self.node.outputs[position], list(axes))

    def unify(self, one: Expr, two: Expr) -> None:
        """Couple two axes."""
        self.factors.unify(one, two, self.label)

    def pin(self, exprs: Expr | Iterable[Expr], kind: str, text: str) -> None:
        """Say that axes cannot change on their own, and why."""
        for expr in _listed(exprs):
            self.factors.note(expr, Pin(kind, text))

    def block(self, exprs: Expr | Iterable[Expr], kind: str, text: str) -> None:
        """Say that the rules cannot follow these axes here."""
        for expr in _listed(exprs):
            self.factors.note(expr, Block(kind, text))

    def condition(
        self, exprs: Expr | Iterable[Expr], kind: str, *, operands: tuple[str, ...] = (), order: bool = False
    ) -> None:
        """Say that this node mixes the indices of these axes."""
        text = f"{kind} over this axis by {self.label}"
        for expr in _listed(exprs):
            self.factors.note(expr, Condition(kind, text, self.node.name or "", operands, order))

    def constrain(self, expr: Expr, kind: str, step: int) -> None:
        """Say that axes that hold this one move in steps."""
        if step > 1:
            self.factors.note(expr, Constraint(kind, f"{kind}={step} of {self.label}", step))

    def role(self, position: int, axis: int, role: str, expr: Expr | None = None) -> None:
        """Say what an axis of a constant input, or only the factors ``expr`` of it, is for."""
        if self.has(position):
            self.coupled.roles[self.node, position].append((axis, role, expr))

    def new(self, size: int | None, kind: str = "structure", text: str | None = None) -> Expr:
        """A new axis that cannot change: spatial, kernel, structure."""
        return self.factors.axis(size, Pin(kind, text or f"{kind} axis of {self.label}"))

    def free(self, size: int | None) -> Expr:
        """A new axis that can change until somebody says otherwise."""
        return self.factors.axis(size)

    def rows(self, expr: Expr, count: int, kind: str) -> tuple[Expr, Expr]:
        """Split an axis into ``count`` equal rows: (rows, inside); both blocked when its factors do not allow it."""
        if count == 1:
            return (), expr
        size = self.size(expr)
        if size is not None and size == count:
            return expr, ()
        taken = self.factors.take_outer(self.factors.factors(expr), count)
        if taken is None:
            text = f"{kind}={count} of {self.label} does not fit the factors {self.factors.text(expr)} of its axis"
            self.block(expr, "incompatible-axes", text)
            inner = None if size is None or size % count else size // count
            return (
                self.factors.axis(count, Block("incompatible-axes", text)),
                self.factors.axis(inner, Block("incompatible-axes", text)),
            )
        outer, inside = taken[0], tuple(taken[1])
        self.constrain(inside, kind, count)
        return outer, inside

    def columns(self, expr: Expr, count: int, kind: str) -> tuple[Expr, Expr]:
        """Split an axis into (rows, ``count`` columns inside); both blocked when its factors do not allow it."""
        if count == 1:
            return expr, ()
        taken = self.factors.take_inner(self.factors.factors(expr), count)
        if taken is None:
            text = f"{kind}={count} of {self.label} does not fit the factors {self.factors.text(expr)} of its axis"
            self.block(expr, "incompatible-axes", text)
            size = self.size(expr)
            outer = None if size is None or size % count else size // count
            return (
                self.factors.axis(outer, Block("incompatible-axes", text)),
                self.factors.axis(count, Block("incompatible-axes", text)),
            )
        self.constrain(tuple(taken[0]), kind, count)
        return tuple(taken[0]), taken[1]

    def broadcast(self, operands: Sequence[Sequence[Expr]]) -> Axes:
        """Couple operands under multidirectional broadcasting and give the axes of the result."""
        rank = max((len(axes) for axes in operands), default=0)
        out: Axes = []
        for place in range(rank):
            here = [axes[place - rank + len(axes)] for axes in operands if place - rank + len(axes) >= 0]
            out.append(self._broadcast_axis(here))
        return out

    def _broadcast_axis(self, axes: Sequence[Expr]) -> Expr:
        factors = self.factors
        ones = [expr for expr in axes if factors.size(expr) == 1]
        known = [expr for expr in axes if factors.size(expr) not in (None, 1)]
        unknown = [expr for expr in axes if factors.size(expr) is None]
        real_ones = [expr for expr in ones if expr and any(True for _ in factors.leaves(expr))]
        if known or unknown:
            for expr in real_ones:
                if not factors.settled(expr):
                    self.pin(expr, "broadcast", f"an axis of 1 is broadcast by {self.label}")
        if known:
            for expr in known[1:]:
                self.unify(known[0], expr)
            for expr in unknown:
                if factors.same(expr, known[0]):
                    continue
                text = f"{self.label} meets an axis of unknown size"
                self.block((known[0], expr), "unknown-size", text)
            return known[0]
        if unknown:
            first = unknown[0]
            if all(factors.same(first, expr) or self._same_symbol(first, expr) for expr in unknown[1:]):
                for expr in unknown[1:]:
                    self.unify(first, expr)
                return first
            self.block(unknown, "unknown-size", f"{self.label} meets axes of unknown size")
            return factors.axis(None, Block("unknown-size", f"{self.label} meets axes of unknown size"))
        for expr in real_ones[1:]:
            self.unify(real_ones[0], expr)
        return real_ones[0] if real_ones else ()

    def _same_symbol(self, one: Expr, two: Expr) -> bool:
        symbol = self.factors.symbol(one)
        return symbol is not None and symbol == self.factors.symbol(two)

    # ---- places that spell out sizes ------------------------------------------------------------------------------

    def size_operand(self, name: str | None, position: int | None, wanted: Sequence[Wanted | None]) -> None:
        """Register a shape operand, element by element."""
        if name is not None and name in self.node.attributes:
            content = constant_content(np.asarray(self.attribute(name)))
            self.coupled.uses.append(SizeUse(self.node, None, name, content, tuple(wanted)))
        elif position is not None and self.has(position):
            self.shape_operands.add(position)
            held = self.content(position)
            if held is None or held.size != len(wanted):
                raise Barrier(f"an operand of {self.label} is computed from data", "computed-shape")
            self.coupled.uses.append(SizeUse(self.node, position, None, held, tuple(wanted)))

    def size_attribute(self, name: str, axis: Expr) -> None:
        """Register an integer attribute that is the size of an axis."""
        self.coupled.uses.append(AttributeUse(self.node, name, axis))

    def split_operand(self, axis: Expr, parts: Sequence[Expr], content: Content | None) -> None:
        """Register the sizes of a Split."""
        self.shape_operands.add(1)
        self.coupled.uses.append(SplitUse(self.node, axis, tuple(parts), content))

    def index_operand(self, position: int, axis: Expr, indices: Sequence[int]) -> None:
        """Register constant indices into an axis."""
        self.coupled.uses.append(IndexUse(self.node, position, axis, tuple(indices)))

    def view(self, source: ir.Value) -> None:
        """Register that the output is all of ``source``, read in its own order by computed indices."""
        axes = tuple(self.coupled.axes(source) or ())
        self.coupled.uses.append(ViewUse(self.node, source, axes))
        self.give(0, axes)

    def freeze(self, position: int, content: Content) -> None:
        """Register a number computed from sizes that enters the computation."""
        self.coupled.uses.append(Frozen(self.node, position, content))

    def numbers(self, name: str | None, position: int | None) -> list[Number] | None:
        """The elements of a shape operand, ``None`` when it is computed from data or absent."""
        if name is not None and name in self.node.attributes:
            value = self.attribute(name)
            return list(constant_content(np.asarray(value)).reshape(-1))
        content = self.content(position) if position is not None and self.has(position) else None
        return None if content is None else list(content.reshape(-1))


def _listed(exprs: Expr | Iterable[Expr]) -> list[Expr]:
    if isinstance(exprs, tuple) and all(isinstance(one, int) for one in exprs):
        return [exprs]
    return list(exprs)  # type: ignore[arg-type]
