"""A batch normalisation in any spelling is one affine map per channel, and the activation behind it is found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from onnxmorph.graph.layers import LinearLayer, layers
from tests.graph.small import Array, model, read, run

node = helper.make_node
rng = np.random.default_rng(3)
C = 5


def f32(*shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


STATISTICS = {
    "gamma": f32(C),
    "beta": f32(C),
    "mean": f32(C),
    "var": np.abs(f32(C)) + 0.1,
    "col": f32(C, 1, 1),
    "col2": f32(1, C, 1, 1),
    "row": f32(C),
    "one": np.array(2.0, np.float32),
    "perm_row": f32(1, 1, 1, C),
}
NORM = ["gamma", "beta", "mean", "var"]


def conv_then(chain: list[Any], extra: dict[str, Array] | None = None, **options: Any) -> tuple[Any, LinearLayer]:
    first = node("Conv", ["x", "w", "b"], ["y"])
    stored = {"w": f32(C, 3, 1, 1), "b": f32(C), **STATISTICS, **(extra or {})}
    used = {name for each in [first, *chain] for name in each.input}
    proto = model(
        [first, *chain],
        {"x": (np.float32, ["N", 3, 4, 4])},
        ["z"],
        {k: v for k, v in stored.items() if k in used},
        **options,
    )
    (layer,) = layers(read(proto))
    return proto, layer


SPELLINGS = {
    "BatchNormalization": [node("BatchNormalization", ["y", *NORM], ["n"], epsilon=1e-3)],
    "Mul Add": [node("Mul", ["y", "col"], ["m"]), node("Add", ["col2", "m"], ["n"])],
    "Sub Div Mul Add": [
        node("Sub", ["y", "col"], ["s"]),
        node("Div", ["s", "col2"], ["d"]),
        node("Mul", ["one", "d"], ["m"]),
        node("Add", ["m", "one"], ["n"]),
    ],
    "constant minus, negated": [node("Sub", ["col", "y"], ["s"]), node("Neg", ["s"], ["n"])],
    "two of them": [
        node("BatchNormalization", ["y", *NORM], ["m"]),
        node("Identity", ["m"], ["i"]),
        node("BatchNormalization", ["i", "beta", "gamma", "mean", "var"], ["n"]),
    ],
    "in NHWC": [
        node("Transpose", ["y"], ["t"], perm=[0, 2, 3, 1]),
        node("Mul", ["t", "row"], ["m"]),
        node("Add", ["m", "perm_row"], ["a"]),
        node("Transpose", ["a"], ["n"], perm=[0, 3, 1, 2]),
    ],
}


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("opset", [9, 13, 17])
def test_every_spelling_is_the_affine_map_it_computes(name: str, opset: int) -> None:
    proto, layer = conv_then([*SPELLINGS[name], node("Relu", ["n"], ["z"])], opset=opset)
    affine = layer.affine
    assert affine is not None and affine.input is layer.output
    x = f32(2, 3, 4, 4)
    before, after = run(proto, {"x": x}, ["y", affine.output.name or ""])
    if name == "in NHWC":
        after = after.transpose(0, 3, 1, 2)
    expected = before * affine.scale.reshape(-1, 1, 1) + affine.shift.reshape(-1, 1, 1)
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-4)
    assert layer.activation is not None and layer.activation.name == "Relu"
    is_norm = name in ("BatchNormalization", "two of them")
    assert (layer.batch_norm is not None) == is_norm
    assert [each.op_type for each in layer.layout_before_activation] == {
        "two of them": ["Identity"], "in NHWC": ["Transpose", "Transpose"]
    }.get(name, [])  # fmt: skip


def test_the_map_ends_where_a_value_is_used_twice_or_leaves() -> None:
    chain = [*SPELLINGS["Mul Add"], node("Relu", ["n"], ["z"])]
    _, layer = conv_then([*chain, node("Neg", ["m"], ["other"])])
    assert layer.affine is not None and layer.affine.output.name == "m" and layer.activation is None
    _, layer = conv_then([*chain, node("Neg", ["y"], ["other"])])
    assert layer.affine is None and layer.activation is None
    proto, _ = conv_then(chain)
    proto.graph.output.add().name = "n"
    (layer,) = layers(read(proto))
    assert layer.affine is not None and layer.affine.output.name == "n" and layer.activation is None


@pytest.mark.parametrize(
    "chain, extra",
    [
        ([node("Mul", ["y", "k"], ["n"])], {"k": f32(4, 1)}),  # along the height
        ([node("Mul", ["y", "k"], ["n"])], {"k": f32(4)}),  # along the width
        ([node("Mul", ["y", "k"], ["n"])], {"k": f32(1, C, 4, 1)}),
        ([node("Mul", ["y", "k"], ["n"])], {"k": f32(1, 1, C, 1, 1)}),  # adds an axis
        ([node("Div", ["col", "y"], ["n"])], {}),
        ([node("Cast", ["y"], ["h"], to=10), node("Cast", ["h"], ["n"], to=1)], {}),  # rounds
        ([node("BatchNormalization", ["y", *NORM], ["n", "m", "v"], training_mode=1)], {}),
        ([node("Mystery", ["y"], ["n"], domain="odd")], {}),
    ],
)
def test_what_is_not_per_channel_is_no_affine_map(chain: list[Any], extra: dict[str, Array]) -> None:
    _, layer = conv_then([*chain, node("Relu", ["n"], ["z"])], extra, domains=["odd"])
    assert layer.affine is None and layer.activation is None and layer.batch_norm is None


def test_channels_are_followed_through_a_reshape_or_lost() -> None:
    chain = [node("Reshape", ["y", "t"], ["r"]), node("Mul", ["r", "k"], ["n"]), node("Relu", ["n"], ["z"])]
    kept = {"t": np.array([0, C, 16]), "k": f32(C, 1)}
    _, layer = conv_then(chain, kept)
    assert layer.affine is not None and layer.affine.scale.tolist() == kept["k"].ravel().tolist()
    # Flattened, one number per (channel, place) is no map per channel.
    _, layer = conv_then(chain, {"t": np.array([0, -1]), "k": f32(C * 16)})
    assert layer.affine is None and layer.activation is None


def test_channels_are_followed_through_a_squeeze_of_an_unknown_length() -> None:
    # How TensorFlow writes a Conv1D.
    chain = [
        node("Conv", ["x", "w"], ["y"]),
        node("Squeeze", ["y", "two"], ["s"]),
        node("Add", ["s", "k"], ["n"]),
        node("Relu", ["n"], ["z"]),
    ]
    stored = {"w": f32(C, 3, 1, 1), "two": np.array([2]), "k": f32(1, C, 1)}
    (layer,) = layers(read(model(chain, {"x": (np.float32, ["N", 3, 1, "L"])}, ["z"], stored)))
    assert layer.affine is not None and layer.affine.shift.tolist() == stored["k"].ravel().tolist()
    assert layer.activation is not None and layer.activation.name == "Relu"


def test_the_activation_alone_uses_the_output() -> None:
    silu = [node("Sigmoid", ["y"], ["s"]), node("Mul", ["y", "s"], ["z"])]
    _, layer = conv_then(silu)
    assert layer.activation is not None and layer.activation.name == "Silu"
    _, layer = conv_then([*silu, node("Neg", ["y"], ["other"])])
    assert layer.activation is None


def test_a_normalisation_over_another_axis_than_the_channels_is_none() -> None:
    chain = [
        node("Conv", ["x", "w"], ["y"]),
        node("Transpose", ["y"], ["t"], perm=[0, 2, 3, 1]),
        node("BatchNormalization", ["t", *NORM], ["n"]),  # over the height, C places as well
        node("Relu", ["n"], ["z"]),
    ]
    stored = {"w": f32(C, 3, 1, 1), **{name: STATISTICS[name] for name in NORM}}
    (layer,) = layers(read(model(chain, {"x": (np.float32, ["N", 3, C, C])}, ["z"], stored)))
    assert layer.batch_norm is None and layer.affine is None and layer.activation is None
