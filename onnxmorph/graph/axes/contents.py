"""What small integer tensors hold, as expressions over axis sizes: Shape, Gather, Concat, Mul chains.

A Reshape target or an attention scale may be computed from shapes. Every element of such a tensor is a `Number`: a
stored constant, the size of an axis, or an operation on other numbers. Evaluated with the child's sizes it says what
the chain will give in the child, so that only what comes out wrong needs to be rewritten.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmorph._ir import ir
from onnxmorph.graph.axes.factors import Expr

__all__ = ["LARGEST_CONTENT", "UNKNOWN", "Content", "Number", "SizeOf", "evaluate_node"]

Scalar = int | float | bool
Content = Any
"""An object array of `Number` (numpy does not type those)."""
SizeOf = Callable[[Expr], int | None]

LARGEST_CONTENT = 256
"""Elements; larger tensors are data, not shapes."""


class Number:
    """One element: a constant, the size of an axis, or a function of other numbers."""

    __slots__ = ("_arguments", "_axis", "_function", "_value", "depends")

    def __init__(
        self,
        value: Scalar | None = None,
        *,
        axis: Expr | None = None,
        function: Callable[..., Scalar | None] | None = None,
        arguments: tuple[Number, ...] = (),
    ) -> None:
        self._value = value
        self._axis = axis
        self._function = function
        self._arguments = arguments
        self.depends: bool = axis is not None or any(argument.depends for argument in arguments)
        """Whether an axis size enters."""

    @property
    def axis(self) -> Expr | None:
        """The axis whose size this is, when it is nothing else."""
        return self._axis

    def axes(self) -> Iterator[Expr]:
        """Every axis whose size enters."""
        seen: set[int] = set()
        waiting = [self]
        while waiting:
            number = waiting.pop()
            if id(number) in seen:
                continue
            seen.add(id(number))
            if number._axis is not None:
                yield number._axis
            waiting.extend(argument for argument in number._arguments if argument.depends)

    def value(self, size: SizeOf, memo: dict[int, Scalar | None] | None = None) -> Scalar | None:
        """The number under given axis sizes, ``None`` when one that matters is unknown."""
        if self._axis is not None:
            return size(self._axis)
        if self._function is None:
            return self._value
        memo = {} if memo is None else memo
        stack = [self]
        while stack:  # no recursion: chains come from files and may be long
            number = stack[-1]
            if id(number) in memo:
                stack.pop()
                continue
            if number._axis is not None or number._function is None:
                memo[id(number)] = size(number._axis) if number._axis is not None else number._value
                stack.pop()
                continue
            missing = [argument for argument in number._arguments if id(argument) not in memo]
            if missing:
                stack.extend(missing)
                continue
            memo[id(number)] = _call(number._function, [memo[id(argument)] for argument in number._arguments])
            stack.pop()
        return memo[id(self)]


UNKNOWN = Number()


def _call(function: Callable[..., Scalar | None], values: list[Scalar | None]) -> Scalar | None:
    try:
        return function(*values)
    except (ArithmeticError, ValueError, TypeError):
        return None


def _apply(function: Callable[..., Scalar | None], *arguments: Number) -> Number:
    if not any(argument.depends for argument in arguments):
        return Number(_call(function, [argument._value for argument in arguments]))
    return Number(function=function, arguments=arguments)


def constant_content(array: NDArray[Any]) -> Content:
    """The content of a stored tensor."""
    out = np.empty(array.shape, dtype=object)
    for index in np.ndindex(array.shape):
        out[index] = Number(array[index].item())
    return out


def _strict(function: Callable[..., Scalar]) -> Callable[..., Scalar | None]:
    def run(*values: Scalar | None) -> Scalar | None:
        return None if any(value is None for value in values) else function(*values)

    return run


def _divide(a: Scalar, b: Scalar) -> Scalar:
    if isinstance(a, float) or isinstance(b, float):
        return a / b
    quotient = abs(a) // abs(b)  # integer division truncates toward zero in ONNX
    return quotient if (a < 0) == (b < 0) else -quotient


def _equal(a: Scalar | None, b: Scalar | None) -> Scalar | None:
    # A size of unknown value is never negative, which decides the exporters' "is this dim -1" test.
    if a is None or b is None:
        known = a if b is None else b
        return False if known is not None and known < 0 else None
    return a == b


def _where(condition: Scalar | None, one: Scalar | None, two: Scalar | None) -> Scalar | None:
    if condition is None:
        return one if one == two else None
    return one if condition else two


_BINARY: dict[str, Callable[..., Scalar | None]] = {
    "Add": _strict(lambda a, b: a + b),
    "Sub": _strict(lambda a, b: a - b),
    "Mul": _strict(lambda a, b: a * b),
    "Div": _strict(_divide),
    "Mod": _strict(lambda a, b: a % b),
    "Pow": _strict(lambda a, b: a**b),
    "Min": _strict(min),
    "Max": _strict(max),
    "Equal": _equal,
    "Less": _strict(lambda a, b: a < b),
    "Greater": _strict(lambda a, b: a > b),
    "LessOrEqual": _strict(lambda a, b: a <= b),
    "GreaterOrEqual": _strict(lambda a, b: a >= b),
    "And": _strict(lambda a, b: bool(a and b)),
    "Or": _strict(lambda a, b: bool(a or b)),
    "Xor": _strict(lambda a, b: bool(a) != bool(b)),
}

_UNARY: dict[str, Callable[..., Scalar | None]] = {
    "Neg": _strict(lambda a: -a),
    "Abs": _strict(abs),
    "Floor": _strict(lambda a: float(math.floor(a))),
    "Ceil": _strict(lambda a: float(math.ceil(a))),
    "Round": _strict(lambda a: float(round(a))),
    "Sqrt": _strict(math.sqrt),
    "Reciprocal": _strict(lambda a: 1.0 / a),
    "Log": _strict(math.log),
    "Exp": _strict(math.exp),
    "Sign": _strict(lambda a: (a > 0) - (a < 0)),
    "Not": _strict(lambda a: not a),
}

_REDUCTIONS: dict[str, Callable[..., Scalar | None]] = {
    "ReduceProd": _strict(lambda *values: math.prod(values)),
    "ReduceSum": _strict(lambda *values: sum(values)),
    "ReduceMax": _strict(max),
    "ReduceMin": _strict(min),
}


def _integers(content: Content | None) -> list[int] | None:
    if content is None:
        return None
    values = [number._value for number in content.reshape(-1)]
    if any(value is None or number.depends for value, number in zip(values, content.reshape(-1), strict=True)):
        return None
    return [int(value) for value in values if value is not None]


def _cast_to(dtype: ir.DataType) -> Callable[..., Scalar | None]:
    if dtype == ir.DataType.BOOL:
        return _strict(bool)
    return _strict(int) if dtype.is_integer() else _strict(float)


class _Reader:
    """Attributes and constant inputs of one node, as the functions below need them."""

    def __init__(self, node: ir.Node, inputs: Sequence[Content | None]) -> None:
        self.node = node
        self.inputs = inputs

    def attribute(self, name: str, default: Any = None) -> Any:
        attribute = self.node.attributes.get(name)
        return default if attribute is None or attribute.is_ref() else attribute.value

    def integers(self, name: str, position: int) -> list[int] | None:
        attribute = self.attribute(name)
        if attribute is not None:
            return [int(value) for value in attribute]
        return _integers(self.inputs[position]) if position < len(self.inputs) else None


def evaluate_node(node: ir.Node, inputs: Sequence[Content | None]) -> list[Content] | None:
    """The contents of a node's outputs from those of its inputs; ``None`` for an operator not followed.

    Shape and Size are not among them: they need the axes, not the content, of their input.
    """
    data = inputs[0] if inputs else None
    if data is None:
        return None
    op = node.op_type
    read = _Reader(node, inputs)
    try:
        if op in _BINARY:
            return _fold(_BINARY[op], inputs)
        if op in _UNARY:
            return [_each(_UNARY[op], data)]
        if op in _REDUCTIONS:
            return _reduce(_REDUCTIONS[op], read)
        if op == "Where":
            return _fold(_where, inputs, at_once=True)
        if op == "Identity":
            return [data]
        if op == "Cast":
            return [_each(_cast_to(ir.DataType(read.attribute("to"))), data)]
        out = _layout(op, read, data)
    except (ValueError, IndexError, TypeError):
        return None
    if out is None or any(content.size > LARGEST_CONTENT for content in out):
        return None
    return out


def _each(function: Callable[..., Scalar | None], data: Content) -> Content:
    out = np.empty(data.shape, dtype=object)
    for index in np.ndindex(data.shape):
        out[index] = _apply(function, data[index])
    return out


def _fold(
    function: Callable[..., Scalar | None], inputs: Sequence[Content | None], at_once: bool = False
) -> list[Content] | None:
    known = [content for content in inputs if content is not None]
    if len(known) != len(inputs):
        return None
    spread: list[Content] = list(np.broadcast_arrays(*known))
    if spread[0].size > LARGEST_CONTENT:
        return None
    out: Content = np.empty(spread[0].shape, dtype=object)
    for index in np.ndindex(out.shape):
        numbers = [content[index] for content in spread]
        if at_once:
            out[index] = _apply(function, *numbers)
            continue
        result = numbers[0]
        for number in numbers[1:]:
            result = _apply(function, result, number)
        out[index] = result
    return [out]


def _reduce(function: Callable[..., Scalar | None], read: _Reader) -> list[Content] | None:
    data = read.inputs[0]
    if data is None or data.ndim > 1 or data.size == 0:
        return None
    keep = bool(read.attribute("keepdims", 1)) and data.ndim == 1
    out = np.empty((1,) if keep else (), dtype=object)
    out[...] = _apply(function, *data.reshape(-1))
    return [out]


def _layout(op: str, read: _Reader, data: Content) -> list[Content] | None:
    if op in {"Reshape", "Flatten"}:
        return _reshape(op, read, data)
    if op == "Unsqueeze":
        axes = read.integers("axes", 1)
        return None if axes is None else [np.expand_dims(data, tuple(axes))]
    if op == "Squeeze":
        axes = read.integers("axes", 1)
        return [np.squeeze(data, None if axes is None else tuple(axes))]
    if op == "Transpose":
        return [np.transpose(data, read.attribute("perm"))]
    if op == "Concat":
        return [np.concatenate([part for part in read.inputs if part is not None], axis=int(read.attribute("axis")))]
    if op == "Gather":
        indices = _integers(read.inputs[1])
        if indices is None or read.inputs[1] is None:
            return None
        taken = np.array(indices, dtype=np.int64).reshape(read.inputs[1].shape)
        return [np.asarray(np.take(data, taken, axis=int(read.attribute("axis", 0))), dtype=object)]
    if op == "Slice":
        return _slice(read, data)
    if op == "Split":
        sizes = read.integers("split", 1)
        count = len(read.node.outputs)
        axis = int(read.attribute("axis", 0))
        if sizes is None:
            length = -(-data.shape[axis] // count)
            return np.split(data, [length * part for part in range(1, count)], axis=axis)
        return np.split(data, np.cumsum(sizes)[:-1].tolist(), axis=axis)
    return _filled(op, read, data)


def _filled(op: str, read: _Reader, data: Content) -> list[Content] | None:
    if op in {"Expand", "ConstantOfShape"}:
        shape = _integers(data if op == "ConstantOfShape" else read.inputs[1])
        if shape is None or math.prod(shape) > LARGEST_CONTENT:
            return None
        if op == "Expand":
            return [np.broadcast_to(data, np.broadcast_shapes(data.shape, tuple(shape)))]
        fill = read.attribute("value")
        out = np.empty(tuple(shape), dtype=object)
        out.fill(Number(0.0 if fill is None else fill.numpy().reshape(-1)[0].item()))
        return [out]
    if op == "Range":
        bounds = [_integers(part) for part in read.inputs]
        if any(bound is None for bound in bounds):
            return None
        values = range(*(bound[0] for bound in bounds if bound is not None))
        return None if len(values) > LARGEST_CONTENT else [constant_content(np.array(values, dtype=np.int64))]
    return None


def _reshape(op: str, read: _Reader, data: Content) -> list[Content] | None:
    target = read.integers("shape", 1) if op == "Reshape" else [-1]
    if op == "Flatten" or target is None or 0 in target:
        return None
    return [data.reshape(target)]


def _slice(read: _Reader, data: Content) -> list[Content] | None:
    starts, ends = read.integers("starts", 1), read.integers("ends", 2)
    if starts is None or ends is None:
        return None
    axes = read.integers("axes", 3) or list(range(len(starts)))
    steps = read.integers("steps", 4) or [1] * len(starts)
    index: list[slice] = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, end, step)
    return [data[tuple(index)]]
