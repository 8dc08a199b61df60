"""A data file that is copied while the child is worked out: the same files come of it, and nothing else remains."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from onnxmorph import ahead as ahead_module
from onnxmorph import model as files
from onnxmorph import saving, staging
from onnxmorph._ir import ir
from onnxmorph.ahead import CopyAhead, copy_ahead
from onnxmorph.errors import ModelError, Refusal
from onnxmorph.staging import DataFile
from onnxmorph.tensors import MappedFile, MappedTensor

BIG = 600_000  # bytes of one tensor; a data file has one part in 64 of this to spare
SMALL = (7_000, 3_000)


@pytest.fixture(autouse=True)
def small_files_are_copied_ahead_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead_module, "_FROM", 1)
    monkeypatch.setattr(ahead_module, "_CHUNK", 64 << 10)


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[ir.Model]:
    """A chain of Add; its data file begins with rubbish, and more of it lies in the gaps and at the end."""
    generator = np.random.default_rng(0)
    sizes = [SMALL[0], BIG, SMALL[1], BIG, BIG]
    graph = onnx.GraphProto(name="chain")
    data = bytearray(b"\xff" * 100)
    for number, size in enumerate(sizes):
        data += b"\xff" * (64 if number != 3 else 5000)
        tensor = graph.initializer.add(name=f"w{number}", data_type=TensorProto.UINT8, dims=[size])
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in (("location", "parent.data"), ("offset", str(len(data))), ("length", str(size))):
            tensor.external_data.add(key=key, value=text)
        data += generator.integers(0, 256, size, dtype=np.uint8).tobytes()
        graph.node.append(helper.make_node("Add", [f"v{number}", f"w{number}"], [f"v{number + 1}"]))
    data += b"\xff" * 2000
    graph.input.append(helper.make_tensor_value_info("v0", TensorProto.UINT8, [None]))
    graph.output.append(helper.make_tensor_value_info(f"v{len(sizes)}", TensorProto.UINT8, [None]))
    folder = tmp_path / "parent"
    folder.mkdir()
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "parent.onnx").write_bytes(proto.SerializeToString())
    (folder / "parent.data").write_bytes(data)
    yield files.load(folder / "parent.onnx")


def grown(parent: ir.Model, **sizes: int) -> ir.Model:
    """A clone whose named tensors are new ones, of these sizes."""
    child = files.clone(parent)
    for name, size in sizes.items():
        values = np.arange(size, dtype=np.uint32).astype(np.uint8)
        child.graph.initializers[name].const_value = ir.Tensor(values, name=name)
    return child


CHILDREN: dict[str, dict[str, int]] = {
    "unchanged": {},
    "a small one anew": {"w0": SMALL[0]},
    "a smaller one": {"w0": 5000},
    "a larger one": {"w0": 9000},
    "two": {"w0": 4000, "w2": 2000},
    "a big one": {"w1": BIG},
    "the last": {"w4": BIG},
    "all": {f"w{number}": 2000 for number in range(5)},
}


def tree(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("child", CHILDREN)
def test_files_are_the_same_to_the_byte_whether_they_were_copied_ahead_or_not(
    parent: ir.Model, child: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = grown(parent, **CHILDREN[child])
    plain, fast = tmp_path / "plain", tmp_path / "fast"
    plain.mkdir()
    fast.mkdir()
    expected = files.save(model, plain / "child.onnx", external=True)
    asked = []
    finish = CopyAhead.finish

    def watched(self: CopyAhead) -> bool:
        asked.append(True)
        return finish(self)

    monkeypatch.setattr(CopyAhead, "finish", watched)
    with copy_ahead(parent, fast / "child.onnx") as ahead:
        assert ahead is not None
        with files.staged(model, fast / "child.onnx", ahead=ahead) as written:
            assert files.content_hash(written.load()) == files.content_hash(model)
            assert written.commit().bytes == expected.bytes
    assert tree(plain) == tree(fast) == ["child.onnx", "child.onnx.data"]
    for name in tree(plain):
        assert (plain / name).read_bytes() == (fast / name).read_bytes()
    data = (fast / "child.onnx.data").read_bytes()
    assert b"\xff" * 1000 not in data, "what no tensor uses is not passed on"
    used = asked == [True]
    assert used is (child not in ("a big one", "the last", "all")), "of much that is not used nothing remains"
    if used:
        offsets = [
            {t.name: t.offset for v in m.graph.initializers.values() if isinstance(t := v.const_value, MappedTensor)}
            for m in (parent, files.load(fast / "child.onnx"))
        ]
        assert all(offsets[0][name] == offsets[1][name] for name in offsets[0] if name not in CHILDREN[child])


def test_what_became_free_is_used_again(parent: ir.Model, tmp_path: Path) -> None:
    before = files.save(parent, tmp_path / "before.onnx")
    for sizes in ({"w0": SMALL[0] - 64}, {"w0": 4000, "w2": 2000}):
        after = files.save(grown(parent, **sizes), tmp_path / "after.onnx", overwrite=True)
        assert before.data_path is not None and after.data_path is not None
        assert after.data_path.stat().st_size == before.data_path.stat().st_size


def test_a_refused_or_interrupted_plan_leaves_nothing(
    parent: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way = threading.Event()
    copy = staging.copy_range

    def watched(*arguments: object) -> None:
        copy(*arguments)  # type: ignore[arg-type]
        under_way.set()

    monkeypatch.setattr(ahead_module, "copy_range", watched)
    out = tmp_path / "out"
    out.mkdir()
    for error in (Refusal("no", code="no"), KeyboardInterrupt(), SystemExit(143), MemoryError()):
        under_way.clear()
        with pytest.raises(type(error)), copy_ahead(parent, out / "child.onnx"):
            assert under_way.wait(20) and tree(out) != []
            raise error
        assert tree(out) == [] and not _copying()
    with copy_ahead(parent, out / "child.onnx"):
        pass  # nobody takes it
    assert tree(out) == [] and not _copying()


def _copying() -> bool:
    return any(thread.name == "onnxmorph-copy-ahead" for thread in threading.enumerate())


def test_a_copy_that_is_not_wanted_any_more_stops(
    parent: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, copied = threading.Event(), []

    def slow(file: MappedFile, offset: int, *rest: object) -> None:
        assert gate.wait(20)
        copied.append(offset)

    monkeypatch.setattr(ahead_module, "copy_range", slow)
    with copy_ahead(parent, tmp_path / "child.onnx") as ahead:
        assert ahead is not None
        ahead._unwanted.set()
        gate.set()
    assert len(copied) <= 1 < ahead.source.size // (64 << 10)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), ModelError("shrank")])
def test_a_copy_that_fails_is_made_again_in_the_ordinary_way(
    parent: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(file: MappedFile, offset: int, length: int, target: object) -> None:
        if offset:
            raise error
        staging.copy_range(file, offset, length, target)  # type: ignore[arg-type]

    monkeypatch.setattr(ahead_module, "copy_range", failing)
    model = grown(parent, w0=4000)
    with copy_ahead(parent, tmp_path / "child.onnx") as ahead:
        assert ahead is not None
        with files.staged(model, tmp_path / "child.onnx", ahead=ahead) as written:
            written.commit()
    files.save(model, tmp_path / "plain.onnx")
    assert (tmp_path / "child.onnx.data").read_bytes() == (tmp_path / "plain.onnx.data").read_bytes()


def test_a_disk_that_is_full_is_told_and_nothing_is_left(
    parent: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for module in (ahead_module, staging):
        monkeypatch.setattr(module, "copy_range", full)
    out = tmp_path / "out"
    out.mkdir()
    with (
        pytest.raises(ModelError, match="no space left"),
        copy_ahead(parent, out / "child.onnx") as ahead,
        files.staged(parent, out / "child.onnx", ahead=ahead),
    ):
        pass
    assert tree(out) == []


def test_nothing_is_copied_where_it_is_not_worth_it_or_may_not_be_written(
    parent: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.save(parent, tmp_path / "embedded.onnx", external=False)
    embedded = files.load(tmp_path / "embedded.onnx")
    part = files.clone(parent)
    del part.graph.initializers["w1"]
    (tmp_path / "there.onnx").write_bytes(b"mine")
    (tmp_path / "folder.onnx").mkdir()
    before = tree(tmp_path)
    for model, name in (
        (embedded, "child.onnx"),
        (part, "child.onnx"),
        (parent, "there.onnx"),
        (parent, "folder.onnx"),
        (parent, "no/such/folder.onnx"),
    ):
        with copy_ahead(model, tmp_path / name) as ahead:
            assert ahead is None
    with copy_ahead(parent, tmp_path / "there.onnx", overwrite=True) as ahead:
        assert ahead is not None
        with files.staged(parent, tmp_path / "there.onnx", overwrite=True, ahead=ahead):
            pass  # not put in place
    assert tree(tmp_path) == before and (tmp_path / "there.onnx").read_bytes() == b"mine"
    for limit, value in (("_FROM", 10**9), ("_UP_TO", 10)):
        monkeypatch.setattr(ahead_module, limit, value)
        with copy_ahead(parent, tmp_path / "child.onnx") as ahead:
            assert ahead is None


def test_a_child_that_is_kept_inside_its_model_takes_no_copy(parent: ir.Model, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with (
        copy_ahead(parent, out / "child.onnx") as ahead,
        saving.staged(parent, out / "child.onnx", external=False, ahead=ahead) as written,
    ):
        written.commit()
    assert tree(out) == ["child.onnx"]
    assert files.content_hash(files.load(out / "child.onnx")) == files.content_hash(parent)


_PIECE = st.tuples(st.sampled_from([0, 10, 2000, 5000]), st.sampled_from([1, 64, 5000, 100_000, 300_000]))


@given(
    pieces=st.lists(st.lists(_PIECE, min_size=1, max_size=5), min_size=1, max_size=3),
    rest=st.sampled_from([0, 3000, 200_000]),
    lengths=st.lists(st.sampled_from([0, 1, 1000, 4500]), max_size=4),
)
def test_layouts_hold_every_tensor_once_and_little_else(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[list[tuple[int, int]]], rest: int, lengths: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("layout")
    kept: list[MappedTensor] = []
    size = 0
    for number, of_file in enumerate(pieces):
        total = sum(gap + length for gap, length in of_file) + rest
        content = np.random.default_rng(number).integers(1, 256, total, dtype=np.uint8)
        (folder / f"{number}").write_bytes(content.tobytes())
        file = MappedFile(folder / f"{number}", "data")
        size += file.size
        offset = 0
        for gap, length in of_file:
            offset += gap
            kept.append(MappedTensor(file, offset, dtype=ir.DataType.UINT8, shape=[length], external=True))
            offset += length
    new = [ir.Tensor(np.full(length, 255 - n, dtype=np.uint8)) for n, length in enumerate(lengths)]
    layout = DataFile()
    layout.take_over(kept)
    places = [layout.position(tensor) for tensor in kept] + [layout.add(t, t.size) for t in new]
    with (folder / "out").open("xb", buffering=0) as target:
        layout.write(target)
    written = (folder / "out").read_bytes()
    used = sum(tensor.size for tensor in (*kept, *new))
    assert len(written) == layout.size <= used + size / 64 + 4096 * len(kept) + 64 * len(new)
    taken = np.zeros(len(written), dtype=bool)
    for tensor, place in zip([*kept, *new], places, strict=True):
        assert written[place : place + tensor.size] == tensor.tobytes()
        assert not taken[place : place + tensor.size].any(), "no two tensors lie in one place"
        taken[place : place + tensor.size] = True
    assert all(place % 64 == 0 for place in places[len(kept) :])
    for file in {id(t.file): t.file for t in kept}.values():
        if layout.begins_like(file):
            assert all(layout.position(t) == t.offset for t in kept if t.file is file)
