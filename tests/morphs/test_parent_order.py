"""What is folded has its parent's order, also where tensors were made anew between one widening and the next."""

from __future__ import annotations

from onnxmorph._ir import ir
from onnxmorph.graph.layers import layers
from onnxmorph.morphs import plan_deepen, plan_widen
from onnxmorph.morphs.fold import fold
from onnxmorph.plan import apply
from tests.graph.axes import nets


def test_the_tensor_that_is_told_farthest_back_says_the_order() -> None:
    net = nets.Net(17)
    x = net.op("Relu", net.dense(net.input(["N", 4]), 4, 8))
    x = net.op("Relu", net.dense(x, 8, 8))
    parent = net.model(net.dense(x, 8, 3))
    hidden = layers(parent)[1]
    child = apply(parent, [plan_widen(parent, hidden, to=12, fill="replicate")]).model
    child = apply(child, [plan_deepen(child, layers(child)[1], method="mirror")]).model
    last = [layer for layer in layers(child) if layer.out_channels == 12][-1]
    child = apply(child, [plan_widen(child, last, to=16, fill="zero-out")]).model
    folded = fold(child).model
    inside = [hidden.node.outputs[0].name or "", hidden.output.name or ""]
    before, after = (_with_outputs(model, inside) for model in (parent, folded))
    feeds = nets.feeds_of(parent)
    assert nets.difference(nets.run(before, feeds), nets.run(after, feeds)) < 1e-5


def _with_outputs(model: ir.Model, names: list[str]) -> ir.Model:
    """The model with inner values as outputs too."""
    shown = model.clone()
    for node in shown.graph:
        shown.graph.outputs.extend(output for output in node.outputs if output.name in names)
    return shown
