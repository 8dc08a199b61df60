"""MorphNet: budgets, the cost model, gates and their proximal step; shrinking by training, expanding exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from onnx import helper  # noqa: E402

from onnxmorph import model as files  # noqa: E402
from onnxmorph import train  # noqa: E402
from onnxmorph import verify as checking  # noqa: E402
from onnxmorph.errors import Refusal, SelectionError  # noqa: E402
from onnxmorph.graph.cost import cost, total  # noqa: E402
from onnxmorph.grow.graph_module import module, write_back  # noqa: E402
from onnxmorph.grow.morphnet import Budget, cycle, expand, shrink  # noqa: E402
from onnxmorph.grow.morphnet.expanding import largest_factor  # noqa: E402
from onnxmorph.grow.morphnet.gates import Gates, gates_of, largest_lowered  # noqa: E402
from onnxmorph.grow.morphnet.pricing import Pricing  # noqa: E402
from onnxmorph.grow.morphnet.regulariser import Regulariser, living, next_to_go  # noqa: E402
from onnxmorph.grow.morphnet.widths import Network  # noqa: E402
from tests.grow.graphs import SAMPLES, blobs, graph, loaded, mlp, tensor  # noqa: E402

NAMES = ("cnn", "mlp", "mobile", "resnet", "transformer", "unet")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def sample(name: str) -> Any:
    return files.load(SAMPLES / f"digits_{name}.onnx")


def digits(count: int = 120) -> tuple[Any, Any]:
    image = np.load(SAMPLES / "digits_test.npz")["image"][:count]
    return image, np.load(SAMPLES / "digits_labels.npz")["label"][:count]


# --- budgets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("flops=50%", 500.0),
        ("FLOPS=1.5x", 1500.0),
        ("macs=12M", 12e6),
        ("params=300k", 300e3),
        ("params=1234", 1234.0),
        ("latency=5ms", 5e-3),
        ("latency=250us", 250e-6),
    ],
)
def test_budgets_as_they_are_typed(text: str, limit: float) -> None:
    assert Budget.parse(text).of(1000.0) == pytest.approx(limit)


@pytest.mark.parametrize("text", ["", "50%", "flop=50%", "flops=", "flops=-1", "flops=0", "flops=nan", "params=5ms"])
def test_what_is_no_budget_is_told(text: str) -> None:
    with pytest.raises(SelectionError, match="no budget"):
        Budget.parse(text)


@pytest.mark.parametrize("text", ["latency=5", "latency=5k"])
def test_a_latency_has_a_unit(text: str) -> None:
    with pytest.raises(SelectionError, match="there are ms"):
        Budget.parse(text)


# --- the cost model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_cost_is_that_of_the_report_at_any_widths(name: str) -> None:
    """The polynomial in the widths gives what a model of these widths really costs: layers counted anew."""
    model = sample(name)
    network = Network(model)
    pricings = {metric: Pricing(network, metric) for metric in ("params", "macs")}
    sizes: dict[int, int] = {}
    for widened in (False, True):
        if widened:
            grown = expand(model, "params=1.7x")
            later = {layer.key: layer for layer in Network(grown.model).layers}
            network_after = Network(grown.model)
            for width in network.widths:
                sizes[width.group.atom] = (
                    later[width.layer.key].out_channels if width.is_whole_axis else network_after.again(width).size
                )
            model = grown.model
        now = Network(model)
        counted = total(now.layers, [cost(layer, now.sample) for layer in now.layers])
        assert pricings["params"].total(sizes) == pytest.approx(counted.parameters)
        assert pricings["macs"].total(sizes) == pytest.approx(counted.macs)


def test_the_price_is_what_one_channel_more_costs() -> None:
    network = Network(sample("mobile"))
    pricing = Pricing(network, "flops")
    for width in network.widths:
        one_more = pricing.total({width.group.atom: width.size + 1}) - pricing.total({})
        one_less = pricing.total({}) - pricing.total({width.group.atom: width.size - 1})
        assert pricing.price(width, {}) == pytest.approx(one_less) and one_less <= one_more * (1 + 1e-9)


def test_operators_are_timed_and_add_up_to_the_whole() -> None:
    from onnxmorph.grow.morphnet.latency import timings

    network = Network(sample("cnn"))
    found, whole = timings(network)
    pricing = Pricing(network, "latency", found)
    assert whole > 0 and pricing.total({}) == pytest.approx(whole, rel=1e-6)
    assert {layer.node.outputs[0].name for layer in network.layers} <= set(found)
    assert all(one.fixed >= 0 and one.growing >= 0 for one in found.values())
    assert pricing.least(network.widths) <= whole


# --- gates ----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 4).flatmap(
        lambda gates: st.lists(st.lists(st.floats(0, 4), min_size=gates, max_size=gates), min_size=1, max_size=5)
    ),
    st.floats(0, 6),
    st.integers(0, 2**32 - 1),
)
def test_the_proximal_step_of_the_largest(columns: list[list[float]], by: float, seed: int) -> None:
    """No other point is better: ``by * max(v) + |v - x|^2 / 2`` is strictly convex, so looking around is enough."""
    values = torch.tensor(columns, dtype=torch.float64).T
    found = largest_lowered(values, by)

    def worth(point: Any) -> Any:
        return by * point.abs().amax(0) + (point - values).square().sum(0) / 2

    assert bool((found >= 0).all()) and bool((found <= values).all())
    random = np.random.default_rng(seed)
    for size in (1e-3, 0.1, 1.0):
        other = found + torch.from_numpy(random.standard_normal(found.shape)) * size
        assert bool((worth(found) <= worth(other) + 1e-9).all())


def _gates(name: str) -> tuple[Network, list[Gates], dict[str, Any], Any]:
    model = sample(name)
    network, net = Network(model), module(model)
    gates = gates_of(network, network.prunable, [key for key, one in net.named_parameters() if one.requires_grad])
    weights = {key: value.clone() for key, value in net.state_dict().items()}
    for one in gates:
        one.measure_ordinary(weights)
    return network, gates, weights, model


def test_batch_norms_gate_where_they_are_and_kernels_where_they_were_folded() -> None:
    _, gates, weights, _ = _gates("resnet")
    assert all(one.by_scale for one in gates)
    stem = next(one for one in gates if len(one.gates) == 2)  # the stem and the block that is added to it
    assert torch.allclose(stem.values(weights), stem.each(weights).amax(0))
    assert all(abs(float(each.mean()) - 1) < 1e-5 for one in gates for each in one.each(weights))
    _, gates, _, _ = _gates("cnn")
    assert len(gates) == 3 and not any(one.by_scale for one in gates)


@pytest.mark.parametrize("name", ["cnn", "resnet", "mobile", "transformer"])
def test_a_channel_that_is_turned_off_can_be_taken_out_without_a_trace(name: str) -> None:
    from onnxmorph.morphs import plan_shrink

    _, gates, weights, model = _gates(name)
    for one in gates:
        gone = torch.zeros(one.width.size, dtype=torch.bool)
        gone[0] = True
        one.close(weights, gone)
        assert float(one.values(weights)[0]) == 0.0 and bool((one.values(weights)[1:] > 0).all())
    silenced = write_back(weights, model)
    one = gates[-1]
    kept = one.width.indices(np.arange(1, one.width.size))
    plan = plan_shrink(silenced, one.width.layer.key.partition("::")[2], keep=kept)
    assert plan.exact
    child = plan.apply(silenced).model
    assert checking.verify(silenced, child, provider="cpu").equivalent


def test_who_is_next_depends_on_gate_and_price_and_one_always_stays() -> None:
    network, gates, weights, _ = _gates("cnn")
    pricing = Pricing(network, "params")
    values = [one.values(weights) for one in gates]
    for share in (1.0, 0.6, 0.2, 0.0):
        wanted = max(share * pricing.total({}), 0.0)
        chosen = next_to_go(gates, values, [1.0, 2.0, 1.0], pricing, wanted)
        sizes = {one.width.group.atom: int((~go).sum()) for one, go in zip(gates, chosen, strict=True)}
        assert min(sizes.values()) >= 1
        assert share == 0.0 or pricing.total(sizes) <= wanted * (1 + 1e-9)
        assert share < 1.0 or not any(bool(go.any()) for go in chosen)
    for value, go in zip(values, next_to_go(gates, values, [1, 1, 1], pricing, 6000.0), strict=True):
        assert not bool(go.any()) or float(value[go].max()) <= float(value[~go].min())


def test_what_the_regulariser_remembers_goes_into_checkpoints() -> None:
    network, gates, _, model = _gates("cnn")
    pricing = Pricing(network, "flops")
    # So many steps that the next look is far away: until then, what was seen at the last one counts.
    options: dict[str, Any] = {"limit": 0.5 * pricing.total({}), "steps": 1000, "threshold": 0.01}
    first, net = Regulariser(gates, pricing, **options), module(model)
    first(net, 700, 1.0)
    second, other = Regulariser(gates, pricing, **options), module(model)
    second.load_state_dict(first.state_dict())
    other.load_state_dict(net.state_dict())
    for step in range(1, 9):
        first(net, step, 1.0)
        second(other, step, 1.0)
    assert all(torch.equal(one, two) for one, two in zip(net.parameters(), other.parameters(), strict=True))
    for step in range(701, 760):
        first(net, step, 1.0)
    assert pricing.total(living(gates, dict(net.named_parameters()), 0.01)) < pricing.total({})


def test_prices_do_not_fall_with_what_has_died_so_that_no_width_shrinks_alone() -> None:
    network, gates, _, _ = _gates("cnn")
    pricing = Pricing(network, "flops")
    options: dict[str, Any] = {"limit": 0.5 * pricing.total({}), "steps": 10, "threshold": 0.01}
    whole = {one.width.group.atom: one.width.size for one in gates}
    shrunk = {**whole, gates[1].width.group.atom: 1}

    def ratio(strength: float | None, sizes: dict[int, int]) -> float:
        prices = Regulariser(gates, pricing, strength=strength, **options)._prices(sizes)
        return prices[1] / prices[0]

    assert ratio(None, shrunk) == pytest.approx(ratio(None, whole))
    assert ratio(2.0, shrunk) > 1.5 * ratio(2.0, whole)  # the paper's: the neighbours of what shrinks become cheap


@pytest.mark.parametrize("rate", [1.0, 0.01])
def test_channels_that_are_chosen_late_close_although_the_rate_has_fallen(rate: float) -> None:
    network, gates, _, model = _gates("cnn")
    pricing = Pricing(network, "flops")
    net = module(model)
    regulariser = Regulariser(gates, pricing, limit=0.5 * pricing.total({}), steps=100, threshold=0.01)
    for one in gates:
        one.measure_ordinary(net.state_dict())
    for step in range(80, 101):
        regulariser(net, step, rate)
    assert pricing.total(living(gates, dict(net.named_parameters()), 0.01)) <= 0.5 * pricing.total({})


# --- shrinking ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "budget"), [("cnn", "flops=50%"), ("resnet", "params=40%"), ("transformer", "macs=60%")]
)
def test_a_model_is_trained_down_to_a_budget(name: str, budget: str, tmp_path: Path) -> None:
    model = sample(name)
    before = files.content_hash(model)
    shrunk = shrink(model, digits(), budget, epochs=2, finetune=1)
    assert files.content_hash(model) == before
    real = Pricing(Network(shrunk.model), shrunk.metric).total({})
    assert real == pytest.approx(shrunk.after) and real <= shrunk.limit and real >= 0.5 * shrunk.limit
    assert not shrunk.child.is_morph and all(not plan.is_morph for plan in shrunk.child.plans)
    gone = sum(one - two for one, two in (row.channels for row in shrunk.rows))
    assert shrunk.removed > 0 and gone > 0
    assert len(shrunk.history[0]) == 2 and len(shrunk.history[1]) == 1
    files.save(shrunk.model, tmp_path / "s.onnx")
    assert files.load(tmp_path / "s.onnx")


def test_the_same_seed_gives_the_same_model_also_when_interrupted(tmp_path: Path) -> None:
    model, data = sample("cnn"), digits(64)
    options: dict[str, Any] = {"epochs": 2, "finetune": 1, "batch_size": 16}
    whole = shrink(model, data, "flops=50%", **options)

    def stop(progress: Any) -> None:
        if progress.step == 5:
            import signal

            signal.raise_signal(signal.SIGINT)

    where = tmp_path / "kept"
    with pytest.raises(train.Interrupted):
        shrink(model, data, "flops=50%", **options, checkpoint=where, callbacks=[stop])
    again = shrink(model, data, "flops=50%", **options, checkpoint=where)
    assert files.content_hash(again.model) == files.content_hash(whole.model)


def test_useless_features_go_and_useful_ones_stay(tmp_path: Path) -> None:
    """Half of the hidden units are weak from the start: they are the ones that go, and the task is not forgotten."""
    x, y = blobs()
    fitted = train.fit(loaded(mlp(hidden=16), tmp_path), (x, y), epochs=15, rate=0.01).model
    shrunk = shrink(fitted, (x, y), "params=50%", epochs=15, finetune=5, rate=0.01)
    accuracy = shrunk.history[1][-1].accuracy
    assert accuracy is not None and accuracy > 0.9 and shrunk.after <= shrunk.limit


def test_one_strength_for_all_until_the_budget_is_met() -> None:
    shrunk = shrink(sample("cnn"), digits(64), "flops=50%", epochs=1, finetune=0, strength=3.0)
    assert shrunk.after <= shrunk.limit and shrunk.strength == 3.0 and shrunk.history[1] == ()


def test_what_cannot_be_is_refused_by_name(tmp_path: Path) -> None:
    model, data = sample("mlp"), digits(32)
    with pytest.raises(Refusal, match="already") as refused:
        shrink(model, data, "flops=100%", epochs=1)
    assert refused.value.code == "within-budget"
    with pytest.raises(Refusal, match="the least is params=") as refused:
        shrink(model, data, "params=10", epochs=1)
    assert refused.value.code == "budget-too-small"
    least = str(refused.value).rsplit("params=", 1)[1].split("%")[0]
    assert 0 < float(least) < 100
    with pytest.raises(Refusal) as refused:
        shrink(model, data, "params=50%", epochs=1, freeze=["fc*.weight"])
    assert refused.value.code == "no-free-group"
    alone = graph([helper.make_node("Gemm", ["x", "w"], ["y"])], {"x": ["n", 4]}, ["y"], [tensor("w", 4, 3)])
    with pytest.raises(Refusal, match="output") as refused:
        shrink(loaded(alone, tmp_path), (np.zeros((8, 4), np.float32), np.zeros(8, np.int64)), "params=50%", epochs=1)
    assert refused.value.code == "no-free-group"
    for wrong in ({"threshold": 1.5}, {"l1": -1.0}, {"strength": 0.0}, {"epochs": 0}, {"finetune": -1}):
        with pytest.raises(SelectionError):
            shrink(model, data, "params=50%", **wrong)  # type: ignore[arg-type]


# --- expanding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cnn", "resnet", "transformer"])
def test_expanding_keeps_the_function_and_the_budget(name: str) -> None:
    model = sample(name)
    grown = expand(model, "flops=1.6x", seed=1)
    real = Pricing(Network(grown.model), "flops").total({})
    assert grown.before < real <= grown.limit and real == pytest.approx(grown.after)
    assert grown.child.is_morph and checking.verify(model, grown.model, provider="cpu").equivalent


@settings(deadline=None, max_examples=20)
@given(st.floats(1.01, 12.0), st.integers(1, 8))
def test_the_factor_is_the_largest(share: float, multiple: int) -> None:
    network = _CNN
    pricing = Pricing(network, "flops")
    limit = share * pricing.total({})

    def cost_at(factor: float) -> float:
        return pricing.total(
            {w.group.atom: max(w.size, multiple * int(w.size * factor / multiple + 0.5)) for w in network.widths}
        )

    factor = largest_factor(pricing, network.widths, limit, multiple)
    assert factor >= 1.0 and (cost_at(factor) <= limit * (1 + 1e-9) or factor == 1.0)
    # One more channel anywhere is over: the next place where a width is rounded up.
    nexts = [
        multiple * (max(w.size, multiple * int(w.size * factor / multiple + 0.5)) // multiple + 0.5) / w.size
        for w in network.widths
    ]
    assert cost_at(min(one for one in nexts if one > factor) + 1e-9) > limit


_CNN = Network(files.load(SAMPLES / "digits_cnn.onnx"))


def test_no_room_and_no_width_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="shrink it first") as refused:
        expand(sample("cnn"), "flops=90%")
    assert refused.value.code == "budget-too-small"
    with pytest.raises(Refusal, match="the least") as refused:
        expand(sample("cnn"), "flops=100.1%")
    assert refused.value.code == "budget-too-small"
    alone = graph([helper.make_node("Gemm", ["x", "w"], ["y"])], {"x": ["n", 4]}, ["y"], [tensor("w", 4, 3)])
    with pytest.raises(Refusal) as refused:
        expand(loaded(alone, tmp_path), "params=2x")
    assert refused.value.code == "no-free-group"


def test_both_in_turn() -> None:
    done = cycle(sample("cnn"), digits(64), "flops=100%", rounds=2, epochs=1, finetune=0, batch_size=16)
    assert len(done.rounds) == 2 and not done.child.is_morph
    before = Pricing(Network(sample("cnn")), "flops").total({})
    after = Pricing(Network(done.model), "flops").total({})
    assert 0.7 * before < after <= before
    assert [row.channels[0] for row in done.rows][:3] == [16, 24, 32]
    with pytest.raises(SelectionError):
        cycle(sample("cnn"), digits(8), "flops=100%", rounds=0)
    with pytest.raises(SelectionError):
        cycle(sample("cnn"), digits(8), "flops=100%", shrink_by=1.0)
