"""Curves of accuracy as plain SVG, light enough to lie in the repository."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Curve", "draw"]

WIDTH, HEIGHT = 860, 420
LEFT, RIGHT, TOP, BOTTOM = 52, 300, 34, 44
COLOURS = ("#1b6ca8", "#c2410c", "#15803d", "#7e22ce", "#be185d", "#0f766e", "#a16207", "#4338ca", "#9f1239", "#365314")
GREY = "#6b7280"
LABEL_HEIGHT = 14.0


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        name: Written at its end.
        points: x and y; y in per cent.
        reference: Dashed.
        grey: Without a colour of its own and without a name, such as the parent that all begin with.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    reference: bool = False
    grey: bool = False


def draw(title: str, curves: Sequence[Curve], *, across: str, lowest: float, marks: Sequence[float] = ()) -> str:
    """A chart.

    Args:
        title: Above it.
        curves: Drawn in this order; what lies under ``lowest`` is cut off.
        across: What x is.
        lowest: Least y that is shown, in per cent.
        marks: Where something happened, such as a morph: vertical lines.
    """
    right = max(x for curve in curves for x, _ in curve.points)
    top = min(100.0, max(y for curve in curves for _, y in curve.points) + 0.5)
    lowest = min(lowest, top - 1.0)
    plot_width, plot_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + plot_width * x / right, TOP + plot_height * (top - y) / (top - lowest)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
        f' font-size="12" role="img"><title>{escape(title)}</title>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="20" font-size="14" fill="#111827">{escape(title)}</text>',
        f'<clipPath id="plot"><rect x="{LEFT}" y="{TOP}" width="{plot_width}" height="{plot_height}"/></clipPath>',
    ]
    for y in _ticks(lowest, top):
        _, height = place(0, y)
        out.append(f'<path d="M{LEFT} {height:.1f}H{LEFT + plot_width}" stroke="#e5e7eb"/>')
        out.append(f'<text x="{LEFT - 6}" y="{height + 4:.1f}" text-anchor="end" fill="{GREY}">{y:g}</text>')
    for x in _ticks(0, right):
        across_at, _ = place(x, lowest)
        out.append(
            f'<text x="{across_at:.1f}" y="{TOP + plot_height + 18}" text-anchor="middle" fill="{GREY}">{x:g}</text>'
        )
    for mark in marks:
        across_at, _ = place(mark, lowest)
        out.append(f'<path d="M{across_at:.1f} {TOP}V{TOP + plot_height}" stroke="#9ca3af" stroke-dasharray="1 3"/>')
    out.append(
        f'<text x="{LEFT + plot_width / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle" fill="#374151">{escape(across)}'
        f'</text><text x="14" y="{TOP - 8}" fill="#374151">%</text>'
    )
    labels: list[tuple[float, str, str]] = []
    colours = iter(COLOURS * (1 + len(curves) // len(COLOURS)))
    for curve in curves:
        colour = GREY if curve.grey else next(colours)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in curve.points))
        dashes = ' stroke-dasharray="6 4"' if curve.reference else ""
        out.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dashes}'
            f' stroke-linejoin="round" clip-path="url(#plot)"/>'
        )
        if not curve.grey:
            end = place(*curve.points[-1])
            last = curve.points[-1][1]
            labels.append((min(max(end[1], TOP), TOP + plot_height), f"{curve.name}  {last:.1f}", colour))
    for height, text, colour in _spread(labels, TOP + 4.0, TOP + plot_height + 4.0):
        out.append(f'<text x="{LEFT + plot_width + 10}" y="{height + 4:.1f}" fill="{colour}">{escape(text)}</text>')
    return "\n".join([*out, "</svg>", ""])


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, about six."""
    span = max(high - low, 1e-9)
    step = 10.0 ** math.floor(math.log10(span / 5))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 7)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 9) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _spread(labels: Sequence[tuple[float, str, str]], top: float, bottom: float) -> list[tuple[float, str, str]]:
    """Labels moved apart where they would lie upon each other, in their order from above."""
    ordered = sorted(labels, key=lambda label: label[0])
    heights = [max(label[0], top) for label in ordered]
    for place in range(1, len(heights)):
        heights[place] = max(heights[place], heights[place - 1] + LABEL_HEIGHT)
    for place in range(len(heights) - 1, -1, -1):
        limit = bottom if place == len(heights) - 1 else heights[place + 1] - LABEL_HEIGHT
        heights[place] = min(heights[place], limit)
    return [(height, text, colour) for height, (_, text, colour) in zip(heights, ordered, strict=True)]
