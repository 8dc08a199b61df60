"""Seeded faults in the solver: for each of them the other tests of this folder must go red."""

# ruff: noqa: E501  (faults are quoted as they stand in the code)

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# (what is wrong, file, the line's text, what it becomes)
FAULTS = [
    ("tap order of the composition", "kernels.py", "part = whole[window(tap, taps1)]", "part = whole[window(tap[::-1], taps1)]"),
    ("embedding off by one", "kernels.py", "places.append((outer - inner) // 2)", "places.append((outer - inner) // 2 + (outer > inner))"),
    ("sign of the bias", "kernels.py", "bias.astype(np.float64) - shift)", "bias.astype(np.float64) + shift)"),
    ("identity on the wrong tap", "kernels.py", "tuple((size - 1) // 2 for size in kernel)", "tuple(size // 2 for size in kernel)"),
    ("rim taps read the null channels", "structured.py", "basis = mix.rows(first_rim, width)", "basis = mix.rows(first_rim - 1, width)"),
    ("mix not corrected to what was rounded", "structured.py", "rounded.astype(np.float64) / weight", "exact * weight / weight"),
    ("row scale forgotten in the inverse", "structured.py", "inverse_scale = 1.0 / (row_scale * scales.scale)", "inverse_scale = np.full_like(row_scale, 1.0 / scales.scale)"),
    ("null space at the wrong scale", "structured.py", "filler = scales.filler / math.sqrt(inner * many_solved)", "filler = 30 * scales.filler / math.sqrt(inner * many_solved)"),
    ("tap of the tiling off by one", "tilings.py", "pairs.append((start, offset + tap - start))", "pairs.append((start, max(0, offset + tap - start - (tap > 0))))"),
    ("factors transposed when the first is fixed", "solve.py", "first, second = solution.fixed.swapaxes(1, 2), solution.solved.swapaxes(1, 2)", "first, second = solution.fixed.swapaxes(1, 2), solution.solved.swapaxes(1, 2)[:, ::-1]"),
    ("least-squares system with flipped taps", "alternating.py", "matrix[(slice(None), slice(None), *window, slice(None), *u)]", "matrix[(slice(None), slice(None), *window, slice(None), *u[::-1])]"),
    ("row scale of the parent not given back", "alternating.py", "f2 = f2 * row_scale.reshape(groups, outputs", "f2 = f2 * np.ones_like(row_scale).reshape(groups, outputs"),
    ("mirror partner with the same sign", "mirror.py", "np.concatenate([split, -split], axis=1)", "np.concatenate([split, split], axis=1)"),
    ("mirror columns out of order", "mirror.py", "both = np.concatenate([split, -split], axis=2)", "both = np.concatenate([-split, split], axis=2)"),
    ("slope forgotten", "mirror.py", "kernel if slope == 1 else kernel.astype(np.float64) / slope", "kernel"),
    ("gate always open", "factorization.py", "return before <= solved and", "return True or before <= solved and"),
    ("residual of the wrong offset", "factorization.py", "whole[window(offset, taps)] -= target", "whole[window([0 for _ in offset], taps)] -= target"),
    ("null channels read by the core", "sequence.py", "layer[:, :core_out, begin:] += noise * std", "layer[:, :core_out, core_in : core_in + rim] += noise * std"),
    ("noise that does not sum to zero", "paths.py", "np.where(many == 1, owed, share)", "np.where(many == 1, share, share)"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("file", "old", "new"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_a_fault_turns_the_tests_red(tmp_path: Path, file: str, old: str, new: str) -> None:
    shutil.copytree(ROOT / "onnxmorph", tmp_path / "onnxmorph", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").touch()
    shutil.copytree(ROOT / "tests" / "equation", tmp_path / "tests" / "equation")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    target = tmp_path / "onnxmorph" / "equation" / file
    text = target.read_text(encoding="utf-8")
    assert text.count(old) >= 1, "the fault no longer matches the code"
    target.write_text(text.replace(old, new), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "tests/equation"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 1, run.stdout[-2000:]
    assert "FAILED" in run.stdout
