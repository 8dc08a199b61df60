"""If, Loop, Scan: bodies are walked like the main graph, and what enters and leaves them is coupled."""

from __future__ import annotations

from onnxmorph._ir import ir
from onnxmorph.graph.axes.factors import Expr
from onnxmorph.graph.axes.site import Axes, Barrier, Site, rule

__all__: list[str] = []


def _body(site: Site, name: str) -> ir.Graph:
    attribute = site.node.attributes.get(name)
    if attribute is None or attribute.is_ref():
        raise Barrier(f"{site.label} has no {name}")
    return attribute.as_graph()


def _leaving(site: Site, value: ir.Value) -> Axes:
    """The axes of a body's output; sizes that leave as numbers are not followed further."""
    axes = site.coupled.axes(value)
    if axes is None:
        raise Barrier(f"the rank of '{value.name}' is not known", "unknown-rank")
    content = site.coupled.content(value)
    if content is not None:
        for number in content.reshape(-1):
            for expr in number.axes():
                site.block(expr, "computed-shape", f"its size leaves a body of {site.label}")
    return axes


def _meet(site: Site, one: Axes, two: Axes) -> Axes:
    """What two branches may both give."""
    if len(one) != len(two):
        raise Barrier(f"{site.label} gives values of different rank")
    out: Axes = []
    for left, right in zip(one, two, strict=True):
        sizes = site.size(left), site.size(right)
        if None not in sizes and sizes[0] == sizes[1]:
            site.unify(left, right)
            out.append(left)
        elif site.factors.same(left, right):
            out.append(left)
        else:
            site.block((left, right), "unknown-size", f"{site.label} gives values of different size")
            out.append(site.new(None))
    return out


@rule("If")
def if_(site: Site) -> None:
    """Both branches give the same axes."""
    branches = [_body(site, "then_branch"), _body(site, "else_branch")]
    for branch in branches:
        site.walk(branch)
    for output in range(len(site.node.outputs)):
        then, other = (_leaving(site, branch.outputs[output]) for branch in branches)
        site.give(output, _meet(site, then, other))


def _state(site: Site, position: int) -> Axes:
    """A carried state as the body sees it: of the initial value's size where that is known."""
    return [expr if site.size(expr) is not None else site.new(None) for expr in site.axes(position)]


def _returns(site: Site, initial: Axes, final: Axes) -> None:
    """A state must come back as it went in, or nothing inside the body is what its first round says."""
    if len(initial) != len(final):
        raise Barrier(f"a state of {site.label} changes rank")
    for before, after in zip(initial, final, strict=True):
        if site.size(before) is None and site.size(after) is None:
            continue
        if site.size(before) != site.size(after):
            raise Barrier(f"a state of {site.label} changes size from round to round")
        site.unify(before, after)


@rule("Loop")
def loop(site: Site) -> None:
    """Inputs M, cond, states; body (i, cond, states) -> (cond, states, scan outputs)."""
    body = _body(site, "body")
    states = len(site.node.inputs) - 2
    initial: list[Axes] = [_state(site, 2 + index) for index in range(states)]
    for value, axes in zip(body.inputs, [[], [], *initial], strict=True):
        site.coupled.give(value, axes)
    site.walk(body)
    for index, axes in enumerate(initial):
        _returns(site, axes, _leaving(site, body.outputs[1 + index]))
        site.give(index, axes)
    for output in range(states, len(site.node.outputs)):
        site.give(output, [site.new(None), *_leaving(site, body.outputs[1 + output])])


@rule("Scan")
def scan(site: Site) -> None:
    """Inputs: states, then sequences cut along their scan axis."""
    if site.opset < 9:
        raise Barrier(f"{site.label} of opset {site.opset} scans batches")
    body = _body(site, "body")
    sequences = int(site.attribute("num_scan_inputs"))
    states = len(site.node.inputs) - sequences
    in_axes = site.integers("scan_input_axes") or [0] * sequences
    length: Expr | None = None
    entering: list[Axes] = [_state(site, index) for index in range(states)]
    for index in range(sequences):
        axes = site.axes(states + index)
        axis = site.axis(in_axes[index], len(axes))
        site.condition(axes[axis], "recurrence", order=True)
        site.pin(axes[axis], "index", f"{site.label} runs along this axis")
        length = axes[axis]
        entering.append([*axes[:axis], *axes[axis + 1 :]])
    for value, axes in zip(body.inputs, entering, strict=True):
        site.coupled.give(value, axes)
    site.walk(body)
    for index in range(states):
        _returns(site, entering[index], _leaving(site, body.outputs[index]))
        site.give(index, entering[index])
    count = len(site.node.outputs) - states
    out_axes = site.integers("scan_output_axes") or [0] * count
    for index in range(count):
        axes = _leaving(site, body.outputs[states + index])
        axis = site.axis(out_axes[index], len(axes) + 1)
        site.give(states + index, [*axes[:axis], length if length is not None else site.new(None), *axes[axis:]])
