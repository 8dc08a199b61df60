"""Inputs reach what the graph does with them: whole tables, both branches, sizes that run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmorph._ir import ir
from onnxmorph.errors import ModelError, RuntimeFailure, SelectionError
from onnxmorph.verify.inputs import Feeds, InputPlan, read_inputs
from onnxmorph.verify.roles import trace_role
from onnxmorph.verify.runtime import open_session
from tests.verify.graphs import small_model, weights


def planned(model: ir.Model, **options: Any) -> tuple[InputPlan, list[dict[str, int]]]:
    plan = InputPlan(model, **options)
    session = open_session(model, "CPUExecutionProvider")

    def runs(feeds: Feeds) -> None:
        session.run(feeds)

    return plan, plan.find_sizes(runs)


def role(model: ir.Model, name: str) -> str:
    return next(spec for spec in InputPlan(model).specs if spec.name == name).kind()


EMBEDDING = "(int64[N,T] ids) => (float[N,T,4] y)"


@pytest.mark.parametrize(
    ("body", "bounds"),
    [
        ("y = Gather(table, ids)", (0, 50)),
        ("c = Cast<to=6>(ids)\n y = Gather(table, c)", (0, 50)),
        ("two = Constant<value_int=2>()\n p = Add(ids, two)\n y = Gather(table, p)", (0, 48)),
        ("two = Constant<value_int=2>()\n p = Sub(ids, two)\n y = Gather(table, p)", (2, 52)),
        ("i = Identity(table)\n y = Gather(i, ids)", (0, 50)),
    ],
)
def test_ids_cover_the_whole_table_and_nothing_else(body: str, bounds: tuple[int, int]) -> None:
    model = small_model(EMBEDDING, body, {"table": weights(50, 4)})
    plan, sizes = planned(model)
    ids = np.concatenate([item.feeds["ids"].reshape(-1) for item in plan.sets(sizes, 4)])
    assert sorted(set(ids.tolist())) == list(range(*bounds))


def test_changed_rows_of_a_large_table_come_first() -> None:
    model = small_model(EMBEDDING, "y = Gather(table, ids)", {"table": weights(100_000, 4)})
    plan, sizes = planned(model, rows={"table": np.asarray([77_777, 5])})
    (first,) = plan.sets(sizes, 1)
    assert {77_777, 5, 0, 99_999} <= set(first.feeds["ids"].reshape(-1).tolist())


def test_floats_are_signed_and_come_at_several_scales() -> None:
    model = small_model("(float[N,64] x) => (float[N,64] y)", "y = Relu(x)")
    plan, sizes = planned(model)
    sets = plan.sets(sizes, 10)
    scales = [float(np.std(item.feeds["x"])) for item in sets]
    assert min(scales) < 0.01 and max(scales) > 5
    assert sum(item.feeds["x"].min() < 0 for item in sets) >= 5
    assert any(item.feeds["x"].min() >= 0 for item in sets)


def test_every_symbol_takes_several_sizes_beyond_the_kernel() -> None:
    w = weights(2, 3, 9, 9)
    model = small_model("(float[N,3,H,W] x) => (float[N,2,A,B] y)", "y = Conv<dilations=[4,4]>(x, w)", {"w": w})
    plan, sizes = planned(model)
    assert len({item["H"] for item in sizes}) >= 2
    assert min(item["H"] for item in sizes) > 33
    assert any(item["H"] != item["W"] for item in sizes)
    assert plan.symbols == ["N", "H", "W"]


def test_the_parent_decides_and_what_it_refused_is_kept() -> None:
    body = "four = Constant<value_ints=[0,16,-1]>()\n y = Reshape(x, four)"
    plan, sizes = planned(small_model("(float[N,T] x) => (float[N,16,S] y)", body))
    assert sizes and all(item["T"] % 16 == 0 for item in sizes)
    assert any(item["sizes"]["T"] % 16 for item in plan.dropped)


def test_no_size_runs() -> None:
    body = "s = Constant<value_ints=[7919,7907]>()\n y = Reshape(x, s)"
    with pytest.raises(RuntimeFailure, match=r"none of the \d+ sizes"):
        planned(small_model("(float[N,T] x) => (float[A,B] y)", body))


def test_sum_dimensions_follow_their_parts() -> None:
    signature = "(float[N,past] p, float[N,seq] x, float[N,total] m) => (float[N,total] y)"
    body = "c = Concat<axis=1>(p, x)\n y = Mul(c, m)"
    model = small_model(signature, body)
    model.graph.inputs[0].shape = ir.Shape(["N", "past_len"])
    model.graph.inputs[2].shape = ir.Shape(["N", "past_len + seq"])
    plan, sizes = planned(model)
    assert {item["past_len"] for item in sizes} >= {0, 5}
    (made,) = plan.sets([{"N": 2, "past_len": 3, "seq": 4}], 1)
    assert made.feeds["m"].shape == (2, 7)


def test_names_of_dimensions_that_say_nothing_are_independent() -> None:
    model = small_model("(float[N,4] x, float[N,5] z) => (float[N,4] y, float[N,5] w)", "y = Relu(x)\n w = Relu(z)")
    for value in model.graph.inputs:
        value.shape = ir.Shape(["?", value.shape[1]])  # type: ignore[index]
    plan = InputPlan(model)
    assert len(plan.symbols) == 2


def test_masks_are_ones_padded_at_the_end() -> None:
    body = "b = Cast<to=9>(attention_mask)\n z = Constant<value_float=0.0>()\n y = Where(b, x, z)"
    model = small_model("(float[N,T] x, int64[N,T] attention_mask) => (float[N,T] y)", body)
    assert role(model, "attention_mask") == "mask"
    plan, sizes = planned(model)
    padded = False
    for item in plan.sets(sizes, 6):
        mask = item.feeds["attention_mask"]
        assert set(np.unique(mask)) <= {0, 1}
        assert (np.diff(mask, axis=1) <= 0).all() and (mask[:, 0] == 1).all()
        padded = padded or bool((mask == 0).any())
    assert padded


def test_lengths_fit_their_axis() -> None:
    body = "y, h = GRU<hidden_size=4>(x, w, r, b, lengths)"
    tensors = {"w": weights(1, 12, 8), "r": weights(1, 12, 4), "b": weights(1, 24)}
    model = small_model("(float[T,N,8] x, int32[N] lengths) => (float[T,1,N,4] y)", body, tensors)
    assert role(model, "lengths") == "length"
    plan, sizes = planned(model)
    for item in plan.sets(sizes, 3):
        lengths = item.feeds["lengths"]
        assert lengths.min() >= 1 and lengths.max() <= item.feeds["x"].shape[0]


def test_values_that_are_compared_with_are_tried() -> None:
    body = "k = Constant<value_int=8000>()\n e = Equal(rate, k)\n y = Cast<to=1>(e)"
    model = small_model("(int64 rate) => (float y)", body)
    plan, sizes = planned(model)
    assert {int(item.feeds["rate"]) for item in plan.sets(sizes, 4)} >= {8000, 8001}


def test_bytes_are_images() -> None:
    model = small_model("(uint8[N,8,8,3] x) => (float[N,8,8,3] y)", "y = Cast<to=1>(x)")
    assert role(model, "x") == "image"
    plan, sizes = planned(model)
    assert plan.sets(sizes, 1)[0].feeds["x"].max() > 200


def test_shapes_a_person_gives() -> None:
    model = small_model("(float[N,T] x) => (float[N,T] y)", "y = Relu(x)")
    plan, sizes = planned(model, shapes={"x": (3, 5)})
    assert all(item.feeds["x"].shape == (3, 5) for item in plan.sets(sizes, 3))
    with pytest.raises(SelectionError, match="'x'"):
        InputPlan(model, shapes={"xx": (3, 5)})
    fixed = small_model("(float[N,4] x) => (float[N,4] y)", "y = Relu(x)")
    with pytest.raises(SelectionError, match="does not fit"):
        InputPlan(fixed, shapes={"x": (3, 5)})


def test_channels_that_nobody_declares_come_from_the_first_consumer() -> None:
    model = small_model("(float[N,C,H,W] x) => (float[N,2,A,B] y)", "y = Conv(x, w)", {"w": weights(2, 5, 3, 3)})
    assert trace_role(model, model.graph.inputs[0]).channels == [(1, 5)]
    plan, sizes = planned(model)
    assert plan.sets(sizes, 1)[0].feeds["x"].shape[1] == 5


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), index=st.integers(0, 50))
def test_the_same_seed_gives_the_same_inputs(seed: int, index: int) -> None:
    model = small_model("(float[N,4] x, int64[N] i) => (float[N,4] y)", "g = Gather(t, i)\n y = Add(x, g)",
                        {"t": weights(9, 4)})  # fmt: skip
    one, other = (InputPlan(model, seed=seed).make({"N": 3}, "normal", index) for _ in range(2))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_reading_real_data(tmp_path: Path) -> None:
    model = small_model("(float[N,4] image) => (float[N,4] y)", "y = Relu(image)")
    array = np.random.default_rng(0).standard_normal((2, 4))
    np.savez(tmp_path / "data.npz", image=array)
    folder = tmp_path / "folder"
    folder.mkdir()
    np.save(folder / "image.npy", array.astype(np.float32))
    for source in (tmp_path / "data.npz", folder, {"image": array}):
        feeds = read_inputs(source, model)
        assert feeds["image"].dtype == np.float32 and feeds["image"].shape == (2, 4)
    with pytest.raises(SelectionError, match="did you mean 'image'"):
        read_inputs({"imag": array}, model)
    with pytest.raises(SelectionError, match="no data for input 'image'"):
        read_inputs({}, model)
    with pytest.raises(SelectionError, match="shape"):
        read_inputs({"image": array[:, :3]}, model)
    with pytest.raises(SelectionError, match="does not convert"):
        read_inputs({"image": array + 1j}, model)
    (tmp_path / "broken.npz").write_bytes(b"PK nonsense")
    with pytest.raises(ModelError, match="cannot be read"):
        read_inputs(tmp_path / "broken.npz", model)


def test_the_first_size_is_looked_for_beyond_a_short_budget() -> None:
    """Without one nothing can be verified, which is worse than to be late."""
    plan = InputPlan(small_model("(float[N,T] x) => (float[N,T] y)", "y = Relu(x)", {}))
    tried = []

    def runs(feeds: Feeds) -> None:
        tried.append(feeds["x"].shape)
        if feeds["x"].shape[1] != 576:
            raise RuntimeFailure("only frames of 576")

    assert {sizes["T"] for sizes in plan.find_sizes(runs, out_of_time=lambda: True)} == {576}
    assert len(tried) > 10


def test_inputs_without_axes_are_arrays_all_the_same() -> None:
    model = small_model(
        "(float[N,4] x, float bound, float16 half) => (bool[N,4] y, float16 z)",
        "y = Less(x, bound)\n z = Neg(half)",
        {},
    )
    plan, sizes = planned(model)
    assert sizes
    for item in plan.sets(sizes, 4):
        assert all(isinstance(value, np.ndarray) for value in item.feeds.values())
        assert item.feeds["bound"].shape == () and item.feeds["bound"].dtype == np.float32
