"""The whole examination, here and on machines that are broken in one way each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from onnxmorph.doctor import Diagnosis, Finding, examination, examine
from onnxmorph.doctor.probe import probe

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def here() -> Diagnosis:
    return examine()


def test_this_installation_is_healthy_and_says_what_the_runtime_takes(here: Diagnosis) -> None:
    assert here.healthy, [finding for finding in here.findings if finding.status == "broken"]
    runtime = here.facts["runtime"]
    assert "CPUExecutionProvider" in runtime["usable"]
    assert set(runtime["usable"]) | set(runtime["why"]) == set(runtime["listed"])
    assert 20 <= runtime["opset"] <= 99 and 9 <= runtime["ir"] <= 99
    assert {"onnx", "onnx-ir", "numpy", "scipy", "click", "rich", "ml-dtypes"} <= set(here.facts["packages"])


def test_a_diagnosis_is_json(here: Diagnosis) -> None:
    document = json.loads(json.dumps(here.to_json()))
    assert document["healthy"] is True and document["findings"][0]["topic"] == "Python"


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_counts_as_usable_only_when_a_session_really_ran_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["NowhereExecutionProvider", "CPUExecutionProvider"]
    )
    said = probe()
    assert said["usable"] == ["CPUExecutionProvider"]
    assert "NowhereExecutionProvider" in said["why"]


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("raise ImportError('libfoo.so: cannot open shared object file')", "libfoo.so"),
        ("import os; os.abort()", "ended the process (signal 6)"),
        ("import os; os._exit(7)", "ended the process (exit code 7)"),
        ("", "a folder without a runtime in it"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
def test_a_runtime_that_cannot_be_imported_is_a_finding_and_exit_4(tmp_path: Path, module: str, says: str) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text(module + "\n")
    done = subprocess.run(
        [sys.executable, "-c", "from onnxmorph_cli.main import main; main(['doctor', '--json'])"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (4, "")
    document = json.loads(done.stdout)
    (finding,) = [found for found in document["findings"] if found["topic"] == "ONNX Runtime at work"]
    assert finding["status"] == "broken" and says in finding["text"] and finding["advice"].startswith("pip ")


def said_by_runtime(**changes: Any) -> dict[str, Any]:
    said = {
        "version": "1.31.1",
        "listed": ["CUDAExecutionProvider", "CPUExecutionProvider"],
        "usable": ["CPUExecutionProvider"],
        "why": {"CUDAExecutionProvider": "a session asked for it ran on CPUExecutionProvider instead"},
        "libraries": {"libcublas.so.13": False, "libcuda.so.1": False, "libcudnn.so.9": True},
        "tf32_override": None,
        "opset": 26,
        "ir": 13,
    }
    return {**said, **changes}


def by_topic(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.topic: finding for finding in findings}


def test_a_machine_without_cuda_is_healthy_and_missing_libraries_are_named() -> None:
    found = by_topic(examination._runtime(said_by_runtime()))
    assert all(finding.status != "broken" for finding in found.values())
    assert found["verification"].text == "runs on the CPU"
    libraries = found["CUDA libraries"].text
    assert "libcublas.so.13" in libraries and "libcuda.so.1" not in libraries and "libcudnn" not in libraries


def test_with_cuda_the_state_of_tf32_is_told() -> None:
    usable = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    found = by_topic(examination._runtime(said_by_runtime(usable=usable, why={}, tf32_override="1")))
    assert found["verification"].text.startswith("runs on CUDA") and "TF32" in found["verification"].text


def test_a_runtime_that_does_not_even_run_on_the_cpu_is_broken() -> None:
    found = by_topic(examination._runtime(said_by_runtime(usable=[], why={"CPUExecutionProvider": "no kernel"})))
    assert found["ONNX Runtime at work"].status == "broken"


def test_a_missing_and_an_outdated_package_are_broken_and_the_command_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    requirement = examination.Requirement("rich", ">=13,<16", False)
    monkeypatch.setattr(examination, "_version", lambda name: None)
    missing = examination._package(requirement)
    assert (missing.status, missing.advice) == ("broken", 'pip install "rich>=13,<16"')
    monkeypatch.setattr(examination, "_version", lambda name: "12.1")
    assert examination._package(requirement).status == "broken"
    monkeypatch.setattr(examination, "_version", lambda name: "14")
    assert examination._package(requirement).status == "ok"
