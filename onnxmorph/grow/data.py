"""What a model is trained on: arrays by the names of its inputs, folders of images, datasets of torch.

Whatever it comes from, data is looked at before the first step: names, types, sizes and class numbers that do not fit
the graph are told then, with the sample they are at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from onnxmorph._ir import ir
from onnxmorph.errors import ModelError, Refusal
from onnxmorph.grow.types import NARROW, torch_type
from onnxmorph.sample_names import inputs_of, parted

__all__ = ["Data", "Samples", "Target", "read_samples"]

Tensor = torch.Tensor
Target = Tensor | dict[str, Tensor] | None
Array = np.ndarray[Any, Any]

Data = Any
"""A path to an ``.npz`` file or to a folder with a folder of images per class; a mapping of arrays; a pair of inputs
and targets; or a map-style ``torch.utils.data.Dataset`` of such pairs."""

_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_CACHED = 1 << 30
"""Bytes of decoded images that are kept."""


class Samples(Protocol):
    """Samples that can be asked for by number."""

    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def batch(self, numbers: Tensor) -> tuple[dict[str, Tensor], Target]:
        """Inputs by name, and targets, of the samples of these numbers."""
        ...


class Arrays:
    """Samples that lie in memory, or in the mapped pages of a file."""

    classes: tuple[str, ...] = ()

    def __init__(self, inputs: Mapping[str, Tensor], target: Target) -> None:
        self.inputs = dict(inputs)
        self.target = target

    def __len__(self) -> int:
        return next(iter(self.inputs.values())).shape[0]

    def batch(self, numbers: Tensor) -> tuple[dict[str, Tensor], Target]:
        """See `Samples.batch`."""
        chosen = {name: values[numbers] for name, values in self.inputs.items()}
        if isinstance(self.target, dict):
            return chosen, {name: values[numbers] for name, values in self.target.items()}
        return chosen, None if self.target is None else self.target[numbers]


class FromDataset:
    """A map-style dataset of torch."""

    classes: tuple[str, ...] = ()

    def __init__(self, dataset: Any, names: Sequence[str], fit: Callable[[str, Tensor], Tensor]) -> None:
        self.dataset = dataset
        self.names = tuple(names)
        self.fit = fit

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, numbers: Tensor) -> tuple[dict[str, Tensor], Target]:
        """See `Samples.batch`."""
        from torch.utils.data import default_collate

        rows = default_collate([self.dataset[int(number)] for number in numbers])
        if isinstance(rows, Mapping):
            inputs, target = parted(dict(rows), self.names)
        else:
            *given, target = rows if isinstance(rows, list | tuple) and len(rows) > 1 else (rows, None)
            if len(given) == 1 and isinstance(given[0], Mapping):
                inputs = dict(given[0])
            else:
                if len(given) == 1 and isinstance(given[0], list | tuple):
                    given = list(given[0])
                inputs = dict(zip(self.names, given, strict=False))
        return {name: self.fit(name, torch.as_tensor(value)) for name, value in inputs.items()}, _target(target)


class Pictures:
    """A folder with one folder of images per class; images are decoded when they are asked for.

    Args:
        folder: Its folders, in alphabetical order, are the classes.
        value: The input of the graph: its sizes say how images are scaled, its layout where channels go.
        mean, std: Per channel, of numbers between 0 and 1; what the model was trained with.
        size: Height and width, where the graph leaves them open.
    """

    def __init__(
        self,
        folder: Path,
        value: ir.Value,
        *,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        size: tuple[int, int] | None = None,
    ) -> None:
        try:
            from PIL import Image
        except ImportError as error:
            raise Refusal(
                "reading images needs Pillow, which is not installed",
                way_out="pip install pillow",
                code="pillow-missing",
            ) from error
        self._image = Image
        self.classes = tuple(sorted(child.name for child in folder.iterdir() if child.is_dir()))
        if not self.classes:
            raise Refusal(f"{folder} has no folder per class in it", code="data-empty")
        self.files = [
            (file, number)
            for number, name in enumerate(self.classes)
            for file in sorted((folder / name).rglob("*"))
            if file.suffix.lower() in _PICTURES and file.is_file()
        ]
        if not self.files:
            raise Refusal(f"{folder} has no images in the folders of its classes", code="data-empty")
        self.name = value.name or ""
        self._layout(value, size)
        self.dtype = torch.float32 if value.dtype is None else torch_type(value.dtype)
        shape = [-1, 1, 1] if self.channels_first else [1, 1, -1]
        self.mean = np.asarray(mean or [0.0], dtype=np.float32).reshape(shape)
        self.std = np.asarray(std or [1.0], dtype=np.float32).reshape(shape)
        self._kept: dict[int, Array] = {}
        self._bytes = 0

    def _layout(self, value: ir.Value, size: tuple[int, int] | None) -> None:
        shape = None if value.shape is None else [dim if isinstance(dim, int) else None for dim in value.shape]
        if shape is None or len(shape) != 4:
            raise Refusal(f"the input '{value.name}' is not of images: it has not four axes", code="data-shape")
        if shape[1] in (1, 3):
            self.channels_first, self.channels = True, int(shape[1] or 0)
        elif shape[3] in (1, 3):
            self.channels_first, self.channels = False, int(shape[3] or 0)
        else:
            raise Refusal(f"the input '{value.name}' has neither one channel nor three", code="data-shape")
        height, width = shape[2:] if self.channels_first else shape[1:3]
        if size is None and (height is None or width is None):
            raise Refusal(
                f"the input '{value.name}' leaves the size of images open",
                way_out="say it (image_size=, --image-size)",
                code="data-shape",
            )
        self.size = (height or (size or (0, 0))[0], width or (size or (0, 0))[1])

    def __len__(self) -> int:
        return len(self.files)

    def _decoded(self, number: int) -> Array:
        if number in self._kept:
            return self._kept[number]
        file, _ = self.files[number]
        try:
            with self._image.open(file) as picture:
                fitting = picture.convert("L" if self.channels == 1 else "RGB")
                resized = fitting.resize((self.size[1], self.size[0]), self._image.Resampling.BILINEAR)
                array = np.asarray(resized, dtype=np.uint8).reshape(*self.size, self.channels)
        except (OSError, ValueError, SyntaxError) as error:
            raise ModelError(f"{file}: is no readable image ({' '.join(str(error).split())[:120]})") from error
        if self._bytes + array.nbytes <= _CACHED:
            self._kept[number] = array
            self._bytes += array.nbytes
        return array

    def batch(self, numbers: Tensor) -> tuple[dict[str, Tensor], Target]:
        """See `Samples.batch`."""
        chosen = [int(number) for number in numbers]
        stacked = np.stack([self._decoded(number) for number in chosen]).astype(np.float32) / np.float32(255)
        if self.channels_first:
            stacked = np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))
        x = torch.from_numpy((stacked - self.mean) / self.std).to(self.dtype)
        return {self.name: x}, torch.tensor([self.files[number][1] for number in chosen], dtype=torch.int64)


def read_samples(
    data: Data,
    inputs: Sequence[ir.Value],
    *,
    wide: bool,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    image_size: tuple[int, int] | None = None,
) -> Samples:
    """Data as samples that fit a graph.

    Args:
        data: See `Data`. An ``.npz`` file or a mapping has an array per input by its name (``x`` where there is only
            one), and ``target`` or ``y``.
        inputs: Of the graph.
        wide: 16-bit inputs are taken as float32.
        mean, std, image_size: Of folders of images; see `Pictures`.

    Raises:
        ModelError: A file cannot be read.
        Refusal: The data does not fit, with what and where (``data-name``, ``data-type``, ``data-shape``,
            ``data-empty``, ``data-not-finite``).
    """
    by_name = {value.name or "": value for value in inputs}
    if isinstance(data, str | os.PathLike):
        path = Path(data)
        if path.is_dir():
            if len(inputs) != 1:
                raise Refusal("folders of images are for models of one input", code="data-name")
            return Pictures(path, inputs[0], mean=mean, std=std, size=image_size)
        data = _read_npz(path)
    fit = _Fitting(by_name, wide)
    if isinstance(data, tuple) and len(data) == 2:
        x, target = data
        arrays = dict(x) if isinstance(x, Mapping) else {"x": x}
        given = inputs_of(arrays, list(by_name))
    elif isinstance(data, Mapping):
        given, target = parted(dict(data), list(by_name))
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        dataset = FromDataset(data, list(by_name), fit)
        if not len(dataset):
            raise Refusal("the dataset is empty", code="data-empty")
        first, _ = dataset.batch(torch.tensor([0]))
        _check_names(first, by_name)
        return dataset
    else:
        raise Refusal(
            f"{type(data).__name__} is no data to train on",
            way_out="give arrays, an .npz file, a folder of images, or a map-style torch Dataset",
            code="data-type",
        )
    _check_names(given, by_name)
    tensors = {name: fit(name, _tensor(given[name])) for name in by_name}
    samples = Arrays(tensors, _target(target))
    _check_lengths(samples)
    return samples


class _Fitting:
    """Checks arrays against the inputs of a graph, and gives them the type that the graph wants."""

    def __init__(self, inputs: Mapping[str, ir.Value], wide: bool) -> None:
        self.inputs = inputs
        self.wide = wide

    def __call__(self, name: str, x: Tensor) -> Tensor:
        value = self.inputs.get(name)
        if value is None or value.dtype is None:
            return x
        wanted = torch_type(value.dtype)
        if self.wide and wanted in NARROW:
            wanted = torch.float32
        if value.shape is not None:
            self._check_shape(name, x, value.shape)
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            row = int((~torch.isfinite(x.reshape(x.shape[0], -1))).any(1).nonzero()[0])
            raise Refusal(f"the data of '{name}' holds NaN or infinity at sample {row}", code="data-not-finite")
        if x.dtype == wanted:
            return x
        if wanted.is_floating_point and not x.is_floating_point():
            raise Refusal(
                f"the data of '{name}' is {_name(x.dtype)}, and the input is {_name(wanted)}",
                way_out="convert and scale it as for the training of the model, such as x.astype('float32') / 255",
                code="data-type",
            )
        if not wanted.is_floating_point and x.is_floating_point():
            raise Refusal(
                f"the data of '{name}' is {_name(x.dtype)}, and the input is {_name(wanted)}", code="data-type"
            )
        converted = x.to(wanted)
        if not wanted.is_floating_point and wanted != torch.bool and not torch.equal(converted.to(x.dtype), x):
            raise Refusal(f"numbers of '{name}' do not fit {_name(wanted)}", code="data-type")
        return converted

    @staticmethod
    def _check_shape(name: str, x: Tensor, shape: ir.ShapeProtocol) -> None:
        wanted = [dim if isinstance(dim, int) else None for dim in shape]
        fits = len(wanted) == x.dim() and all(
            size is None or size == have for size, have in zip(wanted[1:], x.shape[1:], strict=True)
        )
        if not fits:
            text = "x".join("?" if size is None else str(size) for size in wanted[1:])
            have = "x".join(map(str, x.shape[1:])) or "a number"
            raise Refusal(
                f"samples of '{name}' are {have}, and the input takes {text or 'a number'}", code="data-shape"
            )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _tensor(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach()
    array = np.asarray(values)
    if array.dtype.kind in "OSU":
        raise Refusal("data of strings or objects cannot be trained on", code="data-type")
    return torch.from_numpy(
        np.require(array.astype(array.dtype.newbyteorder("="), copy=False), requirements=["C", "W"])
    )


def _target(values: Any) -> Target:
    if values is None:
        return None
    if isinstance(values, Mapping):
        return {name: _tensor(value) for name, value in values.items()}
    tensor = _tensor(values)
    return tensor if tensor.is_floating_point() else tensor.to(torch.int64)


def _read_npz(path: Path) -> dict[str, Array]:
    if path.suffix.lower() != ".npz" and path.exists():
        raise ModelError(f"{path}: is neither an .npz file nor a folder of images")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise ModelError(f"{path}: there is no such file") from error
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise ModelError(f"{path}: is no readable .npz file ({' '.join(str(error).split())[:120]})") from error
    except Exception as error:  # zipfile and zlib have errors of their own
        raise ModelError(f"{path}: is damaged ({' '.join(str(error).split())[:120]})") from error


def _check_names(given: Mapping[str, Any], inputs: Mapping[str, ir.Value]) -> None:
    missing = [name for name in inputs if name not in given]
    if missing:
        have = ", ".join(given) or "nothing"
        raise Refusal(
            f"the data has no array for the input '{missing[0]}'",
            way_out=f"it has {have}; the model's inputs are {', '.join(inputs)}",
            code="data-name",
        )


def _check_lengths(samples: Arrays) -> None:
    lengths = {name: values.shape[0] for name, values in samples.inputs.items()}
    if isinstance(samples.target, Tensor):
        lengths["target"] = samples.target.shape[0] if samples.target.dim() else 0
    elif isinstance(samples.target, dict):
        lengths |= {name: values.shape[0] for name, values in samples.target.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise Refusal(f"the arrays have different numbers of samples: {told}", code="data-shape")
    if not len(samples):
        raise Refusal("the data has no samples", code="data-empty")
