"""Knowledge Evolution on little data: accuracy per generation, whole and slim, against training for as long.

    python benchmarks/evolve.py                       # a few minutes on one core
    python benchmarks/evolve.py --seeds 5 --generations 10
    python benchmarks/evolve.py --data cifar --samples 500

Needs the extra ``train`` and scikit-learn, whose handwritten digits are the data unless it is CIFAR-10. What has been
trained is kept in ``build/evolve`` and not trained again; each table is a section of ``docs/evolve.md``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.paper.datasets import images
from benchmarks.paper.parents import Convolution, convolutional
from onnxmorph import model as files
from onnxmorph import train
from onnxmorph._ir import ir
from onnxmorph.grow.evolution import Split, find_split, fresh

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "build" / "evolve"
PAGE = ROOT / "docs" / "evolve.md"
CIFAR_TESTED = 2000

Array = np.ndarray[Any, Any]
Pair = tuple[Array, Array]


def digits(samples: int, seed: int) -> tuple[Pair, Pair]:
    """As many samples of each class to learn from as make ``samples``, and all others to judge by."""
    from sklearn.datasets import load_digits

    found = load_digits()
    image = (found.images / 16).astype(np.float32)[:, None]
    order = np.random.default_rng(seed).permutation(len(image))
    each = samples // 10
    learned = np.concatenate([order[found.target[order] == label][:each] for label in range(10)])
    held = np.setdiff1d(order, learned)
    return (image[learned], found.target[learned]), (image[held], found.target[held])


def cifar(samples: int, seed: int) -> tuple[Pair, Pair]:
    """The same of CIFAR-10, pictures halved to 16x16 by the mean of four; judged by 2,000 others, always the same."""
    found = images("cifar", cache=ROOT / "build" / "paper" / "data", test_size=CIFAR_TESTED)
    order = np.random.default_rng(seed).permutation(len(found.train_y))
    each = samples // 10
    learned = np.concatenate([order[found.train_y[order] == label][:each] for label in range(10)])
    return (_halved(found.train_x[learned]), found.train_y[learned]), (_halved(found.test_x), found.test_y)


def _halved(x: Array) -> Array:
    return x.reshape(*x.shape[:2], 16, 2, 16, 2).mean((3, 5)).astype(np.float32)


def untrained(name: str) -> ir.Model:
    """A sample of the repository, or for CIFAR-10 three convolutions of 5x5 with pooling, a quarter of the papers'."""
    if name == "cifar_111":
        stack = [Convolution(5, channels, pooled=True) for channels in (8, 8, 16)]
        return convolutional((3, 16, 16), stack, 10)
    return files.load(ROOT / "models" / f"{name}.onnx")


def cached(key: dict[str, Any], run: Callable[[], list[float]]) -> list[float]:
    """What ``run`` gives, kept by all that it follows from."""
    KEPT.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = KEPT / f"{name}.json"
    if path.exists():
        stored: list[float] = json.loads(path.read_text(encoding="utf-8"))["result"]
        return stored
    result = run()
    path.write_text(json.dumps({"key": key, "result": result}, indent=1), encoding="utf-8")
    return result


def lines(args: argparse.Namespace, name: str, seed: int) -> dict[str, list[float]]:
    """Accuracies on held-out images of everything that is compared, for one seed."""
    parent = untrained(name)
    learned, held = (cifar if args.data == "cifar" else digits)(args.samples, seed)
    how: dict[str, Any] = {"batch_size": args.batch_size, "rate": args.rate, "device": "cpu"}
    key: dict[str, Any] = {
        "model": name,
        **{one: getattr(args, one) for one in ("samples", "epochs", "share")},
        **how,
        "seed": seed,
    }

    def accuracy(model: ir.Model) -> float:
        return float(train.score(model, held).accuracy or 0.0)

    def evolved(kind: str) -> Callable[[], list[float]]:
        def run() -> list[float]:
            split = find_split(parent, "kels" if kind == "kels" else "wels", args.share, seed=seed)
            ended = train.evolve(
                parent,
                learned,
                split=split,
                generations=args.generations,
                validation=held,
                from_scratch=True,
                epochs=args.epochs,
                seed=seed,
                **how,
            )
            whole = [one.validation_accuracy or 0.0 for one in ended.generations]
            return whole + [one.slim_accuracy or 0.0 for one in ended.generations if kind == "kels"]

        return run

    def slim_net() -> ir.Model:
        return train.slim(parent, split=_kels(parent, args.share)).model

    def at_once(start: Callable[[], ir.Model], times: int) -> Callable[[], list[float]]:
        def run() -> list[float]:
            return [accuracy(train.fit(start(), learned, epochs=args.epochs * times, seed=seed, **how).model)]

        return run

    def again() -> list[float]:
        now, found = fresh(parent, seed), []
        for generation in range(args.generations):
            now = train.fit(now, learned, epochs=args.epochs, seed=seed * 1009 + generation + 1, **how).model
            found.append(accuracy(now))
        return found

    count = args.generations
    kels = cached({**key, "line": "kels", "generations": count}, evolved("kels"))
    wels = cached({**key, "line": "wels", "generations": count}, evolved("wels"))
    return {
        "KELS, whole network": kels[:count],
        "KELS, slim net": kels[count:],
        "WELS, whole network": wels,
        "trained on without a reset": cached({**key, "line": "again", "generations": count}, again),
        "whole network, one training as long": cached(
            {**key, "line": "whole", "times": count}, at_once(lambda: fresh(parent, seed), count)
        ),
        "slim net, one training as long": cached(
            {**key, "line": "slim", "times": count}, at_once(lambda: fresh(slim_net(), seed), count)
        ),
    }


def _kels(model: ir.Model, share: float) -> Split:
    return find_split(model, "kels", share)


def parameters(model: ir.Model) -> int:
    """Numbers in the stored weights."""
    return sum(
        int(np.prod(value.const_value.shape)) for value in model.graph.initializers.values() if value.const_value
    )


_JUDGED_BY = {
    "digits": "the held-out digits of scikit-learn",
    "cifar": "2,000 test pictures of CIFAR-10 (recompressed as JPEG, halved to 16x16)",
}


def page(args: argparse.Namespace, model: str, found: Sequence[dict[str, list[float]]]) -> str:
    """The section with the table."""
    parent = untrained(model)
    small = train.slim(parent, split=_kels(parent, args.share)).model
    head = ["", *(f"generation {number}" for number in range(1, args.generations + 1))]
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in found[0]:
        values = np.array([one[name] for one in found]) * 100
        cells = [f"{mean:.1f} ± {spread:.1f}" for mean, spread in zip(values.mean(0), values.std(0), strict=True)]
        rows.append("| " + " | ".join([name, *[""] * (args.generations - len(cells)), *cells]) + " |")
    return "\n".join(
        [
            f"Accuracy in % on {_JUDGED_BY[args.data]}, mean ± standard deviation over {args.seeds} seeds "
            f"(draw of the data, weights, order). `{model}` from fresh weights ({parameters(parent):,} numbers; "
            f"slim net {parameters(small):,}), {args.samples} images to learn from, share {args.share:g}, "
            f"{args.epochs} epochs a generation, AdamW at {args.rate:g} with a cosine schedule in each generation, "
            f'batches of {args.batch_size}, no augmentation. "As long" is as many steps as all generations together, '
            "in one cosine schedule.",
            "",
            *rows,
            "",
        ]
    )


def main() -> None:
    """Train what is missing, print the table and put it into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("digits", "cifar"), default="digits")
    parser.add_argument("--models", help="default digits_cnn,digits_resnet; cifar_111 for CIFAR-10")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--generations", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args()
    args.models = args.models or ("cifar_111" if args.data == "cifar" else "digits_cnn,digits_resnet")
    texts = []
    for name in args.models.split(","):
        found = []
        for seed in range(args.seeds):
            found.append(lines(args, name, seed))
            told = "; ".join(f"{line} {values[-1]:.1%}" for line, values in found[-1].items())
            print(f"{name}, seed {seed}: {told}", flush=True)
        texts.append(page(args, name, found))
    said = shlex.join(["python", "benchmarks/evolve.py", *sys.argv[1:]])
    name = f"{args.data} {args.samples}"
    text = f"Printed by `{said}`.\n\n" + "\n".join(texts)
    print(text)
    put(args.page, name, text)


def put(page: Path, name: str, text: str) -> None:
    """Replace the section of a page between its marks, or add it at the end."""
    begin, end = f"<!-- table {name} -->", f"<!-- end of {name} -->"
    before = page.read_text(encoding="utf-8")
    head, mark, rest = before.partition(begin)
    tail = rest.partition(end)[2] if mark else "\n"
    page.write_text(f"{head.rstrip()}\n\n{begin}\n{text}{end}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
