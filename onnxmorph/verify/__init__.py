"""Whether a child computes what its parent computes: inputs that can tell, a measured noise floor, a certificate."""

from __future__ import annotations

from onnxmorph.verify.certificate import Certificate, Comparison
from onnxmorph.verify.equivalence import verify

__all__ = ["Certificate", "Comparison", "verify"]
