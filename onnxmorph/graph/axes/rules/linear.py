"""Operators that contract: Conv, ConvTranspose, Gemm, MatMul, Einsum and their integer and fused forms."""

from __future__ import annotations

import math

from onnxmorph.graph.axes.factors import Expr
from onnxmorph.graph.axes.site import Axes, Barrier, Site, rule

__all__ = ["spatial_sizes"]


def spatial_sizes(site: Site, sizes: list[int | None], kernel: list[int]) -> list[int | None]:
    """Output sizes of a sliding window over axes of the given sizes; ``None`` where unknown."""
    count = len(kernel)
    strides = site.integers("strides") or [1] * count
    dilations = site.integers("dilations") or [1] * count
    pads = site.integers("pads") or [0] * (2 * count)
    auto = site.attribute("auto_pad", "NOTSET")
    ceil = bool(site.attribute("ceil_mode", 0))
    out: list[int | None] = []
    for axis, size in enumerate(sizes):
        if size is None:
            out.append(None)
        elif auto in {"SAME_UPPER", "SAME_LOWER"}:
            out.append(math.ceil(size / strides[axis]))
        else:
            padding = 0 if auto == "VALID" else pads[axis] + pads[axis + count]
            room = size + padding - dilations[axis] * (kernel[axis] - 1) - 1
            steps = math.ceil(room / strides[axis]) if ceil else room // strides[axis]
            if ceil and steps * strides[axis] >= size + (0 if auto == "VALID" else pads[axis]):
                steps -= 1  # a window that starts in the padding at the end is left out
            out.append(max(steps + 1, 0))
    return out


def _kernel(site: Site, weight: Axes) -> list[int] | None:
    given = site.integers("kernel_shape")
    if given is not None:
        return given
    sizes = [site.size(expr) for expr in weight[2:]]
    return None if any(size is None for size in sizes) else [size or 0 for size in sizes]


def _zero_point(site: Site, position: int, axis: Expr) -> None:
    """A scale or zero point: a scalar, or one entry per index of ``axis``."""
    if not site.has(position):
        return
    axes = site.axes(position)
    if axes and site.size(axes[-1]) != 1:
        site.unify(axes[-1], axis)
        site.role(position, len(axes) - 1, "quantisation")


def _convolution(site: Site, x: Axes, w: Axes, bias: int | None, positions: tuple[int, int]) -> Axes:
    """Conv: W (M, C/group, *kernel) with x (N, C, *spatial)."""
    if len(x) < 3 or len(w) != len(x):
        raise Barrier(f"{site.label} has an input of {len(x)} axes and a weight of {len(w)}")
    groups = int(site.attribute("group", 1))
    weight = positions[1]
    if groups == 1:
        site.unify(x[1], w[1])
        out: Expr = w[0]
    else:
        row, inside = site.rows(x[1], groups, "groups")
        if inside or site.size(w[1]) != 1:
            site.unify(inside, w[1])
        else:
            site.pin(w[1], "structure", f"{site.label} is depthwise: one input channel in each group")
        out_row, out_inside = site.rows(w[0], groups, "groups")
        site.unify(row, out_row)
        out = row + out_inside
        site.size_attribute("group", row)
    site.role(weight, 0, "produced")
    site.role(weight, 1, "contracted")
    for expr in w[2:]:
        site.pin(expr, "kernel", f"kernel axis of {site.label}")
    if not site.constant(weight):
        site.condition(w[1], "bilinear", operands=_names(site, *positions))
    if bias is not None and site.has(bias):
        site.unify(site.axes(bias)[0], out)
        site.role(bias, 0, "bias")
    return [x[0], out, *_spatial(site, x[2:], _kernel(site, w))]


def _spatial(site: Site, axes: Axes, kernel: list[int] | None) -> Axes:
    """Window by window, an axis is made anew; one that is only read point by point is carried."""
    strides = site.integers("strides") or [1] * len(axes)
    pads = site.integers("pads") or [0] * (2 * len(axes))
    sizes: list[int | None] = [None] * len(axes)
    if kernel is not None:
        sizes = spatial_sizes(site, [site.size(expr) for expr in axes], kernel)
    out: Axes = []
    for place, (expr, size) in enumerate(zip(axes, sizes, strict=True)):
        point = kernel is not None and kernel[place] == 1 and strides[place] == 1
        if point and pads[place] == 0 and pads[place + len(axes)] == 0:
            out.append(expr)
            continue
        site.pin(expr, "spatial", f"{site.label} slides over this axis")
        out.append(site.new(size, "spatial"))
    return out


def _names(site: Site, *positions: int) -> tuple[str, ...]:
    return tuple(site.value(position).name or "" for position in positions)


@rule("Conv")
def conv(site: Site) -> None:
    """(N, C, *spatial) -> (N, M, *spatial'); groups are rows of both channel axes."""
    site.give(0, _convolution(site, site.axes(0), site.axes(1), 2, (0, 1)))


@rule("FusedConv", domain="com.microsoft")
def fused_conv(site: Site) -> None:
    """Conv with an activation, and perhaps a sum, in one."""
    out = _convolution(site, site.axes(0), site.axes(1), 2, (0, 1))
    site.give(0, site.broadcast([out, site.axes(3)]) if site.has(3) else out)


@rule("ConvInteger")
def conv_integer(site: Site) -> None:
    """Conv on integers with zero points."""
    out = _convolution(site, site.axes(0), site.axes(1), None, (0, 1))
    _zero_point(site, 3, out[1])
    site.give(0, out)


@rule("QLinearConv")
def qlinear_conv(site: Site) -> None:
    """x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, B."""
    out = _convolution(site, site.axes(0), site.axes(3), 8, (0, 3))
    _zero_point(site, 4, out[1])
    _zero_point(site, 5, out[1])
    site.give(0, out)


@rule("ConvTranspose")
def conv_transpose(site: Site) -> None:
    """W (C, M/group, *kernel)."""
    x, w = site.axes(0), site.axes(1)
    if len(x) < 3 or len(w) != len(x):
        raise Barrier(f"{site.label} has an input of {len(x)} axes and a weight of {len(w)}")
    groups = int(site.attribute("group", 1))
    site.unify(x[1], w[0])
    out: Expr = w[1]
    if groups > 1:
        row, inside = site.rows(x[1], groups, "groups")
        out = row + w[1]
        site.constrain(w[1], "groups", groups)
        site.size_attribute("group", row)
        # A group is both read and made by its own rows of the weight; only what is inside is summed over.
        site.role(1, 0, "contracted", inside)
        site.role(1, 0, "produced", row)
    else:
        site.role(1, 0, "contracted")
    site.role(1, 1, "produced")
    for expr in w[2:]:
        site.pin(expr, "kernel", f"kernel axis of {site.label}")
    if not site.constant(1):
        site.condition(w[0], "bilinear", operands=_names(site, 0, 1))
    if site.has(2):
        site.unify(site.axes(2)[0], out)
        site.role(2, 0, "bias")
    site.pin(x[2:], "spatial", f"{site.label} slides over this axis")
    site.give(0, [x[0], out, *(site.new(size, "spatial") for size in _transposed_sizes(site, x, w))])


def _transposed_sizes(site: Site, x: Axes, w: Axes) -> list[int | None]:
    count = len(x) - 2
    given = site.integers("output_shape")
    if given is not None:
        return list(given[-count:])
    kernel = _kernel(site, w)
    if kernel is None:
        return [None] * count
    strides = site.integers("strides") or [1] * count
    dilations = site.integers("dilations") or [1] * count
    pads = site.integers("pads") or [0] * (2 * count)
    extra = site.integers("output_padding") or [0] * count
    auto = site.attribute("auto_pad", "NOTSET")
    out: list[int | None] = []
    for axis, expr in enumerate(x[2:]):
        size = site.size(expr)
        if size is None:
            out.append(None)
        elif auto in {"SAME_UPPER", "SAME_LOWER"}:
            out.append(size * strides[axis])
        else:
            padding = 0 if auto == "VALID" else pads[axis] + pads[axis + count]
            out.append(strides[axis] * (size - 1) + extra[axis] + dilations[axis] * (kernel[axis] - 1) + 1 - padding)
    return out


@rule("Gemm")
def gemm(site: Site) -> None:
    """alpha A' B' + beta C with A' (M, K), B' (K, N)."""
    a, b = site.axes(0), site.axes(1)
    if len(a) != 2 or len(b) != 2:
        raise Barrier(f"{site.label} has an operand that is no matrix")
    trans_a, trans_b = int(bool(site.attribute("transA", 0))), int(bool(site.attribute("transB", 0)))
    rows, columns = a[trans_a], b[1 - trans_b]
    _contract(site, 0, 1 - trans_a, 1, trans_b)
    _produce(site, 0, trans_a)
    _produce(site, 1, 1 - trans_b)
    out: Axes = [rows, columns]
    if site.has(2):
        c = site.axes(2)
        out = site.broadcast([out, c])
        if c:
            site.role(2, len(c) - 1, "bias")
    site.give(0, out)


def _contract(site: Site, left: int, left_axis: int, right: int, right_axis: int) -> None:
    """Couple two contracted axes; where neither side is a constant, nobody's weights can silence a new index."""
    one, two = site.axes(left)[left_axis], site.axes(right)[right_axis]
    site.unify(one, two)
    if site.constant(left):
        site.role(left, left_axis, "contracted")
    if site.constant(right):
        site.role(right, right_axis, "contracted")
    if not site.constant(left) and not site.constant(right):
        site.condition(one, "bilinear", operands=_names(site, left, right))


def _produce(site: Site, position: int, axis: int) -> None:
    if site.constant(position):
        site.role(position, axis, "produced")


def _matmul(site: Site, left: int, right: int) -> Axes:
    a, b = site.axes(left), site.axes(right)
    if not a or not b:
        raise Barrier(f"{site.label} has a scalar operand")
    _contract(site, left, len(a) - 1, right, max(len(b) - 2, 0))
    out = site.broadcast([a[:-2], b[:-2]])
    if len(a) > 1:
        _produce(site, left, len(a) - 2)
        out.append(a[-2])
    if len(b) > 1:
        _produce(site, right, len(b) - 1)
        out.append(b[-1])
    return out


@rule("MatMul")
def matmul(site: Site) -> None:
    """(..., M, K) x (..., K, N), batch axes broadcast; vectors have no rows or columns."""
    site.give(0, _matmul(site, 0, 1))


@rule("MatMulInteger")
def matmul_integer(site: Site) -> None:
    """MatMul on integers with zero points per row of A and per column of B."""
    out = _matmul(site, 0, 1)
    if len(site.axes(0)) > 1:
        _zero_point(site, 2, site.axes(0)[-2])
    if len(site.axes(1)) > 1:
        _zero_point(site, 3, site.axes(1)[-1])
    site.give(0, out)


@rule("QLinearMatMul")
def qlinear_matmul(site: Site) -> None:
    """a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero."""
    out = _matmul(site, 0, 3)
    for position, axis in ((1, site.axes(0)[-2:][0]), (2, site.axes(0)[-2:][0])):
        _zero_point(site, position, axis)
    for position in (4, 5):
        _zero_point(site, position, site.axes(3)[-1])
    site.give(0, out)


@rule("QGemm", domain="com.microsoft")
def qgemm(site: Site) -> None:
    """A, a_scale, a_zero, B, b_scale, b_zero, C, y_scale, y_zero."""
    a, b = site.axes(0), site.axes(3)
    if len(a) != 2 or len(b) != 2:
        raise Barrier(f"{site.label} has an operand that is no matrix")
    trans_a, trans_b = int(bool(site.attribute("transA", 0))), int(bool(site.attribute("transB", 0)))
    _contract(site, 0, 1 - trans_a, 3, trans_b)
    _produce(site, 3, 1 - trans_b)
    columns = b[1 - trans_b]
    for position in (4, 5):
        _zero_point(site, position, columns)
    out: Axes = [a[trans_a], columns]
    if site.has(6):
        out = site.broadcast([out, site.axes(6)])
        site.role(6, site.rank(6) - 1, "bias")
    site.give(0, out)


@rule("FusedMatMul", domain="com.microsoft")
def fused_matmul(site: Site) -> None:
    """MatMul with transposed operands."""
    if site.attribute("transBatchA", 0) or site.attribute("transBatchB", 0):
        raise Barrier(f"{site.label} transposes batch axes")
    a, b = site.axes(0), site.axes(1)
    if len(a) < 2 or len(b) < 2:
        raise Barrier(f"{site.label} has an operand that is no matrix")
    k_a, m = (len(a) - 2, len(a) - 1) if site.attribute("transA", 0) else (len(a) - 1, len(a) - 2)
    k_b, n = (len(b) - 1, len(b) - 2) if site.attribute("transB", 0) else (len(b) - 2, len(b) - 1)
    _contract(site, 0, k_a, 1, k_b)
    _produce(site, 0, m)
    _produce(site, 1, n)
    site.give(0, [*site.broadcast([a[:-2], b[:-2]]), a[m], b[n]])


@rule("Einsum")
def einsum(site: Site) -> None:
    """One label, one axis; labels that the output lacks are contracted."""
    equation = str(site.attribute("equation")).replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    operands = [site.axes(position) for position in range(len(terms))]
    labels: dict[str, Expr] = {}
    ellipses: list[Axes] = []
    places: dict[str, list[tuple[int, int]]] = {}
    for position, (term, axes) in enumerate(zip(terms, operands, strict=True)):
        names, dots = _labels(site, term, len(axes))
        if dots is not None:
            ellipses.append(axes[dots[0] : dots[1]])
        for axis, name in names:
            places.setdefault(name, []).append((position, axis))
            expr = axes[axis]
            known = labels.get(name)
            if known is None or site.size(known) == 1:
                if known:
                    site.pin(known, "broadcast", f"an axis of 1 is broadcast by {site.label}")
                labels[name] = expr
            elif site.size(expr) == 1:
                site.pin(expr, "broadcast", f"an axis of 1 is broadcast by {site.label}")
            else:
                site.unify(known, expr)
    spread = site.broadcast(ellipses)
    if not arrow:
        once = sorted(name for name in labels if left.count(name) == 1)
        right = ("..." if spread else "") + "".join(once)
    _einsum_roles(site, places, right)
    before, _, after = right.partition("...")
    out = [labels[name] for name in before]
    if "..." in right:
        out += [*spread, *(labels[name] for name in after)]
    elif spread:
        site.condition(spread, "sum")
    site.give(0, out)


def _labels(site: Site, term: str, rank: int) -> tuple[list[tuple[int, str]], tuple[int, int] | None]:
    before, dots, after = term.partition("...")
    if (dots and len(before) + len(after) > rank) or (not dots and len(term) != rank):
        raise Barrier(f"{site.label} has an operand of {rank} axes for '{term}'")
    names = list(enumerate(before))
    names += [(rank - len(after) + index, name) for index, name in enumerate(after)]
    return names, (len(before), rank - len(after)) if dots else None


def _einsum_roles(site: Site, places: dict[str, list[tuple[int, int]]], right: str) -> None:
    for name, where in places.items():
        role = "produced" if name in right else "contracted"
        constant = [place for place in where if site.constant(place[0])]
        for index, (position, axis) in enumerate(constant):
            # Of several that are contracted together one alone reads: the others are factors that each index has.
            site.role(position, axis, role if index == 0 or role == "produced" else "parameter")
        if name in right or constant:
            continue
        position, axis = where[0]
        expr = site.axes(position)[axis]
        holders = sorted({place[0] for place in where})
        if len(holders) > 1:
            site.condition(expr, "bilinear", operands=_names(site, *holders))
        else:
            site.condition(expr, "sum")
