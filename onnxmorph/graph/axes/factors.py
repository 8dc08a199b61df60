"""Axes as terms over atoms, and the unification that couples them. No ONNX here: integers and sizes only.

An **atom** is one degree of freedom: an index range ``0..n-1`` that can be permuted, grown or shrunk by one index map.
An **axis expression** (`Expr`) is a row-major product of atoms, outermost first; ``()`` is an axis that is 1 by
construction. An atom may be bound to

* a product of atoms (a Reshape factored it: ``C -> (heads, head_dim)``), or
* a sum of axis expressions (a Concat built it, or a Split/Slice cut it: ``C -> [a | b]``).

`Factors.unify` makes two expressions equal by refining both to common atoms, as first-order unification does:
``(2, 32) ~ (64,)`` binds the 64 to the product; ``[a | b] ~ (64,)`` binds it to the sum; ``(2, 32) ~ [a | b]`` with two
halves makes ``a ~ b ~ 32`` and the 2 a *fixed* factor. What has no common refinement, such as ``(4, 6) ~ (6, 4)``, is
blocked with a reason. So every index map of an atom turns into an exact gather on every axis that holds it
(`Factors.gather`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxmorph.graph.axes.notes import Block, Note, Pin

__all__ = ["Expr", "Factors", "Indices"]

Expr = tuple[int, ...]
Indices = NDArray[np.int64]

LARGEST_FIXED_FACTOR = 512
"""A product is spelled out as a sum of equal segments up to this many of them; beyond, a cut inside is refused."""

DEEPEST_UNIFICATION = 40
"""Overlapping slices of one axis that meet each other would refine it for ever; beyond this depth they are refused."""

_Bound = tuple[str, tuple[Expr, ...]]
_N = TypeVar("_N", bound=Note)


class Factors:
    """Union-find over atoms, with bindings, sizes and notes (pins, blocks, conditions, constraints)."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._size: list[int | None] = []
        self._symbol: list[str | None] = []
        self._bound: list[_Bound | None] = []
        self._notes: list[dict[Note, None]] = []
        self._depth = 0

    # ---- atoms ----------------------------------------------------------------------------------------------------

    def atom(self, size: int | None, *notes: Note, symbol: str | None = None) -> int:
        """A new atom; size ``None`` when nobody knows it, perhaps with the symbol the model calls it by."""
        self._parent.append(len(self._parent))
        self._size.append(size)
        self._symbol.append(symbol)
        self._bound.append(None)
        self._notes.append(dict.fromkeys(notes))
        return len(self._parent) - 1

    def axis(self, size: int | None, *notes: Note, symbol: str | None = None) -> Expr:
        """An expression of one new atom."""
        return (self.atom(size, *notes, symbol=symbol),)

    def sum(self, parts: Sequence[Expr]) -> Expr:
        """The axis whose segments are ``parts``, in order; empty segments vanish."""
        kept: list[Expr] = []
        for part in parts:
            inner = self.factors(part)
            nested = self.segments(inner[0]) if len(inner) == 1 else None
            # Flat from the start: a dense block concatenates concatenations hundreds deep.
            kept.extend(one for one in nested or [part] if self.size(one) != 0)
        if len(kept) == 1:
            return kept[0]
        sizes = [self.size(part) for part in kept]
        total = None if any(size is None for size in sizes) else sum(size or 0 for size in sizes)
        atom = self.atom(total)
        self._bound[atom] = ("sum", tuple(kept))
        return (atom,)

    def find(self, atom: int) -> int:
        """The representative of an atom's class."""
        parent = self._parent
        while parent[atom] != atom:
            parent[atom] = parent[parent[atom]]
            atom = parent[atom]
        return atom

    def factors(self, expr: Expr) -> list[int]:
        """Representatives of the row-major factors: free atoms, and atoms bound to a sum; products are expanded."""
        out: list[int] = []
        for atom in expr:
            root = self.find(atom)
            bound = self._bound[root]
            if bound is not None and bound[0] == "product":
                out.extend(self.factors(bound[1][0]))
            else:
                out.append(root)
        return out

    def segments(self, factor: int) -> list[Expr] | None:
        """The segments of a sum-bound factor, nested sums flattened; ``None`` for a free atom."""
        bound = self._bound[self.find(factor)]
        if bound is None or bound[0] != "sum":
            return None
        out: list[Expr] = []
        for part in bound[1]:
            inner = self.factors(part)
            nested = self.segments(inner[0]) if len(inner) == 1 else None
            out.extend(nested if nested is not None else [tuple(inner)])
        return out

    def leaves(self, expr: Expr) -> Iterator[int]:
        """Every free atom below an expression, in row-major and segment order; repeats where it occurs twice."""
        for factor in self.factors(expr):
            parts = self.segments(factor)
            if parts is None:
                yield factor
            else:
                for part in parts:
                    yield from self.leaves(part)

    def size(self, expr: Expr, sizes: Mapping[int, int] | None = None) -> int | None:
        """Number of indices, ``None`` when unknown. ``sizes`` overrides the sizes of atoms (representatives)."""
        total = 1
        unknown = False
        for atom in expr:
            one = self._atom_size(atom, sizes)
            if one is None:
                unknown = True
            else:
                total *= one
        return (0 if total == 0 else None) if unknown else total

    def _atom_size(self, atom: int, sizes: Mapping[int, int] | None) -> int | None:
        root = self.find(atom)
        bound = self._bound[root]
        if sizes is None:
            if self._size[root] is None and bound is not None:
                self._size[root] = self._bound_size(bound, None)
            return self._size[root]
        if root in sizes:
            return sizes[root]
        return self._size[root] if bound is None else self._bound_size(bound, sizes)

    def _bound_size(self, bound: _Bound, sizes: Mapping[int, int] | None) -> int | None:
        parts = [self.size(part, sizes) for part in bound[1]]
        return None if any(part is None for part in parts) else sum(part or 0 for part in parts)

    def stand_in(self, expr: Expr, large: bool, sizes: Mapping[int, int] | None = None) -> int:
        """The size with a number in place of every size that is unknown, the same for the same atom.

        Two sizes that agree for large and for small stand-ins are taken to be the same function of what is unknown.
        """
        total = 1
        for factor in self.factors(expr):
            rows = self.segments(factor)
            if rows is not None:
                total *= sum(self.stand_in(row, large, sizes) for row in rows)
                continue
            size = self._atom_size(factor, sizes)
            if size is None:
                size = 1_000_003 * (2 * factor + 1) + 2 if large else 2 * factor + 3
            total *= size
        return total

    def symbol(self, expr: Expr) -> str | None:
        """What the model calls an axis of unknown size."""
        factors = self.factors(expr)
        return self._symbol[factors[0]] if len(factors) == 1 else None

    def same(self, one: Expr, two: Expr) -> bool:
        """Whether two expressions have the same factors already."""
        return one == two or self.factors(one) == self.factors(two)

    def learn(self, expr: Expr, size: int) -> None:
        """Take in that an expression has ``size`` indices, where exactly one factor of it is of unknown size."""
        factors = self.factors(expr)
        unknown = [factor for factor in factors if self._atom_size(factor, None) is None]
        if len(unknown) != 1 or self._bound[unknown[0]] is not None:
            return
        known = 1
        for factor in factors:
            known *= self._atom_size(factor, None) or 1
        if size % known == 0:
            self._size[unknown[0]] = size // known

    def _learn_segment(self, root: int, total: int) -> None:
        """The one segment of unknown size has what the others leave."""
        parts = self.segments(root) or []
        sizes = [self.size(part) for part in parts]
        unknown = [part for part, size in zip(parts, sizes, strict=True) if size is None]
        left = total - sum(size or 0 for size in sizes)
        if len(unknown) == 1 and left > 0:
            self.learn(unknown[0], left)

    # ---- notes ----------------------------------------------------------------------------------------------------

    def note(self, expr: Expr, note: Note) -> None:
        """Attach a note to every free atom of an expression."""
        for leaf in set(self.leaves(expr)):
            self._notes[leaf][note] = None

    def notes(self, atom: int, kind: type[_N]) -> tuple[_N, ...]:
        """Notes of one kind on a free atom."""
        return tuple(note for note in self._notes[self.find(atom)] if isinstance(note, kind))

    def settled(self, expr: Expr) -> bool:
        """Whether no atom of the expression can change: all are pinned or blocked."""
        return all(any(isinstance(note, (Pin, Block)) for note in self._notes[leaf]) for leaf in set(self.leaves(expr)))

    def _hand_down(self, root: int, *exprs: Expr) -> None:
        notes = self._notes[root]
        if not notes:
            return
        self._notes[root] = {}
        for expr in exprs:
            for leaf in set(self.leaves(expr)):
                self._notes[leaf].update(notes)

    # ---- refinement -----------------------------------------------------------------------------------------------

    def split(self, factor: int, outer: int | None, inner: int | None) -> tuple[Expr, Expr] | None:
        """Factor an atom into ``outer x inner``; ``None`` when its segments do not allow it."""
        root = self.find(factor)
        if self._bound[root] is None:
            parts = (self.axis(outer), self.axis(inner))
            self._bound[root] = ("product", (parts[0] + parts[1],))
            self._hand_down(root, *parts)
            return parts
        if outer is None or inner is None:
            return None
        return self._split_sum(root, outer, inner)

    def _split_sum(self, root: int, outer: int, inner: int) -> tuple[Expr, Expr] | None:
        parts = self.segments(root) or []
        sizes = [self.size(part) for part in parts]
        if any(size is None for size in sizes):
            return None
        known = [size or 0 for size in sizes]
        if all(size % inner == 0 for size in known) and any(size != inner for size in known):
            # [a | b] = [a' | b'] x inner: every segment is a whole number of rows of length `inner`.
            halves = [self.take_inner(list(self.factors(part)), inner) for part in parts]
            if all(half is not None for half in halves):
                pairs = [half for half in halves if half is not None]
                for _, tail in pairs[1:]:
                    self.unify(pairs[0][1], tail)
                head = self.sum([tuple(front) for front, _ in pairs])
                tail = pairs[0][1]
                self._rebind(root, head + tail)
                return head, tail
        # Rows of length `inner`, each made of whole segments: all rows must be alike and their number is fixed.
        rows: list[Expr] = []
        rest: Expr | None = (root,)
        for _ in range(outer - 1):
            pieces = self.cut(rest, inner) if rest is not None else None
            if pieces is None:
                return None
            rows.append(pieces[0])
            rest = pieces[1]
        if rest is None:
            return None
        rows.append(rest)
        for row in rows[1:]:
            self.unify(rows[0], row)
        head = self.axis(outer, Pin("structure", f"{outer} stacked segments that are read as rows of {inner}"))
        self._rebind(root, head + rows[0])
        return head, rows[0]

    def _rebind(self, root: int, product: Expr) -> None:
        root = self.find(root)
        if root not in self.factors(product):
            self._bound[root] = ("product", (product,))

    def take_outer(self, factors: Sequence[int], size: int) -> tuple[Expr, list[int]] | None:
        """Split a product into its outermost part of ``size`` indices and the rest; ``None`` when radices clash."""
        taken: list[int] = []
        rest = list(factors)
        while size > 1:
            rest = self.factors(tuple(rest))
            if not rest:
                return None
            one = self._atom_size(rest[0], None)
            if one is None or one == 0:
                return None
            if size % one == 0:
                taken.append(rest.pop(0))
                size //= one
            elif one % size == 0:
                parts = self.split(rest[0], size, one // size)
                if parts is None:
                    return None
                taken.extend(parts[0])
                rest = [*parts[1], *rest[1:]]
                size = 1
            else:
                return None
        return tuple(taken), rest

    def take_inner(self, factors: Sequence[int], size: int) -> tuple[list[int], Expr] | None:
        """Split a product into the rest and its innermost part of ``size`` indices; ``None`` when radices clash."""
        taken: list[int] = []
        rest = list(factors)
        while size > 1:
            rest = self.factors(tuple(rest))
            if not rest:
                return None
            one = self._atom_size(rest[-1], None)
            if one is None:
                if self._bound[rest[-1]] is not None:
                    return None
                parts = self.split(rest[-1], None, size)
            elif one == 0:
                return None
            elif size % one == 0:
                taken.insert(0, rest.pop())
                size //= one
                continue
            elif one % size == 0:
                parts = self.split(rest[-1], one // size, size)
            else:
                return None
            if parts is None:
                return None
            taken = [*parts[1], *taken]
            rest = [*rest[:-1], *parts[0]]
            size = 1
        return rest, tuple(taken)

    def cut(self, expr: Expr, at: int) -> tuple[Expr, Expr] | None:
        """Cut an axis at index ``at`` (0 < at < size) into two segments; ``None`` when that cannot be expressed."""
        factors = self.factors(expr)
        total = self.size(expr)
        if total is None or not 0 < at < total:
            return None
        while len(factors) > 1 and self._atom_size(factors[0], None) == 1:
            self.note((factors[0],), Pin("structure", "a factor of 1 in an axis that is cut"))
            factors = factors[1:]
        inner = self.size(tuple(factors[1:])) or 1
        if at % inner == 0:
            parts = self._cut_factor(factors[0], at // inner)
            if parts is None:
                return None
            rest = tuple(factors[1:])
            return parts[0] + rest, parts[1] + rest
        # The cut lands inside the outermost factor's rows: spell the product out as a sum of rows.
        rows: list[Expr] = []
        segments = self.segments(factors[0])
        if segments is not None:
            rows = [segment + tuple(factors[1:]) for segment in segments]
        else:
            count = self._atom_size(factors[0], None) or 0
            if count > LARGEST_FIXED_FACTOR:
                return None
            self.note((factors[0],), Pin("structure", f"an axis of {count} rows of {inner} is cut inside a row"))
            rows = [tuple(factors[1:])] * count
        return self._cut_rows(rows, at)

    def _cut_rows(self, rows: Sequence[Expr], at: int) -> tuple[Expr, Expr] | None:
        before: list[Expr] = []
        for index, row in enumerate(rows):
            size = self.size(row)
            if size is None:
                return None
            if at == 0:
                return self.sum(before), self.sum(rows[index:])
            if at < size:
                pieces = self.cut(row, at)
                if pieces is None:
                    return None
                return self.sum([*before, pieces[0]]), self.sum([pieces[1], *rows[index + 1 :]])
            before.append(row)
            at -= size
        return None

    def _cut_factor(self, factor: int, at: int) -> tuple[Expr, Expr] | None:
        root = self.find(factor)
        rows = self.segments(root)
        if rows is not None:
            return self._cut_rows(rows, at)
        size = self._size[root]
        if size is None or not 0 < at < size:
            return None
        parts = (self.axis(at), self.axis(size - at))
        self._bound[root] = ("sum", parts)
        self._hand_down(root, *parts)
        return parts

    # ---- unification ----------------------------------------------------------------------------------------------

    def unify(self, one: Expr, two: Expr, where: str = "") -> bool:
        """Couple two axes: afterwards they have the same factors. False where that failed, and both are blocked."""
        if one == two:
            return True
        if self._depth >= DEEPEST_UNIFICATION:
            return self._conflict(one, two, where)
        self._depth += 1
        try:
            return self._unify(one, two, where)
        finally:
            self._depth -= 1

    def _unify(self, one: Expr, two: Expr, where: str) -> bool:
        left, right = self.factors(one), self.factors(two)
        while left and right:
            left, right = self.factors(tuple(left)), self.factors(tuple(right))
            if not left or not right:
                break
            if left[0] == right[0]:
                left, right = left[1:], right[1:]
                continue
            if left[-1] == right[-1]:
                left, right = left[:-1], right[:-1]
                continue
            if len(left) == 1 and len(right) == 1:
                return self._merge(left[0], right[0], where)
            if len(left) == 1 and self._bound[left[0]] is None:
                return self._bind(left[0], tuple(right), where)
            if len(right) == 1 and self._bound[right[0]] is None:
                return self._bind(right[0], tuple(left), where)
            step = self._step(left, right, where)
            if step is None:
                return self._conflict(tuple(left), tuple(right), where)
            left, right = step
        rest = tuple(left or right)
        if self.size(rest) != 1:
            return self._conflict(rest, (), where)
        if rest:
            self.note(rest, Pin("broadcast", "an axis of 1 coupled to one that is 1 by construction"))
        return True

    def _step(self, left: list[int], right: list[int], where: str) -> tuple[list[int], list[int]] | None:
        """Resolve one factor at an end of both products."""
        for end in (0, -1):
            a, b = left[end], right[end]
            size_a, size_b = self._atom_size(a, None), self._atom_size(b, None)
            if size_a is None or size_b is None:
                continue
            rest_a = left[1:] if end == 0 else left[:-1]
            rest_b = right[1:] if end == 0 else right[:-1]
            if size_a == size_b:
                return (rest_a, rest_b) if self._merge(a, b, where) else None
            if size_a == 1 or size_b == 1:
                self.note((a if size_a == 1 else b,), Pin("structure", "a factor of 1 in a reshaped axis"))
                return (rest_a, right) if size_a == 1 else (left, rest_b)
            large, small = (a, size_b) if size_a > size_b else (b, size_a)
            whole = max(size_a, size_b)
            if whole % small:
                return None
            parts = self.split(large, *((small, whole // small) if end == 0 else (whole // small, small)))
            if parts is None:
                return None
            spelled = [*parts[0], *parts[1]]
            if large == a:
                return ([*spelled, *rest_a] if end == 0 else [*rest_a, *spelled]), right
            return left, ([*spelled, *rest_b] if end == 0 else [*rest_b, *spelled])
        # Unknown sizes at both ends: the same number of factors can only mean factor by factor.
        if len(left) == len(right) and self._merge(left[0], right[0], where):
            return left[1:], right[1:]
        return None

    def _bind(self, atom: int, product: Expr, where: str) -> bool:
        size, other = self._size[atom], self.size(product)
        if size is not None and other is not None and size != other:
            return self._conflict((atom,), product, where)
        if atom in self.factors(product):
            return True  # the other factors are 1
        if atom in set(self.leaves(product)):
            return self._conflict((atom,), product, where)
        if size is not None and other is None:
            self.learn(product, size)
            if self.size(product) is None:
                return self._conflict((atom,), product, where)
        self._bound[atom] = ("product", (product,))
        self._hand_down(atom, product)
        return True

    def _merge(self, a: int, b: int, where: str) -> bool:
        a, b = self.find(a), self.find(b)
        if a == b:
            return True
        size_a, size_b = self._atom_size(a, None), self._atom_size(b, None)
        if size_a is not None and size_b is not None and size_a != size_b:
            return self._conflict((a,), (b,), where)
        if self._bound[a] is not None and self._bound[b] is not None:
            if not self._align(a, b, where):
                return self._conflict((a,), (b,), where)
            a, b = self.find(a), self.find(b)
            if a == b:
                return True
            self._parent[b] = a
            return True
        if self._bound[b] is not None:
            a, b = b, a
        if self._bound[a] is not None and b in set(self.leaves((a,))):
            return self._conflict((a,), (b,), where)
        if self._bound[a] is not None and size_a is None and size_b is not None:
            self._learn_segment(a, size_b)
        self._parent[b] = a
        if self._size[a] is None:
            self._size[a] = self._size[b]
        if self._symbol[a] is None:
            self._symbol[a] = self._symbol[b]
        if self._bound[a] is None:
            if len(self._notes[b]) > len(self._notes[a]):
                self._notes[a], self._notes[b] = self._notes[b], self._notes[a]
            self._notes[a].update(self._notes[b])
            self._notes[b] = {}
        else:
            self._hand_down(b, (a,))
        return True

    def _align(self, a: int, b: int, where: str) -> bool:
        """Couple two sums segment by segment, cutting both at the boundaries of either."""
        left, right = list(self.segments(a) or []), list(self.segments(b) or [])
        if len(left) == len(right) and any(self.size(part) is None for part in (*left, *right)):
            return all(self.unify(one, two, where) for one, two in zip(left, right, strict=True))
        while left and right:
            size_l, size_r = self.size(left[0]), self.size(right[0])
            if size_l is None or size_r is None:
                if self.same(left[0], right[0]):
                    left, right = left[1:], right[1:]
                    continue
                return False
            if size_l == size_r:
                if not self.unify(left.pop(0), right.pop(0), where):
                    return False
                continue
            longer, at = (left, size_r) if size_l > size_r else (right, size_l)
            pieces = self.cut(longer[0], at)
            if pieces is None:
                return False
            longer[:1] = list(pieces)
        return True

    def _conflict(self, one: Expr, two: Expr, where: str) -> bool:
        left, right = (text if len(text) < 60 else f"{text[:40]}..." for text in (self.text(one), self.text(two)))
        text = f"axes {left} and {right} have no common factors"
        block = Block("incompatible-axes", f"{text} at {where}" if where else text)
        self.note(one, block)
        self.note(two, block)
        return False

    # ---- index maps on axes ---------------------------------------------------------------------------------------

    def gather(self, expr: Expr, maps: Mapping[int, Indices]) -> Indices:
        """For every index of the changed axis the index of the parent's axis it comes from, -1 where it is new.

        Args:
            expr: An axis, all of whose sizes are known.
            maps: For changed atoms (representatives), child index -> parent index or -1.
        """
        indices: Indices = np.zeros(1, dtype=np.int64)
        for factor in self.factors(expr):
            one, size = self._gather_factor(factor, maps)
            new = (indices[:, None] < 0) | (one[None, :] < 0)
            indices = np.where(new, -1, indices[:, None] * size + one[None, :]).reshape(-1)
        return indices

    def _gather_factor(self, factor: int, maps: Mapping[int, Indices]) -> tuple[Indices, int]:
        size = self._atom_size(factor, None)
        if size is None:
            raise ValueError("an axis of unknown size cannot be gathered")
        rows = self.segments(factor)
        if rows is None:
            return maps.get(factor, np.arange(size, dtype=np.int64)), size
        out: list[Indices] = []
        offset = 0
        for row in rows:
            one = self.gather(row, maps)
            out.append(np.where(one < 0, -1, one + offset))
            offset += self.size(row) or 0
        return np.concatenate(out), size

    def coordinate(self, expr: Expr, atom: int, sizes: Mapping[int, int] | None = None) -> Indices:
        """For every index of an axis the index of ``atom`` in it, -1 where the segment does not hold it.

        Of an atom that is `repeated` in a product, the innermost counts.
        """
        root = self.find(atom)
        indices: Indices = np.full(1, -1, dtype=np.int64)
        for factor in self.factors(expr):
            rows = self.segments(factor)
            if rows is None:
                count = self._atom_size(factor, sizes) or 0
                one = np.arange(count) if factor == root else np.full(count, -1)
            else:
                one = np.concatenate([self.coordinate(row, root, sizes) for row in rows])
            indices = np.where(one[None, :] >= 0, one[None, :], indices[:, None]).reshape(-1)
        return indices

    def repeated(self, expr: Expr) -> set[int]:
        """Free atoms that occur in several factors of one product, as in the outer product of an axis with itself."""
        seen: set[int] = set()
        twice: set[int] = set()
        for factor in self.factors(expr):
            rows = self.segments(factor)
            here = {factor} if rows is None else set(self.leaves((factor,)))
            twice |= seen & here
            seen |= here
            for row in rows or ():
                if len(row) > 1:
                    twice |= self.repeated(row)
        return twice

    def holds(self, expr: Expr, atom: int) -> bool:
        """Whether an atom occurs in an expression."""
        return self.find(atom) in set(self.leaves(expr))

    def placements(self, expr: Expr, atom: int) -> list[tuple[int, int]]:
        """Where an atom lies in an axis, as (offset, stride) of its index 0 and the step to its index 1."""
        return self.all_placements(expr).get(self.find(atom), [])

    def all_placements(self, expr: Expr) -> dict[int, list[tuple[int, int]]]:
        """`placements` of every free atom in an axis."""
        out: dict[int, list[tuple[int, int]]] = {}
        for offset, stride, leaf in self._places(expr):
            out.setdefault(leaf, []).append((offset, stride))
        return out

    def _places(self, expr: Expr) -> Iterator[tuple[int, int, int]]:
        stride = 1
        for factor in reversed(self.factors(expr)):
            rows = self.segments(factor)
            if rows is None:
                yield 0, stride, factor
            else:
                offset = 0
                for row in rows:
                    for inner, step, leaf in self._places(row):
                        yield (offset + inner) * stride, step * stride, leaf
                    offset += self.size(row) or 0
            stride *= self._atom_size(factor, None) or 1

    def text(self, expr: Expr, label: Callable[[int], str] | None = None) -> str:
        """An axis as people read it: ``4x16``, ``[32|32]``, ``?``."""
        words: list[str] = []
        for factor in self.factors(expr):
            rows = self.segments(factor)
            if rows is not None:
                words.append("[" + "|".join(self.text(row, label) for row in rows) + "]")
            elif label is not None:
                words.append(label(factor))
            else:
                words.append(str(self._size[factor] if self._size[factor] is not None else self._symbol[factor] or "?"))
        return "x".join(words) or "1"
