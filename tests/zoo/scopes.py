"""Layers inside If, Loop and Scan bodies and model-local functions, and layers whose values such bodies capture."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from tests.zoo.net import Net, Register

case = Register("scopes")


@case("if_holds_layers", layers=3)
def if_holds_layers() -> onnx.ModelProto:
    """A Conv in each branch; one keeps its weight inside the branch, the other takes it from outside."""
    net = Net()
    x = net.input("x", ["N", 4, "H", "W"])
    flag = net.input("flag", [], TensorProto.BOOL)
    y = net.relu(net.conv(x, 6, 4, name="stem", pads=[1, 1, 1, 1]), "stem_relu")
    then = Net(seed=1)
    t = then.relu(then.conv(y, 6, 6, name="inner", pads=[1, 1, 1, 1]), "then_relu")
    then.output(t)
    otherwise = Net(seed=2)
    w = net.weight("outer.weight", net.draw(6, 6, 1, 1))
    otherwise.output(otherwise.node("Conv", [y, w], "outer_out", name="/outer/Conv"))
    net.node("If", [flag], "y", then_branch=then.graph("then"), else_branch=otherwise.graph("else"))
    net.output("y", ["N", 6, "H", "W"])
    return net.model()


@case("if_nested", layers=2)
def if_nested() -> onnx.ModelProto:
    """A Gemm three Ifs deep, beside one outside."""
    net = Net()
    x = net.input("x", ["N", 4])
    flag = net.input("flag", [], TensorProto.BOOL)
    net.relu(net.gemm(x, 4, 4, name="stem"), "stem_relu")
    body = Net(seed=1)
    body.output(body.relu(body.gemm("stem_relu_out", 4, 4, name="deep"), "deep_relu"))
    for level in range(3):
        plain = Net(seed=2)
        plain.output(plain.node("Identity", ["stem_relu_out"], f"same{level}"))
        outer = Net(seed=3) if level < 2 else net
        outer.node(
            "If",
            [flag],
            f"level{level}",
            then_branch=body.graph(f"then{level}"),
            else_branch=plain.graph(f"else{level}"),
        )
        outer.output(f"level{level}", ["N", 4] if level == 2 else None)
        body = outer
    return net.model()


@case("if_captures_layer_output", layers=2)
def if_captures_layer_output() -> onnx.ModelProto:
    """The stem's pre-activation is read by the ReLU after it and by both branches of an If."""
    net = Net()
    x = net.input("x", ["N", 4])
    flag = net.input("flag", [], TensorProto.BOOL)
    y = net.gemm(x, 6, 4, name="stem")
    r = net.relu(y)
    then, otherwise = Net(), Net()
    then.output(then.node("Neg", [y], "negated"))
    otherwise.output(otherwise.node("Tanh", [y], "squashed"))
    z = net.node("If", [flag], "z", then_branch=then.graph("then"), else_branch=otherwise.graph("else"))
    s = net.node("Add", [r, z], "s")
    net.output(net.gemm(s, 3, 6, name="head"), ["N", 3])
    return net.model()


@case("if_only_consumer", layers=1)
def if_only_consumer() -> onnx.ModelProto:
    """The layer's output is used by a subgraph alone."""
    net = Net()
    x = net.input("x", ["N", 4])
    flag = net.input("flag", [], TensorProto.BOOL)
    y = net.gemm(x, 6, 4, name="stem")
    then, otherwise = Net(), Net()
    then.output(then.relu(y, "then_relu"))
    otherwise.output(otherwise.node("Tanh", [y], "squashed"))
    net.node("If", [flag], "z", then_branch=then.graph("then"), else_branch=otherwise.graph("else"))
    net.output("z", ["N", 6])
    return net.model()


@case("loop_holds_layer", layers=2)
def loop_holds_layer() -> onnx.ModelProto:
    """h <- tanh(h W + b), three times, with W outside the body and b inside; every step is an output too."""
    net = Net()
    x = net.input("x", ["N", 4])
    y = net.gemm(x, 6, 4, name="stem")
    w = net.weight("step.weight", net.draw(6, 6, scale=0.4))
    body = Net(seed=1)
    body.input("i", [], TensorProto.INT64)
    body.input("go_in", [], TensorProto.BOOL)
    body.input("h", ["N", 6])
    body.node("Identity", ["go_in"], "go_out")
    h = body.node("MatMul", ["h", w], "product", name="/step/MatMul")
    h = body.node("Add", [h, body.weight("step.bias", body.draw(6))], "step_out", name="/step/Add")
    h = body.node("Tanh", [h], "h_next")
    body.node("Identity", [h], "h_scan")
    body.output("go_out", [], TensorProto.BOOL)
    body.output("h_next", ["N", 6])
    body.output("h_scan", ["N", 6])
    trips = net.ints("trips", [3], scalar=True)
    net.node("Loop", [trips, "", y], ["last", "steps"], body=body.graph("body"))
    net.output("last", ["N", 6])
    net.output("steps", [None, "N", 6])
    return net.model()


@case("scan_holds_layer", layers=2)
def scan_holds_layer() -> onnx.ModelProto:
    """A hand-written recurrent net: Scan over time, a Gemm of the input and a Gemm of the state inside."""
    net = Net()
    x = net.input("x", ["T", "N", 4])
    h0 = net.input("h0", ["N", 6])
    body = Net(seed=1)
    body.input("h", ["N", 6])
    body.input("xt", ["N", 4])
    a = body.gemm("xt", 6, 4, name="input")
    b = body.gemm("h", 6, 6, name="state", bias=False)
    h = body.node("Tanh", [body.node("Add", [a, b], "summed")], "h_next")
    body.node("Identity", [h], "h_seen")
    body.output("h_next", ["N", 6])
    body.output("h_seen", ["N", 6])
    net.node("Scan", [h0, x], ["h_last", "hs"], body=body.graph("body"), num_scan_inputs=1)
    net.output("h_last", ["N", 6])
    net.output("hs", ["T", "N", 6])
    return net.model()


@case("subgraph_shadows_nothing", layers=2)
def subgraph_shadows_nothing() -> onnx.ModelProto:
    """Two branches use the same inner value names, which scopes allow."""
    net = Net()
    x = net.input("x", ["N", 4])
    flag = net.input("flag", [], TensorProto.BOOL)
    branches = []
    for seed in (1, 2):
        branch = Net(seed=seed)
        branch.output(branch.relu(branch.gemm(x, 6, 4, name="fc")))
        branches.append(branch.graph(f"branch{seed}"))
    net.node("If", [flag], "y", then_branch=branches[0], else_branch=branches[1])
    net.output("y", ["N", 6])
    return net.model()


def _linear_relu(*, weights_inside: bool, seed: int = 1) -> onnx.FunctionProto:
    body = Net(seed=seed, store="constant")
    body.input("a", None or [])
    if weights_inside:
        y = body.matmul("a", 6, 6, name="inner")
    else:
        body.input("w", [])
        body.input("b", [])
        y = body.node("Gemm", ["a", "w", "b"], "inner_out", name="/inner/Gemm", transB=1)
    body.output(body.node("Relu", [y], "r"))
    return body.function("LinearRelu", "local")


@case("function_weights_outside", layers=1)
def function_weights_outside() -> onnx.ModelProto:
    """A function called twice with different weights: its Gemm has no weight of its own."""
    net = Net()
    x = net.input("x", ["N", 6])
    net.functions.append(_linear_relu(weights_inside=False))
    for i in (1, 2):
        w, b = net.weight(f"fc{i}.weight", net.draw(6, 6, scale=0.5)), net.weight(f"fc{i}.bias", net.draw(6))
        x = net.node("LinearRelu", [x, w, b], f"call{i}_out", domain="local")
    net.output(net.gemm(x, 3, 6, name="head"), ["N", 3])
    return net.model()


@case("function_weights_inside", layers=2)
def function_weights_inside() -> onnx.ModelProto:
    """A function that holds its weight in Constant nodes, called once."""
    net = Net()
    x = net.input("x", ["N", 6])
    net.functions.append(_linear_relu(weights_inside=True))
    y = net.node("LinearRelu", [x], "call_out", domain="local")
    net.output(net.gemm(y, 3, 6, name="head"), ["N", 3])
    return net.model()


@case("function_called_twice", layers=2)
def function_called_twice() -> onnx.ModelProto:
    """The same, called twice: one layer, two uses."""
    net = Net()
    x = net.input("x", ["N", 6])
    net.functions.append(_linear_relu(weights_inside=True))
    for i in (1, 2):
        x = net.node("LinearRelu", [x], f"call{i}_out", domain="local")
    net.output(net.gemm(x, 3, 6, name="head"), ["N", 3])
    return net.model()


@case("function_is_activation", layers=2)
def function_is_activation() -> onnx.ModelProto:
    """The activation after a layer is a model-local function: unknown from outside."""
    net = Net()
    x = net.input("x", ["N", 6])
    body = Net(store="constant")
    body.input("a", [])
    body.node("Sigmoid", ["a"], "s")
    body.output(body.node("Mul", ["a", "s"], "r"))
    net.functions.append(body.function("MySilu", "local"))
    y = net.node("MySilu", [net.gemm(x, 6, 6)], "act_out", domain="local")
    net.output(net.gemm(y, 3, 6, name="fc2"), ["N", 3])
    return net.model()
