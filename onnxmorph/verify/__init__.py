"""Whether a child computes what its parent computes: inputs that can tell, a measured noise floor, a certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxmorph._on_use import names_on_use

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


# Checking a binding runs nothing, and need not wait for what verification imports.
__getattr__, __dir__ = names_on_use(__name__, _HOMES)
