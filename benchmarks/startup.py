"""How long ``onnxmorph --help`` takes as a whole process, beside what Python with click alone takes.

    python benchmarks/startup.py

Runs are taken in turns, so that a busy machine slows all of them alike, with byte code at hand as it is after an
installation; printed are medians and the ratio.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from installed import environment


def seconds(command: list[str], compiled: dict[str, str]) -> float:
    """Wall time of one run of a command that has to succeed."""
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=compiled)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=21)
    runs = parser.parse_args().runs
    program = shutil.which("onnxmorph", path=str(Path(sys.executable).parent)) or shutil.which("onnxmorph")
    if program is None:
        parser.error("onnxmorph is not installed for this Python: pip install -e .")
    commands = {
        "python, import click": [sys.executable, "-c", "import click"],
        "onnxmorph --help": [program, "--help"],
        "onnxmorph deepen --help": [program, "deepen", "--help"],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as bytecode:
        compiled = environment(Path(bytecode))
        for command in commands.values():
            seconds(command, compiled)  # byte code and disk cache
        for _ in range(runs):
            for name, command in commands.items():
                taken[name].append(seconds(command, compiled))
    base = statistics.median(taken["python, import click"])
    for name, times in taken.items():
        median = statistics.median(times)
        print(f"{name:24} {median * 1000:6.0f} ms  {median / base:4.1f}x")


if __name__ == "__main__":
    main()
