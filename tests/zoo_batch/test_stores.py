"""Models and children at addresses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from onnxmorph import model as files
from onnxmorph.errors import ModelError, RuntimeFailure, SelectionError
from onnxmorph.zoo import Limits, Settings, run_batch
from onnxmorph.zoo.selection import select_parents
from onnxmorph.zoo.stores import LocalStore, RemoteStore, is_remote, open_store

from .conftest import Zoo

fsspec = pytest.importorskip("fsspec")
SAMPLES = Path(__file__).resolve().parents[2] / "models"


@pytest.fixture
def memory() -> Iterator[object]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://b/x", True),
        ("memory://x", True),
        ("simplecache::s3://b", True),
        ("a/b", False),
        ("C:/x", False),
        ("C:\\x", False),
    ],
)
def test_what_is_an_address(text: str, expected: bool) -> None:
    assert is_remote(text) is expected


@pytest.mark.parametrize("scheme", ["memory://", "file://"])
@pytest.mark.usefixtures("faulty", "memory")
def test_a_batch_from_address_to_address(
    scheme: str, zoo: Zoo, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    base = scheme + (str(tmp_path / "there") if scheme == "file://" else "there")
    system, root = fsspec.core.url_to_fs(base)
    for name in ("a/x.onnx", "a/data.onnx", "y.onnx", "crash.onnx"):
        system.makedirs(f"{root}/zoo/{name}".rpartition("/")[0], exist_ok=True)
        system.pipe_file(f"{root}/zoo/{name}", name.encode())
    settings = Settings(jobs=2, limits=Limits(20))
    globs = [f"{base}/zoo/**/*.onnx"]

    def there() -> set[str]:
        return {path[len(root) + 1 :] for path in system.find(f"{root}/out")}

    report = run_batch(recipe, globs, f"{base}/out", settings)
    assert {entry.model: entry.outcome for entry in report.models} == {
        f"{base}/zoo/a/data.onnx": "done",
        f"{base}/zoo/a/x.onnx": "done",
        f"{base}/zoo/crash.onnx": "failed",
        f"{base}/zoo/y.onnx": "done",
    }
    expected = {"a/data.onnx", "a/data.onnx.data", "a/x.onnx", "y.onnx", "report.json", "report.md", "report.html"}
    assert there() == {f"out/{name}" for name in expected}
    assert system.cat_file(f"{root}/out/a/x.onnx") == b"a/x.onnx"
    # Nothing stays on this machine but the journal.
    kept = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert kept == {"journal.jsonl", "lock"}
    # Up to date is told without fetching anything.
    fetched: list[str] = []
    fetch = RemoteStore.fetch

    def counted(store: RemoteStore, name: str, path: Path) -> None:
        fetched.append(name)
        fetch(store, name, path)

    monkeypatch.setattr(RemoteStore, "fetch", counted)
    again = run_batch(recipe, globs, f"{base}/out", settings)
    assert {Path(entry.model).name for entry in again.models if not entry.up_to_date} == {"crash.onnx"}
    assert fetched == ["crash.onnx"]
    # Written anew with the same bytes: fetched, and found to be the same.
    system.rm_file(f"{root}/zoo/y.onnx")
    system.pipe_file(f"{root}/zoo/y.onnx", b"y.onnx")
    third = run_batch(recipe, globs, f"{base}/out", settings)
    assert next(entry for entry in third.models if entry.child == "y.onnx").up_to_date
    # The user's own.
    system.pipe_file(f"{root}/out/a/x.onnx", b"mine")
    with pytest.raises(SelectionError, match=r"a/x\.onnx: there already"):
        run_batch(recipe, globs, f"{base}/out", settings)


@pytest.mark.usefixtures("memory")
def test_a_real_model_with_external_data_from_memory_to_a_folder(recipe: Path, tmp_path: Path) -> None:
    files.save(files.load(SAMPLES / "digits_mlp.onnx"), tmp_path / "m.onnx", external=True)
    system = fsspec.filesystem("memory")
    for name in ("m.onnx", "m.onnx.data"):
        system.pipe_file(f"/zoo/deep/{name}", (tmp_path / name).read_bytes())
    report = run_batch(recipe, ["memory://zoo/**/*.onnx"], tmp_path / "out", Settings(jobs=1))
    assert report.exit_code == 0, report.models
    assert files.content_hash(files.load(tmp_path / "out" / "deep" / "m.onnx")) == report.models[0].content_hash


@pytest.mark.usefixtures("memory")
def test_selecting_at_addresses() -> None:
    system = fsspec.filesystem("memory")
    for name in ("zoo/x.onnx", "zoo/a/y.onnx", "zoo/.hidden/z.onnx", "zoo/out/x.onnx", "zoo/notes.txt"):
        system.pipe_file(f"/{name}", b"")
    output = open_store("memory://zoo/out")

    def names(text: str) -> list[str]:
        return [parent.name for parent in select_parents([text], output).parents]

    assert names("memory://zoo/**/*.onnx") == ["a/y.onnx", "x.onnx"]
    assert names("memory://zoo") == ["a/y.onnx", "x.onnx"]
    assert names("memory://zoo/a/y.onnx") == ["y.onnx"]
    with pytest.raises(SelectionError, match="no model at"):
        names("memory://zoo/*.omnx")
    with pytest.raises(SelectionError, match="output folder"):
        names("memory://zoo/out/x.onnx")


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeFailure, match="Protocol not known"):
        open_store("nosuch://x")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(RuntimeFailure, match=r"onnxmorph\[remote\]"):
        open_store("s3://bucket/x")


def test_a_stores_own_errors_become_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(Exception):
        pass

    store = open_store("memory://zoo")

    def fail(*_: object, **__: object) -> None:
        raise Odd("access\ndenied")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "exists", fail)
    with pytest.raises(ModelError, match=r"^memory://zoo/x.onnx: access denied$"):
        store.exists("x.onnx")


def test_a_local_file_is_replaced_whole(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    store.write("a/report.md", b"one")
    store.write("a/report.md", b"two")
    assert (tmp_path / "a" / "report.md").read_bytes() == b"two"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["report.md"]
