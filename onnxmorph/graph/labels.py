"""A readable stem for the names of new nodes and weights.

Exporters name things after modules in one place and after counters in another. The best name available is taken:
the weight's (`features.3.weight` gives `features.3`), unless a counter made it; then the node's path without its
operator (`/layer1/layer1.0/conv1/Conv` gives `layer1.0.conv1`), unless it is nothing but the operator; then the
output's name.
"""

from __future__ import annotations

import re

__all__ = ["generic", "label"]

_WEIGHT_ENDINGS = re.compile(r"(?i)(?:[._/](?:weights?|kernel|w|w_0|readvariableop|tensor))+(?::\d+)?$")
_COUNTERS = re.compile(
    r"""(?ix)
    ^ (?: .*onnx::.*                                 # onnx::Conv_123
        | .*(?:^|[/_.])constant(?:_\d+)?(?:_output_\d+)?   # /Constant_5_output_0
        | [a-z]{0,2}_?\d+                            # 123, v12, W3
        | (?:val|value|tensor|tmp|const|const_fold_opt_|const_fold_opt__|initializer|param|weight|x|w|b|t|node|arg|slice|getitem)s?_*\d*
        | (?:conv|convtranspose|gemm|matmul|add|linear|dense|conv2d|conv1d|conv3d|fc)?_?tensor_?\d*
    ) $"""
)
_OPERATOR_TAIL = re.compile(
    r"(?i)^(?:conv|convtranspose|conv\dd|gemm|matmul|add|biasadd|sub|fusedconv|fusedgemm)(?:_?\d+)?(?:_output_\d+)?$"
)
_COMPONENTS = re.compile(r"[/\\:;]+")
_UNWELCOME = re.compile(r"[^A-Za-z0-9_.\-]+")


def generic(name: str) -> bool:
    """Whether a name says nothing of the layer: a counter's, or an exporter's own."""
    return not name or _COUNTERS.match(name) is not None


def _clean(text: str) -> str:
    return _UNWELCOME.sub("_", text).strip("._-")


def _path(name: str) -> str:
    """Components joined by dots; a component that repeats the one before (`layer1/layer1.0`) takes its place."""
    parts: list[str] = []
    for part in filter(None, _COMPONENTS.split(name)):
        if parts and part.startswith(parts[-1] + "."):
            parts[-1] = part
        else:
            parts.append(part)
    return _clean(".".join(parts))


def label(weight_name: str | None, node_name: str | None, output_name: str | None, op: str) -> str:
    """The stem for one layer; never empty, not necessarily unique.

    Args:
        weight_name: Name of the stored tensor, ``None`` where it should not count (shared with another layer).
        node_name: Name of the linear node, may be empty.
        output_name: Name of the layer's output.
        op: Operator, the last resort.
    """
    if weight_name:
        stem = _WEIGHT_ENDINGS.sub("", weight_name)
        last = _COMPONENTS.split(stem)[-1]
        if not generic(weight_name) and not generic(stem) and not generic(last) and _path(stem):
            return _without_operator(_path(stem)) or _path(stem)
    if node_name and ("/" in node_name or "." in node_name):
        stem = _without_operator(_path(node_name))
        if stem and not generic(stem):
            return stem
    for name in (node_name, output_name):
        if name and not generic(name) and _path(name) and not _OPERATOR_TAIL.match(name.strip("/")):
            return _path(name)
    return _path(output_name or node_name or "") or op.lower()


def _without_operator(path: str) -> str:
    parts = path.split(".")
    while parts and _OPERATOR_TAIL.match(parts[-1]) and len(parts) > 1 and not _is_module(parts[-1]):
        parts.pop()
    return ".".join(parts)


def _is_module(part: str) -> bool:
    # `conv1` names a module of torch's, `Conv` and `Conv_1` an operator.
    return re.match(r"^[a-z]+\d*$", part) is not None
