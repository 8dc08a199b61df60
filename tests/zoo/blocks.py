"""Blocks whose axes are coupled in ways that defeat naive tools: shuffles, heads, gates, ties, layouts."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from tests.zoo.net import Net, Register

case = Register("block")


@case("channel_shuffle", layers=2)
def channel_shuffle() -> onnx.ModelProto:
    """ShuffleNet: grouped conv -> channel shuffle (Reshape, Transpose, Reshape) -> grouped conv."""
    net = Net()
    x = net.input("x", [2, 8, 6, 6])
    y = net.relu(net.conv(x, 12, 8, (1, 1), group=2))
    y = net.node("Reshape", [y, net.ints("split", [2, 2, 6, 6, 6])], "grouped")
    y = net.node("Transpose", [y], "shuffled", perm=[0, 2, 1, 3, 4])
    y = net.node("Reshape", [y, net.ints("join", [2, 12, 6, 6])], "joined")
    net.output(net.conv(y, 12, 12, group=3, name="conv2", pads=[1, 1, 1, 1]), [2, 12, 6, 6])
    return net.model()


@case("nhwc_flatten", layers=2)
def nhwc_flatten() -> onnx.ModelProto:
    """conv -> to NHWC -> flatten -> Gemm: channels are the fastest axis of the Gemm's input."""
    net = Net()
    x = net.input("x", ["N", 3, 5, 5])
    y = net.relu(net.conv(x, 6, 3, pads=[1, 1, 1, 1]))
    y = net.node("Transpose", [y], "nhwc", perm=[0, 2, 3, 1])
    y = net.node("Flatten", [y], "flat", axis=1)
    net.output(net.gemm(y, 4, 150), ["N", 4])
    return net.model()


@case("nchw_flatten", layers=2)
def nchw_flatten() -> onnx.ModelProto:
    """conv -> pool -> Reshape(0, -1) -> Gemm: every channel is a run of the Gemm's input."""
    net = Net()
    x = net.input("x", ["N", 3, 6, 6])
    y = net.relu(net.conv(x, 6, 3, pads=[1, 1, 1, 1]))
    y = net.node("MaxPool", [y], "pooled", kernel_shape=[2, 2], strides=[2, 2])
    y = net.node("Reshape", [y, net.ints("target", [0, -1])], "flat")
    net.output(net.gemm(y, 4, 54), ["N", 4])
    return net.model()


@case("shape_chain_flatten", layers=2)
def shape_chain_flatten() -> onnx.ModelProto:
    """The Reshape's target is computed, Shape -> Gather -> Unsqueeze -> Concat: torch's `view(x.size(0), -1)`."""
    net = Net(opset=11)
    x = net.input("x", ["N", 3, 4, 4])
    y = net.relu(net.conv(x, 6, 3, pads=[1, 1, 1, 1]))
    size = net.node("Gather", [net.node("Shape", [y], "shape"), net.ints("zero", [0], scalar=True)], "n", axis=0)
    target = net.node("Concat", [net.unsqueeze(size, "n1", [0]), net.ints("rest", [-1])], "target", axis=0)
    net.output(net.gemm(net.node("Reshape", [y, target], "flat"), 4, 96), ["N", 4])
    return net.model()


@case("squeeze_excite", layers=4)
def squeeze_excite() -> onnx.ModelProto:
    net = Net()
    x = net.input("x", ["N", 3, "H", "W"])
    y = net.relu(net.conv(x, 8, 3, pads=[1, 1, 1, 1]))
    s = net.node("GlobalAveragePool", [y], "pooled")
    s = net.relu(net.conv(s, 2, 8, (1, 1), name="reduce"), "se_relu")
    s = net.node("HardSigmoid", [net.conv(s, 8, 2, (1, 1), name="expand")], "gate", alpha=1 / 6, beta=0.5)
    y = net.node("Mul", [y, s], "scaled")
    net.output(net.conv(y, 4, 8, (1, 1), name="project"), ["N", 4, "H", "W"])
    return net.model()


@case("inverted_residual", layers=4)
def inverted_residual() -> onnx.ModelProto:
    """MobileNet: expand, depthwise, project, add."""
    net = Net()
    x = net.input("x", ["N", 3, "H", "W"])
    s = net.conv(x, 4, 3, name="stem", pads=[1, 1, 1, 1])
    y = net.clip(net.batch_norm(net.conv(s, 8, 4, (1, 1), name="expand", bias=False), 8), "r1", 0.0, 6.0)
    y = net.conv(y, 8, 8, name="depthwise", group=8, pads=[1, 1, 1, 1], bias=False)
    y = net.clip(net.batch_norm(y, 8, name="bn2"), "r2", 0.0, 6.0)
    y = net.batch_norm(net.conv(y, 4, 8, (1, 1), name="project", bias=False), 4, name="bn3")
    net.output(net.node("Add", [y, s], "sum"), ["N", 4, "H", "W"])
    return net.model()


@case("concat_dense", layers=4)
def concat_dense() -> onnx.ModelProto:
    """DenseNet: each layer reads all before it."""
    net = Net()
    x = net.input("x", ["N", 4, "H", "W"])
    seen, width = [x], 4
    for i in range(3):
        y = seen[0] if len(seen) == 1 else net.node("Concat", seen, f"cat{i}", axis=1)
        y = net.relu(net.batch_norm(y, width, name=f"bn{i}"), f"r{i}")
        seen.append(net.conv(y, 3, width, name=f"dense{i}", pads=[1, 1, 1, 1], bias=False))
        width += 3
    y = net.node("Concat", seen, "cat", axis=1)
    net.output(net.conv(y, 2, width, (1, 1), name="head"), ["N", 2, "H", "W"])
    return net.model()


@case("concat_twice", layers=2)
def concat_twice() -> onnx.ModelProto:
    """One value concatenated with itself."""
    net = Net()
    x = net.input("x", ["N", 3, "H", "W"])
    y = net.relu(net.conv(x, 4, 3, pads=[1, 1, 1, 1]))
    y = net.node("Concat", [y, y], "twice", axis=1)
    net.output(net.conv(y, 3, 8, (1, 1), name="conv2"), ["N", 3, "H", "W"])
    return net.model()


@case("column_broadcast", layers=2)
def column_broadcast() -> onnx.ModelProto:
    """A `(C, 1)` constant meets `(N, C, T)`: its axis is the second last."""
    net = Net()
    x = net.input("x", ["N", 4, "T"])
    y = net.conv(x, 6, 4, (3,), pads=[1, 1])
    y = net.node("Mul", [y, net.weight("gain", net.draw(6, 1))], "scaled")
    net.output(net.conv(net.relu(y), 3, 6, (1,), name="conv2"), ["N", 3, "T"])
    return net.model()


@case("glu_split", layers=2)
def glu_split() -> onnx.ModelProto:
    """GLU by Split: the first half times the sigmoid of the second."""
    net = Net()
    x = net.input("x", ["N", 4, "T"])
    y = net.conv(x, 12, 4, (3,), pads=[1, 1])
    net.node("Split", [y, net.ints("sizes", [6, 6])], ["value", "gate_in"], axis=1)
    y = net.node("Mul", ["value", net.node("Sigmoid", ["gate_in"], "gate")], "glu")
    net.output(net.conv(y, 3, 6, (1,), name="conv2"), ["N", 3, "T"])
    return net.model()


@case("glu_slice", layers=2)
def glu_slice() -> onnx.ModelProto:
    """SwiGLU by two Slices of one projection."""
    net = Net()
    x = net.input("x", ["N", "T", 4])
    y = net.matmul(x, 12, 4, bias="none")
    axis = net.ints("axis", [-1])
    value = net.node("Slice", [y, net.ints("s0", [0]), net.ints("s6", [6]), axis], "value")
    gate = net.node("Slice", [y, "s6", net.ints("end", [2**31 - 1]), axis], "gate")
    gate = net.node("Mul", [gate, net.node("Sigmoid", [gate], "sig")], "silu")
    y = net.node("Mul", [value, gate], "glu")
    net.output(net.matmul(y, 4, 6, name="down"), ["N", "T", 4])
    return net.model()


@case("pixel_shuffle", layers=2)
def pixel_shuffle() -> onnx.ModelProto:
    net = Net()
    x = net.input("x", ["N", 3, "H", "W"])
    y = net.conv(x, 16, 3, pads=[1, 1, 1, 1])
    y = net.node("DepthToSpace", [y], "shuffled", blocksize=2, mode="CRD")
    net.output(net.conv(net.relu(y), 3, 4, name="conv2", pads=[1, 1, 1, 1]), ["N", 3, None, None])
    return net.model()


@case("pixel_shuffle_reshape", layers=2)
def pixel_shuffle_reshape() -> onnx.ModelProto:
    """PixelShuffle written out as Reshape, Transpose, Reshape."""
    net = Net()
    x = net.input("x", ["N", 3, 4, 4])
    y = net.conv(x, 16, 3, pads=[1, 1, 1, 1])
    y = net.node("Reshape", [y, net.ints("six", [-1, 4, 2, 2, 4, 4])], "r6")
    y = net.node("Transpose", [y], "t6", perm=[0, 1, 4, 2, 5, 3])
    y = net.node("Reshape", [y, net.ints("four", [-1, 4, 8, 8])], "r4")
    net.output(net.conv(net.relu(y), 3, 4, name="conv2", pads=[1, 1, 1, 1]), ["N", 3, 8, 8])
    return net.model()


def _attention(net: Net, q: str, k: str, v: str, *, heads: int, size: int) -> str:
    """Softmax(q k^T / sqrt d) v on `(N, T, heads*size)` values, heads by Reshape and Transpose."""
    split = net.ints("heads", [0, 0, heads, size])
    rows = [net.node("Reshape", [value, split], f"{name}_heads") for name, value in (("q", q), ("k", k), ("v", v))]
    q = net.node("Transpose", [rows[0]], "q_t", perm=[0, 2, 1, 3])
    k = net.node("Transpose", [rows[1]], "k_t", perm=[0, 2, 3, 1])
    v = net.node("Transpose", [rows[2]], "v_t", perm=[0, 2, 1, 3])
    scores = net.node("MatMul", [q, k], "scores", name="/attn/MatMul")
    scores = net.node("Mul", [scores, net.scalar("scale", size**-0.5)], "scaled")
    weights = net.node("Softmax", [scores], "weights", axis=-1)
    y = net.node("MatMul", [weights, v], "mixed", name="/attn/MatMul_1")
    y = net.node("Transpose", [y], "mixed_t", perm=[0, 2, 1, 3])
    return net.node("Reshape", [y, net.ints("merge", [0, 0, heads * size])], "merged")


def _layer_norm(net: Net, x: str, width: int, name: str) -> str:
    gamma, beta = (
        net.weight(f"{name}.weight", net.draw(width, scale=0.2) + 1),
        net.weight(f"{name}.bias", net.draw(width)),
    )
    if net.opset >= 17:
        return net.node("LayerNormalization", [x, gamma, beta], f"{name}_out", axis=-1, epsilon=1e-5)
    centred = net.node("Sub", [x, net.reduce_mean(x, f"{name}_mean", [-1])], f"{name}_centred")
    square = net.node("Pow", [centred, net.scalar(f"{name}_two", 2.0)], f"{name}_square")
    variance = net.node(
        "Add", [net.reduce_mean(square, f"{name}_var", [-1]), net.scalar(f"{name}_eps", 1e-5)], f"{name}_veps"
    )
    y = net.node("Div", [centred, net.node("Sqrt", [variance], f"{name}_std")], f"{name}_normed")
    return net.node("Add", [net.node("Mul", [y, gamma], f"{name}_scaled"), beta], f"{name}_out")


def transformer_block(*, opset: int = 17, fused: bool = False, width: int = 8, heads: int = 2) -> onnx.ModelProto:
    """A pre-norm block: attention and a GELU MLP, both with residuals; q, k, v apart or as one projection."""
    net = Net(opset=opset)
    x = net.input("x", ["N", "T", width])
    y = _layer_norm(net, x, width, "norm1")
    if fused:
        qkv = net.matmul(y, 3 * width, width, name="qkv")
        if opset >= 13:
            net.node("Split", [qkv, net.ints("thirds", [width] * 3)], ["q", "k", "v"], axis=-1)
        else:
            net.node("Split", [qkv], ["q", "k", "v"], axis=-1, split=[width] * 3)
        q, k, v = "q", "k", "v"
    else:
        q, k, v = (net.matmul(y, width, width, name=name) for name in ("q", "k", "v"))
    y = net.matmul(_attention(net, q, k, v, heads=heads, size=width // heads), width, width, name="out", bias="left")
    x = net.node("Add", [x, y], "residual1")
    y = net.matmul(_layer_norm(net, x, width, "norm2"), 2 * width, width, name="up")
    y = net.node("Mul", [y, net.node("Sigmoid", [y], "sig")], "silu")
    y = net.matmul(y, width, 2 * width, name="down")
    net.output(net.node("Add", [x, y], "residual2"), ["N", "T", width])
    return net.model("transformer_block")


case.add("transformer", transformer_block, layers=6)
case.add("transformer_opset_11", lambda: transformer_block(opset=11), layers=6)
case.add("transformer_fused_qkv", lambda: transformer_block(fused=True), layers=4)
case.add("transformer_fused_qkv_opset_11", lambda: transformer_block(opset=11, fused=True), layers=4)


@case("fused_qkv_reshape", layers=2)
def fused_qkv_reshape() -> onnx.ModelProto:
    """One projection -> `(N, T, 3, heads, size)` -> transposed -> q, k, v by Gather, as ViT exporters write it."""
    net = Net()
    x = net.input("x", ["N", 5, 8])
    y = net.matmul(x, 24, 8, name="qkv")
    y = net.node("Reshape", [y, net.ints("five", [-1, 5, 3, 2, 4])], "r5")
    y = net.node("Transpose", [y], "t5", perm=[2, 0, 3, 1, 4])
    q, k, v = (net.node("Gather", [y, net.ints(f"i{i}", [i], scalar=True)], n, axis=0) for i, n in enumerate("qkv"))
    scores = net.node("MatMul", [q, net.node("Transpose", [k], "kt", perm=[0, 1, 3, 2])], "scores", name="/attn/MatMul")
    y = net.node("MatMul", [net.node("Softmax", [scores], "p", axis=-1), v], "mixed", name="/attn/MatMul_1")
    y = net.node("Transpose", [y], "mt", perm=[0, 2, 1, 3])
    y = net.node("Reshape", [y, net.ints("three", [-1, 5, 8])], "merged")
    net.output(net.matmul(y, 8, 8, name="out"), ["N", 5, 8])
    return net.model()


@case("einsum_heads", layers=1)
def einsum_heads() -> onnx.ModelProto:
    """A head-wise projection by Einsum, then a plain head."""
    net = Net()
    x = net.input("x", ["N", "T", 8])
    y = net.node("Einsum", [x, net.weight("heads.weight", net.draw(8, 2, 3))], "per_head", equation="btd,dhe->bthe")
    y = net.node("Reshape", [y, net.ints("merge", [0, 0, 6])], "merged")
    net.output(net.matmul(net.relu(y), 4, 6, name="out"), ["N", "T", 4])
    return net.model()


@case("group_norm_instance_norm", layers=3)
def group_norm_instance_norm() -> onnx.ModelProto:
    """GroupNorm in torch's old spelling (Reshape, InstanceNormalization, Reshape), and a plain InstanceNorm."""
    net = Net()
    x = net.input("x", ["N", 3, 6, 6])
    y = net.conv(x, 8, 3, pads=[1, 1, 1, 1])
    y = net.node("Reshape", [y, net.ints("groups", [0, 2, -1])], "grouped")
    ones, zeros = net.weight("ones", np.ones(2, np.float32)), net.weight("zeros", np.zeros(2, np.float32))
    y = net.node("InstanceNormalization", [y, ones, zeros], "normed")
    y = net.node("Reshape", [y, net.ints("whole", [-1, 8, 6, 6])], "ungrouped")
    y = net.node("Mul", [y, net.weight("gn.weight", net.draw(8, 1, 1))], "gn_scaled")
    y = net.relu(net.node("Add", [y, net.weight("gn.bias", net.draw(8, 1, 1))], "gn_out"))
    y = net.conv(y, 4, 8, name="conv2", pads=[1, 1, 1, 1])
    y = net.node(
        "InstanceNormalization", [y, net.weight("in.weight", net.draw(4)), net.weight("in.bias", net.draw(4))], "in_out"
    )
    net.output(net.conv(y, 2, 4, (1, 1), name="conv3"), ["N", 2, 6, 6])
    return net.model()


@case("group_norm_op", layers=2)
def group_norm_op() -> onnx.ModelProto:
    net = Net(opset=21)
    x = net.input("x", ["N", 3, "H", "W"])
    y = net.conv(x, 8, 3, pads=[1, 1, 1, 1])
    gamma, beta = net.weight("gn.weight", net.draw(8)), net.weight("gn.bias", net.draw(8))
    y = net.relu(net.node("GroupNormalization", [y, gamma, beta], "gn_out", num_groups=2))
    net.output(net.conv(y, 2, 8, (1, 1), name="conv2"), ["N", 2, "H", "W"])
    return net.model()


@case("rms_norm", layers=3)
def rms_norm() -> onnx.ModelProto:
    """RMSNorm written out, before a gated MLP."""
    net = Net()
    x = net.input("x", ["N", "T", 6])
    mean = net.reduce_mean(net.node("Pow", [x, net.scalar("two", 2.0)], "sq"), "ms", [-1])
    root = net.node("Sqrt", [net.node("Add", [mean, net.scalar("eps", 1e-6)], "ms_eps")], "root")
    y = net.node("Mul", [net.node("Div", [x, root], "normed"), net.weight("norm.weight", net.draw(6))], "norm_out")
    gate, up = net.matmul(y, 8, 6, name="gate", bias="none"), net.matmul(y, 8, 6, name="up", bias="none")
    gate = net.node("Mul", [gate, net.node("Sigmoid", [gate], "sig")], "silu")
    y = net.matmul(net.node("Mul", [gate, up], "glu"), 6, 8, name="down", bias="none")
    net.output(net.node("Add", [x, y], "residual"), ["N", "T", 6])
    return net.model()


@case("rms_norm_op", layers=1)
def rms_norm_op() -> onnx.ModelProto:
    net = Net(opset=23)
    x = net.input("x", ["N", "T", 6])
    y = net.node("RMSNormalization", [x, net.weight("norm.weight", net.draw(6))], "norm_out", axis=-1, epsilon=1e-6)
    net.output(net.relu(net.matmul(y, 8, 6)), ["N", "T", 8])
    return net.model()


@case("attention_op", layers=4)
def attention_op() -> onnx.ModelProto:
    """The Attention op of opset 23 between four projections."""
    net = Net(opset=23)
    x = net.input("x", ["N", "T", 8])
    q, k, v = (net.matmul(x, 8, 8, name=name, bias="none") for name in "qkv")
    y = net.node("Attention", [q, k, v], "mixed", q_num_heads=2, kv_num_heads=2)
    net.output(net.matmul(y, 8, 8, name="out"), ["N", "T", 8])
    return net.model()


@case("layer_scale_nhwc", layers=3)
def layer_scale_nhwc() -> onnx.ModelProto:
    """ConvNeXt: depthwise 7x7, to NHWC, LayerNorm, MLP by MatMul, layer scale, back, add."""
    net = Net()
    x = net.input("x", ["N", 6, "H", "W"])
    y = net.conv(x, 6, 6, (7, 7), name="dwconv", group=6, pads=[3, 3, 3, 3])
    y = net.node("Transpose", [y], "nhwc", perm=[0, 2, 3, 1])
    y = net.matmul(_layer_norm(net, y, 6, "norm"), 12, 6, name="pwconv1")
    y = net.node("Mul", [y, net.node("Sigmoid", [y], "sig")], "silu")
    y = net.matmul(y, 6, 12, name="pwconv2")
    y = net.node("Mul", [net.weight("gamma", net.draw(6, scale=0.1)), y], "scaled")
    y = net.node("Transpose", [y], "nchw", perm=[0, 3, 1, 2])
    net.output(net.node("Add", [x, y], "sum"), ["N", 6, "H", "W"])
    return net.model()


@case("unet", layers=4)
def unet() -> onnx.ModelProto:
    """Down, up by ConvTranspose, concat with what was there before."""
    net = Net()
    x = net.input("x", ["N", 3, 8, 8])
    a = net.relu(net.conv(x, 4, 3, name="down1", pads=[1, 1, 1, 1]), "r1")
    b = net.node("MaxPool", [a], "pooled", kernel_shape=[2, 2], strides=[2, 2])
    b = net.relu(net.conv(b, 8, 4, name="down2", pads=[1, 1, 1, 1]), "r2")
    c = net.conv(b, 4, 8, (2, 2), name="up1", op="ConvTranspose", strides=[2, 2])
    d = net.node("Concat", [c, a], "cat", axis=1)
    net.output(net.conv(d, 2, 8, name="last", pads=[1, 1, 1, 1]), ["N", 2, 8, 8])
    return net.model()


@case("upsample_by_shape", layers=2)
def upsample_by_shape() -> onnx.ModelProto:
    """Resize to the size of another value: its sizes input is a Shape -> Slice -> Concat chain that counts channels."""
    net = Net()
    x = net.input("x", ["N", 3, "H", "W"])
    y = net.relu(net.conv(x, 4, 3, strides=[2, 2], pads=[1, 1, 1, 1]))
    axes0, two, four = net.ints("zero", [0]), net.ints("two", [2]), net.ints("four", [4])
    head = net.node("Slice", [net.node("Shape", [y], "sy"), axes0, two], "head")
    tail = net.node("Slice", [net.node("Shape", [x], "sx"), two, four], "tail")
    sizes = net.node("Concat", [head, tail], "sizes", axis=0)
    y = net.node("Resize", [y, "", "", sizes], "resized", mode="nearest")
    net.output(net.conv(y, 2, 4, (1, 1), name="conv2"), ["N", 2, None, None])
    return net.model()


@case("token_embedding", layers=3)
def token_embedding() -> onnx.ModelProto:
    """Token plus position embeddings, masked mean, two heads on one trunk."""
    net = Net()
    ids = net.input("input_ids", ["N", 6], TensorProto.INT64)
    mask = net.input("attention_mask", ["N", 6], TensorProto.INT64)
    y = net.node("Gather", [net.weight("tokens", net.draw(13, 8)), ids], "tok")
    y = net.node("Add", [y, net.weight("positions", net.draw(1, 6, 8))], "summed")
    m = net.unsqueeze(net.node("Cast", [mask], "mf", to=TensorProto.FLOAT), "m3", [2])
    y = net.reduce_mean(net.node("Mul", [y, m], "masked"), "mean", [1], keepdims=0)
    y = net.node("Tanh", [net.gemm(y, 8, 8, name="pooler")], "pooled")
    net.output(net.gemm(y, 3, 8, name="classes"), ["N", 3])
    net.output(net.gemm(y, 1, 8, name="score"), ["N", 1])
    return net.model()
