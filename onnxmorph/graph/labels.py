"""A readable stem for the names of new nodes and weights.

Exporters name things after modules in one place and after counters in another. The best name available is taken, in
this order:

1. the weight's, less its ending: `features.3.weight` gives `features.3`;
2. the bias's, likewise: exporters fold or transpose the weight under a new name more often than the bias;
3. the node's path less its operator: `/layer1/layer1.0/conv1/Conv` gives `layer1.0.conv1`;
4. the node's name, the output's name, the operator.

A name that a counter made (`onnx::Conv_123`, `/Constant_5_output_0`, `val_7`) is passed over as long as a better one
may follow.
"""

from __future__ import annotations

import re

__all__ = ["article", "generic", "label"]

_MODULE_ENDING = re.compile(r"(?i)[._/](?:weights?|kernel|bias(?:es)?)(?::\d+)?$")
_FRAMEWORK_ENDING = re.compile(r"(?i)(?:[._/](?:w_0|b_0|w|b|readvariableop|read|tensor))+(?::\d+)?$")
_COUNTERS = (
    re.compile(r"(?i)^.*onnx::.*$"),
    re.compile(r"(?i)^(?:.*[/_.])?constant(?:_\d+)?(?:_output_\d+)?$"),
    re.compile(r"(?i)^[a-z]?_*\d*$"),
    re.compile(
        r"(?i)^(?:val|value|tensor|tmp|const|const_fold_opt|initializer|param|weight|bias|node|arg|slice|getitem|"
        r"transpose|reshape|unsqueeze|squeeze|cast|identity|shape|permute|view|t)?s?(?:_+\d+)*$"
    ),
)
_OPERATOR = re.compile(
    r"(?:Fused|Quant)?(?:ConvTranspose|Conv|Gemm|MatMul|Add|BiasAdd|Sub|Einsum|LSTM|GRU|RNN|Conv\dD|Tensordot|"
    r"convolution|ExpandDims|Reshape|Transpose|Squeeze|Unsqueeze|Cast)"
    r"(?:Integer|NBits)?(?:_quant)?(?:_*\d+)*(?:_output_\d+|:\d+)?$"
)
_SEPARATORS = re.compile(r"[/\\]+|:{2,}")
_UNWELCOME = re.compile(r"[^A-Za-z0-9_.\-]+")


def generic(name: str) -> bool:
    """Whether a name says nothing of the layer: a counter made it."""
    return any(pattern.match(name) for pattern in _COUNTERS)


def _path(name: str) -> str:
    """Components joined by dots; a component that repeats the one before (`layer1/layer1.0`) takes its place."""
    parts: list[str] = []
    name = name.split(";", maxsplit=1)[0]  # tf2onnx joins the names of what it has merged
    for part in filter(None, _SEPARATORS.split(name)):
        if parts and part.startswith(parts[-1] + "."):
            parts[-1] = part
        elif not parts or part != parts[-1]:
            parts.append(part)
    return _UNWELCOME.sub("_", ".".join(parts)).strip("._-")


def _without_operator(name: str) -> str:
    parts = [part for part in _SEPARATORS.split(name) if part]
    while parts and _OPERATOR.fullmatch(parts[-1]):
        parts.pop()
    return _path("/".join(parts))


def _of_tensor(name: str | None) -> str | None:
    if not name or generic(name):
        return None
    ended = _MODULE_ENDING.search(name)
    if ended:
        return _path(name[: ended.start()]) or None  # what stands before `.weight` is a module, even if it is a number
    stem = _without_operator(_FRAMEWORK_ENDING.sub("", name))
    return None if generic(stem) else stem


def label(weight: str | None, bias: str | None, node: str | None, output: str | None, op: str) -> str:
    """The stem for one layer; never empty, not necessarily unique.

    Args:
        weight: Name of the stored tensor; ``None`` where it should not count (used by another layer too).
        bias: The bias's, likewise.
        node: Name of the linear node, may be empty.
        output: Name of the layer's output.
        op: The operator.
    """
    for tensor in (weight, bias):
        stem = _of_tensor(tensor)
        if stem:
            return stem
    if node and "/" in node:
        stem = _without_operator(node)
        if stem:
            return stem
    for name in (node, output):
        if name and not generic(name) and _path(name):
            return _path(name)
    return _path(node or output or "") or op.lower()


def article(op: str) -> str:
    """An operator with its article as it is spoken: a Gemm, an Einsum, an LSTM, a GRU."""
    return f"{'an' if op[:1] in ('AEFHILMNORSX' if op.isupper() else 'AEIO') else 'a'} {op}"
