"""Small graphs as SVG: layers from top to bottom, each node under all that it reads (Sugiyama et al., 1981)."""

from __future__ import annotations

import html
from collections.abc import Mapping

from onnxmorph.diff import Picture

__all__ = ["draw"]

_WIDTH, _HEIGHT, _ACROSS, _DOWN, _MARGIN = 190.0, 40.0, 24.0, 34.0, 14.0
_SWEEPS = 4


def draw(picture: Picture, colours: Mapping[str, str]) -> str:
    """The picture as one ``<svg>`` element.

    Args:
        picture: Its nodes in topological order; edges that run against it are drawn and do not count for the layers.
        colours: Fill of a node by its kind.
    """
    rows = _ordered(picture, _layers(picture))
    widest = max(len(row) for row in rows)
    width = 2 * _MARGIN + widest * (_WIDTH + _ACROSS) - _ACROSS
    height = 2 * _MARGIN + len(rows) * (_HEIGHT + _DOWN) - _DOWN
    at: dict[int, tuple[float, float]] = {}
    for depth, row in enumerate(rows):
        start = (width - (len(row) * (_WIDTH + _ACROSS) - _ACROSS)) / 2
        for place, node in enumerate(row):
            at[node] = (start + place * (_WIDTH + _ACROSS), _MARGIN + depth * (_HEIGHT + _DOWN))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
        f' viewBox="0 0 {width:.0f} {height:.0f}" role="img" font-family="system-ui, sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#555"/></marker></defs>',
    ]
    for one, two, name in picture.edges:
        (left, top), (right, bottom) = at[one], at[two]
        x, y = left + _WIDTH / 2, top + _HEIGHT
        u, v = right + _WIDTH / 2, bottom
        bend = max(_DOWN, abs(v - y)) / 2
        parts.append(
            f'<path d="M{x:.1f} {y:.1f} C{x:.1f} {y + bend:.1f} {u:.1f} {v - bend:.1f} {u:.1f} {v:.1f}" fill="none"'
            f' stroke="#555" marker-end="url(#tip)"><title>{html.escape(name)}</title></path>'
        )
    for number, shown in enumerate(picture.nodes):
        x, y = at[number]
        dashes = ' stroke-dasharray="4 3"' if shown.kind == "removed" else ""
        name = shown.name if len(shown.name) <= 30 else f"…{shown.name[-29:]}"
        parts.append(
            f"<g><title>{html.escape(f'{shown.kind}: {shown.op} {shown.name}')}</title>"
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{_WIDTH:.0f}" height="{_HEIGHT:.0f}" rx="5"'
            f' fill="{colours[shown.kind]}" stroke="#555"{dashes}/>'
            f'<text x="{x + _WIDTH / 2:.1f}" y="{y + 16:.1f}" text-anchor="middle" font-size="13" font-weight="600"'
            f' fill="#111">{html.escape(shown.op)}</text>'
            f'<text x="{x + _WIDTH / 2:.1f}" y="{y + 31:.1f}" text-anchor="middle" font-size="10.5" fill="#333">'
            f"{html.escape(name)}</text></g>"
        )
    return "\n".join([*parts, "</svg>"])


def _layers(picture: Picture) -> list[list[int]]:
    """Nodes by the length of the longest way to them."""
    depth = [0] * len(picture.nodes)
    for one, two, _ in sorted(picture.edges, key=lambda edge: edge[1]):
        if one < two:
            depth[two] = max(depth[two], depth[one] + 1)
    rows: list[list[int]] = [[] for _ in range(max(depth, default=0) + 1)]
    for node, row in enumerate(depth):
        rows[row].append(node)
    return rows


def _ordered(picture: Picture, rows: list[list[int]]) -> list[list[int]]:
    """Each layer in the order of the mean place of its neighbours, swept down and up a few times."""
    neighbours: dict[int, list[int]] = {node: [] for node in range(len(picture.nodes))}
    for one, two, _ in picture.edges:
        neighbours[one].append(two)
        neighbours[two].append(one)
    place = {node: number - len(row) / 2 for row in rows for number, node in enumerate(row)}
    for sweep in range(_SWEEPS):
        for index in range(len(rows)) if sweep % 2 == 0 else range(len(rows) - 1, -1, -1):
            row = rows[index]
            mean = {
                node: sum(place[other] for other in neighbours[node]) / len(neighbours[node])
                if neighbours[node]
                else place[node]
                for node in row
            }
            row.sort(key=lambda node, mean=mean: mean[node])  # type: ignore[misc]
            place.update({node: number - len(row) / 2 for number, node in enumerate(row)})
    return rows
