"""The papers' tables, on data at hand: who learns best after growing.

    python benchmarks/paper/run.py                                        # MNIST, 60,000 images, three seeds
    python benchmarks/paper/run.py --table defaults --train-size 20000 --epochs 5
    python benchmarks/paper/run.py --table cifar-depth --stages 4 --device cuda --batch 128
    python benchmarks/paper/run.py --table cifar-depth --data digits      # anywhere, in a minute or so
    python benchmarks/paper/run.py --table mnist --dry-run                # what would be trained

Each table writes its section of docs/paper_tables.md and its curves beside it. Runs are kept in build/paper/: a table
that was interrupted goes on where it stopped, unless --no-resume. Needs onnxmorph[train]; scikit-learn for the digits,
Pillow for CIFAR-10.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.paper.datasets import DATASETS, SHARED, available, images
from benchmarks.paper.page import (
    chart_name,
    put_section,
    schedule_chart,
    schedule_section,
    table_chart,
    table_section,
)
from benchmarks.paper.runs import Lab
from benchmarks.paper.schedules import TITLE, schedules, train_by_schedule
from benchmarks.paper.tables import TABLES, Sizes, fill

ROOT = Path(__file__).resolve().parents[2]
ORDER = (
    "mnist",
    "methods-digits",
    "methods-mnist",
    "methods-cifar",
    "convolutions-digits",
    "convolutions-cifar",
    "fills-digits",
    "fills-mnist",
    "fills-cifar",
    "tanh-width",
    "defaults",
    "schedules",
    "cifar-depth",
    "cifar-kernel",
    "cifar-width",
)
USUAL_DATA = {name: next((data for data in ("cifar", "digits") if data in name), "mnist") for name in ORDER}
SCHEDULES_SAY = (
    "Of no paper: a narrow network of one layer is grown to the largest (wider by zero-out, deeper by mirror) after"
    " some share of the compute; every network has a cosine of its own. Compute is counted in multiply-accumulates of"
    " the forward pass times the images seen, and is the same for every line."
)


def main(arguments: list[str] | None = None) -> None:
    """Fill the tables that were asked for."""
    options = _options(arguments)
    import torch

    torch.set_num_threads(options.threads)
    for name in options.table or ["mnist"]:
        try:
            _one(name, options)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here", file=sys.stderr)
            raise SystemExit(130) from None


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="append", choices=ORDER, help="may be given several times; default mnist")
    parser.add_argument("--data", choices=DATASETS, help="default: the paper's where it is at hand, else digits")
    parser.add_argument("--data-dir", type=Path, default=SHARED, help="where mnist.npz and cifar10_jpegs.npz lie")
    parser.add_argument("--epochs", type=int, default=10, help="of the parent, and of the child at every stage")
    parser.add_argument("--train-size", type=int, help="training images; default all")
    parser.add_argument("--test-size", type=int, help="test images; default all")
    parser.add_argument("--seeds", default="0,1,2", help="default 0,1,2")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1e-3, help="of AdamW")
    parser.add_argument("--hidden", type=int, default=64, help="units of hidden layers")
    parser.add_argument("--channels", type=float, default=1.0, help="times the papers' channels")
    parser.add_argument("--stages", type=int, default=2, help="of cifar-depth: 1 to 4")
    parser.add_argument("--only", default="", help="lines with this in their name; writes no page")
    parser.add_argument("--skip", action="append", default=[], help="lines with this in their name; said on the page")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True, help="use what is there")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "paper")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "paper_tables.md")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args(arguments)
    options.said = shlex.join(sys.argv[1:] if arguments is None else arguments)
    return options


def _one(name: str, options: argparse.Namespace) -> None:
    usual = USUAL_DATA[name]
    data_name = options.data or (usual if available(usual, options.data_dir) else "digits")
    sizes = Sizes(options.hidden, options.channels, options.stages if name == "cifar-depth" else 99)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    if options.dry_run:
        lines: list[Any] = list(schedules(sizes)) if name == "schedules" else list(TABLES[name].lines(sizes))
        print(f"{name} on {data_name}, seeds {seeds}:", *(line.name for line in lines), sep="\n  ")
        return
    data = images(
        data_name,
        folder=options.data_dir,
        cache=options.cache / "data",
        train_size=options.train_size,
        test_size=options.test_size,
    )
    lab = Lab(data, options.cache / "runs", device=options.device, resume=options.resume)
    settings = {"epochs": options.epochs, "batch_size": options.batch, "rate": options.rate}
    every = [] if name == "schedules" else [line.name for line in TABLES[name].lines(sizes)]
    skipped = [word for word in options.skip if any(word in line for line in every)]
    about = [
        f"`python benchmarks/paper/run.py {_of_one(options.said, name)}`",
        f"{data.description}, no augmentation; {options.epochs} epochs for the parent and as many at every stage,"
        f" batches of {options.batch}, AdamW at {options.rate:g} falling to zero by a cosine; seeds {options.seeds}."
        + (
            f" Channels are {options.channels:g} times the papers'."
            if name.startswith(("cifar", "convolutions")) and options.channels != 1
            else ""
        )
        + (f" Lines left out to save time: {', '.join(skipped)}." if skipped else ""),
    ]
    if name == "schedules":
        scheduled = train_by_schedule(lab, sizes, settings, seeds, options.only)
        section = schedule_section(TITLE, scheduled, [SCHEDULES_SAY, *about])
        chart = "" if options.only else schedule_chart(TITLE, scheduled)
    else:
        parents, outcomes = fill(TABLES[name], lab, sizes, settings, seeds, options.only, options.skip)
        section = table_section(TABLES[name], parents, outcomes, about)
        chart = table_chart(TABLES[name], parents, outcomes)
    print(section)
    if options.only:
        return
    options.page.parent.mkdir(parents=True, exist_ok=True)
    (options.page.parent / chart_name(name)).write_text(chart)
    put_section(options.page, name, section, ORDER)


def _of_one(said: str, name: str) -> str:
    """The command for one table, where several were asked for at once."""
    words = shlex.split(said)
    kept = []
    place = 0
    while place < len(words):
        if words[place] == "--table":
            place += 2
            continue
        if not words[place].startswith("--table="):
            kept.append(words[place])
        place += 1
    return shlex.join(["--table", name, *kept])


if __name__ == "__main__":
    main()
