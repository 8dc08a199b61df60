"""LSTM, GRU, RNN: the hidden size, stacked once per gate and per direction."""

from __future__ import annotations

from onnxmorph.graph.axes.factors import Expr
from onnxmorph.graph.axes.site import Axes, Barrier, Site, rule

__all__: list[str] = []

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@rule("LSTM", "GRU", "RNN")
def recurrent(site: Site) -> None:
    """X, W (D, gH, I), R (D, gH, H), B (D, 2gH), sequence_lens, initial_h, [initial_c, P (D, 3H)]."""
    gates = _GATES[site.node.op_type]
    x, w, r = site.axes(0), site.axes(1), site.axes(2)
    if len(x) != 3 or len(w) != 3 or len(r) != 3:
        raise Barrier(f"{site.label} has operands of unexpected rank")
    batch_first = bool(site.attribute("layout", 0))
    batch, time = (x[0], x[1]) if batch_first else (x[1], x[0])
    directions = w[0]
    hidden = r[2]
    site.pin(directions, "structure", f"directions of {site.label}")
    site.unify(directions, r[0])
    site.condition(time, "recurrence", order=True)
    site.unify(x[2], w[2])
    site.role(1, 2, "contracted")
    site.role(2, 2, "contracted")
    for position, axes, stack in ((1, w, gates), (2, r, gates)):
        _stacked(site, axes[1], stack, hidden)
        site.role(position, 1, "produced")
        if not site.constant(position):
            site.block(axes, "not-followed", f"the weights of {site.label} are not constant")
    if site.has(3):
        b = site.axes(3)
        site.unify(directions, b[0])
        _stacked(site, b[1], 2 * gates, hidden)
        site.role(3, 1, "bias")
    if site.has(4):
        site.unify(site.axes(4)[0], batch)
    for position in (5, 6):
        if site.has(position):
            state = site.axes(position)
            given = [batch, directions, hidden] if batch_first else [directions, batch, hidden]
            site.broadcast([state, given])
            site.role(position, 2, "state")
    if site.has(7):
        p = site.axes(7)
        site.unify(directions, p[0])
        _stacked(site, p[1], 3, hidden)
        site.role(7, 1, "parameter")
    if "hidden_size" in site.node.attributes:
        site.size_attribute("hidden_size", hidden)
    _outputs(site, batch_first, (time, batch, directions, hidden))


def _stacked(site: Site, expr: Expr, count: int, hidden: Expr) -> None:
    row, inside = site.rows(expr, count, "stacked gates")
    if row:
        site.pin(row, "structure", f"{count} stacked gates of {site.label}")
    site.unify(inside, hidden)


def _outputs(site: Site, batch_first: bool, sizes: tuple[Expr, Expr, Expr, Expr]) -> None:
    time, batch, directions, hidden = sizes
    sequence: Axes = [batch, time, directions, hidden] if batch_first else [time, directions, batch, hidden]
    last: Axes = [batch, directions, hidden] if batch_first else [directions, batch, hidden]
    for output, value in enumerate(site.node.outputs):
        if value.name:
            site.give(output, sequence if output == 0 else last)
