"""What a sweep found, as Markdown: by source, by variant, refusals by reason, and whatever was wrong in full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.variants import MORPHS, title

if TYPE_CHECKING:
    from benchmarks.sweep import Settings, Target

__all__ = ["OUTCOMES", "SOURCES", "report"]

SOURCES = ("zoo", "samples", "fetched", "generated")
OUTCOMES = ("done", "refused", "wrong", "crash", "blind", "unverifiable", "late")

Result = Mapping[str, Any]

NOT_ASKED = {"kernel": ("no-kernel",), "activate": ("no-activation",), "skip": ("first-layer",)}
"""Refusals that only say that a layer is not of the kind a morph is about; they do not count in its share."""

NO_LINEAR_LAYER = ("only-width",)
"""Of recurrent layers: a hidden size can be widened, and there is no linear map to deepen or to factor."""

LIFTS: Mapping[str, str] = {
    "graph-output": "`--interface`: the output is wider then, which is another signature",
    "graph-input": "`--interface`, or a graph that does not hand the value in (a cache of keys and values)",
    "layernorm": "copies of every channel (`replicate`) or `mean`, which the other fills' rows count",
    "no-scheme": "sizes that are whole multiples, by copies (`replicate`): what stands between carries copies",
    "computed-constant": "fold the model's constants first",
    "no-mean": "nothing to lift: `mean` is for normalised axes, the other fills widen this one",
    "not-zero": "another fill: what stands between takes zeros elsewhere",
    "not-residual": "nothing to lift: the layer is in no block `x + f(x)`",
    "index": "a graph that does not end in ArgMax, TopK or a Gather by computed indices over this axis",
    "no-kernel": "nothing to lift: no convolution",
    "no-activation": "nothing to lift for the layer; activations behind a sum are named by themselves",
    "first-layer": "nothing to lift: no layer before it",
    "skip-shape": "pooling by fractions, or moving positions into channels; choose other layers",
    "selection": "a batch norm wants its channels on axis 1: leave `bn` out of the template",
    "mirror-activation": "`netmorph`, or another activation inside: its odd part is not linear",
    "unsupported-op": "export the operator as MatMul or Conv (integer and fused operators hold no float weights)",
    "weight-overridable": "remove the weight from the graph inputs",
    "quantised": "`zero-out`; or morph the float model and quantise the child",
    "activation-not-idempotent": "a block whose sum is followed by ReLU or by nothing",
    "only-width": "widen or shrink: a recurrent layer is no linear map",
}
"""What would lift a refusal, by code, where that is more than the refusal itself can say."""


def report(
    results: Sequence[Result], targets: Sequence[Target], settings: Settings, command: str, *, left_out: int = 0
) -> str:
    """The results as Markdown: per model, refusals by reason, and whatever was wrong in full."""
    what = "trials" if len(settings.variants) > 1 else "layers"
    lines = [f"# Sweep: {settings.morph}{title(settings.variants)}", ""]
    lines += [
        f"Made by `{command}`; {_which(settings, left_out)}, planned, carried out and verified in ONNX Runtime.",
        "*share* counts the layers with a constant float weight; *ratio* is the largest difference between parent and",
        "child, in units of what one rounding moves the parent itself.",
        "",
        f"| source | models | {what} | done | refused | wrong | crash | blind | unverifiable | late | share | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for source in [*dict.fromkeys(target.source for target in targets), ""]:
        rows = [r for r in results if not source or r["source"] == source]
        models = len([target for target in targets if not source or target.source == source])
        lines.append(f"| {source or '**all**'} | {models} | {_cells(rows)} |")
    if len(settings.variants) > 1:
        lines += _variants(results, settings)
    lines += _refusals(results, several=len(settings.variants) > 1)
    lines += _factors(results)
    if lost := [r for r in results if r.get("frontier_lost")]:
        names = ", ".join(f"{r['model']} `{r['name']}`" for r in lost[:3])
        lines += ["", f"{len(lost)} plans named a border value that parent or child does not have: {names} ..."]
    for outcome in ("wrong", "crash", "blind", "late", "unverifiable"):
        bad = [r for r in results if r["outcome"] == outcome]
        if bad:
            lines += ["", f"## {outcome.capitalize()}", ""]
        alike: dict[str, list[Result]] = {}
        for r in bad:
            alike.setdefault((str(r.get("reason", "")).strip().splitlines() or [""])[-1], []).append(r)
        for last, same in alike.items():
            places = [f"{r['model']} `{r.get('name', '')}` ({r.get('op', '-')}, {r.get('variant', '-')})" for r in same]
            more = f" and {len(places) - 3} more" if len(places) > 3 else ""
            lines.append(f"* {', '.join(places[:3])}{more}: {last}")
    lines += ["", "## Models", ""]
    lines.append("| model | layers | done | refused | wrong | crash | blind | unverifiable | late | share | ratio |")
    lines.append("|---|---|---|---|---|---|---|---|---|---|---|")
    order = {source: i for i, source in enumerate(("given", *SOURCES))}
    for target in sorted((t for t in targets if t.path), key=lambda t: (order[t.source], t.name)):
        rows = [r for r in results if (r["source"], r["model"]) == (target.source, target.name)]
        lines.append(f"| {target.name} | {_cells(rows)} |")
    for theme in dict.fromkeys(target.name.split("/")[0] for target in targets if not target.path):
        rows = [r for r in results if r["source"] == "generated" and r["model"].startswith(theme + "/")]
        lines.append(f"| generated {theme}/* | {_cells(rows)} |")
    return "\n".join(lines) + "\n"


def _which(settings: Settings, left_out: int) -> str:
    """Which layers of which models the sweep was over."""
    layers = f"at most {settings.layers} layers" if settings.layers else "every layer"
    return f"{layers} of every model" + (f" but {left_out} that it did not come to" if left_out else "")


def _variants(results: Sequence[Result], settings: Settings) -> list[str]:
    """What became of every variant, and of the morphs that have several of them."""
    lines = ["", "## Variants", ""]
    lines += [
        "*share* counts float layers with a constant weight that the morph is about: convolutions for `kernel`, layers",
        "with an activation for `activate`. *inner share* leaves out those whose output is an output of the model.",
        "*smaller* counts children of `shrink` and `fold` that hold no more numbers than the parent.",
        "",
        f"| variant | asked | {' | '.join(OUTCOMES)} | share | inner share | ratio | smaller | mostly refused for |",
        f"|---|---|{'---|' * len(OUTCOMES)}---|---|---|---|---|",
    ]
    morph = MORPHS[settings.morph]
    for variant in settings.variants:
        rows = [r for r in results if r.get("variant") == variant]
        counts = Counter(str(r["outcome"]) for r in rows)
        asked = _asked(rows, variant)
        why = Counter(str(r.get("code")) for r in asked if r["outcome"] == "refused").most_common(3)
        told = " | ".join(str(counts[outcome]) for outcome in OUTCOMES)
        lines.append(
            f"| {variant} | {len(asked)} | {told} | {_share(asked)} | {_share(_inner(asked))} | {_ratio(rows)} "
            f"| {_smaller(rows) if variant.startswith(('fold', 'shrink')) else '-'} "
            f"| {', '.join(f'{code} {count}' for code, count in why)} |"
        )
    if morph.aims:
        lines += [
            "",
            "| morph, by any variant | layers | done | share | inner share | aim |",
            "|---|---|---|---|---|---|",
        ]
    for name, aim in morph.aims.items():
        # A layer is done where any variant of the morph was.
        best: dict[tuple[str, str, int], Result] = {}
        for r in results:
            if str(r.get("variant", "")).split(" ")[0] == name and "layer" in r:
                place = (str(r["source"]), str(r["model"]), int(r["layer"]))
                if place not in best or r["outcome"] == "done":
                    best[place] = r
        asked = _asked(list(best.values()), name)
        done = sum(r["outcome"] == "done" for r in asked)
        lines.append(
            f"| {name} | {len(asked)} | {done} | {_share(asked)} | {_share(_inner(asked))} | {100 * aim:g} % |"
        )
    return lines


def _asked(rows: Sequence[Result], variant: str) -> list[Result]:
    """Float layers with a constant weight that are of the kind the morph is about."""
    aside = (*NOT_ASKED.get(variant.partition(" ")[0], ()), *NO_LINEAR_LAYER)
    return [r for r in rows if r.get("counts") and not (r["outcome"] == "refused" and r.get("code") in aside)]


def _inner(rows: Sequence[Result]) -> list[Result]:
    return [r for r in rows if not (r["outcome"] == "refused" and r.get("code") == "graph-output")]


def _share(rows: Sequence[Result]) -> str:
    return f"{100 * sum(r['outcome'] == 'done' for r in rows) / len(rows):.1f} %" if rows else "-"


def _ratio(rows: Sequence[Result]) -> str:
    ratio = max((float(r["ratio"]) for r in rows if r["outcome"] == "done" and "ratio" in r), default=None)
    return "-" if ratio is None else f"{ratio:.2g}"


def _smaller(rows: Sequence[Result]) -> str:
    done = [r["size"] for r in rows if r["outcome"] == "done" and "size" in r]
    return f"{sum(child <= parent for parent, child in done)} of {len(done)}"


def _refusals(results: Sequence[Result], *, several: bool) -> list[str]:
    """Refusals by code: how many, where, and what would lift one of them."""
    refused = [r for r in results if r["outcome"] == "refused"]
    trials = "trials" if several else "layers"
    lines = ["", "## Refusals by reason", "", f"| code | {trials} | with a constant float weight |", "|---|---|---|"]
    lines[-2] += " of |" * several + " for example | what lifts it |"
    lines[-1] += "---|" * several + "---|---|"
    for code, count in Counter(str(r.get("code")) for r in refused).most_common():
        same = [r for r in refused if str(r.get("code")) == code]
        example = min(same, key=lambda r: (not r.get("way_out"), len(str(r["reason"]))))
        row = f"| {code} | {count} | {sum(bool(r.get('counts')) for r in same)} |"
        if several:
            by = Counter(str(r.get("variant", "")).split(" ")[0] for r in same).most_common()
            row += f" {', '.join(f'{morph} {many}' for morph, many in by if morph)} |"
        lift = LIFTS.get(code) or example.get("way_out") or "-"
        lines.append(f"{row} {_cell(str(example['reason']))} | {_cell(str(lift))} |")
    return lines


def _cells(rows: Sequence[Result]) -> str:
    counts = Counter(str(r["outcome"]) for r in rows)
    told = [str(sum("layer" in r for r in rows)), *(str(counts[outcome]) for outcome in OUTCOMES)]
    return " | ".join([*told, _share(_asked(rows, "")), _ratio(rows)])


def _factors(results: Sequence[Result]) -> list[str]:
    """How the new factors look, by method: NM asks for few zeros and one scale."""
    lines = ["", "## New factors", ""]
    lines.append(
        "| method | layers | all dense | scale ratio 0.5 to 2 | scale ratios, 5 % to 95 % | largest residual |"
    )
    lines.append("|---|---|---|---|---|---|")
    done = [r for r in results if r["outcome"] == "done" and r.get("scale_ratios")]
    for method in dict.fromkeys(str(r["method"]) for r in done):
        rows = [r for r in done if r["method"] == method]
        scales = sorted(scale for r in rows for scale in r["scale_ratios"])
        inside = sum(0.5 <= scale <= 2 for scale in scales)
        low, high = scales[int(0.05 * (len(scales) - 1))], scales[round(0.95 * (len(scales) - 1))]
        dense = sum(r["occupancy"] == 1 for r in rows)
        lines.append(
            f"| {method} | {len(rows)} | {100 * dense / len(rows):.1f} % | {100 * inside / len(scales):.1f} % "
            f"| {low:.2g} to {high:.2g} | {max(r['residual'] for r in rows):.1g} |"
        )
    return lines if done else []


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")[:200]
