#!/usr/bin/env python3
"""What a batch stands, and how fast it is.

    python benchmarks/batch.py --kill 20                    # killed twenty times at random moments, and compared
    python benchmarks/batch.py --kill 20 'zoo/*.onnx'       # over these models in place of models/ and ../shared/zoo
    python benchmarks/batch.py --scaling                    # two cores against one
    python benchmarks/batch.py --dask                       # a local cluster of two workers against two processes

`--kill`: the batch is run once to its end; then again and again into another folder, and each time it, or one of its
workers, gets SIGKILL at a random moment. After every kill: no process of it is left, and every child that is there is
whole and the right one. At the end: the same files, the same content hashes, nothing else. A batch that comes to its
end before its kill is compared, and begun anew. The exit status is 1 when anything of this did not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

RECIPE = """
[[step]]
morph = "deepen"
where = { last = 1 }
on_refusal = "skip"

[[step]]
morph = "activate"
on_refusal = "skip"
"""
STATE = ".onnxmorph-batch"
REPORTS = ("report.json", "report.md", "report.html")


def command(recipe: Path, models: Sequence[str], out: Path, *options: str) -> list[str]:
    """The batch as a person starts it."""
    start = "import sys; sys.path.insert(0, sys.argv.pop(1)); from cli.main import main; main()"
    return [sys.executable, "-c", start, str(ROOT), "batch", str(recipe), *models, "-o", str(out), "-q", *options]


def default_models() -> list[str]:
    """The samples, and the shared zoo where there is one."""
    zoo = ROOT.parent / "shared" / "zoo" / "models"
    return [f"{ROOT}/models/*.onnx", *([f"{zoo}/*.onnx"] if zoo.is_dir() else [])]


def contents(out: Path) -> dict[str, str]:
    """Every file of an output folder but its reports and journal: content hash of a model, SHA-256 of anything else."""
    from onnxmorph import model
    from onnxmorph.zoo.fingerprint import file_sha256

    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_dir() or name in REPORTS or name in (f"{STATE}/journal.jsonl", f"{STATE}/lock"):
            continue
        found[name] = model.content_hash(model.load(path)) if path.suffix == ".onnx" else file_sha256(path)
    return found


def descendants(process: int) -> list[int]:
    """All processes that came from one, from the system's table."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            if words[0] not in "ZX":
                parents[int(entry.name)] = int(words[1])
    found, new = [], [process]
    while new:
        new = [child for child, parent in parents.items() if parent in new]
        found += new
    return found


def gone(processes: Sequence[int], seconds: float = 10.0) -> list[int]:
    """Those of the processes that are still there after so long."""
    end = time.monotonic() + seconds
    left = list(processes)
    while left and time.monotonic() < end:
        left = [process for process in left if _runs(process)]
        time.sleep(0.02)
    return left


def _runs(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


@dataclass
class Toll:
    """What killing came to."""

    batches: int = 0
    workers: int = 0
    ended: int = 0
    children_found: int = 0
    wrong: list[str] = field(default_factory=list)


def kill_often(
    recipe: Path,
    models: Sequence[str],
    folder: Path,
    kills: int,
    seed: int,
    *,
    options: Sequence[str] = (),
    note: Callable[[str], None] = print,
) -> Toll:
    """Run a batch to its end once, then kill it at random moments, and compare."""
    draw = random.Random(seed)
    whole, out = folder / "whole", folder / "killed"
    started = time.monotonic()
    subprocess.run(command(recipe, models, whole, *options), stdout=subprocess.DEVNULL, check=False)
    seconds = time.monotonic() - started
    expected = contents(whole)
    if not expected:
        raise SystemExit("the uninterrupted run made no child")
    note(f"uninterrupted: {len(expected)} files in {seconds:.1f} s")
    toll = Toll()
    while toll.batches + toll.workers < kills:
        left = sum(not (out / name).is_file() for name in expected)
        if _one_kill(command(recipe, models, out, *options), out, left, seconds / len(expected), draw, toll):
            _look(out, expected, toll, note)
            continue
        toll.ended += 1
        if (found := contents(out)) != expected:
            toll.wrong.append(f"an end differs: {sorted(set(found.items()) ^ set(expected.items()))}")
        shutil.rmtree(out)
    subprocess.run(command(recipe, models, out, *options), stdout=subprocess.DEVNULL, check=False)
    found = contents(out)
    if found != expected:
        odd = sorted(set(found.items()) ^ set(expected.items()))
        toll.wrong.append(f"the end differs: {odd}")
    verdicts = [_outcomes(place) for place in (whole, out)]
    if verdicts[0] != verdicts[1]:
        toll.wrong.append(f"the reports differ: {verdicts}")
    return toll


def _one_kill(words: list[str], out: Path, left: int, pause: float, draw: random.Random, toll: Toll) -> bool:
    """Start a batch; after some of the ``left`` models are over, and up to ``pause`` seconds, kill it or a worker.

    Returns:
        Whether there was still something to kill.
    """
    wait_for = _over(out) + draw.randint(0, max(0, left - 1))
    pause = draw.uniform(0.0, pause)
    a_worker = (toll.batches + toll.workers) % 3 == 1
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as batch:
        while batch.poll() is None and (_over(out) < wait_for or (a_worker and not descendants(batch.pid))):
            time.sleep(0.02)
        with contextlib.suppress(subprocess.TimeoutExpired):
            batch.wait(timeout=pause)
        if batch.poll() is not None:
            return False
        family = descendants(batch.pid)
        if a_worker and family:
            os.kill(draw.choice(family), signal.SIGKILL)
            toll.workers += 1
        else:
            batch.kill()
            toll.batches += 1
        batch.wait()
        if left := gone(family):
            toll.wrong.append(f"processes {left} outlived their batch")
    return True


def _over(out: Path) -> int:
    """How many models the journal knows to be over."""
    try:
        return (out / STATE / "journal.jsonl").read_bytes().count(b'"event":"end"')
    except OSError:
        return 0


def _look(out: Path, expected: dict[str, str], toll: Toll, note: Callable[[str], None]) -> None:
    """Whether every child that is in place is the right one, whole."""
    from onnxmorph import model

    right = 0
    for path in out.rglob("*.onnx"):
        name = path.relative_to(out).as_posix()
        if name.startswith("."):
            continue
        try:
            same = model.content_hash(model.load(path)) == expected.get(name)
        except Exception as error:
            toll.wrong.append(f"{name} cannot be read after a kill: {error}")
            continue
        right += same
        if not same:
            toll.wrong.append(f"{name} is another model after a kill")
    toll.children_found += right
    note(f"kill {toll.batches + toll.workers}: {right} children in place, all whole")


def _outcomes(out: Path) -> dict[str, str]:
    document = json.loads((out / REPORTS[0]).read_text(encoding="utf-8"))
    return {entry["model"]: f"{entry['outcome']} {entry['reason'] or ''}".strip() for entry in document["models"]}


def _timed(words: Sequence[str], cores: set[int] | None = None) -> float:
    """Seconds of one run, on some cores only."""
    start = "import os, sys; os.sched_setaffinity(0, eval(sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])"
    bound = list(words) if cores is None else [sys.executable, "-c", start, repr(cores), *words]
    began = time.monotonic()
    subprocess.run(bound, stdout=subprocess.DEVNULL, check=False)
    return time.monotonic() - began


def scaling(recipe: Path, models: Sequence[str], folder: Path, times: int) -> None:
    """Two cores against one, and against one model at a time on two cores; the best of several runs, in turns."""
    mine = sorted(os.sched_getaffinity(0))[:2]
    if len(mine) < 2:
        raise SystemExit("two cores are needed to compare with one")
    ways = {
        "one core, one at a time": ({mine[0]}, "1"),
        "two cores, one at a time": (set(mine), "1"),
        "two cores, two at a time": (set(mine), "2"),
    }
    best = dict.fromkeys(ways, float("inf"))
    for turn in range(times):
        for number, (way, (cores, jobs)) in enumerate(ways.items()):
            out = folder / f"{turn}-{number}"
            best[way] = min(best[way], _timed(command(recipe, models, out, "--jobs", jobs), cores))
            shutil.rmtree(out)
    least = best["one core, one at a time"]
    print("| way | seconds | times as fast |\n|---|---:|---:|")
    for way, seconds in best.items():
        print(f"| {way} | {seconds:.1f} | {least / seconds:.2f} |")


def dask(recipe: Path, models: Sequence[str], folder: Path, times: int) -> None:
    """A cluster of two workers on this machine against two processes; the cluster's own start is not counted."""
    from distributed import LocalCluster

    best = {"two processes": float("inf"), "dask, two workers": float("inf")}
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster:
        ways = {
            "two processes": ("--jobs", "2"),
            "dask, two workers": ("--engine", "dask", "--scheduler", cluster.scheduler_address),
        }
        for turn in range(times):
            for number, (way, options) in enumerate(ways.items()):
                out = folder / f"{turn}-{number}"
                best[way] = min(best[way], _timed(command(recipe, models, out, *options)))
                shutil.rmtree(out)
    print("| engine | seconds |\n|---|---:|")
    for way, seconds in best.items():
        print(f"| {way} | {seconds:.1f} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="globs; default: models/ and ../shared/zoo/models")
    parser.add_argument("--kill", type=int, default=0, metavar="N", help="kill a batch so many times")
    parser.add_argument("--scaling", action="store_true", help="two cores against one")
    parser.add_argument("--dask", action="store_true", help="a local cluster against processes")
    parser.add_argument("--times", type=int, default=2, help="runs of each way that is timed (default: 2)")
    parser.add_argument("--jobs", type=int, default=2, help="models at a time when killed (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    models = arguments.models or default_models()
    with tempfile.TemporaryDirectory(prefix="onnxmorph-batch-") as scratch:
        folder = Path(scratch)
        recipe = folder / "recipe.toml"
        recipe.write_text(RECIPE, encoding="utf-8")
        if arguments.scaling:
            scaling(recipe, models, folder, arguments.times)
        if arguments.dask:
            dask(recipe, models, folder, arguments.times)
        if arguments.kill:
            options = ("--jobs", str(arguments.jobs))
            toll = kill_often(recipe, models, folder, arguments.kill, arguments.seed, options=options)
            print(
                f"{toll.batches} batches and {toll.workers} workers killed, {toll.ended} runs came to their end first; "
                f"{toll.children_found} children looked at after kills"
            )
            for wrong in toll.wrong:
                print(f"WRONG: {wrong}")
            print("the same result as uninterrupted" if not toll.wrong else f"{len(toll.wrong)} things did not hold")
            return 1 if toll.wrong else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
