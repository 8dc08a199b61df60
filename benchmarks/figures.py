#!/usr/bin/env python3
"""Runs the benchmarks whose figures the docs quote, and writes what they printed to docs/figures.md, word for word.

    python benchmarks/figures.py                    # all of them: half an hour on two quiet cores
    python benchmarks/figures.py --only solver      # this one anew, the others stay as they are on the page
    python benchmarks/figures.py --list

A figure on that page is what its command printed on the day and machine named beside it. The machine should have
nothing else to do: the load it had at the start is written down too.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "figures.md"


@dataclass(frozen=True)
class Figure:
    """One section of the page: what it shows, and the benchmark that prints it."""

    key: str
    title: str
    command: tuple[str, ...]


FIGURES = (
    Figure("startup", "Start-up of the command line", ("startup.py",)),
    Figure("inspect", "Reading a graph of 20,000 nodes", ("inspect_graph.py",)),
    Figure("axes", "Coupled axes of networks of 5,000 nodes", ("axes.py",)),
    Figure("solver", "The morphism solver against a dense least-squares solver", ("solver.py",)),
    Figure("factors", "What new factors look like", ("factors.py",)),
    Figure("files", "Growing one layer of a 500 MB model", ("files.py", "--deepen", "--runs", "5")),
    Figure("vgg16", "VGG16 to VGG16 (NetMorph), verified", ("vgg16.py",)),
    Figure("providers", "The zoo's children on every provider there is", ("providers.py",)),
    Figure("mutations", "Faults seeded in the source, and whether the tests see them", ("mutations.py",)),
)


def shown(figure: Figure) -> str:
    return " ".join(("python", f"benchmarks/{figure.command[0]}", *figure.command[1:]))


def section(figure: Figure) -> str:
    """Runs the benchmark and gives its section.

    Raises:
        SystemExit: The benchmark failed: the page is not for what was not shown.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    began = time.perf_counter()
    command = [sys.executable, str(ROOT / "benchmarks" / figure.command[0]), *figure.command[1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{shown(figure)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    seconds = time.perf_counter() - began
    onnxruntime = next(
        (
            f"{name} {importlib.metadata.version(name)}"
            for name in ("onnxruntime-gpu", "onnxruntime")
            if name in {each.metadata["Name"] for each in importlib.metadata.distributions()}
        ),
        "no ONNX Runtime",
    )
    where = (
        f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}, {os.cpu_count()} cores ({platform.machine()}), load "
        f"{load:.1f} at the start, Python {platform.python_version()}, {onnxruntime}; {seconds:.0f} s"
    )
    body = done.stdout.strip()
    table = body if body.startswith("|") else f"```text\n{body}\n```"
    return f"## {figure.title}\n\n`{shown(figure)}` ({where}):\n\n{table}\n"


def sections_of(page: str) -> dict[str, str]:
    """Sections of the page by title."""
    parts = re.split(r"(?m)^(?=## )", page)
    return {part.splitlines()[0][3:]: part.rstrip() + "\n" for part in parts if part.startswith("## ")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=[figure.key for figure in FIGURES], help="repeatable")
    parser.add_argument("--list", action="store_true", help="print the commands and stop")
    options = parser.parse_args()
    if options.list:
        for figure in FIGURES:
            print(f"{figure.key:10} {shown(figure)}")
        return 0
    kept = sections_of(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
    for figure in FIGURES:
        if options.only and figure.key not in options.only:
            continue
        print(f"{figure.key}: {shown(figure)}", file=sys.stderr, flush=True)
        kept[figure.title] = section(figure)
        head = "# Figures\n\nWhat the commands in `benchmarks/` printed, by `python benchmarks/figures.py`.\n"
        order = [each.title for each in FIGURES if each.title in kept]
        PAGE.write_text("\n".join([head, *(kept[title] for title in order)]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
