"""Which parents a glob finds, and what their children are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxmorph.errors import SelectionError
from onnxmorph.zoo.selection import select_parents, split_glob
from onnxmorph.zoo.stores import LocalStore

from .conftest import Zoo


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("zoo/**/*.onnx", ("zoo", "**/*.onnx")),
        ("*.onnx", (".", "*.onnx")),
        ("/a/b/c?.onnx", ("/a/b", "c?.onnx")),
        ("/*.onnx", ("/", "*.onnx")),
        ("a/b.onnx", ("a", "b.onnx")),
        ("b.onnx", (".", "b.onnx")),
        ("a/[xy]/*/c.onnx", ("a", "[xy]/*/c.onnx")),
    ],
)
def test_the_fixed_part_of_a_glob(text: str, expected: tuple[str, str]) -> None:
    assert split_glob(text) == expected


def _names(texts: list[str], output: Path) -> list[str]:
    return [parent.name for parent in select_parents(texts, LocalStore(str(output))).parents]


def test_names_mirror_the_tree_below_the_fixed_part(zoo: Zoo, tmp_path: Path) -> None:
    folder = zoo("a/x.onnx", "a/b/x.onnx", "y.onnx", "y.onnx.data", "notes.txt", ".hidden/z.onnx", "LOUD.ONNX")
    out = tmp_path / "out"
    assert _names([f"{folder}/**/*.onnx"], out) == ["a/b/x.onnx", "a/x.onnx", "y.onnx"]
    assert _names([f"{folder}/**"], out) == ["LOUD.ONNX", "a/b/x.onnx", "a/x.onnx", "y.onnx"]
    assert _names([str(folder)], out) == ["a/b/x.onnx", "a/x.onnx", "y.onnx"]
    assert _names([f"{folder}/a/*.onnx", f"{folder}/y.onnx"], out) == ["x.onnx", "y.onnx"]
    assert _names([f"{folder}/notes.txt"], out) == ["notes.txt"]


def test_a_file_that_two_globs_find_is_taken_once(zoo: Zoo, tmp_path: Path) -> None:
    folder = zoo("a/x.onnx", "y.onnx")
    assert _names([f"{folder}/**/*.onnx", f"{folder}/a/*.onnx"], tmp_path / "out") == ["a/x.onnx", "y.onnx"]


def test_names_with_magic_characters_are_taken_as_they_stand(zoo: Zoo, tmp_path: Path) -> None:
    folder = zoo("net[1].onnx", "a[b]/x.onnx")
    assert _names([f"{folder}/net[1].onnx", f"{folder}/a[b]/x.onnx"], tmp_path / "out") == ["net[1].onnx", "x.onnx"]


@pytest.mark.parametrize(
    ("texts", "names", "says"),
    [
        (["{z}/a/x.onnx", "{z}/b/x.onnx"], ["a/x.onnx", "b/x.onnx"], "would both become .*quote a glob"),
        (["{z}/*.onnx", "{z}/b/x.onnx.data"], ["x.onnx", "b/x.onnx.data"], "needs a name that"),
        (["{z}/b/**/*.onnx", "{z}/*.onnx"], ["b/x.onnx/y.onnx", "x.onnx"], "needs a name that"),
        (["{z}/report.json"], ["report.json"], "keeps its own"),
        (["{z}/**/../*.onnx"], ["a/x.onnx"], r"without '\.\.'"),
        (["{z}/**/*.onxx"], ["a/x.onnx"], "no model at .*x.onnx"),
        (["{z}/a/y.onnx"], ["a/x.onnx"], "did you mean .*a/x.onnx"),
        (["{z}/b/x.onnx"], ["a/x.onnx"], "did you mean .*a/x.onnx"),
        (["{z}"], ["notes.txt"], "holds no .onnx file"),
        ([""], [], "empty"),
    ],
)
def test_what_could_make_two_models_meet_or_finds_none_is_said(
    zoo: Zoo, tmp_path: Path, texts: list[str], names: list[str], says: str
) -> None:
    folder = zoo(*names)
    with pytest.raises(SelectionError, match=says):
        _names([text.format(z=folder) for text in texts], tmp_path / "out")


def test_children_are_not_taken_as_parents(zoo: Zoo, tmp_path: Path) -> None:
    folder = zoo("x.onnx", "out/x.onnx", "out/deep/y.onnx")
    found = select_parents([f"{folder}/**/*.onnx"], LocalStore(str(folder / "out")))
    assert [parent.name for parent in found.parents] == ["x.onnx"]
    assert len(found.left_out) == 2
    for text in (f"{folder}/out/x.onnx", f"{folder}/out/**/*.onnx"):
        with pytest.raises(SelectionError, match="lies in the output folder"):
            _names([text], folder / "out")
    with pytest.raises(SelectionError, match="lies in the output folder"):
        _names([f"{folder}/**/*.onnx"], folder)
    (tmp_path / "link").symlink_to(folder / "out")
    with pytest.raises(SelectionError, match="lies in the output folder"):
        _names([f"{tmp_path}/link/x.onnx"], folder / "out")


def test_a_link_in_the_output_folder_does_not_lead_a_child_onto_its_parent(zoo: Zoo, tmp_path: Path) -> None:
    folder = zoo("a/x.onnx")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").symlink_to(folder / "a")
    with pytest.raises(SelectionError, match="would lie on a parent"):
        _names([f"{folder}/**/*.onnx"], tmp_path / "out")
