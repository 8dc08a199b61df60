"""Operators give what ONNX Runtime gives: over the generated zoo, the samples, and options that exporters use."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch")

from onnxmorph import model as files  # noqa: E402
from onnxmorph import train  # noqa: E402
from onnxmorph.errors import OnnxMorphError, Refusal  # noqa: E402
from tests import zoo_graphs  # noqa: E402
from tests.grow.graphs import SAMPLES, graph, loaded, reference, tensor  # noqa: E402

ZOO = Path(__file__).resolve().parents[2] / ".." / "shared" / "zoo" / "models"
_RANDOM = {"weights/weight_of_random", "topology/random_noise"}
# ONNX Runtime computes with its own rounding there, or aliases outputs that nobody reads.
_COARSE = {"weights/classifier_float16", "weights/classifier_float16_constant", "weights/mlp_float16"}
_BROKEN_IN_RUNTIME = {"topology/batch_norm_training", "linear/conv_weights_nan", "linear/conv_weights_infinite"}


def _close(found: Any, wanted: Any, tolerance: float) -> None:
    if isinstance(wanted, list):
        for one, other in zip(found, wanted, strict=True):
            _close(one, other, tolerance)
        return
    wanted = np.asarray(wanted)
    array = found.float().numpy() if found.dtype == torch.bfloat16 else found.numpy()
    assert array.shape == wanted.shape
    assert array.dtype == wanted.dtype
    if wanted.dtype.kind == "f":
        scale = float(np.abs(wanted[np.isfinite(wanted)]).max(initial=1e-6))
        np.testing.assert_allclose(array, wanted, rtol=tolerance, atol=tolerance * scale)
    else:
        np.testing.assert_array_equal(array, wanted)


def _case_names() -> list[str]:
    return [case.name for case in zoo_graphs.select(runnable=True) if case.name not in _RANDOM | _BROKEN_IN_RUNTIME]


@pytest.mark.parametrize("name", _case_names())
def test_generated_models_give_what_the_runtime_gives_and_go_back_unchanged(name: str, tmp_path: Path) -> None:
    proto = zoo_graphs.build(name)
    feeds = zoo_graphs.example_inputs(proto)
    try:
        wanted = reference(proto, feeds)
    except Exception as error:
        pytest.skip(f"not for this runtime: {str(error)[:60]}")
    try:
        model = loaded(proto, tmp_path)
    except Refusal as refusal:
        assert refusal.code == "sparse-tensor"
        return
    if any(array.dtype == object for array in feeds.values()):
        with pytest.raises(OnnxMorphError):
            train.module(model, mode="eval")(**feeds)
        return
    net = train.module(model, mode="eval")
    with torch.no_grad():
        found = list(net.run(**feeds).values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _close(found, wanted, 2e-3 if name in _COARSE else 3e-5)
    assert files.content_hash(train.write_back(net, model)) == files.content_hash(model)


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.onnx")), ids=lambda path: path.stem)
def test_samples_give_what_the_runtime_gives(path: Path) -> None:
    image = np.load(SAMPLES / "digits_test.npz")["image"][:3]
    net = train.module(path, mode="eval")
    with torch.no_grad():
        _close([net(image)], reference(onnx.load(path), {"image": image}), 3e-6)


@pytest.mark.parametrize("path", sorted(ZOO.glob("*.onnx")), ids=lambda path: path.name)
def test_the_shared_zoo_gives_what_the_runtime_gives(path: Path) -> None:
    proto = onnx.load(path)
    feeds = zoo_graphs.example_inputs(proto, dims={"H": 32, "W": 32}, size=32)
    try:
        wanted = reference(proto, feeds)
    except Exception as error:
        pytest.skip(f"other sizes are needed: {str(error)[:60]}")
    net = train.module(path, mode="eval")
    with torch.no_grad():
        _close(list(net.run(**feeds).values()), wanted, 5e-3 if "fp16" in path.name else 3e-5)


def _attention() -> tuple[onnx.ModelProto, dict[str, Any]]:
    x = np.random.default_rng(0).standard_normal((2, 5, 12)).astype(np.float32)
    nodes = [
        helper.make_node("Attention", ["x", "w", "b"], ["y"], domain="com.microsoft", num_heads=3, unidirectional=1)
    ]
    stored = [tensor("w", 12, 36, scale=0.3), tensor("b", 36)]
    return graph(nodes, {"x": [2, 5, 12]}, ["y"], stored, domains=["com.microsoft"]), {"x": x}


def _fused_model(op: str, inputs: dict[str, tuple[int, ...]], outputs: int = 1, **attributes: Any) -> Any:
    random = np.random.default_rng(1)
    feeds = {name: random.standard_normal(shape).astype(np.float32) for name, shape in inputs.items()}
    names = [f"y{k}" for k in range(outputs)]
    node = helper.make_node(op, list(inputs), names, domain="com.microsoft", **attributes)
    return graph([node], dict(inputs), names, domains=["com.microsoft"]), feeds


FUSED = {
    "attention_causal": _attention(),
    "multi_head_attention": _fused_model(
        "MultiHeadAttention", {"q": (2, 4, 12), "k": (2, 6, 12), "v": (2, 6, 12), "b": (36,)}, num_heads=2
    ),
    "fused_conv_relu": _fused_model(
        "FusedConv", {"x": (1, 2, 6, 6), "w": (3, 2, 3, 3), "b": (3,)}, activation="Relu", pads=[1, 1, 1, 1]
    ),
    "fused_matmul": _fused_model("FusedMatMul", {"a": (2, 5, 4), "b": (2, 5, 3)}, transA=1, alpha=0.5),
    "gelu": _fused_model("Gelu", {"x": (3, 4)}),
    "fast_gelu": _fused_model("FastGelu", {"x": (3, 4), "b": (4,)}),
    "bias_gelu": _fused_model("BiasGelu", {"x": (3, 4), "b": (4,)}),
    "quick_gelu": _fused_model("QuickGelu", {"x": (3, 4)}, alpha=1.5),
    "skip_layer_norm": _fused_model(
        "SkipLayerNormalization", {"x": (2, 3, 8), "s": (2, 3, 8), "g": (8,), "b": (8,)}, epsilon=1e-5
    ),
    "skip_rms_norm": _fused_model(
        "SkipSimplifiedLayerNormalization", {"x": (2, 3, 8), "s": (2, 3, 8), "g": (8,)}, epsilon=1e-5
    ),
}


@pytest.mark.parametrize("name", FUSED)
def test_fused_operators_give_what_the_runtime_gives(name: str, tmp_path: Path) -> None:
    proto, feeds = FUSED[name]
    wanted = reference(proto, feeds)
    net = train.module(loaded(proto, tmp_path), mode="eval")
    with torch.no_grad():
        _close(list(net.run(**feeds).values()), wanted, 3e-5)


def _rnn(op: str, gates: int, **attributes: Any) -> tuple[onnx.ModelProto, dict[str, Any]]:
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    stored = [
        tensor("w", directions, gates * 4, 3, scale=0.5),
        tensor("r", directions, gates * 4, 4, scale=0.5),
        tensor("b", directions, gates * 8, scale=0.5),
        numpy_helper.from_array(np.array([5, 2], dtype=np.int32), "lengths"),
    ]
    lengths = "lengths" if attributes.pop("padded", False) else ""
    outputs = ["y", "h", "c"] if op == "LSTM" else ["y", "h"]
    node = helper.make_node(op, ["x", "w", "r", "b", lengths], outputs, hidden_size=4, **attributes)
    x = np.random.default_rng(3).standard_normal((5, 2, 3)).astype(np.float32)
    return graph([node], {"x": [5, 2, 3]}, outputs, stored), {"x": x}


RECURRENT = {
    "lstm": _rnn("LSTM", 4),
    "lstm_both_padded": _rnn("LSTM", 4, direction="bidirectional", padded=True),
    "lstm_reverse_clip": _rnn("LSTM", 4, direction="reverse", clip=0.5),
    "lstm_coupled": _rnn("LSTM", 4, input_forget=1),
    "lstm_hard": _rnn("LSTM", 4, activations=["HardSigmoid", "Tanh", "Softsign"]),
    "gru": _rnn("GRU", 3),
    "gru_torch_like": _rnn("GRU", 3, linear_before_reset=1, direction="bidirectional"),
    "gru_reverse_padded": _rnn("GRU", 3, direction="reverse", padded=True),
    "rnn": _rnn("RNN", 1),
    "rnn_relu_both": _rnn("RNN", 1, direction="bidirectional", activations=["Relu", "Tanh"]),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_in_all_their_forms(name: str, tmp_path: Path) -> None:
    proto, feeds = RECURRENT[name]
    net = train.module(loaded(proto, tmp_path), mode="eval")
    with torch.no_grad():
        _close(list(net.run(**feeds).values()), reference(proto, feeds), 2e-5)


@pytest.mark.parametrize("size", ["1,2,7,5", "1,2,4,4", "1,2,2,3"])
@pytest.mark.parametrize("placing", ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_places_and_weighs_as_the_runtime_does(mode: str, placing: str, size: str, tmp_path: Path) -> None:
    sizes = numpy_helper.from_array(np.array([int(s) for s in size.split(",")], dtype=np.int64), "sizes")
    more = {"nearest_mode": "floor"} if mode == "nearest" else {}
    node = helper.make_node(
        "Resize", ["x", "", "", "sizes"], ["y"], mode=mode, coordinate_transformation_mode=placing, **more
    )
    proto = graph([node], {"x": [1, 2, 4, 3]}, ["y"], [sizes])
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 2, 4, 3)).astype(np.float32)}
    net = train.module(loaded(proto, tmp_path), mode="eval")
    with torch.no_grad():
        _close([net(**feeds)], reference(proto, feeds), 1e-5)


def test_shape_chains_follow_the_sizes_of_each_run(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "one"], ["n"]),
        helper.make_node("Range", ["zero", "n", "step"], ["r"]),
        helper.make_node("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "f"], ["y"]),
    ]
    numbers = {"one": 1, "zero": 0, "step": 1}
    stored = [numpy_helper.from_array(np.int64(value), name) for name, value in numbers.items()]
    net = train.module(loaded(graph(nodes, {"x": ["n", "m"]}, ["y"], stored), tmp_path), mode="eval")
    for width in (3, 5, 5, 3):
        x = torch.ones(2, width)
        with torch.inference_mode(width == 5):
            assert net(x).tolist() == [list(map(float, range(width)))] * 2
    steps = [step for step in net._program.steps if step.remembered]
    assert len(steps) == 4 and all(step.last_result is not None for step in steps)


def test_an_operator_that_is_not_there_is_refused_by_name_and_only_where_it_is_needed(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mystery", ["x"], ["m"], name="odd", domain="org.example"),
        helper.make_node("Relu", ["x"], ["y"], name="plain"),
    ]
    model = loaded(graph(nodes, {"x": [2, 3]}, ["y", "m"], domains=["org.example"]), tmp_path)
    with pytest.raises(Refusal, match=r"org\.example::Mystery .* odd") as refused:
        train.module(model, mode="eval")
    assert refused.value.code == "unsupported-operator"
    assert train.module(model, mode="eval", outputs=["y"])(torch.full((2, 3), -1.0)).sum() == 0


@pytest.mark.slow
def test_onnx_own_node_tests() -> None:
    from tests.grow import standard

    passed, total, wrong = standard.run()
    assert wrong == []
    assert passed >= 1770 and passed >= 0.94 * total
