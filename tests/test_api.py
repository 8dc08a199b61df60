"""What `import onnxmorph` offers: every name is there, and none costs anything before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import onnxmorph


@pytest.mark.parametrize("name", onnxmorph.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(onnxmorph, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="sausage"):
        _ = onnxmorph.sausage


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, onnxmorph;"
        "print([m for m in ('numpy', 'onnx', 'onnx_ir', 'scipy', 'onnxruntime') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
