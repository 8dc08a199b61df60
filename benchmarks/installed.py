"""The environment in which a program starts as it does once it is installed: with its byte code at hand.

`pip` compiles what it installs; a source tree run with ``PYTHONDONTWRITEBYTECODE``, or for the first time, is compiled
anew by every process, which would be measured as part of the program.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["environment"]


def environment(bytecode: Path) -> dict[str, str]:
    """This process's environment; the first run of every program fills ``bytecode``, so it is not to be counted."""
    kept = {key: text for key, text in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(bytecode)}
