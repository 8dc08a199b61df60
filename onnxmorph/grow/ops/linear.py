"""Matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from onnxmorph.grow.call import Call
from onnxmorph.grow.registry import operator

Tensor = torch.Tensor


@operator("MatMul")
def matmul(_call: Call, a: Tensor, b: Tensor) -> Tensor:
    """As numpy's; whole numbers too."""
    if a.dtype in (torch.uint32, torch.uint64):
        return torch.matmul(a.to(torch.int64), b.to(torch.int64)).to(a.dtype)
    return torch.matmul(a, b)


@operator("Gemm")
def gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """``alpha A' B' + beta C``."""
    alpha, beta = call.floating("alpha", 1.0), call.floating("beta", 1.0)
    a = a.t() if call.flag("transA") else a
    transposed = call.flag("transB")
    if alpha == 1.0 and (c is None or (beta == 1.0 and c.dim() == 1 and c.shape[0] == b.shape[0 if transposed else 1])):
        return F.linear(a, b if transposed else b.t(), c)
    y = a @ (b.t() if transposed else b)
    if alpha != 1.0:
        y = (y * alpha).to(y.dtype)
    if c is None or beta == 0.0:
        return y
    return y + (c if beta == 1.0 else (c * beta).to(c.dtype))


@operator("Einsum")
def einsum(call: Call, *inputs: Tensor) -> Tensor:
    """Einstein's summation, as numpy writes it."""
    y: Tensor = torch.einsum(call.text("equation").replace(" ", ""), *inputs)
    return y


@operator("Det")
def determinant(_call: Call, x: Tensor) -> Tensor:
    """Of the matrices in the last two axes."""
    y: Tensor = torch.linalg.det(x)
    return y


@operator("MatMulInteger", gradient=False)
def matmul_integer(
    _call: Call, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    """``(A - a_zero)(B - b_zero)`` in 32 bits."""
    x, w = a.to(torch.int32), b.to(torch.int32)
    if a_zero is not None:
        zero = a_zero.to(torch.int32)
        x = x - (zero.reshape(-1, 1) if zero.dim() == 1 and zero.numel() > 1 else zero)
    if b_zero is not None:
        w = w - b_zero.to(torch.int32)
    # Doubles hold every sum of products of eight bits, and are far faster than integers.
    return torch.matmul(x.double(), w.double()).to(torch.int32)
