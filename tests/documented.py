"""Examples in Markdown pages: read, run as they stand, and compared with what the page says they print.

An example is a fenced block marked ``console``: lines that begin with ``$ `` are commands, the lines up to the next one
are what the command prints (stdout and stderr together). A last line ``[exit code N]`` says how it ends, if not with 0.
Blocks marked ``python`` are programs that must run. All examples of a page run in one folder, in order, with the
project's ``models/`` in it. Numbers that are measured rather than counted (written with a point or an exponent) may
differ from machine to machine, and so may the width of table columns and the provider that ran.

``python -m tests.documented PAGE...`` writes the outputs anew.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Example", "examples", "same_words", "sandbox"]

ROOT = Path(__file__).resolve().parents[1]

_FENCE = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """One command or program of a page.

    Attributes:
        line: Where it stands in the page, from 1.
        language: ``console`` or ``python``.
        source: The command, or the program.
        printed: What the page says it prints; empty for programs.
    """

    line: int
    language: str
    source: str
    printed: str = ""

    def run(self, folder: Path) -> str:
        """Runs it in ``folder`` and gives what it printed, with its exit code where that is not 0."""
        # The commands of the very Python that runs the tests, without an activated environment.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        found_in = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PATH": path, "COLUMNS": "80", "PYTHONPATH": found_in}
        command = ["bash", "-c", self.source] if self.language == "console" else [sys.executable, "-c", self.source]
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        ended = "" if done.returncode == 0 else f"[exit code {done.returncode}]\n"
        return done.stdout + ended


def examples(page: Path) -> list[Example]:
    """The examples of a page, in order."""
    return list(_examples(page.read_text(encoding="utf-8")))


def _examples(text: str) -> Iterator[Example]:
    for block in _FENCE.finditer(text):
        first = text[: block.start(2)].count("\n") + 1
        if block[1] == "python":
            yield Example(first, "python", block[2])
            continue
        lines = block[2].splitlines()
        starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            printed = "".join(f"{line}\n" for line in lines[start + 1 : end])
            yield Example(first + start, "console", lines[start].removeprefix("$ "), printed)


def sandbox(folder: Path) -> Path:
    """Makes ``folder`` look like the project to a command that reads models and writes beside them."""
    (folder / "models").mkdir(parents=True)
    for file in (ROOT / "models").iterdir():
        if file.suffix in (".onnx", ".npz"):
            shutil.copy(file, folder / "models")
    return folder


def same_words(said: str, expected: str) -> bool:
    """Whether two outputs agree in all but what is measured, spacing and provider."""
    return _words(said) == _words(expected)


def _words(text: str) -> list[str]:
    text = re.sub(r"\bon CUDA\b", "on CPU", text)
    # How many inputs fit into the time, and which planted faults stand out of the noise, the machine decides.
    text = re.sub(r"^(warning:|a planted fault of) .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\b\d+ sets of inputs", "0 sets of inputs", text)
    text = re.sub(r"\bworst at '[^']*'", "worst at a value", text)
    return re.sub(r"-?\b\d+(\.\d+(e[+-]?\d+)?|e[+-]?\d+)|\binf\b", "0.0", text).split()


def main(pages: list[str]) -> None:
    """Runs every example of the pages and writes what it printed into them."""
    for name in pages:
        page = Path(name)
        text = page.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as scratch:
            folder = sandbox(Path(scratch) / "project")
            printed = {example.line: example.run(folder) for example in examples(page)}

        def renewed(block: re.Match[str], text: str = text, printed: dict[int, str] = printed) -> str:
            first = text[: block.start(2)].count("\n") + 1
            if block[1] == "python":
                return block[0]
            lines = block[2].splitlines()
            body = "".join(
                f"{line}\n{printed[first + number]}" for number, line in enumerate(lines) if line.startswith("$ ")
            )
            return f"```console\n{body}```"

        page.write_text(_FENCE.sub(renewed, text), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
