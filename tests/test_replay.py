"""What a child records, carried out again on its parent, gives the child again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmorph import model as files
from onnxmorph import morphs
from onnxmorph._ir import ir
from onnxmorph.delivery import Check, deliver
from onnxmorph.errors import ModelError, Refusal
from onnxmorph.graph.layers import LinearLayer, layers
from onnxmorph.morphs import plan_activate, plan_deepen, plan_from_record, plan_kernel, plan_skip, plan_subnet
from onnxmorph.morphs.fold import fold
from onnxmorph.plan import Child, Plan, apply
from onnxmorph.recipe import carry_out, parse_recipe
from onnxmorph.records import PARENT_KEY, is_sampled, mark_parent, replace_records, sampled_hash
from onnxmorph.replay import outstanding, replay, replay_child
from tests.morphs.oracle import from_proto
from tests.zoo_graphs import build

SAMPLE = Path(__file__).resolve().parents[1] / "models" / "digits_cnn.onnx"

Make = Callable[[ir.Model], Sequence[Plan]]


def _each(planner: Callable[..., Plan], **options: Any) -> Make:
    """The morph on the first layer of the model that takes it."""

    def make(model: ir.Model) -> Sequence[Plan]:
        for layer in layers(model):
            try:
                plan = planner(model, layer, **options)
            except Refusal:
                continue
            return [plan] if isinstance(plan, Plan) else plan
        return []

    return make


def _skips(mode: str) -> Make:
    def make(model: ir.Model) -> Sequence[Plan]:
        found = layers(model)
        for first in found:
            for last in found[first.index + 1 :]:
                try:
                    return [plan_skip(model, source=first, target=last, mode=mode)]
                except Refusal:
                    continue
        return []

    return make


def _template(layer: LinearLayer) -> str:
    size = "x".join(map(str, layer.kernel)) or "1"
    return f"({size}:{4 * layer.out_channels})(1:{layer.out_channels})"


MAKERS: dict[str, Make] = {
    "deepen mirror": _each(plan_deepen, method="mirror", activation="relu", seed=3),
    "deepen netmorph": _each(plan_deepen, method="netmorph", seed=3),
    "deepen identity": _each(plan_deepen, method="identity"),
    "deepen residual": _each(plan_deepen, method="residual", seed=3),
    "kernel": _each(plan_kernel, to=5),
    "widen": _each(morphs.plan_widen, by=1.5, seed=3),
    "widen copies": _each(morphs.plan_widen, by=2, fill="replicate", seed=3),
    "shrink": _each(morphs.plan_shrink, to=3, inexact=True),
    "duplicate": _each(morphs.plan_duplicate, times=2),
    "subnet": _each(lambda model, layer: plan_subnet(model, layer, template=_template(layer))),
    "activate": plan_activate,
    "skip add": _skips("add"),
    "skip concat": _skips("concat"),
}
MODELS = ["topology/residual", "block/inverted_residual", "weights/classifier_opset9_input", "block/transformer"]


def _same_model(one: ir.Model, two: ir.Model) -> None:
    assert files.content_hash(one) == files.content_hash(two)
    one_left, two_left = (
        {key: text for key, text in model.metadata_props.items() if key != files.CERTIFICATE_KEY}
        for model in (one, two)
    )
    assert one_left == two_left, "records, and what else a morph leaves"


def test_every_morph_that_leaves_records_is_tried() -> None:
    assert {name.split()[0] for name in MAKERS} >= set(morphs.PLANNERS) - {"fold"}


NO_PLACE = {("duplicate", "weights/classifier_opset9_input"), ("kernel", "block/transformer")}
"""Morphs and models that have no layer for them."""


@pytest.mark.parametrize(
    ("morph", "name"), [(morph, name) for morph in MAKERS for name in MODELS if (morph, name) not in NO_PLACE]
)
def test_a_replayed_child_is_the_child(morph: str, name: str) -> None:
    parent = from_proto(build(name))
    plans = MAKERS[morph](parent)
    assert plans
    child = apply(parent, plans).model
    before = files.content_hash(parent)
    _same_model(replay(parent, files.records(child)).model, child)
    assert replay_child(child, parent).same
    assert files.content_hash(parent) == before, "the parent stays as it is"


RECIPE = """
seed = 5
[[step]]
morph = "widen"
layers = "conv2"
by = 1.5
[[step]]
morph = "kernel"
layers = "conv1"
to = 5
[[step]]
morph = "deepen"
where = { op = "Conv" }
[[step]]
morph = "activate"
on_refusal = "skip"
"""


def _grown(parent: ir.Model) -> Child:
    return carry_out(parent, parse_recipe(RECIPE))


def test_a_recipe_written_to_a_file_is_replayed_to_the_same_bytes(tmp_path: Path) -> None:
    parent = files.load(SAMPLE)
    assert deliver(parent, _grown(parent), tmp_path / "child.onnx", check=None).path
    child = files.load(tmp_path / "child.onnx")
    assert [record["morph"] for record in files.records(child)] == [
        "widen",
        "kernel",
        *["deepen"] * 3,
        *["activate"] * 6,
    ]
    made = replay_child(child, files.load(SAMPLE))
    assert made.same and made.parent_changed is False and made.replayed == 11
    deliver(files.load(SAMPLE), made.child, tmp_path / "again.onnx", check=None)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "child.onnx").read_bytes()


def test_a_child_of_a_child_is_replayed_from_either(tmp_path: Path) -> None:
    first = files.load(SAMPLE)
    deliver(first, apply(first, [plan_kernel(first, "conv1", to=5)]), tmp_path / "second.onnx", check=None)
    second = files.load(tmp_path / "second.onnx")
    deliver(second, apply(second, [plan_deepen(second, "conv2")]), tmp_path / "third.onnx", check=None)
    third = files.load(tmp_path / "third.onnx")
    assert [PARENT_KEY in record for record in files.records(third)] == [True, True]
    assert [record["morph"] for record in outstanding(third, second)] == ["deepen"]
    for parent in (first, second):
        made = replay_child(third, parent)
        assert made.same and made.parent_changed is False
        _same_model(made.child.model, third)


def test_a_parent_trained_on_since_gives_the_same_graph_and_it_is_said_why_it_differs(tmp_path: Path) -> None:
    parent = files.load(SAMPLE)
    deliver(parent, _grown(parent), tmp_path / "child.onnx", check=None)
    trained = files.clone(parent)
    weight = layers(trained)[1].weight.value
    assert weight.const_value is not None
    weight.const_value = ir.tensor(np.array(weight.const_value.numpy()) * np.float32(1.25), name=weight.name)
    made = replay_child(files.load(tmp_path / "child.onnx"), trained)
    assert not made.same and made.parent_changed
    assert made.difference is not None and not made.difference.nodes
    assert "the same graph, but" in made.describe() and "not the one that the child was grown from" in made.describe()
    assert files.records(made.child.model)[0][PARENT_KEY] == f"sampled:{sampled_hash(trained)}"


def test_a_child_changed_since_is_told_from_a_changed_parent(tmp_path: Path) -> None:
    parent = files.load(SAMPLE)
    deliver(parent, _grown(parent), tmp_path / "child.onnx", check=None)
    child = files.load(tmp_path / "child.onnx")
    bias = next(value for name, value in child.graph.initializers.items() if name.endswith("bias"))
    assert bias.const_value is not None
    bias.const_value = ir.tensor(np.array(bias.const_value.numpy()) + np.float32(0.5), name=bias.name)
    made = replay_child(child, parent)
    assert made.parent_changed is False and "but 1 stored tensor differ, by up to 0.5" in made.describe()


def _wide() -> ir.Model:
    """Two dense layers, the second with a weight of 4 MiB, of which a sampled hash reads a sixteenth."""
    generator = np.random.default_rng(0)
    graph = onnx.GraphProto(name="wide")
    shapes = [(8, 1024), (1024, 1024)]
    for index, shape in enumerate(shapes):
        weight = generator.standard_normal(shape, dtype=np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(weight, f"w{index}"))
        graph.node.append(
            onnx.helper.make_node("MatMul", [f"v{index}", f"w{index}"], [f"m{index}"], name=f"dense{index}")
        )
        graph.node.append(onnx.helper.make_node("Relu", [f"m{index}"], [f"v{index + 1}"]))
    graph.input.append(onnx.helper.make_tensor_value_info("v0", onnx.TensorProto.FLOAT, ["batch", 8]))
    graph.output.append(onnx.helper.make_tensor_value_info("v2", onnx.TensorProto.FLOAT, ["batch", 1024]))
    opset = [onnx.helper.make_opsetid("", 17)]
    return from_proto(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8))


def _changed_at(model: ir.Model, place: int) -> ir.Model:
    changed = files.clone(model)
    value = changed.graph.initializers["w1"]
    assert value.const_value is not None
    weight = np.array(value.const_value.numpy())
    weight.reshape(-1)[place] += np.float32(1)
    value.const_value = ir.tensor(weight, name="w1")
    return changed


BETWEEN = (4 << 10) // 4 + 10  # behind the first block of the sample, before the second
LAST = 1024 * 1024 - 1


def test_a_sampled_hash_is_of_graph_and_weights_however_they_are_stored(tmp_path: Path) -> None:
    model = _wide()
    reference = sampled_hash(model)
    for external in (True, False):
        path = tmp_path / f"{external}.onnx"
        files.save(model, path, external=external)
        assert sampled_hash(files.load(path)) == reference
    for place in (0, LAST):
        assert sampled_hash(_changed_at(model, place)) != reference
    small = files.clone(model)
    first = small.graph.initializers["w0"]
    assert first.const_value is not None
    weight = np.array(first.const_value.numpy())
    weight[3, 500] += np.float32(1e-3)
    first.const_value = ir.tensor(weight, name="w0")
    assert sampled_hash(small) != reference, "a small tensor counts whole"
    renamed = files.clone(model)
    next(iter(renamed.graph)).outputs[0].name = "other"
    assert sampled_hash(renamed) != reference


def test_a_change_between_the_blocks_is_seen_by_the_mark_of_a_verified_child_and_owned_up_to_by_the_other() -> None:
    parent = _wide()
    changed = _changed_at(parent, BETWEEN)
    child = apply(parent, [plan_deepen(parent, "dense0", method="identity")]).model
    sampled, whole = files.clone(child), files.clone(child)
    mark_parent(sampled, parent, sampled=True)
    mark_parent(whole, parent)
    assert is_sampled(files.records(sampled)[0][PARENT_KEY])
    assert files.records(whole)[0][PARENT_KEY] == files.content_hash(parent)
    made = replay_child(whole, changed)
    assert not made.same and made.parent_changed is True and not made.parent_sampled
    made = replay_child(sampled, changed)
    assert not made.same and made.parent_changed is False and made.parent_sampled
    assert "as far as a sample of its large weights tells" in made.describe()
    made = replay_child(sampled, _changed_at(parent, LAST))
    assert not made.same and made.parent_changed is True
    for one in (sampled, whole):
        _same_model(replay_child(one, parent).child.model, one)


def test_a_child_that_is_verified_gets_the_content_hash_of_its_parent(tmp_path: Path) -> None:
    parent = files.load(SAMPLE)
    for check in (None, Check(provider="cpu")):
        path = tmp_path / "child.onnx"
        deliver(parent, apply(parent, [plan_deepen(parent, "conv1")]), path, check=check, overwrite=True)
        child = files.load(path)
        mark = files.records(child)[0][PARENT_KEY]
        assert mark == (f"sampled:{sampled_hash(parent)}" if check is None else files.content_hash(parent))
        made = replay_child(child, files.load(SAMPLE))
        assert made.same and made.parent_changed is False and made.parent_sampled is (check is None)


def test_a_fold_is_replayed_too() -> None:
    parent = files.load(SAMPLE)
    grown = apply(parent, [plan_deepen(parent, "conv1", method="identity"), plan_kernel(parent, "conv2", to=5)]).model
    folded = fold(grown).model
    assert {record["morph"] for record in files.records(folded)} == {"deepen", "kernel", "fold"}
    _same_model(replay(parent, files.records(folded)).model, folded)
    _same_model(replay(grown, files.records(folded)[2:]).model, folded)


def test_what_cannot_be_replayed_is_refused_with_the_reason() -> None:
    parent = files.load(SAMPLE)
    child = _grown(parent).model
    with pytest.raises(Refusal, match="records no morphs"):
        replay_child(parent, parent)
    with pytest.raises(Refusal, match="no more morphs"):
        replay_child(child, child)
    other = apply(parent, [plan_kernel(parent, "conv2", to=5)]).model
    with pytest.raises(Refusal, match="does not begin with"):
        replay_child(child, other)
    mlp = files.load(SAMPLE.with_name("digits_mlp.onnx"))
    with pytest.raises(Refusal, match=r"record 1 \(widen\): the model has no layer"):
        replay_child(child, mlp)


@pytest.mark.parametrize("morph", MAKERS)
def test_a_damaged_record_is_an_error_that_names_it_and_nothing_else(morph: str) -> None:
    parent = from_proto(build("topology/residual"))
    record = MAKERS[morph](parent)[0].record()
    for key in record:
        for wrong in (None, "seven", -7, [], {}, [[1]], 1.5):
            damaged = {**record, key: wrong}
            try:
                replay(parent, [damaged])
            except (ModelError, Refusal) as error:
                assert str(error)
        left = {name: value for name, value in record.items() if name != key}
        # What later versions added may be missing in records of earlier ones; what the morph is about may not.
        essential = key in ("morph", "layer", "target", "first", "template", "to")
        essential = essential or (key == "source" and morph.startswith("skip"))
        with pytest.raises(ModelError) if essential else contextlib.suppress(ModelError):
            plan_from_record(left)


def test_records_of_another_version_name_the_morph_they_lack() -> None:
    parent = files.load(SAMPLE)
    child = files.clone(parent)
    replace_records(child, [{"morph": "transmogrify"}])
    with pytest.raises(ModelError, match="transmogrify"):
        replay_child(child, parent)
