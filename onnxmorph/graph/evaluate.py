"""One ONNX node on known arrays, with numpy, exactly as the operator's specification says.

Only what exporters put between a stored tensor and the layer that uses it: layout, type changes, (de)quantisation, per
element arithmetic and the small reductions of normalised weights. A form is told by attributes and inputs present
(``axes`` as attribute or as input, and so on), so one reading serves every opset from 7 on. Anything not stated here is
not evaluated: `Unevaluable` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from onnxmorph._ir import ir

__all__ = ["LARGEST_RESULT", "Unevaluable", "evaluate", "supported"]

Array = np.ndarray[Any, Any]
Evaluator = Callable[["ir.Node", Sequence[Array | None]], list[Array]]

LARGEST_RESULT = 1 << 30
"""Bytes; a computed constant larger than this is treated as not known (`Expand` of one number can name any size)."""

_MALFORMED = (
    ArithmeticError,
    AttributeError,
    IndexError,
    KeyError,
    MemoryError,
    TypeError,
    ValueError,
)
_EVALUATORS: dict[str, Evaluator] = {}
_DOMAINS = {"": None, "ai.onnx": None, "com.microsoft": frozenset(("DequantizeLinear", "QuantizeLinear"))}


class Unevaluable(Exception):
    """This node's result cannot be worked out before a run; the message says why."""


def supported(node: ir.Node) -> bool:
    """Whether `evaluate` knows the node's operator."""
    if node.op_type not in _EVALUATORS or node.domain not in _DOMAINS:
        return False
    allowed = _DOMAINS[node.domain]
    if allowed is not None and node.op_type not in allowed:
        return False
    # An attribute that refers to a function's own attribute has no value before the call.
    return not any(attribute.is_ref() for attribute in node.attributes.values())


def evaluate(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    """The node's outputs for known inputs (``None`` for an input left out).

    Raises:
        Unevaluable: The operator or this form of it is not known, or the result would exceed `LARGEST_RESULT` bytes.
    """
    if not supported(node):
        raise Unevaluable(f"{node.op_type} is not evaluated before a run")
    try:
        with np.errstate(all="ignore"):
            results = _EVALUATORS[node.op_type](node, inputs)
    except _MALFORMED as error:
        raise Unevaluable(f"{node.op_type} has malformed constant inputs ({error})") from error
    return [np.asarray(result) for result in results]


def _op(*names: str) -> Callable[[Evaluator], Evaluator]:
    def register(function: Evaluator) -> Evaluator:
        for name in names:
            _EVALUATORS[name] = function
        return function

    return register


def _attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


def _required(array: Array | None) -> Array:
    if array is None:
        raise Unevaluable("a required input is left out")
    return array


def _optional(inputs: Sequence[Array | None], position: int) -> Array | None:
    return inputs[position] if len(inputs) > position else None


def _integers(node: ir.Node, inputs: Sequence[Array | None], name: str, position: int) -> list[int] | None:
    """A list of numbers given as attribute (older opsets) or as input (newer ones)."""
    given = _attribute(node, name)
    if given is not None:
        return [int(number) for number in given]
    array = _optional(inputs, position)
    return None if array is None else [int(number) for number in np.atleast_1d(array)]


def _bounded(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    if any(size < 0 for size in shape):
        raise Unevaluable("a size is negative")
    bytes_needed = itemsize
    for size in shape:
        bytes_needed *= int(size)
    if bytes_needed > LARGEST_RESULT:
        raise Unevaluable(f"the result would take {bytes_needed} bytes")
    return tuple(int(size) for size in shape)


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < max(rank, 1):
        raise Unevaluable(f"axis {axis} does not exist in rank {rank}")
    return axis % rank if rank else 0


# Layout


@_op("Identity")
def _identity(_node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    return [_required(inputs[0])]


@_op("Transpose")
def _transpose(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    return [np.transpose(_required(inputs[0]), _attribute(node, "perm"))]


@_op("Reshape")
def _reshape(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    data = _required(inputs[0])
    target = _integers(node, inputs, "shape", 1)
    if target is None:
        raise Unevaluable("the target shape is missing")
    if not _attribute(node, "allowzero", 0):
        target = [data.shape[position] if size == 0 else size for position, size in enumerate(target)]
    return [data.reshape(target)]


@_op("Flatten")
def _flatten(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    data = _required(inputs[0])
    axis = int(_attribute(node, "axis", 1))
    axis = axis + data.ndim if axis < 0 else axis
    if not 0 <= axis <= data.ndim:
        raise Unevaluable(f"axis {axis} does not exist in rank {data.ndim}")
    leading = int(np.prod(data.shape[:axis], dtype=np.int64))
    return [data.reshape(leading, int(np.prod(data.shape[axis:], dtype=np.int64)))]


@_op("Squeeze")
def _squeeze(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    data = _required(inputs[0])
    axes = _integers(node, inputs, "axes", 1)
    return [np.squeeze(data) if axes is None else np.squeeze(data, axis=tuple(axes))]


@_op("Unsqueeze")
def _unsqueeze(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    axes = _integers(node, inputs, "axes", 1)
    if axes is None:
        raise Unevaluable("the axes are missing")
    return [np.expand_dims(_required(inputs[0]), tuple(axes))]


@_op("Concat")
def _concat(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    parts = [_required(part) for part in inputs]
    _bounded([sum(part.size for part in parts)], parts[0].itemsize)
    return [np.concatenate(parts, axis=_attribute(node, "axis"))]


@_op("Split")
def _split(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    data = _required(inputs[0])
    axis = _axis(int(_attribute(node, "axis", 0)), data.ndim)
    sizes = _integers(node, inputs, "split", 1)
    count = len(node.outputs)
    if sizes is None:
        chunk = -(-data.shape[axis] // count)
        if "num_outputs" not in node.attributes and data.shape[axis] % count:
            raise Unevaluable("an uneven split needs its sizes")
        sizes = [chunk] * (count - 1) + [data.shape[axis] - chunk * (count - 1)]
    if sum(sizes) != data.shape[axis] or len(sizes) != count or min(sizes) < 0:
        raise Unevaluable("the split sizes do not add up")
    return list(np.split(data, np.cumsum(sizes)[:-1].tolist(), axis=axis))


@_op("Slice")
def _slice(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    data = _required(inputs[0])
    starts, ends = _integers(node, inputs, "starts", 1), _integers(node, inputs, "ends", 2)
    if starts is None or ends is None:
        raise Unevaluable("starts or ends are missing")
    axes = _integers(node, inputs, "axes", 3) or list(range(len(starts)))
    steps = _integers(node, inputs, "steps", 4) or [1] * len(starts)
    picks = [slice(None)] * data.ndim
    for start, end, named, step in zip(starts, ends, axes, steps, strict=True):
        axis = _axis(named, data.ndim)
        size = data.shape[axis]
        first = start + size if start < 0 else start
        last = end + size if end < 0 else end
        if step > 0:
            picks[axis] = slice(min(max(first, 0), size), min(max(last, 0), size), step)
        elif step < 0:
            last = min(max(last, -1), size - 1)
            picks[axis] = slice(min(max(first, 0), size - 1), None if last < 0 else last, step)
        else:
            raise Unevaluable("a slice step is 0")
    return [data[tuple(picks)]]


@_op("Gather")
def _gather(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    data, indices = _required(inputs[0]), _required(inputs[1])
    axis = _axis(int(_attribute(node, "axis", 0)), data.ndim)
    _bounded([*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]], data.itemsize)
    if indices.size and not (-data.shape[axis] <= indices.min() and indices.max() < data.shape[axis]):
        raise Unevaluable("an index is out of range")
    return [np.take(data, indices.astype(np.int64), axis=axis)]


@_op("Expand")
def _expand(_node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    data = _required(inputs[0])
    shape = np.broadcast_shapes(data.shape, tuple(int(size) for size in _required(inputs[1])))
    return [np.broadcast_to(data, _bounded(shape, data.itemsize))]


@_op("Tile")
def _tile(_node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    data, repeats = _required(inputs[0]), [int(count) for count in _required(inputs[1])]
    if len(repeats) != data.ndim:
        raise Unevaluable("repeats do not match the rank")
    _bounded([size * count for size, count in zip(data.shape, repeats, strict=True)], data.itemsize)
    return [np.tile(data, repeats)]


@_op("Pad")
def _pad(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    data = _required(inputs[0])
    if _attribute(node, "mode", "constant") not in ("constant", b"constant"):
        raise Unevaluable("only constant padding is evaluated")
    pads = _integers(node, inputs, "pads", 1)
    filler = _optional(inputs, 2)
    fill = _attribute(node, "value", 0.0) if filler is None else np.reshape(filler, ())
    axes = _integers(node, inputs, "axes", 3)
    axes = list(range(data.ndim)) if axes is None else [_axis(axis, data.ndim) for axis in axes]
    if pads is None or len(pads) != 2 * len(axes):
        raise Unevaluable("the pads do not match the rank")
    if min(pads, default=0) < 0:
        raise Unevaluable("negative padding is not evaluated")
    widths = [(0, 0)] * data.ndim
    for position, axis in enumerate(axes):
        widths[axis] = (pads[position], pads[position + len(axes)])
    _bounded([size + sum(width) for size, width in zip(data.shape, widths, strict=True)], data.itemsize)
    return [np.pad(data, widths, constant_values=np.asarray(fill).astype(data.dtype))]


@_op("Shape")
def _shape(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    shape = _required(inputs[0]).shape
    return [np.asarray(shape[_attribute(node, "start", 0) : _attribute(node, "end")], dtype=np.int64)]


@_op("Size")
def _size(_node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    return [np.asarray(_required(inputs[0]).size, dtype=np.int64)]


@_op("ConstantOfShape")
def _constant_of_shape(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    tensor = _attribute(node, "value")
    fill = np.zeros((), np.float32) if tensor is None else np.reshape(tensor.numpy(), ())
    shape = _bounded([int(size) for size in _required(inputs[0])], fill.itemsize)
    return [np.broadcast_to(fill, shape)]


@_op("Range")
def _range(_node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    start, limit, step = (np.reshape(_required(number), ()) for number in inputs)
    count = max(int(np.ceil((limit - start) / step)), 0) if step else 0
    if not step:
        raise Unevaluable("the step is 0")
    _bounded([count], start.itemsize)
    return [(start + step * np.arange(count, dtype=start.dtype)).astype(start.dtype)]


# Types


_UNCASTABLE = frozenset(("STRING", "UNDEFINED", "INT4", "UINT4", "INT2", "UINT2", "FLOAT4E2M1", "FLOAT8E8M0"))


def cast(data: Array, to: ir.DataType, saturate: bool = True) -> Array:
    """`data` as ONNX's Cast gives it; float8 saturates to its largest finite number unless told otherwise.

    Raises:
        Unevaluable: 4-bit types and strings, and floats outside the integer type (undefined in ONNX).
    """
    if to.name in _UNCASTABLE or data.dtype.kind in "OSU":
        raise Unevaluable(f"a cast to {to.name} is not evaluated")
    dtype = np.dtype(to.numpy())
    if data.dtype == dtype:
        return data
    if dtype == np.bool_:
        return np.asarray(data != np.zeros((), data.dtype))
    if data.dtype.kind == "c" or dtype.kind == "c":
        raise Unevaluable("complex numbers are not cast")
    source_is_float = np.issubdtype(data.dtype, np.floating) or _is_extended_float(data.dtype)
    if dtype.kind in "iu" and source_is_float:
        bounds = np.iinfo(dtype)
        wide = data.astype(np.float64)
        if not np.all((wide > float(bounds.min) - 1) & (wide < float(bounds.max) + 1)):
            raise Unevaluable(f"a number does not fit {to.name}")
        return wide.astype(dtype)
    if to.name.startswith("FLOAT8"):
        wide = data.astype(np.float32)
        if saturate:
            largest = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
            wide = np.where(np.isnan(wide), wide, np.clip(wide, -largest, largest))
        return wide.astype(dtype)
    converted: Array = data.astype(dtype)
    return converted


def _is_extended_float(dtype: np.dtype[Any]) -> bool:
    try:
        ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    except (ValueError, TypeError):
        return False
    return True


def _data_type(number: int) -> ir.DataType:
    return ir.DataType(number)


@_op("Cast")
def _cast(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    saturate = bool(_attribute(node, "saturate", 1))
    return [cast(_required(inputs[0]), _data_type(_attribute(node, "to")), saturate)]


@_op("CastLike")
def _cast_like(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    # Only the type of the second input counts; it is seldom a constant.
    target = node.inputs[1]
    dtype = target.dtype if target is not None else None
    like = _optional(inputs, 1)
    if like is not None:
        dtype = ir.DataType.from_numpy(like.dtype)
    if dtype is None:
        raise Unevaluable("the type to cast to is not known")
    return [cast(_required(inputs[0]), dtype, bool(_attribute(node, "saturate", 1)))]


def _along(parameter: Array, data: Array, node: ir.Node) -> Array:
    """A quantisation scale or zero point spread over the data: per tensor, per axis, or per block of an axis."""
    if parameter.size == 1 and parameter.ndim <= 1:
        return parameter.reshape(())
    axis = _axis(int(_attribute(node, "axis", 1)), data.ndim)
    block = int(_attribute(node, "block_size", 0))
    if block:
        if parameter.ndim != data.ndim or -(-data.shape[axis] // block) != parameter.shape[axis]:
            raise Unevaluable("the blocks do not match the data")
        spread = np.repeat(parameter, block, axis=axis)
        return spread[(slice(None),) * axis + (slice(0, data.shape[axis]),)]
    if parameter.ndim != 1 or parameter.shape[0] != data.shape[axis]:
        raise Unevaluable("the scale does not match its axis")
    return parameter.reshape([-1 if position == axis else 1 for position in range(data.ndim)])


@_op("DequantizeLinear")
def _dequantize(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    data, scale, zero_point = _required(inputs[0]), _required(inputs[1]), _optional(inputs, 2)
    result_type = scale.dtype
    if _attribute(node, "output_dtype", 0):
        result_type = np.dtype(_data_type(_attribute(node, "output_dtype")).numpy())
    _bounded(data.shape, 8)
    if _is_extended_float(data.dtype):
        steps = data.astype(np.float32)
        if zero_point is not None:
            steps = steps - _along(zero_point, data, node).astype(np.float32)
    else:
        # Differences of 32-bit numbers need more than 32 bits.
        wide: type[np.signedinteger[Any]] = np.int64 if data.dtype.itemsize >= 4 else np.int32
        whole = data.astype(wide)
        if zero_point is not None:
            whole = whole - _along(zero_point, data, node).astype(wide)
        steps = whole.astype(np.float32)
    return [(steps * _along(scale, data, node).astype(np.float32)).astype(result_type)]


@_op("QuantizeLinear")
def _quantize(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    data, scale, zero_point = _required(inputs[0]), _required(inputs[1]), _optional(inputs, 2)
    if _attribute(node, "precision", 0):
        raise Unevaluable("a quantisation of stated precision is not evaluated")
    to = int(_attribute(node, "output_dtype", 0))
    if zero_point is not None:
        result_type = zero_point.dtype
    else:
        result_type = np.dtype(_data_type(to).numpy()) if to else np.dtype(np.uint8)
    ratio = data.astype(np.float32) / _along(scale, data, node).astype(np.float32)
    if _is_extended_float(result_type):
        return [cast(ratio, ir.DataType.from_numpy(result_type), bool(_attribute(node, "saturate", 1)))]
    bounds = ml_dtypes.iinfo(result_type)  # type: ignore[no-untyped-call]
    shift = np.float64(0) if zero_point is None else _along(zero_point, data, node).astype(np.float64)
    steps = np.rint(ratio).astype(np.float64) + shift
    if np.isnan(steps).any():
        raise Unevaluable("NaN cannot be quantised")
    return [np.clip(steps, float(bounds.min), float(bounds.max)).astype(np.int64).astype(result_type)]


# Arithmetic


def _same_type(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    if "broadcast" in node.attributes or "axis" in node.attributes:
        raise Unevaluable("the broadcasting of opsets before 7 is not evaluated")
    arrays = [_required(array) for array in inputs]
    if any(array.dtype != arrays[0].dtype for array in arrays):
        raise Unevaluable("operand types differ")
    _bounded(np.broadcast_shapes(*(array.shape for array in arrays)), arrays[0].itemsize)
    return arrays


def _binary(function: Callable[[Array, Array], Array]) -> Evaluator:
    def run(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
        left, right = _same_type(node, inputs)
        return [np.asarray(function(left, right)).astype(left.dtype, copy=False)]

    return run


def _divide(left: Array, right: Array) -> Array:
    if left.dtype.kind not in "iu":
        return np.asarray(left / right)
    if np.any(right == 0):
        raise Unevaluable("an integer is divided by 0")
    # ONNX integers divide toward zero, numpy's toward minus infinity.
    quotient = np.abs(left) // np.abs(right)
    return np.asarray(np.where((left < 0) != (right < 0), -quotient, quotient))


_EVALUATORS["Add"] = _binary(np.add)
_EVALUATORS["Sub"] = _binary(np.subtract)
_EVALUATORS["Mul"] = _binary(np.multiply)
_EVALUATORS["Div"] = _binary(_divide)


@_op("Pow")
def _pow(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    base, exponent = _required(inputs[0]), _required(inputs[1])
    if "broadcast" in node.attributes or not np.issubdtype(base.dtype, np.floating):
        raise Unevaluable("only powers of floats are evaluated")
    _bounded(np.broadcast_shapes(base.shape, exponent.shape), 8)
    return [np.power(base.astype(np.float64), exponent.astype(np.float64)).astype(base.dtype)]


def _unary(function: Callable[[Array], Array], floats_only: bool = True) -> Evaluator:
    def run(_node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
        data = _required(inputs[0])
        if floats_only and data.dtype.kind in "iub":
            raise Unevaluable("only floats are evaluated")
        return [np.asarray(function(data)).astype(data.dtype, copy=False)]

    return run


_EVALUATORS["Neg"] = _unary(np.negative, floats_only=False)
_EVALUATORS["Abs"] = _unary(np.abs, floats_only=False)
_EVALUATORS["Sqrt"] = _unary(np.sqrt)
_EVALUATORS["Reciprocal"] = _unary(lambda data: np.asarray(np.ones((), data.dtype) / data))
_EVALUATORS["Exp"] = _unary(np.exp)
_EVALUATORS["Floor"] = _unary(np.floor)
_EVALUATORS["Ceil"] = _unary(np.ceil)
_EVALUATORS["Round"] = _unary(np.rint)
_EVALUATORS["Sign"] = _unary(np.sign, floats_only=False)
_EVALUATORS["Tanh"] = _unary(lambda data: np.asarray(np.tanh(data.astype(np.float64))))
_EVALUATORS["Sigmoid"] = _unary(lambda data: np.asarray(0.5 + 0.5 * np.tanh(0.5 * data.astype(np.float64))))


def _variadic(function: Callable[[Array, Array], Array]) -> Evaluator:
    def run(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
        first, *others = _same_type(node, inputs)
        for other in others:
            first = np.asarray(function(first, other))
        return [first]

    return run


_EVALUATORS["Min"] = _variadic(np.minimum)
_EVALUATORS["Max"] = _variadic(np.maximum)


_EVALUATORS["BitwiseAnd"] = _binary(np.bitwise_and)
_EVALUATORS["BitwiseOr"] = _binary(np.bitwise_or)
_EVALUATORS["BitwiseXor"] = _binary(np.bitwise_xor)


@_op("BitShift")
def _bit_shift(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    data, by = _same_type(node, inputs)
    direction = _attribute(node, "direction")
    if data.dtype.kind != "u" or direction not in ("LEFT", "RIGHT", b"LEFT", b"RIGHT"):
        raise Unevaluable("only unsigned integers are shifted")
    shift = np.left_shift if direction in ("LEFT", b"LEFT") else np.right_shift
    return [shift(data, by).astype(data.dtype, copy=False)]


@_op("Clip")
def _clip(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    data = _required(inputs[0])
    for name, position, function in (("min", 1, np.maximum), ("max", 2, np.minimum)):
        given, bound = _attribute(node, name), _optional(inputs, position)
        if given is not None or bound is not None:
            data = function(data, np.asarray(given if bound is None else bound, dtype=data.dtype).reshape(()))
    return [data]


@_op("MatMul")
def _matmul(_node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    left, right = _required(inputs[0]), _required(inputs[1])
    if left.dtype != right.dtype or left.dtype.kind == "b" or not (left.ndim and right.ndim):
        raise Unevaluable("operand types or ranks do not fit a product")
    rows, columns = left.shape[-2:-1], right.shape[-1:] if right.ndim > 1 else ()
    _bounded((*np.broadcast_shapes(left.shape[:-2], right.shape[:-2]), *rows, *columns), 8)
    if left.dtype.kind in "iu":
        return [np.matmul(left, right)]
    return [np.asarray(np.matmul(left.astype(np.float64), right.astype(np.float64))).astype(left.dtype)]


def _comparison(function: Callable[[Array, Array], Array]) -> Evaluator:
    def run(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
        left, right = _same_type(node, inputs)
        return [np.asarray(function(left, right))]

    return run


_EVALUATORS["Equal"] = _comparison(np.equal)
_EVALUATORS["Less"] = _comparison(np.less)
_EVALUATORS["LessOrEqual"] = _comparison(np.less_equal)
_EVALUATORS["Greater"] = _comparison(np.greater)
_EVALUATORS["GreaterOrEqual"] = _comparison(np.greater_equal)
_EVALUATORS["And"] = _comparison(np.logical_and)
_EVALUATORS["Or"] = _comparison(np.logical_or)


@_op("Not")
def _not(_node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    return [np.logical_not(_required(inputs[0]))]


@_op("Where")
def _where(_node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    condition, left, right = (_required(array) for array in inputs)
    _bounded(np.broadcast_shapes(condition.shape, left.shape, right.shape), left.itemsize)
    return [np.where(condition, left, right).astype(left.dtype, copy=False)]


def _reduction(function: Callable[..., Array], integers: bool = False) -> Evaluator:
    """Sums of weight normalisation, accumulated in float64 and rounded once; products and sums of sizes."""

    def run(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
        data = _required(inputs[0])
        whole = data.dtype.kind in "iu"
        if data.dtype.kind == "b" or (whole and not integers):
            raise Unevaluable("only floats are reduced")
        axes = _integers(node, inputs, "axes", 1)
        if not axes:
            if _attribute(node, "noop_with_empty_axes", 0):
                raise Unevaluable("a reduction over no axis is not evaluated")
            axes = list(range(data.ndim))
        wide = data if whole else data.astype(np.float64)
        result = function(wide, axis=tuple(axes), keepdims=bool(_attribute(node, "keepdims", 1)))
        return [np.asarray(result).astype(data.dtype)]

    return run


def _sum_of_squares(data: Array, **options: Any) -> Array:
    return np.asarray(np.sum(data * data, **options))


def _euclidean_norm(data: Array, **options: Any) -> Array:
    return np.asarray(np.sqrt(_sum_of_squares(data, **options)))


_EVALUATORS["ReduceSum"] = _reduction(np.sum, integers=True)
_EVALUATORS["ReduceProd"] = _reduction(np.prod, integers=True)
_EVALUATORS["ReduceMean"] = _reduction(np.mean)
_EVALUATORS["ReduceL2"] = _reduction(_euclidean_norm)
_EVALUATORS["ReduceSumSquare"] = _reduction(_sum_of_squares)
_EVALUATORS["ReduceMax"] = _reduction(np.max, integers=True)
