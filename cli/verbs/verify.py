"""``onnxmorph verify``: two models, one question."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import Checking, checking_options, model_argument, talk_options
from ..talk import Talk

__all__ = ["command"]


@click.command(name="verify", short_help="Show that two models compute the same, or where they part.")
@model_argument("parent")
@model_argument("child")
@checking_options(skippable=False)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seeds the inputs.")
@talk_options
def command(*, parent: Path, child: Path, checking: Checking, seed: int, talk: Talk) -> None:
    """Show that PARENT and CHILD compute the same, or where they part.

    Runs both in ONNX Runtime on inputs that can tell them apart and compares outputs and inner values of the same name,
    measured against how far the parent differs from itself. Exit code 0: equivalent; 1: not.
    """
    from onnxmorph.verify import verify

    from ..certificate import show

    with talk.step("verifying"):
        certificate = verify(
            parent,
            child,
            provider=checking.provider,
            inputs=checking.inputs,
            shapes=checking.shapes or None,
            seed=seed,
        )
    verdict = "equivalent" if certificate.equivalent else "not equivalent"
    talk.result(certificate.to_json(), lambda: show(certificate), short=verdict)
    if not certificate.equivalent:
        raise click.exceptions.Exit(1)
