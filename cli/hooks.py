"""What pre-commit runs: ``python -m onnxmorph_cli.hooks certificate|verify FILE...``.

``certificate``: a child that carries a certificate is still the model that was certified, and one that was grown was
verified. ``verify``: a model that is to be committed computes what the committed one does.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from onnxmorph.report.outcomes import Outcome

__all__ = ["hooks"]

_LFS = b"version https://git-lfs.github.com/spec/"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def hooks() -> None:
    """Checks of models for pre-commit."""


@hooks.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--allow-unverified", is_flag=True, help="Let pass what was grown with --no-verify.")
def certificate(files: tuple[Path, ...], allow_unverified: bool) -> None:
    """Check that each of FILES is the very model its certificate speaks of.

    Nothing is run. A model that was not grown by onnxmorph passes.
    """
    _end([_certified(path, allow_unverified) for path in _models(files)])


@hooks.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--ref", default="HEAD", show_default=True, help="The commit whose models count.")
@click.option("--provider", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
def verify(files: tuple[Path, ...], ref: str, provider: Literal["auto", "cuda", "cpu"]) -> None:
    """Check that each of FILES computes what its version in a commit computes.

    A model that the commit does not have passes.
    """
    _end([_same_as_committed(path, ref, provider) for path in _models(files)])


def _models(files: Iterable[Path]) -> list[Path]:
    """The models among the files; a data file stands for the model beside it."""
    models = (
        file.with_suffix("") if file.suffix == ".data" and file.with_suffix("").suffix == ".onnx" else file
        for file in files
    )
    return [file for file in dict.fromkeys(models) if file.exists()]


def _end(outcomes: Sequence[Outcome]) -> None:
    from onnxmorph.report.outcomes import exit_code

    for outcome in outcomes:
        if outcome.exit_code:
            click.echo(f"{outcome.name}: {outcome.verdict}: {' '.join(outcome.reason.split())}", err=True)
        else:
            click.echo(f"{outcome.name}: {outcome.reason or outcome.verdict}")
    if code := exit_code(outcomes):
        raise click.exceptions.Exit(code)


def _certified(path: Path, allow_unverified: bool) -> Outcome:
    from onnxmorph import model as models
    from onnxmorph.errors import OnnxMorphError
    from onnxmorph.report.outcomes import Outcome, Verdict, of_error
    from onnxmorph.verify import check_binding

    name = path.as_posix()

    def ended(verdict: Verdict, reason: str) -> Outcome:
        return Outcome(name, verdict, reason, child=name)

    try:
        binding = check_binding(path)
        if binding.holds:
            return ended("equivalent", "the model that was certified")
        found = binding.certificate
        if found is None or found.get("verified") is False:
            if found is None and not models.records(models.load(path)):
                return ended("skipped", "not grown by onnxmorph")
            if allow_unverified:
                return ended("skipped", "grown, not verified, and let pass")
            return ended("not equivalent", "grown, but never verified: 'onnxmorph verify' it with its parent")
        if found.get("morphism") is False and binding.bound:
            return ended("skipped", "certified not to be a morphism, as it was asked for")
        return ended("not equivalent", "; ".join(binding.reasons))
    except (OnnxMorphError, OSError) as error:
        return of_error(name, error, child=name)


# -- against the committed version -------------------------------------------------------------------------------------


def _same_as_committed(path: Path, ref: str, provider: Literal["auto", "cuda", "cpu"]) -> Outcome:
    from onnxmorph.errors import ModelError, OnnxMorphError
    from onnxmorph.report.outcomes import Outcome, of_certificate, of_error
    from onnxmorph.verify import verify as compare

    name = path.as_posix()
    try:
        before = _git("ls-tree", "--name-only", ref, "--", path.name, folder=path.parent)
        if not before.strip():
            return Outcome(name, "skipped", f"not in {ref}: nothing to compare with", child=name)
        with tempfile.TemporaryDirectory(prefix="onnxmorph-", ignore_cleanup_errors=True) as folder:
            parent = _check_out(path, ref, Path(folder))
            return of_certificate(name, compare(parent, path, provider=provider).to_json(), child=name)
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        return of_error(name, ModelError(f"git: {said[0] if said else error}"), child=name)
    except (OnnxMorphError, OSError) as error:
        return of_error(name, error, child=name)


def _check_out(path: Path, ref: str, folder: Path) -> Path:
    """The committed model in a folder of its own, with its data files."""
    from onnxmorph.zoo.fingerprint import data_locations

    parent = folder / path.name
    parent.write_bytes(_blob(path.parent, path.name, ref))
    for location in data_locations(parent):
        spelled = PurePosixPath(location.replace("\\", "/"))
        target = folder / spelled
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.write_bytes(_blob(path.parent, spelled.as_posix(), ref))
    return parent


def _blob(folder: Path, name: str, ref: str) -> bytes:
    """A file's bytes in a commit; what Git LFS keeps elsewhere is fetched by it."""
    content = _git("show", f"{ref}:./{name}", folder=folder)
    if content.startswith(_LFS):
        return _git("lfs", "smudge", "--", name, folder=folder, given=content)
    return content


def _git(*words: str, folder: Path | None = None, given: bytes | None = None) -> bytes:
    return subprocess.run(["git", *words], cwd=folder, input=given, capture_output=True, check=True).stdout


if __name__ == "__main__":
    hooks(prog_name="onnxmorph-hooks")
