"""Tables: drawn by rich where a terminal has room, plain aligned text with nothing cut off everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import click

from onnxmorph.visible import visible

__all__ = ["Table"]


@dataclass
class Table:
    """Rows of text under headings.

    Attributes:
        headings: One a column; a heading that starts with ``>`` makes its column flush right (the ``>`` is not shown).
        rows: As many cells as headings each.
    """

    headings: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        if len(cells) != len(self.headings):
            raise ValueError(f"{len(cells)} cells for {len(self.headings)} columns")
        self.rows.append([visible(cell) for cell in cells])

    def plain(self) -> str:
        """The table as text whose columns are as wide as their widest cell; two spaces between, no frame."""
        right = [heading.startswith(">") for heading in self.headings]
        lines = [[heading.removeprefix(">") for heading in self.headings], *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.headings))]
        return "\n".join(_aligned(line, widths, right) for line in lines)

    def show(self) -> None:
        """Prints to stdout: drawn on a terminal that is wide enough, plain in files, pipes and narrow terminals.

        A plain line that is too long for a terminal is continued by it on the next row: still one line to select and
        copy, where a drawn table would break every name into a tower.
        """
        if not sys.stdout.isatty():
            click.echo(self.plain())
            return
        import rich.box
        import rich.console
        import rich.table
        import rich.text

        console = rich.console.Console(highlight=False)
        drawn = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
        for heading in self.headings:
            side = "right" if heading.startswith(">") else "left"
            drawn.add_column(heading.removeprefix(">"), justify=side, no_wrap=True)  # type: ignore[arg-type]
        for row in self.rows:
            drawn.add_row(*(rich.text.Text(cell) for cell in row))  # Text: a name may hold rich's markup brackets
        # Measured on a console without bounds: on its own one, a table that does not fit claims to.
        if rich.console.Console(width=100_000).measure(drawn).maximum <= console.width:
            console.print(drawn)
        else:
            click.echo(self.plain())


def _aligned(cells: Iterable[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = (
        cell.rjust(width) if flush else cell.ljust(width)
        for cell, width, flush in zip(cells, widths, right, strict=True)
    )
    return "  ".join(padded).rstrip()
