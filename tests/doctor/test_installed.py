"""Whose files lie in the folder ``onnxruntime``: installations made of a few files, as pip would leave them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from onnxmorph.doctor import installed

BINARY = "onnxruntime/capi/state.so"


def install(site: Path, name: str, version: str, files: Mapping[str, bytes]) -> None:
    """Like pip: writes the files over whatever is there, and a list of them with their sizes."""
    for file, content in files.items():
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_bytes(content)
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"{file},sha256=x,{len(content)}" for file, content in files.items()]
    (info / "RECORD").write_text("\n".join([*lines, f"{info.name}/METADATA,,", f"{info.name}/RECORD,,"]) + "\n")


def uninstall(site: Path, name: str, version: str) -> None:
    """Like pip: removes what the list names."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    for line in (info / "RECORD").read_text().splitlines():
        (site / line.split(",")[0]).unlink(missing_ok=True)
    info.rmdir()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for packages, the only one there is."""
    monkeypatch.syspath_prepend(str(tmp_path))
    everywhere = installed.installed_runtimes

    def here(search_path: object = None) -> list[installed.InstalledRuntime]:
        return everywhere([str(tmp_path)])

    monkeypatch.setattr(installed, "installed_runtimes", here)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)  # a loaded module would answer instead of the disk
    return tmp_path


PLAIN = {"onnxruntime/__init__.py": b"", BINARY: b"plain"}
CUDA = {"onnxruntime/__init__.py": b"# cuda", BINARY: b"with cuda", "onnxruntime/capi/cuda.so": b"cuda"}


def test_one_whole_runtime_is_well(site: Path) -> None:
    install(site, "onnxruntime-gpu", "1.31.1", CUDA)
    (finding,) = installed.runtime_on_disk(installed.installed_runtimes())
    assert finding.status == "ok" and "onnxruntime-gpu 1.31.1" in finding.text


@pytest.mark.parametrize("plain_last", [True, False])
def test_two_in_one_folder_are_a_conflict_and_the_commands_name_both(site: Path, plain_last: bool) -> None:
    builds = [("onnxruntime-gpu", "1.31.1", CUDA), ("onnxruntime", "1.31.0", PLAIN)]
    for name, version, files in builds if plain_last else builds[::-1]:
        install(site, name, version, files)
    (finding,) = installed.runtime_on_disk(installed.installed_runtimes())
    assert finding.status == "broken"
    assert "onnxruntime 1.31.0 and onnxruntime-gpu 1.31.1" in finding.text
    owner = "onnxruntime" if plain_last else "onnxruntime-gpu"
    assert f"its files are {owner}'s" in finding.text
    assert finding.advice is not None
    assert finding.advice.startswith("pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime")


def test_removing_one_of_two_leaves_the_other_half_removed(site: Path) -> None:
    install(site, "onnxruntime", "1.31.0", PLAIN)
    install(site, "onnxruntime-gpu", "1.31.1", CUDA)
    uninstall(site, "onnxruntime", "1.31.0")
    (finding,) = installed.runtime_on_disk(installed.installed_runtimes())
    assert finding.status == "broken" and "half removed" in finding.text and BINARY in finding.text
    assert finding.advice is not None and finding.advice.startswith("pip uninstall -y onnxruntime-gpu && ")


def test_a_build_copied_over_the_installed_one_is_seen_by_the_size_of_its_binaries(site: Path) -> None:
    install(site, "onnxruntime-gpu", "1.31.1", CUDA)
    (site / BINARY).write_bytes(b"somebody else's")
    (finding,) = installed.runtime_on_disk(installed.installed_runtimes())
    assert finding.status == "broken" and "another build" in finding.text


def test_a_folder_without_metadata_and_without_a_module_is_a_leftover(site: Path) -> None:
    (site / "onnxruntime" / "capi").mkdir(parents=True)
    (finding,) = installed.runtime_on_disk(installed.installed_runtimes())
    assert finding.status == "broken" and "leftovers" in finding.text


def test_a_runtime_without_metadata_is_only_noted(site: Path) -> None:
    (site / "onnxruntime").mkdir()
    (site / "onnxruntime" / "__init__.py").touch()
    (finding,) = installed.runtime_on_disk(installed.installed_runtimes())
    assert finding.status == "note"


def test_nothing_there_is_nothing_found(site: Path) -> None:
    assert installed.runtime_on_disk(installed.installed_runtimes()) == []


@pytest.mark.parametrize(
    ("name", "owns"),
    [
        ("onnxruntime", True),
        ("onnxruntime-gpu", True),
        ("onnxruntime-directml", True),
        ("ort-nightly-gpu", True),
        ("onnxruntime-extensions", False),
        ("onnxruntime-genai-cuda", False),
        ("rapidocr-onnxruntime", False),
    ],
)
def test_which_distributions_share_the_folder(name: str, owns: bool) -> None:
    assert installed.is_runtime(name) is owns
