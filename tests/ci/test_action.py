"""The composite action: its own steps, run in a shell as a runner runs them, for every way it can end."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.ci.models import make

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = shutil.which("onnxmorph", path=str(Path(sys.executable).parent))

yaml = pytest.importorskip("yaml")
pytestmark = pytest.mark.skipif(
    PROGRAM is None or shutil.which("bash") is None,
    reason="onnxmorph is not installed for this Python (pip install -e .), or there is no bash",
)

ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS: dict[str, dict[str, Any]] = {step["id"]: step for step in ACTION["runs"]["steps"] if "id" in step}


@dataclass(frozen=True)
class Ended:
    """How a step ended, and what it left for the runner."""

    code: int
    said: str
    outputs: Mapping[str, str]
    summary: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.said.splitlines() if line.startswith("::error ")]


def run_step(name: str, folder: Path, inputs: Mapping[str, str], **environment: str) -> Ended:
    """Runs the shell of one step in ``folder``, with its ``env`` as the runner fills it in."""
    step = STEPS[name]
    assert step["shell"] == "bash"
    known = {f"inputs.{key}": inputs.get(key, spec["default"]) for key, spec in ACTION["inputs"].items()}
    assert not set(inputs) - set(ACTION["inputs"])
    known |= {"github.action_path": str(ROOT), "steps.install.outputs.program": str(PROGRAM)}
    # A name that the action misspells is a KeyError here, and an empty string on a runner.
    filled = {
        key: re.sub(r"\$\{\{ *(\S+) *\}\}", lambda found: known[found[1]], value) for key, value in step["env"].items()
    }
    files = {key: folder / f".{key}" for key in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    for file in files.values():
        file.unlink(missing_ok=True)
        file.touch()
    script = folder / ".step.sh"
    script.write_text(step["run"], encoding="utf-8")
    temporary = folder / ".runner"
    temporary.mkdir(exist_ok=True)
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
        cwd=folder,
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("GITHUB_")},
            "PYTHONPATH": str(ROOT),
            "RUNNER_TEMP": str(temporary),
            "GITHUB_ACTIONS": "true",
            **{key: str(file) for key, file in files.items()},
            **filled,
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    lines = files["GITHUB_OUTPUT"].read_text().splitlines()
    outputs = dict(line.split("=", 1) for line in lines)
    return Ended(done.returncode, done.stdout, outputs, files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "a folder")


def check(folder: Path, **inputs: str) -> Ended:
    return run_step("check", folder, {"provider": "cpu", **inputs})


def test_an_equivalent_child_passes_with_junit_and_a_summary(folder: Path) -> None:
    ended = check(folder, parent="parent.onnx", child="child.onnx", junit="results.xml")
    assert (ended.code, ended.errors) == (0, [])
    assert ended.outputs == {"exit-code": "0", "equivalent": "true"}
    assert "✅" in ended.summary and "```mermaid" in ended.summary
    suite = ET.parse(folder / "results.xml").getroot()[0]
    assert suite.get("failures") == "0" and int(suite.get("tests", "")) >= 2


def test_not_equivalent_is_1_with_the_first_value_that_differs(folder: Path) -> None:
    ended = check(folder, parent="parent.onnx", child="wrong.onnx", junit="results.xml")
    assert ended.code == 1 and ended.outputs == {"exit-code": "1", "equivalent": "false"}
    assert len(ended.errors) == 1 and ended.errors[0].startswith("::error file=wrong.onnx,title=")
    assert "/features/conv3/Conv_output_0" in ended.errors[0]
    assert "❌" in ended.summary and "differs" in ended.summary
    assert ET.parse(folder / "results.xml").findall(".//failure")


@pytest.mark.parametrize(
    "inputs",
    [
        {"parent": "parent.onnx"},
        {},
        {"parent": "parent.onnx", "child": "child.onnx", "arguments": "--no-such-option"},
        {"parent": "parent.onnx", "child": "child.onnx", "provider": "tpu"},
        {"pairs": "nowhere.txt"},
        {"parent": "parent.onnx", "child": "child.onnx", "junit": "parent.onnx"},
    ],
)
def test_usage_is_2(folder: Path, inputs: dict[str, str]) -> None:
    ended = check(folder, **inputs)
    assert (ended.code, ended.outputs["exit-code"]) == (2, "2")
    assert "Traceback" not in ended.said and "unbound" not in ended.said


def test_a_recipe_that_is_refused_is_3_with_its_reason(folder: Path) -> None:
    ended = check(folder, parent="parent.onnx", child="grown.onnx", recipe="refused.toml")
    assert (ended.code, ended.outputs["exit-code"]) == (3, "3")
    assert len(ended.errors) == 1 and "refused" in ended.errors[0] and "exit code 3" in ended.summary
    assert not (folder / "grown.onnx").exists()


@pytest.mark.parametrize("child", ["broken.onnx", "nowhere.onnx"])
def test_a_broken_model_is_4_and_an_error_in_junit(folder: Path, child: str) -> None:
    ended = check(folder, parent="parent.onnx", child=child, junit="results.xml")
    assert (ended.code, ended.outputs["exit-code"]) == (4, "4")
    assert len(ended.errors) == 1 and child in ended.errors[0] and "💥" in ended.summary
    assert len(ET.parse(folder / "results.xml").findall(".//error")) == 1


def test_a_recipe_grows_the_parent_and_the_child_is_checked(folder: Path) -> None:
    ended = check(folder, parent="parent.onnx", child="grown.onnx", recipe="good.toml")
    assert (ended.code, ended.errors) == (0, [])
    assert (folder / "grown.onnx").exists() and "conv2" in ended.summary


def test_folders_and_lists_are_compared_pair_by_pair(folder: Path) -> None:
    for name in ("before", "after"):
        (folder / name / "deep").mkdir(parents=True)
        shutil.copy(folder / "parent.onnx", folder / name / "same.onnx")
        shutil.copy(folder / "parent.onnx", folder / name / "deep" / "other.onnx")
    shutil.copy(folder / "wrong.onnx", folder / "after" / "deep" / "other.onnx")
    ended = check(folder, parent="before", child="after", junit="results.xml")
    assert ended.code == 1 and "1 equivalent, 1 not equivalent" in ended.said
    assert [suite.get("name") for suite in ET.parse(folder / "results.xml").getroot()] == [
        "deep/other.onnx",
        "same.onnx",
    ]
    (folder / "pairs.txt").write_text("# two of them\nparent.onnx child.onnx\n'parent.onnx'  parent.onnx\n")
    assert check(folder, pairs="pairs.txt").code == 0


def test_no_input_is_read_as_a_piece_of_the_script(folder: Path) -> None:
    nasty = "$(touch owned) `touch owned` ';touch owned;' %0A::error::x \"${{ x }}\".onnx"
    shutil.copy(folder / "wrong.onnx", folder / nasty)
    ended = check(folder, parent="parent.onnx", child=nasty, arguments="--seed 3 $(touch owned)")
    assert ended.code == 2  # too many words
    ended = check(folder, parent="parent.onnx", child=nasty)
    assert ended.code == 1 and len(ended.errors) == 1 and "%250A%3A%3Aerror" in ended.errors[0]
    assert not (folder / "owned").exists()
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step.get("run", "")


def test_the_install_step_takes_the_action_itself_or_a_release_with_extras(folder: Path) -> None:
    stub = folder / "stub"
    stub.mkdir()
    # Makes an environment whose Python only says what it was asked.
    (stub / "python").write_text(
        '#!/bin/bash\nmkdir -p "$3/bin"\nprintf \'#!/bin/bash\\necho "asked: $*"\\n\' > "$3/bin/python"\n'
        'chmod +x "$3/bin/python"\n'
    )
    (stub / "python").chmod(0o755)
    path = f"{stub}{os.pathsep}{os.environ['PATH']}"
    ended = run_step("install", folder, {}, PATH=path)
    assert ended.code == 0 and ended.said.rstrip().endswith(f" {ROOT}")
    assert Path(ended.outputs["program"]) == folder / ".runner" / "onnxmorph" / "bin" / "onnxmorph"
    ended = run_step("install", folder, {"version": "1.2.3", "extra": "cuda"}, PATH=path)
    assert ended.said.rstrip().endswith(" onnxmorph[cuda]==1.2.3")


def test_every_input_is_used_and_every_used_one_is_declared() -> None:
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    used = set(re.findall(r"\binputs\.([\w-]+)", text))
    assert used == set(ACTION["inputs"])
    for name, output in ACTION["outputs"].items():
        assert output["value"] == f"${{{{ steps.check.outputs.{name} }}}}"
