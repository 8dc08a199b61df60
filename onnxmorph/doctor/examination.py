"""The whole examination: Python, packages, the runtime on disk and at work, the driver.

Everything is looked at from outside first (metadata and files on disk), because a broken ONNX Runtime may fail to
import or take the process down with it; only then a process of its own imports it and runs a model. Nothing here needs
numpy, onnx or onnxruntime to be importable.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnxmorph
from onnxmorph.doctor.declared import Requirement, parse_requirement, within
from onnxmorph.doctor.finding import Finding
from onnxmorph.doctor.installed import installed_runtimes, is_runtime, reinstall, runtime_on_disk

__all__ = ["Diagnosis", "examine"]

_PROBE_SECONDS = 120


@dataclass(frozen=True)
class Diagnosis:
    """All findings, and the facts behind them that programs may want.

    Attributes:
        findings: In the order in which a person should read them.
        facts: ``python``, ``platform``, ``packages`` (name to version or ``None``), ``runtimes`` (installed
            distributions of ONNX Runtime) and ``runtime`` (what :func:`onnxmorph.doctor.probe.probe` found; ``None``:
            it did not answer).
    """

    findings: tuple[Finding, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """Whether onnxmorph can work here. A machine without CUDA is healthy."""
        return all(finding.status != "broken" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """As ``onnxmorph doctor --json`` prints it, less the schema."""
        return {"healthy": self.healthy, "findings": [asdict(finding) for finding in self.findings], **self.facts}


def examine() -> Diagnosis:
    """Looks at this installation. Takes a few seconds where ONNX Runtime is to be started; changes nothing."""
    findings = [_python()]
    requirements, source = _requirements()
    findings.append(source)
    packages = {requirement.name: _version(requirement.name) for requirement in requirements if not requirement.extra}
    findings += [_package(requirement) for requirement in requirements if not requirement.extra]
    runtimes = installed_runtimes()
    on_disk = runtime_on_disk(runtimes)
    findings += on_disk
    said: dict[str, Any] | None = None
    if importlib.util.find_spec("onnxruntime") is None:
        if not on_disk:
            findings.append(Finding("ONNX Runtime", "broken", "not installed", reinstall([])))
    else:
        said, started = _run_probe()
        findings += started if said is None else _runtime(said)
    findings += _driver(said)
    facts = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "runtimes": [{"name": runtime.name, "version": runtime.version} for runtime in runtimes],
        "runtime": said,
    }
    return Diagnosis(tuple(findings), facts)


def _python() -> Finding:
    # Not compared with the declared range: an older Python cannot even read this file.
    running = f"{platform.python_version()} on {platform.system()} {platform.release()} {platform.machine()}"
    return Finding("Python", "ok", running)


def _requirements() -> tuple[list[Requirement], Finding]:
    here = Path(onnxmorph.__file__).parent
    try:
        declared = importlib.metadata.requires("onnxmorph") or []
        found = Finding("onnxmorph", "ok", f"{onnxmorph.__version__} in {here}")
        installed = importlib.metadata.version("onnxmorph")
        if installed != onnxmorph.__version__:
            found = Finding(
                "onnxmorph",
                "note",
                f"{onnxmorph.__version__} in {here}, but {installed} is what is installed",
                "pip install . in its folder",
            )
    except importlib.metadata.PackageNotFoundError:
        declared = _declared_beside(here)
        found = Finding("onnxmorph", "note", f"{onnxmorph.__version__} from the source folder {here}, not installed")
    parsed = (parse_requirement(line) for line in declared)
    return [requirement for requirement in parsed if requirement is not None], found


def _declared_beside(package: Path) -> list[str]:
    import tomllib

    try:
        with (package.parent / "pyproject.toml").open("rb") as file:
            return list(tomllib.load(file)["project"]["dependencies"])
    except (OSError, tomllib.TOMLDecodeError, KeyError):
        return []


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package(requirement: Requirement) -> Finding:
    wanted = requirement.versions or "any version"
    install = f'pip install "{requirement.name}{requirement.versions}"'
    version = _version(requirement.name)
    if version is None:
        # Another build of the runtime may stand in for the one that was declared; the runtime's own findings say more.
        others = [found.name for found in installed_runtimes()] if is_runtime(requirement.name) else []
        if others:
            return Finding(
                requirement.name, "note", f"not installed, {' and '.join(others)} in its place ({wanted} is declared)"
            )
        return Finding(requirement.name, "broken", f"not installed ({wanted} is declared)", install)
    if not within(version, requirement.versions):
        return Finding(requirement.name, "broken", f"{version}, outside of {wanted}", install)
    return Finding(requirement.name, "ok", f"{version} ({wanted})")


def _run_probe() -> tuple[dict[str, Any] | None, list[Finding]]:
    """Runs :func:`probe` in a process of its own, which a broken library may take down."""
    package_home = str(Path(__file__).resolve().parents[2])
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package_home, environment.get("PYTHONPATH")]))
    code = "from onnxmorph.doctor.probe import main; main()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_SECONDS,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        text = f"did not answer within {_PROBE_SECONDS} s"
        return None, [Finding("ONNX Runtime at work", "broken", text, reinstall(installed_runtimes()))]
    except OSError as error:
        return None, [Finding("ONNX Runtime at work", "broken", f"cannot start a Python process: {error}")]
    try:
        said: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        last = done.stderr.strip().splitlines()[-1:] or ["nothing said"]
        text = f"importing it ended the process ({ended}): {last[0]}"
        return None, [Finding("ONNX Runtime at work", "broken", text, reinstall(installed_runtimes()))]
    said["noise"] = sorted(set(_library_complaints(done.stderr)))
    return said, []


def _library_complaints(noise: str) -> Iterable[str]:
    """Names of the shared libraries that loaders complained about on stderr."""
    for match in re.finditer(
        r"(lib[\w+-]+\.so[\w.]*|[\w+-]+\.dll)[^\n]{0,40}(cannot open|not found|is missing)", noise
    ):
        yield match[1]


def _runtime(said: Mapping[str, Any]) -> list[Finding]:
    advice = reinstall(installed_runtimes())
    if "error" in said:
        return [Finding("ONNX Runtime at work", "broken", f"cannot be imported: {said['error']}", advice)]
    findings = []
    usable = list(said["usable"])
    if "error_onnx" in said:
        findings.append(
            Finding("ONNX Runtime at work", "note", f"not tried, since onnx is broken: {said['error_onnx']}")
        )
    elif "CPUExecutionProvider" not in usable:
        why = said["why"].get("CPUExecutionProvider", "it names no CPU provider")
        findings.append(Finding("ONNX Runtime at work", "broken", f"ran nothing: {why}", advice))
    else:
        text = f"{said['version']} takes opsets up to {said['opset']} and IR versions up to {said['ir']}"
        findings.append(Finding("ONNX Runtime at work", "ok", text))
    findings.append(Finding("providers listed", "ok", ", ".join(said["listed"])))
    findings.append(Finding("providers usable", "ok" if usable else "note", ", ".join(usable) or "none"))
    if "CUDAExecutionProvider" in said["listed"]:
        findings += _cuda(said)
    return findings


def _cuda(said: Mapping[str, Any]) -> list[Finding]:
    # libcuda belongs to the driver, which has a finding of its own: no package brings it.
    missing = [name for name, loads in said["libraries"].items() if not loads and not name.startswith("libcuda.")]
    findings = []
    if missing:
        text = f"{len(missing)} of {len(said['libraries'])} missing: {', '.join(missing)}"
        findings.append(
            Finding("CUDA libraries", "note", text, 'pip install "onnxmorph[cuda]" for a machine with a GPU')
        )
    elif said["libraries"]:
        findings.append(Finding("CUDA libraries", "ok", f"all {len(said['libraries'])} load"))
    if "CUDAExecutionProvider" not in said["usable"]:
        return [*findings, Finding("verification", "ok", "runs on the CPU")]
    outside = said["tf32_override"]
    tf32 = (
        "TF32 is turned off for it"
        if outside in (None, "0")
        else f"TF32 is turned off, NVIDIA_TF32_OVERRIDE={outside} ignored"
    )
    return [*findings, Finding("verification", "ok", f"runs on CUDA; {tf32}")]


def _driver(said: Mapping[str, Any] | None) -> list[Finding]:
    """The NVIDIA driver, where there is any reason to ask for it."""
    program = shutil.which("nvidia-smi")
    kernel = Path("/proc/driver/nvidia/version")
    if program is None:
        if kernel.exists():
            words = kernel.read_text(errors="replace").split("\n")[0]
            return [Finding("NVIDIA driver", "note", f"{words}, but no nvidia-smi")]
        return [Finding("NVIDIA driver", "ok", "none found; that is fine, verification then runs on the CPU")]
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            query, capture_output=True, text=True, errors="replace", timeout=30, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return [Finding("NVIDIA driver", "note", f"nvidia-smi does not run: {type(error).__name__}")]
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0 or not lines:
        answer = " ".join((done.stdout + done.stderr).split())[:200]
        return [Finding("NVIDIA driver", "note", f"nvidia-smi finds no GPU: {answer}")]
    works = said is not None and "CUDAExecutionProvider" in said.get("usable", ())
    if works:
        return [Finding("NVIDIA driver", "ok", "; ".join(lines))]
    return [
        Finding(
            "NVIDIA driver",
            "note",
            f"{'; '.join(lines)}, which ONNX Runtime does not use",
            'pip install "onnxmorph[cuda]" (CUDA 13) or "onnxmorph[cuda12]"',
        )
    ]
