"""Names out of files, made fit for a line of a terminal."""

from __future__ import annotations

import unicodedata

__all__ = ["visible", "visible_lines"]


def visible(text: str) -> str:
    r"""``text`` with line breaks, escapes and other characters without a glyph written out (``\n``, ``\x1b``).

    A name in a model is whatever its exporter, or somebody else, put there. As it stands it could break a table's
    lines, pass for a line of its own, or drive the terminal.
    """
    if text.isprintable():
        return text
    return "".join(map(_escaped, text))


def visible_lines(text: str) -> str:
    """The same for text that is meant to have lines: their breaks stay."""
    return "\n".join(map(visible, text.split("\n")))


def _escaped(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")
