"""The hooks for pre-commit: their entries run with file names, in a repository, as pre-commit runs them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from onnxmorph import model as models
from onnxmorph.delivery import Check, deliver
from onnxmorph.morphs import plan_deepen
from onnxmorph.plan import apply
from tests.ci.models import equal_child, make, wrong_child

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def hooks() -> dict[str, dict[str, object]]:
    yaml = pytest.importorskip("yaml")
    return {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))}


def run(hook: str, folder: Path, *words: str) -> tuple[int, str]:
    """Runs the entry; ``python`` is the one that has onnxmorph, as in the environment that pre-commit makes."""
    program, *entry = shlex.split(str(hooks()[hook]["entry"]))
    assert program == "python"
    done = subprocess.run(
        [sys.executable, *entry, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    assert "Traceback" not in done.stdout
    return done.returncode, done.stdout


def git(folder: Path, *words: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false", *words],
        cwd=folder,
        check=True,
        capture_output=True,
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = make(tmp_path)
    git(folder, "init", "-q")
    git(folder, "add", "parent.onnx", "child.onnx")
    git(folder, "commit", "-q", "-m", "models")
    return folder


def grow(folder: Path, *, check: bool = True) -> Path:
    parent = models.load(folder / "parent.onnx")
    child = apply(parent, [plan_deepen(parent, "conv2", seed=1)])
    path = folder / "grown.onnx"
    deliver(parent, child, path, check=Check("cpu") if check else None, overwrite=True)
    return path


def test_the_hooks_are_those_that_are_documented() -> None:
    found = hooks()
    assert set(found) == {"onnxmorph-certificate", "onnxmorph-verify"}
    page = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    for name, hook in found.items():
        assert name in page and hook["language"] == "python"
        matching = re.compile(str(hook["files"]))
        assert matching.search("a/b.onnx") and matching.search("b.onnx.data") and not matching.search("b.onnx.md")


def test_a_child_as_certified_passes_and_one_changed_since_does_not(repository: Path) -> None:
    path = grow(repository)
    assert run("onnxmorph-certificate", repository, "grown.onnx", "parent.onnx")[0] == 0
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        if tensor.name == "features.conv3.bias":
            tensor.raw_data = bytes(len(tensor.raw_data))
    onnx.save(proto, path)
    code, said = run("onnxmorph-certificate", repository, "grown.onnx", "parent.onnx")
    assert code == 1 and "grown.onnx: not equivalent: the child was changed since" in said


def test_a_child_nobody_verified_passes_only_when_allowed(repository: Path) -> None:
    grow(repository, check=False)
    code, said = run("onnxmorph-certificate", repository, "grown.onnx")
    assert code == 1 and "never verified" in said
    assert run("onnxmorph-certificate", repository, "--allow-unverified", "grown.onnx")[0] == 0


def test_a_broken_file_is_4(repository: Path) -> None:
    for hook in hooks():
        shutil.copy(repository / "broken.onnx", repository / "parent.onnx")
        code, said = run(hook, repository, "parent.onnx")
        assert code == 4 and "parent.onnx: failed: " in said


def test_a_model_is_compared_with_its_committed_version(repository: Path) -> None:
    before = repository / "before.onnx"
    shutil.copy(repository / "parent.onnx", before)
    equal_child(before, repository / "parent.onnx")
    shutil.copy(before, repository / "new.onnx")
    code, said = run("onnxmorph-verify", repository, "--provider", "cpu", "parent.onnx", "new.onnx")
    assert (code, said.splitlines()) == (
        0,
        ["parent.onnx: equivalent", "new.onnx: not in HEAD: nothing to compare with"],
    )
    wrong_child(before, repository / "parent.onnx")
    code, said = run("onnxmorph-verify", repository, "--provider", "cpu", "parent.onnx", "child.onnx")
    assert code == 1 and "parent.onnx: not equivalent: " in said and "child.onnx: equivalent" in said


def test_a_data_file_stands_for_its_model_and_comes_from_the_commit(repository: Path) -> None:
    proto = onnx.load(repository / "parent.onnx")
    folder = repository / "sub"
    folder.mkdir()
    onnx.save(proto, folder / "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    git(repository, "add", "sub")
    git(repository, "commit", "-q", "-m", "external")
    assert run("onnxmorph-verify", repository, "--provider", "cpu", "sub/m.onnx.data")[0] == 0
    data = bytearray((folder / "m.onnx.data").read_bytes())
    data[-4000:] = bytes(4000)
    (folder / "m.onnx.data").write_bytes(data)
    code, said = run("onnxmorph-verify", repository, "--provider", "cpu", "sub/m.onnx.data", "sub/m.onnx")
    assert code == 1 and said.count("not equivalent") == 1


def test_outside_of_a_repository_git_says_so_in_a_line(tmp_path: Path) -> None:
    make(tmp_path)
    code, said = run("onnxmorph-verify", tmp_path, "parent.onnx")
    assert code == 4 and said.count("\n") == 1 and "git" in said
