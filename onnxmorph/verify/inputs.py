"""Inputs that can tell two models apart.

Usual comparers feed numbers in [0, 1], ids of 0 and 1 and sizes of 1, and pass children that are wrong. Here floats
are signed and come at several scales, ids cover their table and favour the rows that changed, every symbolic dimension
takes several sizes beyond the kernels, masks pad at the end, and the parent decides which sizes a model can run at all.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.errors import ModelError, RuntimeFailure, SelectionError
from onnxmorph.verify.roles import InputRole, static_shape, trace_role
from onnxmorph.verify.signature import required_inputs

__all__ = ["Feeds", "InputPlan", "InputSet", "read_inputs"]

Feeds = dict[str, Any]
Assignment = dict[str, int]

_MOST_ELEMENTS = 1 << 22
_MOST_TRIALS = 120
_SIZES = (
    40,
    64,
    33,
    128,
    32,
    96,
    224,
    16,
    256,
    24,
    48,
    12,
    8,
    80,
    160,
    512,
    576,
    320,
    6,
    4,
    3,
    2,
    1,
    299,
    384,
    640,
    1024,
)
_SIZES_LONG = (1536, 2048, 4096, 8000, 16000, 43844)
_BATCH_NAMES = {"n", "b", "bs", "batch", "batch_size", "batchsize"}
_DISTRIBUTIONS = ("normal", "normal", "normal", "x10", "x0.1", "positive", "x0.001", "image", "normal", "normal")


@dataclass
class InputSpec:
    """One input a caller must give: type, dimensions (a number, a symbol or an expression of symbols) and role."""

    name: str
    dtype: ir.DataType
    dims: tuple[int | str, ...]
    role: InputRole
    container: str = "tensor"

    def is_float(self) -> bool:
        """Whether it carries floating-point numbers."""
        return self.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)

    def kind(self) -> str:
        """In one word what its values are: ids, mask, length, shape, choice, image, signal, text, number."""
        if self.dtype == ir.DataType.STRING:
            return "text"
        if self.is_float():
            return "mask" if "mask" in self.name.lower() else "signal"
        if self.role.tables:
            return "ids"
        if "mask" in self.name.lower():
            return "mask"
        if self.role.shape:
            return "shape"
        if self.dtype == ir.DataType.BOOL:
            return "mask"
        if self.dtype == ir.DataType.UINT8:
            return "image"
        if self.role.compared and (not self.dims or self.dims == (1,)):
            return "choice"
        if self.role.length:
            return "length"
        return "mask" if self.role.mask or self.role.weighs else "number"


@dataclass
class InputSet:
    """One set of inputs and what it is: sizes of the symbols, distribution, or where real data came from."""

    feeds: Feeds
    description: str
    sizes: Assignment = field(default_factory=dict)
    distribution: str = "real"


@dataclass(frozen=True)
class _Request:
    """What is wanted of one input in one set."""

    shape: tuple[int, ...]
    sizes: Assignment
    distribution: str
    index: int
    keep_ids: bool


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """``"; did you mean 'x'?"`` or the list of what there is."""
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there is {', '.join(repr(item) for item in known[:8])}" if known else ""


class InputPlan:
    """Sizes and values to feed a model with.

    Args:
        model: The parent.
        shapes: Full shapes for some inputs, by name, as a person typed them.
        seed: Seed of everything random.
        rows: Rows of tables that changed, by table name: ids that index those tables visit them first.

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
    ) -> None:
        self._seed = seed
        self._rows = rows or {}
        self._next_id: dict[str, int] = {}
        self._ids_seen: dict[str, set[int]] = {}
        self.dropped: list[dict[str, Any]] = []
        self._other_choices: list[tuple[Assignment, int]] = []
        given = dict(shapes or {})
        names = [str(value.name) for value in required_inputs(model)]
        for name in given:
            if name not in names:
                raise SelectionError(f"--shape {name}: the model has no input of this name{did_you_mean(name, names)}")
        self.specs = [_spec(model, value, given.get(str(value.name))) for value in required_inputs(model)]
        self.symbols = _symbols(self.specs)
        self._batches, self._secondary = self._find_batches()
        self._reach = _largest_kernel(model)

    # -- sizes ---------------------------------------------------------------------------------------------------------

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
        found: list[Assignment] = []
        first_failure: str | None = None
        tried: set[tuple[tuple[str, int], ...]] = set()

        def attempt(sizes: Assignment) -> bool:
            nonlocal first_failure
            key = tuple(sorted(sizes.items()))
            if key in tried or self._elements(sizes) > 4 * _MOST_ELEMENTS:
                return False
            tried.add(key)
            try:
                runs(self.make(sizes, "normal", 0, keep_ids=False))
            except RuntimeFailure as failure:
                first_failure = first_failure or str(failure)
                self.dropped.append({"sizes": sizes, "reason": str(failure)[:200]})
                return False
            found.append(sizes)
            return True

        if not self.symbols:
            if not attempt({}):
                raise RuntimeFailure(f"not verifiable here: the parent does not run: {first_failure}")
            self._find_other_choices(found, runs, out_of_time)
            return found
        for sizes in self._bases():
            if attempt(sizes) or len(tried) >= _MOST_TRIALS or (out_of_time() and len(tried) > 3):
                break
        if not found:
            raise RuntimeFailure(
                f"not verifiable here: the parent ran at none of the {len(tried)} sizes tried; give its sizes by "
                f"--shape or data by --inputs; first failure: {first_failure}"
            )
        for sizes in self._variants(found[0]):
            if len(found) >= most or out_of_time():
                break
            if len(tried) >= 2 * _MOST_TRIALS:
                break
            attempt(sizes)
        self._find_other_choices(found, runs, out_of_time)
        return found

    def _find_other_choices(
        self, found: Sequence[Assignment], runs: Callable[[Feeds], None], out_of_time: Callable[[], bool]
    ) -> None:
        """Sizes for the other values of inputs that choose a branch, which may need sizes of their own."""
        if not any(_chooses(spec) for spec in self.specs):
            return
        for index in (1, 2):
            for sizes in [*found, *self._bases()][:_MOST_TRIALS]:
                try:
                    runs(self.make(sizes, "normal", index, keep_ids=False))
                except RuntimeFailure:
                    if out_of_time():
                        return
                    continue
                self._other_choices.append((sizes, index))
                break

    def _bases(self) -> list[Assignment]:
        """First assignments to try: one size for every symbol, beyond the kernels first, and a batch of 2 or 1."""
        floor = self._reach + 2
        sizes = [size for size in _SIZES if size >= floor] + list(_SIZES_LONG)
        sizes += [size for size in _SIZES if size < floor]
        pasts = (0, 5) if any(_is_past(symbol) for symbol in self.symbols) else (0,)
        bases: list[Assignment] = []
        for size in sizes:
            for batch in (2, 1):
                for past in pasts:
                    # Exporters that name no dimension leave it open which ones are the batch: try both readings.
                    for batches in (self._batches, self._batches | self._secondary):
                        bases.append(self._assign(batch, size, past, batches))
        return [sizes for sizes in bases if self._elements(sizes) <= 4 * _MOST_ELEMENTS]

    def _assign(self, batch: int, size: int, past: int, batches: Collection[str]) -> Assignment:
        sizes = {symbol: batch if symbol in batches else past if _is_past(symbol) else size for symbol in self.symbols}
        for symbol in self.symbols:
            if "total" in symbol.lower() and any(_is_past(other) for other in self.symbols):
                sizes[symbol] = past + size
        return sizes

    def _variants(self, base: Assignment) -> list[Assignment]:
        """Other assignments: everything changed first, then one symbol at a time, odd sizes before round ones."""
        if self._batches and all(base[symbol] == base[min(self._batches)] for symbol in self._secondary):
            self._batches |= self._secondary
        free = [symbol for symbol in self.symbols if symbol not in self._batches and not _is_past(symbol)]
        batches = [symbol for symbol in self.symbols if symbol in self._batches]
        past = [symbol for symbol in self.symbols if _is_past(symbol)]
        size = base[free[0]] if free else 0
        others = [n for n in (47, 33, 21, 96, 128, 64, size + 32, 2 * size, 10, 160) if n != size and n > self._reach]
        others += [n for n in (7, 5, 3, 2) if n != size]
        variants: list[Assignment] = []
        if past:
            for length in (5, 1, 9):
                total = {s: base[s] + length - base[past[0]] for s in free if "total" in s.lower()}
                variants.append(base | dict.fromkeys(past, length) | total)
        if batches:
            # A table is only walked through by many ids.
            for count in (16, 3, 1) if any(spec.kind() == "ids" for spec in self.specs) else (3, 1):
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

    def _find_batches(self) -> tuple[set[str], set[str]]:
        """Symbols that are batches by their name or place, and nameless ones of other inputs that may be."""
        first: set[str] = set()
        later: set[str] = set()
        named = {symbol for symbol in self.symbols if symbol.lower() in _BATCH_NAMES or "batch" in symbol.lower()}
        for spec in self.specs:
            for axis, dim in enumerate(spec.dims):
                if isinstance(dim, str):
                    leads = axis == 0 and len(spec.dims) > 1 and not named.intersection(spec.dims)
                    (first if leads else later).add(dim)
        leading = first - {dim for dim in later if not any(spec.dims == (dim,) for spec in self.specs)}
        secondary = {
            dim
            for spec in self.specs[1:]
            for axis, dim in enumerate(spec.dims)
            if isinstance(dim, str) and (dim == f"{spec.name}.{axis}" or dim.startswith("unk__"))
        }
        return leading | named, secondary - leading - named

    def _elements(self, sizes: Assignment) -> int:
        return max((int(np.prod(_shape(spec, sizes), dtype=np.float64)) for spec in self.specs), default=0)

    # -- values --------------------------------------------------------------------------------------------------------

    def sets(self, sizes: Sequence[Assignment], count: int) -> list[InputSet]:
        """``count`` sets of inputs over the sizes found, the most telling first.

        The first sets are signed normal numbers at each of the sizes; then come the scales 10, 0.1, positive numbers in
        [0, 1], 0.001 and, for images, 0 to 255.
        """
        distributions = list(_DISTRIBUTIONS)
        if not any(_is_image(spec) for spec in self.specs):
            distributions.remove("image")
        made: list[InputSet] = []
        for index in range(count):
            chosen = sizes[index % len(sizes)]
            distribution = distributions[index % len(distributions)]
            feeds = self.make(chosen, distribution, index)
            label = ", ".join(f"{symbol}={size}" for symbol, size in chosen.items())
            made.append(InputSet(feeds, f"{distribution}" + (f" at {label}" if label else ""), chosen, distribution))
        for place, (chosen, index) in enumerate(self._other_choices):
            feeds = self.make(chosen, "normal", index)
            # Early, so that a short budget reaches every branch.
            made.insert(1 + place, InputSet(feeds, "normal, on another branch", chosen, "normal"))
        return made

    def make(self, sizes: Assignment, distribution: str, index: int, *, keep_ids: bool = True) -> Feeds:
        """One set of inputs: by name, arrays of the declared types at these sizes."""
        generator = np.random.default_rng([self._seed, index])
        feeds: Feeds = {}
        for spec in self.specs:
            request = _Request(_shape(spec, sizes), sizes, distribution, index, keep_ids)
            value = self._value(spec, request, generator)
            feeds[spec.name] = [value, value] if spec.container == "sequence" else value
        return feeds

    def _value(
        self,
        spec: InputSpec,
        request: _Request,
        generator: np.random.Generator,
    ) -> Any:
        kind, shape, index = spec.kind(), request.shape, request.index
        if kind == "text":
            words = [*spec.role.strings, "a", "morphism", "", "Zürich 8"]
            return np.asarray([words[i] for i in generator.integers(0, len(words), shape).reshape(-1)], object).reshape(
                shape
            )
        dtype = spec.dtype.numpy()
        if kind == "signal":
            return _signal(shape, request.distribution, generator).astype(dtype)
        if kind == "mask":
            return _mask(shape, index, generator).astype(dtype)
        if kind == "ids":
            return self._ids(spec, shape, generator, request.keep_ids).astype(dtype)
        if kind == "image":
            return generator.integers(0, 256, shape).astype(dtype)
        if kind == "choice":
            known = spec.role.compared
            choices = sorted({*known, *(value + 1 for value in known)}, key=lambda value: value not in known)
            return np.full(shape, choices[index % len(choices)]).astype(dtype)
        if kind == "length":
            longest = self._longest(spec, request.sizes)
            lengths = generator.integers(max(1, longest // 2), longest + 1, shape)
            if lengths.size:
                lengths.reshape(-1)[0] = longest
            return lengths.astype(dtype)
        if kind == "shape":
            return np.full(shape, (1, 2, 16, 32)[index % 4]).astype(dtype)
        if spec.dtype == ir.DataType.INT8:
            return generator.integers(-128, 128, shape).astype(dtype)
        return generator.integers(0, 10, shape).astype(dtype)

    def _longest(self, lengths: InputSpec, sizes: Assignment) -> int:
        """A length that no axis these lengths may belong to is shorter than."""
        axes = [
            _size(dim, sizes)
            for spec in self.specs
            if spec is not lengths and len(spec.dims) >= 2
            for dim in spec.dims
            if isinstance(dim, str) and dim not in lengths.dims
        ]
        return max(min(axes, default=_longest_axis(self.specs)), 1)

    def _ids(
        self, spec: InputSpec, shape: tuple[int, ...], generator: np.random.Generator, keep: bool
    ) -> np.ndarray[Any, Any]:
        """Ids that walk through the whole table, changed rows and the two ends first, then at random once around."""
        bounds = spec.role.id_range()
        assert bounds is not None
        low, high = bounds
        count = int(np.prod(shape, dtype=np.int64))
        order = np.random.default_rng([self._seed, low, high]).permutation(high - low) + low
        first = [high - 1, low]
        for _, offset, table in spec.role.tables:
            first.extend(int(row) - offset for row in self._rows.get(table, ()) if low <= row - offset < high)
        order = np.concatenate([np.asarray(first, order.dtype), order])
        start = self._next_id.get(spec.name, 0) if keep else 0
        ids = order[(start + np.arange(count)) % len(order)]
        if keep:
            self._next_id[spec.name] = start + count
            self._ids_seen.setdefault(spec.name, set()).update(int(item) for item in np.unique(ids))
        return generator.permutation(ids).reshape(shape)

    # -- report --------------------------------------------------------------------------------------------------------

    def coverage(self, used: Sequence[InputSet]) -> dict[str, Any]:
        """What was fed: sizes of each symbol, ids visited, roles, distributions, and sizes the parent refused."""
        sizes: dict[str, list[int]] = {
            symbol: sorted({s.sizes[symbol] for s in used if symbol in s.sizes}) for symbol in self.symbols
        }
        ids: dict[str, Any] = {}
        for spec in self.specs:
            bounds, seen = spec.role.id_range(), self._ids_seen.get(spec.name)
            if bounds is not None and seen:
                ids[spec.name] = {"from": min(seen), "to": max(seen), "distinct": len(seen), "table": bounds[1]}
        return {
            "roles": {spec.name: spec.kind() for spec in self.specs},
            "sizes": sizes,
            "ids": ids,
            "distributions": sorted({item.distribution for item in used}),
            "dropped": self.dropped[:20],
        }


def _signal(shape: tuple[int, ...], distribution: str, generator: np.random.Generator) -> np.ndarray[Any, Any]:
    if distribution == "positive":
        return generator.random(shape)
    if distribution == "image":
        return generator.random(shape) * 255
    scale = {"x10": 10.0, "x0.1": 0.1, "x0.001": 0.001}.get(distribution, 1.0)
    return generator.standard_normal(shape) * scale


def _mask(shape: tuple[int, ...], index: int, generator: np.random.Generator) -> np.ndarray[Any, Any]:
    """Zeros and ones: all ones first, then rows padded at the end; no row is ever empty."""
    if not shape:
        return np.asarray(index % 2 == 0)
    mask = np.ones(shape)
    length = shape[-1]
    if index % 3 == 0 or length < 2:
        return mask
    rows = mask.reshape(-1, length)
    for row, keep in zip(rows, generator.integers(1, length + 1, len(rows)), strict=True):
        row[keep:] = 0
    if len(rows) > 1:
        rows[0] = 1
    return mask


def _longest_axis(specs: Sequence[InputSpec]) -> int:
    fixed = [dim for spec in specs if spec.is_float() for dim in spec.dims[1:] if isinstance(dim, int)]
    return max(fixed, default=1)


def _chooses(spec: InputSpec) -> bool:
    """Whether this is one number that picks a branch."""
    return not spec.is_float() and spec.dims in ((), (1,)) and spec.kind() in ("choice", "mask")


def _is_image(spec: InputSpec) -> bool:
    return spec.kind() == "signal" and len(spec.dims) == 4 and any(spec.dims[axis] in (1, 3, 4) for axis in (1, 3))


def _is_past(symbol: str) -> bool:
    name = symbol.lower()
    return ("past" in name or "cache" in name) and "total" not in name


def _spec(model: ir.Model, value: ir.Value, shape: Sequence[int] | None) -> InputSpec:
    role = trace_role(model, value)
    container, kind = "tensor", value.type
    if isinstance(kind, ir.SequenceType):
        container, kind = "sequence", kind.elem_type
    elif isinstance(kind, ir.OptionalType):
        kind = kind.elem_type
    dtype = value.dtype if kind is None or not hasattr(kind, "dtype") else kind.dtype
    if not isinstance(kind, ir.TensorType) or dtype in (None, ir.DataType.UNDEFINED):
        raise RuntimeFailure(
            f"not verifiable here: input {value.name!r} has a type no inputs can be made up for ({value.type})"
        )
    assert dtype is not None
    dims = _declared_dims(value, role)
    if shape is not None:
        asked = tuple(int(size) for size in shape)
        if value.shape is not None and (
            len(asked) != len(dims)
            or any(isinstance(dim, int) and dim != size for dim, size in zip(dims, asked, strict=True))
        ):
            raise SelectionError(
                f"--shape {value.name}: {list(asked)} does not fit the declared shape {[str(dim) for dim in dims]}"
            )
        dims = asked
    return InputSpec(str(value.name), dtype, dims, role, container)


def _declared_dims(value: ir.Value, role: InputRole) -> tuple[int | str, ...]:
    if value.shape is None:
        rank = role.rank if role.rank is not None else 2
        dims: list[int | str] = [f"{value.name}.{axis}" for axis in range(rank)]
    else:
        dims = []
        for axis, dim in enumerate(value.shape):
            if isinstance(dim, int):
                dims.append(dim)
            else:
                name = str(dim.value or "").strip()
                dims.append(name if name and name != "?" else f"{value.name}.{axis}")
    for axis, size in role.channels:
        if -len(dims) <= axis < len(dims) and isinstance(dims[axis], str):
            dims[axis] = size
    # A dimension of 0 or below stands for "unknown" with some exporters.
    return tuple(dim if isinstance(dim, str) or dim >= 0 else f"{value.name}.{axis}" for axis, dim in enumerate(dims))


_TOKEN = re.compile(r"[A-Za-z_][\w.]*|\d+|[+\-*/]+|\S")
_SIMPLE = re.compile(r"^[\w.]+(\s*([+\-*]|//)\s*[\w.]+)+$")


def _symbols(specs: Sequence[InputSpec]) -> list[str]:
    """Independent symbols of all inputs, in order of appearance; ``past + seq`` counts as two."""
    found: dict[str, None] = {}
    for spec in specs:
        for dim in spec.dims:
            if isinstance(dim, str):
                for part in _parts(dim):
                    found.setdefault(part)
    return list(found)


def _parts(dim: str) -> list[str]:
    if not _SIMPLE.match(dim):
        return [dim]
    return [token for token in _TOKEN.findall(dim) if token[0].isalpha() or token[0] == "_"]


def _size(dim: int | str, sizes: Assignment) -> int:
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


def _shape(spec: InputSpec, sizes: Assignment) -> tuple[int, ...]:
    return tuple(_size(dim, sizes) for dim in spec.dims)


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


def read_inputs(source: str | os.PathLike[str] | Mapping[str, Any], model: ir.Model) -> Feeds:
    """Real data for a model: a mapping, an ``.npz`` file, or a folder of ``NAME.npy`` files.

    Raises:
        ModelError: The file cannot be read as arrays.
        SelectionError: An input is missing, a name is not an input, or a type cannot be converted without loss.
    """
    arrays = dict(source) if isinstance(source, Mapping) else _read_arrays(Path(source))
    wanted = {str(value.name): value for value in required_inputs(model)}
    for name in arrays:
        if name not in wanted:
            raise SelectionError(f"--inputs: {name!r} is not an input of the model{did_you_mean(name, list(wanted))}")
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise SelectionError(f"--inputs: no data for input {', '.join(repr(name) for name in missing)}")
    return {name: _converted(name, arrays[name], wanted[name]) for name in wanted}


def _read_arrays(path: Path) -> dict[str, Any]:
    try:
        if path.is_dir():
            return {file.stem: np.load(file, allow_pickle=False) for file in sorted(path.glob("*.npy"))}
        with np.load(path, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise ModelError(f"{path}: holds one array without a name; an .npz with one array an input is needed")
            return {name: archive[name] for name in archive.files}
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{path}: cannot be read as arrays: {error}") from error


def _converted(name: str, array: Any, value: ir.Value) -> Any:
    if not isinstance(value.type, ir.TensorType) or value.dtype is None:
        return array
    array = np.asarray(array)
    declared = value.shape
    if declared is not None:
        fits = array.ndim == len(declared) and all(
            not isinstance(dim, int) or dim == size for dim, size in zip(declared, array.shape, strict=True)
        )
        if not fits:
            raise SelectionError(f"--inputs: {name!r} has shape {list(array.shape)}, the model declares {declared}")
    if value.dtype == ir.DataType.STRING:
        return array.astype(object)
    dtype = value.dtype.numpy()
    if array.dtype == dtype:
        return array
    safe = np.can_cast(array.dtype, dtype, "safe") if dtype.kind != "V" else array.dtype.kind == "f"
    floats = array.dtype.kind == "f" and (dtype.kind == "f")
    if not safe and not floats and not (array.dtype.kind in "iub" and np.array_equal(array.astype(dtype), array)):
        raise SelectionError(f"--inputs: {name!r} is {array.dtype}, which does not convert to {dtype} without loss")
    return array.astype(dtype)
