"""Moments of an optimizer follow a morph as its index maps say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import onnxmorph as om  # noqa: E402
from onnxmorph import train  # noqa: E402
from onnxmorph.model import index_maps  # noqa: E402
from tests.grow.graphs import SAMPLES  # noqa: E402


@pytest.fixture(scope="module")
def trained() -> Any:
    x = np.load(SAMPLES / "digits_test.npz")["image"][:64]
    y = np.load(SAMPLES / "digits_labels.npz")["label"][:64]
    return train.fit(om.load(SAMPLES / "digits_cnn.onnx"), (x, y), epochs=1), (x, y)


@pytest.mark.parametrize("fill", ["zero", "mean"])
def test_moments_go_where_the_entries_of_weights_went(trained: Any, fill: Any) -> None:
    fitted, _ = trained
    child = om.plan_widen(fitted.model, "conv1", to=24).apply(fitted.model).model
    moved = train.transfer_optimizer(fitted.optimizer, child, parent=fitted.model, fill=fill)
    (maps,) = index_maps(child)
    for name, entry in maps["tensors"].items():
        before = fitted.optimizer[entry["parent"]]
        for key in ("exp_avg", "exp_avg_sq"):
            expected = before[key].numpy()
            fresh = np.zeros(expected.shape, dtype=bool)
            for axis, one in entry["axes"].items():
                sources = np.asarray(one["sources"])
                expected = expected.take(sources.clip(0), int(axis))
                fresh = fresh.take(sources.clip(0), int(axis))
                shape = [-1 if place == int(axis) else 1 for place in range(expected.ndim)]
                fresh = fresh | (sources < 0).reshape(shape)
            found = moved[name][key].numpy()
            np.testing.assert_array_equal(found[~fresh], expected[~fresh])
            value = float(before[key].mean()) if fill == "mean" and key == "exp_avg_sq" else 0.0
            np.testing.assert_allclose(found[fresh], value, rtol=1e-5)
    untouched = set(fitted.optimizer) - set(maps["tensors"])
    assert untouched and all(moved[name] is not None for name in untouched)


def test_a_child_goes_on_training_with_them(trained: Any) -> None:
    fitted, data = trained
    child = om.plan_widen(fitted.model, "conv1", by=2).apply(fitted.model).model
    state = train.transfer_optimizer(fitted.optimizer, child, parent=fitted.model)
    settings: Any = {"steps": 3, "schedule": "constant", "warmup": 0}
    with_state = train.fit(child, data, optimizer_state=state, **settings)
    without = train.fit(child, data, **settings)
    assert with_state.history[-1].loss != without.history[-1].loss
    with pytest.raises(om.Refusal, match="transfer_optimizer"):
        train.fit(child, data, optimizer_state=fitted.optimizer, **settings)


def test_new_tensors_start_anew_or_with_the_mean(trained: Any) -> None:
    fitted, _ = trained
    child = om.plan_deepen(fitted.model, "conv2", method="mirror").apply(fitted.model).model
    names = set(child.graph.initializers) - set(fitted.model.graph.initializers)
    assert not names & set(train.transfer_optimizer(fitted.optimizer, child))
    filled = train.transfer_optimizer(fitted.optimizer, child, fill="mean")
    assert names & set(filled)
    for name in names & set(filled):
        assert float(filled[name]["exp_avg_sq"].min()) > 0 and not filled[name]["exp_avg"].any()
