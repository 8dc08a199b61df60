"""What is installed and what of it works: versions, conflicts, and the runtime's providers as they really behave."""

from __future__ import annotations

from onnxmorph.doctor.examination import Diagnosis, examine
from onnxmorph.doctor.finding import Finding

__all__ = ["Diagnosis", "Finding", "examine"]
