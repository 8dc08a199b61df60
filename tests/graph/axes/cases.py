"""One small network per operator, the operator between layers that feed it and layers that read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper

from onnxmorph._ir import ir
from tests.graph.axes.nets import Net

__all__ = ["CASES", "Case"]


@dataclass(frozen=True)
class Case:
    """A network, and the sizes of groups that must be free (or only conditioned) in it."""

    build: Callable[[], ir.Model]
    free: tuple[int, ...]
    conditioned: tuple[int, ...] = ()
    tolerance: float = 2e-5


CASES: dict[str, Case] = {}


def case(
    *free: int, conditioned: tuple[int, ...] = (), tolerance: float = 2e-5
) -> Callable[[Callable[[], ir.Model]], None]:
    def register(build: Callable[[], ir.Model]) -> None:
        CASES[build.__name__] = Case(build, free, conditioned, tolerance)

    return register


def images(opset: int = 20, channels: int = 8, inputs: int = 3) -> tuple[Net, str]:
    net = Net(opset)
    return net, net.conv(net.input(["N", inputs, 6, 6]), inputs, channels, 3)


def tokens(opset: int = 20, width: int = 8) -> tuple[Net, str]:
    net = Net(opset)
    return net, net.dense(net.input(["N", 5, 4]), 4, width)


# ---- linear -------------------------------------------------------------------------------------------------------


@case(8, 10)
def conv_plain() -> ir.Model:
    net, x = images()
    return net.model(net.conv(net.op("Relu", net.conv(x, 8, 10, 3)), 10, 4))


@case(2, 4, 3)
def conv_grouped() -> ir.Model:
    net, x = images()  # (2, 4) in, (2, 3) out
    return net.model(net.conv(net.conv(x, 8, 6, 3, groups=2), 6, 4))


@case(8)
def conv_depthwise() -> ir.Model:
    net, x = images()
    return net.model(net.conv(net.conv(x, 8, 8, 3, groups=8), 8, 4))


@case(8, 3)
def conv_depthwise_multiplier() -> ir.Model:
    net, x = images()
    return net.model(net.conv(net.conv(x, 8, 24, 3, groups=8), 24, 4))


@case(6)
def conv_1d() -> ir.Model:
    net = Net()
    x = net.op("Conv", net.input(["N", 2, 9]), net.weight(6, 2, 3), auto_pad="SAME_UPPER")
    return net.model(net.op("Conv", x, net.weight(3, 6, 3), dilations=[2]))


@case(6)
def conv_3d() -> ir.Model:
    net = Net()
    x = net.op("Conv", net.input(["N", 2, 4, 4, 4]), net.weight(6, 2, 3, 3, 3))
    return net.model(net.op("Conv", x, net.weight(3, 6, 1, 1, 1)))


@case(8, 6)
def conv_transpose() -> ir.Model:
    net, x = images()
    x = net.op("ConvTranspose", x, net.weight(8, 6, 2, 2), net.weight(6), strides=[2, 2])
    return net.model(net.conv(x, 6, 4))


@case(2, 4, 3)
def conv_transpose_grouped() -> ir.Model:
    net, x = images()
    x = net.op("ConvTranspose", x, net.weight(8, 3, 2, 2), net.weight(6), strides=[2, 2], group=2)
    return net.model(net.conv(x, 6, 4))


@case(7, 9)
def gemm() -> ir.Model:
    net = Net()
    x = net.op("Gemm", net.input(["N", 4]), net.weight(4, 7), net.weight(7), alpha=0.5)
    x = net.op("Gemm", net.op("Tanh", x), net.weight(9, 7), net.weight(1, 9), transB=1, beta=2.0)
    return net.model(net.op("Gemm", x, net.weight(9, 3)))


@case(7)
def gemm_transposed_input() -> ir.Model:
    net = Net()
    x = net.op("Gemm", net.weight(7, 4), net.input([4, 5]), net.weight(7, 1))  # (7, 5): weight on the left
    return net.model(net.op("Gemm", x, net.weight(7, 3), transA=1))


@case(8, 6)
def matmul_weight_left() -> ir.Model:
    net = Net()
    x = net.op("MatMul", net.weight(8, 4), net.input(["N", 4, 5]))
    x = net.op("MatMul", net.weight(6, 8), net.op("Relu", x))
    return net.model(net.op("MatMul", net.weight(2, 6), x))


@case(8)
def matmul_vector() -> ir.Model:
    net, x = tokens()
    return net.model(net.op("MatMul", x, net.weight(8)))


@case(6, conditioned=(8,))
def matmul_activations() -> ir.Model:
    net, x = tokens()
    y = net.dense(net.input(["N", 5, 4]), 4, 8)
    scores = net.op("MatMul", x, net.op("Transpose", y, perm=[0, 2, 1]))
    return net.model(net.dense(net.op("MatMul", scores, net.dense(y, 8, 6)), 6, 3))


@case(2, 3, 8)
def einsum_heads() -> ir.Model:
    net, x = tokens()
    x = net.op("Einsum", x, net.weight(8, 2, 3), equation="bsi,ihd->bshd")
    return net.model(net.op("Einsum", x, net.weight(2, 3, 4), equation="bshd,hdo->bso"))


@case(3, conditioned=(2,))
def einsum_scores() -> ir.Model:
    net, x = tokens()
    q = net.op("Einsum", x, net.weight(8, 3, 2), equation="...i,ihd->...hd")
    k = net.op("Einsum", x, net.weight(8, 3, 2), equation="...i,ihd->...hd")
    s = net.op("Einsum", q, k, equation="bqhd,bkhd->bhqk")
    return net.model(net.op("Einsum", s, net.weight(3, 4), equation="bhqk,ho->bqko"))


@case(conditioned=(6,))
def outer_product_with_itself() -> ir.Model:
    net = Net()
    x = net.dense(net.input(["N", 4]), 4, 6)
    y = net.op("Mul", net.op("Unsqueeze", x, net.ints(2)), net.op("Unsqueeze", x, net.ints(1)))
    return net.model(net.dense(net.op("Flatten", y), 36, 3))


@case(6, 5)
def outer_product_of_two() -> ir.Model:
    net = Net()
    x = net.input(["N", 4])
    left, right = net.dense(x, 4, 6), net.dense(x, 4, 5)
    y = net.op("Mul", net.op("Unsqueeze", left, net.ints(2)), net.op("Unsqueeze", right, net.ints(1)))
    return net.model(net.dense(net.op("Flatten", y), 30, 3))


@case(8)
def shared_weight() -> ir.Model:
    net = Net()
    weight = net.weight(8, 8)
    x = net.dense(net.input(["N", 4]), 4, 8)
    x = net.op("Relu", net.op("MatMul", x, weight))
    return net.model(net.dense(net.op("MatMul", x, weight), 8, 3))


@case(8)
def weight_behind_a_chain() -> ir.Model:
    net = Net()
    stored = net.const(net.random.normal(size=(8, 4)).astype(np.float16), node=True)
    weight = net.op("Transpose", net.op("Cast", stored, to=TensorProto.FLOAT), perm=[1, 0])
    x = net.op("MatMul", net.input(["N", 4]), weight)
    flat = net.weight(24)
    return net.model(net.op("MatMul", x, net.op("Reshape", flat, net.ints(8, 3))))


# ---- element by element -------------------------------------------------------------------------------------------


@case(8)
def elementwise_many() -> ir.Model:
    net, x = images()
    x = net.op("PRelu", x, net.weight(8, 1, 1))
    x = net.op("Clip", net.op("Mul", x, net.weight(1, 8, 1, 1)), net.const(np.float32(-1)), net.const(np.float32(2)))
    x = net.op(
        "Sum",
        x,
        net.op("Sigmoid", x),
        net.op("Where", net.op("Greater", x, net.const(np.float32(0))), x, net.weight(8, 6, 6)),
    )
    x = net.op("Max", net.op("Sub", net.op("Div", x, net.positive(8, 1, 1)), net.weight(1)), net.weight(8, 1, 1))
    return net.model(net.conv(net.op("Dropout", x), 8, 4))


@case(8)
def broadcast_of_one_channel() -> ir.Model:
    net, x = images()  # a gate of one channel (C x 1) and a scalar per channel
    gate = net.op("Sigmoid", net.conv(x, 8, 1))
    return net.model(net.conv(net.op("Mul", x, gate), 8, 4))


@case(8, 2)
def squeeze_excite() -> ir.Model:
    net, x = images()
    pooled = net.op("ReduceMean", x, net.ints(2, 3), keepdims=1)
    gate = net.op("HardSigmoid", net.conv(net.op("Relu", net.conv(pooled, 8, 2)), 2, 8))
    return net.model(net.conv(net.op("Mul", gate, x), 8, 4))


@case(8)
def residual() -> ir.Model:
    net, x = images()
    return net.model(net.conv(net.op("Add", x, net.conv(net.op("Relu", x), 8, 8, 3)), 8, 4))


@case(8, 6)
def shared_zeros_do_not_couple() -> ir.Model:
    net = Net()
    ones = net.const(np.ones(6, dtype=np.float32))
    x = net.op("Mul", net.op("MatMul", net.input(["N", 4]), net.weight(4, 6)), ones)
    x = net.op("MatMul", net.dense(x, 6, 8), net.weight(8, 6))
    return net.model(net.dense(net.op("Mul", x, ones), 6, 3))


# ---- normalisations -----------------------------------------------------------------------------------------------


@case(8)
def batch_norm() -> ir.Model:
    net, x = images()
    x = net.op("BatchNormalization", x, net.weight(8), net.weight(8), net.weight(8), net.positive(8))
    return net.model(net.conv(net.op("Relu", x), 8, 4))


@case(8)
def instance_norm() -> ir.Model:
    net, x = images()
    return net.model(net.conv(net.op("InstanceNormalization", x, net.weight(8), net.weight(8)), 8, 4))


@case(conditioned=(8,))
def layer_norm() -> ir.Model:
    net, x = tokens()
    return net.model(net.dense(net.op("LayerNormalization", x, net.weight(8), net.weight(8)), 8, 3))


@case(conditioned=(8,))
def rms_norm() -> ir.Model:
    net, x = tokens(23)
    return net.model(net.dense(net.op("RMSNormalization", x, net.weight(8)), 8, 3))


@case(conditioned=(8,))
def skip_norm() -> ir.Model:
    net, x = tokens()
    skip = net.dense(net.input(["N", 5, 4]), 4, 8)
    y = net.op("SkipLayerNormalization", x, skip, net.weight(8), net.weight(8), net.weight(8), domain="com.microsoft")
    y = net.op("SkipSimplifiedLayerNormalization", y, x, net.weight(8), domain="com.microsoft")
    return net.model(net.dense(y, 8, 3))


@case(2, conditioned=(4,))
def group_norm() -> ir.Model:
    net, x = images(21)
    return net.model(net.conv(net.op("GroupNormalization", x, net.weight(8), net.weight(8), num_groups=2), 8, 4))


@case(2, conditioned=(4,))
def group_norm_18() -> ir.Model:
    net, x = images(18)
    return net.model(net.conv(net.op("GroupNormalization", x, net.weight(2), net.weight(2), num_groups=2), 8, 4))


@case(2, conditioned=(4,))
def group_norm_spelled_out() -> ir.Model:
    net, x = images()
    y = net.op("Reshape", x, net.ints(0, 2, -1))
    y = net.op("InstanceNormalization", y, net.const(np.ones(2, np.float32)), net.const(np.zeros(2, np.float32)))
    y = net.op("Reshape", y, net.op("Shape", x))
    return net.model(net.conv(net.op("Add", net.op("Mul", y, net.weight(8, 1, 1)), net.weight(8, 1, 1)), 8, 4))


@case(conditioned=(8,))
def lp_norm_and_softmax() -> ir.Model:
    net, x = tokens()
    return net.model(net.dense(net.op("Softmax", net.op("LpNormalization", x, axis=-1, p=2), axis=-1), 8, 3))


@case(8)
def mean_variance_norm() -> ir.Model:
    net, x = images()
    return net.model(net.conv(net.op("MeanVarianceNormalization", x), 8, 4))


@case(conditioned=(8,))
def softmax_of_old() -> ir.Model:
    net, x = images(11)
    return net.model(net.conv(net.op("Softmax", x), 8, 4))


# ---- layout -------------------------------------------------------------------------------------------------------


@case(4)
def channel_shuffle() -> ir.Model:
    net, x = images()
    y = net.op("Transpose", net.op("Reshape", x, net.ints(-1, 2, 4, 6, 6)), perm=[0, 2, 1, 3, 4])
    y = net.op("Reshape", y, net.ints(-1, 8, 6, 6))
    return net.model(net.conv(net.conv(y, 8, 8, 3, groups=8), 8, 4))


@case(4)
def channel_shuffle_of_a_concat() -> ir.Model:
    net, x = images()
    left, right = net.op("Split", x, net.ints(4, 4), outputs=2, axis=1)
    y = net.op("Concat", net.conv(left, 4, 4), right, axis=1)
    y = net.op("Transpose", net.op("Reshape", y, net.ints(0, 2, 4, 6, 6)), perm=[0, 2, 1, 3, 4])
    y = net.op("Reshape", y, net.ints(0, 8, 6, 6))
    left, right = net.op("Split", y, outputs=2, axis=1, num_outputs=2)
    return net.model(net.conv(net.op("Concat", net.conv(left, 4, 4), right, axis=1), 8, 4))


@case(8)
def flatten_to_dense() -> ir.Model:
    net, x = images()
    return net.model(net.dense(net.op("Flatten", x), 8 * 36, 3))


@case(8)
def flatten_of_channels_last() -> ir.Model:
    net, x = images()
    y = net.op("Flatten", net.op("Transpose", x, perm=[0, 2, 3, 1]))
    return net.model(net.dense(y, 8 * 36, 3))


@case(8)
def flatten_by_computed_shape() -> ir.Model:
    net, x = images()
    batch = net.op("Gather", net.op("Shape", x), net.ints(0), axis=0)
    target = net.op("Concat", batch, net.ints(-1), axis=0)
    return net.model(net.dense(net.op("Reshape", x, target), 8 * 36, 3))


@case(8)
def flatten_by_fixed_shape_with_dynamic_batch() -> ir.Model:
    net, x = images()
    batch = net.op("Gather", net.op("Shape", x), net.ints(0), axis=0)
    target = net.op("Concat", batch, net.ints(8 * 36), axis=0)
    return net.model(net.dense(net.op("Reshape", x, target), 8 * 36, 3))


@case(8)
def flatten_by_a_product_of_sizes() -> ir.Model:
    net, x = images()
    shape = net.op("Shape", x)
    rest = net.op("ReduceProd", net.op("Slice", shape, net.ints(1), net.ints(4)), keepdims=1)
    return net.model(net.dense(net.op("Reshape", x, net.op("Concat", net.ints(-1), rest, axis=0)), 8 * 36, 3))


@case(8)
def as_strided() -> ir.Model:
    """What torch's newer exporter makes of ``as_strided`` on a contiguous tensor: flat, by indices worked out."""
    net, x = images()
    x = net.op("Relu", net.op("GlobalAveragePool", x))
    batch = net.op("Squeeze", net.op("Slice", net.op("Shape", x), net.ints(0), net.ints(1)))
    zero, one = (net.const(np.array(number, np.int64)) for number in (0, 1))
    rows = net.op("Mul", net.op("Range", zero, batch, one), net.const(np.array(8, np.int64)))
    rows = net.op("Unsqueeze", rows, net.ints(1, 2, 3))
    places = net.op("Add", rows, net.const(np.arange(8).reshape(1, 8, 1, 1)))
    flat = net.op("Reshape", x, net.ints(-1))
    y = net.op("Gather", flat, net.op("Add", places, net.const(np.zeros((1, 1, 1, 1), np.int64))), axis=0)
    return net.model(net.dense(net.op("Flatten", y), 8, 3))


@case(8, 6)
def concat() -> ir.Model:
    net, x = images()
    y = net.op("Concat", x, net.conv(x, 8, 6), x, axis=1)
    return net.model(net.conv(net.op("Relu", y), 22, 4))


@case(8)
def concat_of_one_value_twice() -> ir.Model:
    net, x = images()
    return net.model(net.conv(net.op("Concat", x, net.op("Neg", x), axis=1), 16, 4))


@case(8)
def concat_then_flatten() -> ir.Model:
    net, x = images()
    y = net.op("Flatten", net.op("Concat", x, net.conv(x, 8, 5), axis=1))
    return net.model(net.dense(y, 13 * 36, 3))


@case(4)
def gated_by_split() -> ir.Model:
    net, x = tokens()
    left, right = net.op("Split", x, outputs=2, axis=-1, num_outputs=2)
    return net.model(net.dense(net.op("Mul", left, net.op("Sigmoid", right)), 4, 3))


@case(4)
def gated_by_split_of_old() -> ir.Model:
    net, x = tokens(12)
    left, right = net.op("Split", x, outputs=2, axis=-1, split=[4, 4])
    return net.model(net.dense(net.op("Mul", left, net.op("Sigmoid", right)), 4, 3))


@case(4)
def gated_by_slices() -> ir.Model:
    net, x = tokens()
    left = net.op("Slice", x, net.ints(0), net.ints(4), net.ints(2))
    right = net.op("Slice", x, net.ints(-4), net.ints(2**62), net.ints(-1))
    return net.model(net.dense(net.op("Mul", left, net.op("Tanh", right)), 4, 3))


@case(4)
def gated_by_computed_slices() -> ir.Model:
    net, x = tokens()
    half = net.op("Div", net.op("Gather", net.op("Shape", x), net.ints(2), axis=0), net.ints(2))
    left = net.op("Slice", x, net.ints(0), half, net.ints(2))
    right = net.op("Slice", x, half, net.op("Mul", half, net.ints(2)), net.ints(2))
    return net.model(net.dense(net.op("Mul", left, net.op("Tanh", right)), 4, 3))


@case(4)
def gated_by_columns() -> ir.Model:
    net, x = tokens()
    left = net.op("Slice", x, net.ints(0), net.ints(2**62), net.ints(2), net.ints(2))
    right = net.op("Slice", x, net.ints(1), net.ints(8), net.ints(2), net.ints(2))
    return net.model(net.dense(net.op("Mul", left, net.op("Tanh", right)), 4, 3))


@case(3, 5)
def split_unequal() -> ir.Model:
    net, x = tokens()
    left, right = net.op("Split", x, net.ints(3, 5), outputs=2, axis=2)
    return net.model(net.dense(left, 3, 2), net.dense(right, 5, 2))


@case(3, 2)
def split_by_default() -> ir.Model:
    net, x = tokens()
    a, b, c = net.op("Split", x, outputs=3, axis=2, num_outputs=3)  # 3, 3, 2
    return net.model(net.op("Add", net.dense(a, 3, 2), net.dense(b, 3, 2)), net.dense(c, 2, 2))


@case(2)
def pixel_shuffle() -> ir.Model:
    net, x = images()
    return net.model(net.conv(net.op("DepthToSpace", x, blocksize=2), 2, 3))


@case(2)
def pixel_shuffle_crd() -> ir.Model:
    net, x = images()
    return net.model(net.conv(net.op("DepthToSpace", x, blocksize=2, mode="CRD"), 2, 3))


@case(2)
def pixel_shuffle_spelled_out() -> ir.Model:
    net, x = images()
    y = net.op("Transpose", net.op("Reshape", x, net.ints(0, 2, 2, 2, 6, 6)), perm=[0, 1, 4, 2, 5, 3])
    return net.model(net.conv(net.op("Reshape", y, net.ints(0, 2, 12, 12)), 2, 3))


@case(8)
def space_to_depth() -> ir.Model:
    net, x = images()
    return net.model(net.conv(net.op("SpaceToDepth", x, blocksize=2), 32, 3))


@case(8)
def squeeze_and_unsqueeze() -> ir.Model:
    net, x = images()
    y = net.op("Squeeze", net.op("GlobalAveragePool", x), net.ints(2, 3))
    y = net.op("Unsqueeze", net.op("Squeeze", net.op("Unsqueeze", y, net.ints(0, 3)), net.ints(0, 3)), net.ints(0))
    return net.model(net.dense(net.op("Squeeze", y, net.ints(0)), 8, 3))


@case(8)
def pad_spatial_and_channels() -> ir.Model:
    net, x = images()  # the option-A shortcut: channels padded with zeros
    y = net.op("Pad", x, net.ints(0, 2, 1, 1, 0, 3, 0, 0))
    return net.model(net.op("Conv", y, net.weight(4, 13, 1, 1)))


@case(8)
def pad_shortcut() -> ir.Model:
    net, x = images()
    y = net.op("Pad", x, net.ints(0, 2, 0, 0, 0, 2, 0, 0))
    return net.model(net.conv(net.op("Add", y, net.conv(x, 8, 12)), 12, 4))


@case(8)
def expand_and_tile() -> ir.Model:
    net, x = images()
    y = net.op("GlobalMaxPool", x)
    wide = net.op("Expand", y, net.ints(1, 8, 6, 6))
    tall = net.op("Tile", y, net.ints(1, 1, 6, 6))
    return net.model(net.conv(net.op("Concat", net.op("Mul", x, wide), tall, axis=1), 16, 4))


@case(8)
def expand_a_parameter() -> ir.Model:
    net, x = tokens()
    batch = net.op("Slice", net.op("Shape", x), net.ints(0), net.ints(1))
    shape = net.op("Concat", batch, net.ints(1, 8), axis=0)
    token = net.op("Expand", net.weight(1, 1, 8), shape)
    return net.model(net.dense(net.op("Concat", token, x, axis=1), 8, 3))


@case(8)
def tile_channels() -> ir.Model:
    net, x = tokens()
    return net.model(net.dense(net.op("Tile", x, net.ints(1, 1, 3)), 24, 3))


@case(8)
def constant_of_shape() -> ir.Model:
    net, x = tokens()
    zeros = net.op("ConstantOfShape", net.op("Shape", x))
    more = net.op("ConstantOfShape", net.ints(1, 5, 8), value=helper.make_tensor("v", 1, [1], [0.5]))
    return net.model(net.dense(net.op("Add", net.op("Sub", x, zeros), more), 8, 3))


@case(8)
def resize_by_scales() -> ir.Model:
    net, x = images()
    y = net.op("Resize", x, "", net.const(np.array([1, 1, 2, 2], np.float32)), mode="nearest")
    return net.model(net.conv(y, 8, 4))


@case(8)
def resize_by_sizes() -> ir.Model:
    net, x = images()
    y = net.op(
        "Resize",
        x,
        "",
        "",
        net.op("Concat", net.op("Slice", net.op("Shape", x), net.ints(0), net.ints(1)), net.ints(8, 9, 9), axis=0),
        mode="linear",
    )
    return net.model(net.conv(y, 8, 4))


@case(8)
def upsample_of_old() -> ir.Model:
    net, x = images(9)
    return net.model(net.conv(net.op("Upsample", x, net.const(np.array([1, 1, 2, 2], np.float32))), 8, 4))


@case(8)
def pools() -> ir.Model:
    net, x = images()
    y = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    y = net.op("AveragePool", y, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    y = net.op("LpPool", y, kernel_shape=[2, 2])
    return net.model(net.conv(net.op("Add", y, net.op("GlobalLpPool", y)), 8, 4))


# ---- reductions and indices ---------------------------------------------------------------------------------------


@case(conditioned=(8,))
def reduce_channels() -> ir.Model:
    net, x = images()
    kinds = ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceLogSumExp"]
    return net.model(*(net.op(kind, x, net.ints(1), keepdims=index % 2) for index, kind in enumerate(kinds)))


@case(8)
def reduce_tokens_of_old() -> ir.Model:
    net, x = tokens(12)
    return net.model(net.dense(net.op("ReduceMax", x, axes=[1], keepdims=0), 8, 3))


@case(8)
def pick_a_token() -> ir.Model:
    net, x = tokens()
    y = net.op("Gather", x, net.const(np.int64(0)), axis=1)
    return net.model(net.dense(y, 8, 3))


@case(8)
def gather_channels_in_order() -> ir.Model:
    net, x = tokens()
    y = net.op("Gather", x, net.ints(3, 1, -1, 0, 0, 6), axis=2)
    return net.model(net.dense(y, 6, 3), net.dense(x, 8, 3))


@case(6)
def embedding() -> ir.Model:
    net = Net()
    x = net.op("Gather", net.weight(7, 6), net.input(["N", 5], TensorProto.INT64))
    x = net.op("Add", x, net.op("Gather", net.weight(5, 6), net.const(np.arange(5)[None])))
    return net.model(net.dense(x, 6, 3))


@case(6)
def embedding_tied_to_the_output() -> ir.Model:
    net = Net()
    table = net.weight(7, 6)
    x = net.op("Gather", table, net.input(["N", 5], TensorProto.INT64))
    x = net.op("Add", x, net.dense(x, 6, 6))
    return net.model(net.op("MatMul", x, net.op("Transpose", table, perm=[1, 0])))


@case(8)
def gather_nd_of_tokens() -> ir.Model:
    net, x = tokens()
    y = net.op("GatherND", x, net.const(np.array([[0, 1], [1, 4]])))
    y = net.op("ScatterND", y, net.const(np.array([[1]])), net.weight(1, 8))
    return net.model(net.dense(y, 8, 3))


@case(8)
def top_k_of_tokens() -> ir.Model:
    net, x = tokens()
    values, _ = net.op("TopK", x, net.ints(3), outputs=2, axis=1)
    y = net.op("CumSum", values, net.const(np.int64(1)))
    return net.model(net.dense(y, 8, 3), net.op("ArgMax", net.dense(x, 8, 3), axis=1))


# ---- recurrent, attention -----------------------------------------------------------------------------------------


def _recurrent(op: str, gates: int, layout: int = 0, directions: int = 2) -> ir.Model:
    net = Net()
    x = net.dense(net.input(["N", 5, 4]), 4, 6)
    if not layout:
        x = net.op("Transpose", x, perm=[1, 0, 2])
    weights = [
        net.weight(directions, gates * 7, 6),
        net.weight(directions, gates * 7, 7),
        net.weight(directions, gates * 14),
    ]
    direction = "bidirectional" if directions == 2 else "forward"
    y, last = net.op(op, x, *weights, outputs=2, hidden_size=7, direction=direction, layout=layout)
    if layout:
        y, last = net.op("Reshape", y, net.ints(0, 0, -1)), net.op("Reshape", last, net.ints(0, directions * 7))
    else:
        y = net.op("Reshape", net.op("Transpose", y, perm=[2, 0, 1, 3]), net.ints(0, 0, directions * 7))
        last = net.op("Reshape", net.op("Transpose", last, perm=[1, 0, 2]), net.ints(0, directions * 7))
    return net.model(net.dense(y, directions * 7, 3), net.dense(last, directions * 7, 3))


@case(7, 6)
def lstm() -> ir.Model:
    return _recurrent("LSTM", 4)


@case(7, 6)
def gru() -> ir.Model:
    return _recurrent("GRU", 3)


@case(7, 6)
def rnn_forward() -> ir.Model:
    return _recurrent("RNN", 1, directions=1)


@case(7)
def lstm_with_states_and_peepholes() -> ir.Model:
    net = Net()
    x = net.op("Transpose", net.input(["N", 5, 4]), perm=[1, 0, 2])
    batch = net.op("Slice", net.op("Shape", x), net.ints(1), net.ints(2))
    state = net.op("ConstantOfShape", net.op("Concat", net.ints(1), batch, net.ints(7), axis=0))
    start = net.op("Expand", net.weight(1, 1, 7), net.op("Concat", net.ints(1), batch, net.ints(7), axis=0))
    weights = [net.weight(1, 28, 4), net.weight(1, 28, 7), net.weight(1, 56)]
    y, _, cell = net.op("LSTM", x, *weights, "", start, state, net.weight(1, 21), outputs=3, hidden_size=7)
    return net.model(net.dense(net.op("Squeeze", y, net.ints(1)), 7, 3), net.dense(cell, 7, 2))


@case(2, 5, 8, conditioned=(4,))
def attention_spelled_out() -> ir.Model:
    net, x = tokens()  # 2 heads of 4, values of 5, scale from the size of the head
    parts = []
    for width in (4, 4, 5):
        y = net.op("Reshape", net.dense(x, 8, 2 * width), net.ints(0, 0, 2, width))
        parts.append(net.op("Transpose", y, perm=[0, 2, 1, 3]))
    q, k, v = parts
    size = net.op("Cast", net.op("Slice", net.op("Shape", q), net.ints(-1), net.ints(2**62)), to=TensorProto.FLOAT)
    scale = net.op("Div", net.const(np.array([1.0], np.float32)), net.op("Sqrt", size))
    scores = net.op("MatMul", net.op("Mul", q, scale), net.op("Transpose", k, perm=[0, 1, 3, 2]))
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(0, 0, 10))
    return net.model(net.dense(y, 10, 3))


@case(8, conditioned=(4,))
def attention_fused_qkv() -> ir.Model:
    net, x = tokens()
    qkv = net.op("Reshape", net.dense(x, 8, 24), net.ints(-1, 5, 3, 2, 4))
    q, k, v = (
        net.op("Gather", net.op("Transpose", qkv, perm=[2, 0, 3, 1, 4]), net.const(np.int64(i))) for i in range(3)
    )
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(0, 0, -1))
    return net.model(net.dense(y, 8, 3))


@case(8, 2, conditioned=(4,))
def attention_grouped_queries() -> ir.Model:
    net, x = tokens()
    q = net.op("Transpose", net.op("Reshape", net.dense(x, 8, 24), net.ints(0, 0, 6, 4)), perm=[0, 2, 1, 3])
    shared = []
    for _ in range(2):
        y = net.op("Transpose", net.op("Reshape", net.dense(x, 8, 8), net.ints(0, 0, 2, 4)), perm=[0, 2, 1, 3])
        y = net.op("Expand", net.op("Unsqueeze", y, net.ints(2)), net.ints(1, 2, 3, 5, 4))
        shared.append(net.op("Reshape", y, net.ints(0, 6, 5, 4)))
    k, v = shared
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    y = net.op("Transpose", net.op("MatMul", net.op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    return net.model(net.dense(net.op("Reshape", y, net.ints(0, 0, -1)), 24, 3))


@case(8, 2, 5, conditioned=(4,))
def attention_operator() -> ir.Model:
    net, x = tokens(23)
    q, k, v = net.dense(x, 8, 8), net.dense(x, 8, 8), net.dense(x, 8, 10)
    y = net.op("Attention", q, k, v, q_num_heads=2, kv_num_heads=2)
    return net.model(net.dense(y, 10, 3))


@case(8, 2, 3, conditioned=(4,))
def attention_operator_grouped() -> ir.Model:
    net, x = tokens(23)
    y = net.op("Attention", net.dense(x, 8, 24), net.dense(x, 8, 8), net.dense(x, 8, 8), q_num_heads=6, kv_num_heads=2)
    return net.model(net.dense(y, 24, 3))


@case(8, 2, 4)
def attention_of_microsoft() -> ir.Model:
    net, x = tokens()
    q, k, v = net.dense(x, 8, 8), net.dense(x, 8, 8), net.dense(x, 8, 8)
    y = net.op("MultiHeadAttention", q, k, v, net.weight(24), num_heads=2, domain="com.microsoft")
    return net.model(net.dense(y, 8, 3))


# ---- quantised ----------------------------------------------------------------------------------------------------


@case(8, tolerance=0.03)
def quantised_weights_and_activations() -> ir.Model:
    net = Net()
    scale, zero = net.const(np.float32(0.05)), net.const(np.uint8(100))
    weight = net.const(net.random.integers(-100, 100, (8, 3, 3, 3)).astype(np.int8))
    zeros = net.const(np.zeros(8, np.int8))
    weight = net.op("DequantizeLinear", weight, net.positive(8), zeros, axis=0)
    x = net.op("Conv", net.input(["N", 3, 6, 6]), weight)
    x = net.op("DequantizeLinear", net.op("QuantizeLinear", x, scale, zero), scale, zero)
    last = net.const(net.random.integers(0, 255, (4, 8, 1, 1)).astype(np.uint8))
    last = net.op("DequantizeLinear", last, net.const(np.float32(0.01)), net.const(np.uint8(120)))
    return net.model(net.op("Conv", x, last))


@case(8, conditioned=(), tolerance=1e-4)
def integer_matmul() -> ir.Model:
    net = Net()
    x = net.op("Mul", net.dense(net.input(["N", 4]), 4, 8), net.const(np.float32(8)))
    x = net.op(
        "Cast",
        net.op("Clip", net.op("Round", x), net.const(np.float32(0)), net.const(np.float32(200))),
        to=TensorProto.UINT8,
    )
    weight = net.const(net.random.integers(0, 255, (8, 6)).astype(np.uint8))
    y = net.op("MatMulInteger", x, weight, net.const(np.uint8(0)), net.const(np.uint8(131)))
    return net.model(net.dense(net.op("Cast", y, to=TensorProto.FLOAT), 6, 3))


# ---- control flow, functions --------------------------------------------------------------------------------------


@case(6, conditioned=(8,))
def branches() -> ir.Model:
    net, x = tokens()
    inner = []
    for seed in (1, 2):
        body = Net(seed=seed)
        body.count = 1000 * seed
        y = body.dense(body.op("Relu", x), 8, 6)
        graph = helper.make_graph(
            body.nodes, f"branch{seed}", [], [helper.make_empty_tensor_value_info(y)], body.initializers
        )
        inner.append(graph)
    flag = net.op("Greater", net.op("ReduceSum", x, keepdims=0), net.const(np.float32(0)))
    y = net.op("If", flag, then_branch=inner[0], else_branch=inner[1])
    return net.model(net.dense(y, 6, 3))


@case(8)
def loop_with_a_state() -> ir.Model:
    net, x = tokens()
    body = Net(seed=3)
    body.count = 1000
    y = body.op("Tanh", body.dense("state", 8, 8))
    keep = body.op("Identity", "go")
    graph = helper.make_graph(
        body.nodes,
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, ["N", 5, 8]),
        ],
        [
            helper.make_tensor_value_info(keep, TensorProto.BOOL, []),
            helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", 5, 8]),
        ],
        body.initializers,
    )
    y = net.op("Loop", net.const(np.int64(3)), net.const(np.array(True)), x, body=graph)
    return net.model(net.dense(y, 8, 3))


@case(8)
def scan_over_tokens() -> ir.Model:
    net, x = tokens()
    y = net.op("Transpose", x, perm=[1, 0, 2])
    body = Net(seed=3)
    body.count = 1000
    new = body.op("Tanh", body.op("Add", body.dense("state", 8, 8), "token"))
    out = body.op("Identity", new)
    shape: list[str | int | None] = ["N", 8]
    graph = helper.make_graph(
        body.nodes,
        "body",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("state", "token")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in (new, out)],
        body.initializers,
    )
    start = net.op("Gather", y, net.const(np.int64(0)), axis=0)
    _, y = net.op("Scan", start, y, outputs=2, body=graph, num_scan_inputs=1)
    return net.model(net.dense(y, 8, 3))


@case(8, 6)
def model_local_function() -> ir.Model:
    net, x = tokens()
    weight = net.weight(8, 6)
    inside = [
        helper.make_node("MatMul", ["a", "w"], ["b"]),
        helper.make_node(
            "Constant", [], ["c"], value=helper.make_tensor("c", 1, [6], net.random.normal(size=6).tolist())
        ),
        helper.make_node("Add", ["b", "c"], ["d"]),
    ]
    net.functions.append(
        helper.make_function("here", "Dense", ["a", "w"], ["d"], inside, [helper.make_opsetid("", net.opset)])
    )
    return net.model(net.dense(net.op("Dense", x, weight, domain="here"), 6, 3))
