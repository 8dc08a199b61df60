"""The page of one morph: verdict, size, graph before and after, histograms of weights, errors against noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxmorph._ir import ir
from onnxmorph.diff import Diff, Picture, before_and_after, diff
from onnxmorph.plan import NewFactor
from onnxmorph.report.diff import html_sections, told
from onnxmorph.report.drawing import draw, parts
from onnxmorph.report.page import Html, document, element, figures, joined, listing, section, table
from onnxmorph.report.weights import growths
from onnxmorph.report.weights import show as show_weights

__all__ = ["Told", "finite", "morph_page", "pictures", "ratio_bar", "verdict_line"]

_MOST_COMPARED = 60
_LIMIT = 24.0
_KINDS = {"added": "added", "removed": "removed", "changed": "changed", "kept": "as it was, shown for orientation"}


@dataclass(frozen=True)
class Told:
    """What is known of a morph besides its two models.

    Attributes:
        names: What parent and child are called.
        certificate: As JSON; ``None``: the two were not compared.
        factors: New kernels, where the morph itself was watched.
        residual: Relative residual of the morphism equation, likewise.
        notes: What was said when it was made.
        source: Where the certificate comes from, in words.
    """

    names: tuple[str, str] = ("parent", "child")
    certificate: Mapping[str, Any] | None = None
    factors: Sequence[NewFactor] = ()
    residual: float | None = None
    notes: Sequence[str] = ()
    source: str = ""


def morph_page(parent: ir.Model, child: ir.Model, what: Told, found: Diff | None = None) -> str:
    """The page.

    Args:
        parent: The model as it was.
        child: The model as it is.
        what: What else is known.
        found: Their difference, where somebody has it already.
    """
    found = diff(parent, child) if found is None else found
    title = f"{what.names[0]} → {what.names[1]}"
    body: list[str] = [element("h1", title), verdict_line(what.certificate), element("p", found.summary())]
    body.append(_sizes(found))
    done = [told(record) for record in found.records] + [f"note: {note}" for note in what.notes]
    if done:
        body.append(section("What was done", listing(done)))
    before, after = before_and_after(parent, child)
    if before.nodes or after.nodes:
        body.append(section("The graph, where it changed", pictures(before, after)))
    if what.certificate is not None:
        body.append(_errors(what.certificate, what.source))
    drawn, more = growths(parent, child, found)
    if drawn:
        explained = element(
            "p",
            "Non-zero entries of each tensor, as it was (grey) and as it is (blue). Grown kernels should be dense and "
            "of one scale with what they came from.",
            class_="soft",
        )
        body.append(section("Weights, before and after", explained, show_weights(drawn, more)))
    if what.factors:
        body.append(_factors(what))
    body += html_sections(found, skip=("Size", "Morphs recorded"))
    if what.certificate is not None:
        body.append(_about(what.certificate))
    return document(title, *body)


def verdict_line(certificate: Mapping[str, Any] | None) -> Html:
    """The verdict, as the first thing to see."""
    if certificate is None or certificate.get("equivalent") is None:
        return element("p", element("span", "not verified", class_="verdict warn"))
    if certificate.get("morphism") is False:
        text = "not a morphism, as it was asked for"
        return element("p", element("span", text, class_="verdict warn"))
    if certificate.get("equivalent") is True:
        return element("p", element("span", "✓ equivalent", class_="verdict good"))
    failures = [str(failure) for failure in certificate.get("failures") or certificate.get("unproven") or ()]
    listed = element("ul", joined(element("li", failure) for failure in failures[:20]))
    return joined([element("p", element("span", "✗ not equivalent", class_="verdict bad")), listed])


def _sizes(found: Diff) -> Html:
    before, after = found.totals
    numbers = [
        ("parameters of layers", before.parameters, after.parameters),
        ("multiply-accumulates", before.macs, after.macs),
        ("numbers stored", before.stored, after.stored),
        ("nodes", *found.node_counts),
    ]
    return figures(
        (what, f"{two:,}", "as before" if one == two else f"from {one:,}" + (f", ×{two / one:.3g}" if one else ""))
        for what, one, two in numbers
        if one is not None and two is not None
    )


# -- picture ----------------------------------------------------------------------------------------------------------


def pictures(before: Picture, after: Picture) -> Html:
    """Both sides, beside each other where there is room."""
    legend = joined(element("li", element("i", class_=f"i-{kind}"), words) for kind, words in _KINDS.items())
    sides = joined(
        element("div", element("h3", name), _picture(side, name))
        for name, side in (("Before", before), ("After", after))
    )
    return joined([element("ul", legend, class_="legend"), element("div", sides, class_="sides")])


def _picture(side: Picture, name: str) -> Html:
    if not side.nodes:
        nothing = "nothing was here" if name == "Before" else "nothing is left here"
        return element("p", nothing, class_="soft")
    strips = list(parts(side))
    drawn = element("div", joined(draw(strip) for strip in strips), class_="picture", tabindex="0", role="group")
    if sum(len(strip.nodes) for strip in strips) > len(side.nodes):
        cut = "Long ways are cut; each piece begins with the nodes before it that it reads."
        drawn = joined([drawn, element("p", cut, class_="soft")])
    if not side.left_out:
        return drawn
    return joined([drawn, element("p", f"{side.left_out} more changed nodes are not drawn.", class_="soft")])


# -- errors -----------------------------------------------------------------------------------------------------------


def _compared(certificate: Mapping[str, Any]) -> Html:
    """Every value that was compared, outputs first and then those that moved most."""
    limit = finite(certificate.get("limit")) or _LIMIT
    compared = [("output", one) for one in certificate.get("outputs") or ()]
    inner = sorted(certificate.get("inner") or (), key=_ratio, reverse=True)
    compared += [("inner", one) for one in inner]
    told = certificate.get("inner_compared", len(inner))
    more = max(0, len(compared) - _MOST_COMPARED) + max(0, int(told) - len(inner))
    rows = [
        (
            kind,
            str(one.get("name")),
            f"{_ratio(one):.3g}",
            element("div", ratio_bar(_ratio(one), limit, one.get("status") == "differs"), class_="ratio"),
            _status(one),
            _number(one.get("max_abs")),
            _number(one.get("noise_floor")),
        )
        for kind, one in compared[:_MOST_COMPARED]
    ]
    headings = ("", "value", ">ratio", "", "verdict", ">largest difference", ">noise floor")
    body: list[str] = [table(headings, rows)]
    if more:
        body.append(element("p", f"{more} more inner values agree at least as well.", class_="soft"))
    return joined(body)


def _errors(certificate: Mapping[str, Any], source: str) -> Html:
    limit = finite(certificate.get("limit")) or _LIMIT
    ran = str(certificate.get("provider", "")).removesuffix("ExecutionProvider")
    sets = certificate.get("inputs")
    text = (
        f"Largest difference on {sets} set{'' if sets == 1 else 's'} of inputs ({ran}, {certificate.get('precision')}) "
        "over how far the parent moves from itself when its weights are moved by one rounding. The solid line is that "
        f"noise floor (1), the dashed line the limit ({limit:g}); the scale is logarithmic."
    )
    body: list[str] = [element("p", text, class_="soft"), _compared(certificate)]
    if certificate.get("detectable_fault") is not None:
        seen = f"A planted fault of {certificate['detectable_fault']:.0%} of one weight's spread was seen."
        body.append(element("p", seen))
    if isinstance(proof := certificate.get("static"), Mapping) and proof.get("proved"):
        body.append(
            element(
                "p",
                f"By algebra {proof['proved']} of {proof.get('of')} changed values are the parent's: residual "
                f"{_number(proof.get('residual'))}, of which rounding explains {_number(proof.get('rounding_bound'))}.",
            )
        )
    for warning in certificate.get("warnings") or ():
        body.append(element("p", f"Warning: {warning}", class_="warn"))
    for other in certificate.get("also") or ():
        body.append(element("h3", f"On {str(other.get('provider', '')).removesuffix('ExecutionProvider')}"))
        body.append(_compared(other))
    if source:
        body.append(element("p", source, class_="soft"))
    return section("Errors against the noise floor", *body)


def _status(comparison: Mapping[str, Any]) -> str:
    status, excess = str(comparison.get("status")), comparison.get("excess")
    return status if excess is None else f"{status}: {_number(excess)} of what is allowed"


def _ratio(comparison: Mapping[str, Any]) -> float:
    ratios = [finite(comparison.get(key)) for key in ("ratio", "channel_ratio")]
    return max((ratio for ratio in ratios if ratio is not None), default=0.0)


def finite(value: Any) -> float | None:
    """A number of a certificate, in which infinities are spelled as strings."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return math.inf if math.isnan(number) else number


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, (int, float)) else str(value)


_DECADES = (-2.0, 4.0)
_LENGTH = 200.0


def ratio_bar(ratio: float, limit: float, differs: bool) -> Html:
    """A ratio on a logarithmic scale, from a hundredth of the noise floor to ten thousand times, beside the limit."""

    def at(value: float) -> float:
        low, high = _DECADES
        decade = low if value <= 0 else min(max(math.log10(min(value, 1e9)), low), high)
        return 6 + (decade - low) / (high - low) * (_LENGTH - 12)

    kind = "out" if differs else "in"
    return Html(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LENGTH:.0f} 24" preserveAspectRatio="none" role="img">'
        f"<title>{ratio:.3g} times the noise floor</title>"
        f'<path class="track" d="M6 12H{_LENGTH - 6:.0f}"/>'
        f'<path class="floor" d="M{at(1):.1f} 4v16"/><path class="limit" d="M{at(limit):.1f} 2v20"/>'
        f'<rect class="{kind}" x="6" y="9" width="{max(at(ratio) - 6, 1.5):.1f}" height="6" rx="3"/></svg>'
    )


# -- factors and the rest ---------------------------------------------------------------------------------------------


def _factors(what: Told) -> Html:
    rows = [
        (
            factor.name,
            "×".join(map(str, factor.shape)),
            f"{factor.occupancy:.1%}",
            f"{factor.scale_ratio:.3g}",
        )
        for factor in what.factors
    ]
    body: list[str] = [table(("new kernel", ">shape", ">not zero", ">spread over He's"), rows)]
    if what.residual is not None:
        body.append(element("p", f"Relative residual of the morphism equation: {what.residual:.2g}", class_="soft"))
    return section("New kernels", *body)


def _about(certificate: Mapping[str, Any]) -> Html:
    keys = (
        "provider",
        "provider_reason",
        "runtime",
        "precision",
        "tiers",
        "threads",
        "seed",
        "parent",
        "child",
        "seconds",
    )
    rows = []
    for key in keys:
        value = certificate.get(key)
        if value not in (None, "", []):
            rows.append((key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return section("The certificate", table(("", ""), rows)) if rows else Html("")
