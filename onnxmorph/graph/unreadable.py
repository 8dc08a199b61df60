"""Linear operators that are listed but which no morph touches, each with its reason."""

from __future__ import annotations

__all__ = ["BLOCKED_OPS", "weight_input"]

_INTEGER = "{op} multiplies integers; the morph equation needs a float weight"
_QUANTIZED = "{op} computes on quantised numbers; the morph equation needs a float weight"
_FUSED = "{op} is fused by ONNX Runtime's optimiser; export the model without graph optimisations"
_PACKED = "{op} holds its weight packed in blocks; morph the model before it is quantised"
_ATTENDING = "{op} feeds its result back through an attention of its own, fused"
_ATTENTION = "{op} holds its projections fused; export the model without graph optimisations"

BLOCKED_OPS: dict[tuple[str, str], tuple[str, int]] = {
    ("", "ConvInteger"): (_INTEGER, 1),
    ("", "MatMulInteger"): (_INTEGER, 1),
    ("", "QLinearConv"): (_QUANTIZED, 3),
    ("", "QLinearMatMul"): (_QUANTIZED, 3),
    ("", "DeformConv"): ("{op} moves its taps with the input; it is no convolution with a fixed kernel", 1),
    ("com.microsoft", "FusedConv"): (_FUSED, 1),
    ("com.microsoft", "FusedGemm"): (_FUSED, 1),
    ("com.microsoft", "FusedMatMul"): (_FUSED, 1),
    ("com.microsoft", "TransposeMatMul"): (_FUSED, 1),
    ("com.microsoft", "FusedMatMulActivation"): (_FUSED, 1),
    ("com.microsoft", "GemmFastGelu"): (_FUSED, 1),
    ("com.microsoft", "NhwcConv"): (_FUSED, 1),
    ("com.microsoft", "NhwcFusedConv"): (_FUSED, 1),
    ("com.microsoft.nchwc", "Conv"): (_FUSED, 1),
    ("com.microsoft", "ConvTransposeWithDynamicPads"): (_FUSED, 1),
    ("com.microsoft", "SparseToDenseMatMul"): (_FUSED, 1),
    ("com.microsoft", "QLinearConv"): (_QUANTIZED, 3),
    ("com.microsoft", "QGemm"): (_QUANTIZED, 3),
    ("com.microsoft", "QMoE"): (_PACKED, 2),
    ("com.microsoft", "MoE"): ("{op} routes each row to other experts; its weights are no single linear layer", 2),
    ("com.microsoft", "MatMulIntegerToFloat"): (_INTEGER, 1),
    ("com.microsoft", "MatMulInteger16"): (_INTEGER, 1),
    ("com.microsoft", "DynamicQuantizeMatMul"): (_QUANTIZED, 1),
    ("com.microsoft", "DynamicQuantizeLSTM"): (_QUANTIZED, 1),
    ("com.microsoft", "AttnLSTM"): (_ATTENDING, 1),
    ("com.microsoft", "MatMulNBits"): (_PACKED, 1),
    ("com.microsoft", "MatMulBnb4"): (_PACKED, 1),
    ("com.microsoft", "MatMulFpQ4"): (_PACKED, 1),
    ("com.microsoft", "Attention"): (_ATTENTION, 1),
    ("com.microsoft", "QAttention"): (_ATTENTION, 1),
    ("com.microsoft", "QOrderedAttention"): (_ATTENTION, 1),
    ("com.microsoft", "QOrderedMatMul"): (_QUANTIZED, 2),
    ("com.microsoft", "LongformerAttention"): (_ATTENTION, 1),
    ("com.microsoft", "DecoderAttention"): (_ATTENTION, 2),
    ("com.microsoft", "PackedAttention"): (_ATTENTION, 1),
}
"""``(domain, operator)`` to the reason and the position of the weight among the inputs."""


def weight_input(domain: str, op: str) -> tuple[str, int] | None:
    """The reason this operator's layers are refused and where its weight is, or ``None`` for any other operator."""
    found = BLOCKED_OPS.get(("" if domain == "ai.onnx" else domain, op))
    return None if found is None else (found[0].format(op=op), found[1])
