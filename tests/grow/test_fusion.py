"""Spelled-out functions run as one call, with the same numbers and gradients, where they are what they seem."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

torch = pytest.importorskip("torch")

from onnxmorph import train  # noqa: E402
from tests.grow.graphs import graph, loaded, reference, tensor  # noqa: E402

Spelled = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]


def _number(name: str, value: Any, dtype: Any = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype=dtype), name)


def _gelu(form: str, *, root: float = 2**0.5, half: float = 0.5) -> Spelled:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Mul" if form == "product" else "Div", ["h", "root"], ["s"]),
        helper.make_node("Erf", ["s"], ["e"]),
        helper.make_node("Add", ["one", "e"], ["p"]),
    ]
    if form == "half first":
        nodes += [helper.make_node("Mul", ["h", "half"], ["m"]), helper.make_node("Mul", ["m", "p"], ["y"])]
    elif form == "half of the sum":
        nodes += [helper.make_node("Mul", ["p", "half"], ["m"]), helper.make_node("Mul", ["h", "m"], ["y"])]
    else:
        nodes += [helper.make_node("Mul", ["h", "p"], ["m"]), helper.make_node("Mul", ["m", "half"], ["y"])]
    numbers = {"root": 1 / root if form == "product" else root, "one": 1.0, "half": half}
    return nodes, [tensor("w", 6, 6), *(_number(name, value) for name, value in numbers.items())]


def _norm(*, square: str = "Pow", axes: Sequence[int] = (-1,), power: float = 2.0) -> Spelled:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=list(axes)),
        helper.make_node("Sub", ["x", "m"], ["c"]),
        helper.make_node(square, ["c", "c" if square == "Mul" else "two"], ["q"]),
        helper.make_node("ReduceMean", ["q"], ["v"], axes=list(axes)),
        helper.make_node("Add", ["v", "eps"], ["ve"]),
        helper.make_node("Sqrt", ["ve"], ["d"]),
        helper.make_node("Div", ["c", "d"], ["n"]),
        helper.make_node("Mul", ["n", "gamma"], ["g"]),
        helper.make_node("Add", ["g", "beta"], ["y"]),
    ]
    return nodes, [tensor("gamma", 6), tensor("beta", 6), _number("two", power), _number("eps", 1e-5)]


def _attention(form: str, *, axis: int = -1) -> Spelled:
    nodes = [helper.make_node("MatMul", ["x", name], [name[1:]]) for name in ("wq", "wk", "wv")]
    shape = [_number("heads", [0, 0, 2, 3], np.int64)]
    nodes += [helper.make_node("Reshape", [name, "heads"], [f"{name}h"]) for name in ("q", "k", "v")]
    nodes += [
        helper.make_node("Transpose", ["qh"], ["qt"], perm=[0, 2, 1, 3]),
        helper.make_node("Transpose", ["kh"], ["kt"], perm=[0, 2, 3, 1]),
        helper.make_node("Transpose", ["vh"], ["vt"], perm=[0, 2, 1, 3]),
    ]
    if form == "scaled before":
        nodes += [
            helper.make_node("Mul", ["qt", "root"], ["qs"]),
            helper.make_node("Mul", ["kt", "root"], ["ks"]),
            helper.make_node("MatMul", ["qs", "ks"], ["scores"]),
        ]
    else:
        nodes += [
            helper.make_node("MatMul", ["qt", "kt"], ["raw"]),
            helper.make_node("Div", ["raw", "size"], ["scores"]),
        ]
    last = "scores"
    if form == "masked":
        nodes.append(helper.make_node("Add", ["mask", "scores"], ["masked"]))
        last = "masked"
    nodes += [
        helper.make_node("Softmax", [last], ["p"], axis=axis),
        helper.make_node("MatMul", ["p", "vt"], ["y"]),
    ]
    stored = [tensor(name, 6, 6, scale=0.5) for name in ("wq", "wk", "wv")]
    mask = np.triu(np.full((4, 4), -1e4, dtype=np.float32), 1)
    return nodes, [*stored, *shape, _number("root", 3**-0.25), _number("size", 3**0.5), _number("mask", mask)]


FORMS: dict[str, tuple[Spelled, str, int]] = {
    **{f"gelu, {form}": (_gelu(form), "e", 2) for form in ("quotient", "product", "half first", "half of the sum")},
    "norm": (_norm(), "c", 1),
    "norm by a product": (_norm(square="Mul"), "c", 1),
    **{f"attention, {form}": (_attention(form), "p", 10) for form in ("plain", "scaled before", "masked")},
}
OTHERS: dict[str, Spelled] = {
    "gelu of another width": _gelu("quotient", root=1.5),
    "gelu of another height": _gelu("half first", half=0.25),
    "norm over another axis": _norm(axes=(1,)),
    "norm of another power": _norm(power=4.0),
    "softmax over queries": _attention("plain", axis=2),
}


def _net(spelled: Spelled, folder: Path, inner: str | None = None) -> Any:
    nodes, stored = spelled
    model = loaded(graph(nodes, {"x": [2, 4, 6]}, ["y"], stored, opset=17), folder)
    return train.module(model, outputs=None if inner is None else ["y", inner])


def _names(net: Any) -> set[str]:
    return {step.call.op for step in net._program.steps}


@pytest.mark.parametrize("name", FORMS)
def test_one_call_gives_the_numbers_and_gradients_of_the_nodes(name: str, tmp_path: Path) -> None:
    spelled, inner, left = FORMS[name]
    fused, plain = _net(spelled, tmp_path), _net(spelled, tmp_path, inner)
    assert len(fused._program.steps) == left and len(plain._program.steps) == len(spelled[0])
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32))
    results = []
    for net in (fused, plain):
        out = net(x)
        y = out[0] if isinstance(out, tuple) else out
        (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
        results.append([y.detach(), *(value.grad for value in net.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    nodes, stored = spelled
    proto = graph(nodes, {"x": [2, 4, 6]}, ["y"], stored, opset=17)
    np.testing.assert_allclose(results[0][0], reference(proto, {"x": x.numpy()})[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OTHERS)
def test_what_only_looks_alike_is_run_as_it_stands(name: str, tmp_path: Path) -> None:
    nodes, stored = OTHERS[name]
    net = _net(OTHERS[name], tmp_path)
    assert len(net._program.steps) == len(nodes)
    assert not _names(net) & {"Gelu", "LayerNormalization", "Attention"}
    x = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32)
    with torch.no_grad():
        found = net(x)
    wanted = reference(graph(nodes, {"x": [2, 4, 6]}, ["y"], stored, opset=17), {"x": x})[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
