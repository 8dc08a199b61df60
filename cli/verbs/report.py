"""``onnxmorph report``: a page of a morph, or of a batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..options import Checking, checking_options, talk_options
from ..talk import Talk

__all__ = ["command"]


@click.command(name="report", short_help="Write a page of a morph, or of a batch.")
@click.argument("parent", type=click.Path(path_type=Path), metavar="PARENT|BATCH.json")
@click.argument("child", type=click.Path(path_type=Path), required=False)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="The page, as HTML.")
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Of a batch: write JUnit XML.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seeds the inputs.")
@checking_options(skippable=True)
@talk_options
def command(
    *,
    parent: Path,
    child: Path | None,
    output: Path | None,
    junit: Path | None,
    seed: int,
    checking: Checking,
    talk: Talk,
) -> None:
    """Write a page that shows what became of PARENT in CHILD: graph before and after, weights, errors, size.

    The page needs nothing but a browser. Where the child carries a certificate of these two models that one is shown;
    else the two are compared first, unless --no-verify is given. With the report.json of a batch alone, a page of the
    batch. Exit code 0; 1 where the two were compared and are not equivalent.
    """
    context = click.get_current_context()
    if output is None and (junit is None or child is not None):
        raise click.UsageError("name the page by -o", context)
    if child is None:
        _of_batch(parent, output, junit, talk)
        return
    if junit is not None:
        raise click.UsageError(
            "--junit is for the report of a batch; 'onnxmorph verify' writes that of a pair", context
        )
    assert output is not None
    with talk.step("loading"):
        from onnxmorph import model
        from onnxmorph.report.files import may_write, write_report
        from onnxmorph.report.morph import Told, morph_page

        may_write(output, "html")
        one, two = model.load(parent), model.load(child)
    certificate, source = _travelling(parent, child), "As the certificate says that the child carries."
    if certificate is None:
        source = ""
        if checking.verify:
            from onnxmorph.verify import verify

            with talk.step("verifying"):
                certificate = verify(
                    one,
                    two,
                    provider=checking.provider,
                    inputs=checking.inputs,
                    shapes=checking.shapes or None,
                    seed=seed,
                ).to_json()
    with talk.step("drawing"):
        page = morph_page(one, two, Told((parent.name, child.name), certificate, source=source))
    write_report(output, page, "html")
    verdict = None if certificate is None else certificate.get("equivalent")
    said = {True: "equivalent", False: "not equivalent"}.get(verdict, "not verified")  # type: ignore[arg-type]
    talk.result(
        {"written": output, "equivalent": verdict}, lambda: click.echo(f"{said}\nwritten: {output}"), short=str(output)
    )
    if verdict is False and not source:
        raise click.exceptions.Exit(1)


def _travelling(parent: Path, child: Path) -> dict[str, Any] | None:
    """The certificate that the child carries, where it speaks of just these two models."""
    from onnxmorph.errors import ModelError
    from onnxmorph.verify import check_binding

    try:
        binding = check_binding(child, parent)
    except ModelError:
        return None
    whole = binding.certificate is not None and isinstance(binding.certificate.get("outputs"), list)
    return binding.certificate if binding.bound and whole else None


def _of_batch(path: Path, output: Path | None, junit: Path | None, talk: Talk) -> None:
    from onnxmorph.errors import SelectionError
    from onnxmorph.report.batch import batch_page, outcomes_of_batch
    from onnxmorph.report.files import may_write, write_report
    from onnxmorph.report.junit import junit_xml, suite_of
    from onnxmorph.report.outcomes import reading

    for target, kind in ((output, "html"), (junit, "junit")):
        if target is not None:
            may_write(target, kind)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SelectionError(
            f"{path}: one file alone is the report.json of a batch, and this is none; a morph has PARENT and CHILD"
        ) from error
    if not isinstance(document, dict):
        raise SelectionError(f"{path}: this is no report of 'onnxmorph batch'")
    outcomes = outcomes_of_batch(document)
    if output is not None:
        write_report(output, batch_page(document), "html")
    if junit is not None:
        write_report(junit, junit_xml([suite_of(one) for one in outcomes], name="onnxmorph batch"), "junit")
    written = [file for file in (output, junit) if file is not None]
    listed = "".join(f"\nwritten: {file}" for file in written)
    talk.result({"written": written}, lambda: click.echo(f"{reading(outcomes)}{listed}"), short=reading(outcomes))
