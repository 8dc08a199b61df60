"""``verify`` as a gate: many pairs in one call, JUnit XML, summary, annotations, and which exit code wins."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.ci.models import make
from tests.cli.conftest import Run
from tests.report.test_junit import check_schema

CPU = ("--provider", "cpu")


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return make(tmp_path)


def folders(models: Path, **children: str) -> None:
    """``before`` and ``after``, with one pair for each; an empty child is none."""
    for name in ("before", "after"):
        (models / name / "sub").mkdir(parents=True)
    for name, child in children.items():
        shutil.copy(models / "parent.onnx", models / "before" / "sub" / f"{name}.onnx")
        if child:
            shutil.copy(models / f"{child}.onnx", models / "after" / "sub" / f"{name}.onnx")


def test_one_pair_writes_all_reports_and_says_what_it_said_before(run: Run, models: Path) -> None:
    plain = run("verify", "parent.onnx", "wrong.onnx", *CPU)
    ended = run("verify", "parent.onnx", "wrong.onnx", *CPU, "--junit", "j.xml", "--summary", "s.md", "--annotations")
    assert (ended.code, ended.out) == (1, plain.out)
    assert ended.err.startswith("::error file=wrong.onnx,title=wrong.onnx%3A not equivalent::inner value")
    root = check_schema((models / "j.xml").read_text(encoding="utf-8"))
    assert {failure.get("type") for failure in root.iter("failure")} == {"not equivalent"}
    assert "```mermaid" not in (models / "s.md").read_text(encoding="utf-8"), "no node changed"
    assert run("verify", "parent.onnx", "wrong.onnx", *CPU, "--json", "--annotations").document["equivalent"] is False


def test_what_cannot_be_compared_is_an_error_in_junit_and_said_as_ever(run: Run, models: Path) -> None:
    ended = run("verify", "parent.onnx", "broken.onnx", "--junit", "j.xml", "--summary", "s.md", "--annotations")
    assert ended.code == 4 and "::error file=broken.onnx" in ended.err and "onnxmorph: error: broken.onnx" in ended.err
    root = check_schema((models / "j.xml").read_text(encoding="utf-8"))
    assert [case.find("error") is not None for case in root.iter("testcase")] == [True]
    assert "broken.onnx" in (models / "s.md").read_text(encoding="utf-8")


def test_folders_are_compared_by_the_path_below_them(run: Run, models: Path) -> None:
    folders(models, a="child", b="wrong", c="broken", d="")
    shutil.copy(models / "parent.onnx", models / "after" / "new.onnx")
    ended = run("verify", "before", "after", *CPU, "--json", "--junit", "j.xml")
    assert ended.code == 1
    pairs = {pair["name"]: pair for pair in ended.document["pairs"]}
    assert {name: pair["verdict"] for name, pair in pairs.items()} == {
        "sub/a.onnx": "equivalent",
        "sub/b.onnx": "not equivalent",
        "sub/c.onnx": "failed",
        "sub/d.onnx": "failed",
        "new.onnx": "skipped",
    }
    assert ended.document["equivalent"] is False and ended.document["exit_code"] == 1
    assert "its child is not" in pairs["sub/d.onnx"]["reason"] and pairs["sub/a.onnx"]["certificate"]["inputs"] > 0
    root = check_schema((models / "j.xml").read_text(encoding="utf-8"))
    assert root.get("errors") == "2" and len(root) == 5
    (models / "after" / "sub" / "b.onnx").unlink()
    assert run("verify", "before", "after", *CPU, "-q").out == "1 equivalent, 3 failed, 1 skipped\n"
    assert run("verify", "before", "after", *CPU, "-q").code == 4


def test_a_folder_within_the_other_is_not_compared_with_itself(run: Run, models: Path) -> None:
    (models / "grown").mkdir()
    for name in ("wrong", "broken", "child"):
        (models / f"{name}.onnx").unlink()
    shutil.copy(models / "parent.onnx", models / "grown")
    ended = run("verify", ".", "grown", *CPU)
    assert ended.code == 0 and ended.out.splitlines()[-1] == "1 equivalent"


def test_a_list_of_pairs_is_read_from_its_own_folder(run: Run, models: Path) -> None:
    (models / "lists").mkdir()
    (models / "lists" / "pairs.txt").write_text(
        "# parent child\n../parent.onnx ../child.onnx\n\n'../parent.onnx'\t../parent.onnx # itself\n"
    )
    ended = run("verify", "--pairs", "lists/pairs.txt", *CPU)
    assert ended.code == 0 and ended.out.splitlines()[-1] == "2 equivalent"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("parent.onnx\n", "pairs.txt:1"),
        ("a b c\n", "pairs.txt:1"),
        ("\n'a b\n", "pairs.txt:2"),
        ("# none\n", "no pair"),
    ],
)
def test_a_list_that_cannot_be_read_is_usage(run: Run, models: Path, text: str, said: str) -> None:
    (models / "pairs.txt").write_text(text)
    ended = run("verify", "--pairs", "pairs.txt")
    assert ended.code == 2 and said in ended.err


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("parent.onnx",),
        ("parent.onnx", "child.onnx", "--pairs", "x"),
        ("--pairs", "nowhere.txt"),
        (".", "parent.onnx"),
        ("empty", "empty"),
        ("parent.onnx", "child.onnx", "--summary", "-"),
        ("parent.onnx", "child.onnx", "--junit", "x", "--summary", "x"),
        ("parent.onnx", "child.onnx", "--junit", "child.onnx"),
        ("parent.onnx", "child.onnx", "--summary", "nowhere/s.md"),
    ],
)
def test_usage_is_said_before_anything_runs(run: Run, models: Path, words: tuple[str, ...]) -> None:
    (models / "empty").mkdir()
    before = {path.name: path.stat().st_mtime_ns for path in models.iterdir()}
    ended = run("verify", *words)
    assert (ended.code, ended.out) == (2, "") and ended.err.count("\n") == 1
    assert {path.name: path.stat().st_mtime_ns for path in models.iterdir()} == before


def test_the_step_summary_is_added_to(run: Run, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(models / "step.md"))
    (models / "step.md").write_text("earlier\n")
    for child in ("child", "wrong"):
        run("verify", "parent.onnx", f"{child}.onnx", *CPU, "--summary", "-")
    text = (models / "step.md").read_text(encoding="utf-8")
    assert text.startswith("earlier\n") and text.count("## ") >= 2 and "```mermaid" in text and "❌" in text


def test_a_page_of_a_morph_and_of_one_that_was_just_made(run: Run, models: Path) -> None:
    ended = run(
        "deepen", "parent.onnx", "--after", "conv2", "-o", "grown.onnx", *CPU, "--report", "made.html", "--json"
    )
    assert ended.code == 0 and ended.document["report"] == "made.html"
    made = (models / "made.html").read_text(encoding="utf-8")
    assert "✓ equivalent" in made and "New kernels" in made and "parent.onnx → grown.onnx" in made
    ended = run("report", "parent.onnx", "grown.onnx", "-o", "page.html")
    assert ended.code == 0 and "As the certificate says" in (models / "page.html").read_text(encoding="utf-8")
    ended = run("report", "parent.onnx", "wrong.onnx", "-o", "page.html", *CPU)
    assert ended.code == 1 and "✗ not equivalent" in (models / "page.html").read_text(encoding="utf-8")
    ended = run("report", "parent.onnx", "wrong.onnx", "-o", "page.html", "--no-verify", "--json")
    assert ended.code == 0 and ended.document["equivalent"] is None
    # A certificate of other models is none of these two.
    shutil.copy(models / "child.onnx", models / "parent.onnx")
    ended = run("report", "parent.onnx", "grown.onnx", "-o", "page.html", *CPU)
    assert "As the certificate says" not in (models / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "words",
    [
        ("report", "parent.onnx", "child.onnx"),
        ("report", "parent.onnx", "child.onnx", "-o", "child.onnx"),
        ("report", "parent.onnx", "child.onnx", "-o", "x.html", "--junit", "j.xml"),
        ("report", "parent.onnx", "-o", "x.html"),
        ("report", "good.toml", "-o", "x.html"),
        ("deepen", "parent.onnx", "--after", "conv2", "--report", "child.onnx"),
        ("deepen", "parent.onnx", "--after", "conv2", "--report", "x.html", "--dry-run"),
    ],
)
def test_a_page_that_cannot_be_written_is_usage(run: Run, models: Path, words: tuple[str, ...]) -> None:
    before = (models / "child.onnx").read_bytes()
    ended = run(*words)
    assert (ended.code, ended.out) == (2, "") and ended.err.count("\n") == 1
    assert (models / "child.onnx").read_bytes() == before and not (models / "x.html").exists()


def test_a_batch_becomes_a_page_and_junit(run: Run, models: Path) -> None:
    ended = run("batch", "good.toml", "parent.onnx", "-o", "out", "--jobs", "1", *CPU, "-q")
    assert ended.code == 0
    ended = run("report", "out/report.json", "-o", "batch.html", "--junit", "batch.xml")
    assert ended.code == 0 and "1 equivalent" in ended.out
    root = ET.parse(models / "batch.xml").getroot()
    assert int(root.get("tests", "")) >= 2 and root.get("failures") == "0"
    assert "good.toml: 1 model" in (models / "batch.html").read_text(encoding="utf-8")
