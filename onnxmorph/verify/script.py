"""A script of the user's own that makes inputs: one function ``inputs(signature, seed)``.

::

    import numpy as np

    def inputs(signature, seed):
        generator = np.random.default_rng(seed)
        for _ in range(4):
            yield {"x": generator.standard_normal((2, 3, 64, 64), dtype=np.float32)}

``signature`` maps the name of each input to its ``dtype`` (a numpy type) and ``shape`` (numbers, and the names of
dimensions that are open). The function gives one dict of arrays, a list of them, or yields them; it is asked for more
only as long as there is time.
"""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.errors import ModelError, SelectionError
from onnxmorph.verify.signature import required_inputs

__all__ = ["InputSignature", "load", "run", "signature"]


@dataclass(frozen=True)
class InputSignature:
    """One input of a model: its numpy type, and its shape with names for dimensions that are open.

    ``shape`` is ``None`` where the model does not say even the rank.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...] | None


def signature(model: ir.Model) -> dict[str, InputSignature]:
    """The inputs that a caller must give, by name."""
    found: dict[str, InputSignature] = {}
    for value in required_inputs(model):
        dtype = np.dtype(object) if value.dtype in (None, ir.DataType.STRING) else np.dtype(value.dtype.numpy())
        shape = None
        if value.shape is not None:
            shape = tuple(
                dim if isinstance(dim, int) else str(dim.value or f"{value.name}.{axis}")
                for axis, dim in enumerate(value.shape)
            )
        found[str(value.name)] = InputSignature(str(value.name), dtype, shape)
    return found


def load(path: Path) -> Callable[..., Any]:
    """The function ``inputs`` of a script, which is run to get it.

    Raises:
        ModelError: The script cannot be read, fails, or has no such function; one line with the place in the script.
    """
    name = f"onnxmorph_inputs_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ModelError(f"{path}: there is no such script")
    module = importlib.util.module_from_spec(spec)
    try:
        # Not through sys.modules and without byte code beside it: nothing of the user's folder is touched.
        source = path.read_text(encoding="utf-8")
        exec(compile(source, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise ModelError(_where(error, str(path))) from error
    function = getattr(module, "inputs", None)
    if not callable(function):
        raise ModelError(f"{path}: has no function inputs(signature, seed)")
    loaded: Callable[..., Any] = function
    return loaded


def run(
    function: Callable[..., Any], model: ir.Model, seed: int, *, title: str
) -> Iterator[tuple[Mapping[str, Any], str]]:
    """What the function gives, one sample after the other, each with what to call it.

    Raises:
        ModelError: The function fails.
        SelectionError: It gives something else than dicts, or nothing.
    """
    try:
        given = function(signature(model), seed)
        samples = iter([given] if isinstance(given, Mapping) else given if given is not None else ())
    except (Exception, SystemExit) as error:
        raise ModelError(_where(error, title)) from error
    count = 0
    while True:
        try:
            sample = next(samples)
        except StopIteration:
            break
        except (Exception, SystemExit) as error:
            raise ModelError(_where(error, title)) from error
        if not isinstance(sample, Mapping):
            raise SelectionError(
                f"{title}: inputs() must give dicts of arrays by input name, not {type(sample).__name__}"
            )
        yield {str(name): array for name, array in sample.items()}, f"sample {count}"
        count += 1
    if not count:
        raise SelectionError(f"{title}: inputs() gives no sample")


def _where(error: BaseException, title: str) -> str:
    """``script.py, line 12: ValueError: what it says``, in one line."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == title]
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else (lines[-1] if lines else None)
    text = " ".join(str(getattr(error, "msg", None) or error).split())
    return f"{title}{f', line {line}' if line else ''}: {type(error).__name__}{f': {text}' if text else ''}"
