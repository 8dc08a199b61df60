"""The page: who saw which faults, who cried wolf, and how far apart our verifier finds the two."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

__all__ = ["as_markdown"]

Event = dict[str, Any]

HALVES = ("calibration", "held out")


def as_markdown(events: Sequence[Event], counted_from: float, command: str, note: str = "") -> str:
    """The results of a run as a page.

    Args:
        events: What `fault_detection.py` noted.
        counted_from: Effect, in units of rounding, from which a fault counts.
        command: What to type to make the page anew.
        note: What else the reader of the first table should know.
    """
    faults = [event for event in events if event["event"] == "fault"]
    counted = [event for event in faults if effect(event) > counted_from]
    true = [event for event in events if event["event"] == "true"]
    names = list(dict.fromkeys(name for event in true for name in event["said"]))
    models = {event["path"] for event in true}
    nothing = sum(effect(event) == 0 for event in faults)
    below = len(faults) - len(counted) - nothing
    return "\n".join(
        [
            "# Fault detection",
            "",
            f"`{command}` wrote this page; what is planted, what counts and how it is decided: the head of that file.",
            "",
            f"{len(models)} models gave {len(true)} true children and {len(faults)} planted faults. "
            f"{len(counted)} faults count: they change a value that parent and child both have by more than "
            f"{counted_from:g} units of rounding of its largest magnitude. {nothing} change nothing at all (dead "
            f"channels, weights behind zeros, swapped equals, what the runtime ignores) and {below} less than that.",
            "",
            "Limits were set while looking at the calibration half; the held-out half has other networks and seeds.",
            "",
            *_halves(counted, true, names),
            "",
            "*Detected*: of the faults that count; a pair that a comparer cannot run counts as not detected. *False "
            "alarms*: true children called different.",
            "",
            *_from_the_files(counted),
            *_broken_off(events),
            *([note, ""] if note else []),
            "## By kind of fault",
            "",
            *_by_kind(counted, names, "fault", lambda event, name: event["said"][name]["same"] is False),
            "",
            "## False alarms by kind of child",
            "",
            *_by_kind(true, names, "true child", lambda event, name: event["said"][name]["same"] is False, plain=True),
            "",
            "## How far apart",
            "",
            *_margins(counted, true),
            "",
            "## What onnxmorph missed, and where it cried wolf",
            "",
            *_named(counted, true),
            "",
        ]
    )


def _from_the_files(counted: Sequence[Event]) -> Iterable[str]:
    """How much onnxmorph knew from the files alone."""
    mine = [event["said"]["onnxmorph"] for event in counted if "onnxmorph" in event["said"]]
    unproven = sum(said.get("verdict") == "unproven" for said in mine)
    if unproven:
        yield (
            f"{unproven} of the faults that onnxmorph detected it knew from the files alone: none of its inputs showed "
            "them, and its verdict was `unproven`, which is not `equivalent`."
        )
        yield ""


def _broken_off(events: Sequence[Event]) -> Iterable[str]:
    """Models whose pairs are not all there."""
    ended = [event for event in events if event["event"] == "finished" and "broken off" in event["ended"]]
    if ended:
        yield f"{len(ended)} models were broken off by the clock (`--most-seconds`): the pairs until then are counted."
        yield ""


def effect(event: Event) -> float:
    """The size of a planted fault's largest effect, in units of rounding."""
    return float(event["effect"])


def _halves(counted: Sequence[Event], true: Sequence[Event], names: Sequence[str]) -> Iterable[str]:
    yield "| comparer | half | faults detected | of them | false alarms | of true children | could not run | s a pair |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    for name in names:
        for half in (*HALVES, "both"):
            mine = [event for event in counted if half in (event["half"], "both") and name in event["said"]]
            good = [event for event in true if half in (event["half"], "both") and name in event["said"]]
            if not mine or not good:
                continue
            said = [event["said"][name] for event in (*mine, *good)]
            seen = sum(event["said"][name]["same"] is False for event in mine)
            alarms = sum(event["said"][name]["same"] is False for event in good)
            failed = sum(answer["same"] is None for answer in said)
            seconds = sum(answer["seconds"] for answer in said) / len(said)
            yield (
                f"| {name} | {half} | {seen / len(mine):.2%} | {seen} / {len(mine)} | {alarms} | {len(good)} "
                f"| {failed} | {seconds:.2f} |"
            )


def _by_kind(
    events: Sequence[Event],
    names: Sequence[str],
    title: str,
    hit: Callable[[Event, str], bool],
    *,
    plain: bool = False,
) -> Iterable[str]:
    kinds: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        kinds[event["kind"]].append(event)
    yield f"| {title} | number | " + " | ".join(names) + " |"
    yield "|---|---:|" + "---:|" * len(names)
    for kind in sorted(kinds):
        mine = kinds[kind]
        asked = [[event for event in mine if name in event["said"]] for name in names]
        hits = [sum(hit(event, name) for event in some) for name, some in zip(names, asked, strict=True)]
        cells = [
            str(count) if plain else f"{count / len(some):.0%}" if some else ""
            for count, some in zip(hits, asked, strict=True)
        ]
        yield f"| {kind} | {len(mine)} | " + " | ".join(cells) + " |"


def _margins(counted: Sequence[Event], true: Sequence[Event]) -> Iterable[str]:
    """Quantiles of the largest quotient of difference and noise in each pair."""
    yield (
        "The largest quotient of difference and noise that the verifier found in a pair (before a value is called "
        "different it is measured again, against more noise; a fault ends the run at the second set of inputs that "
        "shows it):"
    )
    yield ""
    yield "| pairs | half | smallest | 1 % | 5 % | median | 95 % | 99 % | largest |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|"
    for title, events in (("true children", true), ("faults that count", counted)):
        for half in HALVES:
            ratios = sorted(
                float(event["said"]["onnxmorph"]["ratio"])
                for event in events
                if event["half"] == half and event["said"]["onnxmorph"].get("ratio") is not None
            )
            if ratios:
                places = (0, 0.01, 0.05, 0.5, 0.95, 0.99, 1)
                picked = [ratios[min(len(ratios) - 1, round(place * (len(ratios) - 1)))] for place in places]
                yield f"| {title} | {half} | " + " | ".join(f"{ratio:,.3g}" for ratio in picked) + " |"


def _named(counted: Sequence[Event], true: Sequence[Event]) -> Iterable[str]:
    missed = [event for event in counted if event["said"]["onnxmorph"]["same"] is not False]
    alarms = [event for event in true if event["said"]["onnxmorph"]["same"] is not True]
    for event in sorted(missed, key=effect):
        yield (
            f"* missed ({event['half']}): {event['kind']}, `{event['what']}` in {_model(event)}"
            + (f" after {event['of']}" if event["of"] != "parent" else "")
            + f": {event['effect']} units of rounding, {event['effect_outputs']} at the outputs"
            + (f"; {event['said']['onnxmorph']['why']}" if event["said"]["onnxmorph"]["why"] else "")
        )
    for event in alarms:
        yield f"* alarm ({event['half']}): {event['what']} in {_model(event)}; {event['said']['onnxmorph']['why']}"
    if not missed and not alarms:
        yield "Nothing."
    kinds = Counter(event["kind"] for event in missed)
    if missed:
        yield ""
        yield "By kind: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) + "."


def _model(event: Event) -> str:
    return "/".join(event["path"].split("/")[-2:])
