#!/usr/bin/env python3
"""Every layer of every model: plan a morph, carry it out, verify the child. What was done, what was refused and why.

    python benchmarks/sweep.py                                  # deepen, all models there are, docs/sweep_deepen.md
    python benchmarks/sweep.py --morph morphs --source zoo,samples --budget 0.2    # every other morph, every variant
    python benchmarks/sweep.py --source samples --jobs 1        # only one source of models
    python benchmarks/sweep.py some/folder/*.onnx --out -       # these files; the table to the terminal
    python benchmarks/sweep.py --methods mirror,netmorph,identity,residual --layers 5
    python benchmarks/sweep.py --resume                         # go on where a sweep was broken off

Models come from four sources: `zoo` (../shared/zoo/models, where there is one), `samples` (models/), `fetched`
(models/fetched/, by models/fetch.py) and `generated` (tests/zoo_graphs.py). Each file gets a process of its own, the
generated ones share a few. A process that dies, or takes longer over one layer than `--layer-time`, costs that layer: a
new one goes on behind it.

One layer ends as one of
    done          the child was verified: outputs and frontier within the parent's own noise
    refused       the morph said why not, with a code that reasons are counted by
    wrong         a child was made and it does not compute the same, or is no valid model where its parent was one
    crash         anything else was raised, or the process died
    blind         nothing differed, and nothing did either when faults were planted in the child: that proves nothing,
                  as where the layer lies in a branch that was never taken
    unverifiable  a child was made, and ONNX Runtime cannot run its parent here
    late          no answer within `--layer-time`
The exit status is 1 when anything was wrong or crashed, else 0.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.sweep_report import OUTCOMES, SOURCES, report  # noqa: E402
from benchmarks.trials import Bench, complaint  # noqa: E402
from benchmarks.variants import MORPHS  # noqa: E402

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxmorph.graph.layers import LinearLayer

FLOATS = frozenset(("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"))
NOT_CONSTANT = frozenset(("unsupported-op", "weight-not-constant", "weight-is-function-input", "weight-overridable"))
"""Codes of layers that hold no constant float weight, or are no linear layer: they do not count in the share done."""

WORKER = [sys.executable, str(Path(__file__).resolve()), "--worker"]
"""What is started for each batch of models: this script, which then reads its settings from stdin."""


@dataclass(frozen=True)
class Target:
    """A model to sweep over: a file, or a name of the generated zoo."""

    source: str
    name: str
    path: str = ""


@dataclass
class Settings:
    """What a worker is told, as JSON."""

    morph: str
    variants: list[str]
    layers: int
    budget: float
    faults: bool
    provider: str
    targets: list[dict[str, str]] = field(default_factory=list)
    skip: int = 0
    """Trials of the first target that are over already."""
    alone: list[str] = field(default_factory=list)
    """Variants of which the first target's layers are tried one by one, since together they killed their worker."""


# ---- the worker: one process, some models ---------------------------------------------------------------------------


def work(settings: Settings, say: Callable[[Mapping[str, Any]], None]) -> None:
    """Run all trials of all targets, telling each before it begins and when it is over."""
    skip, alone = settings.skip, settings.alone
    for target in settings.targets:
        _sweep_model(Target(**target), settings, skip, alone, say)
        skip, alone = 0, []


def _load(target: Target) -> ir.Model:
    from onnxmorph import model as files

    if target.path:
        return files.load(target.path)
    from tests.zoo_graphs import build

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(build(target.name).SerializeToString())
        return files.load(path)


def _sweep_model(
    target: Target, settings: Settings, skip: int, alone: Sequence[str], say: Callable[[Mapping[str, Any]], None]
) -> None:
    from onnxmorph import model as files
    from onnxmorph.errors import OnnxMorphError
    from onnxmorph.graph.layers import layers

    base = {"source": target.source, "model": target.name}
    say({"event": "model", **base})
    try:
        model = _load(target)
        found = layers(model)
    except OnnxMorphError as error:
        reason = str(error).replace(f"{tempfile.gettempdir()}{os.sep}", "")
        say({"event": "result", **base, "outcome": "refused", "code": "unreadable", "reason": reason})
        return
    except Exception:
        say({"event": "result", **base, "outcome": "crash", "reason": traceback.format_exc()})
        return
    before = files.content_hash(model)
    parent_passes = complaint(model) == ""
    trials = list(_trials(_sample(found, settings.layers), settings, alone))
    say({"event": "layers", **base, "layers": len(found), "trials": len(trials)})
    bench = Bench(model, settings, check=parent_passes)
    for layers_of_trial, variant in trials[skip:]:
        start = time.perf_counter()
        about = [
            {
                **base,
                "layer": layer.index,
                "name": layer.name,
                "op": layer.op,
                "variant": variant,
                "dtype": layer.dtype.name,
                "counts": layer.dtype.name in FLOATS and getattr(layer.blocked, "code", "") not in NOT_CONSTANT,
            }
            for layer in layers_of_trial
        ]
        say({"event": "begin", **about[0], "together": len(about)})
        found_out = bench.try_out(layers_of_trial, variant, alive=lambda: say({"event": "alive"}))
        seconds = round((time.perf_counter() - start) / len(about), 3)
        results = [{**one, **result, "seconds": seconds} for one, result in zip(about, found_out, strict=True)]
        say({"event": "results", "results": results})
    if files.content_hash(model) != before:
        say({"event": "result", **base, "outcome": "wrong", "reason": "the parent was changed by its morphs"})


def _trials(
    found: Sequence[LinearLayer], settings: Settings, alone: Sequence[str]
) -> Iterator[tuple[list[LinearLayer], str]]:
    """Which layers are tried out together by which variant; the model's own order where they are tried one by one."""
    if not found:
        return
    if not MORPHS[settings.morph].together:
        yield from (([layer], variant) for layer in found for variant in settings.variants)
        return
    for variant in settings.variants:
        if variant in alone:
            yield from (([layer], variant) for layer in found)
        else:
            yield list(found), variant


def _sample(found: Sequence[LinearLayer], most: int) -> list[LinearLayer]:
    """All layers, or `most` of them spread evenly."""
    if not most or len(found) <= most:
        return list(found)
    return [found[round(i * (len(found) - 1) / max(1, most - 1))] for i in range(most)]


# ---- the overseer: processes, clocks and what came out --------------------------------------------------------------


def oversee(
    settings: Settings, targets: Sequence[Target], layer_time: float, note: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Run workers over the targets one after the other, restarting behind whatever kills one."""
    rest = list(targets)
    skip = 0
    alone: list[str] = []
    while rest:
        progress = _Progress(skip=skip)
        yield from _one_worker(replace(settings, alone=alone), rest, layer_time, progress)
        if progress.finished:
            return
        # The worker died or was killed: the trial it was in is lost, or the whole model where it was loading it.
        if progress.models > 1:
            alone = []
        rest = rest[max(0, progress.models - 1) :]
        target = rest[0]
        if progress.current.pop("together", 1) > 1:
            alone, skip = [*alone, str(progress.current["variant"])], progress.trials
            continue
        lost = {"source": target.source, "model": target.name, **progress.current}
        lost["outcome"], lost["reason"] = progress.verdict, progress.reason
        note(f"{target.name}: {progress.verdict} ({progress.reason})")
        yield lost
        if progress.current:
            skip = progress.trials + 1
        else:
            rest, skip, alone = rest[1:], 0, []


@dataclass
class _Progress:
    """How far a worker came: models begun, trials over in the last of them, and the one it is in."""

    skip: int
    models: int = 0
    trials: int = 0
    current: dict[str, Any] = field(default_factory=dict)
    finished: bool = False
    verdict: str = "crash"
    reason: str = ""


def _one_worker(
    settings: Settings, targets: Sequence[Target], layer_time: float, progress: _Progress
) -> Iterator[dict[str, Any]]:
    told = {**vars(settings), "targets": [vars(target) for target in targets], "skip": progress.skip}
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with subprocess.Popen(
        WORKER,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as worker:
        assert worker.stdin and worker.stdout and worker.stderr
        lines: queue.Queue[str | None] = queue.Queue()
        complaints: list[str] = []
        threading.Thread(target=_pump, args=(worker.stdout, lines.put), daemon=True).start()
        threading.Thread(target=_pump, args=(worker.stderr, _last_lines(complaints)), daemon=True).start()
        worker.stdin.write(json.dumps(told))
        worker.stdin.close()
        while True:
            try:
                line = lines.get(timeout=layer_time)
            except queue.Empty:
                worker.kill()
                progress.verdict, progress.reason = "late", f"no answer within {layer_time:g} s"
                return
            if line is None:
                break
            if not line.startswith("{"):
                continue  # something underneath printed
            event = json.loads(line)
            kind = event.pop("event")
            if kind == "model":
                progress.models += 1
                progress.trials = progress.skip if progress.models == 1 else 0
                progress.current = {}
            elif kind == "begin":
                progress.current = event
            elif kind == "result":
                progress.trials += bool(progress.current)
                progress.current = {}
                yield event
            elif kind == "results":
                progress.trials += 1
                progress.current = {}
                yield from event["results"]
        worker.wait()
        progress.finished = worker.returncode == 0
        progress.reason = f"the process ended with status {worker.returncode}: {' | '.join(complaints)[-300:]}"


def _pump(stream: IO[str], put: Callable[[str | None], Any]) -> None:
    for line in stream:
        put(line.rstrip("\n"))
    put(None)


def _last_lines(kept: list[str], most: int = 5) -> Callable[[str | None], None]:
    def keep(line: str | None) -> None:
        if line:
            kept.append(line)
            del kept[:-most]

    return keep


def collect(sources: Sequence[str], paths: Sequence[Path], only: str) -> list[Target]:
    """The models to sweep over, the smallest files first, so that what is wrong shows soon."""
    import fnmatch

    targets = [Target("given", path.name, str(path)) for path in paths]
    folders = {
        "zoo": ROOT.parent / "shared" / "zoo" / "models",
        "samples": ROOT / "models",
        "fetched": ROOT / "models" / "fetched",
    }
    for source in sources:
        if source == "generated":
            from tests.zoo_graphs import CASES

            targets += [Target(source, name) for name in CASES]
            continue
        found = folders[source].glob("*.onnx") if source == "samples" else folders[source].rglob("*.onnx")
        for path in sorted(found):
            if path.name.startswith("light_") and path.with_name(f"{path.stem}.random.onnx").exists():
                continue  # weights all equal: whatever is done to it looks right
            targets.append(Target(source, str(path.relative_to(folders[source])), str(path)))
    chosen = [target for target in targets if fnmatch.fnmatchcase(target.name, only)]
    return sorted(chosen, key=lambda t: Path(t.path).stat().st_size if t.path else 0)


class Ledger:
    """Results in a JSON file, written whenever a batch is over, so that a long sweep can be taken up again."""

    def __init__(self, path: Path, settings: Settings, *, resume: bool) -> None:
        self.path = path
        self.key = {"morph": settings.morph, "variants": settings.variants, "layers": settings.layers}
        self.finished: set[tuple[str, str]] = set()
        self.results: list[dict[str, Any]] = []
        if resume and path.exists():
            document = json.loads(path.read_text())
            if document.get("key") == self.key:
                self.finished = {(source, model) for source, model in document["finished"]}
                self.results = document["results"]

    def over(self, targets: Sequence[Target], results: Sequence[dict[str, Any]]) -> None:
        """Take down what came of some models, and keep it."""
        self.finished |= {(target.source, target.name) for target in targets}
        self.results += results
        self.results.sort(key=lambda r: (r["source"], r["model"], r.get("layer", -1), r.get("variant", "")))
        document = {"schema": 1, "key": self.key, "finished": sorted(self.finished), "results": self.results}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_text(json.dumps(document, indent=1))
        temporary.replace(self.path)


def sweep(
    settings: Settings,
    targets: Sequence[Target],
    ledger: Ledger,
    *,
    jobs: int,
    layer_time: float,
    note: Callable[[str], None],
) -> None:
    """Sweep over all targets that the ledger does not hold yet; `jobs` workers side by side."""
    targets = [target for target in targets if (target.source, target.name) not in ledger.finished]
    files = [[target] for target in targets if target.path]
    generated = [target for target in targets if not target.path]
    batches: queue.Queue[list[Target]] = queue.Queue()
    for batch in [*files, *(generated[i : i + 40] for i in range(0, len(generated), 40))]:
        batches.put(batch)
    lock = threading.Lock()

    def consume() -> None:
        while True:
            try:
                batch = batches.get_nowait()
            except queue.Empty:
                return
            started = time.perf_counter()
            mine = list(oversee(settings, batch, layer_time, note))
            with lock:
                ledger.over(batch, mine)
            counts = Counter(result["outcome"] for result in mine)
            title = batch[0].name if len(batch) == 1 else f"{batch[0].name} .. {batch[-1].name}"
            told = ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome])
            note(f"{title}: {told or 'no layers'}, {time.perf_counter() - started:.0f} s")

    threads = [threading.Thread(target=consume, daemon=True) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# ---- the command ----------------------------------------------------------------------------------------------------


def _worker_main() -> int:
    settings = Settings(**json.loads(sys.stdin.read()))
    # What runs underneath prints to stdout now and then; results go out by a descriptor of their own.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(event: Mapping[str, Any]) -> None:
        out.write(json.dumps(event) + "\n")
        out.flush()

    work(settings, say)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--worker"]:
        return _worker_main()
    parser = argparse.ArgumentParser(description="Plan, apply and verify a morph at every layer of every model.")
    parser.add_argument("paths", nargs="*", type=Path, help="models; with none, all of --source")
    parser.add_argument(
        "--source", default="", help=f"some of {','.join(SOURCES)}, by commas; default all, or none with PATHS"
    )
    parser.add_argument("--only", default="*", metavar="GLOB", help="only models of such a name")
    parser.add_argument("--morph", choices=sorted(MORPHS), default="deepen")
    parser.add_argument("--methods", default="", help="variants of the morph, by commas")
    parser.add_argument("--layers", type=int, default=0, metavar="N", help="at most N layers of a model, spread evenly")
    parser.add_argument("--jobs", type=int, default=2, help="models at a time")
    parser.add_argument("--layer-time", type=float, default=180, metavar="S", help="seconds a layer may take")
    parser.add_argument(
        "--budget", type=float, default=4, metavar="S", help="seconds of inputs tried in one verification"
    )
    parser.add_argument("--no-faults", action="store_true", help="do not plant faults to see whether they are seen")
    parser.add_argument("--provider", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument(
        "--out", default="", help="Markdown goes here, '-' for the terminal; default docs/sweep_MORPH.md"
    )
    parser.add_argument("--json", type=Path, help="every result, as JSON; default build/sweep_MORPH.json")
    parser.add_argument("--resume", action="store_true", help="keep the results of models that are in --json already")
    parser.add_argument("--so-far", action="store_true", help="run nothing: a table of what --json holds")
    options = parser.parse_args(arguments)
    morph = MORPHS[options.morph]
    variants = options.methods.split(",") if options.methods else list(morph.default)
    if unknown := [v for v in variants if v not in morph.variants]:
        parser.error(f"{options.morph} has no {', '.join(unknown)}; it has {', '.join(morph.variants)}")
    sources = options.source.split(",") if options.source else [] if options.paths else list(SOURCES)
    if unknown := [s for s in sources if s not in SOURCES]:
        parser.error(f"no source {', '.join(unknown)}; there are {', '.join(SOURCES)}")
    if missing := [str(path) for path in options.paths if not path.exists()]:
        parser.error(f"no such file: {', '.join(missing)}")
    targets = collect(sources, options.paths, options.only)
    if not targets:
        parser.error("no models there; models/fetch.py gets some")
    settings = Settings(
        options.morph, variants, options.layers, options.budget, not options.no_faults, options.provider
    )
    started = time.perf_counter()
    document = options.json or ROOT / "build" / f"sweep_{options.morph}.json"
    ledger = Ledger(document, settings, resume=options.resume or options.so_far)
    asked_for = len(targets)
    if options.so_far:
        targets = [target for target in targets if (target.source, target.name) in ledger.finished]
    sweep(
        settings,
        targets,
        ledger,
        jobs=options.jobs,
        layer_time=options.layer_time,
        note=lambda text: print(text, file=sys.stderr, flush=True),
    )
    asked = {(target.source, target.name) for target in targets}
    results = [result for result in ledger.results if (result["source"], result["model"]) in asked]
    told_paths = [os.path.relpath(path) for path in options.paths]
    hidden = {"--so-far", "--out", options.out, "--json", str(options.json or ""), "--resume", *map(str, options.paths)}
    command = " ".join(["python", "benchmarks/sweep.py", *told_paths, *(a for a in arguments if a not in hidden)])
    text = report(results, targets, settings, command, left_out=asked_for - len(targets))
    if options.out == "-":
        print(text, end="")
    else:
        out = Path(options.out) if options.out else ROOT / "docs" / f"sweep_{options.morph}.md"
        out.write_text(text)
    counts = Counter(result["outcome"] for result in results)
    told = ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES)
    print(f"{len(targets)} models, {told}, {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return 1 if counts["wrong"] or counts["crash"] else 0


if __name__ == "__main__":
    sys.exit(main())
