"""A graph as a torch module: names, roles, gradients, modes, and the way back."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch")

import onnxmorph as om  # noqa: E402
from onnxmorph import model as files  # noqa: E402
from onnxmorph import train  # noqa: E402
from onnxmorph.errors import Refusal, SelectionError  # noqa: E402
from tests import zoo_graphs  # noqa: E402
from tests.grow.graphs import SAMPLES, graph, loaded, mlp, normed, reference, tensor  # noqa: E402


def test_nothing_of_the_package_imports_torch_before_it_is_used() -> None:
    code = (
        "import sys, onnxmorph as om; from onnxmorph import train, grow; om.train; import onnxmorph_cli.verbs.train;"
        "print([m for m in ('torch', 'numpy', 'onnx') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_without_torch_the_reason_is_told() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from onnxmorph import train\nfrom onnxmorph.errors import Refusal\n"
        "try: train.module\nexcept Refusal as error: print(error.code, error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith("torch-missing ") and "onnxmorph[train]" in out


def test_parameters_have_the_names_of_the_model(tmp_path: Path) -> None:
    net = train.module(loaded(normed(), tmp_path))
    assert set(dict(net.named_parameters())) == {"conv.weight", "bn.weight", "bn.bias", "fc.weight", "fc.bias"}
    assert set(dict(net.named_buffers())) == {"bn.mean", "bn.var"}
    assert net.roles == {
        "conv.weight": "kernel",
        "bn.weight": "norm_scale",
        "bn.bias": "norm_bias",
        "bn.mean": "running_mean",
        "bn.var": "running_var",
        "fc.weight": "kernel",
        "fc.bias": "bias",
    }
    assert set(net.group("kernel")) == {"conv.weight", "fc.weight"} and set(net.group("fc.*")) == {
        "fc.weight",
        "fc.bias",
    }
    with pytest.raises(SelectionError, match=r"did you mean fc\.weight"):
        net.group("fc.wieght")


def test_a_state_dict_goes_in_and_out_by_the_same_names(tmp_path: Path) -> None:
    model = loaded(normed(), tmp_path)
    one, other = train.module(model), train.module(model)
    with torch.no_grad():
        for value in one.parameters():
            value.add_(1.0)
    other.load_state_dict(one.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    with pytest.raises(RuntimeError, match=r"fc\.weight"):
        other.load_state_dict({**one.state_dict(), "fc.weight": torch.zeros(2, 2)})


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.onnx")), ids=lambda path: path.stem)
def test_what_was_not_trained_goes_back_byte_for_byte_and_shared(path: Path) -> None:
    model = files.load(path)
    back = train.write_back(train.module(model), model)
    assert files.content_hash(back) == files.content_hash(model)
    for name, value in back.graph.initializers.items():
        assert value.const_value is model.graph.initializers[name].const_value
    assert train.trainings(back) == []


def test_written_back_the_runtime_computes_what_the_module_computes(tmp_path: Path) -> None:
    model = loaded(normed(), tmp_path)
    files.set_certificate(model, {"schema": 1})
    net = train.module(model)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    x = torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    back = train.write_back(net, model, note={"steps": 3})
    assert files.certificate_of(back) is None and files.certificate_of(model) is not None
    assert train.trainings(back)[0]["steps"] == 3
    files.save(back, tmp_path / "trained.onnx")
    net.eval()
    with torch.no_grad():
        found = net(x).numpy()
    (wanted,) = reference(onnx.load(tmp_path / "trained.onnx"), {"x": x.numpy()})
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert [node.name for node in back.graph] == [node.name for node in model.graph]
    with pytest.raises(Refusal, match="is not in the model"):
        train.write_back(net, loaded(mlp(), tmp_path))


def test_weights_in_constant_nodes_go_back_into_them(tmp_path: Path) -> None:
    proto = mlp()
    for stored in list(proto.graph.initializer):
        proto.graph.node.insert(0, helper.make_node("Constant", [], [stored.name], value=stored))
    del proto.graph.initializer[:]
    model = loaded(proto, tmp_path)
    net = train.module(model)
    assert set(net.roles) == {"w1", "b1", "w2", "b2"}
    with torch.no_grad():
        net.group("w1")["w1"].zero_()
    files.save(train.write_back(net, model), tmp_path / "back.onnx")
    back = onnx.load(tmp_path / "back.onnx")
    values = {node.output[0]: numpy_helper.to_array(node.attribute[0].t) for node in back.graph.node if not node.input}
    assert not back.graph.initializer and not values["w1"].any() and values["w2"].any()


def test_weights_given_to_functions_have_roles_and_gradients(tmp_path: Path) -> None:
    model = loaded(zoo_graphs.build("scopes/function_weights_outside"), tmp_path)
    net = train.module(model)
    assert {net.roles[name] for name in net.roles if name.endswith("weight")} == {"kernel"}
    feeds = zoo_graphs.example_inputs(zoo_graphs.build("scopes/function_weights_outside"))
    net(**feeds).square().sum().backward()
    assert all(value.grad is not None for value in net.parameters())


def test_constants_of_other_kinds_are_not_trained(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["c"]),
        helper.make_node("MatMul", ["c", "w"], ["h"]),
        helper.make_node("Add", ["h", "b"], ["s"]),
        helper.make_node("Mul", ["s", "root"], ["t"]),
        helper.make_node("Add", ["t", "mask"], ["m"]),
        helper.make_node("Mul", ["m", "gamma"], ["y"]),
    ]
    stored = [
        tensor("mean", 4),
        tensor("w", 4, 4),
        tensor("b", 4),
        numpy_helper.from_array(np.float32(0.5), "root"),
        numpy_helper.from_array(np.triu(np.full((4, 4), -1e9, dtype=np.float32), 1), "mask"),
        tensor("gamma", 4),
    ]
    net = train.module(loaded(graph(nodes, {"x": [4, 4]}, ["y"], stored), tmp_path))
    assert net.roles == {"w": "kernel", "b": "bias", "gamma": "scale"}


def test_the_parameter_of_a_parametric_activation_is_known_as_such() -> None:
    parent = om.load(SAMPLES / "digits_cnn.onnx")
    relu = om.plan_deepen(parent, "conv2", method="netmorph").apply(parent).model
    tanh = om.plan_deepen(parent, "conv2", method="netmorph", activation="Tanh").apply(parent).model
    for child in (relu, tanh):
        net = train.module(child)
        (name,) = net.group("a")
        net(torch.randn(4, 1, 8, 8)).square().sum().backward()
        assert name.endswith(".a") and net.group("a")[name].grad.abs().sum() > 0


@pytest.mark.parametrize(
    "name",
    [
        "linear/conv_same_upper",
        "block/transformer_opset_11",
        "block/rms_norm",
        "scopes/if_holds_layers",
        "scopes/function_weights_outside",
        "digits_transformer",
        "digits_mobile",
    ],
)
def test_gradients_agree_with_finite_differences(name: str, tmp_path: Path) -> None:
    if name.startswith("digits"):
        model = files.load(SAMPLES / f"{name}.onnx")
        feeds: dict[str, Any] = {"image": np.load(SAMPLES / "digits_test.npz")["image"][:2]}
    else:
        proto = zoo_graphs.build(name)
        model, feeds = loaded(proto, tmp_path), zoo_graphs.example_inputs(proto)
    net = train.module(model, precision="float64")
    net.eval()
    given = {key: torch.from_numpy(value) for key, value in feeds.items()}
    generator = torch.Generator().manual_seed(1)

    def value() -> Any:
        results = net._run((), given)
        return sum((out * torch.linspace(-1, 1, out.numel()).reshape(out.shape)).sum() for out in results)

    value().backward()
    weights = [w for w in net.parameters() if w.grad is not None]
    direction = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights]
    slope = float(sum((w.grad * d).sum() for w, d in zip(weights, direction, strict=True)))
    step, found = 1e-6, []
    with torch.no_grad():
        for sign in (1, -1):
            for w, d in zip(weights, direction, strict=True):
                w.add_(d, alpha=sign * step)
            found.append(float(value()))
            for w, d in zip(weights, direction, strict=True):
                w.sub_(d, alpha=sign * step)
    assert slope == pytest.approx((found[0] - found[1]) / (2 * step), rel=1e-3, abs=1e-6)


def test_batch_norm_follows_the_batches_as_onnx_says(tmp_path: Path) -> None:
    net = train.module(loaded(normed(), tmp_path), outputs=["c", "n"])
    before = {name: value.clone() for name, value in net.named_buffers()}
    x = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(2))
    c, n = net(x)
    np.testing.assert_allclose(n.mean((0, 2, 3)).detach(), dict(net.named_parameters())["bn.bias"].detach(), atol=1e-5)
    after = dict(net.named_buffers())
    mean, var = c.mean((0, 2, 3)), c.var((0, 2, 3), correction=0)
    torch.testing.assert_close(after["bn.mean"], 0.9 * before["bn.mean"] + 0.1 * mean.detach())
    torch.testing.assert_close(after["bn.var"], 0.9 * before["bn.var"] + 0.1 * var.detach())
    n.sum().backward()
    net.batch_statistics = False
    kept = {name: value.clone() for name, value in net.named_buffers()}
    net(x)
    assert all(torch.equal(kept[name], value) for name, value in net.named_buffers())


def test_dropout_drops_in_training_only(tmp_path: Path) -> None:
    net = train.module(loaded(normed(), tmp_path), outputs=["r", "d"])
    x = torch.randn(4, 2, 6, 6)
    r, d = net(x)
    assert 0.3 < float((d[r > 0] == 0).float().mean()) < 0.7
    net.eval()
    r, d = net(x)
    assert torch.equal(r, d)


def test_a_copy_of_a_module_is_its_own(tmp_path: Path) -> None:
    net = train.module(loaded(mlp(), tmp_path), mode="eval")
    twin, x = copy.deepcopy(net), torch.randn(2, 6)
    with torch.no_grad():
        dict(net.named_parameters())["b2"].add_(1.0)
    torch.testing.assert_close(net(x), twin(x) + 1.0)


def test_inputs_that_do_not_fit_are_told_by_name(tmp_path: Path) -> None:
    net = train.module(loaded(mlp(), tmp_path), mode="eval")
    for arguments, named, words in (
        ((), {}, "'x' is missing"),
        ((torch.zeros(2, 6), torch.zeros(1)), {}, "2 inputs were given"),
        ((), {"z": torch.zeros(2, 6)}, "no input 'z'"),
        ((torch.zeros(2, 6, dtype=torch.float64),), {}, "'x' is float32, not float64"),
    ):
        with pytest.raises(Refusal, match=words):
            net(*arguments, **named)
    with pytest.raises(om.RuntimeFailure, match=r"first \(Gemm\) failed"):
        net(torch.zeros(2, 5))


def test_a_quantised_model_runs_but_is_refused_for_training(tmp_path: Path) -> None:
    proto = zoo_graphs.build("weights/qdq_conv")
    model = loaded(proto, tmp_path)
    feeds = zoo_graphs.example_inputs(proto)
    with torch.no_grad():
        found = train.module(model, mode="eval")(**feeds)
    np.testing.assert_allclose(found, reference(proto, feeds)[0], atol=1e-5)
    with pytest.raises(Refusal, match="quantised") as refused:
        train.module(model)
    assert refused.value.code == "quantised"


def test_where_a_gradient_ends_is_told(tmp_path: Path) -> None:
    proto = mlp()
    proto.graph.node.append(helper.make_node("ArgMax", ["z"], ["label"], name="pick", axis=1, keepdims=0))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("label", TensorProto.INT64, None))
    model = loaded(proto, tmp_path)
    with pytest.raises(Refusal, match=r"ends at pick \(ArgMax\)") as refused:
        train.module(model)
    assert refused.value.code == "no-gradient"
    assert train.module(model, outputs=["z"]).output_names == ("z",)


def test_a_tensor_with_a_gradient_on_one_way_only_is_trained_by_that_way(tmp_path: Path) -> None:
    proto = mlp()
    proto.graph.node.append(helper.make_node("Round", ["z"], ["rounded"], name="round"))
    proto.graph.output.append(helper.make_tensor_value_info("rounded", TensorProto.FLOAT, None))
    net = train.module(loaded(proto, tmp_path))
    assert all(value.requires_grad for value in net.parameters()) and not net.without_gradient


def test_half_precision_is_trained_in_single_and_stored_as_it_was(tmp_path: Path) -> None:
    proto = zoo_graphs.build("weights/mlp_float16")
    model = loaded(proto, tmp_path)
    net = train.module(model)
    assert {value.dtype for value in net.parameters()} == {torch.float32}
    feeds = zoo_graphs.example_inputs(proto)
    net.eval()
    with torch.no_grad():
        np.testing.assert_allclose(net(**feeds), reference(proto, feeds)[0], rtol=2e-2, atol=2e-3)
    assert files.content_hash(train.write_back(net, model)) == files.content_hash(model)
    assert {value.dtype for value in train.module(model, mode="eval").parameters()} == {torch.float16}


@pytest.mark.parametrize("trips", [0, 3])
def test_loops_run_in_each_step_and_gradients_go_round(trips: int, tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["state", "w"], ["next"]),
            helper.make_node("Identity", ["go"], ["still"]),
            helper.make_node("Identity", ["next"], ["shown"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [3]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [3]),
            helper.make_tensor_value_info("shown", TensorProto.FLOAT, [3]),
        ],
    )
    nodes = [
        helper.make_node("Add", ["x", "b"], ["start"], name="first"),
        helper.make_node("MatMul", ["start", "m"], ["begin"], name="linear"),
        helper.make_node("Loop", ["n", "", "begin"], ["last", "all"], name="loop", body=body),
    ]
    stored = [tensor("w", 3), tensor("m", 3, 3), tensor("b", 3)]
    proto = graph(nodes, {"x": [3], "n": []}, ["last", "all"], stored, kinds={"n": TensorProto.INT64})
    feeds = {"x": np.ones(3, dtype=np.float32), "n": np.array(trips, dtype=np.int64)}
    net = train.module(loaded(proto, tmp_path), trainable=["w", "m"])
    last, every = net(**feeds)
    wanted = reference(proto, feeds)
    np.testing.assert_allclose(last.detach(), wanted[0], rtol=1e-5)
    assert every.shape == wanted[1].shape == (trips, 3)
    last.sum().backward()
    w, m = (dict(net.named_parameters())[name] for name in ("w", "m"))
    begin = (net.run(**feeds)["last"] / w**trips).detach()
    assert m.grad is not None
    if trips:
        torch.testing.assert_close(w.grad, trips * begin * w.detach() ** (trips - 1))


def test_tables_of_sines_are_not_trained_and_embeddings_with_a_row_of_zeros_are(tmp_path: Path) -> None:
    angles = np.arange(16).reshape(-1, 1) * 0.5 ** np.arange(4)
    words = np.random.default_rng(0).uniform(-0.5, 0.5, (16, 4)).astype(np.float32)
    words[0] = 0.0
    tables = {"cos": np.cos(angles), "sin": np.sin(angles), "words": words}
    nodes = [helper.make_node("Gather", [name, "ids"], [f"{name}_of"]) for name in tables]
    nodes += [
        helper.make_node("Mul", ["words_of", "cos_of"], ["a"]),
        helper.make_node("Mul", ["words_of", "sin_of"], ["b"]),
        helper.make_node("Sub", ["a", "b"], ["y"]),
    ]
    stored = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in tables.items()]
    proto = graph(nodes, {"ids": ["n", 3]}, ["y"], stored, kinds={"ids": TensorProto.INT64})
    assert train.module(loaded(proto, tmp_path)).roles == {"words": "embedding"}
