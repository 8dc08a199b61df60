"""Which epoch's weights a training gives back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxmorph as om

torch = pytest.importorskip("torch")

MODEL = Path(__file__).resolve().parents[2] / "models" / "digits_mlp.onnx"


def test_the_last_weights_are_those_of_a_training_without_validation_and_the_best_are_those_of_its_best_epoch() -> None:
    random = np.random.default_rng(0)
    x = random.random((64, 1, 8, 8), dtype=np.float32)
    known = om.train.module(MODEL, mode="eval")(torch.from_numpy(x)).argmax(1).numpy()
    y = (known + 1) % 10
    against = (x, known)  # what is learned makes this worse from epoch to epoch
    runs = {
        keep: om.train.fit(MODEL, (x, y), epochs=3, rate=1e-2, validation=against, keep=keep)
        for keep in ("best", "last")
    }
    plain = om.train.fit(MODEL, (x, y), epochs=3, rate=1e-2)
    assert (runs["best"].best, runs["last"].best) == (1, 3)

    def weights(fitted: om.train.Fitted) -> np.ndarray:
        return fitted.model.graph.initializers["fc1.weight"].const_value.numpy()

    assert np.array_equal(weights(runs["last"]), weights(plain))
    assert not np.array_equal(weights(runs["best"]), weights(plain))


def test_another_word_for_what_to_keep_is_refused() -> None:
    with pytest.raises(om.SelectionError, match="best and last"):
        om.train.fit(MODEL, (np.zeros((4, 1, 8, 8), np.float32), np.zeros(4, np.int64)), keep="first")  # type: ignore[arg-type]
