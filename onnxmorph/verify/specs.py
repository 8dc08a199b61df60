"""What a model asks of its caller: every input with its type, its dimensions and what it is for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from onnxmorph._ir import ir
from onnxmorph.errors import RuntimeFailure, SelectionError
from onnxmorph.verify.dimensions import size
from onnxmorph.verify.feeds import Assignment
from onnxmorph.verify.roles import InputRole, trace_role

__all__ = ["InputSpec", "did_you_mean", "input_spec"]


@dataclass
class InputSpec:
    """One input a caller must give: type, dimensions (a number, a symbol or an expression of symbols) and role."""

    name: str
    dtype: ir.DataType
    dims: tuple[int | str, ...]
    role: InputRole
    container: str = "tensor"

    def is_float(self) -> bool:
        """Whether it carries floating-point numbers."""
        return self.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)

    def kind(self) -> str:
        """In one word what its values are: ids, mask, length, shape, choice, image, signal, text, number."""
        if self.dtype == ir.DataType.STRING:
            return "text"
        if self.is_float():
            return "mask" if "mask" in self.name.lower() else "signal"
        if self.role.tables:
            return "ids"
        if "mask" in self.name.lower():
            return "mask"
        if self.role.shape:
            return "shape"
        if self.dtype == ir.DataType.BOOL:
            return "mask"
        if self.dtype == ir.DataType.UINT8:
            return "image"
        if self.role.compared and (not self.dims or self.dims == (1,)):
            return "choice"
        if self.role.length:
            return "length"
        return "mask" if self.role.mask or self.role.weighs else "number"

    def shape(self, sizes: Assignment) -> tuple[int, ...]:
        """Sizes of its dimensions."""
        return tuple(size(dim, sizes) for dim in self.dims)

    def chooses(self) -> bool:
        """Whether this is one number that picks a branch."""
        return not self.is_float() and self.dims in ((), (1,)) and self.kind() in ("choice", "mask")

    def choices(self) -> list[float]:
        """Numbers to try where its value picks a branch: each it is compared with, then one that none of them is."""
        known = self.role.compared
        if self.dtype == ir.DataType.BOOL or not known:
            return [1.0, 0.0]
        return sorted({*known, *(value + 1 for value in known)}, key=lambda value: value not in known)

    def is_picture(self) -> bool:
        """Whether this is a batch of images in floating-point numbers."""
        return self.kind() == "signal" and len(self.dims) == 4 and any(self.dims[axis] in (1, 3, 4) for axis in (1, 3))


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """``"; did you mean 'x'?"`` or the list of what there is."""
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there is {', '.join(repr(item) for item in known[:8])}" if known else ""


def input_spec(model: ir.Model, value: ir.Value, shape: Sequence[int] | None) -> InputSpec:
    """Reads one graph input.

    Args:
        shape: Its full shape, as a person typed it.

    Raises:
        SelectionError: ``shape`` contradicts the declared one.
        RuntimeFailure: Inputs of this type cannot be made up here.
    """
    role = trace_role(model, value)
    container, kind = "tensor", value.type
    if isinstance(kind, ir.SequenceType):
        container, kind = "sequence", kind.elem_type
    elif isinstance(kind, ir.OptionalType):
        kind = kind.elem_type
    dtype = value.dtype if kind is None or not hasattr(kind, "dtype") else kind.dtype
    if not isinstance(kind, ir.TensorType) or dtype in (None, ir.DataType.UNDEFINED):
        raise RuntimeFailure(
            f"not verifiable here: input {value.name!r} has a type no inputs can be made up for ({value.type})"
        )
    assert dtype is not None
    dims = _declared_dims(value, role)
    if shape is not None:
        asked = tuple(int(size) for size in shape)
        if value.shape is not None and (
            len(asked) != len(dims)
            or any(isinstance(dim, int) and dim != size for dim, size in zip(dims, asked, strict=True))
        ):
            raise SelectionError(
                f"--shape {value.name}: {list(asked)} does not fit the declared shape {[str(dim) for dim in dims]}"
            )
        dims = asked
    return InputSpec(str(value.name), dtype, dims, role, container)


def _declared_dims(value: ir.Value, role: InputRole) -> tuple[int | str, ...]:
    if value.shape is None:
        rank = role.rank if role.rank is not None else 2
        dims: list[int | str] = [f"{value.name}.{axis}" for axis in range(rank)]
    else:
        dims = []
        for axis, dim in enumerate(value.shape):
            if isinstance(dim, int):
                dims.append(dim)
            else:
                name = str(dim.value or "").strip()
                dims.append(name if name and name != "?" else f"{value.name}.{axis}")
    for axis, channels in role.channels:
        if -len(dims) <= axis < len(dims) and isinstance(dims[axis], str):
            dims[axis] = channels
    # A dimension of 0 or below stands for "unknown" with some exporters.
    return tuple(dim if isinstance(dim, str) or dim >= 0 else f"{value.name}.{axis}" for axis, dim in enumerate(dims))
