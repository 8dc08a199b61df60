"""What gets installed: the metadata, and every module in the wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def test_every_folder_with_python_in_it_is_a_listed_package(project: dict[str, Any]) -> None:
    folders = {
        file.parent.relative_to(ROOT)
        for top in ("onnxmorph", "cli")
        for file in (ROOT / top).rglob("*.py")
        if "__pycache__" not in file.parts
    }
    expected = {
        ".".join(folder.parts).replace("cli", "onnxmorph_cli", 1)
        if folder.parts[0] == "cli"
        else ".".join(folder.parts)
        for folder in folders
    }
    assert set(project["tool"]["setuptools"]["packages"]) == expected
    assert all((ROOT / folder / "__init__.py").is_file() for folder in folders)


def test_the_version_stands_in_two_places_alike(project: dict[str, Any]) -> None:
    import onnxmorph

    assert onnxmorph.__version__ == project["project"]["version"]


@pytest.mark.parametrize(
    ("system", "machine", "expected"),
    [
        ("linux", "x86_64", "onnxruntime-gpu"),
        ("win32", "AMD64", "onnxruntime-gpu"),
        ("linux", "aarch64", "onnxruntime"),
        ("win32", "ARM64", "onnxruntime"),
        ("darwin", "arm64", "onnxruntime"),
        ("darwin", "x86_64", "onnxruntime"),
    ],
)
def test_each_platform_gets_exactly_one_runtime(
    project: dict[str, Any], monkeypatch: pytest.MonkeyPatch, system: str, machine: str, expected: str
) -> None:
    from onnxmorph.doctor.declared import parse_requirement

    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    parsed = [parse_requirement(line) for line in project["project"]["dependencies"]]
    assert [found.name for found in parsed if found and found.name.startswith("onnxruntime")] == [expected]


def test_the_extras_are_those_the_readers_are_told_of(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    assert set(extras) == {"cuda", "cuda12", "train", "search", "remote", "dask", "dev"}
    # The plain runtime and the CUDA one share a folder: nothing but the two marked lines may bring either.
    assert not any(
        line.startswith("onnxruntime") for name in ("train", "search", "remote", "dask", "dev") for line in extras[name]
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names in a wheel built from a copy, so that no build folder is left in the tree."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("onnxmorph", "cli"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("onnxmorph-*.whl")
    with zipfile.ZipFile(built) as archive:
        return archive.namelist()


def test_the_wheel_holds_every_module(wheel: list[str]) -> None:
    modules = {
        str(file.relative_to(ROOT)).replace("cli/", "onnxmorph_cli/", 1)
        if top == "cli"
        else str(file.relative_to(ROOT))
        for top in ("onnxmorph", "cli")
        for file in (ROOT / top).rglob("*.py")
    }
    assert modules - set(wheel) == set()
    assert {name for name in wheel if name.endswith(".py")} == modules


def test_the_wheel_holds_types_licence_and_entry_point(wheel: list[str]) -> None:
    assert {"onnxmorph/py.typed", "onnxmorph_cli/py.typed"} <= set(wheel)
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in wheel)
    assert any(name.endswith("dist-info/entry_points.txt") for name in wheel)
    assert {name.split("/")[0].removesuffix(".dist-info").split("-")[0] for name in wheel} == {
        "onnxmorph",
        "onnxmorph_cli",
    }
