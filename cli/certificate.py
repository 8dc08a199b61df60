"""A certificate, as a person reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .table import Table

if TYPE_CHECKING:
    from onnxmorph.verify import Certificate, Comparison

__all__ = ["show"]


def show(certificate: Certificate) -> None:
    """Prints the outputs as a table, inner values where they say more, then the verdict with its reasons."""
    table = Table(["output", "verdict", ">max abs", ">max rel", ">noise floor", ">ratio"])
    for comparison in certificate.outputs:
        _add(table, comparison.name, comparison)
    # Upstream first: the first inner value that differs is where to look.
    apart = [comparison for comparison in certificate.inner if comparison.status == "differs"]
    for comparison in apart[:10]:
        _add(table, f"(inner) {comparison.name}", comparison)
    if table.rows:
        table.show()
        click.echo()
    if len(apart) > 10:
        click.echo(f"{len(apart) - 10} more inner values differ")
    click.echo(certificate.describe())


def _add(table: Table, name: str, comparison: Comparison) -> None:
    numbers = (comparison.max_abs, comparison.max_rel, comparison.noise_floor)
    # One channel of many may stand out where the whole tensor does not; the verdict takes the larger.
    ratio = max(comparison.ratio, comparison.channel_ratio)
    table.add(name, comparison.status, *(f"{number:.3g}" for number in numbers), f"{ratio:.3g}")
