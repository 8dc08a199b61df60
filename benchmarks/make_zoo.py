#!/usr/bin/env python3
"""Write the generated models of tests/zoo_graphs.py to files, for the command line and for other tools.

    python benchmarks/make_zoo.py --out build/zoo                       # all of them
    python benchmarks/make_zoo.py --out build/zoo --only 'linear/c*'    # by glob, repeatable
    python benchmarks/make_zoo.py --list                                # names, layers, what cannot run on a CPU

A model called `linear/conv_same_upper` goes to OUT/linear/conv_same_upper.onnx; OUT/external holds one whose weights
lie in one file beside it, and one with a file for every weight.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.zoo_graphs import Case, save_external, select


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the generated zoo to files.")
    parser.add_argument("--out", type=Path, default=Path("build/zoo"), help="folder, default build/zoo")
    parser.add_argument("--only", action="append", default=[], metavar="GLOB", help="names of models; repeatable")
    parser.add_argument("--list", action="store_true", help="show what there is, and write nothing")
    options = parser.parse_args(arguments)
    found: dict[str, Case] = {case.name: case for glob in options.only or ["*"] for case in select(glob)}
    if not found:
        parser.error(f"no model is called {', '.join(options.only)}; --list shows what there is")
    for name, case in found.items():
        if options.list:
            print(f"{name:52}{case.layers:3} layers  {case.unrunnable}".rstrip())
            continue
        path = options.out / f"{name}.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save_model(case.build(), path)
    if not options.list:
        print(f"{len(found)} models in {options.out}")
        if not options.only:
            for one_file in (True, False):
                save_external(options.out / "external" / ("one_file" if one_file else "many_files"), one_file=one_file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
