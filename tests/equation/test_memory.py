"""The promise of ``bytes_needed`` against what is really taken."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.linalg  # noqa: F401  (imported beforehand: imports are not the solver's memory)

from onnxmorph.equation import solve, solve_sequence
from onnxmorph.equation.solve import Method
from tests.equation.oracle import he_kernel


@pytest.mark.parametrize(
    ("shape", "kernels", "width", "groups", "method"),
    [
        ((64, 64, 3, 3), ((3, 3), (1, 1)), 256, 1, "auto"),
        ((128, 128, 3, 3), ((3, 3), (3, 3)), 144, 1, "auto"),
        ((96, 200, 3, 3), ((1, 1), (3, 3)), 220, 1, "auto"),
        ((1000, 1, 3, 3), ((3, 3), (3, 3)), 3000, 1000, "auto"),
        ((1300, 600), ((), ()), 1300, 1, "auto"),
        ((600, 1300), ((), ()), 600, 1, "auto"),
        ((300, 300), ((), ()), 350, 1, "auto"),
        ((64, 64, 3, 3), ((3, 3), (1, 1)), 32, 1, "structured"),
        ((16, 16, 3, 3), ((3, 3), (3, 3)), 48, 1, "alternating"),
    ],
)
def test_no_more_memory_is_taken_than_was_promised(shape, kernels, width: int, groups: int, method: Method) -> None:
    kernel = he_kernel(np.random.default_rng(0), shape)
    solve(kernel[:1] if groups > 1 else kernel[:8], 8, kernels, method=method)
    tracemalloc.start()
    found = solve(kernel, width, kernels, groups, method=method)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= found.bytes_needed
    assert found.bytes_needed < 12 * peak + (64 << 20)  # a promise, not an excuse


def test_a_large_layer_is_never_copied_to_float64_as_a_whole() -> None:
    kernel = he_kernel(np.random.default_rng(0), (1300, 4000))
    tracemalloc.start()
    found = solve(kernel, 1300, ((), ()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    factors = sum(factor.nbytes for factor in found.factors)
    assert found.exact
    assert peak - factors < 8 * kernel.size * 3.5


def test_a_sequence_keeps_its_promise() -> None:
    kernel = he_kernel(np.random.default_rng(0), (64, 64, 3, 3))
    tracemalloc.start()
    found = solve_sequence(kernel, [128, 80], [(3, 3), (3, 3), (1, 1)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= found.bytes_needed
