"""Groups of options that verbs share, each one decorator that hands the verb one value."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from .talk import Talk

__all__ = [
    "Checking",
    "Growth",
    "Output",
    "checking_options",
    "file_options",
    "growth_options",
    "input_shape",
    "kernel",
    "layer_options",
    "model_argument",
    "output_options",
    "talk_options",
]

Verb = TypeVar("Verb", bound=Callable[..., Any])


@dataclass(frozen=True)
class Output:
    """Where the child goes.

    Attributes:
        path: What ``-o`` says; ``None``: beside the parent.
        force: May overwrite.
        share_weights: The child may refer to the parent's data file for what did not change.
        keep_failed: A child that fails verification is kept, under another name.
    """

    path: Path | None
    force: bool
    share_weights: bool = False
    keep_failed: bool = False


@dataclass(frozen=True)
class Checking:
    """How parent and child are compared: provider, real inputs, fixed input shapes by name, and the seed."""

    verify: bool
    provider: Literal["auto", "cuda", "cpu", "both"]
    inputs: Path | None
    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Growth:
    """What every verb that writes a child is told besides what to do.

    Attributes:
        output: Where the child goes.
        checking: How it is verified, if it is.
        seed: Seeds new weights, where a verb draws any, and the inputs of the verification.
        dry_run: Only tell what would be done.
        talk: How to tell.
        report: Where a page about the child goes, as HTML; ``None``: nowhere.
    """

    output: Output
    checking: Checking
    seed: int
    dry_run: bool
    talk: Talk
    report: Path | None = None


def kernel(text: str) -> int | tuple[int, ...]:
    """``3`` for all axes alike, or one size an axis: ``3x5``, ``3x3x3``."""
    if not re.fullmatch(r"\d+(x\d+)*", text, flags=re.ASCII):
        raise click.BadParameter(f"{text!r} is no kernel size; write 3, or one size an axis: 3x5")
    sizes = tuple(int(size) for size in text.split("x"))
    if 0 in sizes:
        raise click.BadParameter(f"{text!r}: a kernel has at least one tap on each axis")
    return sizes[0] if len(sizes) == 1 else sizes


def input_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """``NAME:2,3,64,64``; the name may hold colons itself, and nothing after the last one is a scalar."""
    name, colon, sizes = text.rpartition(":")
    if not (colon and name) or not re.fullmatch(r"(\d+(,\d+)*)?", sizes, flags=re.ASCII):
        raise click.BadParameter(f"{text!r} is no shape; write the input's name and its sizes: x:2,3,64,64")
    return name, tuple(int(size) for size in sizes.split(",")) if sizes else ()


def model_argument(name: str) -> Callable[[Verb], Verb]:
    """One model file. Whether it is usable is the loader's to say; that nothing is there needs no loader, which takes
    most of the time of starting."""
    return click.argument(name, type=click.Path(path_type=Path), metavar=name.upper(), callback=_there)


def _there(_context: click.Context, _parameter: click.Parameter, path: Path) -> Path:
    try:
        path.stat()
    except OSError as error:
        from onnxmorph.errors import ModelError

        raise ModelError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    return path


def file_options(written: str) -> Callable[[Verb], Verb]:
    """``-o`` and ``--force``, given to the verb as ``output``.

    Args:
        written: What is written, and where by default, for the help text.
    """

    def decorate(verb: Verb) -> Verb:
        @click.option("-o", "--output", "path", type=click.Path(path_type=Path), help=written)
        @click.option("--force", is_flag=True, help="Overwrite files that are there.")
        @functools.wraps(verb)
        def with_file(*args: Any, path: Path | None, force: bool, **kwargs: Any) -> Any:
            return verb(*args, output=Output(path, force), **kwargs)

        return with_file  # type: ignore[return-value]

    return decorate


def output_options(verb: Verb) -> Verb:
    """Those of `file_options`, ``--share-weights`` and ``--keep-failed``, given to the verb as ``output``."""

    @file_options("The child's file. [default: STEM.VERB.onnx]")
    @click.option("--share-weights", is_flag=True, help="Refer to the parent's data file for what did not change.")
    @click.option("--keep-failed", is_flag=True, help="Keep a child that fails verification, as STEM.VERB.failed.onnx.")
    @functools.wraps(verb)
    def with_output(*args: Any, output: Output, share_weights: bool, keep_failed: bool, **kwargs: Any) -> Any:
        return verb(*args, output=replace(output, share_weights=share_weights, keep_failed=keep_failed), **kwargs)

    return with_output  # type: ignore[return-value]


def checking_options(*, skippable: bool) -> Callable[[Verb], Verb]:
    """``--provider``, ``--inputs``, ``--shape`` and, where a verb may go without, ``--no-verify``: as ``checking``."""

    def decorate(verb: Verb) -> Verb:
        @click.option(
            "--provider",
            type=click.Choice(["auto", "cuda", "cpu", "both"]),
            default="auto",
            show_default=True,
            help="Where to run; auto takes CUDA where it works, both needs both to agree.",
        )
        @click.option(
            "--inputs",
            type=click.Path(path_type=Path),
            help="Real inputs: an .npz, a folder of samples, a picture, a script.",
        )
        @click.option(
            "--shape",
            "shapes",
            type=input_shape,
            metavar="NAME:DIMS",
            multiple=True,
            help="Fix the sizes of an input, as x:2,3,64,64; repeatable.",
        )
        @functools.wraps(verb)
        def with_checking(
            *args: Any,
            provider: Literal["auto", "cuda", "cpu", "both"],
            inputs: Path | None,
            shapes: tuple[tuple[str, tuple[int, ...]], ...],
            no_verify: bool = False,
            **kwargs: Any,
        ) -> Any:
            names = [name for name, _ in shapes]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise click.UsageError(f"--shape: input {twice!r} is given twice", click.get_current_context())
            return verb(*args, checking=Checking(not no_verify, provider, inputs, dict(shapes)), **kwargs)

        if skippable:
            option = click.option(
                "--no-verify", is_flag=True, help="Write without verifying; the child's metadata say so."
            )
            return option(with_checking)  # type: ignore[return-value]
        return with_checking  # type: ignore[return-value]

    return decorate


def talk_options(verb: Verb) -> Verb:
    """``--json``, ``-v``, ``-q``, ``--debug``, given to the verb as ``talk``."""

    @click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
    @click.option("-v", "--verbose", is_flag=True, help="Say what is being done and how long it took.")
    @click.option("-q", "--quiet", is_flag=True, help="Nothing but the essence of the result.")
    @click.option("--debug", is_flag=True, help="Show tracebacks.")
    @functools.wraps(verb)
    def with_talk(*args: Any, as_json: bool, verbose: bool, quiet: bool, debug: bool, **kwargs: Any) -> Any:
        if verbose and quiet:
            raise click.UsageError("-v and -q contradict each other", click.get_current_context())
        return verb(*args, talk=Talk(as_json, verbose, quiet, debug), **kwargs)

    return with_talk  # type: ignore[return-value]


def layer_options(action: str, *, flag: str = "--layer", required: bool = True) -> Callable[[Verb], Verb]:
    """Layers by name and ``--each``, as ``selectors`` and ``each``; ``action`` is what befalls them."""

    def decorate(verb: Verb) -> Verb:
        named = click.option(
            flag,
            "selectors",
            metavar="LAYER",
            multiple=True,
            required=required,
            help="The layer: node name, weight name, path component, glob, or #N of inspect; repeatable.",
        )
        each = click.option("--each", is_flag=True, help=f"Let LAYER match several layers, and {action} each.")
        return named(each(verb))

    return decorate


def growth_options(seeds: str) -> Callable[[Verb], Verb]:
    """``--seed``, ``--dry-run``, ``--report`` and all of output, checking and talk, given to the verb as ``growth``."""

    def decorate(verb: Verb) -> Verb:
        @click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help=f"Seeds {seeds}.")
        @click.option("--dry-run", is_flag=True, help="Print what would be done, write nothing.")
        @click.option(
            "--report", type=click.Path(path_type=Path), metavar="FILE", help="Write a page about the child, as HTML."
        )
        @output_options
        @checking_options(skippable=True)
        @talk_options
        @functools.wraps(verb)
        def with_growth(
            *args: Any,
            seed: int,
            dry_run: bool,
            report: Path | None,
            output: Output,
            checking: Checking,
            talk: Talk,
            **kwargs: Any,
        ) -> Any:
            if report is not None and dry_run:
                raise click.UsageError("--report is of a child, and --dry-run makes none", click.get_current_context())
            return verb(*args, growth=Growth(output, checking, seed, dry_run, talk, report), **kwargs)

        return with_growth  # type: ignore[return-value]

    return decorate
