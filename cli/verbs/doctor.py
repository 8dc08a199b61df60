"""``onnxmorph doctor``: is this installation fit to work."""

from __future__ import annotations

import click

from ..options import talk_options
from ..talk import Talk

__all__ = ["command"]


@click.command(name="doctor", short_help="Check the installation: versions, conflicts, providers that really work.")
@talk_options
def command(talk: Talk) -> None:
    """Check the installation: versions, conflicts, providers that really work.

    Exit code 0: onnxmorph can work here, with or without CUDA; 4: something is broken, and what to do about it is said.
    """
    from onnxmorph.doctor import Diagnosis, examine

    def show(diagnosis: Diagnosis) -> None:
        from ..table import Table

        table = Table(["", "what", "found"])
        for finding in diagnosis.findings:
            table.add(finding.status, finding.topic, finding.text)
        table.show()
        advised = [finding for finding in diagnosis.findings if finding.advice]
        for finding in advised:
            click.echo(
                f"\n{finding.topic}: to mend this" if finding.status == "broken" else f"\n{finding.topic}: if wanted"
            )
            click.echo(f"    {finding.advice}")

    with talk.step("looking at packages and providers"):
        diagnosis = examine()
    verdict = "healthy" if diagnosis.healthy else "broken"
    talk.result(diagnosis.to_json(), lambda: show(diagnosis), short=verdict)
    if not diagnosis.healthy:
        raise click.exceptions.Exit(4)
