"""Random morphs, one after the other, on generated and exported models: never a wrong child, never a traceback.

Refusals are allowed; whatever is carried out has to compute what the parent computes, to be replayed from its records
to the same content, and to fold back to something that still does. A failure is shrunk to the fewest steps, and printed
with the seed that reproduces it (``@reproduce_failure``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.errors import Refusal
from onnxmorph.graph.layers import layers
from onnxmorph.morphs.fold import fold
from onnxmorph.replay import replay
from onnxmorph.verify import verify
from tests.morphs.oracle import assert_same, from_proto
from tests.random_recipes import Draw, carried_out, draws
from tests.zoo_graphs import build

ZOO = Path(__file__).resolve().parents[1] / ".." / "shared" / "zoo" / "models"

GENERATED = [
    "topology/residual",
    "topology/pre_activation",
    "topology/two_consumers",
    "block/inverted_residual",
    "block/squeeze_excite",
    "block/concat_dense",
    "block/glu_split",
    "block/transformer",
    "block/transformer_fused_qkv_opset_11",
    "block/unet",
    "block/channel_shuffle",
    "block/nhwc_flatten",
    "block/layer_scale_nhwc",
    "weights/classifier_opset9_input",
    "weights/classifier_opset22_constant",
    "weights/behind_dequantized_per_channel",
    "linear/conv_same_lower_stride_2",
    "linear/convtranspose_kernel_4_stride_2",
    "scopes/if_holds_layers",
    "scopes/function_weights_inside",
]

RANDOM = settings(
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


def _tolerance(steps: int) -> float:
    """Share of the largest output: rounding adds up along the steps, and mistakes are larger by far."""
    return 3e-4 * max(steps, 1)


@settings(RANDOM, max_examples=80)
@given(name=st.sampled_from(GENERATED), steps=draws(2, 4))
def test_random_recipes_on_generated_models(name: str, steps: list[Draw]) -> None:
    proto = build(name)
    parent = from_proto(proto)
    before = files.content_hash(parent)
    child, told = carried_out(parent, steps)
    note(f"{name}: " + "; ".join(told))
    assert files.content_hash(parent) == before
    assert_same(proto, child.model, tolerance=_tolerance(len(child.plans)), floor=0.1)
    again = replay(parent, files.records(child.model)).model
    assert files.content_hash(again) == files.content_hash(child.model)
    assert files.records(again) == files.records(child.model)


@settings(RANDOM, max_examples=25)
@given(name=st.sampled_from(GENERATED), steps=draws(1, 3))
def test_random_recipes_are_folded_and_still_the_same(name: str, steps: list[Draw]) -> None:
    proto = build(name)
    child, told = carried_out(from_proto(proto), steps)
    try:
        folded = fold(child.model)
    except Refusal as refusal:
        note(f"{name}: {refusal}")
        return
    note(f"{name}: " + "; ".join([*told, *(plan.describe() for plan in folded.plans)]))
    assert_same(proto, folded.model, tolerance=_tolerance(len(child.plans) + len(folded.plans)), floor=0.1)


def test_a_fold_inside_a_branch_that_folds_away_as_a_whole() -> None:
    proto = build("block/upsample_by_shape")
    parent = from_proto(proto)
    steps = [Draw("deepen residual", 0.78, 11, 3), Draw("skip", 0.71, 1, 5)]
    child, told = carried_out(parent, steps)
    assert len(child.plans) == 2, told
    folded = fold(child.model)
    assert_same(proto, folded.model, tolerance=_tolerance(2))
    assert len(layers(folded.model)) == len(layers(parent))
    assert files.content_hash(
        replay(child.model, [plan.record() for plan in folded.plans]).model
    ) == files.content_hash(folded.model)


EXPORTED = sorted(ZOO.glob("*.onnx")) if ZOO.is_dir() else []


@pytest.mark.slow
@pytest.mark.skipif(not EXPORTED, reason="the shared zoo is not there")
@pytest.mark.parametrize("path", EXPORTED, ids=lambda path: path.stem)
def test_random_recipes_on_exported_models(path: Path) -> None:
    @settings(RANDOM, max_examples=3)
    @given(steps=draws(5, 10))
    def many(steps: list[Draw]) -> None:
        parent = files.load(path)
        child, told = carried_out(parent, steps)
        note(f"{path.name}: " + "; ".join(told))
        if child.plans:
            certificate = verify(parent, child.model, provider="cpu", time_budget=4.0, faults=False)
            assert certificate.equivalent, certificate.describe()

    many()


def test_the_oracle_sees_one_weight_moved_after_a_recipe() -> None:
    proto = build("topology/residual")
    child, _ = carried_out(from_proto(proto), [Draw("deepen mirror", 0.0, 0, 0), Draw("kernel", 0.5, 0, 0)])
    assert len(child.plans) == 2
    assert_same(proto, child.model, tolerance=_tolerance(2))
    weight = next(value for value in child.model.graph.initializers.values() if value.shape and len(value.shape) == 4)
    assert weight.const_value is not None
    array = np.array(weight.const_value.numpy())
    array.flat[0] += 0.3 * array.std()
    weight.const_value = ir.tensor(array, name=weight.name)
    with pytest.raises(AssertionError):
        assert_same(proto, child.model, tolerance=_tolerance(2))
