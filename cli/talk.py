"""Who hears what: results go to stdout, everything else to stderr, and bars only to a terminal."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import click

__all__ = ["Talk", "finite"]


@dataclass(frozen=True)
class Talk:
    """How a verb speaks, as asked for by ``--json``, ``-v``, ``-q`` and ``--debug``."""

    as_json: bool = False
    verbose: bool = False
    quiet: bool = False
    debug: bool = False

    def result(self, document: Mapping[str, Any], text: Callable[[], None], short: str | None = None) -> None:
        """Gives the verb's result on stdout.

        Args:
            document: What ``--json`` prints, less its ``schema``.
            text: Prints the result for a person.
            short: What ``-q`` leaves of it on stdout; ``None``: nothing.
        """
        if self.as_json:
            click.echo(json.dumps({"schema": 1, **finite(document)}, allow_nan=False))
        elif self.quiet:
            if short is not None:
                click.echo(short)
        else:
            text()

    def note(self, text: str) -> None:
        """One line on stderr that a person should see, such as a warning; not under ``-q``."""
        if not self.quiet:
            click.echo(f"onnxmorph: {text}", err=True)

    def detail(self, text: str) -> None:
        """One line on stderr under ``-v``."""
        if self.verbose:
            click.echo(f"onnxmorph: {text}", err=True)

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Around a piece of work that may take long: a spinner on a terminal, its duration under ``-v``.

        While it lasts, what any library prints to stdout goes to stderr: ONNX Runtime's provider libraries write
        there from C, and would break the one JSON document that stdout is promised to hold.
        """
        started = time.monotonic()
        with _stdout_on_stderr(), self._spinner(what):
            yield
        self.detail(f"{what}: {time.monotonic() - started:.2f} s")

    @contextlib.contextmanager
    def _spinner(self, what: str) -> Iterator[None]:
        if self.quiet or self.verbose or not sys.stderr.isatty():
            yield
            return
        import rich.console
        import rich.markup

        with rich.console.Console(stderr=True).status(rich.markup.escape(what)):
            yield


@contextlib.contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    try:
        sys.stdout.flush()
        kept = os.dup(1)
    except (OSError, ValueError):  # stdout is closed: nothing to protect
        yield
        return
    try:
        with contextlib.suppress(OSError):
            os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def finite(value: Any) -> Any:
    """The same document without NaN and infinities, which JSON lacks: they become the strings "nan", "inf", "-inf"."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, (str, int, bool)) or value is None:
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item"):  # a numpy scalar
        return finite(value.item())
    raise TypeError(f"{type(value).__name__} does not fit into JSON")
