"""Small graphs as SVG: layers from top to bottom, each node under all that it reads (Sugiyama et al., 1981)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from onnxmorph.diff import Picture
from onnxmorph.report.page import Html, escaped

__all__ = ["draw", "parts"]

_WIDTH, _HEIGHT, _ACROSS, _DOWN, _MARGIN = 200.0, 40.0, 24.0, 34.0, 14.0
_ASIDE = 10.0
_SWEEPS = 4
_MOST_LAYERS = 14
_LETTERS = 28


def parts(picture: Picture) -> Iterator[Picture]:
    """Pictures that can be read, in order: what hangs together by itself, and of that strips of some fifteen layers.

    Every edge is in one of them: a strip begins with the nodes of earlier ones that it reads, once more.
    """
    for whole in _connected(picture):
        yield from _strips(whole)


def _strips(picture: Picture) -> Iterator[Picture]:
    rows = _layers(picture)
    if len(rows) <= _MOST_LAYERS + _MOST_LAYERS // 4:
        yield picture
        return
    for start in range(0, len(rows), _MOST_LAYERS):
        own = {node for row in rows[start : start + _MOST_LAYERS] for node in row}
        edges = [edge for edge in picture.edges if edge[1] in own]
        yield _only(picture, sorted(own | {one for one, _, _ in edges}), edges)


def _only(picture: Picture, nodes: Sequence[int], edges: Iterable[tuple[int, int, str]]) -> Picture:
    place = {node: number for number, node in enumerate(nodes)}
    kept = tuple((place[one], place[two], name) for one, two, name in edges)
    return Picture(tuple(picture.nodes[node] for node in nodes), kept, 0)


def _connected(picture: Picture) -> Iterator[Picture]:
    group = list(range(len(picture.nodes)))

    def root(node: int) -> int:
        while group[node] != node:
            group[node] = group[group[node]]
            node = group[node]
        return node

    for one, two, _ in picture.edges:
        first, second = sorted((root(one), root(two)))
        group[second] = first
    members: dict[int, list[int]] = {}
    for node in range(len(picture.nodes)):
        members.setdefault(root(node), []).append(node)
    for nodes in members.values():
        inside = set(nodes)
        yield _only(picture, nodes, [edge for edge in picture.edges if edge[0] in inside])


def draw(picture: Picture) -> Html:
    """The picture as one ``<svg>`` element, coloured by the page's style.

    Args:
        picture: Its nodes in topological order; edges that run against it are drawn and do not count for the layers.
    """
    rows = _ordered(picture, _layers(picture))
    widest = max(len(row) for row in rows)
    width = 2 * (_MARGIN + _ASIDE) + widest * (_WIDTH + _ACROSS) - _ACROSS
    height = 2 * _MARGIN + len(rows) * (_HEIGHT + _DOWN) - _DOWN
    at: dict[int, tuple[float, float]] = {}
    for depth, row in enumerate(rows):
        start = (width - (len(row) * (_WIDTH + _ACROSS) - _ACROSS)) / 2
        for place, node in enumerate(row):
            at[node] = (start + place * (_WIDTH + _ACROSS), _MARGIN + depth * (_HEIGHT + _DOWN))
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
        f' viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
        "<title>" + escaped(f"{len(picture.nodes)} nodes and what they give to each other") + "</title>",
    ]
    for one, two, name in picture.edges:
        (left, top), (right, bottom) = at[one], at[two]
        x, y = left + _WIDTH / 2, top + _HEIGHT
        u, v = right + _WIDTH / 2, bottom
        if v - y > _DOWN + 1 and abs(u - x) < _WIDTH:
            # Past the nodes in between, not through them.
            aside = max(x, u) + _WIDTH * 0.78
            way = f"C{aside:.1f} {y:.1f} {aside:.1f} {v:.1f} {u:.1f} {v - 6:.1f}"
        else:
            bend = max(_DOWN, abs(v - y)) / 2
            way = f"C{x:.1f} {y + bend:.1f} {u:.1f} {v - bend:.1f} {u:.1f} {v - 6:.1f}"
        drawn.append(
            f'<path class="edge" d="M{x:.1f} {y:.1f} {way}"><title>{escaped(name)}</title></path>'
            f'<path class="tip" d="M{u - 4:.1f} {v - 8:.1f} h8 l-4 8 z"/>'
        )
    for number, shown in enumerate(picture.nodes):
        x, y = at[number]
        name = shown.name if len(shown.name) <= _LETTERS else f"…{shown.name[1 - _LETTERS :]}"
        op = shown.op if len(shown.op) <= 24 else f"{shown.op[:23]}…"
        middle = x + _WIDTH / 2
        drawn.append(
            f'<g class="node {shown.kind}"><title>{escaped(f"{shown.kind}: {shown.op} {shown.name}")}</title>'
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{_WIDTH:.0f}" height="{_HEIGHT:.0f}" rx="6"/>'
            f'<text x="{middle:.1f}" y="{y + 17:.1f}" text-anchor="middle" font-size="13" font-weight="600">'
            f'{escaped(op)}</text><text class="soft" x="{middle:.1f}" y="{y + 32:.1f}" text-anchor="middle"'
            f' font-size="11">{escaped(name)}</text></g>'
        )
    return Html("\n".join([*drawn, "</svg>"]))


def _layers(picture: Picture) -> list[list[int]]:
    """Nodes by the length of the longest way to them; what reads nothing here stands right above its first reader."""
    depth = [0] * len(picture.nodes)
    forward = sorted((edge for edge in picture.edges if edge[0] < edge[1]), key=lambda edge: edge[1])
    for one, two, _ in forward:
        depth[two] = max(depth[two], depth[one] + 1)
    read = {two for _, two, _ in forward}
    for node in range(len(picture.nodes)):
        readers = [depth[two] for one, two, _ in forward if one == node]
        if node not in read and readers:
            depth[node] = min(readers) - 1
    rows: list[list[int]] = [[] for _ in range(max(depth, default=0) + 1)]
    for node, row in enumerate(depth):
        rows[row].append(node)
    return [row for row in rows if row]


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
