"""When and where to grow, at equal compute: multiply-accumulates of the forward passes over all images seen.

The goal is one network of two hidden layers. Schedules begin with a narrow network of one, and grow it to the goal by
widening its layer (zero-out) and putting another one behind it (mirror), at different moments and in either order. What
a schedule saves in its small networks it has left for the large one: the budget is that of training the goal from
scratch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.paper.datasets import Images
from benchmarks.paper.growth import Growth, deepen, from_scratch, then, widen
from benchmarks.paper.parents import drawn_anew, perceptron
from benchmarks.paper.runs import Lab, Run
from benchmarks.paper.tables import CLASSES, PLAIN, Sizes
from onnxmorph._ir import ir
from onnxmorph.graph.summary import summarise

__all__ = ["TITLE", "Schedule", "Scheduled", "schedules", "small", "train_by_schedule"]

TITLE = "Growing schedules at equal compute"


@dataclass(frozen=True)
class Schedule:
    """Networks after each other, and what share of the budget each of them gets.

    Attributes:
        name: For people.
        shares: Of the budget; they add up to 1.
        growths: From the first network to the second, and so on: one fewer than shares.
        start: From the untrained narrow network to the first; ``None``: it is the first itself.
        settings: Of the training, other than everybody's.
    """

    name: str
    shares: tuple[float, ...]
    growths: tuple[Growth, ...]
    start: Growth | None = None
    settings: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Scheduled:
    """What came of a schedule: its runs by seed, by network."""

    schedule: Schedule
    runs: tuple[tuple[Run, ...], ...]


def small(images: Images, sizes: Sizes) -> ir.Model:
    """The network that schedules begin with."""
    return perceptron(images.shape, [max(2, sizes.hidden // 4)], CLASSES)


def schedules(sizes: Sizes) -> list[Schedule]:
    """The schedules; all end with the same network but the one that never grows."""
    # As wide a second layer as mirror depth needs for the output's ten channels.
    wider, deeper = widen("fc1", sizes.hidden, "zero-out"), deepen("fc2", "mirror", width=max(20, sizes.hidden))
    both = then(wider, deeper)
    kept: dict[str, Any] = {}
    lines = [
        Schedule("largest from scratch", (1.0,), (), from_scratch(both), PLAIN),
        Schedule("never grown", (1.0,), (), settings=kept),
    ]
    for share in (0.05, 0.1, 0.25, 0.5, 0.75):
        lines.append(Schedule(f"both after {share:.0%}", (share, 1.0 - share), (both,)))
    lines += [
        Schedule("wider after 10%, deeper after 40%", (0.1, 0.3, 0.6), (wider, deeper)),
        Schedule("deeper after 10%, wider after 40%", (0.1, 0.3, 0.6), (deeper, wider)),
    ]
    return lines


def train_by_schedule(
    lab: Lab, sizes: Sizes, settings: Mapping[str, Any], seeds: Sequence[int], only: str = ""
) -> list[Scheduled]:
    """Carry out every schedule.

    Args:
        lab: Where it is done.
        sizes: See `Sizes`.
        settings: Of every training; ``epochs`` is that of the largest from scratch, and sets the budget.
        seeds: Of networks, morphs and the order of images.
        only: Part of the names of the schedules wanted.
    """
    wanted = [schedule for schedule in schedules(sizes) if only in schedule.name]
    plain = {key: value for key, value in settings.items() if key != "epochs"}
    batch = int(settings["batch_size"])
    done: dict[str, list[tuple[Run, ...]]] = {schedule.name: [] for schedule in wanted}
    for seed in seeds:
        first = drawn_anew(small(lab.data, sizes), seed)
        goal = schedules(sizes)[0].start
        assert goal is not None
        per_epoch = -(-len(lab.data.train_y) // batch)
        budget = float(summarise(goal(first, seed)).totals.macs) * batch * per_epoch * settings["epochs"]
        for schedule in wanted:
            model = first if schedule.start is None else schedule.start(first, seed)
            runs: list[Run] = []
            for place, share in enumerate(schedule.shares):
                if place:
                    model = schedule.growths[place - 1](lab.model(runs[-1]), seed)
                steps = max(1, round(share * budget / (summarise(model).totals.macs * batch)))
                own = dict(schedule.settings or (PLAIN if place == 0 else {}))
                runs.append(
                    lab.train(
                        model,
                        {**plain, **own, "steps": steps},
                        seed=seed + 1000 * place,
                        label=f"schedules, seed {seed}, {schedule.name}, network {place + 1}",
                    )
                )
            done[schedule.name].append(tuple(runs))
        print(f"schedules: seed {seed} done", file=sys.stderr, flush=True)
    return [Scheduled(schedule, tuple(done[schedule.name])) for schedule in wanted]
