"""ONNX's own example of every operator: what the factors say of an output is what a permuted run gives.

All inputs become stored tensors and nothing is pinned by the outputs. Every group is permuted at random; each output
must then be the parent's, gathered along each axis as its factors say.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
import pytest

from onnxmorph._ir import ir
from onnxmorph.graph.axes import CoupledAxes, GroupTable, IndexMap, apply
from tests.graph.axes.nets import run

pytest.importorskip("onnx.backend.test.case.node")

EXAMPLES_PER_OPERATOR = 2


class Unpinned(CoupledAxes):
    """Outputs may change here: they are compared after the same change."""

    def _output(self, value: ir.Value) -> None:
        return


def examples() -> Iterator[tuple[str, onnx.ModelProto]]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    for case in cases:
        if case.model is None or not case.data_sets:
            continue
        inputs = case.data_sets[0][0]
        if not all(isinstance(array, np.ndarray) or np.isscalar(array) for array in inputs):
            continue  # sequences and optionals
        if any(np.asarray(array).dtype.kind in "OU" for array in inputs):
            continue  # text
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        del model.graph.input[:]
        for info, array in zip(case.model.graph.input, inputs, strict=False):
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), info.name))
        yield case.name, model


def follows(name: str, proto: onnx.ModelProto, seeds: int) -> bool | None:
    """Whether every permuted output is what the factors say; ``None`` where there is nothing to run or to permute."""
    model = ir.from_proto(proto)
    try:
        before = run(model, {})
    except Exception:  # the runtime does not have the operator, or not in this type
        return None
    coupled = Unpinned.of(model)
    groups = [group for group in GroupTable(coupled).all() if group.symmetric and group.size > 1 and group.stored]
    if not groups:
        return None
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        maps = {group: IndexMap(group.size, random.permutation(group.size)) for group in groups}
        child = model.clone()
        apply(child, maps)
        after = run(child, {})
        sources = {group.atom: index_map.sources for group, index_map in maps.items()}
        for value, one, two in zip(model.graph.outputs, before, after, strict=True):
            axes = coupled.axes(value)
            if axes is None:
                continue
            assert len(axes) == one.ndim, name
            expected = one
            for axis, expr in enumerate(axes):
                size = coupled.factors.size(expr)
                if size is not None:
                    assert size == one.shape[axis], name
                    expected = np.take(expected, coupled.factors.gather(expr, sources), axis=axis)
            if expected.shape != two.shape:
                return False
            if expected.dtype.kind == "f":
                if not np.allclose(expected, two, rtol=1e-3, atol=1e-4, equal_nan=True):
                    return False
            elif expected.size and (expected == two).mean() < 0.999:  # a rounding to an integer may tip over
                return False
    return True


@pytest.mark.slow  # ONNX takes many seconds to compute its own examples
def test_first_examples_of_every_operator() -> None:
    seen: Counter[str] = Counter()
    followed: Counter[str] = Counter()
    for name, proto in examples():
        op = proto.graph.node[0].op_type
        if "expanded" in name or seen[op] >= EXAMPLES_PER_OPERATOR:
            continue
        seen[op] += 1
        verdict = follows(name, proto, seeds=1)
        assert verdict is not False, name
        followed[op] += verdict is True
    assert sum(count > 0 for count in followed.values()) > 100


@pytest.mark.slow
def test_all_examples_and_their_expansions() -> None:
    wrong = [name for name, proto in examples() if follows(name, proto, seeds=2) is False]
    assert not wrong
