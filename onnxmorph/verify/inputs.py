"""Inputs that can tell two models apart.

Usual comparers feed numbers in [0, 1], ids of 0 and 1 and sizes of 1, and pass children that are wrong. Here floats
are signed and come at several scales, ids cover their table and favour the rows that changed, every symbolic dimension
takes several sizes beyond the kernels, masks pad at the end, inputs that pick a branch pick every one, and the parent
decides which sizes a model can run at all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.errors import SelectionError
from onnxmorph.verify.feeds import Assignment, Feeds, InputSet
from onnxmorph.verify.real_data import read_inputs
from onnxmorph.verify.signature import required_inputs
from onnxmorph.verify.sizes import SizeSearch
from onnxmorph.verify.specs import InputSpec, did_you_mean, input_spec
from onnxmorph.verify.values import ValueMaker

__all__ = ["Feeds", "InputPlan", "InputSet", "InputSpec", "did_you_mean", "read_inputs"]

_DISTRIBUTIONS = ("normal", "normal", "smooth", "x10", "x0.1", "positive", "x0.001", "image", "smooth", "normal")
_WAKING = ("x100", "constant", "burst", "smooth", "x1000")
_TIMES_WOKEN = 2
_FIRST_WAKING = 100
_SWEEP_IDS = 1 << 14
_MOST_SWEEPS = 8


class InputPlan:
    """Sizes and values to feed a model with.

    Args:
        model: The parent.
        shapes: Full shapes for some inputs, by name, as a person typed them.
        seed: Seed of everything random.
        rows: Rows of tables that changed, by table name: ids that index those tables visit them first.
        new_tables: Names of tables that the child does not have as they are: ids go through all of their rows.

    Raises:
        SelectionError: ``shapes`` names no input or contradicts a declared shape.
        RuntimeFailure: The model has inputs of a type that cannot be made up here.
    """

    def __init__(
        self,
        model: ir.Model,
        *,
        shapes: Mapping[str, Sequence[int]] | None = None,
        seed: int = 0,
        rows: Mapping[str, np.ndarray[Any, Any]] | None = None,
        new_tables: Collection[str] = (),
    ) -> None:
        given = dict(shapes or {})
        names = [str(value.name) for value in required_inputs(model)]
        for name in given:
            if name not in names:
                raise SelectionError(f"--shape {name}: the model has no input of this name{did_you_mean(name, names)}")
        self.specs = [input_spec(model, value, given.get(str(value.name))) for value in required_inputs(model)]
        self._search = SizeSearch(model, self.specs)
        self._values = ValueMaker(self.specs, seed, rows or {})
        self._new_tables = frozenset(new_tables)

    @property
    def symbols(self) -> list[str]:
        """Independent symbols of all inputs, in order of appearance; ``past + seq`` counts as two."""
        return self._search.symbols

    @property
    def dropped(self) -> list[dict[str, Any]]:
        """Sizes and inputs that the parent could not run, with the reason."""
        return self._search.dropped

    def find_sizes(
        self, runs: Callable[[Feeds], None], *, most: int = 5, out_of_time: Callable[[], bool] = lambda: False
    ) -> list[Assignment]:
        """Sizes of the symbols at which the parent runs, several for each symbol where it can.

        Args:
            runs: Runs the parent; a `RuntimeFailure` means that it cannot at these sizes.
            most: How many assignments to look for.
            out_of_time: Says when to be content with what has been found.

        Raises:
            RuntimeFailure: The parent runs at none of the sizes tried; the message is that of its first failure.
        """

        def attempt(sizes: Assignment, index: int) -> None:
            runs(self.make(sizes, "normal", index, keep_ids=False))

        return self._search.find(attempt, most=most, out_of_time=out_of_time)

    def sets(self, sizes: Sequence[Assignment], count: int) -> list[InputSet]:
        """``count`` sets of inputs over the sizes found, the most telling first, and those that other branches need.

        The first sets are signed normal numbers at each of the sizes; then come the scales 10, 0.1, positive numbers in
        [0, 1], 0.001 and, for images, 0 to 255.
        """
        distributions = list(_DISTRIBUTIONS)
        if not any(spec.is_picture() for spec in self.specs):
            distributions.remove("image")
        made: list[InputSet] = []
        for index in range(count):
            chosen = sizes[index % len(sizes)]
            distribution = distributions[index % len(distributions)]
            made.append(self._set(chosen, distribution, index))
        for place, (chosen, index) in enumerate(self._search.choices):
            item = self._set(chosen, "normal", index)
            item.description += ", on another branch"
            # Early, so that a short budget reaches every branch.
            made.insert(1 + place, item)
        return made

    def waking(self, sizes: Sequence[Assignment]) -> list[InputSet]:
        """Sets that wake what the others leave asleep: large numbers, equal ones, single ones among zeros."""
        if not sizes:
            return []
        places = enumerate(_WAKING * _TIMES_WOKEN, _FIRST_WAKING)
        return [self._set(sizes[index % len(sizes)], distribution, index) for index, distribution in places]

    def sweeps(self, sizes: Sequence[Assignment]) -> list[InputSet]:
        """Sets that take the ids through what is left of tables that changed."""
        made: list[InputSet] = []
        for spec in self.specs:
            bounds = spec.role.id_range()
            if spec.kind() != "ids" or bounds is None or not any(t in self._new_tables for _, _, t in spec.role.tables):
                continue
            left = bounds[1] - bounds[0] - len(self._values.ids_seen.get(spec.name, ()))
            if left <= 0 or not sizes:
                continue
            base = max(sizes, key=lambda item: int(np.prod(spec.shape(self._search.larger(item, 1)))))
            each = max(1, int(np.prod(spec.shape(self._search.larger(base, 1)))))
            for _ in range(_MOST_SWEEPS):
                left = bounds[1] - bounds[0] - len(self._values.ids_seen.get(spec.name, ()))
                if left <= 0:
                    break
                batch = max(1, min(-(-left // each), _SWEEP_IDS // each))
                made.append(self._set(self._search.larger(base, batch), "normal", len(made)))
        return made

    def _set(self, sizes: Assignment, distribution: str, index: int) -> InputSet:
        label = ", ".join(f"{symbol}={size}" for symbol, size in sizes.items())
        description = distribution + (f" at {label}" if label else "")
        return InputSet(self.make(sizes, distribution, index), description, sizes, distribution)

    def make(self, sizes: Assignment, distribution: str, index: int, *, keep_ids: bool = True) -> Feeds:
        """One set of inputs: by name, arrays of the declared types at these sizes."""
        return self._values.make(sizes, distribution, index, keep_ids=keep_ids)

    def coverage(self, used: Sequence[InputSet]) -> dict[str, Any]:
        """What was fed: sizes of each symbol, ids visited, roles, distributions, and sizes the parent refused."""
        for item in used:
            if item.distribution == "real":
                self._values.note_ids(item.feeds)
        sizes: dict[str, list[int]] = {
            symbol: sorted({s.sizes[symbol] for s in used if symbol in s.sizes}) for symbol in self.symbols
        }
        ids: dict[str, Any] = {}
        for spec in self.specs:
            bounds, seen = spec.role.id_range(), self._values.ids_seen.get(spec.name)
            if bounds is not None and seen:
                ids[spec.name] = {
                    "from": min(seen),
                    "to": max(seen),
                    "distinct": len(seen),
                    "table": bounds[1],
                    "whole": len(seen) >= bounds[1] - bounds[0],
                    "table_changed": any(table in self._new_tables for _, _, table in spec.role.tables),
                }
        choices = {
            spec.name: sorted({float(np.asarray(item.feeds[spec.name]).reshape(-1)[0]) for item in used})
            for spec in self.specs
            if spec.chooses() and all(np.asarray(item.feeds[spec.name]).size for item in used)
        }
        found = {
            "roles": {spec.name: spec.kind() for spec in self.specs},
            "sizes": sizes,
            "ids": ids,
            "distributions": sorted({item.distribution for item in used}),
            "dropped": self.dropped[:20],
        }
        return found | ({"choices": choices} if choices else {})
