"""``onnxmorph diff``: what two models differ in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxmorph.special_files import is_special

from ..options import model_argument, talk_options
from ..table import Table
from ..talk import Talk

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["command"]


@click.command(name="diff", short_help="Show what two models differ in.")
@model_argument("parent")
@model_argument("child")
@click.option("--markdown", "form", flag_value="markdown", help="As Markdown, with a Mermaid picture.")
@click.option("--html", "form", flag_value="html", help="As a page of its own, with a picture.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write it. [default: stdout]")
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@talk_options
def command(*, parent: Path, child: Path, form: str | None, output: Path | None, force: bool, talk: Talk) -> None:
    """Show what PARENT and CHILD differ in: nodes, stored tensors, shapes, interface, size, recorded morphs.

    Nothing is run: whether the two compute the same is for 'verify' to say. Exit code 0, whatever they differ in.
    """
    if output is not None and not force and output.exists():
        raise click.UsageError(
            f"{output} exists; choose another with -o, or --force to overwrite it", click.get_current_context()
        )
    if output is not None and talk.as_json and form is None:
        raise click.UsageError(
            "--json goes to stdout; -o takes text, --markdown or --html", click.get_current_context()
        )
    if output is not None and is_special(output):
        raise click.UsageError(f"{output} is no regular file, and none takes its place", click.get_current_context())
    with talk.step("loading"):
        from onnxmorph import model
        from onnxmorph.diff import diff
        from onnxmorph.report.diff import as_html, as_markdown, as_text

        one, two = model.load(parent), model.load(child)
    with talk.step("comparing"):
        found = diff(one, two)
    names = (parent.name, child.name)
    if form == "markdown":
        text = as_markdown(found, names)
    elif form == "html":
        text = as_html(found, names)
    else:
        text = as_text(found, _laid_out) + "\n"
    if output is not None:
        from onnxmorph.report.files import write_whole

        write_whole(output, text)
    document = found.to_json() if output is None else {**found.to_json(), "written": output}

    def show() -> None:
        if output is None:
            click.echo(text, nl=False)
        else:
            click.echo(f"{found.summary()}\nwritten: {output}")

    talk.result(document, show, short=found.summary())


def _laid_out(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    table = Table(headings)
    for row in rows:
        table.add(*row)
    return table.plain()
