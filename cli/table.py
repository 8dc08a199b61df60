"""Tables: drawn by rich on a terminal, plain aligned text with nothing cut off everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import click

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
        self.rows.append(cells)

    def plain(self) -> str:
        """The table as text whose columns are as wide as their widest cell; two spaces between, no frame."""
        right = [heading.startswith(">") for heading in self.headings]
        lines = [[heading.removeprefix(">") for heading in self.headings], *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.headings))]
        return "\n".join(_aligned(line, widths, right) for line in lines)

    def show(self) -> None:
        """Prints to stdout, in the form that suits where stdout goes."""
        if not sys.stdout.isatty():
            click.echo(self.plain())
            return
        import rich.box
        import rich.console
        import rich.table
        import rich.text

        drawn = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
        for heading in self.headings:
            side = "right" if heading.startswith(">") else "left"
            drawn.add_column(heading.removeprefix(">"), justify=side, overflow="fold")  # type: ignore[arg-type]
        for row in self.rows:
            drawn.add_row(*(rich.text.Text(cell) for cell in row))  # Text: a name may hold rich's markup brackets
        rich.console.Console(highlight=False).print(drawn)


def _aligned(cells: Iterable[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = (
        cell.rjust(width) if flush else cell.ljust(width)
        for cell, width, flush in zip(cells, widths, right, strict=True)
    )
    return "  ".join(padded).rstrip()
