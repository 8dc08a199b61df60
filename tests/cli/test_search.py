"""The verb search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("optuna")

from tests.cli.conftest import SAMPLES, Run


def test_a_search_leaves_candidates_and_a_leaderboard_and_goes_on(run: Run, folder: Path) -> None:
    image = np.load(SAMPLES / "digits_test.npz")["image"][:80]
    np.savez(folder / "digits.npz", x=image, y=np.load(SAMPLES / "digits_labels.npz")["label"][:80])
    words = ("search", "digits_mlp.onnx", "--data", "digits.npz", "--epochs", "1", "--device", "cpu")
    assert run(*words).code == 2
    ended = run(*words, "--trials", "2", "--max-parameters", "40000", "-o", "found", "--json")
    assert (ended.code, ended.err) == (0, ""), ended.err
    assert len(ended.document["candidates"]) == 2
    assert (folder / "found" / "best.onnx").exists() and (folder / "found" / "leaderboard.md").exists()
    more = run(*words, "--trials", "3", "--max-parameters", "40000", "-o", "found")
    assert more.code == 0 and "the model that was given" in more.out and "all of them: found/leaderboard.md" in more.out
    other = run(*words, "--trials", "3", "-o", "found")
    assert other.code == 3 and "another search" in other.err
