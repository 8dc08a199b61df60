"""Names of a package that are imported when they are first used, and parts of the installation that may be absent."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnxmorph.errors import Refusal

__all__ = ["names_on_use", "needed"]


def names_on_use(
    package: str,
    homes: Mapping[str, Sequence[str]],
    *,
    before: Callable[[str], None] | None = None,
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's ``__getattr__`` and ``__dir__``, so that importing it costs nothing.

    Args:
        package: Its name, ``__name__``.
        homes: Modules below it, each with the names it gives to the package; an empty sequence stands for the module
            itself, under its own name.
        before: Called with the home of a name before that is imported; refuses where something is not installed.
    """
    found = {name: home for home, names in homes.items() for name in names or (home,)}

    def attribute(name: str) -> Any:
        home = found.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if before is not None:
            before(home)
        module = importlib.import_module(f"{package}.{home}")
        value = getattr(module, name) if homes[home] else module
        setattr(sys.modules[package], name, value)  # the next look-up costs nothing
        return value

    return attribute, lambda: sorted(sys.modules[package].__all__)


def needed(module: str, purpose: str, *, extra: str) -> None:
    """Import what only an extra of the installation brings.

    Args:
        module: What is needed, by the name it is imported under.
        purpose: What needs it, as the subject of a sentence.
        extra: Of ``onnxmorph``, that installs it.

    Raises:
        Refusal: It is not installed, or does not load (``torch-missing`` for torch).
    """
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise Refusal(
            f"{purpose} needs {module}, which is not installed or does not load here",
            way_out=f"pip install 'onnxmorph[{extra}]'",
            code=f"{module}-missing",
        ) from error
