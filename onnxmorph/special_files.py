"""Devices, pipes and sockets: what a written file must not take the place of."""

from __future__ import annotations

import stat
from pathlib import Path

__all__ = ["is_special"]


def is_special(path: Path) -> bool:
    """Whether something is there that no file may take the place of: a device, a pipe, or a link to one.

    A rename would do it, ``/dev/null`` included, and with the rights of root it would succeed.
    """
    try:
        if path.is_symlink() and str(path.readlink()).startswith("/proc/"):  # /dev/stdout
            return True
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
