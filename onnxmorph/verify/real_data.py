"""Real data for a model, from what people have: arrays, archives, folders of samples, pictures, a script.

Every source gives samples one after the other, and none is read before it is asked for: a folder may hold more than
memory does, and a script may never end.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.errors import ModelError, SelectionError
from onnxmorph.sample_names import SINGLE, TARGETS
from onnxmorph.verify.feeds import Feeds, InputSet
from onnxmorph.verify.signature import required_inputs
from onnxmorph.verify.specs import did_you_mean

__all__ = ["Source", "read_inputs", "samples", "write_inputs"]

Source = str | os.PathLike[str] | Mapping[str, Any] | Callable[..., Any]
"""Where data comes from: a path, arrays by input name, or a function ``inputs(signature, seed)``."""

_ROWS = 32
"""Rows of a long batch that are run at once."""

_MEMBER = re.compile(r"^(?P<name>.+)\[(?P<place>\d+)\]$")
_IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


def samples(source: Source, model: ir.Model, *, seed: int = 0, drawn: Sequence[str] = ()) -> Iterator[InputSet]:
    """The samples of a source, each checked against the inputs of the model.

    * arrays by input name, or an ``.npz`` of them: one sample; more rows than 32, or than a batch that the model fixes,
      are taken in portions. A member of a sequence is called ``NAME[0]``;
    * a folder: ``NAME.npy`` for every input; or files ``*.npz``, each a sample; or sub-folders, each a sample of such
      files; or, for a model with one input, ``*.npy`` of any names; or pictures;
    * a picture, where one input takes pictures;
    * a ``.py`` file, or a function: ``inputs(signature, seed)`` gives dicts of arrays, see `onnxmorph.verify.script`.

    Args:
        drawn: Names of random values that the data may bring along; they are no inputs of the model.

    Raises:
        ModelError: A file cannot be read, a script fails.
        SelectionError: An input is missing, a name is not an input, a type cannot be converted without loss.
    """
    for arrays, title in _sources(source, model, seed):
        feeds = checked(arrays, model, drawn)
        for portion, place in _portions(feeds, model):
            description = f"real data: {title}" if title else "real data"
            yield InputSet(portion, description + (f", rows from {place}" if place is not None else ""))


def read_inputs(source: Source, model: ir.Model) -> Feeds:
    """The first sample of a source, whole."""
    for arrays, _ in _sources(source, model, 0):
        return checked(arrays, model)
    raise SelectionError(f"--inputs: {source}: there is no sample")


def _sources(source: Source, model: ir.Model, seed: int) -> Iterator[tuple[Mapping[str, Any], str]]:
    if isinstance(source, Mapping):
        yield source, ""
        return
    if callable(source):
        from onnxmorph.verify.script import run

        yield from run(source, model, seed, title=getattr(source, "__name__", "function"))
        return
    path = Path(source)
    if path.suffix == ".py":
        from onnxmorph.verify.script import load, run

        yield from run(load(path), model, seed, title=str(path))
    elif path.is_dir():
        yield from _folder(path, model)
    elif path.suffix.lower() in _IMAGES:
        yield from _pictures([path], model)
    else:
        yield _archive(path), ""


def _folder(path: Path, model: ir.Model) -> Iterator[tuple[Mapping[str, Any], str]]:
    names = [str(value.name) for value in required_inputs(model)]
    entries = sorted(item for item in path.iterdir() if not item.name.startswith("."))
    arrays = [item for item in entries if item.suffix == ".npy" and item.is_file()]
    archives = [item for item in entries if item.suffix == ".npz" and item.is_file()]
    pictures = [item for item in entries if item.suffix.lower() in _IMAGES and item.is_file()]
    folders = [item for item in entries if item.is_dir()]
    known = [item for item in arrays if item.stem in names]
    found = 0
    if known or (arrays and len(names) != 1):
        found += 1
        yield _arrays(arrays), ""
    else:
        for item in arrays:
            found += 1
            yield {names[0]: _array(item)}, item.name
    for item in archives:
        found += 1
        yield _archive(item), item.name
    for item in folders:
        for sample, title in _folder(item, model):
            found += 1
            yield sample, f"{item.name}/{title}" if title else item.name
    if pictures:
        found += len(pictures)
        yield from _pictures(pictures, model)
    if not found:
        raise ModelError(f"{path}: holds no .npy, .npz or pictures")


def _arrays(files: Sequence[Path]) -> dict[str, Any]:
    return {file.stem: _array(file) for file in files}


def _array(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except Exception as error:
        raise ModelError(f"{path}: cannot be read as an array: {_words(error)}") from error


def _archive(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise ModelError(f"{path}: holds one array without a name; an .npz with one array an input is needed")
            return {name: archive[name] for name in archive.files}
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{path}: cannot be read as arrays: {_words(error)}") from error


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if "allow_pickle" in str(error):
        return "it holds Python objects, or is no file of numpy's at all"
    return " ".join(str(error).split()) or type(error).__name__


def _pictures(files: Sequence[Path], model: ir.Model) -> Iterator[tuple[Mapping[str, Any], str]]:
    from onnxmorph.verify.pictures import picture_feeds

    for file in files:
        for array, scale in picture_feeds(file, model):
            yield array, f"{file.name} {scale}"


def checked(arrays: Mapping[str, Any], model: ir.Model, drawn: Sequence[str] = ()) -> Feeds:
    """The arrays as the model takes them: every input there, nothing else, types converted where nothing is lost.

    Raises:
        SelectionError: Where that is not so.
    """
    wanted = {str(value.name): value for value in required_inputs(model)}
    arrays = _with_sequences(arrays, wanted)
    arrays = _without_targets(arrays, list(wanted))
    for name in arrays:
        if name not in wanted and name not in drawn:
            raise SelectionError(f"--inputs: {name!r} is not an input of the model{did_you_mean(name, list(wanted))}")
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise SelectionError(f"--inputs: no data for input {', '.join(repr(name) for name in missing)}")
    feeds = {name: _converted(name, arrays[name], wanted[name]) for name in wanted}
    return feeds | {name: np.asarray(arrays[name]) for name in drawn if name in arrays}


def _without_targets(arrays: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Inputs of a file that training takes as well: its targets are left out, its ``x`` is the only input."""
    usual = next((name for name in SINGLE if name in arrays), None)
    if len(names) == 1 and names[0] not in arrays and usual is not None:
        arrays = {names[0] if name == usual else name: array for name, array in arrays.items()}
    return {name: array for name, array in arrays.items() if name in names or name not in TARGETS}


def _with_sequences(arrays: Mapping[str, Any], wanted: Mapping[str, ir.Value]) -> dict[str, Any]:
    """Members called ``NAME[0]``, ``NAME[1]`` put together, where ``NAME`` is a sequence."""
    gathered: dict[str, Any] = {}
    members: dict[str, dict[int, Any]] = {}
    for name, array in arrays.items():
        match = _MEMBER.match(name)
        if match and name not in wanted and match["name"] in wanted:
            members.setdefault(match["name"], {})[int(match["place"])] = array
        else:
            gathered[name] = array
    for name, items in members.items():
        gathered[name] = [items[place] for place in sorted(items)]
    return gathered


def _converted(name: str, array: Any, value: ir.Value) -> Any:
    if not isinstance(value.type, ir.TensorType) or value.dtype is None:
        return [np.asarray(item) for item in array] if isinstance(array, list | tuple) else array
    array = np.asarray(array)
    declared = value.shape
    if declared is not None:
        fits = array.ndim == len(declared) and all(
            not isinstance(dim, int)
            or dim <= 0
            or dim == size
            or (axis == 0 and array.ndim > 1 and size > dim and size % dim == 0)
            for axis, (dim, size) in enumerate(zip(declared, array.shape, strict=True))
        )
        if not fits:
            raise SelectionError(f"--inputs: {name!r} has shape {list(array.shape)}, the model declares {declared}")
    if value.dtype == ir.DataType.STRING:
        return array.astype(object)
    dtype = value.dtype.numpy()
    if array.dtype == dtype:
        return array
    if array.dtype.kind == "V" and array.dtype.itemsize == dtype.itemsize:  # what numpy makes of bfloat16 in a file
        return array.view(dtype)
    safe = np.can_cast(array.dtype, dtype, "safe") if dtype.kind != "V" else array.dtype.kind == "f"
    floats = array.dtype.kind == "f" and (dtype.kind == "f")
    if not safe and not floats and not (array.dtype.kind in "iub" and np.array_equal(array.astype(dtype), array)):
        raise SelectionError(f"--inputs: {name!r} is {array.dtype}, which does not convert to {dtype} without loss")
    return array.astype(dtype)


def _portions(feeds: Feeds, model: ir.Model) -> Iterator[tuple[Feeds, int | None]]:
    """A long batch in portions: as long as the model says, or of 32 rows; what is short comes as it is.

    Raises:
        SelectionError: The model fixes its batch, and the inputs bring different multiples of it.
    """
    leading: dict[str, int | None] = {}
    for value in required_inputs(model):
        array, shape = feeds.get(str(value.name)), value.shape
        if not isinstance(array, np.ndarray) or array.ndim < 2 or shape is None:
            continue
        first = shape[0]
        leading[str(value.name)] = first if isinstance(first, int) and first > 0 else None
    rows = {name: int(feeds[name].shape[0]) for name in leading}
    fixed = {name: step for name, step in leading.items() if step is not None}
    if any(rows[name] != step for name, step in fixed.items()):
        counts = {rows[name] // step for name, step in fixed.items()}
        if len(counts) > 1 or len(fixed) < len(leading):
            raise SelectionError(f"--inputs: the inputs bring different numbers of samples: {rows}")
        for place in range(counts.pop()):
            yield (
                feeds | {name: feeds[name][place * step : (place + 1) * step] for name, step in fixed.items()},
                place * next(iter(fixed.values())),
            )
        return
    together = len(set(rows.values())) == 1 and not fixed
    symbols = {str(value.shape[0]) for value in required_inputs(model) if value.name in leading and value.shape}
    count = next(iter(rows.values()), 0)
    if not together or len(symbols) > 1 or count <= _ROWS or len(leading) < len(required_inputs(model)):
        yield feeds, None
        return
    for start in range(0, count, _ROWS):
        yield feeds | {name: feeds[name][start : start + _ROWS] for name in rows}, start


def write_inputs(path: Path, feeds: Feeds) -> None:
    """Writes one set of inputs as an ``.npz`` that `samples` reads back; never over a file that is there.

    Raises:
        ModelError: Something is there already, or it cannot be written.
    """
    arrays: dict[str, Any] = {}
    for name, value in feeds.items():
        members = {f"{name}[{place}]": item for place, item in enumerate(value)} if isinstance(value, list) else None
        arrays |= members if members is not None else {name: value}
    # Objects are strings, which numpy writes without pickling when their length is known.
    arrays = {
        name: np.asarray(array).astype(str) if np.asarray(array).dtype.kind == "O" else np.asarray(array)
        for name, array in arrays.items()
    }
    try:
        with path.open("xb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    except FileExistsError as error:
        raise ModelError(f"{path}: is there already and is not overwritten") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {_words(error)}") from error
