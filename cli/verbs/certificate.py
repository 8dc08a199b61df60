"""``onnxmorph certificate``: whether the certificate of a child still binds it to its parent."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import model_argument, talk_options
from ..talk import Talk

__all__ = ["command"]


@click.command(
    name="certificate", short_help="Check that a certificate is about these very models, without running them."
)
@model_argument("child")
@click.option("--parent", type=click.Path(path_type=Path), help="The model it was grown from.")
@click.option(
    "--certificate",
    "file",
    type=click.Path(path_type=Path),
    help="File of the certificate. [default: the child's metadata, and CHILD.certificate.json]",
)
@talk_options
def command(*, child: Path, parent: Path | None, file: Path | None, talk: Talk) -> None:
    """Check that CHILD has a certificate of equivalence that is about this very child, and this very parent.

    Runs neither model: the certificate names both by content hash. Exit code 0: bound and equivalent; 1: not, with the
    reason.
    """
    from onnxmorph.verify import Binding, check_binding

    with talk.step("hashing"):
        binding = check_binding(child, parent, certificate=file)

    def show(binding: Binding) -> None:
        if not binding.holds:
            click.echo(f"{child}: no valid certificate of equivalence")
            click.echo("\n".join(f"  {reason}" for reason in binding.reasons))
            return
        assert binding.certificate is not None
        about = f"as the child of {parent}" if parent is not None else "(its parent was not given)"
        click.echo(f"{child}: certified equivalent {about}, by its {_place(binding.source)}")
        fault = binding.certificate.get("detectable_fault")
        seen = f"; a planted fault of {fault:.0%} of one weight's spread was seen" if fault else ""
        sets = binding.certificate.get("inputs")
        provider = str(binding.certificate.get("provider", "")).removesuffix("ExecutionProvider")
        click.echo(f"  {sets} set(s) of inputs on {provider}{seen}")

    talk.result(binding.to_json(), lambda: show(binding), short="bound" if binding.holds else None)
    if not binding.holds:
        if talk.quiet and not talk.as_json:
            click.echo(f"onnxmorph: {binding.reasons[0]}", err=True)
        raise click.exceptions.Exit(1)


def _place(source: str | None) -> str:
    return {"metadata": "metadata", "sidecar": "sidecar"}.get(str(source), f"certificate {source}")
