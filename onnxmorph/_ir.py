"""One door to onnx and onnx-ir: ``from onnxmorph._ir import ir, onnx``.

Both import on their way what nothing here uses, and every call of the command line would pay for it: onnx-ir takes
sympy for arithmetic on symbolic dimensions, two thirds of its import time; onnx takes protobuf's texts, JSON and
implementation in Python, its own generator of ``.proto`` files, and the mail parser of `importlib.metadata` to learn
its own version, a third of its. So while the two are being imported, these modules are replaced by objects that import
the real ones when they are first used. Afterwards the replacements leave ``sys.modules``: whoever imports sympy gets
sympy, and ``onnx.compose.merge_models`` imports ``onnx.compose`` then.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

__all__ = ["ir", "onnx"]

_FOR_ONNX = (
    *("google.protobuf.internal.python_message", "google.protobuf.json_format", "google.protobuf.text_format"),
    *("onnx.compose", "onnx.gen_proto", "onnx.parser", "onnx.printer", "onnx.utils", "onnx.version_converter"),
)
_FOR_ONNX_IR = ("sympy", "onnx_ir._symbolic_shapes")


class _ImportedOnUse(ModuleType):
    """Stands for a module inside the modules that imported it, and imports the real one at the first attribute."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and sys.modules.get(self.__name__) is self:
            raise AttributeError(
                name
            )  # the import system's own questions, such as __path__, must not trigger the import
        value = getattr(self._real(), name)
        self.__dict__[name] = value  # the next look-up costs nothing
        return value

    def __dir__(self) -> list[str]:
        return dir(self._real())

    def _real(self) -> ModuleType:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return importlib.import_module(self.__name__)


class _Versions(_ImportedOnUse):
    """Stands for `importlib.metadata`: tells a version by the name of the folder that holds the metadata."""

    def version(self, distribution: str) -> str:
        start, end = f"{distribution}-", ".dist-info"
        for folder in sys.path:
            with contextlib.suppress(OSError):
                for entry in os.scandir(folder or os.curdir):
                    if entry.name.startswith(start) and entry.name.endswith(end):
                        return entry.name[len(start) : -len(end)]
        return str(self._real().version(distribution))


@contextlib.contextmanager
def _replaced(*replacements: ModuleType) -> Iterator[None]:
    """Inside, these stand where modules of their names would, unless those are imported already."""
    placed = [module for module in replacements if module.__name__ not in sys.modules]
    for module in placed:
        sys.modules[module.__name__] = module
        _name_in_package(module)
    try:
        yield
    finally:
        for module in placed:
            if sys.modules.get(module.__name__) is module:
                del sys.modules[module.__name__]
                _name_in_package(module)


def _name_in_package(module: ModuleType) -> None:
    """What ``import package.name`` does last, and not for what ``sys.modules`` has already."""
    package, _, name = module.__name__.rpartition(".")
    if package in sys.modules and not hasattr(sys.modules[package], name):
        setattr(sys.modules[package], name, module)


if "onnx" in sys.modules:
    import onnx
else:
    with _replaced(_Versions("importlib.metadata"), *map(_ImportedOnUse, _FOR_ONNX)):
        import onnx

if "onnx_ir" in sys.modules or "sympy" in sys.modules:
    import onnx_ir as ir
else:
    with _replaced(*map(_ImportedOnUse, _FOR_ONNX_IR)):
        import onnx_ir as ir
