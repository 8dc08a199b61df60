"""Kernels far below He's scale: their factors stay small too, so that no more rounding is left than one needs."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmorph.equation import mirror, solve


@pytest.mark.parametrize("scale", [1.0, 0.1, 1e-2, 1e-4])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_residual_of_a_small_kernel_is_one_rounding(scale: float, mirrored: bool) -> None:
    random = np.random.default_rng(3)
    kernel = (scale * np.sqrt(2 / 256) * random.standard_normal((96, 256))).astype(np.float32)
    result = mirror(kernel, 192, ((), ()), 1.0) if mirrored else solve(kernel, 96, ((), ()))
    assert result.exact
    assert result.residual < 1.5e-7
    assert result.amplification < (4 if scale < 0.05 else 16)
