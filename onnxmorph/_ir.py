"""One door to onnx-ir: ``from onnxmorph._ir import ir``.

onnx-ir imports sympy for arithmetic on symbolic dimensions. Nothing here computes with them, and sympy is two thirds of
the import time, which every call of the command line would pay. So while onnx-ir is being imported, sympy and the one
module that calls it at import time are replaced by objects that import the real ones when they are first used.
Afterwards the replacements leave ``sys.modules``: whoever imports sympy gets sympy.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

__all__ = ["ir"]

_DEFERRED = ("sympy", "onnx_ir._symbolic_shapes")


class _ImportedOnUse(ModuleType):
    """Stands for a module inside the modules that imported it, and imports the real one at the first attribute."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system's own questions, such as __path__, must not trigger the import
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        real = importlib.import_module(self.__name__)
        value = getattr(real, name)
        self.__dict__[name] = value  # the next look-up costs nothing
        return value


if "onnx_ir" in sys.modules or "sympy" in sys.modules:
    import onnx_ir as ir
else:
    for _name in _DEFERRED:
        sys.modules[_name] = _ImportedOnUse(_name)
    try:
        import onnx_ir as ir
    finally:
        for _name in _DEFERRED:
            if isinstance(sys.modules.get(_name), _ImportedOnUse):
                del sys.modules[_name]
