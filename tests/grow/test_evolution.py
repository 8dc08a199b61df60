"""Knowledge Evolution: what is kept, what is drawn anew, and the slim net that equals the zeroed network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

pytest.importorskip("torch")

from onnxmorph import model as files
from onnxmorph import train
from onnxmorph._ir import ir
from onnxmorph.delivery import Check
from onnxmorph.errors import ModelError, Refusal, SelectionError
from onnxmorph.grow.evolution import EVOLUTION_KEY, deliver_slim, evolve, find_split, fresh, reset, slim, split_of
from onnxmorph.grow.evolution.slimming import SLIM_KEY
from onnxmorph.grow.evolution.weights import zeroed
from onnxmorph.grow.roles import roles
from onnxmorph.grow.scoring import score
from onnxmorph.grow.sites import sites
from onnxmorph.morphs import plan_widen
from onnxmorph.records import certificate_of, content_hash, records
from tests.grow.graphs import SAMPLES, graph, loaded, tensor

Array = np.ndarray[Any, Any]


def _sample(name: str) -> ir.Model:
    return files.load(SAMPLES / f"{name}.onnx")


def _stored(model: ir.Model) -> dict[str, Array]:
    return {site.key: np.array(site.tensor.numpy()) for site in sites(model).values()}


def _computed(model: ir.Model, folder: Path, **feeds: Array) -> Array:
    path = folder / "run.onnx"
    files.save(model, path, overwrite=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    result: Array = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]
    return result


def _digits(count: int, skip: int = 0) -> tuple[Array, Array]:
    image = np.load(SAMPLES / "digits_test.npz")["image"][skip : skip + count]
    return image, np.load(SAMPLES / "digits_labels.npz")["label"][skip : skip + count]


@pytest.mark.parametrize(
    "name", ["digits_mlp", "digits_cnn", "digits_resnet", "digits_transformer", "digits_mobile", "digits_unet"]
)
def test_the_slim_net_computes_what_the_zeroed_network_computes(name: str, tmp_path: Path) -> None:
    parent = reset(_sample(name), find_split(_sample(name)), 1)
    cut = slim(parent, share=0.5)
    image = np.random.default_rng(0).random((3, 1, 8, 8), dtype=np.float32)
    expected = _computed(cut.zeroed, tmp_path, image=image)
    found = _computed(cut.model, tmp_path, image=image)
    assert found.shape == expected.shape
    scale = np.abs(expected).max()
    assert np.abs(found - expected).max() <= 2e-5 * scale
    assert np.abs(_computed(parent, tmp_path, image=image) - expected).max() > 1e-3 * scale
    small, large = (sum(array.size for array in _stored(one).values()) for one in (cut.model, parent))
    assert small < 0.75 * large


@settings(max_examples=12)
@given(st.floats(0.02, 0.98))
def test_a_prefix_is_kept_rounded_up_and_the_ends_stay_whole(share: float) -> None:
    model = _sample("digits_mlp")
    cut = slim(model, share=share)
    weights, before = _stored(cut.model), _stored(model)
    one, two = math.ceil(share * 64 - 1e-9), math.ceil(share * 48 - 1e-9)
    if one == 64 or two == 48:
        return
    assert np.array_equal(weights["fc1.weight"], before["fc1.weight"][:one])
    assert np.array_equal(weights["fc2.weight"], before["fc2.weight"][:two, :one])
    last = next(name for name in before if before[name].shape == (10, 48))
    assert np.array_equal(weights[last], before[last][:, :two])


def test_a_concatenation_keeps_a_prefix_of_each_segment() -> None:
    model = _sample("digits_unet")
    masks = find_split(model).masks(model)
    columns = masks["dec1.weight"].any(axis=(0, 2, 3))
    half = np.arange(24) < 12
    assert np.array_equal(columns, np.concatenate([half, half]))


def test_what_a_layer_norm_counts_stays_whole_and_heads_are_kept_by_heads() -> None:
    found = find_split(_sample("digits_transformer"))
    assert any("fc2" in name and "LayerNormalization" in why for name, why in found.whole)
    qkv = next(one for one in found.slices if "qkv" in one.layer)
    assert (qkv.size, qkv.kept) == (4, 2)


def test_the_numbers_of_a_model_play_no_part_in_its_split() -> None:
    model = _sample("digits_resnet")
    zero = zeroed(model, find_split(model, share=0.25))
    assert find_split(zero) == find_split(model) == find_split(fresh(model, 3))


def test_weights_in_constant_nodes_are_split_too(tmp_path: Path) -> None:
    weight, last = tensor("w", 6, 8), tensor("v", 8, 3)
    nodes = [
        helper.make_node("Constant", [], ["w"], value=weight),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    model = loaded(graph(nodes, {"x": ["n", 6]}, ["y"], [last]), tmp_path)
    cut = slim(model, share=0.25)
    assert {key: array.shape for key, array in _stored(cut.model).items()} == {"w": (6, 2), "v": (2, 3)}
    x = np.random.default_rng(1).standard_normal((5, 6)).astype(np.float32)
    assert np.allclose(_computed(cut.model, tmp_path, x=x), _computed(cut.zeroed, tmp_path, x=x), atol=1e-6)


def test_a_reset_keeps_the_fit_hypothesis_bit_for_bit_and_draws_the_rest_as_kaiming_does() -> None:
    model = _sample("digits_resnet")
    split = find_split(model)
    masks, before = split.masks(model), _stored(model)
    after, again, other = (_stored(reset(model, split, seed)) for seed in (7, 7, 8))
    kinds = roles(model)
    for key, array in before.items():
        mask = masks.get(key, np.ones(array.shape, dtype=bool))
        assert after[key].tobytes() == again[key].tobytes()
        assert np.array_equal(after[key][mask], array[mask])
        if key not in masks:
            assert kinds[key] != "kernel" or "fc" in key or "head" in key or array.tobytes() == after[key].tobytes()
            continue
        assert kinds[key] in ("kernel", "bias")
        assert not np.array_equal(after[key][~mask], other[key][~mask])
        if kinds[key] == "kernel":
            bound = 1 / math.sqrt(math.prod(array.shape[1:]))
            drawn = np.abs(after[key][~mask])
            assert 0.9 * bound < drawn.max() <= bound * (1 + 1e-6)
    norms = [key for key, kind in kinds.items() if kind.startswith(("norm", "running"))]
    assert norms and not set(norms) & set(masks)


def test_fresh_weights_forget_everything() -> None:
    model = _sample("digits_resnet")
    kinds, now, before = roles(model), _stored(fresh(model, 0)), _stored(model)
    for key, kind in kinds.items():
        if kind == "running_var":
            assert (now[key] == 1).all()
        elif kind == "kernel":
            assert not (now[key] == before[key]).any()
    assert score(fresh(model, 0), _digits(100)).accuracy < 0.5  # type: ignore[operator]
    assert score(model, _digits(100)).accuracy == 1.0


@settings(max_examples=10)
@given(st.floats(0.01, 0.99), st.integers(0, 5))
def test_wels_keeps_its_share_of_every_kernel(share: float, seed: int) -> None:
    model = _sample("digits_mlp")
    split = find_split(model, "wels", share, seed=seed)
    masks = split.masks(model)
    assert {key for key, kind in roles(model).items() if kind == "kernel"} == set(masks)
    for mask in masks.values():
        assert mask.sum() == math.ceil(share * mask.size - 1e-9)


def test_what_cannot_be_split_or_cut_is_refused(tmp_path: Path) -> None:
    model = _sample("digits_mlp")
    with pytest.raises(Refusal, match="scattered") as refusal:
        slim(model, split=find_split(model, "wels"))
    assert refusal.value.code == "wels"
    with pytest.raises(SelectionError, match="--share"):
        slim(model)
    with pytest.raises(SelectionError, match="between 0 and 1"):
        find_split(model, share=1.0)
    with pytest.raises(SelectionError, match="kels and wels"):
        find_split(model, "half")  # type: ignore[arg-type]
    with pytest.raises(Refusal, match="another graph") as refusal:
        slim(model, split=find_split(_sample("digits_cnn")))
    assert refusal.value.code == "other-model"
    linear = graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 4]}, ["y"], [tensor("w", 4, 3)])
    with pytest.raises(Refusal) as refusal:
        find_split(loaded(linear, tmp_path))
    assert refusal.value.code == "nothing-to-split"
    for text in ("no json", "[]", '{"split": "kels", "share": 2, "seed": 0, "slices": [], "generation": 1}'):
        model.metadata_props[EVOLUTION_KEY] = text
        with pytest.raises(ModelError, match="damaged"):
            slim(model)


def test_the_certificate_is_bound_to_the_zeroed_network_and_claims_no_morphism(tmp_path: Path) -> None:
    grown = plan_widen(_sample("digits_mlp"), "fc1", to=72).apply(_sample("digits_mlp")).model
    cut = slim(grown, share=0.5)
    assert records(grown) and not records(cut.model) and '"widen"' in cut.model.metadata_props[SLIM_KEY]
    delivered = deliver_slim(cut, tmp_path / "slim.onnx", check=Check("cpu"), zeroed_path=tmp_path / "zeroed.onnx")
    assert delivered.path == tmp_path / "slim.onnx"
    certificate = certificate_of(files.load(delivered.path))
    assert certificate is not None and certificate["equivalent"] and certificate["morphism"] is False
    assert certificate["parent"] == content_hash(files.load(tmp_path / "zeroed.onnx")) != content_hash(grown)
    wrong = slim(fresh(grown, 1), share=0.5)
    lie = type(cut)(wrong.model, cut.zeroed, cut.split, cut.frontier)
    refused = deliver_slim(lie, tmp_path / "lie.onnx", check=Check("cpu"), zeroed_path=tmp_path / "z.onnx")
    assert refused.path is None and refused.certificate is not None and not refused.certificate.equivalent
    assert sorted(file.name for file in tmp_path.iterdir()) == ["slim.onnx", "zeroed.onnx"]


_FEW: dict[str, Any] = {"epochs": 2, "batch_size": 25, "rate": 3e-3, "device": "cpu"}


def test_generations_go_on_where_they_were_stopped_to_the_same_weights(tmp_path: Path) -> None:
    model, data, held = _sample("digits_mlp"), _digits(100), _digits(60, 100)
    whole = evolve(model, data, generations=3, validation=held, from_scratch=True, seed=1, **_FEW)
    assert [one.number for one in whole.generations] == [1, 2, 3]
    assert all(one.slim_accuracy is not None and one.validation_accuracy is not None for one in whole.generations)
    assert split_of(whole.model) == (type(whole.split)("kels", 0.5, 0, whole.split.slices), 3)

    class Killed(Exception):
        pass

    def kill(_: object) -> None:
        raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            evolve(
                model,
                data,
                generations=3,
                validation=held,
                from_scratch=True,
                seed=1,
                folder=tmp_path,
                told=kill,
                **_FEW,
            )
    assert sorted(file.name for file in tmp_path.glob("*.onnx")) == ["generation-1.onnx", "generation-2.onnx"]
    resumed = evolve(model, data, generations=3, validation=held, from_scratch=True, seed=1, folder=tmp_path, **_FEW)
    assert content_hash(resumed.model) == content_hash(whole.model)
    assert [one.slim_accuracy for one in resumed.generations] == [one.slim_accuracy for one in whole.generations]
    assert not list(tmp_path.glob("*.checkpoint"))
    for other in ({"seed": 2}, {"share": 0.25}, {"epochs": 3}):
        with pytest.raises(Refusal) as refusal:
            evolve(
                model,
                data,
                **{"generations": 1, "validation": held, "from_scratch": True, "seed": 1, **_FEW, **other},  # type: ignore[arg-type]
                folder=tmp_path,
            )
        assert refusal.value.code == "other-evolution"
    (tmp_path / "generation-1.json").write_text("{")
    with pytest.raises(ModelError, match="damaged"):
        evolve(model, data, generations=1, validation=held, from_scratch=True, seed=1, folder=tmp_path, **_FEW)


def test_the_fit_hypothesis_goes_through_a_reset_and_is_then_trained() -> None:
    model, data = _sample("digits_mlp"), _digits(50)
    first = evolve(model, data, generations=1, seed=3, **_FEW)
    split = first.split
    still = evolve(model, data, generations=2, seed=3, **{**_FEW, "rate": 1e-12})
    kept, before = _stored(still.model), _stored(model)
    for key, mask in split.masks(model).items():
        assert np.allclose(kept[key][mask], before[key][mask], atol=1e-6)
        assert not np.allclose(kept[key][~mask], before[key][~mask], atol=1e-3)


def test_validation_may_be_a_share_and_is_not_trained_on() -> None:
    evolved = evolve(_sample("digits_mlp"), _digits(100), generations=1, validation=0.4, split="wels", **_FEW)
    (only,) = evolved.generations
    assert only.validation_accuracy is not None and only.slim_accuracy is None
    assert train.trainings(evolved.model)[0]["steps"] == 2 * math.ceil(60 / 25)
    for share in (0.0, 1.5):
        with pytest.raises(SelectionError):
            evolve(_sample("digits_mlp"), _digits(100), generations=1, validation=share, **_FEW)
    with pytest.raises(SelectionError, match="keep"):
        evolve(_sample("digits_mlp"), _digits(100), keep="best")


def test_a_score_is_what_the_samples_reached() -> None:
    assert score(_sample("digits_cnn"), _digits(360)).accuracy == pytest.approx(358 / 360)
    with pytest.raises(Refusal, match="no targets"):
        score(_sample("digits_cnn"), {"image": _digits(3)[0]})
