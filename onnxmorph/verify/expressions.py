"""What a value is, as algebra: sums of linear maps of other values, of activations of such sums, and a bias.

An *expression* has one row a channel,

    row_i(p) = sum over groups g, taps t, columns j of  K_g[t][i, j] * g_j(stride_g p + t)  +  b_i,

where a *group* is either a value both models have, with a column a channel, or a table of *atoms*: results of one
channel-wise function (an activation, a pooling, a product) on rows that are themselves such sums. Rows that are equal
to rounding share one atom, whichever model they come from, and where the function satisfies ``f(x) - f(-x) = c x`` a
row that is another's negative is ``f(-x) = f(x) - c x``. So mirrored layers, silent branches, copies and identity
layers all come out as sums that can be compared with their parent's, coefficient by coefficient, in float64.

Positions beyond the border are not looked at: zeros there are what running the models shows.
"""

from __future__ import annotations

import bisect
import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Algebra", "Expression", "Mirror", "Offset", "TooLarge", "Unsupported"]

Array = np.ndarray[Any, Any]
Offset = tuple[int, ...]
Group = tuple[Any, ...]

_MOST_CHANNELS = 2048
_MATCH = 64.0
"""How many roundings of its entries two rows may be apart and still be the same row."""


class Unsupported(Exception):
    """There is no algebra for this; the message says for what."""


class TooLarge(Unsupported):
    """The algebra would take too long."""


@dataclass
class Term:
    """The part of an expression over one group: columns used, and a matrix ``(rows, columns)`` for each tap."""

    columns: Array
    taps: dict[Offset, Array]
    stride: Offset
    identity: bool = False

    @functools.cached_property
    def offsets(self) -> tuple[Offset, ...]:
        """Displacements of the taps, in order."""
        return tuple(sorted(self.taps))

    @functools.cached_property
    def rows(self) -> Array:
        """Every row as one vector: its columns for each of the `offsets` in turn."""
        matrices = [self.taps[offset] for offset in self.offsets]
        return matrices[0] if len(matrices) == 1 else np.concatenate(matrices, axis=1)


@dataclass
class Expression:
    """Rows as sums over groups; see the head of this file.

    Attributes:
        rows: How many.
        terms: By group.
        bias: Shape ``(rows,)``.
        size: For each row, a bound on the sum of the magnitudes that were added up for any one of its coefficients.
        depth: How many stored factors were multiplied at most.
        axis: Axis of the channels, 1 or -1; ``None`` where there are no others than the batch.
    """

    rows: int
    terms: dict[Group, Term] = field(default_factory=dict)
    bias: Array = field(default_factory=lambda: np.zeros(0))
    size: Array = field(default_factory=lambda: np.zeros(0))
    depth: int = 0
    axis: int | None = None

    def scale(self) -> float:
        """Largest magnitude of any coefficient."""
        return max((float(np.abs(term.rows).max(initial=0.0)) for term in self.terms.values()), default=0.0)


@dataclass(frozen=True)
class Mirror:
    """What a function is of a negative: ``f(-x) = factor f(x) - slope x + shift``.

    ``slope`` alone makes mirrored layers (ReLU 1, SiLU 1), a ``factor`` of -1 makes sigmoids (with a shift of 1).
    """

    factor: float = 1.0
    slope: float = 0.0
    shift: float = 0.0


@dataclass
class _Table:
    """Atoms of one function: for each the operands' rows; and sorted by a number that equal rows share."""

    operands: list[tuple[tuple[Expression, ...], int]] = field(default_factory=list)
    marks: list[tuple[float, int]] = field(default_factory=list)

    def near(self, mark: float, margin: float) -> list[int]:
        start = bisect.bisect_left(self.marks, (mark - margin, -1))
        end = bisect.bisect_right(self.marks, (mark + margin, len(self.operands)))
        return sorted(place for _, place in self.marks[start:end])

    def add(self, mark: float, operands: tuple[Expression, ...], row: int) -> int:
        place = len(self.operands)
        self.operands.append((operands, row))
        bisect.insort(self.marks, (mark, place))
        return place


class Algebra:
    """Expressions of one pair of models, which share their atoms.

    Args:
        unit: Relative error of one rounding of the stored weights.
        most: Multiplications it may take.
    """

    def __init__(self, unit: float, most: float) -> None:
        self.unit = unit
        self._left = most
        self._tables: dict[Group, _Table] = {}

    # -- making expressions ----------------------------------------------------------------------------------------

    def base(self, name: str, channels: int, spatial: int, axis: int | None) -> Expression:
        """A value that both models have, as itself."""
        zero = (0,) * spatial
        if channels > _MOST_CHANNELS:
            raise TooLarge(f"{channels} channels")
        term = Term(np.arange(channels), {zero: np.eye(channels)}, (1,) * spatial, identity=True)
        return Expression(channels, {("value", name): term}, np.zeros(channels), np.ones(channels), depth=0, axis=axis)

    def linear(
        self,
        x: Expression,
        taps: Mapping[Offset, Array],
        stride: Offset,
        bias: Array | None,
    ) -> Expression:
        """A linear layer: a matrix ``(out, rows of x)`` for each displacement in positions of ``x``."""
        out = next(iter(taps.values())).shape[0]
        magnitudes = np.abs(np.stack(list(taps.values())))
        if x.terms and all(term.identity for term in x.terms.values()):  # every coefficient is one weight
            size = magnitudes.max(axis=(0, 2), initial=0.0)
        else:
            size = magnitudes.sum(axis=0) @ x.size
        new = Expression(out, {}, np.zeros(out), size, x.depth + 1, x.axis)
        new.bias = sum((matrix @ x.bias for matrix in taps.values()), np.zeros(out))
        if bias is not None:
            new.bias = new.bias + bias
            new.size = np.maximum(new.size, np.abs(bias))
        for group, term in x.terms.items():
            self._spend(len(taps) * len(term.taps) * out * x.rows * (1 if term.identity else len(term.columns)))
            own_stride = term.stride or stride
            found: dict[Offset, Array] = {}
            for move, matrix in taps.items():
                for offset, inner in term.taps.items():
                    place = tuple(o + s * m for o, s, m in zip(offset, own_stride, move, strict=True))
                    product = matrix if term.identity else matrix @ inner
                    found[place] = found[place] + product if place in found else product
            strides = tuple(one * two for one, two in zip(own_stride, stride, strict=True))
            new.terms[group] = Term(term.columns, found, strides)
        return self._tidy(new)

    def scaled(self, x: Expression, factor: Array, shift: Array | None = None) -> Expression:
        """``factor x + shift``, channel by channel."""
        factor = np.broadcast_to(factor, (x.rows,))
        new = Expression(x.rows, {}, x.bias * factor, x.size * np.abs(factor), x.depth + 1, x.axis)
        if shift is not None:
            new.bias = new.bias + shift
        for group, term in x.terms.items():
            taps = {offset: tap * factor[:, None] for offset, tap in term.taps.items()}
            new.terms[group] = Term(term.columns, taps, term.stride)
        return self._tidy(new)

    def total(self, one: Expression, other: Expression, sign: float = 1.0, *, tidy: bool = True) -> Expression:
        """``one + sign other``; one row is broadcast over all."""
        rows = max(one.rows, other.rows)
        if one.rows not in (1, rows) or other.rows not in (1, rows):
            raise Unsupported("a sum of different numbers of channels")
        axis = one.axis if one.axis is not None else other.axis
        if one.axis is not None and other.axis is not None and one.axis != other.axis:
            raise Unsupported("a sum of different layouts")
        size = np.broadcast_to(one.size, (rows,)) + np.broadcast_to(other.size, (rows,))
        bias = np.broadcast_to(one.bias, (rows,)) + sign * np.broadcast_to(other.bias, (rows,))
        new = Expression(rows, {}, bias, size, max(one.depth, other.depth), axis)
        for expression, factor in ((one, 1.0), (other, sign)):
            for group, term in expression.terms.items():
                taps = {
                    offset: np.broadcast_to(factor * tap, (rows, tap.shape[1])) for offset, tap in term.taps.items()
                }
                part = Term(term.columns, taps, term.stride)
                new.terms[group] = _merged(new.terms[group], part) if group in new.terms else part
        return self._tidy(new) if tidy else new

    def stacked(self, parts: Sequence[Expression]) -> Expression:
        """Channels of one after those of the other."""
        rows = sum(part.rows for part in parts)
        new = Expression(
            rows,
            {},
            np.concatenate([part.bias for part in parts]),
            np.concatenate([part.size for part in parts]),
            max(part.depth for part in parts),
            parts[0].axis,
        )
        start = 0
        for part in parts:
            for group, term in part.terms.items():
                taps: dict[Offset, Array] = {}
                for offset, tap in term.taps.items():
                    taps[offset] = np.zeros((rows, tap.shape[1]))
                    taps[offset][start : start + part.rows] = tap
                    self._spend(taps[offset].size)
                piece = Term(term.columns, taps, term.stride)
                new.terms[group] = _merged(new.terms[group], piece) if group in new.terms else piece
            start += part.rows
        return self._tidy(new)

    def taken(self, x: Expression, places: Array) -> Expression:
        """Some of the channels, in this order."""
        new = Expression(len(places), {}, x.bias[places], x.size[places], x.depth, x.axis)
        for group, term in x.terms.items():
            taps = {offset: tap[places] for offset, tap in term.taps.items()}
            new.terms[group] = Term(term.columns, taps, term.stride)
        return self._tidy(new)

    def applied(
        self,
        function: tuple[Any, ...] | list[tuple[Any, ...]],
        x: Expression,
        *,
        mirror: Mirror | list[Mirror] | None = None,
        idempotent: bool = False,
        at_constant: Callable[[int, float], float | None] = lambda _row, _constant: None,
    ) -> Expression:
        """A function of every row by itself.

        Args:
            function: What identifies the function, its name and parameters; or a list of that, row by row.
            x: Its operand.
            mirror: What the function is of the negative; or a list of that, row by row.
            idempotent: ``f(f(x)) = f(x)``.
            at_constant: The function of a constant at a row, where it is known.
        """
        rows = x.rows
        zero = (0,) * self._rank(x)
        new = Expression(rows, {}, np.zeros(rows), np.ones(rows), x.depth, x.axis)
        placed: dict[Group, list[tuple[int, int, float]]] = {}
        linear = np.zeros(rows)
        marks = self._marks(x)
        silent = self._constant_rows(x)
        single = self._single_rows(x) if idempotent else np.zeros(rows, bool)
        for row in range(rows):
            identity = function[row] if isinstance(function, list) else function
            value = at_constant(row, float(x.bias[row])) if silent[row] else None
            if value is not None:
                new.bias[row] = value
                continue
            same = self._already(x, row, identity) if single[row] else None
            if same is not None:
                placed.setdefault(same[0], []).append((row, same[1], 1.0))
                continue
            reflection = mirror[row] if isinstance(mirror, list) else mirror
            group: Group = ("atoms", identity, len(zero))
            atom, sign = self._atom(group, x, row, marks[row], mirrored=reflection is not None)
            factor = 1.0
            if sign < 0 and reflection is not None:
                factor, linear[row], new.bias[row] = reflection.factor, reflection.slope, reflection.shift
            placed.setdefault(group, []).append((row, atom, factor))
        self._place(new, placed, zero)
        if linear.any():
            depth, new = new.depth, self.total(new, self.scaled(x, linear))
            new.depth = depth
        return new

    def multiplied(self, one: Expression, other: Expression) -> Expression:
        """Row times row: what is constant in either is taken out, and signs do not make another product."""
        rows = max(one.rows, other.rows)
        if one.rows not in (1, rows) or other.rows not in (1, rows):
            raise Unsupported("a product of different numbers of channels")
        one, other = self._spread(one, rows), self._spread(other, rows)
        zero = (0,) * max(self._rank(one), self._rank(other))
        biases = one.bias, other.bias
        size = (
            one.size * other.size
            + np.abs(biases[0]) * other.size
            + np.abs(biases[1]) * one.size
            + np.abs(biases[0] * biases[1])
        )
        axis = one.axis if one.axis is not None else other.axis
        new = Expression(rows, {}, biases[0] * biases[1], size, max(one.depth, other.depth), axis)
        plain = [Expression(rows, x.terms, np.zeros(rows), x.size, x.depth, x.axis) for x in (one, other)]
        silent = self._constant_rows(plain[0]) | self._constant_rows(plain[1])
        # Half of a row times another is half of their product: largest coefficients of 1, and the rest outside.
        largest = [np.where(silent, 1.0, _largest(x)) for x in plain]
        unit = [self.scaled(x, 1.0 / one) for x, one in zip(plain, largest, strict=True)]
        marks = [self._marks(x) for x in unit]
        group: Group = ("products", len(zero))
        table = self._tables.setdefault(group, _Table())
        placed: dict[Group, list[tuple[int, int, float]]] = {}
        for row in range(rows):
            if silent[row]:
                continue
            (first, first_margin), (second, second_margin) = marks[0][row], marks[1][row]
            mark = abs(first * second)
            margin = abs(first) * second_margin + abs(second) * first_margin + first_margin * second_margin
            found = self._product(table, unit, row, mark, margin)
            if found is None:
                found = table.add(mark, (unit[0], unit[1]), row), 1.0
            factor = found[1] * float(largest[0][row] * largest[1][row])
            placed.setdefault(group, []).append((row, found[0], factor))
        self._place(new, placed, zero)
        for bias, x in zip(biases[::-1], plain, strict=True):
            if bias.any():
                new = self.total(new, self.scaled(x, bias))
        return new

    def _product(
        self, table: _Table, operands: Sequence[Expression], row: int, mark: float, margin: float
    ) -> tuple[int, float] | None:
        for place in table.near(mark, margin):
            others, other_row = table.operands[place]
            for pair in (others, others[::-1]):
                signs = [
                    next((sign for sign in (1, -1) if self._same(a, row, b, other_row, sign)), 0)
                    for a, b in zip(operands, pair, strict=True)
                ]
                if all(signs):
                    return place, float(signs[0] * signs[1])
        return None

    def _place(self, new: Expression, placed: Mapping[Group, Sequence[tuple[int, int, float]]], zero: Offset) -> None:
        for group, pairs in placed.items():
            rows, atoms, factors = zip(*pairs, strict=True)
            columns, places = np.unique(atoms, return_inverse=True)
            matrix = np.zeros((new.rows, len(columns)))
            matrix[list(rows), places] = factors
            self._spend(matrix.size)
            new.terms[group] = Term(columns, {zero: matrix}, (1,) * len(zero))

    @staticmethod
    def _spread(x: Expression, rows: int) -> Expression:
        if x.rows == rows:
            return x
        terms = {
            group: Term(term.columns, {o: np.repeat(tap, rows, axis=0) for o, tap in term.taps.items()}, term.stride)
            for group, term in x.terms.items()
        }
        return Expression(rows, terms, np.repeat(x.bias, rows), np.repeat(x.size, rows), x.depth, x.axis)

    def _constant_rows(self, x: Expression) -> Array:
        """Rows that do not depend on anything."""
        return np.asarray(_largest(x) <= self.unit * max(x.depth, 1) * x.size)

    # -- comparing ---------------------------------------------------------------------------------------------------

    def distance(self, parent: Expression, child: Expression) -> tuple[float, float]:
        """Largest difference of two coefficients, and how much of it rounding can explain, both over the largest."""
        if parent.rows != child.rows:
            raise Unsupported("different numbers of channels")
        functions = [{group[1][0] for group in x.terms if group[0] == "atoms"} for x in (parent, child)]
        alone = functions[0] - functions[1], functions[1] - functions[0]
        if all(alone):
            names = " and ".join(min(names) for names in alone)
            raise Unsupported(f"{names}, which may be one function in two spellings")
        apart = self.total(parent, child, -1.0, tidy=False)
        scale = max(parent.scale(), 1e-300)
        if not np.isfinite(scale):
            raise Unsupported("numbers that are not finite")
        residual = apart.scale()
        size = float(np.max(parent.size + child.size, initial=0.0))
        bias_scale = max(scale, float(np.abs(parent.bias).max(initial=0.0)))
        residual = max(residual / scale, float(np.abs(apart.bias).max(initial=0.0)) / bias_scale)
        depth = max(parent.depth, child.depth, 1)
        return residual, depth * self.unit * size / scale

    def respelled(self, parent: Expression, child: Expression) -> bool:
        """Whether each rests on something that the other does not: what differs may then be one function in two
        spellings, such as a value of one model that is computed under two names in the other.

        Where one has all that the other has, as where a single coefficient differs, it is another function: atoms
        are different functions, and a sum of them is zero by accident alone.
        """
        ground = [
            {
                (group, 0 if group[0] == "value" else int(column))
                for group, term in x.terms.items()
                for column in term.columns[self._felt(x, term)]
            }
            for x in (parent, child)
        ]
        return bool(ground[0] - ground[1]) and bool(ground[1] - ground[0])

    def _felt(self, x: Expression, term: Term) -> Array:
        """Which columns of a term have a coefficient that is more than rounding."""
        margin = (_MATCH * self.unit * max(x.depth, 1) * x.size)[:, None]
        felt = np.zeros(len(term.columns), bool)
        for tap in term.taps.values():
            felt |= (np.abs(tap) > margin).any(axis=0)
        return felt

    # -- atoms -------------------------------------------------------------------------------------------------------

    @staticmethod
    def _rank(x: Expression) -> int:
        ranks = {len(term.stride) for term in x.terms.values()}
        if len(ranks) > 1:
            raise Unsupported("layers over different numbers of axes")
        return ranks.pop() if ranks else 0

    def _atom(
        self, group: Group, x: Expression, row: int, mark: tuple[float, float], *, mirrored: bool
    ) -> tuple[int, int]:
        """The atom of a row, and whether it is that of the row itself (1) or of its negative (-1)."""
        table = self._tables.setdefault(group, _Table())
        for sign in (1, -1) if mirrored else (1,):
            for place in table.near(sign * mark[0], mark[1]):
                (other,), other_row = table.operands[place]
                if self._same(x, row, other, other_row, sign):
                    return place, sign
        return table.add(mark[0], (x,), row), 1

    def _marks(self, x: Expression) -> list[tuple[float, float]]:
        """For each row a number that equal rows share, and how far rounding can move it."""
        marks, count = x.bias.astype(np.float64), 1.0
        for group, term in x.terms.items():
            for offset, tap in term.taps.items():
                marks = marks + tap @ _weight_of(group, offset, term.columns)
                count += tap.shape[1]
        margin = 1e-12 + _MATCH * self.unit * max(x.depth, 1) * count**0.5 * x.size
        return list(zip(marks.tolist(), margin.tolist(), strict=True))

    def _same(self, one: Expression, row: int, other: Expression, other_row: int, sign: int) -> bool:
        margin = _MATCH * self.unit * max(one.depth, other.depth, 1) * max(one.size[row], other.size[other_row])
        if abs(one.bias[row] - sign * other.bias[other_row]) > margin:
            return False
        for group in one.terms.keys() | other.terms.keys():
            left, right = one.terms.get(group), other.terms.get(group)
            if left is not None and right is not None and left.stride != right.stride:
                return False
            if _difference(left, row, right, other_row, sign) > margin:
                return False
        return True

    def _single_rows(self, x: Expression) -> Array:
        """Rows that are one coefficient and nothing else."""
        margin = self._row_margin(x)
        above = sum((np.count_nonzero(np.abs(t.rows) > margin[:, None], axis=1) for t in x.terms.values()), 0)
        return np.asarray((np.abs(x.bias) <= margin) & (above == 1))

    def _row_margin(self, x: Expression) -> Array:
        return np.asarray(_MATCH * self.unit * max(x.depth, 1) * np.maximum(x.size, 1.0))

    def _already(self, x: Expression, row: int, identity: tuple[Any, ...]) -> tuple[Group, int] | None:
        """The atom that a row of one coefficient is, where it is of the same function and the row is that atom."""
        margin = self._row_margin(x)[row]
        for group, term in x.terms.items():
            coefficients = term.rows[row]
            for place in np.flatnonzero(np.abs(coefficients) > margin):
                tap, column = divmod(int(place), len(term.columns))
                whole = abs(coefficients[place] - 1.0) <= margin and not any(term.offsets[tap])
                if whole and group[0] == "atoms" and group[1] == identity and all(step == 1 for step in term.stride):
                    return group, int(term.columns[column])
        return None

    # -- housekeeping ------------------------------------------------------------------------------------------------

    def _tidy(self, x: Expression) -> Expression:
        """Without groups and taps that are nothing but rounding, each row by its own size: small rows may stand
        beside large ones, as where a layer of small weights meets the channels of an activation."""
        margin = self.unit * max(x.depth, 1) * x.size[:, None]
        for group in list(x.terms):
            term = x.terms[group]
            felt: Array = (np.abs(term.rows) > margin).any(axis=0).reshape(len(term.taps), -1)
            above = {offset: bool(tap.any()) for offset, tap in zip(term.offsets, felt, strict=True)}
            kept = {offset: tap for offset, tap in term.taps.items() if above[offset]}
            if not kept:
                del x.terms[group]
            elif len(kept) < len(term.taps):
                x.terms[group] = Term(term.columns, kept, term.stride)
        return x

    def _spend(self, multiplications: float) -> None:
        self._left -= multiplications
        if self._left < 0:
            raise TooLarge("the algebra would take too long")


def _merged(one: Term, other: Term) -> Term:
    if one.stride != other.stride:
        raise Unsupported("a sum of different strides")
    columns = np.union1d(one.columns, other.columns)
    taps: dict[Offset, Array] = {}
    for term in (one, other):
        places = np.searchsorted(columns, term.columns)
        for offset, tap in term.taps.items():
            wide = taps.setdefault(offset, np.zeros((tap.shape[0], len(columns))))
            wide[:, places] += tap
    return Term(columns, taps, one.stride)


def _largest(x: Expression) -> Array:
    """For each row its largest coefficient, in magnitude."""
    largest = np.zeros(x.rows)
    for term in x.terms.values():
        largest = np.maximum(largest, np.abs(term.rows).max(axis=1, initial=0.0))
    return largest


def _difference(left: Term | None, row: int, right: Term | None, other_row: int, sign: int) -> float:
    """Largest ``|left - sign right|`` of the coefficients of two rows."""
    if left is None or right is None:
        present = left.rows[row] if left is not None else right.rows[other_row] if right is not None else np.zeros(0)
        return float(np.abs(present).max(initial=0.0))
    if left.offsets == right.offsets and np.array_equal(left.columns, right.columns):
        return float(np.abs(left.rows[row] - sign * right.rows[other_row]).max(initial=0.0))
    columns = np.union1d(left.columns, right.columns)
    apart: dict[Offset, Array] = {}
    for term, place, factor in ((left, row, 1), (right, other_row, -sign)):
        into = np.searchsorted(columns, term.columns)
        for offset, tap in term.taps.items():
            apart.setdefault(offset, np.zeros(len(columns)))[into] += factor * tap[place]
    return max(float(np.abs(difference).max(initial=0.0)) for difference in apart.values())


def _weight_of(group: Group, offset: Offset, columns: Array) -> Array:
    """Numbers in [-1, 1] that belong to the places of a row, the same in every expression."""
    seed = zlib.crc32(repr((group, offset)).encode()) % 9973
    return np.asarray(np.sin((columns + 1.0) * 12.9898 + seed * 78.233))
