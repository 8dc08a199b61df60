"""The search: distances of candidates, what is proposed, and a search that can be killed anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("optuna")

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.errors import ModelError, NotEquivalent, Refusal, SelectionError
from onnxmorph.grow.searching import Budget, Descriptor, Move, Recipe, describe, distance, grow, moves, running, search
from onnxmorph.grow.searching.distance import embedding
from onnxmorph.grow.searching.process import Process
from onnxmorph.grow.searching.sampling import EditSampler, Known
from onnxmorph.records import records
from onnxmorph.verify import verify
from tests.grow.graphs import SAMPLES

Array = np.ndarray[Any, Any]


def _sample(name: str = "digits_mlp") -> ir.Model:
    return files.load(SAMPLES / f"{name}.onnx")


def _digits(count: int, skip: int = 0) -> tuple[Array, Array]:
    image = np.load(SAMPLES / "digits_test.npz")["image"][skip : skip + count]
    return image, np.load(SAMPLES / "digits_labels.npz")["label"][skip : skip + count]


_LAYERS = st.tuples(st.sampled_from(["Conv", "Gemm"]), st.sampled_from([(), (3, 3)]), st.integers(1, 64))
_SKIPS = st.tuples(st.integers(0, 4), st.integers(5, 9), st.sampled_from(["add", "concat"]))
_DESCRIPTORS = st.builds(
    Descriptor, st.lists(_LAYERS, max_size=5).map(tuple), st.lists(_SKIPS, max_size=3).map(sorted).map(tuple)
)


@given(_DESCRIPTORS, _DESCRIPTORS, _DESCRIPTORS)
def test_the_distance_is_zero_for_the_same_symmetric_and_bounded(
    one: Descriptor, other: Descriptor, third: Descriptor
) -> None:
    assert distance(one, one) == 0
    assert distance(one, other) == pytest.approx(distance(other, one))
    assert (distance(one, other) == 0) == (one == other)
    assert distance(one, third, 0) <= distance(one, other, 0) + distance(other, third, 0) + 1e-9
    assert distance(one, other) <= sum(len(each.layers) + len(each.skips) for each in (one, other))
    assert Descriptor.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_distances_of_the_moves_are_those_of_the_paper() -> None:
    base = Descriptor((("Conv", (3, 3), 16), ("Conv", (3, 3), 32)))
    wider = Descriptor((("Conv", (3, 3), 32), ("Conv", (3, 3), 32)))
    deeper = Descriptor((("Conv", (3, 3), 16), ("Conv", (3, 3), 16), ("Conv", (3, 3), 32)))
    assert distance(base, wider) == 0.5
    assert distance(base, deeper) == 1.0
    skipping = [Descriptor(base.layers, ((first, last, "add"),)) for first, last in ((0, 1), (1, 3))]
    assert distance(base, skipping[0]) == 1.0
    assert distance(*skipping) == pytest.approx((1 + 1) / (1 + 2))
    assert distance(*skipping, weight=0.5) == pytest.approx(1 / 3)
    crossed = [Descriptor((), ((0, 2, one), (3, 5, other))) for one, other in (("add", "concat"), ("concat", "add"))]
    assert distance(*crossed) == pytest.approx(2 * (3 + 0) / (3 + 2))


@settings(max_examples=20)
@given(st.lists(_DESCRIPTORS, min_size=2, max_size=8, unique=True))
def test_the_embedding_gives_a_kernel_and_what_is_known_is_predicted(found: list[Descriptor]) -> None:
    apart = np.array([[distance(one, other) for other in found] for one in found])
    points = embedding(apart)
    kernel = np.exp(-((points[:, None] - points[None]) ** 2).sum(-1))
    assert np.linalg.eigvalsh(kernel).min() > -1e-9
    values = np.arange(len(found), dtype=float)
    mean, deviation = Process(found, values.tolist()).predict([*found, Descriptor((("Other", (), 1),) * 12)])
    assert np.isfinite(mean).all() and (deviation[:-1] <= 1).all() and deviation[-1] <= 1
    if len({tuple(point) for point in points.round(3)}) == len(found) and apart[apart > 0].min() > 0.9:
        assert np.argmin(mean[:-1]) == 0


def test_little_is_known_of_what_is_far() -> None:
    known = [Descriptor((("Gemm", (), width),) * 3) for width in (10, 12, 14)]
    far = Descriptor((("Gemm", (), 10),) * 9)
    process = Process(known, [3.0, 2.0, 1.0])
    mean, deviation = process.predict([known[2], far])
    assert deviation[1] > 3 * deviation[0]
    assert process.lower_bounds([far])[0] == pytest.approx(mean[1] - 2.5 * deviation[1], rel=0.2)


@pytest.mark.parametrize("name", ["digits_mlp", "digits_cnn", "digits_mobile"])
def test_moves_keep_what_a_model_computes(name: str) -> None:
    parent = _sample(name)
    rng = np.random.default_rng(0)
    for kind, some in moves(parent).items():
        done = 0
        for place in rng.permutation(len(some)):
            try:
                child = grow(parent, [some[place]]).model
            except Refusal:
                continue
            assert verify(parent, child, provider="cpu", inner=False, faults=False).equivalent
            assert describe(child) != describe(parent)
            done += 1
            break
        assert done or kind.startswith("skip")
    assert all(Move(*move.to_json()) == move for some in moves(parent).values() for move in some)


_FEW: dict[str, Any] = {"epochs": 2, "batch_size": 25, "device": "cpu", "validation": _digits(40, 100)}


def _lineage(folder: Path, number: int) -> dict[str, Any]:
    model = files.load(folder / "candidates" / f"{number:04d}.onnx")
    found: dict[str, Any] = json.loads(model.metadata_props[running.SEARCH_KEY])
    return found


@pytest.mark.parametrize("sampler", ["edit", "tpe", "random"])
def test_candidates_grow_from_candidates_within_the_budget(sampler: Any, tmp_path: Path) -> None:
    parent = _sample()
    found = search(
        parent, _digits(100), tmp_path, trials=5, sampler=sampler, budget=Budget(parameters=30_000), prune=False, **_FEW
    )
    assert [one.value for one in found.candidates] == sorted(one.value for one in found.candidates)
    assert {one.number for one in found.candidates} == set(range(5)) and found.best == found.candidates[0]
    descriptors = [json.dumps(one.descriptor) for one in found.candidates]
    assert len(set(descriptors)) == len(descriptors)
    for one in found.candidates:
        model = files.load(tmp_path / one.file)
        assert one.parameters <= 30_000 and one.latency > 0 and one.epochs == 2
        assert (one.parent is None) == (one.number == 0) and bool(one.moves) == (one.number > 0)
        assert _lineage(tmp_path, one.number)["parent"] == one.parent
        if one.parent is not None:
            before = records(files.load(tmp_path / "candidates" / f"{one.parent:04d}.onnx"))
            assert records(model)[: len(before)] == before and len(records(model)) - len(before) == len(one.moves)
    board = json.loads((tmp_path / "leaderboard.json").read_text())
    assert [one["number"] for one in board["candidates"]] == [one.number for one in found.candidates]
    assert "the model that was given" in (tmp_path / "leaderboard.md").read_text()
    assert (tmp_path / "best.onnx").read_bytes() == (tmp_path / found.best.file).read_bytes()
    assert not list(tmp_path.glob("*.checkpoint")) and not list(tmp_path.glob(".*"))


def test_a_search_that_was_killed_goes_on_with_the_same_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, start = _digits(50), _sample("digits_cnn")
    how: dict[str, Any] = {**_FEW, "epochs": 1, "seed": 1, "prune": False, "most_moves": 3}
    whole = search(start, data, tmp_path / "whole", trials=3, **how)
    original, calls = running.fit, 0

    def killed(model: Any, given: Any, **how: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != 3:
            return original(model, given, **how)
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "fit", killed)
    place = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        search(start, data, place, trials=3, **how)
    assert len(list((place / "candidates").glob("*.onnx"))) == 2
    resumed = search(start, data, place, trials=3, **how)
    assert len(resumed.candidates) == 3
    third = next(one for one in resumed.candidates if one.number == 3)
    assert third.moves == next(one for one in whole.candidates if one.number == 2).moves
    assert third.value == next(one for one in whole.candidates if one.number == 2).value
    more = search(start, data, place, trials=4, **how)
    assert len(more.candidates) == 4


def test_what_was_tried_is_not_proposed_again() -> None:
    parent = _sample()
    base, rng = describe(parent), np.random.default_rng
    known = [Known(0, 1.0, base, lambda: parent)]
    tried: set[Descriptor] = set()
    for _ in range(4):
        sampler = EditSampler(lambda: known, lambda: frozenset(tried), lambda _: True, most_moves=1)
        proposal = sampler.propose(known, rng(0))
        assert proposal is not None and proposal.descriptor not in tried | {base}
        assert describe(grow(parent, proposal.recipe.moves).model) == proposal.descriptor
        tried.add(proposal.descriptor)


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    data = _digits(60)
    search(_sample(), data, tmp_path, trials=1, **_FEW)
    for model, other in (
        (_sample(), {"epochs": 1}),
        (_sample("digits_cnn"), {}),
        (_sample(), {"objective": "accuracy"}),
    ):
        with pytest.raises(Refusal) as refusal:
            search(model, data, tmp_path, trials=1, **{**_FEW, **other})
        assert refusal.value.code == "other-search"
    with pytest.raises(SelectionError, match="trials"):
        search(_sample(), data, tmp_path, **_FEW)
    with pytest.raises(SelectionError, match="edit, tpe and random"):
        search(_sample(), data, tmp_path, trials=1, sampler="grid", **_FEW)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="damaged"):
        Recipe.from_json({"parent": 0})
    (tmp_path / "journal.log").write_text("no journal\n{}\n")
    with pytest.raises(ModelError, match="journal"):
        search(_sample(), data, tmp_path, trials=1, **_FEW)


def test_where_nothing_is_left_to_try_it_ends(tmp_path: Path) -> None:
    found = search(_sample(), _digits(60), tmp_path, trials=9, budget=Budget(parameters=8_000), **_FEW)
    assert 1 <= len(found.candidates) < 9


def test_a_wrong_candidate_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: ir.Model, _move: Move, *, seed: int) -> tuple[ir.Model, str]:
        from onnxmorph.grow.evolution import fresh

        grown = grow(model, [next(iter(moves(model)["widen"]))], seed=seed).model
        return fresh(grown, 9), "wrong"

    monkeypatch.setattr("onnxmorph.grow.searching.sampling.try_move", wrong)
    with pytest.raises(NotEquivalent, match="wrong"):
        search(_sample(), _digits(60), tmp_path, trials=2, **_FEW)


def test_bad_candidates_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = {**_FEW, "epochs": 4}
    search(_sample(), _digits(60), tmp_path, trials=4, seed=2, **how)
    original = running.fit

    def poor(model: Any, given: Any, **settings_: Any) -> Any:
        return original(model, given, **{**settings_, "rate": 0.5})

    monkeypatch.setattr(running, "fit", poor)
    found = search(_sample(), _digits(60), tmp_path, trials=5, seed=2, **how)
    last = next(one for one in found.candidates if one.number == 4)
    assert last.given_up and last.epochs < 4 and found.candidates[-1] == last


def test_candidates_may_be_trained_from_fresh_weights(tmp_path: Path) -> None:
    found = search(_sample(), _digits(100), tmp_path, trials=2, inherit=False, objective="accuracy", **_FEW)
    assert all(one.accuracy is not None and one.accuracy < 0.9 for one in found.candidates)
    assert found.best.value == pytest.approx(1 - (found.best.accuracy or 0))
