"""Entry point: finds the verb, and turns whatever ends it into an exit code and one line.

Exit codes: 0 done or equivalent, 1 not equivalent, 2 usage, 3 refused, 4 the model or the runtime failed; 130 and 143
when interrupted or terminated. Only click is imported here, since ``--help`` has to be instant.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

__all__ = ["VERBS", "main", "root"]

VERBS: dict[str, str] = {
    "inspect": "List the layers of a model, and which morphs each of them takes.",
    "deepen": "Insert a layer after a layer.",
    "widen": "Give a layer more channels.",
    "shrink": "Take channels from a layer, or train a model down to a budget.",
    "expand": "Widen all layers to a budget.",
    "kernel": "Give a convolution a larger kernel.",
    "subnet": "Replace a layer by a small network.",
    "skip": "Add a short way between two layers.",
    "duplicate": "Copy a residual block after itself.",
    "activate": "Make activations parametric.",
    "fold": "Fold what is linear, without effect, dead or double.",
    "train": "Train a model in place.",
    "evolve": "Train over generations that keep a part of the weights.",
    "slim": "Cut the part that evolve keeps out of a model.",
    "search": "Search for a better network by morphs.",
    "apply": "Carry out a recipe of several morphs.",
    "batch": "Carry out a recipe on many models.",
    "verify": "Show that two models compute the same, or where they part.",
    "certificate": "Check that a certificate is about these very models, without running them.",
    "diff": "Show what two models differ in.",
    "report": "Write a page of a morph, or of a batch.",
    "replay": "Make a child again from its parent and its records.",
    "doctor": "Check the installation: versions, conflicts, providers that really work.",
}
"""Verbs in the order of ``--help``, with their one line. The line stands here and in the verb's own help, so that
listing the verbs imports none of them."""


class VerbGroup(click.Group):
    """A group that imports a verb's module only when that verb is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f".verbs.{cmd_name}", __package__)
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the verbs are {', '.join(VERBS)}"
            raise click.UsageError(f"no such verb {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from onnxmorph import __version__

        click.echo(f"onnxmorph {__version__}")
        ctx.exit()


@click.group(
    cls=VerbGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="VERB IN... [-o OUT] [OPTIONS]",
    options_metavar="",
    epilog="Exit codes: 0 done or equivalent, 1 not equivalent, 2 usage, 3 refused, 4 the model or the runtime failed.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def root() -> None:
    """Grow trained ONNX models without changing what they compute."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits the process.

    Args:
        arguments: The words after the program's name; default: those the process was started with.
    """
    # Nearly all objects of a run live until it ends: looking for garbage among the nodes of a big graph every few
    # hundred new ones takes as long as reading it.
    gc.set_threshold(200_000, 50, 100)
    words = list(sys.argv[1:] if arguments is None else arguments)
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # A file name or a layer name may hold what the terminal's encoding cannot show: escaped is better than dead.
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    # Terminated is to clean up like interrupted does. Only the main thread may set signals (embedders, tests).
    for name in ("SIGTERM", "SIGHUP"):
        with contextlib.suppress(ValueError, AttributeError):
            number = getattr(signal, name)
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, _terminated)
    code = _run(words)
    try:
        sys.stdout.flush()
    except OSError:
        code = 4
        _abandon_stdout()
    if arguments is None:
        # The process ends here: a last search for garbage among all that was imported would find nothing worth having.
        gc.freeze()
    sys.exit(code)


class _Terminated(BaseException):
    """A signal asked the process to end. No SystemExit, which a user's script may raise and its caller catches."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number
        """As shells have it."""


def _terminated(number: int, _frame: object) -> NoReturn:
    raise _Terminated(number)


def _open_closed_streams() -> None:
    """Whoever closed stdin, stdout or stderr gets them to nowhere.

    Else the next file that is opened, a model maybe, would take the place of the stream, and what a library prints from
    C would end up in it.
    """
    with contextlib.suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115 - for good


def _abandon_stdout() -> None:
    # What is still buffered has no reader; without this the interpreter would complain about it at exit.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(words: list[str]) -> int:
    instruction = os.environ.get("_ONNXMORPH_COMPLETE")
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(root, {}, "onnxmorph", "_ONNXMORPH_COMPLETE", instruction)
    before_dashes = words[: words.index("--")] if "--" in words else words
    report = _Report(as_json="--json" in before_dashes, debug="--debug" in before_dashes)
    try:
        # make_context and invoke rather than root.main(): that one answers a closed pipe with an exit code of its own.
        with root.make_context("onnxmorph", list(words)) as ctx:
            root.invoke(ctx)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except _Terminated as terminated:
        return report.failure("terminated, nothing written", terminated.exit_code)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 4
    except (KeyboardInterrupt, click.Abort):
        return report.failure("interrupted, nothing written", 130)
    except click.ClickException as error:
        return report.usage(error)
    except BrokenPipeError:
        _abandon_stdout()
        return 4
    except MemoryError:
        return report.failure("out of memory", 4)
    except OSError as error:
        return report.failure(_system_words(error), 4)
    except Exception as error:
        return report.unexpected(error)
    return 0


class _Report:
    """What is said when a verb does not come to its end: a line on stderr, and with ``--json`` a document on stdout."""

    def __init__(self, *, as_json: bool, debug: bool) -> None:
        self.as_json = as_json
        self.debug = debug

    def usage(self, error: click.ClickException) -> int:
        if type(error).__name__ == "NoArgsIsHelpError":
            click.echo(error.format_message(), err=True)
            return 2
        text = _one_line(error.format_message()).rstrip(".")
        context = getattr(error, "ctx", None)
        where = f"; see '{context.command_path} --help'" if context is not None else ""
        return self._say("error", f"{text}{where}", 2, {"error": text})

    def unexpected(self, error: Exception) -> int:
        from onnxmorph.errors import OnnxMorphError, Refusal

        if isinstance(error, Refusal):
            text = _one_line(str(error))
            return self._say("refused", text, error.exit_code, {"refused": text, "code": error.code})
        if isinstance(error, OnnxMorphError):
            return self.failure(_one_line(str(error)), error.exit_code)
        text = f"internal error: {type(error).__name__}: {_one_line(str(error))}"
        return self._say("error", text if self.debug else f"{text}; rerun with --debug", 4, {"error": text})

    def failure(self, text: str, code: int) -> int:
        return self._say("error", text, code, {"error": text})

    def _say(self, kind: str, text: str, code: int, document: dict[str, Any]) -> int:
        if self.debug:
            import traceback

            traceback.print_exc()
        with contextlib.suppress(OSError):
            click.echo(f"onnxmorph: {kind}: {text}", err=True)
            if self.as_json:
                click.echo(json.dumps({"schema": 1, **document}))
        return code


def _one_line(text: str) -> str:
    from onnxmorph.visible import visible

    return visible(" ".join(text.split())) or "no reason given"


def _system_words(error: OSError) -> str:
    reason = error.strerror or _one_line(str(error))
    return f"{error.filename}: {reason}" if error.filename is not None else reason
