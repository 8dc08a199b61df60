"""Sizes at which a model runs: the parent is asked, from the sizes that tell most to those that run at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.errors import RuntimeFailure
from onnxmorph.verify.dimensions import is_past, symbols
from onnxmorph.verify.feeds import Assignment
from onnxmorph.verify.roles import compared_sizes, static_shape
from onnxmorph.verify.specs import InputSpec

__all__ = ["MOST_ELEMENTS", "SizeSearch"]

MOST_ELEMENTS = 1 << 24
"""No input is made larger than this."""

_MOST_TRIALS = 120
_PATIENCE = 10.0  # seconds until the first size is found, whatever the time asked for: without one there is no answer
_MOST_CHOICES = 12
_SIZES = (
    *(40, 64, 33, 128, 32, 96, 224, 16, 256, 24, 48, 12, 8, 80, 160, 512, 576, 320),
    *(6, 4, 3, 2, 1, 299, 384, 640, 1024),
)
_SIZES_LONG = (1536, 2048, 4096, 8000, 16000, 43844)
_BATCH_NAMES = {"n", "b", "bs", "batch", "batch_size", "batchsize"}

Trial = Callable[[Assignment, int], None]
"""Runs the parent at these sizes with the values of this index; raises `RuntimeFailure` where it cannot."""


class SizeSearch:
    """The symbols of a model's inputs, and sizes for them.

    Args:
        model: The parent.
        specs: Its inputs.

    Attributes:
        symbols: Independent symbols of all inputs, in order of appearance.
        choices: Sizes and value index for every other branch that an input of one number picks.
        dropped: What the parent could not run, with its reason.
    """

    def __init__(self, model: ir.Model, specs: Sequence[InputSpec]) -> None:
        self._specs = specs
        self.symbols = symbols(dim for spec in specs for dim in spec.dims)
        self.choices: list[tuple[Assignment, int]] = []
        self.dropped: list[dict[str, Any]] = []
        self._batches, self._secondary = self._find_batches()
        self._kernel = _largest_kernel(model)
        self._compared = compared_sizes(model) if self.symbols else []

    def find(self, runs: Trial, *, most: int = 5, out_of_time: Callable[[], bool] = lambda: False) -> list[Assignment]:
        """Sizes of the symbols at which the parent runs, several for each symbol where it can.

        Args:
            runs: Tries the parent.
            most: How many assignments to look for, besides those that take it to another branch.
            out_of_time: Says when to be content with what has been found.

        Raises:
            RuntimeFailure: The parent runs at none of the sizes tried; the message is that of its first failure.
        """
        found: list[Assignment] = []
        first_failure: str | None = None
        tried: set[tuple[tuple[str, int], ...]] = set()
        patience = time.monotonic() + _PATIENCE

        def attempt(sizes: Assignment) -> bool:
            nonlocal first_failure
            key = tuple(sorted(sizes.items()))
            if key in tried or self._elements(sizes) > MOST_ELEMENTS:
                return False
            tried.add(key)
            try:
                runs(sizes, 0)
            except RuntimeFailure as failure:
                first_failure = first_failure or str(failure)
                self.dropped.append({"sizes": sizes, "reason": str(failure)[:200]})
                return False
            found.append(sizes)
            return True

        if not self.symbols:
            if not attempt({}):
                raise RuntimeFailure(f"not verifiable here: the parent does not run: {first_failure}")
            self._find_choices(found, runs, out_of_time)
            return found
        for sizes in self._bases():
            if attempt(sizes) or len(tried) >= _MOST_TRIALS or (out_of_time() and time.monotonic() > patience):
                break
        if not found:
            raise RuntimeFailure(
                f"not verifiable here: the parent ran at none of the {len(tried)} sizes tried; give its sizes by "
                f"--shape or data by --inputs; first failure: {first_failure}"
            )
        branching = self._branching(found[0])
        for sizes in branching:
            if not out_of_time():
                attempt(sizes)
        # Before more sizes: a branch that is never taken is not compared at all.
        self._find_choices(found, runs, out_of_time)
        most += len(found) - 1
        for sizes in self._variants(found[0]):
            if len(found) >= most or out_of_time() or len(tried) >= 2 * _MOST_TRIALS:
                break
            attempt(sizes)
        return found

    def _find_choices(self, found: Sequence[Assignment], runs: Trial, out_of_time: Callable[[], bool]) -> None:
        """Sizes for the other values of inputs that choose a branch, which may need sizes of their own."""
        choosing = [spec for spec in self._specs if spec.chooses()]
        if not choosing:
            return
        patience = time.monotonic() + _PATIENCE
        for index in range(1, min(max(3, *(len(spec.choices()) for spec in choosing)), _MOST_CHOICES)):
            for sizes in [*found, *self._bases()][:_MOST_TRIALS]:
                try:
                    runs(sizes, index)
                except RuntimeFailure:
                    if out_of_time() and time.monotonic() > patience:
                        return
                    continue
                self.choices.append((sizes, index))
                break

    def _branching(self, base: Assignment) -> list[Assignment]:
        """Sizes around those that the graph compares its inputs' sizes with: an If may ask for them."""
        sizes: list[Assignment] = []
        for number in self._compared:
            for near in (number, number + 1, number - 1):
                sizes += [base | {symbol: near} for symbol in self.symbols if near > 0 and base[symbol] != near]
        return sizes[:_MOST_CHOICES]

    def _bases(self) -> list[Assignment]:
        """First assignments to try: one size for every symbol, beyond the kernels first, and a batch of 2 or 1."""
        floor = self._kernel + 2
        sizes = [size for size in _SIZES if size >= floor] + list(_SIZES_LONG)
        sizes += [size for size in _SIZES if size < floor]
        pasts = (0, 5) if any(is_past(symbol) for symbol in self.symbols) else (0,)
        bases: list[Assignment] = []
        for size in sizes:
            for batch in (2, 1):
                for past in pasts:
                    # Exporters that name no dimension leave it open which ones are the batch: try both readings.
                    for batches in (self._batches, self._batches | self._secondary):
                        bases.append(self._assign(batch, size, past, batches))
        return [sizes for sizes in bases if self._elements(sizes) <= MOST_ELEMENTS]

    def _assign(self, batch: int, size: int, past: int, batches: Collection[str]) -> Assignment:
        sizes = {symbol: batch if symbol in batches else past if is_past(symbol) else size for symbol in self.symbols}
        for symbol in self.symbols:
            if "total" in symbol.lower() and any(is_past(other) for other in self.symbols):
                sizes[symbol] = past + size
        return sizes

    def _variants(self, base: Assignment) -> list[Assignment]:
        """Other assignments: everything changed first, then one symbol at a time, odd sizes before round ones."""
        if self._batches and all(base[symbol] == base[min(self._batches)] for symbol in self._secondary):
            self._batches |= self._secondary
        free = [symbol for symbol in self.symbols if symbol not in self._batches and not is_past(symbol)]
        batches = [symbol for symbol in self.symbols if symbol in self._batches]
        past = [symbol for symbol in self.symbols if is_past(symbol)]
        size = base[free[0]] if free else 0
        others = [n for n in (47, 33, 21, 96, 128, 64, size + 32, 2 * size, 10, 160) if n != size and n > self._kernel]
        others += [n for n in (7, 5, 3, 2) if n != size]
        variants: list[Assignment] = []
        if past:
            for length in (5, 1, 9):
                total = {s: base[s] + length - base[past[0]] for s in free if "total" in s.lower()}
                variants.append(base | dict.fromkeys(past, length) | total)
        if batches:
            # A table is only walked through by many ids.
            for count in (16, 3, 1) if any(spec.kind() == "ids" for spec in self._specs) else (3, 1):
                variants.append(base | dict.fromkeys(batches, count))
        mixed: list[Assignment] = []
        for place, other in enumerate(others):
            if free:
                mixed.append(base | dict.fromkeys(free, other) | dict.fromkeys(batches, 1))
            if len(free) > 1:
                mixed.append(
                    base | {symbol: others[(place + shift) % len(others)] for shift, symbol in enumerate(free)}
                )
        # Sizes matter more than batches, of which one costs little and is nearly always possible.
        return mixed[:2] + variants[:1] + mixed[2:4] + variants[1:] + mixed[4:]

    def larger(self, sizes: Assignment, batch: int) -> Assignment:
        """The same sizes with another batch."""
        return sizes | {symbol: batch for symbol in self._batches if symbol in sizes}

    def _find_batches(self) -> tuple[set[str], set[str]]:
        """Symbols that are batches by their name or place, and nameless ones of other inputs that may be."""
        first: set[str] = set()
        later: set[str] = set()
        named = {symbol for symbol in self.symbols if symbol.lower() in _BATCH_NAMES or "batch" in symbol.lower()}
        for spec in self._specs:
            for axis, dim in enumerate(spec.dims):
                if isinstance(dim, str):
                    leads = axis == 0 and len(spec.dims) > 1 and not named.intersection(spec.dims)
                    (first if leads else later).add(dim)
        leading = first - {dim for dim in later if not any(spec.dims == (dim,) for spec in self._specs)}
        secondary = {
            dim
            for spec in self._specs[1:]
            for axis, dim in enumerate(spec.dims)
            if isinstance(dim, str) and (dim == f"{spec.name}.{axis}" or dim.startswith("unk__"))
        }
        return leading | named, secondary - leading - named

    def _elements(self, sizes: Assignment) -> int:
        return max((int(np.prod(spec.shape(sizes), dtype=np.float64)) for spec in self._specs), default=0)


def _largest_kernel(model: ir.Model) -> int:
    """Extent of the widest window of any Conv or pooling node: sizes below it would only see padding."""
    widest = 1
    for node in model.graph:
        kernel: Sequence[int] = ()
        if node.op_type == "Conv" and len(node.inputs) > 1:
            shape = static_shape(node.inputs[1])
            kernel = shape[2:] if shape else ()
        elif node.op_type in ("MaxPool", "AveragePool") and "kernel_shape" in node.attributes:
            kernel = node.attributes["kernel_shape"].as_ints()
        dilations = node.attributes["dilations"].as_ints() if "dilations" in node.attributes else [1] * len(kernel)
        for size, dilation in zip(kernel, dilations, strict=False):
            widest = max(widest, (size - 1) * dilation + 1)
    return min(widest, 96)
