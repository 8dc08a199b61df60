#!/usr/bin/env python3
"""Who sees a wrong child, and who cries wolf: planted faults and true morphs over the zoo, comparers asked about both.

    python benchmarks/fault_detection.py --jobs 2 --most-seconds 65   # all; docs/fault_detection.md; 40 minutes
    python benchmarks/fault_detection.py --sample              # a few models, a few pairs each, about two minutes
    python benchmarks/fault_detection.py --only unet --comparers onnxmorph
    python benchmarks/fault_detection.py --resume              # go on where a run was broken off
    python benchmarks/fault_detection.py --report              # only write the page anew, from the results there are

Models: ../shared/zoo/models where there is one, models/, and models/fetched/ (by models/fetch.py), up to 25 MB of file
and 48 MiB of values for one set of inputs. Every model is halved by the hash of its family's name into `calibration`,
which may be looked at while limits are set, and `held out`, which may not; the two draw from different seeds.

Of each model true children are made (every morph, and rewrites as other tools make them), and a fault of every kind is
planted, single weights three times, in a copy of the model itself or in a true child (there half of them in what is
new). A fault counts when it changes any value that parent and child both have by more than `COUNTED` units of rounding,
which is decided without the verifier (benchmarks/faults/truth.py); the others are tried again elsewhere, four times at
most, and are counted apart. One that ONNX Runtime cannot run is no fault: everybody sees it.

Public comparers are asked where they are installed; they are no dependency of anything here:

    python -m pip install --no-deps --target SOMEWHERE polygraphy onnxslim
    PYTHONPATH=SOMEWHERE python benchmarks/fault_detection.py
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import multiprocessing
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

COUNTED = 16.0
"""Effect, in units of rounding of the value's largest magnitude, from which a fault counts: below, it is rounding."""

SAMPLE = ("digits_cnn", "digits_transformer", "keepbn_resnet20_cifar.legacy", "tcn_1d.legacy", "bert_tiny.dynamo")
HALVES = ("calibration", "held out")
_TRIES = 4

LARGEST = 25 << 20
"""Bytes of a model file beyond which it is left out."""

LARGEST_VALUES = 48 << 20
"""Bytes of all values a model computes for one set of inputs, beyond which it is left out: each pair runs dozens."""

RESULTS = ROOT / "build" / "fault_detection.jsonl"


def family(path: Path) -> str:
    """The network a file holds, whichever exporter wrote it: what belongs together must fall into one half."""
    name = re.sub(r"\.(onnx|legacy|dynamo|fp16|ext|qdq8|dyn8|constw|rand|random|int8)\b", "", path.name)
    return re.sub(r"^(keepbn_|light_)|[\d._-]+$", "", name).split("_16k")[0]


def half(path: Path) -> str:
    """Which half of the zoo a model belongs to."""
    return HALVES[hashlib.sha256(family(path).encode()).digest()[0] % 2]


def seed_of(path: Path) -> int:
    """A seed of the model's own, another one in each half."""
    return int.from_bytes(hashlib.sha256(f"{half(path)} {path.name}".encode()).digest()[:4], "big") >> 2


def models() -> list[Path]:
    """Every model file there is, small ones first."""
    found = sorted((ROOT.parent / "shared" / "zoo" / "models").glob("*.onnx"))
    found += sorted((ROOT / "models").glob("*.onnx"))
    fetched = sorted((ROOT / "models" / "fetched").rglob("*.onnx"))
    # The classics as they come have equal weights throughout and a constant output: their copies with random ones stay.
    found += [path for path in fetched if not path.with_suffix(".random.onnx").exists()]
    return sorted((path for path in found if path.stat().st_size <= LARGEST), key=lambda path: path.stat().st_size)


# ---- one model -------------------------------------------------------------------------------------------------------


def work(path: Path, options: argparse.Namespace) -> Iterable[dict[str, Any]]:
    """All pairs of one model and what everybody said of them."""
    from faults.comparers import COMPARERS, Pair, quiet
    from faults.planting import KINDS, plant
    from faults.true_children import TrueChild, true_children
    from faults.truth import Truth

    from onnxmorph import model as files

    seed = seed_of(path) + options.seed
    parent = files.load(path)
    truth = Truth(parent, seed)
    if truth.nbytes > LARGEST_VALUES:
        yield {"event": "left out", "why": f"its values take {truth.nbytes >> 20} MiB for one set of inputs"}
        return
    generator = np.random.default_rng([seed, 1])

    def ask(child: Any) -> dict[str, Any]:
        pair = Pair(parent, child, truth, int(generator.integers(1 << 16)))
        said: dict[str, Any] = {}
        for name in options.comparers:
            begin = time.perf_counter()
            try:
                with quiet():
                    answer: bool | None = COMPARERS[name](pair)
                why = ""
            except Exception as error:
                answer, why = None, f"{type(error).__name__}: {error}"[:200]
            said[name] = {"same": answer, "seconds": round(time.perf_counter() - begin, 4), "why": why}
        if pair.ratio is not None:
            said["onnxmorph"] |= {"ratio": _number(pair.ratio), "verdict": pair.verdict}
        if pair.algebra is not None:
            said["onnxmorph"]["algebra"] = _number(pair.algebra)
        return said

    children: list[TrueChild | None] = [None]  # the model itself
    for child in true_children(parent, seed, most=options.morphs):
        true = truth.is_true(child.model)
        if not true:
            yield {"event": "not run" if true is None else "not true", "kind": child.kind, "what": child.what}
            continue
        children.append(child)
        yield {"event": "true", "kind": child.kind, "what": child.what, "said": ask(child.model)}

    @functools.cache
    def before(index: int) -> Any:
        child = children[index]
        return truth.before(parent if child is None else child.model)

    several = [kind for kind in KINDS if kind.startswith("weight moved")] * 2
    kinds = [str(kind) for kind in generator.permutation([*sorted(KINDS), *several])]
    kinds = [kind for kind in kinds if re.search(options.kinds, kind)]
    for place, kind in enumerate(kinds):
        for attempt in range(_TRIES):
            index = int(generator.integers(1, len(children))) if place % 2 and len(children) > 1 else 0
            child = children[index]
            where: Mapping[str, Any] = {}
            if child is not None and attempt % 2 == place // 2 % 2:
                where = {"constants": child.constants, "nodes": child.values}
            base = parent if child is None else child.model
            faulty = plant(base, kind, int(generator.integers(1 << 31)), **where)
            effect = truth.effect(before(index), faulty.model, faulty.rows) if faulty is not None else None
            if faulty is None or effect is None:
                continue
            result = {"event": "fault", "kind": kind, "what": faulty.what, "new": bool(where)}
            result |= {"of": "parent" if child is None else child.kind}
            result |= {"effect": _number(effect[0]), "effect_outputs": _number(effect[1])}
            if effect[0] > COUNTED:
                result["said"] = ask(faulty.model)
            yield result
            if effect[0] > COUNTED:
                break


def _number(value: float) -> float | str:
    return "inf" if value == float("inf") else round(value, 3)


# ---- all of them -----------------------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> None:
    """Every model in turn; what comes of it is appended to the results when it is done."""
    results: Path = options.results
    results.parent.mkdir(parents=True, exist_ok=True)
    done = set()
    if options.resume and results.exists():
        done = {line["path"] for line in read(results) if line["event"] == "finished"}
        kept = [line for line in read(results) if line["path"] in done]
        results.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    else:
        results.write_text("", encoding="utf-8")
    chosen = [path for path in models() if not options.only or re.search(options.only, str(path))]
    if options.half:
        chosen = [path for path in chosen if half(path) == options.half]
    if options.sample:
        chosen = [path for path in chosen if path.stem in SAMPLE]
    left = [path for path in chosen if _name(path) not in done]
    for path, events in _worked(left, options):
        with results.open("a", encoding="utf-8") as stream:
            for event in events:
                stream.write(json.dumps({"path": _name(path), "half": half(path), **event}) + "\n")
        count = sum(event["event"] == "fault" for event in events)
        last = events[-1]
        print(f"{_name(path)}: {count} faults, {last['seconds']} s {last['ended']}", file=sys.stderr, flush=True)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT.parent if ROOT not in path.parents else ROOT))


def _worked(paths: Sequence[Path], options: argparse.Namespace) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """What came of each model, as it is done; several at a time, each in a process of its own, where that is asked."""
    if options.jobs == 1:
        for path in paths:
            yield path, _whole(path, options)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context, max_tasks_per_child=1) as pool:
        # Large ones first: else one of them is left to run alone.
        tasks = {pool.submit(_whole, path, options): path for path in reversed(paths)}
        for task in as_completed(tasks):
            yield tasks[task], task.result()


def _whole(path: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All events of one model, an error among them where it ends in one."""
    begin = time.perf_counter()
    events: list[dict[str, Any]] = []
    ended = ""
    try:
        for event in work(path, options):
            events.append(event)
            if time.perf_counter() - begin > options.most_seconds:
                ended = f"broken off after {options.most_seconds:g} s"
                break
    except Exception as error:  # one model costs itself, and is said
        ended = f"{type(error).__name__}: {error}"[:300]
    events.append({"event": "finished", "ended": ended, "seconds": round(time.perf_counter() - begin, 1)})
    return events


def read(path: Path) -> list[dict[str, Any]]:
    """The results of a run, one event a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--sample", action="store_true", help="five models, fewer children")
    made.add_argument("--only", default="", help="models whose path matches this expression")
    made.add_argument("--kinds", default="", help="faults whose kind matches this expression")
    made.add_argument("--half", choices=HALVES, help="one half of the zoo")
    made.add_argument("--comparers", default="", help="names, with commas; default: all that are installed")
    made.add_argument("--morphs", type=int, default=7, help="true children of a model, at most")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--jobs", type=int, default=1, help="models at a time")
    made.add_argument("--most-seconds", type=float, default=240.0, help="after which a model is broken off")
    made.add_argument("--resume", action="store_true")
    made.add_argument("--report", action="store_true")
    made.add_argument("--results", type=Path, default=RESULTS)
    made.add_argument("--more", type=Path, nargs="*", default=[], help="further results to report on")
    made.add_argument("--note", type=Path, help="Markdown to put below the first table, on how the results came about")
    made.add_argument("--out", type=Path, default=ROOT / "docs" / "fault_detection.md")
    return made


def main() -> int:
    """Run, and write the page."""
    options = parser().parse_args()
    from faults.comparers import available
    from faults.report import as_markdown

    options.comparers = options.comparers.split(",") if options.comparers else available()
    if not options.report:
        run(options)
    events = [event for path in (options.results, *options.more) for event in read(path)]
    note = options.note.read_text(encoding="utf-8").strip() if options.note else ""
    page = as_markdown(events, COUNTED, "python benchmarks/fault_detection.py", note)
    if str(options.out) == "-":
        print(page)
    else:
        options.out.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
