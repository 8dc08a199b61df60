"""What is put in place is what was verified, and nothing else is ever left behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest

from onnxmorph import model, verify
from onnxmorph._ir import ir
from onnxmorph.delivery import Check, deliver
from onnxmorph.errors import ModelError
from onnxmorph.graph.layers import layers
from onnxmorph.morphs import plan_deepen
from onnxmorph.plan import Change, Child, Plan, apply
from onnxmorph.verify import Certificate

SAMPLE = Path(__file__).resolve().parents[1] / "models" / "digits_cnn.onnx"
CHECK = Check(provider="cpu")


@dataclass(frozen=True)
class Damage(Plan):
    """No morph at all: moves one weight, as a mistake in a morph would."""

    morph: ClassVar[str] = "damage"

    def options(self) -> dict[str, Any]:
        return {}

    def describe(self) -> str:
        return "damage"

    def edit(self, child: ir.Model) -> Change:
        value = layers(child)[1].weight.value
        assert value.const_value is not None
        array = np.array(value.const_value.numpy())
        array.flat[7] += array.std()
        value.const_value = ir.tensor(array, name=value.name)
        return Change()


@pytest.fixture
def parent() -> ir.Model:
    return model.load(SAMPLE)


@pytest.fixture
def child(parent: ir.Model) -> Child:
    return apply(parent, [plan_deepen(parent, layers(parent)[1])])


def test_a_verified_child_is_put_in_place_with_its_certificate(parent: ir.Model, child: Child, tmp_path: Path) -> None:
    delivered = deliver(parent, child, tmp_path / "child.onnx", check=CHECK)
    assert delivered.path == tmp_path / "child.onnx"
    assert [file.name for file in tmp_path.iterdir()] == ["child.onnx"]
    written = model.load(delivered.path)
    certificate = model.certificate_of(written)
    assert certificate is not None and certificate["equivalent"] is True
    assert certificate["child"] == model.content_hash(written) == model.content_hash(child.model)
    assert certificate["parent"] == model.content_hash(parent)
    assert [record["morph"] for record in model.records(written)] == ["deepen"]


def test_a_child_that_is_not_equivalent_leaves_nothing(parent: ir.Model, tmp_path: Path) -> None:
    delivered = deliver(parent, apply(parent, [Damage()]), tmp_path / "child.onnx", check=CHECK)
    assert delivered.path is None and delivered.certificate is not None and not delivered.certificate.equivalent
    assert list(tmp_path.iterdir()) == []


def test_a_failed_child_is_kept_when_asked_for_and_says_that_it_failed(parent: ir.Model, tmp_path: Path) -> None:
    kept = tmp_path / "child.failed.onnx"
    delivered = deliver(parent, apply(parent, [Damage()]), tmp_path / "child.onnx", check=CHECK, keep_failed=kept)
    assert (delivered.path, delivered.kept) == (None, kept)
    assert list(tmp_path.iterdir()) == [kept]
    certificate = model.certificate_of(model.load(kept))
    assert certificate is not None and certificate["equivalent"] is False and certificate["failures"]


def test_what_was_written_is_what_is_verified(
    parent: ir.Model, child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path | None] = []

    def look(_parent: ir.Model, written: ir.Model, **_options: Any) -> Certificate:
        seen.append(model.source(written))
        return Certificate(equivalent=True, provider="CPUExecutionProvider", inputs=0)

    monkeypatch.setattr(verify, "verify", look)
    deliver(parent, child, tmp_path / "child.onnx", check=CHECK)
    (path,) = seen
    assert path is not None and path.name == "child.onnx" and path.parent.parent == tmp_path


def test_an_interrupted_verification_leaves_nothing(
    parent: ir.Model, child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: Any, **_options: Any) -> Certificate:
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "verify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        deliver(parent, child, tmp_path / "child.onnx", check=CHECK)
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_was_not_verified_says_so(parent: ir.Model, child: Child, tmp_path: Path) -> None:
    delivered = deliver(parent, child, tmp_path / "child.onnx", check=None)
    assert delivered.path is not None and delivered.certificate is None
    assert model.certificate_of(model.load(delivered.path)) == {"schema": 1, "equivalent": None, "verified": False}


def test_a_grandchild_does_not_inherit_the_certificate_of_its_parent(
    parent: ir.Model, child: Child, tmp_path: Path
) -> None:
    first = deliver(parent, child, tmp_path / "child.onnx", check=CHECK).path
    assert first is not None
    middle = model.load(first)
    grandchild = apply(middle, [plan_deepen(middle, layers(middle)[0])])
    second = deliver(middle, grandchild, tmp_path / "grandchild.onnx", check=None).path
    assert second is not None
    written = model.load(second)
    assert len(model.records(written)) == 2
    certificate = model.certificate_of(written)
    assert certificate is not None and certificate["equivalent"] is None
    keys = [entry.key for entry in onnx.load(second).metadata_props]
    assert len(keys) == len(set(keys))


def test_the_same_plan_and_seed_give_the_same_file(parent: ir.Model, tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        grown = apply(parent, [plan_deepen(parent, layers(parent)[1], seed=3)])
        path = deliver(parent, grown, tmp_path / name / "child.onnx", check=CHECK).path
        assert path is not None
        written.append(path.read_bytes())
    assert written[0] == written[1]


def test_nothing_is_overwritten_unless_told_and_the_parent_itself_may_be(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(SAMPLE.read_bytes())
    parent = model.load(path)
    grown = apply(parent, [plan_deepen(parent, layers(parent)[1])])
    with pytest.raises(ModelError, match="--force"):
        deliver(parent, grown, path, check=CHECK)
    assert path.read_bytes() == SAMPLE.read_bytes()
    assert deliver(parent, grown, path, check=CHECK, overwrite=True).path == path
    assert len(layers(model.load(path))) == len(layers(parent)) + 1
    assert list(tmp_path.iterdir()) == [path]


def test_weights_kept_outside_stay_outside(parent: ir.Model, tmp_path: Path) -> None:
    model.save(parent, tmp_path / "parent.onnx", external=True)
    outside = model.load(tmp_path / "parent.onnx")
    grown = apply(outside, [plan_deepen(outside, layers(outside)[1])])
    delivered = deliver(outside, grown, tmp_path / "child.onnx", check=CHECK)
    assert delivered.data_path == tmp_path / "child.onnx.data" and delivered.data_path.is_file()
    shared = deliver(outside, grown, tmp_path / "shared.onnx", check=CHECK, share_weights=True)
    assert shared.data_path is not None
    assert shared.data_path.stat().st_size < delivered.data_path.stat().st_size
    assert model.content_hash(model.load(tmp_path / "shared.onnx")) == model.content_hash(grown.model)
