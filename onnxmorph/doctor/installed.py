"""ONNX Runtime on disk: which distributions say that they own its folder, and whose files really lie there.

Several distributions install into the one folder ``onnxruntime``. The last one installed wins, removing any of them
breaks the others, and ``pip check`` says nothing: only the file lists in their metadata tell.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxmorph.doctor.finding import Finding

__all__ = ["InstalledRuntime", "installed_runtimes", "is_runtime", "reinstall", "runtime_on_disk"]

_RUNTIME = re.compile(r"(onnxruntime|ort-nightly)(-[a-z0-9-]+)?", re.ASCII)
_COMPANIONS = ("onnxruntime-extensions", "onnxruntime-genai", "onnxruntime-tools")


def is_runtime(name: str) -> bool:
    """Whether a distribution of this (normalized) name installs into ``onnxruntime``; companions have own folders."""
    return _RUNTIME.fullmatch(name) is not None and not name.startswith(_COMPANIONS)


@dataclass(frozen=True)
class InstalledRuntime:
    """A distribution of ONNX Runtime by its metadata.

    Attributes:
        name, version: As its metadata say.
        missing: Files of its own list that are not there.
        changed: Binaries of its own list whose size is another: some other build lies over them.
    """

    name: str
    version: str
    missing: tuple[str, ...]
    changed: tuple[str, ...]


def installed_runtimes(search_path: Sequence[str] | None = None) -> list[InstalledRuntime]:
    """Every distribution that says it owns the folder ``onnxruntime``, with what of it is really there.

    Args:
        search_path: Folders to look in; default ``sys.path``.
    """
    found: dict[str, InstalledRuntime] = {}
    distributions = (
        importlib.metadata.distributions()
        if search_path is None
        else importlib.metadata.distributions(path=list(search_path))
    )
    for distribution in distributions:
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if not is_runtime(name):
            continue
        missing, changed = [], []
        with contextlib.suppress(OSError, ValueError):
            for file in distribution.files or ():
                if not file.parts or file.parts[0] != "onnxruntime" or file.suffix == ".pyc":
                    continue
                there = Path(str(file.locate()))
                if not there.is_file():
                    missing.append(str(file))
                elif file.size is not None and _is_binary(file.name) and there.stat().st_size != file.size:
                    changed.append(str(file))
        runtime = InstalledRuntime(name, distribution.version, tuple(missing), tuple(changed))
        found.setdefault(f"{name} {runtime.version}", runtime)
    return sorted(found.values(), key=lambda runtime: (runtime.name, runtime.version))


def _is_binary(name: str) -> bool:
    return name.endswith((".so", ".pyd", ".dll", ".dylib")) or ".so." in name


def runtime_on_disk(runtimes: Sequence[InstalledRuntime]) -> list[Finding]:
    if len(runtimes) > 1:
        names = " and ".join(f"{runtime.name} {runtime.version}" for runtime in runtimes)
        whole = [runtime.name for runtime in runtimes if not runtime.missing and not runtime.changed]
        what = f"its files are {whole[0]}'s" if len(whole) == 1 else "its files are a mixture"
        return [
            Finding(
                "ONNX Runtime",
                "broken",
                f"{names} are installed into the one folder 'onnxruntime': {what}, and removing either breaks both",
                reinstall(runtimes),
            )
        ]
    folder = importlib.util.find_spec("onnxruntime")
    if not runtimes:
        if folder is None:
            return []
        if folder.origin is None:
            where = ", ".join(folder.submodule_search_locations or ())
            return [
                Finding(
                    "ONNX Runtime", "broken", f"only leftovers of it in {where}", f"delete it, then {reinstall([])}"
                )
            ]
        return [Finding("ONNX Runtime", "note", f"in {folder.origin}, installed without package metadata")]
    runtime = runtimes[0]
    if runtime.missing:
        return [
            Finding(
                "ONNX Runtime",
                "broken",
                f"{runtime.name} {runtime.version} is half removed: {_few(runtime.missing)} of its files missing",
                reinstall(runtimes),
            )
        ]
    if runtime.changed:
        files = _few(runtime.changed)
        text = f"another build lies over {runtime.name} {runtime.version}: {files} not as it brought them"
        return [Finding("ONNX Runtime", "broken", text, reinstall(runtimes))]
    return [Finding("ONNX Runtime", "ok", f"{runtime.name} {runtime.version}, all its files in place")]


def _few(files: Sequence[str]) -> str:
    shown = ", ".join(files[:2])
    return f"{shown} and {len(files) - 2} more" if len(files) > 2 else shown


def reinstall(runtimes: Iterable[InstalledRuntime]) -> str:
    """The commands that leave exactly one runtime: the CUDA build where it has wheels, the plain one elsewhere."""
    gpu = (sys.platform, platform.machine()) in (("linux", "x86_64"), ("win32", "AMD64"))
    wanted = "onnxruntime-gpu" if gpu else "onnxruntime"
    names = list(dict.fromkeys(runtime.name for runtime in runtimes))
    install = f"pip install {wanted}"
    return f"pip uninstall -y {' '.join(names)} && {install}" if names else install
