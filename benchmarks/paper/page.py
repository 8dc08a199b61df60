"""The page of the tables: one section a table, written by the run that filled it; what stands around stays."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.paper.curves import Curve, draw
from benchmarks.paper.runs import Run
from benchmarks.paper.schedules import Scheduled
from benchmarks.paper.tables import Outcome, Table

__all__ = ["LEGEND", "put_section", "schedule_chart", "schedule_section", "table_chart", "table_section"]

SCRATCH = "scratch, the child's steps"
LEGEND = """\
# The papers' tables

Test accuracy in per cent after the last epoch (never of the best one), mean over the seeds, ± one standard deviation of
them. *start*: right after growing, before any step. *epoch 1*: after the first epoch. *against scratch*: points above
the same network trained from scratch for as many steps as the child, mean over the seeds. *exact*: parent and child in
ONNX Runtime, the largest difference in units of the parent's own rounding (16 is the limit). Net2Net's copies carry
noise, so their children are not exact.

Parents are made as ONNX node by node, trained from scratch by `om.train.fit`, grown through the Python API, and trained
on by `om.train.fit` with its defaults unless the line says otherwise. NM: *Network Morphism* (Wei et al., 2016); N2N:
*Net2Net* (Chen et al., 2016).
"""


def table_section(table: Table, parents: Sequence[Run], outcomes: Sequence[Outcome], about: Sequence[str]) -> str:
    """One table as Markdown.

    Args:
        table: Which.
        parents: By seed.
        outcomes: By line.
        about: The command, the data, what was reduced; one paragraph each.
    """
    stages = range(len(outcomes[0].runs[0]))
    reference = next((outcome for outcome in outcomes if outcome.line.name == SCRATCH), None)
    out = [f"## {table.title}", "", table.says, "", *(line for text in about for line in (text, "")), ""]
    head = ["grown by", "exact"]
    for stage in stages:
        name = table.stages[stage]
        head += [f"{name}: start", "epoch 1", "last", *(["against scratch"] if reference else [])]
    out += [_row(head), _row(["---"] * 2 + ["--:"] * (len(head) - 2))]
    first = f"{table.parent_name} ({parents[0].parameters:,} parameters)"
    cells = [first, "", _percent([run.start for run in parents]), _percent([run.first for run in parents])]
    out.append(_row([*cells, _spread([run.final for run in parents])] + [""] * (len(head) - 5)))
    best = [
        max((o for o in outcomes if "all steps" not in o.line.name), key=lambda o: _mean(o, stage)) for stage in stages
    ]
    for outcome in outcomes:
        cells = [outcome.line.name, _exactness(outcome)]
        for stage in stages:
            runs = [by_stage[stage] for by_stage in outcome.runs]
            last = _spread([run.final for run in runs])
            cells += [_percent([run.start for run in runs]), _percent([run.first for run in runs])]
            cells.append(f"**{last}**" if outcome is best[stage] else last)
            if reference:
                over = [
                    own[stage].final - other[stage].final
                    for own, other in zip(outcome.runs, reference.runs, strict=True)
                ]
                cells.append("" if outcome is reference else f"{100 * statistics.mean(over):+.2f}")
        out.append(_row(cells))
    sizes = "; ".join(
        f"{table.stages[stage]} {outcomes[0].runs[0][stage].parameters:,} parameters,"
        f" {outcomes[0].runs[0][stage].macs / 1e6:.3g} million multiply-accumulates"
        for stage in stages
    )
    out += ["", f"Sizes of the first line: {sizes}.", "", f"![curves]({chart_name(table.name)})", ""]
    return "\n".join(out)


def table_chart(table: Table, parents: Sequence[Run], outcomes: Sequence[Outcome], shown: int = 10) -> str:
    """Accuracy by epoch, the lines that ended best and all references, means over the seeds."""
    length = len(parents[0].curve)
    best = sorted(outcomes, key=lambda outcome: -_mean(outcome, -1))
    references = [outcome for outcome in best if outcome.line.kind == "reference"][:4]
    others = [outcome for outcome in best if outcome.line.kind != "reference"][: shown - len(references)]
    curves = [Curve("parent", _along(parents, 0.0), grey=True)]
    for outcome in [*others, *references]:
        points: list[tuple[float, float]] = []
        stages = len(outcome.runs[0])
        # What is trained for all steps so far begins where the parent did; only its last stage is drawn.
        whole = len(outcome.runs[0][-1].curve) > length
        for stage in range(stages - 1 if whole else 0, stages):
            runs = [by_stage[stage] for by_stage in outcome.runs]
            points += _along(runs, 0.0 if whole else float(length * (stage + 1)))
        curves.append(Curve(outcome.line.name, tuple(points), reference=outcome.line.kind == "reference"))
    before = 100 * statistics.mean(run.final for run in parents)
    ends = [curve.points[-1][1] for curve in curves]
    lowest = min(before, *ends)
    highest = max(ends)
    marks = [float(length * (stage + 1)) for stage in range(len(outcomes[0].runs[0]))]
    return draw(
        f"{table.title}: test accuracy by epoch",
        curves,
        across="epochs since the parent began; dotted: grown",
        lowest=lowest - 0.25 * max(highest - lowest, 1.0),
        marks=marks,
    )


def schedule_section(title: str, scheduled: Sequence[Scheduled], about: Sequence[str]) -> str:
    """The schedules as Markdown."""
    out = [f"## {title}", "", *(line for text in about for line in (text, "")), ""]
    head = ["schedule", "share of the compute by network", "epochs by network", "after each network", "last"]
    out += [_row([*head, "against scratch"]), _row(["---"] + ["--:"] * 5)]
    reference = scheduled[0]
    best = max(scheduled, key=lambda one: statistics.mean(runs[-1].final for runs in one.runs))
    for one in scheduled:
        runs = one.runs[0]
        per_epoch = [run.steps / max(1, run.curve[0][0]) for run in runs]
        after = " → ".join(_percent([by[place].final for by in one.runs]) for place in range(len(runs) - 1))
        over = [own[-1].final - other[-1].final for own, other in zip(one.runs, reference.runs, strict=True)]
        last = _spread([by[-1].final for by in one.runs])
        out.append(
            _row(
                [
                    one.schedule.name,
                    " + ".join(f"{share:.0%}" for share in one.schedule.shares),
                    " + ".join(f"{many:.1f}" for many in per_epoch),
                    after,
                    f"**{last}**" if one is best else last,
                    "" if one is reference else f"{100 * statistics.mean(over):+.2f}",
                ]
            )
        )
    large, little = reference.runs[0][-1], scheduled[1].runs[0][-1]
    out += [
        "",
        f"The largest has {large.parameters:,} parameters ({large.macs:,} multiply-accumulates an image), the smallest"
        f" {little.parameters:,} ({little.macs:,}).",
        "",
        f"![curves]({chart_name('schedules')})",
        "",
    ]
    return "\n".join(out)


def schedule_chart(title: str, scheduled: Sequence[Scheduled]) -> str:
    """Accuracy by compute."""
    curves = []
    ends = []
    for place, one in enumerate(scheduled):
        points: list[tuple[float, float]] = []
        used = 0.0
        for network in range(len(one.runs[0])):
            runs = [by[network] for by in one.runs]
            image = runs[0].macs * runs[0].batch_size / 1e9
            points += [
                (used + step * image, 100 * statistics.mean(shares))
                for step, *shares in zip(
                    (step for step, _ in runs[0].curve), *([y for _, y in run.curve] for run in runs), strict=True
                )
            ]
            used += runs[0].steps * image
        ends.append(points[-1][1])
        curves.append(Curve(one.schedule.name, tuple(points), reference=place < 2))
    return draw(
        f"{title}: test accuracy",
        curves,
        across="10⁹ multiply-accumulates of forward passes",
        lowest=min(ends) - 0.5 * max(max(ends) - min(ends), 1.0),
    )


def chart_name(table: str) -> str:
    """Of the file beside the page."""
    return f"paper_{table.replace('-', '_')}.svg"


def put_section(page: Path, name: str, section: str, order: Sequence[str]) -> None:
    """Write one section into the page, in the place of an earlier one or in its turn; all else stays as it is.

    Args:
        page: Made with :data:`LEGEND` where it is missing.
        name: Of the table.
        section: Markdown.
        order: Names of all tables as they stand on the page.
    """
    text = page.read_text() if page.exists() else LEGEND
    marked = f"<!-- table {name} -->\n{section.rstrip()}\n<!-- end of {name} -->\n"
    here = re.compile(rf"<!-- table {re.escape(name)} -->\n.*?<!-- end of {re.escape(name)} -->\n", re.DOTALL)
    if here.search(text):
        text = here.sub(lambda _: marked, text, count=1)
    else:
        later = [text.find(f"<!-- table {other} -->") for other in order[order.index(name) + 1 :]]
        at = min((place for place in later if place >= 0), default=-1)
        text = f"{text.rstrip()}\n\n{marked}" if at < 0 else f"{text[:at]}{marked}\n{text[at:]}"
    page.write_text(text)


# --- cells -----------------------------------------------------------------------------------------------------------


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _percent(shares: Sequence[float]) -> str:
    return f"{100 * statistics.mean(shares):.2f}"


def _spread(shares: Sequence[float]) -> str:
    spread = f" ± {100 * statistics.stdev(shares):.2f}" if len(shares) > 1 else ""
    return f"{_percent(shares)}{spread}"


def _mean(outcome: Outcome, stage: int) -> float:
    return statistics.mean(runs[stage].final for runs in outcome.runs)


def _exactness(outcome: Outcome) -> str:
    if outcome.line.kind == "reference":
        return ""
    certified = [one for one in outcome.certificates if one is not None]
    worst = max(one.ratio for one in certified)
    return f"yes ({worst:.1f})" if all(one.equivalent for one in certified) else f"no ({worst:.2g})"


def _along(runs: Sequence[Run], begin: float) -> tuple[tuple[float, float], ...]:
    """Points by epoch, the start included, means over runs."""
    starts = (begin, 100 * statistics.mean(run.start for run in runs))
    rest = (
        (begin + 1 + place, 100 * statistics.mean(run.curve[place][1] for run in runs))
        for place in range(min(len(run.curve) for run in runs))
    )
    return (starts, *rest)
