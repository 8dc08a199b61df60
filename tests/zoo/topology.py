"""Where a layer stands in its graph: its consumers, its names, its neighbours, and the dirt found in real files."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from tests.zoo.net import Net, Register

case = Register("topology")


@case("two_consumers", layers=3)
def two_consumers() -> onnx.ModelProto:
    """conv1 feeds two convolutions directly, without an activation."""
    net = Net()
    x = net.input("x", ["N", 4, "H", "W"])
    y = net.conv(x, 6, 4, pads=[1, 1, 1, 1])
    a = net.conv(y, 4, 6, name="left", pads=[1, 1, 1, 1])
    b = net.conv(y, 4, 6, (1, 1), name="right")
    net.output(net.node("Add", [a, b], "sum"), ["N", 4, "H", "W"])
    return net.model()


@case("two_activations", layers=2)
def two_activations() -> onnx.ModelProto:
    """One layer, a ReLU and a Tanh on its output: which is *its* activation?"""
    net = Net()
    x = net.input("x", ["N", 4])
    y = net.gemm(x, 6, 4)
    s = net.node("Add", [net.relu(y), net.node("Tanh", [y], "tanh_out")], "s")
    net.output(net.gemm(s, 3, 6, name="fc2"), ["N", 3])
    return net.model()


@case("output_is_graph_output", layers=2)
def output_is_graph_output() -> onnx.ModelProto:
    """fc1's pre-activation is a graph output and goes on."""
    net = Net()
    x = net.input("x", ["N", 4])
    y = net.gemm(x, 6, 4)
    net.output(y, ["N", 6])
    net.output(net.gemm(net.relu(y), 3, 6, name="fc2"), ["N", 3])
    return net.model()


@case("matmul_before_bias_is_graph_output", layers=1)
def matmul_before_bias_is_graph_output() -> onnx.ModelProto:
    """The product is an output of the graph, and so is the sum: the bias is not the layer's alone."""
    net = Net()
    x = net.input("x", ["N", 4])
    y = net.matmul(x, 6, 4)
    net.output("proj_matmul", ["N", 6])
    net.output(net.relu(y), ["N", 6])
    return net.model()


@case("activation_is_graph_output", layers=1)
def activation_is_graph_output() -> onnx.ModelProto:
    net = Net()
    x = net.input("x", ["N", 4, "H", "W"])
    net.output(net.relu(net.conv(x, 6, 4, pads=[1, 1, 1, 1])), ["N", 6, "H", "W"])
    return net.model()


@case("single_layer", layers=1)
def single_layer() -> onnx.ModelProto:
    """Nothing but a layer between input and output."""
    net = Net()
    x = net.input("x", ["N", 4, "H", "W"])
    net.output(net.conv(x, 6, 4, pads=[1, 1, 1, 1]), ["N", 6, "H", "W"])
    return net.model()


@case("input_used_twice", layers=2)
def input_used_twice() -> onnx.ModelProto:
    net = Net()
    x = net.input("x", ["N", 4])
    a, b = net.gemm(x, 6, 4, name="a"), net.gemm(x, 6, 4, name="b")
    net.output(net.node("Mul", [a, net.node("Sigmoid", [b], "gate")], "y"), ["N", 6])
    return net.model()


@case("three_in_a_row", layers=3)
def three_in_a_row() -> onnx.ModelProto:
    """Three convolutions with nothing between them."""
    net = Net()
    y = net.input("x", ["N", 4, "H", "W"])
    for i, (a, b) in enumerate(((4, 6), (6, 5), (5, 4)), 1):
        y = net.conv(y, b, a, name=f"conv{i}", pads=[1, 1, 1, 1])
    net.output(y, ["N", 4, "H", "W"])
    return net.model()


@case("residual", layers=3)
def residual() -> onnx.ModelProto:
    net = Net()
    x = net.input("x", ["N", 3, "H", "W"])
    y = net.relu(net.conv(x, 6, 3, name="stem", pads=[1, 1, 1, 1]), "stem_relu")
    z = net.relu(net.batch_norm(net.conv(y, 6, 6, name="a", pads=[1, 1, 1, 1]), 6, name="bn_a"), "a_relu")
    z = net.batch_norm(net.conv(z, 6, 6, name="b", pads=[1, 1, 1, 1]), 6, name="bn_b")
    net.output(net.relu(net.node("Add", [z, y], "sum"), "last"), ["N", 6, "H", "W"])
    return net.model()


@case("pre_activation", layers=2)
def pre_activation() -> onnx.ModelProto:
    """BN and ReLU stand before each convolution."""
    net = Net()
    x = net.input("x", ["N", 4, "H", "W"])
    y = net.conv(net.relu(net.batch_norm(x, 4), "r1"), 6, 4, pads=[1, 1, 1, 1])
    y = net.conv(net.relu(net.batch_norm(y, 6, name="bn2"), "r2"), 4, 6, name="conv2", pads=[1, 1, 1, 1])
    net.output(y, ["N", 4, "H", "W"])
    return net.model()


@case("batch_norm_as_mul_add", layers=1)
def batch_norm_as_mul_add() -> onnx.ModelProto:
    """A folded batch norm spelled Mul and Add by `(C, 1, 1)` constants."""
    net = Net()
    x = net.input("x", ["N", 4, "H", "W"])
    y = net.conv(x, 6, 4, pads=[1, 1, 1, 1], bias=False)
    y = net.node("Mul", [y, net.weight("scale", net.draw(6, 1, 1))], "scaled")
    y = net.node("Add", [y, net.weight("shift", net.draw(6, 1, 1))], "shifted")
    net.output(net.relu(y), ["N", 6, "H", "W"])
    return net.model()


@case("batch_norm_as_sub_mul_add", layers=1)
def batch_norm_as_sub_mul_add() -> onnx.ModelProto:
    """The TensorFlow spelling: minus mean, times gamma/sigma, plus beta."""
    net = Net(opset=9)
    x = net.input("x", ["N", 4, "H", "W"])
    y = net.conv(x, 6, 4, pads=[1, 1, 1, 1], bias=False)
    y = net.node("Sub", [y, net.weight("mean", net.draw(1, 6, 1, 1))], "centred")
    y = net.node("Mul", [y, net.weight("scale", net.draw(1, 6, 1, 1))], "scaled")
    y = net.node("Add", [net.weight("beta", net.draw(1, 6, 1, 1)), y], "shifted")
    net.output(net.relu(y), ["N", 6, "H", "W"])
    return net.model()


@case("batch_norm_training", layers=1)
def batch_norm_training() -> onnx.ModelProto:
    """A batch norm that takes the statistics of its own batch: the layer before it is not followed by an affine map."""
    net = Net(opset=15)
    x = net.input("x", ["N", 4, "H", "W"])
    y = net.conv(x, 6, 4, pads=[1, 1, 1, 1])
    one, zero = net.weight("ones", net.draw(6) * 0 + 1), net.weight("zeros", net.draw(6) * 0)
    net.node("BatchNormalization", [y, one, zero, zero, one], ["bn", "mean_out", "var_out"], training_mode=1)
    net.output(net.relu("bn"), ["N", 6, "H", "W"])
    return net.model()


@case("names_empty", layers=3)
def names_empty() -> onnx.ModelProto:
    """No node has a name."""
    net = Net(named=False)
    x = net.input("x", ["N", 4])
    for i in range(3):
        x = net.relu(net.gemm(x, 4, 4, name=f"fc{i}"), f"relu{i}")
    net.output(x, ["N", 4])
    return net.model()


@case("names_repeated", layers=3, unrunnable="ONNX Runtime refuses two nodes of one name")
def names_repeated() -> onnx.ModelProto:
    """Every node has the same name, and values are called by numbers."""
    net = Net()
    x = net.input("0", ["N", 4])
    for i in range(3):
        w = net.weight(str(100 + i), net.draw(4, 4, scale=0.5))
        net.node("MatMul", [x, w], str(2 * i + 1), name="node")
        x = net.node("Relu", [str(2 * i + 1)], str(2 * i + 2), name="node")
    net.output(x, ["N", 4])
    return net.model()


@case("names_repeated_across_scopes", layers=3)
def names_repeated_across_scopes() -> onnx.ModelProto:
    """One node name in the graph and in both branches of an If."""
    net = Net()
    x = net.input("x", ["N", 4])
    flag = net.input("flag", [], TensorProto.BOOL)
    w = net.weight("w", net.draw(4, 4, scale=0.5))
    y = net.relu(net.node("MatMul", [x, w], "stem_out", name="MatMul_0"))
    branches = []
    for seed in (1, 2):
        branch = Net(seed=seed)
        v = branch.weight(f"v{seed}", branch.draw(4, 4))
        branch.output(branch.node("MatMul", [y, v], f"branch{seed}_out", name="MatMul_0"))
        branches.append(branch.graph(f"branch{seed}"))
    net.node("If", [flag], "y", then_branch=branches[0], else_branch=branches[1])
    net.output("y", ["N", 4])
    return net.model()


@case("names_odd", layers=2)
def names_odd() -> onnx.ModelProto:
    """Spaces, colons, quotes, brackets, other scripts, and names that look like an index, a glob or an option."""
    net = Net()
    x = net.input("serving_default:0", ["N", 4])
    w = net.weight('a b"c[0]*', net.draw(4, 6))
    y = net.node("MatMul", [x, w], "слой/выход:0", name="#1")
    y = net.relu(y, "--help")
    v = net.weight("../weight", net.draw(6, 3))
    net.output(net.node("MatMul", [y, v], "出力", name="head*[x]"), ["N", 3])
    return net.model()


@case("names_taken", layers=2)
def names_taken() -> onnx.ModelProto:
    """The names a morph would like for its new values are taken already."""
    net = Net()
    x = net.input("x", ["N", 4])
    y = net.gemm(x, 4, 4, name="conv1")
    for name in (
        "conv1_deepen",
        "conv1.deepen.weight",
        "conv1_0",
        "conv1_1",
        "conv1_out_1",
        "conv1_pre",
        "conv1.0.weight",
    ):
        y = net.node("Neg", [y], name, name=name)
    net.output(net.gemm(y, 3, 4, name="conv1_inner"), ["N", 3])
    return net.model()


@case("stale_value_info", layers=2)
def stale_value_info() -> onnx.ModelProto:
    """value_info claims symbolic dims under other names, and lists a value that does not exist."""
    net = Net()
    x = net.input("x", ["N", 4, "H", "W"])
    y = net.conv(x, 6, 4, pads=[1, 1, 1, 1])
    net.output(net.conv(net.relu(y), 4, 6, (1, 1), name="conv2"), ["N", 4, "H", "W"])
    net.value_info.append(helper.make_tensor_value_info(y, TensorProto.FLOAT, ["batch", 6, "?", ""]))
    net.value_info.append(helper.make_tensor_value_info("gone", TensorProto.FLOAT, [1]))
    return net.model()


@case("shapes_unknown", layers=2)
def shapes_unknown() -> onnx.ModelProto:
    """An output without any shape and an input whose dims are called "?", "" and nothing."""
    net = Net()
    net.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["?", 4, "", None]))
    y = net.conv("x", 6, 4, pads=[1, 1, 1, 1])
    net.output(net.conv(net.relu(y), 4, 6, (1, 1), name="conv2"))
    return net.model()


@case("documented", layers=1)
def documented() -> onnx.ModelProto:
    """Doc strings, metadata and a quantization annotation, all of which a child keeps."""
    net = Net()
    x = net.input("x", ["N", 4])
    net.output(net.relu(net.gemm(x, 6, 4)), ["N", 6])
    model = net.model()
    model.doc_string = "a model"
    model.graph.doc_string = "a graph"
    model.graph.node[0].doc_string = "a node"
    model.graph.initializer[0].doc_string = "a weight"
    model.domain, model.model_version = "org.example", 7
    helper.set_model_props(model, {"author": "somebody", "licence": "Apache-2.0"})
    annotation = model.graph.quantization_annotation.add()
    annotation.tensor_name = "x"
    entry = annotation.quant_parameter_tensor_names.add()
    entry.key, entry.value = "SCALE_TENSOR", "fc1.bias"
    return model


@case("custom_domain", layers=2, unrunnable="an op of a domain that nobody has")
def custom_domain() -> onnx.ModelProto:
    """An op nobody knows between two layers: a barrier, not an error."""
    net = Net()
    x = net.input("x", ["N", 4])
    y = net.node("Mystery", [net.gemm(x, 6, 4)], "mystery_out", domain="org.example.ops")
    net.output(net.gemm(y, 3, 6, name="fc2"), ["N", 3])
    return net.model()


@case("contrib_fused", layers=1)
def contrib_fused() -> onnx.ModelProto:
    """A FusedConv and FusedMatMul of com.microsoft beside a plain Gemm: the fused ones are not ONNX layers."""
    net = Net()
    x = net.input("x", ["N", 4, "H", "W"])
    w, b = net.weight("fused.weight", net.draw(6, 4, 3, 3, scale=0.2)), net.weight("fused.bias", net.draw(6))
    y = net.node("FusedConv", [x, w, b], "fused_out", domain="com.microsoft", activation="Relu", pads=[1, 1, 1, 1])
    y = net.node("Flatten", [net.node("GlobalAveragePool", [y], "pooled")], "flat")
    m = net.weight("fm.weight", net.draw(6, 6))
    y = net.node("FusedMatMul", [y, m], "fm_out", domain="com.microsoft", transB=1, alpha=0.5)
    net.output(net.gemm(y, 3, 6, name="fc"), ["N", 3])
    return net.model()


@case("contrib_gelu", layers=2)
def contrib_gelu() -> onnx.ModelProto:
    """The activation is com.microsoft's Gelu."""
    net = Net()
    x = net.input("x", ["N", 4])
    y = net.node("Gelu", [net.matmul(x, 6, 4)], "gelu_out", domain="com.microsoft")
    net.output(net.gemm(y, 3, 6, name="fc2"), ["N", 3])
    return net.model()


@case("random_noise", layers=2)
def random_noise() -> onnx.ModelProto:
    """Unseeded noise is added between two layers: two runs of one model differ."""
    net = Net()
    x = net.input("x", ["N", 4])
    y = net.gemm(x, 6, 4)
    noise = net.node("RandomNormalLike", [y], "noise", scale=0.1)
    y = net.node("Add", [net.relu(y), noise], "noisy")
    net.output(net.gemm(y, 3, 6, name="fc2"), ["N", 3])
    return net.model()


@case("dropout_inference", layers=2)
def dropout_inference() -> onnx.ModelProto:
    """Dropout left in the file, in inference mode, with its mask output named and unused."""
    net = Net()
    x = net.input("x", ["N", 4])
    y = net.relu(net.gemm(x, 6, 4))
    net.node("Dropout", [y, net.scalar("ratio", 0.5)], ["dropped", "mask"])
    net.output(net.gemm("dropped", 3, 6, name="fc2"), ["N", 3])
    return net.model()


@case("constant_output", layers=2)
def constant_output() -> onnx.ModelProto:
    """The output does not depend on fc1 at all: outputs alone can prove nothing about it."""
    net = Net()
    x = net.input("x", ["N", 4])
    y = net.relu(net.gemm(x, 6, 4))
    dead = net.weight("fc2.weight", net.draw(6, 3) * 0)
    net.output(net.node("MatMul", [y, dead], "y", name="/fc2/MatMul"), ["N", 3])
    return net.model()


@case("zero_size_dim", layers=1)
def zero_size_dim() -> onnx.ModelProto:
    """An input with no rows: every run gives an empty output."""
    net = Net()
    x = net.input("x", [0, 4])
    net.output(net.relu(net.gemm(x, 6, 4)), [0, 6])
    return net.model()


@case("no_layers", layers=0)
def no_layers() -> onnx.ModelProto:
    net = Net()
    x = net.input("x", ["N", 4])
    net.output(net.node("Sigmoid", [x], "y"), ["N", 4])
    return net.model()


@case("string_input", layers=1)
def string_input() -> onnx.ModelProto:
    """A string input beside the float one."""
    net = Net()
    x = net.input("x", ["N", 4])
    s = net.input("words", ["N"], TensorProto.STRING)
    net.output(net.relu(net.gemm(x, 6, 4)), ["N", 6])
    net.output(net.node("Identity", [s], "words_out"), ["N"], TensorProto.STRING)
    return net.model()


@case("sequence_output", layers=1)
def sequence_output() -> onnx.ModelProto:
    """The graph gives a sequence of tensors."""
    net = Net()
    x = net.input("x", ["N", 4])
    y = net.relu(net.gemm(x, 6, 4))
    net.node("SplitToSequence", [y], "parts", axis=1, keepdims=1)
    net.outputs.append(helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None))
    return net.model()


@case("embedding_ids", layers=2)
def embedding_ids() -> onnx.ModelProto:
    """int64 ids into a table of eleven rows; an id beyond it is an error."""
    net = Net()
    ids = net.input("ids", ["N", "T"], TensorProto.INT64)
    y = net.node("Gather", [net.weight("embed.weight", net.draw(11, 6)), ids], "embedded")
    y = net.relu(net.matmul(y, 8, 6, name="fc1"))
    net.output(net.matmul(y, 3, 8, name="fc2"), ["N", "T", 3])
    return net.model()


@case("rnn_between", layers=2)
def rnn_between() -> onnx.ModelProto:
    """A Gemm-like projection into an LSTM, whose weights are no linear layers here, into a head."""
    net = Net()
    x = net.input("x", ["T", "N", 4])
    y = net.node("Tanh", [net.matmul(x, 6, 4)], "tanh_out")
    w, r = net.weight("lstm.W", net.draw(1, 20, 6, scale=0.3)), net.weight("lstm.R", net.draw(1, 20, 5, scale=0.3))
    net.node("LSTM", [y, w, r], ["h", "", ""], hidden_size=5)
    y = net.node("Squeeze", ["h", net.ints("axes", [1])], "h3")
    net.output(net.matmul(y, 3, 5, name="head"), ["T", "N", 3])
    return net.model()


def save_external(folder: Path, model: onnx.ModelProto | None = None, *, one_file: bool = True) -> Path:
    """Write a model (`residual()` unless told otherwise) with every weight in external data, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "external.onnx"
    copy = onnx.ModelProto()
    copy.CopyFrom(residual() if model is None else model)
    onnx.save_model(
        copy,
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=one_file,
        location="external.onnx.data" if one_file else None,
        size_threshold=0,
    )
    return path
