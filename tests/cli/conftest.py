"""Running the command line in this process, on copies of the sample models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxmorph_cli.main import main

SAMPLES = Path(__file__).resolve().parents[2] / "models"


@dataclass(frozen=True)
class Ended:
    """How one call ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """What ``--json`` printed, read as strictly as other programs read it."""

        def no(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        document: dict[str, Any] = json.loads(self.out, parse_constant=no)
        assert document["schema"] == 1
        return document


Run = Callable[..., Ended]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Calls ``onnxmorph`` with these words; what it prints is caught at the level of file descriptors."""

    def call(*words: str | Path) -> Ended:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        assert isinstance(ended.value.code, int)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Ended(ended.value.code, out, err)

    return call


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with copies of the two smallest samples."""
    for name in ("digits_cnn.onnx", "digits_mlp.onnx"):
        shutil.copy(SAMPLES / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def data(folder: Path) -> str:
    """Images and labels of the samples, in the folder that commands run in."""
    image, label = (np.load(SAMPLES / f"digits_{what}.npz") for what in ("test", "labels"))
    np.savez(folder / "digits.npz", x=image["image"][:64], y=label["label"][:64])
    return "digits.npz"
