"""Memory of a verification: a small part of the weights, which stay in their files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.documented import ROOT

PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, "benchmarks")
import verify as benchmark
benchmark.print_memory(Path(sys.argv[1]), 0.6)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell anonymous memory")
def test_a_model_of_600_megabytes_takes_less_than_half_of_that(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    last = done.stdout.strip().splitlines()[-1]
    assert done.stdout.startswith("equivalent"), done.stdout
    # What is measured holds two copies of the weights that changed (67 MB each) and of those near the change, moved.
    assert float(last.split("above the start ")[1].split(" MB")[0]) < 450, last
