"""Operators of ONNX Runtime's own domain, as its optimiser and transformer tools write them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from onnxmorph.grow.call import Call
from onnxmorph.grow.ops.attention import joined, rotated, split_heads
from onnxmorph.grow.ops.convolution import conv
from onnxmorph.grow.ops.normalization import layer_norm, rms_norm
from onnxmorph.grow.ops.reading import integer, integers
from onnxmorph.grow.registry import operator

Tensor = torch.Tensor

MS = "com.microsoft"


def _activated(call: Call, x: Tensor, prefix: str = "activation") -> Tensor:
    """The activation that was fused behind an operator."""
    name = call.text(prefix, "")
    values = call.numbers(f"{prefix}_params")
    if name in ("", "Identity"):
        return x
    if name == "LeakyRelu":
        return F.leaky_relu(x, values[0] if values else call.floating(f"{prefix}_alpha", 0.01))
    if name == "Clip":
        return x.clamp(values[0], values[1])
    if name == "HardSigmoid":
        alpha, beta = values or (call.floating(f"{prefix}_alpha", 0.2), call.floating(f"{prefix}_beta", 0.5))
        return (alpha * x + beta).clamp(0, 1)
    known = {
        "Relu": torch.relu,
        "Tanh": torch.tanh,
        "Sigmoid": torch.sigmoid,
        "Softplus": F.softplus,
        "Softsign": F.softsign,
        "HardSwish": F.hardswish,
        "Gelu": F.gelu,
    }
    if name not in known:
        raise call.refuse(f"the fused activation {name!r}")
    return known[name](x)


@operator("FusedConv", domain=MS)
def fused_conv(call: Call, x: Tensor, w: Tensor, b: Tensor | None = None, z: Tensor | None = None) -> Tensor:
    """A convolution, a sum, an activation."""
    y = conv(call, x, w, b)
    return _activated(call, y if z is None else y + z)


@operator("FusedGemm", domain=MS)
def fused_gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """``alpha A' B' + beta C`` and an activation."""
    a = a.t() if call.flag("transA") else a
    b = b.t() if call.flag("transB") else b
    y = call.floating("alpha", 1.0) * (a @ b)
    return _activated(call, y if c is None else y + call.floating("beta", 1.0) * c)


@operator("FusedMatMul", "TransposeMatMul", domain=MS)
def fused_matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """A product with either operand transposed, and a factor."""

    def turned(x: Tensor, side: str) -> Tensor:
        if call.flag(f"transBatch{side}"):
            x = x.movedim(0, -2)
        return x.transpose(-1, -2) if call.flag(f"trans{side}") and x.dim() > 1 else x

    y = torch.matmul(turned(a, "A"), turned(b, "B"))
    alpha = call.floating("alpha", 1.0)
    return y if alpha == 1.0 else y * alpha


# --- activations ----------------------------------------------------------------------------------------------------


@operator("Gelu", domain=MS)
def gelu(_call: Call, x: Tensor) -> Tensor:
    """By the error function."""
    return F.gelu(x)


@operator("FastGelu", domain=MS)
def fast_gelu(_call: Call, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """By tanh, of a sum."""
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("BiasGelu", domain=MS)
def bias_gelu(_call: Call, x: Tensor, bias: Tensor) -> Tensor:
    """Of a sum."""
    return F.gelu(x + bias)


@operator("QuickGelu", domain=MS)
def quick_gelu(call: Call, x: Tensor) -> Tensor:
    """``x sigmoid(alpha x)``."""
    return x * torch.sigmoid(call.floating("alpha", 1.702) * x)


@operator("BiasSplitGelu", domain=MS)
def bias_split_gelu(_call: Call, x: Tensor, bias: Tensor) -> Tensor:
    """Half of a sum, gated by the GELU of the other half."""
    value, gate = torch.tensor_split(x + bias, 2, -1)
    return value * F.gelu(gate)


@operator("BiasAdd", domain=MS)
def bias_add(_call: Call, x: Tensor, bias: Tensor, skip: Tensor) -> Tensor:
    """A bias and a short way."""
    return x + bias + skip


# --- normalisation --------------------------------------------------------------------------------------------------


@operator("SkipLayerNormalization", domain=MS)
def skip_layer_normalization(
    call: Call,
    x: Tensor,
    skip: Tensor,
    gamma: Tensor,
    beta: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Layer normalisation of a sum, which is a further output."""
    total = x + skip if bias is None else x + skip + bias
    y, statistics = layer_norm(total, gamma, beta, total.dim() - 1, call.floating("epsilon", 1e-12))
    mean, deviation = statistics() if any(call.wanted[1:3]) else (None, None)
    return y, mean, deviation, total


@operator("SkipSimplifiedLayerNormalization", domain=MS)
def skip_simplified_layer_normalization(
    call: Call, x: Tensor, skip: Tensor, gamma: Tensor, bias: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    """Without a mean."""
    total = x + skip if bias is None else x + skip + bias
    y = rms_norm(total, gamma, total.dim() - 1, call.floating("epsilon", 1e-12))
    return y, None, None, total


@operator("SimplifiedLayerNormalization")
@operator("SimplifiedLayerNormalization", domain=MS)
def simplified_layer_normalization(call: Call, x: Tensor, scale: Tensor) -> object:
    """Without a mean; ONNX Runtime has it in the standard domain too."""
    axis = call.integer("axis", -1) % x.dim()
    y = rms_norm(x, scale, axis, call.floating("epsilon", 1e-5))
    if call.outputs == 1 or not call.wanted[1]:
        return y
    axes = list(range(axis, x.dim()))
    return y, torch.rsqrt(x.square().mean(axes, keepdim=True) + call.floating("epsilon", 1e-5))


@operator("EmbedLayerNormalization", domain=MS)
def embed_layer_normalization(
    call: Call,
    ids: Tensor,
    segments: Tensor | None,
    words: Tensor,
    positions: Tensor,
    segment_table: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    mask: Tensor | None = None,
    position_ids: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """The sum of three embeddings, normalised; how many steps count, where a mask says so."""
    total = F.embedding(ids.long(), words)
    if position_ids is None:
        total = total + positions[: ids.shape[1]]
    else:
        total = total + F.embedding(position_ids.long(), positions)
    if segment_table is not None and segments is not None:
        total = total + F.embedding(segments.long(), segment_table)
    y, _ = layer_norm(total, gamma, beta, 2, call.floating("epsilon", 1e-12))
    counts = torch.zeros(ids.shape[0], dtype=torch.int32, device=ids.device)
    return y, counts if mask is None else mask.sum(1).to(torch.int32), total


@operator("GroupNorm", domain=MS)
def group_norm(call: Call, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """With channels last by default, and SiLU behind it where asked."""
    last = call.flag("channels_last", True)
    y = F.group_norm(
        x.movedim(-1, 1) if last else x, call.integer("groups"), gamma, beta, call.floating("epsilon", 1e-5)
    )
    y = F.silu(y) if call.flag("activation") else y
    return y.movedim(1, -1) if last else y


# --- attention ------------------------------------------------------------------------------------------------------


def _weighted(
    call: Call, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *, causal: bool, scale: float | None
) -> Tensor:
    """Attention by heads; ``causal`` lets the last query see the last key."""
    if causal:
        steps, keys = q.shape[2], k.shape[2]
        rows = torch.arange(steps, device=q.device).reshape(-1, 1) + keys - steps
        hidden = torch.zeros((steps, keys), dtype=q.dtype, device=q.device)
        hidden = hidden.masked_fill(torch.arange(keys, device=q.device) > rows, _lowest(call, q.dtype))
        bias = hidden if bias is None else bias + hidden
    return F.scaled_dot_product_attention(q, k, v, bias, scale=scale or None, enable_gqa=q.shape[1] != k.shape[1])


def _lowest(call: Call, dtype: torch.dtype) -> float:
    """What hidden places get: the runtime's finite number."""
    return call.floating("mask_filter_value", torch.finfo(dtype).min if dtype == torch.float16 else -10000.0)


def _mask_bias(call: Call, mask: Tensor | None, q: Tensor, keys: int) -> Tensor | None:
    """The several forms of ``mask_index``: how many keys count, or which, per sample or per query."""
    if mask is None:
        return None
    low, batch = _lowest(call, q.dtype), q.shape[0]
    columns = torch.arange(keys, device=q.device)
    if mask.dim() == 1 and mask.shape[0] in (batch, 2 * batch):
        ends = mask[:batch].reshape(-1, 1)
        seen = columns < ends
        if mask.shape[0] == 2 * batch:
            seen &= columns >= mask[batch:].reshape(-1, 1)
        seen = seen.reshape(batch, 1, 1, keys)
    elif mask.dim() == 2:
        seen = (mask != 0).reshape(batch, 1, 1, -1)
    elif mask.dim() == 3:
        seen = (mask != 0).unsqueeze(1)
    else:
        raise call.refuse(f"a mask of shape {tuple(mask.shape)}")
    return torch.zeros(seen.shape, dtype=q.dtype, device=q.device).masked_fill(~seen, low)


@operator("Attention", domain=MS)
def attention(
    call: Call,
    x: Tensor,
    weights: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    past: Tensor | None = None,
    added: Tensor | None = None,
    past_length: Tensor | None = None,
) -> object:
    """Projections and attention in one, with the past of both K and V stacked."""
    if past_length is not None or call.flag("do_rotary"):
        raise call.refuse("a shared buffer for the past, or rotary embedding")
    heads = call.integer("num_heads")
    projected = torch.matmul(x, weights)
    projected = projected if bias is None else projected + bias
    sizes = call.attributes.get("qkv_hidden_sizes") or [weights.shape[1] // 3] * 3
    q, k, v = (split_heads(part, heads) for part in torch.split_with_sizes(projected, list(sizes), -1))
    if past is not None:
        k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
    hidden = _mask_bias(call, mask, q, k.shape[2])
    if added is not None:
        hidden = added if hidden is None else hidden + added
    y = _weighted(call, q, k, v, hidden, causal=call.flag("unidirectional"), scale=call.floating("scale", 0.0) or None)
    return joined(y) if call.outputs == 1 else (joined(y), torch.stack([k, v]))


@operator("MultiHeadAttention", domain=MS)
def multi_head_attention(
    call: Call,
    q: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    added: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
) -> object:
    """Of projections that were made before; they may come packed, or by heads already."""
    heads = call.integer("num_heads")
    if k is None and q.dim() == 5:  # (batch, steps, heads, 3, size)
        q, k, v = (part.flatten(2) for part in q.unbind(3))
    elif k is not None and v is None and k.dim() == 5:
        k, v = (part.flatten(2) for part in k.unbind(3))
    if k is None or v is None:
        raise call.refuse("this way of packing")
    if bias is not None:
        a, b = q.shape[-1], q.shape[-1] + (k.shape[-1] if k.dim() == 3 else q.shape[-1])
        q = q + bias[:a]
        k = k + bias[a:b] if k.dim() == 3 else k
        v = v + bias[b:] if v.dim() == 3 else v
    queries = split_heads(q, heads)
    keys = split_heads(k, heads) if k.dim() == 3 else k
    values = split_heads(v, heads) if v.dim() == 3 else v
    if past_key is not None and past_value is not None:
        keys, values = torch.cat([past_key, keys], 2), torch.cat([past_value, values], 2)
    hidden = _mask_bias(call, mask, queries, keys.shape[2])
    if added is not None:
        hidden = added if hidden is None else hidden + added
    y = _weighted(
        call,
        queries,
        keys,
        values,
        hidden,
        causal=call.flag("unidirectional"),
        scale=call.floating("scale", 0.0) or None,
    )
    return joined(y) if call.outputs == 1 else (joined(y), keys, values)


@operator("RotaryEmbedding", domain=MS)
def rotary_embedding(call: Call, x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Positions are one start for all, or one per step."""
    by_heads = x.dim() == 4
    size = call.integer("rotary_embedding_dim", 0)
    if by_heads:
        y = x.transpose(1, 2)
    else:
        heads = call.integer("num_heads", 0)
        each = x.shape[-1] // heads if heads else cos.shape[-1] * 2
        y = x.reshape(x.shape[0], x.shape[1], -1, each)
    steps = torch.arange(y.shape[1], device=x.device)
    where = positions.reshape(-1, 1) + steps if positions.numel() == 1 else positions
    y = rotated(y, cos[where], sin[where], interleaved=call.flag("interleaved"), size=size or 2 * cos.shape[-1])
    return y.transpose(1, 2) if by_heads else y.flatten(2)


@operator("GroupQueryAttention", domain=MS, host=(5, 6))
def group_query_attention(call: Call, *inputs: Any) -> tuple[Tensor, ...]:
    """Grouped causal attention with a cache, and rotary embedding where asked; for whole sequences without padding."""
    q, k, v, past_key, past_value, lengths, total, cos, sin, *more = (*inputs, *([None] * 9))[: max(9, len(inputs))]
    if any(value is not None for value in more):
        raise call.refuse("position ids, a bias or a sink")
    if call.floating("softcap", 0.0) or call.integer("local_window_size", -1) >= 0 or call.flag("smooth_softmax"):
        raise call.refuse("a cap, a window or a smooth softmax")
    heads, groups = call.integer("num_heads"), call.integer("kv_num_heads")
    if k is None:
        size = q.shape[-1] // (heads + 2 * groups)
        q, k, v = torch.split_with_sizes(q, [heads * size, groups * size, groups * size], -1)
    steps = q.shape[1]
    ends = integers(lengths)
    if len(set(ends)) > 1:
        raise call.refuse("samples of different lengths")
    before = ends[0] + 1 - steps
    if integer(total) != ends[0] + 1 or before < 0:
        raise call.refuse("padded sequences")
    shaped = [part.reshape(part.shape[0], steps, count, -1) for part, count in ((q, heads), (k, groups), (v, groups))]
    if call.flag("do_rotary"):
        where = torch.arange(before, before + steps, device=q.device).unsqueeze(0)
        turn = call.flag("rotary_interleaved")
        shaped[:2] = [
            rotated(part, cos[where], sin[where], interleaved=turn, size=2 * cos.shape[-1]) for part in shaped[:2]
        ]
    queries, keys, values = (part.transpose(1, 2) for part in shaped)
    if past_key is not None and past_value is not None and before:
        keys = torch.cat([past_key[:, :, :before], keys], 2)
        values = torch.cat([past_value[:, :, :before], values], 2)
    y = _causal(queries, keys, values, call.floating("scale", 0.0) or None)
    return joined(y), keys, values


def _causal(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    steps, keys = q.shape[2], k.shape[2]
    rows = torch.arange(steps, device=q.device).reshape(-1, 1) + keys - steps
    seen = torch.arange(keys, device=q.device) <= rows
    return F.scaled_dot_product_attention(q, k, v, seen, scale=scale, enable_gqa=q.shape[1] != k.shape[1])


# --- quantised: forward only ----------------------------------------------------------------------------------------


@operator("DynamicQuantizeMatMul", domain=MS, gradient=False)
def dynamic_quantize_matmul(
    call: Call, x: Tensor, w: Tensor, scale: Tensor, zero: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """The input is quantised over its range, the product is taken in whole numbers, and both scales are put back."""
    from onnxmorph.grow.ops.quantization import dynamic_quantize_linear

    quantised, x_scale, x_zero = dynamic_quantize_linear(call, x)
    y = matmul_integer_to_float(call, quantised, w, x_scale, scale, x_zero, zero)
    return y if bias is None else y + bias


@operator("MatMulIntegerToFloat", domain=MS, gradient=False)
def matmul_integer_to_float(
    _call: Call,
    a: Tensor,
    b: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    a_zero: Tensor | None = None,
    b_zero: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """A product of whole numbers, times the scales."""
    x = a.double() if a_zero is None else a.double() - a_zero.double()
    w = b.double() if b_zero is None else b.double() - b_zero.double()
    y = torch.matmul(x, w).float() * (a_scale * b_scale)
    return y if bias is None else y + bias


@operator("MatMulNBits", domain=MS, gradient=False)
def matmul_n_bits(
    call: Call,
    x: Tensor,
    packed: Tensor,
    scales: Tensor,
    zeros: Tensor | None = None,
    groups: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """A weight in blocks of four or eight bits, unpacked."""
    k, n, bits, block = (call.integer(name) for name in ("K", "N", "bits", "block_size"))
    if bits not in (4, 8) or groups is not None:
        raise call.refuse(f"weights of {bits} bits, or in another order")
    blocks = -(-k // block)

    def unpacked(data: Tensor, count: int) -> Tensor:
        flat = data.reshape(n, -1)
        if bits == 8:
            return flat[:, :count].float()
        return torch.stack([flat & 15, flat >> 4], -1).reshape(n, -1)[:, :count].float()

    numbers = unpacked(packed, blocks * block).reshape(n, blocks, block)
    if zeros is None:
        offset = torch.full((n, blocks, 1), float(1 << (bits - 1)), device=x.device)
    elif zeros.is_floating_point():
        offset = zeros.reshape(n, blocks, 1).float()
    else:
        offset = unpacked(zeros, blocks).reshape(n, blocks, 1)
    weight = ((numbers - offset) * scales.reshape(n, blocks, 1).float()).reshape(n, -1)[:, :k].to(x.dtype)
    y = torch.matmul(x, weight.t())
    return y if bias is None else y + bias


def _dequantised(x: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    return (x.double() - (0.0 if zero is None else zero.double())) * scale.double()


def _quantised(y: Tensor, scale: Tensor, zero: Tensor | None, like: Tensor) -> Tensor:
    dtype = like.dtype if zero is None else zero.dtype
    limits = torch.iinfo(dtype)
    whole = torch.round(y / scale.double()) + (0.0 if zero is None else zero.double())
    return whole.clamp(limits.min, limits.max).to(torch.int64).to(dtype)


@operator("QLinearAdd", "QLinearMul", domain=MS, gradient=False)
def qlinear_binary(
    call: Call,
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor | None,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor | None,
    y_scale: Tensor,
    y_zero: Tensor | None = None,
) -> Tensor:
    """A sum or a product of quantised tensors, quantised anew."""
    x, z = _dequantised(a, a_scale, a_zero), _dequantised(b, b_scale, b_zero)
    return _quantised(x + z if call.op == "QLinearAdd" else x * z, y_scale, y_zero, a)


@operator("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", domain=MS, gradient=False)
def qlinear_unary(
    call: Call, x: Tensor, x_scale: Tensor, x_zero: Tensor | None, y_scale: Tensor, y_zero: Tensor | None = None
) -> Tensor:
    """An activation of a quantised tensor, quantised anew."""
    value = _dequantised(x, x_scale, x_zero)
    if call.op == "QLinearSigmoid":
        y = torch.sigmoid(value)
    elif call.op == "QLinearLeakyRelu":
        y = F.leaky_relu(value, call.floating("alpha", 0.01))
    else:
        y = torch.softmax(value, call.integer("axis", -1))
    return _quantised(y, y_scale, y_zero, x)


@operator("QLinearGlobalAveragePool", domain=MS, gradient=False)
def qlinear_global_average_pool(
    call: Call, x: Tensor, x_scale: Tensor, x_zero: Tensor, y_scale: Tensor, y_zero: Tensor
) -> Tensor:
    """Over all spatial axes."""
    last = call.flag("channels_last")
    axes = list(range(1, x.dim() - 1)) if last else list(range(2, x.dim()))
    return _quantised(_dequantised(x, x_scale, x_zero).mean(axes, keepdim=True), y_scale, y_zero, x)


@operator("QLinearConcat", domain=MS, gradient=False)
def qlinear_concat(call: Call, y_scale: Tensor, y_zero: Tensor, *parts: Tensor) -> Tensor:
    """Each part with its own scale and zero point."""
    values = [_dequantised(*parts[place : place + 3]) for place in range(0, len(parts), 3)]
    return _quantised(torch.cat(values, call.integer("axis")), y_scale, y_zero, parts[0])


# --- the rest -------------------------------------------------------------------------------------------------------


@operator("Inverse", domain=MS)
def inverse(_call: Call, x: Tensor) -> Tensor:
    """Of the matrices in the last two axes."""
    y: Tensor = torch.linalg.inv(x)
    return y


@operator("Trilu", domain=MS, host=(1,))
def triangle(call: Call, x: Tensor, diagonal: Tensor | None = None) -> Tensor:
    """The upper or the lower triangle."""
    offset = 0 if diagonal is None else integer(diagonal)
    return torch.triu(x, offset) if call.flag("upper", True) else torch.tril(x, offset)


@operator("ExpandDims", domain=MS, host=(1,))
def expand_dims(_call: Call, x: Tensor, axis: Tensor) -> Tensor:
    """One more axis of size one."""
    return x.unsqueeze(integer(axis))


@operator("CDist", domain=MS)
def distances(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Between all rows of two matrices."""
    squares = (a.unsqueeze(1) - b.unsqueeze(0)).square().sum(-1)
    return squares.sqrt() if call.text("metric", "euclidean") == "euclidean" else squares


@operator("Rfft", "Irfft", domain="com.microsoft")
def real_transform(call: Call, x: Tensor) -> Tensor:
    """Fourier transform of real numbers over the last axes, complex numbers as pairs."""
    many = call.integer("signal_ndim", 1)
    if call.op == "Rfft":
        axes = list(range(-many, 0))
        y: Tensor = torch.view_as_real(torch.fft.rfftn(x, dim=axes))
        return y
    pairs = torch.view_as_complex(x.contiguous())
    back: Tensor = torch.fft.irfftn(pairs, dim=list(range(-many, 0)))
    return back
