"""Every verb that grows a model keeps one contract: verified child, plan, certificate; nothing written on refusal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from onnxmorph import model
from onnxmorph_cli.main import VERBS
from tests.cli.conftest import Run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"

RECIPE = """
seed = 1

[[step]]
morph = "kernel"
layers = "conv1"
to = 5

[[step]]
morph = "deepen"
where = { op = "Conv", last = 1 }
"""

CALLS = {
    "deepen": ["digits_cnn.onnx", "--after", "conv2"],
    "widen": ["digits_cnn.onnx", "--layer", "conv2", "--by", "1.5"],
    "kernel": ["digits_cnn.onnx", "--layer", "conv2", "--to", "5"],
    "subnet": ["digits_cnn.onnx", "--layer", "conv2", "--template", "(3:24x4)(1:24)"],
    "skip": ["digits_cnn.onnx", "--from", "conv1", "--to", "conv2"],
    "activate": ["digits_cnn.onnx"],
    "apply": ["recipe.toml", "digits_cnn.onnx"],
}

UNUSABLE = {
    "widen": ["digits_cnn.onnx", "--layer", "classifier", "--to", "12"],
    "deepen": ["digits_mlp.onnx", "--after", "#0", "--kernel", "3"],
    "kernel": ["digits_mlp.onnx", "--layer", "#0", "--to", "5"],
    "activate": ["digits_mlp.onnx", "--layer", "#2"],
}


def test_every_verb_has_its_section_and_its_row_in_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    sections = re.findall(r"^## (\w+)$", text, flags=re.MULTILINE)
    rows = re.findall(r"^\| \[`(\w+)`\]\(#\1\) \|", text, flags=re.MULTILINE)
    assert rows == list(VERBS)
    assert set(VERBS) <= set(sections)


@pytest.mark.parametrize("verb", CALLS)
def test_a_morph_gives_a_verified_child_and_tells_all_of_it(run: Run, folder: Path, verb: str) -> None:
    (folder / "recipe.toml").write_text(RECIPE)
    ended = run(verb, *CALLS[verb], "--json", "--provider", "cpu", "-o", "child.onnx")
    assert (ended.code, ended.err) == (0, ""), ended.err
    document = ended.document
    assert document["child"] == "child.onnx" and document["plan"]["morph"] == verb
    assert document["certificate"]["equivalent"] is True
    for factor in document["factors"]:
        assert {"name", "occupancy", "scale_ratio"} <= set(factor)
    assert isinstance(document["residual"], float)
    child = model.load(folder / "child.onnx")
    assert model.records(child)
    certificate = model.certificate_of(child)
    assert certificate is not None and certificate["equivalent"] is True


@pytest.mark.parametrize("verb", CALLS)
def test_without_an_output_the_child_is_named_after_its_parent_and_the_verb(run: Run, folder: Path, verb: str) -> None:
    (folder / "recipe.toml").write_text(RECIPE)
    assert run(verb, *CALLS[verb], "-q", "--no-verify").out == f"digits_cnn.{verb}.onnx\n"


@pytest.mark.parametrize("verb", CALLS)
def test_a_dry_run_tells_and_writes_nothing(run: Run, folder: Path, verb: str) -> None:
    (folder / "recipe.toml").write_text(RECIPE)
    before = {file.name for file in folder.iterdir()}
    assert run(verb, *CALLS[verb], "--dry-run").out
    assert run(verb, *CALLS[verb], "--dry-run", "--json").document["child"] is None
    assert {file.name for file in folder.iterdir()} == before


@pytest.mark.parametrize("verb", UNUSABLE)
def test_what_cannot_be_done_is_refused_with_a_reason(run: Run, folder: Path, verb: str) -> None:
    before = {file.name for file in folder.iterdir()}
    ended = run(verb, *UNUSABLE[verb], "--json")
    assert ended.code == 3 and ended.document["refused"] and ended.document["code"]
    assert {file.name for file in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("[[step]]\nmorph = 'deepn'\n", "deepen"),
        ("[[step]]\n", "morph"),
        ("not toml", "recipe.toml"),
        ("[[step]]\nmorph = 'deepen'\nwidht = 3\n", "width"),
    ],
)
def test_a_recipe_that_cannot_be_read_is_a_usage_error(run: Run, folder: Path, recipe: str, says: str) -> None:
    (folder / "recipe.toml").write_text(recipe)
    ended = run("apply", "recipe.toml", "digits_cnn.onnx")
    assert (ended.code, ended.out) == (2, "") and says in ended.err and ended.err.count("\n") == 1


def test_a_missing_recipe_is_one_line(run: Run, folder: Path) -> None:
    ended = run("apply", "nowhere.toml", "digits_cnn.onnx")
    assert ended.code in (2, 4) and "nowhere.toml" in ended.err and "internal error" not in ended.err
