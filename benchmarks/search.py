"""Search at equal compute: what chooses candidates, and whether they inherit weights.

    python benchmarks/search.py                       # some minutes on one core
    python benchmarks/search.py --seeds 5 --trials 20

Needs the extras ``train`` and ``search`` and scikit-learn, whose handwritten digits are the data. Runs are kept in
``build/search`` and go on from there; the table goes to ``docs/search.md``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from onnxmorph import model as files
from onnxmorph import train
from onnxmorph.grow.evolution import fresh
from onnxmorph.grow.searching import Budget

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "build" / "search"
PAGE = ROOT / "docs" / "search.md"
MARK = "## Measured\n"

Array = np.ndarray[Any, Any]
Pair = tuple[Array, Array]

LINES: dict[str, dict[str, Any]] = {
    "edit distance, weights inherited": {"sampler": "edit"},
    "TPE, weights inherited": {"sampler": "tpe"},
    "random, weights inherited": {"sampler": "random"},
    "edit distance, each from scratch": {"sampler": "edit", "inherit": False},
    "random, each from scratch": {"sampler": "random", "inherit": False},
}


def digits(samples: int, seed: int) -> tuple[Pair, Pair, Pair]:
    """Images to learn from, as many to choose by, and all others to judge by."""
    from sklearn.datasets import load_digits

    found = load_digits()
    image = (found.images / 16).astype(np.float32)[:, None]
    order = np.random.default_rng(seed).permutation(len(image))
    parts = np.split(order, [samples, 2 * samples])
    first, second, third = ((image[part], found.target[part]) for part in parts)
    return first, second, third


def result(args: argparse.Namespace, start: float, name: str, seed: int) -> dict[str, float]:
    """What one line reaches with one seed: accuracy of the best candidate on held-out images, and what it cost."""
    how = {"batch_size": args.batch_size, "rate": args.rate, "device": "cpu"}
    key = {
        **{one: getattr(args, one) for one in vars(args) if one not in ("seeds", "starts")},
        "line": name,
        "seed": seed,
    }
    if start < 1:
        key["start"] = start
    mark = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    kept = KEPT / f"{mark}.json"
    if kept.exists():
        stored: dict[str, float] = json.loads(kept.read_text(encoding="utf-8"))["result"]
        return stored
    learned, chosen_by, held = digits(args.samples, seed)
    given = files.load(ROOT / "models" / f"{args.model}.onnx")
    parent = fresh(given if start == 1 else train.slim(given, share=start).model, seed)
    started = time.monotonic()
    if name in LINES:
        found = train.search(
            parent,
            learned,
            KEPT / mark,
            validation=chosen_by,
            trials=args.trials,
            epochs=args.epochs,
            budget=Budget(parameters=args.parameters),
            prune=False,
            seed=seed,
            **LINES[name],
            **how,
        )
        best = files.load(found.folder / "best.onnx")
        size, epochs = found.best.parameters, sum(one.epochs for one in found.candidates)
    else:
        fitted = train.fit(parent, learned, validation=chosen_by, epochs=args.epochs * args.trials, seed=seed, **how)
        best, epochs = fitted.model, len(fitted.history)
        size = sum(int(np.prod(one.const_value.shape)) for one in best.graph.initializers.values() if one.const_value)
    judged = train.score(best, held)
    told = {
        "accuracy": judged.accuracy or 0.0,
        "loss": judged.loss,
        "parameters": size,
        "epochs": epochs,
        "seconds": time.monotonic() - started,
    }
    KEPT.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"key": key, "result": told}, indent=1), encoding="utf-8")
    return told


def page(args: argparse.Namespace, start: float, found: dict[str, list[dict[str, float]]]) -> str:
    """The section with the table."""
    rows = [
        "| | accuracy, % | loss | parameters of the best | epochs in all | seconds in all |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in found.items():
        column = {key: np.array([run[key] for run in runs]) for key in runs[0]}
        rows.append(
            f"| {name} | {column['accuracy'].mean() * 100:.1f} ± {column['accuracy'].std() * 100:.1f} "
            f"| {column['loss'].mean():.3f} ± {column['loss'].std():.3f} | {column['parameters'].mean():,.0f} "
            f"| {column['epochs'].mean():.0f} | {column['seconds'].mean():.0f} |"
        )
    return "\n".join(
        [
            f"From {_start(args.model, start)}:",
            "",
            *rows,
            "",
        ]
    )


def _start(model: str, share: float) -> str:
    cut = "" if share == 1 else f", cut to {share:g} of its channels"
    return f"`{model}` with fresh weights{cut}"


def protocol(args: argparse.Namespace) -> str:
    """What all tables have in common."""
    named = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in sorted(vars(args).items()))
    return (
        f"Handwritten digits of scikit-learn: {args.samples} images to learn from, {args.samples} to choose by, "
        f"{1797 - 2 * args.samples} to judge by, which nothing has seen. {args.trials} candidates of at most "
        f"{args.parameters:,} parameters, {args.epochs} epochs each at {args.rate:g} (AdamW, cosine), none given "
        f"up. Mean ± standard deviation over {args.seeds} seeds of data, weights and choices. Equal are "
        "candidates, and epochs of all of them together; larger candidates cost more seconds, which are those of a "
        "busy machine. "
        f"Printed by `python benchmarks/search.py {named}`. AutoKeras searches for hours on MNIST, CIFAR-10 and "
        "Fashion; this is its comparison in small, and says nothing about those.\n"
    )


def main() -> None:
    """Run what is missing, print the table and put it into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits_cnn")
    parser.add_argument("--starts", default="1,0.25", help="shares of the model's channels that are started with")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--parameters", type=int, default=60_000)
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    names = [*LINES, "the given network, trained as long"]
    texts = [protocol(args)]
    for start in map(float, args.starts.split(",")):
        found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for seed in range(args.seeds):
            for name in names:
                found[name].append(result(args, start, name, seed))
                print(f"start {start:g}, seed {seed}, {name}: {found[name][-1]}", flush=True)
        texts.append(page(args, start, found))
    text = "\n".join(texts)
    print(text)
    before = PAGE.read_text(encoding="utf-8").split(MARK)[0].rstrip("\n") if PAGE.exists() else "# Search"
    PAGE.write_text(f"{before}\n\n{MARK}\n{text}", encoding="utf-8")


if __name__ == "__main__":
    main()
