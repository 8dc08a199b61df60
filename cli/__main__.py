"""``python -m onnxmorph_cli``: the same as ``onnxmorph``."""

from __future__ import annotations

from .main import main

main()
