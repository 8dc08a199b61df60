"""Steps of the optimizers: the same bits as torch's own, without what those import."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from onnxmorph.grow.descent import SGD, AdamW, Descent  # noqa: E402


def groups(seed: int) -> list[dict[str, Any]]:
    random = torch.Generator().manual_seed(seed)
    made = [torch.randn(shape, generator=random).requires_grad_() for shape in ((5, 3), (7,), (2, 2, 3, 3), (4,))]
    return [
        {"params": made[:2], "lr": 0.1, "weight_decay": 0.0},
        {"params": made[2:], "lr": 0.01, "weight_decay": 0.02},
    ]


def walk(optimizer: Any, steps: int = 7) -> list[Any]:
    """Some steps: rates that change, and a parameter that has no gradient at first."""
    random = torch.Generator().manual_seed(5)
    tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    for step in range(steps):
        for place, tensor in enumerate(tensors):
            slope = torch.randn(tensor.shape, generator=random)
            tensor.grad = None if place == 1 and step < 3 else slope
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
        optimizer.step()
    return tensors


@pytest.mark.parametrize("kind", ["adamw", "sgd", "sgd without momentum"])
def test_steps_are_those_of_torch_to_the_bit(kind: str) -> None:
    ours: Descent
    if kind == "adamw":
        theirs: Any = torch.optim.AdamW(groups(1), lr=1.0, foreach=False)
        ours = AdamW(groups(1))
    else:
        momentum = 0.9 if kind == "sgd" else 0.0
        theirs = torch.optim.SGD(groups(1), lr=1.0, momentum=momentum, nesterov=momentum > 0, foreach=False)
        ours = SGD(groups(1), momentum=momentum)
    start = groups(1)[0]["params"][0]
    for own, other in zip(walk(ours), walk(theirs), strict=True):
        assert torch.equal(own, other)
    assert not torch.equal(ours.param_groups[0]["params"][0], start)
    for own, other in zip(ours.state.values(), theirs.state.values(), strict=True):
        assert all(torch.equal(own[name], other[name]) for name in other if other[name] is not None)


def test_a_training_does_not_import_the_compiler_of_torch() -> None:
    program = """
import sys
import numpy as np, onnx
from onnx import TensorProto, helper, numpy_helper
from onnxmorph import train
from tests.morphs.oracle import from_proto
weight = numpy_helper.from_array(np.ones((3, 2), np.float32), "w")
graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])], [weight])
model = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
train.fit(model, (np.ones((4, 3), np.float32), np.array([0, 1, 0, 1])), epochs=1, clip_norm=1.0)
sys.exit(any(name.startswith("torch._dynamo") for name in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
