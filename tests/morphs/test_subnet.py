"""Subnets: every template a layer can meet gives an exact child, every other one an error with the place."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest

from onnxmorph.errors import Refusal
from onnxmorph.graph.layers import layers
from onnxmorph.morphs import plan_from_record, plan_subnet
from onnxmorph.morphs.template import TemplateError
from onnxmorph.plan import apply
from tests.morphs.oracle import assert_same, from_proto
from tests.zoo_graphs import select

LINEAR = select("linear/*", runnable=True)

TEMPLATES = [
    "(k:{4n})(1:{n})",
    "(k:{4n},bn)(k:{2n},tanh)(1:{n})",
    "(1:{2n})(k:{4n},gelu)(1:{n})",
    "(k:{2n})(1:{n})|(k:{n})",
    "[(k:{2n})(1:{4n},none)]x2(1:{n})",
]


def written(template: str, outputs: int, kernel: int) -> str:
    """The template for a layer: ``{4n}`` is four times its outputs, ``k`` its kernel."""
    for factor in (4, 2, 1):
        template = template.replace(f"{{{factor if factor > 1 else ''}n}}", str(factor * outputs))
    return template.replace("(k:", f"({kernel}:")


@pytest.mark.parametrize("template", TEMPLATES)
def test_subnets_are_exact_on_every_kind_of_layer(template: str) -> None:
    done = 0
    for case in LINEAR:
        proto = case.build()
        model = from_proto(proto)
        for layer in layers(model):
            text = written(template, layer.out_channels, max(layer.kernel, default=1))
            try:
                child = plan_subnet(model, layer, template=text).apply(model)
            except (Refusal, TemplateError):
                continue
            assert_same(proto, child.model, tolerance=1e-4)
            done += 1
    assert done > len(LINEAR)


@pytest.fixture
def convolution() -> tuple[Any, ir.Model, Any]:
    proto = LINEAR[0].build()
    model = from_proto(proto)
    return proto, model, layers(model)[0]


def test_the_record_replays_to_the_same_bytes(convolution: Any) -> None:
    _, model, layer = convolution
    text = written("(k:{4n},bn)(1:{n})|(k:{n})", layer.out_channels, max(layer.kernel))
    child = plan_subnet(model, layer, template=text, seed=5).apply(model)
    again = apply(model, [plan_from_record(plan.record()) for plan in child.plans])
    assert ir.to_proto(again.model).SerializeToString() == ir.to_proto(child.model).SerializeToString()


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("(k:{4n})(1:7777)", "7777 outputs"),
        ("(1:{4n})(1:{n})", "reach over 1"),
        ("(k:{4n},sausage)(1:{n})", "sausage"),
        ("(k:{4n},tanh,mirror)(1:{n})", "no linear odd part"),
        ("(kxkxkxk:{4n})(1:{n})", "kernel axes"),
        ("(k:{4n})(1:{n},relu)", "follows"),
    ],
)
def test_templates_that_do_not_suit_the_layer_say_where(convolution: Any, template: str, problem: str) -> None:
    _, model, layer = convolution
    size = max(layer.kernel)
    text = written(template, layer.out_channels, size).replace("xk", f"x{size}").replace("(k", f"({size}")
    with pytest.raises(TemplateError, match=problem):
        plan_subnet(model, layer, template=text)


def test_the_papers_expansion_is_dense_and_of_one_scale(convolution: Any) -> None:
    _, model, layer = convolution
    text = written("(k:{4n})(1:{n})", layer.out_channels, max(layer.kernel))
    for factor in plan_subnet(model, layer, template=text).apply(model).factors:
        assert factor.occupancy == 1.0
        assert 0.5 <= factor.scale_ratio <= 2.0, factor
