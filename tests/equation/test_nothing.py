"""A kernel of zeros becomes random factors and one of zeros: the composition is zero to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmorph.equation import compose, mirror, solve, solve_sequence

KERNELS = [((8, 6, 3, 3), 1, ((3, 3), (3, 3))), ((8, 3, 3), 2, ((3,), (1,))), ((5, 7), 1, ((), ()))]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize(("shape", "groups", "kernels"), KERNELS)
@pytest.mark.parametrize("how", ["solve", "mirror", "sequence", "mirrored sequence"])
def test_zero_is_exact_and_only_the_last_factor_is_zero(
    how: str, shape: tuple[int, ...], groups: int, kernels: tuple[tuple[int, ...], ...], dtype: type
) -> None:
    kernel = np.zeros(shape, dtype)
    if how == "solve":
        found = solve(kernel, 16, kernels, groups)
    elif how == "mirror":
        found = mirror(kernel, 16, kernels, 1.25, groups)
    else:
        slopes = [None, None] if how == "sequence" else [1.25, None]
        found = solve_sequence(kernel, [16, 12], [*kernels, kernels[1]], groups, slopes=slopes)
    assert found.exact and found.residual == 0
    assert all(factor.dtype == dtype for factor in found.factors)
    assert not np.any(found.factors[-1])
    assert all(share > 0.99 for share in found.occupancy[:-1])
    assert all(0.5 < ratio < 2 for ratio in found.scale_ratio[:-1])
    assert not np.any(compose(found.factors, groups))
