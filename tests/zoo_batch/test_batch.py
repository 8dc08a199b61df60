"""Batches of models that crash, hang, refuse and change, seen from outside."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from onnxmorph import model as files
from onnxmorph.delivery import Check
from onnxmorph.errors import ModelError, SelectionError
from onnxmorph.zoo import BatchReport, Limits, Settings, Watcher, dry_run, run_batch
from onnxmorph.zoo.batch import _only_one

from .conftest import Zoo

SAMPLES = Path(__file__).resolve().parents[2] / "models"
QUICK = Settings(jobs=2, limits=Limits(60.0))


def _outcomes(report: BatchReport) -> dict[str, str]:
    return {Path(entry.model).name: entry.outcome for entry in report.models}


def _run_again(report: BatchReport) -> set[str]:
    return {Path(entry.model).name for entry in report.models if not entry.up_to_date}


def _files(folder: Path) -> set[str]:
    """Everything in an output folder but the journal and the reports."""
    own = {".onnxmorph-batch/journal.jsonl", ".onnxmorph-batch/lock", "report.json", "report.md", "report.html"}
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - own


@pytest.mark.usefixtures("faulty")
def test_every_way_of_ending_is_one_models_own(zoo: Zoo, recipe: Path, tmp_path: Path) -> None:
    names = ["good", "a/good", "a/data", "crash", "hang", "half", "refuse", "wrong", "leave"]
    folder = zoo(*(f"{name}.onnx" for name in names))
    out = tmp_path / "out"
    impatient = replace(QUICK, limits=Limits(4.0))
    report = run_batch(recipe, [f"{folder}/**/*.onnx"], out, impatient)
    codes = {entry.model.removeprefix(f"{folder}/"): (entry.outcome, entry.code) for entry in report.models}
    assert codes == {
        "good.onnx": ("done", None),
        "a/good.onnx": ("done", None),
        "a/data.onnx": ("done", None),
        "crash.onnx": ("failed", "crash"),
        "leave.onnx": ("failed", "crash"),
        "half.onnx": ("failed", "crash"),
        "hang.onnx": ("failed", "time-limit"),
        "refuse.onnx": ("refused", "some-reason"),
        "wrong.onnx": ("not-equivalent", "not-equivalent"),
    }
    assert _files(out) == {"good.onnx", "a/good.onnx", "a/data.onnx", "a/data.onnx.data"}
    assert report.exit_code == 1
    assert report.counts == {
        "models": 9,
        "done": 3,
        "not-equivalent": 1,
        "failed": 4,
        "refused": 1,
        "up_to_date": 0,
    }
    document = json.loads((out / "report.json").read_text())
    assert document == json.loads(json.dumps(report.to_json()))
    assert document["schema"] == 1 and document["counts"] == report.counts
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    for entry in report.models:
        assert Path(entry.model).name in page and entry.outcome in text
    # What failed is tried again; what follows from the bytes alone is not.
    again = run_batch(recipe, [f"{folder}/**/*.onnx"], out, impatient)
    assert _run_again(again) == {"crash.onnx", "leave.onnx", "half.onnx", "hang.onnx"}
    assert _outcomes(again) == _outcomes(report) and again.exit_code == 1


@pytest.mark.usefixtures("faulty")
def test_only_what_changed_is_done_again(zoo: Zoo, recipe: Path, tmp_path: Path) -> None:
    folder = zoo("x.onnx", "y.onnx", "data.onnx")
    out = tmp_path / "out"
    globs = [f"{folder}/*.onnx"]
    run_batch(recipe, globs, out, QUICK)
    times = {name: (out / name).stat().st_mtime_ns for name in ("x.onnx", "y.onnx")}
    assert _run_again(run_batch(recipe, globs, out, QUICK)) == set()
    # A parent's bytes, and not its time.
    (folder / "y.onnx").touch()
    (folder / "x.onnx").write_bytes(b"x changed")
    assert _run_again(run_batch(recipe, globs, out, QUICK)) == {"x.onnx"}
    assert (out / "x.onnx").read_bytes() == b"x changed"
    assert (out / "y.onnx").stat().st_mtime_ns == times["y.onnx"]
    # A child that is gone.
    (out / "data.onnx.data").unlink()
    (out / "data.onnx").unlink()
    assert _run_again(run_batch(recipe, globs, out, QUICK)) == {"data.onnx"}
    # The recipe's text, the options, and being told to.
    recipe.write_text(recipe.read_text() + "\n# changed\n")
    assert len(_run_again(run_batch(recipe, globs, out, QUICK))) == 3
    seeded = replace(QUICK, check=Check(seed=1))
    assert len(_run_again(dry_run(recipe, globs, out, seeded))) == 3
    assert len(_run_again(run_batch(recipe, globs, out, replace(QUICK, fresh=True)))) == 3
    assert _run_again(run_batch(recipe, globs, out, replace(QUICK, jobs=1))) == set()


@pytest.mark.usefixtures("faulty")
def test_nothing_of_the_users_is_overwritten(zoo: Zoo, recipe: Path, tmp_path: Path) -> None:
    folder = zoo("x.onnx", "y.onnx")
    out = tmp_path / "out"
    out.mkdir()
    (out / "x.onnx").write_bytes(b"mine")
    for run in (run_batch, dry_run):
        with pytest.raises(SelectionError, match=r"x\.onnx: there already"):
            run(recipe, [str(folder)], out, QUICK)
    assert _files(out) == {"x.onnx"} and (out / "x.onnx").read_bytes() == b"mine"
    run_batch(recipe, [str(folder)], out, replace(QUICK, force=True))
    assert (out / "x.onnx").read_bytes() == b"x.onnx"
    (out / "x.onnx").write_bytes(b"a child, changed by hand")
    with pytest.raises(SelectionError, match="there already"):
        run_batch(recipe, [str(folder)], out, QUICK)
    (out / "x.onnx").write_bytes(b"x.onnx")
    assert run_batch(recipe, [str(folder)], out, QUICK).exit_code == 0
    (out / "report.md").write_text("my own notes")
    with pytest.raises(SelectionError, match=r"report\.md: there already"):
        run_batch(recipe, [str(folder)], out, QUICK)


@pytest.mark.usefixtures("faulty")
def test_a_dry_run_writes_nothing(zoo: Zoo, recipe: Path, tmp_path: Path) -> None:
    folder = zoo("x.onnx", "y.onnx")
    report = dry_run(recipe, [str(folder)], tmp_path / "out", QUICK)
    assert _outcomes(report) == {"x.onnx": "pending", "y.onnx": "pending"} and report.exit_code == 0
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_from_the_start_is_said_before_anything_runs(zoo: Zoo, recipe: Path, tmp_path: Path) -> None:
    folder = zoo("x.onnx")
    broken = tmp_path / "broken.toml"
    broken.write_text('[[step]]\nmorph = "deepn"\n')
    with pytest.raises(SelectionError, match="did you mean 'deepen'"):
        run_batch(broken, [str(folder)], tmp_path / "out")
    with pytest.raises(SelectionError, match="no model at"):
        run_batch(recipe, [f"{folder}/*.omnx"], tmp_path / "out")
    with pytest.raises(SelectionError, match="no folder"):
        run_batch(recipe, [str(folder)], recipe)
    with pytest.raises(SelectionError, match="inputs cannot be read"):
        run_batch(recipe, [str(folder)], tmp_path / "out", Settings(check=Check(inputs=tmp_path / "none.npz")))
    assert not (tmp_path / "out").exists()


def test_two_batches_do_not_meet_in_one_folder(zoo: Zoo, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with _only_one(out / ".onnxmorph-batch"), pytest.raises(ModelError, match="another batch is at work"):
        run_batch(recipe, [str(zoo("x.onnx"))], out)


@pytest.mark.usefixtures("faulty")
def test_an_interrupt_ends_the_workers_and_leaves_nothing_behind(zoo: Zoo, recipe: Path, tmp_path: Path) -> None:
    folder = zoo("good.onnx", "hang.onnx")

    class Interrupted(Watcher):
        def ended(self, entry: object) -> None:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_batch(recipe, [str(folder)], out, replace(QUICK, limits=Limits(600)), Interrupted())
    assert _files(out) == {"good.onnx"} and not list((out / ".onnxmorph-batch").glob("staged*"))
    assert _run_again(dry_run(recipe, [str(folder)], out, QUICK)) == {"hang.onnx"}


def test_refusals_alone_fail_a_gate_unless_they_are_allowed() -> None:
    from onnxmorph.zoo import ModelEntry

    def code(*outcomes: str, allowed: bool = False) -> int:
        entries = tuple(ModelEntry("m", None, outcome) for outcome in outcomes)
        return BatchReport("r", "", "out", {}, entries, allow_refused=allowed).exit_code

    assert code("done") == 0
    assert code("done", "refused") == 3 and code("done", "refused", allowed=True) == 0
    assert code("refused", allowed=True) == 3
    assert code("done", "refused", "failed", allowed=True) == 4
    assert code("refused", "failed", "not-equivalent", "done") == 1


def test_hostile_names_stay_text_in_the_reports(tmp_path: Path) -> None:
    from onnxmorph.zoo import ModelEntry
    from onnxmorph.zoo.report import as_html, as_json, as_markdown

    name = "<script>alert(1)</script>|`*_[x](y)\n.onnx"
    entry = ModelEntry(name, name, "failed", code="<b>", reason=name, plans=(name,), notes=(name,), ratio="inf")
    report = BatchReport(name, "```\n<script>", "out", {}, (entry,))
    assert "<script>" not in as_html(report)
    table = as_markdown(report).split("## Recipe")[0]
    assert "<script>" not in table and "\\|" in table and table.count("\n|") == 3 + 3
    assert json.loads(as_json(report))["models"][0]["model"] == name


def test_real_models_with_external_data_and_an_unreadable_one(recipe: Path, tmp_path: Path) -> None:
    from onnxmorph.verify import verify

    folder = tmp_path / "zoo"
    folder.mkdir()
    shutil.copy(SAMPLES / "digits_mlp.onnx", folder / "plain.onnx")
    files.save(files.load(SAMPLES / "digits_cnn.onnx"), folder / "apart.onnx", external=True)
    (folder / "broken.onnx").write_bytes(b"no model at all")
    out = tmp_path / "out"
    report = run_batch(recipe, [str(folder)], out, Settings(jobs=2))
    assert _outcomes(report) == {"plain.onnx": "done", "apart.onnx": "done", "broken.onnx": "failed"}
    assert report.exit_code == 4
    entries = {Path(entry.model).name: entry for entry in report.models}
    assert "not an ONNX model" in str(entries["broken.onnx"].reason)
    assert _files(out) == {"plain.onnx", "apart.onnx", "apart.onnx.data"}
    for name in ("plain.onnx", "apart.onnx"):
        assert verify(folder / name, out / name, time_budget=1).equivalent
        child = files.load(out / name)
        assert entries[name].content_hash == files.content_hash(child)
        assert entries[name].parameters["after"] > entries[name].parameters["before"]  # type: ignore[operator]
        assert files.certificate_of(child)["equivalent"] is True  # type: ignore[index]
        assert entries[name].certificate["equivalent"] is True  # type: ignore[index]
    # External data are part of the parent's bytes.
    data = bytearray((folder / "apart.onnx.data").read_bytes())
    data[0] ^= 1
    (folder / "apart.onnx.data").write_bytes(data)
    assert _run_again(run_batch(recipe, [str(folder)], out, Settings(jobs=1))) == {"apart.onnx", "broken.onnx"}


@pytest.mark.usefixtures("faulty")
@pytest.mark.skipif(sys.platform != "linux", reason="names that are not text are Linux's own")
def test_a_name_that_is_no_text_is_grown_like_any_other(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "zoo"
    folder.mkdir()
    name = os.fsdecode(b"good \xff \xc3\xa9.onnx")
    (folder / name).write_bytes(b"x")
    out = tmp_path / "out"
    assert run_batch(recipe, [str(folder)], out, QUICK).exit_code == 0
    assert (out / name).read_bytes() == b"x"
    assert _run_again(run_batch(recipe, [str(folder)], out, QUICK)) == set()
    assert "good" in (out / "report.html").read_text(encoding="utf-8")
