"""The pages that the tests look at: morphs of 1, 10 and 200 nodes, one that failed, hostile names, a batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.morphs import plan_activate, plan_deepen
from onnxmorph.plan import Child, apply
from onnxmorph.report.batch import batch_page
from onnxmorph.report.morph import Told, morph_page
from onnxmorph.verify import verify
from tests.ci.models import SAMPLES
from tests.morphs.oracle import from_proto
from tests.zoo.net import Net

__all__ = ["HOSTILE", "PAGES", "batch_report", "page"]

HOSTILE = (
    'a"]-->x<script>alert(1)</script><img src=x onerror=alert(1)>|`*\n#;\x00end</style></title></svg>' + "long" * 40
)


def _told(child: Child | None, certificate: Any) -> Told:
    names = ("parent.onnx", "child.onnx")
    if child is None:
        return Told(names, certificate)
    return Told(names, certificate, child.factors, child.residual, child.notes, "As compared just now.")


def _one() -> str:
    parent = files.load(SAMPLES / "digits_cnn.onnx")
    child = apply(parent, [plan_deepen(parent, "conv2", method="mirror")])
    certificate = verify(parent, child.model, provider="cpu", faults=False, time_budget=1.0).to_json()
    return morph_page(parent, child.model, _told(child, certificate))


def _ten() -> str:
    parent = files.load(SAMPLES / "digits_resnet.onnx")
    child = apply(parent, [plan_deepen(parent, layer) for layer in ("layer1/conv1", "layer2/conv1", "layer2/conv2")])
    return morph_page(parent, child.model, _told(child, None))


def chain(layers: int, name: str = "") -> ir.Model:
    net = Net()
    value = net.input("x", ["N", 4, 6, 6])
    for place in range(layers):
        convolved = net.conv(value, 4, 4, name=f"conv{place}", pads=[1, 1, 1, 1])
        value = net.node("Relu", [convolved], f"r{place}{name}", name=f"/block{place}/relu{name}")
    net.output(net.node("Identity", [value], "out"), ["N", 4, 6, 6])
    return from_proto(net.model())


def _many() -> str:
    parent = chain(70)
    child = apply(parent, plan_activate(parent))
    return morph_page(parent, apply(child.model, _deepened(child.model)).model, Told())


def _deepened(model: ir.Model) -> list[Any]:
    from onnxmorph.graph.layers import layers

    return [plan_deepen(model, layer, method="identity") for layer in layers(model)]


def _failed() -> str:
    parent, child = (files.load(SAMPLES / f"digits_{name}.onnx") for name in ("cnn", "mlp"))
    certificate = verify(parent, child, provider="cpu", faults=False, time_budget=1.0).to_json()
    return morph_page(parent, child, _told(None, certificate))


def _hostile() -> str:
    parent, child = chain(2), chain(3, HOSTILE)
    for value in list(child.graph.initializers.values())[:1]:
        value.name = HOSTILE
        array = np.full(tuple(value.const_value.shape.numpy()), np.nan, np.float32)  # type: ignore[union-attr]
        array.reshape(-1)[::3] = np.inf
        value.const_value = ir.tensor(array, name=HOSTILE)
    files.add_record(child, {"morph": HOSTILE, "name": HOSTILE})
    odd = {
        "name": HOSTILE,
        "status": HOSTILE,
        "max_abs": "nan",
        "noise_floor": "inf",
        "ratio": "nan",
        "channel_ratio": None,
    }
    certificate = {
        "equivalent": False,
        "failures": [HOSTILE],
        "warnings": [HOSTILE],
        "outputs": [odd],
        "inner": [odd],
        "provider": HOSTILE,
        "runtime": HOSTILE,
        "limit": "inf",
    }
    return morph_page(parent, child, Told((HOSTILE, HOSTILE), certificate, notes=[HOSTILE], source=HOSTILE))


def _same() -> str:
    parent = chain(2)
    return morph_page(parent, parent, Told())


def batch_report(models: int = 120) -> dict[str, Any]:
    """A report as ``onnxmorph batch`` writes it, with every outcome."""
    outcomes = ("done", "done", "done", "refused", "not-equivalent", "failed")
    entries = [
        {
            "model": HOSTILE if place == 5 else f"zoo/family{place % 7}/model_{place}.onnx",
            "child": f"family/model_{place}.onnx" if outcomes[place % 6] == "done" else None,
            "outcome": outcomes[place % 6],
            "up_to_date": place % 9 == 0,
            "code": None if outcomes[place % 6] == "done" else "weight-not-constant",
            "reason": None
            if outcomes[place % 6] == "done"
            else f"{HOSTILE if place == 5 else 'why'}: a reason of some length",
            "ratio": ["nan", 0.0, 1e9, 3.1][place % 4] if outcomes[place % 6] in ("done", "not-equivalent") else None,
            "seconds": 0.5 * place,
            "parameters": {"before": 1000 * place, "after": 1500 * place},
            "plans": ["conv1: replace by two"] * (place % 3),
            "notes": [],
            "certificate": None,
        }
        for place in range(models)
    ]
    return {
        "schema": 1,
        "kind": "onnxmorph.batch",
        "recipe": {"name": "grow.toml", "text": f"# {HOSTILE}\n[[step]]\n"},
        "output": "out",
        "models": entries,
    }


PAGES: dict[str, Callable[[], str]] = {
    "one": _one,
    "ten": _ten,
    "many": _many,
    "failed": _failed,
    "hostile": _hostile,
    "same": _same,
    "batch": lambda: batch_page(batch_report()),
}


@cache
def page(name: str) -> str:
    """One of the pages; made once."""
    return PAGES[name]()
