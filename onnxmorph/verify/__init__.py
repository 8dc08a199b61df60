"""Whether a child computes what its parent computes: inputs that can tell, a measured noise floor, a certificate."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxmorph.verify.binding import Binding, check_binding, read_certificate, sidecar_path, write_certificate
    from onnxmorph.verify.certificate import Certificate, Comparison
    from onnxmorph.verify.equivalence import verify
    from onnxmorph.verify.real_data import write_inputs
    from onnxmorph.verify.tolerance import Tolerance, Tolerances

__all__ = [
    "Binding",
    "Certificate",
    "Comparison",
    "Tolerance",
    "Tolerances",
    "check_binding",
    "read_certificate",
    "sidecar_path",
    "verify",
    "write_certificate",
    "write_inputs",
]

_HOMES = {
    "binding": ("Binding", "check_binding", "read_certificate", "sidecar_path", "write_certificate"),
    "certificate": ("Certificate", "Comparison"),
    "equivalence": ("verify",),
    "real_data": ("write_inputs",),
    "tolerance": ("Tolerance", "Tolerances"),
}


def __getattr__(name: str) -> Any:
    # Checking a binding runs nothing, and need not wait for what verification imports.
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
