"""Attention as one operator: heads are free in whole, head sizes have a condition."""

from __future__ import annotations

from onnxmorph.graph.axes.factors import Expr
from onnxmorph.graph.axes.site import Axes, Barrier, Site, rule

__all__: list[str] = []


def _heads(site: Site, expr: Expr, count: int, attribute: str) -> tuple[Expr, Expr]:
    head, inside = site.rows(expr, count, attribute)
    if head:
        site.size_attribute(attribute, head)
    return head, inside


@rule("Attention")
def attention(site: Site) -> None:
    """ONNX Attention (opset 23): Q, K, V as (N, L, heads*d) with head counts, or as (N, heads, L, d)."""
    if any(site.has(position) for position in (4, 5)) or any(
        value.uses() or value.is_graph_output() for value in site.node.outputs[1:]
    ):
        raise Barrier(f"{site.label} keeps keys and values from call to call", "unsupported-attention")
    q, k, v = (site.axes(position) for position in range(3))
    if len(q) == 3:
        q_heads, d = _heads(site, q[2], int(site.attribute("q_num_heads")), "q_num_heads")
        kv_heads, d_k = _heads(site, k[2], int(site.attribute("kv_num_heads")), "kv_num_heads")
        v_heads, d_v = _heads(site, v[2], int(site.attribute("kv_num_heads")), "kv_num_heads")
        rows, keys, values = q[1], k[1], v[1]
        out: Axes = [q[0], rows, q_heads + d_v]
    else:
        q_heads, kv_heads, v_heads = q[1], k[1], v[1]
        d, d_k, d_v = q[3], k[3], v[3]
        rows, keys, values = q[2], k[2], v[2]
        out = [q[0], q_heads, rows, d_v]
    _scores(site, (d, d_k), (keys, values), (k[0], v[0], q[0]))
    site.unify(kv_heads, v_heads)
    _share(site, q_heads, kv_heads)
    if site.attribute("is_causal", 0) or site.has(6):
        site.pin((rows, keys), "index", f"{site.label} compares positions of this axis")
    if site.has(6):
        site.pin((q[0], site.axes(6)[0]), "index", f"{site.label} reads a length for each of these")
    if site.has(3):
        _mask(site, 3, [q[0], q_heads, rows, keys])
    site.give(0, out)


def _scores(site: Site, d: tuple[Expr, Expr], length: tuple[Expr, Expr], batch: tuple[Expr, Expr, Expr]) -> None:
    site.unify(*d)
    site.condition(d[0], "attention")
    site.unify(*length)
    site.condition(length[0], "softmax")
    for one in batch[:2]:
        site.broadcast([[batch[2]], [one]])


def _share(site: Site, q_heads: Expr, kv_heads: Expr) -> None:
    """Grouped queries: q heads = (kv heads, queries in a group)."""
    many, few = site.size(q_heads), site.size(kv_heads)
    if many == few:
        site.unify(q_heads, kv_heads)
        return
    if not many or not few or many % few:
        site.block((q_heads, kv_heads), "unsupported-attention", f"heads of {site.label} do not divide")
        return
    row, _ = site.rows(q_heads, few, "kv heads")
    site.unify(row, kv_heads)


def _mask(site: Site, position: int, scores: Axes) -> None:
    site.broadcast([site.axes(position), scores])


@rule("MultiHeadAttention", domain="com.microsoft")
def multi_head_attention(site: Site) -> None:
    """query (N, L, h*d), key (N, S, h*d), value (N, S, h*d_v), bias over all three."""
    q = site.axes(0)
    if not (site.has(1) and site.has(2)) or len(q) != 3 or any(site.has(position) for position in range(6, 10)):
        raise Barrier(f"{site.label} packs or keeps its keys and values", "unsupported-attention")
    if any(value.uses() or value.is_graph_output() for value in site.node.outputs[1:]):
        raise Barrier(f"{site.label} keeps keys and values from call to call", "unsupported-attention")
    k, v = site.axes(1), site.axes(2)
    if len(k) != 3 or len(v) != 3:
        raise Barrier(f"{site.label} has keys of {len(k)} axes", "unsupported-attention")
    count = int(site.attribute("num_heads"))
    q_heads, d = _heads(site, q[2], count, "num_heads")
    k_heads, d_k = _heads(site, k[2], count, "num_heads")
    v_heads, d_v = _heads(site, v[2], count, "num_heads")
    site.unify(q_heads, k_heads)
    site.unify(q_heads, v_heads)
    _scores(site, (d, d_k), (k[1], v[1]), (k[0], v[0], q[0]))
    if site.has(3):
        site.unify(site.axes(3)[0], site.factors.sum([q_heads + d, k_heads + d_k, v_heads + d_v]))
        site.role(3, 0, "bias")
    if site.attribute("unidirectional", 0):
        site.pin((q[1], k[1]), "index", f"{site.label} compares positions of this axis")
    if site.has(4):
        site.pin((*site.axes(4), q[0], k[1]), "index", f"padding mask of {site.label}")
    if site.has(5):
        _mask(site, 5, [q[0], q_heads, q[1], k[1]])
    site.give(0, [q[0], q[1], q_heads + d_v])


@rule("Attention", domain="com.microsoft")
def microsoft_attention(site: Site) -> None:
    """input (N, L, D) with weights (D, q|k|v) inside the operator."""
    if site.has(4) or site.has(6) or any(v.uses() or v.is_graph_output() for v in site.node.outputs[1:]):
        raise Barrier(f"{site.label} keeps keys and values from call to call", "unsupported-attention")
    if site.attribute("do_rotary", 0):
        raise Barrier(f"{site.label} rotates its queries", "unsupported-attention")
    x, w = site.axes(0), site.axes(1)
    site.unify(x[2], w[0])
    site.role(1, 0, "contracted")
    site.role(1, 1, "produced")
    sizes = site.integers("qkv_hidden_sizes")
    if sizes is not None:
        site.block(w[1], "unsupported-attention", f"{site.label} lists the sizes of its three parts")
        site.give(0, [x[0], x[1], site.new(sizes[2])])
        return
    stack, inside = site.rows(w[1], 3, "query, key, value")
    site.pin(stack, "structure", f"query, key and value of {site.label}")
    heads, d = _heads(site, inside, int(site.attribute("num_heads")), "num_heads")
    site.condition(d, "attention")
    if site.has(2):
        site.unify(site.axes(2)[0], w[1])
        site.role(2, 0, "bias")
    site.condition(x[1], "softmax")
    if site.attribute("unidirectional", 0):
        site.pin(x[1], "index", f"{site.label} compares positions of this axis")
    if site.has(3):
        site.pin((*site.axes(3), *x[:2]), "index", f"mask of {site.label}")
    if site.has(5):
        _mask(site, 5, [x[0], heads, x[1], x[1]])
    site.give(0, [x[0], x[1], heads + d])


@rule("RotaryEmbedding")
def rotary_embedding(site: Site) -> None:
    """X, cos, sin: pairs inside a head are rotated by position, so the head size is pinned; heads are carried."""
    x = site.axes(0)
    if len(x) == 3:
        heads = int(site.attribute("num_heads", 0))
        if not heads:
            raise Barrier(f"{site.label} does not say its number of heads")
        row, inside = _heads(site, x[2], heads, "num_heads")
        site.pin(inside, "index", f"{site.label} rotates pairs inside a head")
        site.pin(x[:2], "index", f"{site.label} rotates by position")
        site.give(0, [x[0], x[1], row + inside])
    elif len(x) == 4:
        site.pin(x[3], "index", f"{site.label} rotates pairs inside a head")
        site.pin((x[0], x[2]), "index", f"{site.label} rotates by position")
        site.give(0, x)
    else:
        raise Barrier(f"{site.label} has an input of {len(x)} axes")
    for position in range(1, len(site.node.inputs)):
        if site.has(position):
            site.pin(site.axes(position), "index", f"angles of {site.label}")
