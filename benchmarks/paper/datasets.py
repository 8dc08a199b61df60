"""Images and classes that tables are made on: MNIST, CIFAR-10 (recompressed as JPEG), scikit-learn's digits.

MNIST and CIFAR-10 are looked for in ``../shared/data`` beside the checkout, or in the folder ``--data-dir`` says;
digits ship inside scikit-learn. A subset is the first so many of one fixed permutation, so that a larger one holds a
smaller one; which images are for testing is never changed.
"""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DATASETS", "Images", "available", "images"]

DATASETS = ("mnist", "cifar", "digits")
ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
FILES = {"mnist": "mnist.npz", "cifar": "cifar10_jpegs.npz"}
DIGITS_HELD_OUT = 360

Array = NDArray[Any]


@dataclass(frozen=True)
class Images:
    """Standardised images (n, channels, height, width), float32, and their classes.

    Attributes:
        name: One of :data:`DATASETS`.
        train_x, train_y, test_x, test_y: What is learned and what is held out.
        description: For the page: what it is and how much of it.
    """

    name: str
    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array
    description: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image: channels, height, width."""
        channels, height, width = self.train_x.shape[1:]
        return int(channels), int(height), int(width)

    @property
    def key(self) -> str:
        """What tells one subset from another."""
        return f"{self.name}-{len(self.train_y)}-{len(self.test_y)}"


def available(name: str, folder: Path = SHARED) -> bool:
    """Whether a data set is at hand."""
    return name == "digits" or (folder / FILES[name]).exists()


def images(
    name: str, *, folder: Path = SHARED, cache: Path, train_size: int | None = None, test_size: int | None = None
) -> Images:
    """A data set, or the beginning of a fixed permutation of it.

    Args:
        name: One of :data:`DATASETS`.
        folder: Where the files lie.
        cache: A folder for decoded images.
        train_size, test_size: How many; default all.

    Raises:
        FileNotFoundError: The data set is not at hand.
    """
    train_x, train_y, test_x, test_y = {"mnist": _mnist, "cifar": _cifar, "digits": _digits}[name](folder, cache)
    train = np.random.default_rng(0).permutation(len(train_y))[:train_size]
    test = np.random.default_rng(1).permutation(len(test_y))[:test_size]  # files may be sorted by class
    # Statistics of all training images, so that a subset is standardised as the whole is.
    scaled = train_x.astype(np.float32) / np.float32(train_x.max())
    mean, std = (getattr(scaled, what)(axis=(0, 2, 3), keepdims=True) for what in ("mean", "std"))
    held = test_x[test].astype(np.float32) / np.float32(train_x.max())
    kept = f"{len(train):,} of {len(train_y):,}" if len(train) < len(train_y) else f"all {len(train_y):,}"
    tested = f"{len(test):,} of {len(test_y):,}" if len(test) < len(test_y) else f"all {len(test_y):,}"
    return Images(
        name,
        ((scaled[train] - mean) / std).astype(np.float32),
        train_y[train].astype(np.int64),
        ((held - mean) / std).astype(np.float32),
        test_y[test].astype(np.int64),
        f"{_TITLES[name]}: {kept} training images, {tested} test images",
    )


_TITLES = {
    "mnist": "MNIST",
    "cifar": "CIFAR-10 recompressed as JPEG",
    "digits": "scikit-learn's handwritten digits (8x8)",
}


def _mnist(folder: Path, _cache: Path) -> tuple[Array, Array, Array, Array]:
    with np.load(folder / FILES["mnist"]) as file:
        return file["x_train"][:, None], file["y_train"], file["x_test"][:, None], file["y_test"]


def _cifar(folder: Path, cache: Path) -> tuple[Array, Array, Array, Array]:
    decoded = cache / "cifar10.npz"
    if not decoded.exists():
        from PIL import Image

        with np.load(folder / FILES["cifar"]) as file:
            blob, offsets, label, is_test = (file[name] for name in ("blob", "offsets", "label", "is_test"))
        pixels = np.empty((len(label), 32, 32, 3), dtype=np.uint8)
        for number, (start, end) in enumerate(itertools.pairwise(offsets)):
            with Image.open(io.BytesIO(blob[start:end].tobytes())) as picture:
                pixels[number] = np.asarray(picture.convert("RGB"))
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = cache / "cifar10.tmp.npz"
        np.savez(unfinished, x=np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), y=label, is_test=is_test)
        unfinished.replace(decoded)
    with np.load(decoded) as file:
        x, y, is_test = file["x"], file["y"], file["is_test"]
    return x[~is_test], y[~is_test], x[is_test], y[is_test]


def _digits(_folder: Path, _cache: Path) -> tuple[Array, Array, Array, Array]:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = data.images[order, None], data.target[order]
    return x[:-DIGITS_HELD_OUT], y[:-DIGITS_HELD_OUT], x[-DIGITS_HELD_OUT:], y[-DIGITS_HELD_OUT:]
