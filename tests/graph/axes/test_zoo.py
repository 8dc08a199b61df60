"""Whole models: every free group at once, permuted, widened, copied. Nothing may change."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxmorph._ir import ir
from onnxmorph.graph.axes import CoupledAxes, Group, GroupTable, IndexMap, zero_out
from tests.graph.axes import nets

ROOT = Path(__file__).resolve().parents[3]
SAMPLES = sorted((ROOT / "models").glob("*.onnx"))
ZOO = sorted((ROOT.parent / "shared" / "zoo" / "models").glob("*.onnx"))

# One rounding to the grid of the quantised activations more or less, when sums are taken in another order.
TOLERANCE = {"unet.legacy.qdq8": 2e-2, "resnet20_cifar.legacy.fp16": 2e-3}

each_model = pytest.mark.parametrize("path", SAMPLES + ZOO, ids=lambda path: path.stem)


def load(path: Path) -> ir.Model:
    model = ir.load(path)
    ir.external_data.load_to_model(model)
    return model


@each_model
def test_whole_model(path: Path) -> None:
    parent = load(path)
    if path.stem == "light_squeezenet.rand":
        table = GroupTable(CoupledAxes.of(parent))
        assert {pin.kind for group in nets.weighty(table) for pin in group.pins} >= {"overridable"}
        return
    feeds = nets.feeds_of(parent, ids=20)
    before = nets.run(parent, feeds)
    tolerance = TOLERANCE.get(path.stem, 2e-5)
    for change in (nets.permuted, nets.widened):
        child, maps = change(parent, 1)
        assert maps, change.__name__
        assert nets.difference(before, nets.run(child, feeds)) <= tolerance, change.__name__


@pytest.mark.slow
@each_model
def test_whole_model_over_seeds_and_one_group_at_a_time(path: Path) -> None:
    parent = load(path)
    feeds = nets.feeds_of(parent, ids=20)
    before = nets.run(parent, feeds)
    tolerance = TOLERANCE.get(path.stem, 2e-5)
    for seed in range(5):
        for change in (nets.permuted, nets.widened):
            assert nets.difference(before, nets.run(change(parent, seed)[0], feeds)) <= tolerance
    for group in nets.weighty(GroupTable(CoupledAxes.of(parent))):
        if group.status == "free":
            atom = group.atom

            def only(other: Group, atom: int = atom) -> IndexMap | None:
                return IndexMap.widen(other.size, other.size + 3) if other.atom == atom else None

            child, _ = nets.changed(parent, only, zero_out(0))
            assert nets.difference(before, nets.run(child, feeds)) <= tolerance, group.describe()
