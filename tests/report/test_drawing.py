"""Pictures: every node and every edge is drawn, in pieces that can be read."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from onnxmorph.diff import Picture, Shown
from onnxmorph.report.drawing import draw, parts


@st.composite
def pictures(draw_: st.DrawFn) -> Picture:
    number = draw_(st.integers(1, 60))
    pairs = draw_(st.sets(st.tuples(st.integers(0, number - 1), st.integers(0, number - 1)), max_size=40))
    edges = {(one, two) for one, two in pairs if one != two}
    if draw_(st.booleans()):
        edges |= {(place, place + 1) for place in range(number - 1)}
    nodes = tuple(Shown("Op", f"n{place}", "kept") for place in range(number))
    return Picture(nodes, tuple((one, two, f"v{one}") for one, two in sorted(edges)), 0)


@given(pictures())
def test_every_node_is_in_a_piece_and_every_edge_in_exactly_one(picture: Picture) -> None:
    pieces = list(parts(picture))
    assert {node.name for piece in pieces for node in piece.nodes} == {node.name for node in picture.nodes}
    found = sorted((piece.nodes[one].name, piece.nodes[two].name) for piece in pieces for one, two, _ in piece.edges)
    assert found == sorted((f"n{one}", f"n{two}") for one, two, _ in picture.edges)
    for piece in pieces:
        drawn = draw(piece)
        assert drawn.count('class="edge"') == len(piece.edges) and drawn.count("<rect") == len(piece.nodes)


@given(pictures())
def test_boxes_do_not_overlap_and_lie_within(picture: Picture) -> None:
    for piece in parts(picture):
        drawn = draw(piece)
        size = re.search(r'viewBox="0 0 (\d+) (\d+)"', drawn)
        assert size is not None
        boxes = [tuple(map(float, found)) for found in re.findall(r'<rect x="([\d.]+)" y="([\d.]+)"', drawn)]
        assert len(set(boxes)) == len(boxes)
        for x, y in boxes:
            assert 0 <= x <= float(size[1]) - 200 and 0 <= y <= float(size[2]) - 40
            assert all(other == (x, y) or abs(other[0] - x) >= 200 or abs(other[1] - y) >= 40 for other in boxes)


def test_a_long_chain_is_cut_into_strips() -> None:
    nodes = tuple(Shown("Op", f"n{place}", "kept") for place in range(100))
    chain = Picture(nodes, tuple((place, place + 1, "") for place in range(99)), 0)
    pieces = list(parts(chain))
    assert len(pieces) == 8 and max(len(piece.nodes) for piece in pieces) == 15
    assert pieces[1].nodes[0].name == "n13"
