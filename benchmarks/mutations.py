"""Seeded faults in the solver and in the graph edits: the tests must go red for each.

    python benchmarks/mutations.py            # all; exit code 1 when a fault survives
    python benchmarks/mutations.py --only sign

The package and its tests are copied to a temporary folder; there one line at a time is broken and the tests that should
see it are run. A fault that no test sees, or a line that is no longer there, fails the check.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Fault:
    """One line broken: the ``old`` text, which must be in ``file`` once at least, becomes ``new``."""

    name: str
    file: str
    old: str
    new: str
    tests: str


DEEPEN, WIDEN, KERNEL = "tests/morphs/test_deepen.py", "tests/morphs/test_widen.py", "tests/morphs/test_kernel.py"
SUBNET, SKIP, EQUATION = "tests/morphs/test_subnet.py", "tests/morphs/test_skip.py", "tests/equation"

FAULTS = (
    Fault(
        "solver: mirror sign",
        "onnxmorph/equation/mirror.py",
        "[split, -split], axis=1",
        "[split, split], axis=1",
        EQUATION,
    ),
    Fault(
        "solver: mirror slope",
        "onnxmorph/equation/mirror.py",
        "kernel.astype(np.float64) / slope",
        "kernel.astype(np.float64)",
        EQUATION,
    ),
    Fault(
        "solver: tap order",
        "onnxmorph/equation/kernels.py",
        "part = whole[window(tap, taps1)]",
        "part = whole[window(tuple(k - 1 - t for k, t in zip(taps2, tap)), taps1)]",
        EQUATION,
    ),
    Fault(
        "solver: identity off centre",
        "onnxmorph/equation/kernels.py",
        "tuple((size - 1) // 2 for size in kernel) if tap is None",
        "tuple(size // 2 for size in kernel) if tap is None",
        "tests/equation " + DEEPEN,
    ),
    Fault(
        "solver: growth off centre",
        "onnxmorph/equation/kernels.py",
        "places.append((outer - inner) // 2)",
        "places.append(outer - inner)",
        EQUATION,
    ),
    Fault(
        "edit: pad on the wrong side",
        "onnxmorph/morphs/sequence.py",
        "begin.append(pads[0][axis] + dilation * before)",
        "begin.append(pads[0][axis] + dilation * after)",
        DEEPEN,
    ),
    Fault(
        "edit: stride on the first factor",
        "onnxmorph/morphs/sequence.py",
        "strided = 0 if transposed else max(spanning, default=0)",
        "strided = 0",
        DEEPEN,
    ),
    Fault(
        "edit: dilation lost",
        "onnxmorph/morphs/sequence.py",
        '"dilations": list(layer.dilations)}',
        '"dilations": [1] * axes}',
        DEEPEN,
    ),
    Fault(
        "edit: bias dropped",
        "onnxmorph/morphs/sequence.py",
        "bias = node.inputs[2] if len(node.inputs) > 2 else None",
        "bias = None",
        DEEPEN,
    ),
    Fault(
        "edit: transA lost",
        "onnxmorph/morphs/sequence.py",
        'attributes["transA"] = node.attributes["transA"]',
        "pass",
        DEEPEN,
    ),
    Fault(
        "edit: beta lost",
        "onnxmorph/morphs/sequence.py",
        'attributes["beta"] = node.attributes["beta"]',
        "pass",
        DEEPEN,
    ),
    Fault(
        "edit: groups lost",
        "onnxmorph/morphs/sequence.py",
        '"group": layer.groups}',
        '"group": 1}',
        DEEPEN,
    ),
    Fault(
        "edit: MatMul on the wrong side",
        "onnxmorph/morphs/sequence.py",
        "[weight, x] if left else [x, weight]\n        bias",
        "[x, weight]\n        bias",
        DEEPEN,
    ),
    Fault(
        "edit: identity padded on the wrong side",
        "onnxmorph/morphs/sequence.py",
        "pads=[before for before, _ in border] + [after for _, after in border]",
        "pads=[after for _, after in border] + [before for before, _ in border]",
        DEEPEN,
    ),
    Fault(
        "edit: ConvTranspose border",
        "onnxmorph/morphs/sequence.py",
        'attributes["pads"] = missing',
        "pass",
        DEEPEN,
    ),
    Fault(
        "edit: name kept by the wrong value",
        "onnxmorph/morphs/sequence.py",
        "take_name(build.model, new, old)",
        "pass",
        DEEPEN,
    ),
    Fault(
        "kernel: mis-centred",
        "onnxmorph/morphs/kernel.py",
        "begin = [pad + d * zeros for",
        "begin = [pad + d * (zeros + 1) for",
        KERNEL,
    ),
    Fault(
        "kernel: flipped growth of a ConvTranspose",
        "onnxmorph/morphs/kernel.py",
        "new - old - zeros for new, old, zeros in zip(self.to",
        "zeros for new, old, zeros in zip(self.to",
        KERNEL,
    ),
    Fault(
        "subnet: parts do not sum up",
        "onnxmorph/morphs/subnet.py",
        "keeps_bias=index == 0",
        "keeps_bias=True",
        SUBNET,
    ),
    Fault(
        "skip: gate not zero",
        "onnxmorph/morphs/skip.py",
        'f"{label}.gate", np.zeros(',
        'f"{label}.gate", np.ones(',
        SKIP,
    ),
    Fault(
        "widen: fan-out not zero",
        "onnxmorph/graph/axes/fills.py",
        "fed = edit.fed\n        if not fed.any() or edit.parent.size == 0",
        "fed = edit.new\n        if not fed.any() or edit.parent.size == 0",
        WIDEN,
    ),
    Fault(
        "widen: shares do not add up",
        "onnxmorph/graph/axes/fills.py",
        "weights / totals[np.maximum(index_map.sources, 0)]",
        "weights",
        WIDEN,
    ),
)


def copied(folder: Path) -> Path:
    """The project without what is not needed to test it."""
    for name in ("onnxmorph", "cli", "tests", "models"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "fetched", ".mypy_cache")
        )
    shutil.copy(ROOT / "pyproject.toml", folder)
    # Red is enough: the smallest failing example is of no interest here, and finding it takes minutes.
    (folder / "tests" / "conftest.py").write_text(
        "from hypothesis import Phase, settings\n"
        'settings.register_profile("faults", phases=[Phase.explicit, Phase.generate], deadline=None)\n'
        'settings.load_profile("faults")\n',
        encoding="utf-8",
    )
    return folder


def survives(folder: Path, fault: Fault) -> str | None:
    """Why the check fails for one fault; ``None`` when the tests went red."""
    path = folder / fault.file
    text = path.read_text(encoding="utf-8")
    if fault.old not in text:
        return "the line is no longer there"
    path.write_text(text.replace(fault.old, fault.new, 1), encoding="utf-8")
    try:
        ran = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-x",
                "-p",
                "no:cacheprovider",
                "-m",
                "not slow",
                *fault.tests.split(),
            ],
            cwd=folder,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},  # byte code of the fault before could be taken for it
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
    finally:
        path.write_text(text, encoding="utf-8")
    if ran.returncode == 1:
        return None
    return "the tests stay green" if ran.returncode == 0 else f"pytest ended with {ran.returncode}: {ran.stdout[-300:]}"


def main() -> int:
    """Run the check and print one line a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only faults with this in their name")
    only = parser.parse_args().only
    wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = copied(Path(temporary))
        for fault in (fault for fault in FAULTS if only in fault.name):
            started = time.monotonic()
            problem = survives(folder, fault)
            wrong += problem is not None
            print(
                f"{'red' if problem is None else 'SURVIVES'}  {fault.name}  ({time.monotonic() - started:.0f} s)",
                flush=True,
            )
            if problem is not None:
                print(f"     {problem}")
    print(f"{len(FAULTS)} faults, {wrong} survive" if not only else f"{wrong} survive")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
