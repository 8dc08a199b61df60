"""What `import onnxmorph` offers: every name is there, and none costs anything before it is used."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import onnxmorph

PACKAGES = [
    "onnxmorph",
    "onnxmorph.delivery",
    "onnxmorph.errors",
    "onnxmorph.grow",
    "onnxmorph.grow.morphnet",
    "onnxmorph.morphs",
    "onnxmorph.plan",
    "onnxmorph.recipe",
    "onnxmorph.testing",
    "onnxmorph.train",
    "onnxmorph.verify",
    "onnxmorph.zoo",
]
"""Those that users import from."""

ARCHITECTURE = Path(__file__).resolve().parents[1] / "docs" / "architecture.md"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_is_there_and_says_what_it_is_and_is_on_the_page(package: str) -> None:
    if package in ("onnxmorph.grow", "onnxmorph.grow.morphnet", "onnxmorph.train"):
        pytest.importorskip("torch")
        pytest.importorskip("optuna")
    module = importlib.import_module(package)
    page = ARCHITECTURE.read_text(encoding="utf-8")
    for name in module.__all__:
        value = getattr(module, name)
        assert value is not None
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{package}.{name} has no docstring"
        if inspect.isclass(value):
            own = [(key, one) for key, one in vars(value).items() if inspect.isfunction(one) and key[0] != "_"]
            assert not [key for key, one in own if not inspect.getdoc(one)], f"methods of {package}.{name} have none"
        assert re.search(rf"\b{name}\b", page), f"{package}.{name} is not on the page"
    assert set(module.__all__) <= set(dir(module))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="sausage"):
        _ = onnxmorph.sausage


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, onnxmorph;"
        "print([m for m in ('numpy', 'onnx', 'onnx_ir', 'scipy', 'onnxruntime') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
