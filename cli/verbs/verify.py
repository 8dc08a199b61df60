"""``onnxmorph verify``: two models, one question."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..gate import Reports, check, report_options
from ..judging import Judging, judging_options
from ..options import Checking, checking_options, talk_options
from ..talk import Talk

if TYPE_CHECKING:
    from onnxmorph.verify import Certificate

__all__ = ["command"]


@click.command(name="verify", short_help="Show that two models compute the same, or where they part.")
@click.argument("parent", type=click.Path(path_type=Path), required=False)
@click.argument("child", type=click.Path(path_type=Path), required=False)
@click.option(
    "--pairs",
    "listed",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Compare many: a parent and a child a line, in the place of PARENT and CHILD.",
)
@checking_options(skippable=False)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seeds the inputs.")
@judging_options
@report_options
@talk_options
def command(
    *,
    parent: Path | None,
    child: Path | None,
    listed: Path | None,
    checking: Checking,
    seed: int,
    judging: Judging,
    reports: Reports,
    talk: Talk,
) -> None:
    """Show that PARENT and CHILD compute the same, or where they part.

    Runs both in ONNX Runtime on inputs that can tell them apart and compares outputs and inner values of the same name,
    measured against how far the parent differs from itself. Two folders are compared model by model, by the path below
    them. Exit code 0: equivalent; 1: not; of many, the worst: 1, then 4, 2, 3.
    """

    if listed is not None or (parent is not None and parent.is_dir()):
        judging.one_pair_only()

    def compare(parent: Path, child: Path) -> Certificate:
        return judging.verify(parent, child, checking, seed)

    def show(certificate: Certificate) -> None:
        from ..certificate import show as show_certificate

        show_certificate(certificate)

    check(parent, child, listed, compare, show, reports=reports, talk=talk)
