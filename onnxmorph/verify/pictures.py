"""Pictures as inputs: read by Pillow where that is installed, brought to the size and layout the model declares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.errors import ModelError, SelectionError
from onnxmorph.verify.signature import required_inputs

__all__ = ["picture_feeds"]

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_OPEN_SIZE = 224
"""Side that larger pictures are brought to where the model leaves it open."""


def picture_feeds(path: Path, model: ir.Model) -> Iterator[tuple[dict[str, Any], str]]:
    """One picture as the model's one input of pictures, with a word on its scale.

    Bytes stay bytes. Floating-point inputs get it twice, since no file says which scale a model was trained on: from 0
    to 1, and moved to mean 0 and variance 1.

    Raises:
        ModelError: Pillow is not installed, or the file is no picture.
        SelectionError: The model has other inputs, or its input does not take pictures.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ModelError(f"{path}: reading pictures needs Pillow (pip install pillow); or give an .npz") from error
    name, dtype, channel_axis, shape = _picture_input(path, model)
    rows, columns = (axis for axis in range(1, len(shape)) if axis != channel_axis) if len(shape) == 4 else (1, 2)
    try:
        with Image.open(path) as opened:
            image = opened.convert(_MODES[_fixed(shape[channel_axis]) or 3] if channel_axis is not None else "L")
            limit = min(1.0, _OPEN_SIZE / max(image.size))
            width = _fixed(shape[columns]) or max(1, round(image.size[0] * limit))
            height = _fixed(shape[rows]) or max(1, round(image.size[1] * limit))
            array = np.asarray(image.resize((width, height)))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ModelError(f"{path}: cannot be read as a picture: {' '.join(str(error).split())}") from error
    if array.ndim == 2 and channel_axis is not None:
        array = array[:, :, None]
    if channel_axis == 1:
        array = np.moveaxis(array, 2, 0)
    batch = np.repeat(array[None], _fixed(shape[0]) or 1, axis=0)
    if dtype == ir.DataType.UINT8:
        yield {name: batch}, "as bytes"
        return
    unit = batch.astype(np.float32) / 255
    yield {name: unit.astype(dtype.numpy())}, "from 0 to 1"
    centred = (unit - unit.mean()) / max(float(unit.std()), 1e-3)
    yield {name: centred.astype(dtype.numpy())}, "standardised"


def _picture_input(path: Path, model: ir.Model) -> tuple[str, ir.DataType, int | None, tuple[Any, ...]]:
    inputs = required_inputs(model)
    if len(inputs) != 1:
        raise SelectionError(f"--inputs: {path} is a picture, and the model has {len(inputs)} inputs; give an .npz")
    value = inputs[0]
    takes = (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
    if value.shape is not None and value.dtype in takes:
        shape = tuple(value.shape)
        if len(shape) == 3:
            return str(value.name), value.dtype, None, shape
        for axis in (1, 3):
            if len(shape) == 4 and _fixed(shape[axis]) in _MODES:
                return str(value.name), value.dtype, axis, shape
        if len(shape) == 4 and _fixed(shape[1]) is None and _fixed(shape[3]) is None:
            return str(value.name), value.dtype, 1, shape
    raise SelectionError(f"--inputs: {path} is a picture, and input {value.name!r} does not take pictures")


def _fixed(dim: Any) -> int | None:
    return dim if isinstance(dim, int) and dim > 0 else None
