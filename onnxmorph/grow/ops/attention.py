"""Attention and what goes with it, as the standard has them since opset 23."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from onnxmorph._ir import ir
from onnxmorph.grow.call import Call
from onnxmorph.grow.registry import operator
from onnxmorph.grow.types import torch_type

__all__ = ["joined", "rotated", "split_heads"]

Tensor = torch.Tensor


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``(batch, steps, heads * size)`` to ``(batch, heads, steps, size)``."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """The inverse of `split_heads`."""
    return x.transpose(1, 2).flatten(2)


@operator("Attention", host=(6,))
def attention(
    call: Call,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    filled: Tensor | None = None,
) -> object:
    """``softmax(Q K' scale + mask) V`` by heads, grouped where there are fewer of K and V, with a cache where given."""
    by_steps = q.dim() == 3
    if by_steps:
        q = split_heads(q, call.integer("q_num_heads"))
        k, v = split_heads(k, call.integer("kv_num_heads")), split_heads(v, call.integer("kv_num_heads"))
    offset: int | Tensor = 0
    if past_key is not None and past_value is not None:
        offset = past_key.shape[2]
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    elif filled is not None:
        filled = filled.to(q.device).reshape(-1)
        offset = filled - q.shape[2]
    bias = _bias(call, q, k, mask, offset, filled)
    wants_scores = call.outputs > 3 and call.wanted[3]
    softcap = call.floating("softcap", 0.0)
    scale = call.attributes.get("scale")
    if not wants_scores and not softcap and "softmax_precision" not in call.attributes and filled is None:
        y = F.scaled_dot_product_attention(q, k, v, bias, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
        if bias is not None:  # a row that may see nothing gives zeros
            y = torch.where(torch.isneginf(bias).all(-1, keepdim=True), torch.zeros_like(y), y)
        scores = None
    else:
        y, scores = _step_by_step(call, q, k, v, bias, scale, softcap)
    y = joined(y) if by_steps else y
    return y if call.outputs == 1 else (y, k, v, scores)


def _bias(
    call: Call, q: Tensor, k: Tensor, mask: Tensor | None, offset: int | Tensor, filled: Tensor | None
) -> Tensor | None:
    """What is added to the scores: 0 where a step may be seen, minus infinity where not, a number where asked."""
    steps, keys = q.shape[2], k.shape[2]
    bias = None
    if mask is not None:
        missing = keys - mask.shape[-1]
        if mask.dtype == torch.bool:
            bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, -math.inf)
        else:
            bias = mask.to(q.dtype)
        if missing > 0:
            bias = F.pad(bias, (0, missing), value=-math.inf)
    left, right = call.integer("left_window_size", -1), call.integer("right_window_size", -1)
    causal = call.flag("is_causal")
    if causal or left >= 0 or right >= 0:
        rows = torch.arange(steps, device=q.device).reshape(-1, 1)
        columns = torch.arange(keys, device=q.device)
        shifted = rows + (offset.reshape(-1, 1, 1, 1) if isinstance(offset, Tensor) else offset)
        seen = torch.ones_like(columns <= shifted)
        if causal:
            seen &= columns <= shifted
        if left >= 0:
            seen &= shifted - columns <= left
        if right >= 0:
            seen &= columns - shifted <= right
        hidden = torch.zeros(seen.shape, dtype=q.dtype, device=q.device).masked_fill(~seen, -math.inf)
        bias = hidden if bias is None else bias + hidden
    if filled is not None:
        beyond = torch.arange(keys, device=q.device) >= filled.reshape(-1, 1, 1, 1)
        hidden = torch.zeros(beyond.shape, dtype=q.dtype, device=q.device).masked_fill(beyond, -math.inf)
        bias = hidden if bias is None else bias + hidden
    return bias


def _softmax(scores: Tensor) -> Tensor:
    """Rows of minus infinity give zeros."""
    nothing = torch.isneginf(scores).all(-1, keepdim=True)
    return torch.softmax(scores.masked_fill(nothing, 0.0), -1).masked_fill(nothing, 0.0)


def _step_by_step(
    call: Call, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None, softcap: float
) -> tuple[Tensor, Tensor]:
    if q.shape[1] != k.shape[1]:
        each = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(each, 1), v.repeat_interleave(each, 1)
    root = math.sqrt(1.0 / math.sqrt(q.shape[-1]) if scale is None else scale)
    scores = torch.matmul(q * root, (k * root).transpose(-1, -2))
    mode = call.integer("qk_matmul_output_mode", 0)
    told = scores
    # The cap comes before the bias, so that minus infinity stays what it is.
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    told = scores if mode == 1 else told
    scores = scores if bias is None else scores + bias
    told = scores if mode == 2 else told
    precision = call.attributes.get("softmax_precision")
    wide = scores if not precision else scores.to(torch_type(ir.DataType(precision)))
    weights = _softmax(wide).to(q.dtype)
    if bias is not None:
        weights = weights.masked_fill(torch.isneginf(bias).all(-1, keepdim=True), 0.0)
    told = weights if mode == 3 else told
    return torch.matmul(weights, v), told


def rotated(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool, size: int) -> Tensor:
    """Rotary position embedding (Su et al., 2021) of ``(batch, steps, heads, head size)``.

    Args:
        cos, sin: ``(batch or 1, steps, size / 2)``.
        interleaved: Pairs are neighbours rather than halves.
        size: How much of a head is rotated; the rest stays.
    """
    turned, rest = x[..., :size], x[..., size:]
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    if interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = torch.tensor_split(turned, 2, -1)
    real, imaginary = cos * first - sin * second, sin * first + cos * second
    if interleaved:
        turned = torch.stack([real, imaginary], -1).flatten(-2)
    else:
        turned = torch.cat([real, imaginary], -1)
    return torch.cat([turned, rest], -1)


@operator("RotaryEmbedding")
def rotary_embedding(call: Call, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None) -> Tensor:
    """By heads or by steps; tables are looked up where positions are given."""
    by_heads = x.dim() == 4
    y = x.transpose(1, 2) if by_heads else x.reshape(x.shape[0], x.shape[1], call.integer("num_heads"), -1)
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    size = call.integer("rotary_embedding_dim", 0) or y.shape[-1]
    y = rotated(y, cos, sin, interleaved=call.flag("interleaved"), size=size)
    return y.transpose(1, 2) if by_heads else y.flatten(2)
