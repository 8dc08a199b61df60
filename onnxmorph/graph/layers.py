"""Conv, ConvTranspose, Gemm, MatMul and Einsum (+Add) as one: a linear layer with a kernel `(out, in/groups, *kernel)`.

LSTM, GRU and RNN are listed with them: no equation of linear layers is about them, but their width can change.
A layer is listed whether or not a morph can touch it; `LinearLayer.blocked` says why not. What stands between the
stored tensor and the operator (Constant nodes, Transpose, Cast, DequantizeLinear ...) is `ConstantSource`'s business,
how the stored weight relates to the kernel is `WeightForm`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.errors import Refusal
from onnxmorph.graph.affine import Affine, Place, Step, follow
from onnxmorph.graph.constants import ConstantSource, non_finite
from onnxmorph.graph.equations import Equation
from onnxmorph.graph.kernels import WeightForm
from onnxmorph.graph.padding import Pads
from onnxmorph.graph.recurrent import Cell
from onnxmorph.graph.shapes import Shapes

if TYPE_CHECKING:
    from onnxmorph.graph.activations import Activation

__all__ = ["ONLY_WIDTH", "LinearLayer", "layers"]

Array = np.ndarray[Any, Any]

ONLY_WIDTH = "only-width"
"""Code of the refusal that blocks a layer for every morph but those of its width."""


@dataclass(frozen=True)
class Following:
    """What follows a layer, up to and with its activation."""

    steps: tuple[Step, ...] = ()
    activation: Activation | None = None


@dataclass(frozen=True, eq=False, repr=False)
class LinearLayer:
    """One linear layer of a model.

    Attributes:
        index: Position in `layers`, from 0: the ``#N`` of `inspect`.
        key: Scope path, ``::``, name of the output: stays the same when other layers are edited.
        name: The node's name, or the output's where the node has none. Not necessarily unique.
        label: Readable stem for new names.
        op: The operator: ``'Conv'``, ``'ConvTranspose'``, ``'Gemm'``, ``'MatMul'``, ``'Einsum'``, or a blocked one.
        node: The linear node.
        nodes: With the Add or Sub that carries the bias, in order.
        graph: Where it lives.
        scope: Scope path, ``''`` in the main graph.
        input: What the kernel is applied to.
        output: After the bias.
        in_channels: Over all groups; 0 where unknown (only in a blocked layer).
        out_channels: The same.
        kernel: Taps per kernel axis, ``()`` for Gemm and MatMul.
        groups: Channel groups.
        strides: Per kernel axis.
        dilations: Per kernel axis.
        pads: Explicit where they can be; ``None`` for Gemm and MatMul.
        dtype: Element type of the weight as the layer uses it.
        weight: Where the weight comes from.
        bias: Where the bias comes from, ``None`` without one.
        shared_with: Keys of other layers that use the same stored weight.
        blocked: Why no morph can touch it, ``None`` when it can.
        form: How the stored weight relates to the kernel.
        input_axis: Axis of `input` that carries the input channels: 1 for Conv; Gemm 1, or 0 with transA; MatMul -1, or
            -2 where the weight stands on the left; of an Einsum, from the end, the last of them.
        output_axis: Axis of `output` that carries the output channels; of an Einsum, from the end, the last of them.
        bias_scale: What the stored bias is multiplied with: Gemm's beta, -1 for a Sub.
        repeated: Lives in the body of a Loop or Scan.
        cell: Sizes of an LSTM, GRU or RNN, whose `out_channels` are the units of one direction; they lie on the last
            axis of `output`, the first of its outputs that the node gives. ``None`` for any other layer.
    """

    index: int
    key: str
    name: str
    label: str
    op: str
    node: ir.Node
    nodes: tuple[ir.Node, ...]
    graph: ir.Graph | ir.Function
    scope: str
    input: ir.Value
    output: ir.Value
    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    groups: int
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: Pads | None
    dtype: ir.DataType
    weight: ConstantSource
    bias: ConstantSource | None
    shared_with: tuple[str, ...]
    blocked: Refusal | None
    form: WeightForm
    input_axis: int
    output_axis: int
    bias_scale: float
    repeated: bool
    shapes: Shapes
    cell: Cell | None = None

    def __repr__(self) -> str:
        taps = "x".join(map(str, self.kernel))
        return (
            f"#{self.index} {self.name} ({self.op} {self.in_channels}->{self.out_channels}{' ' + taps if taps else ''})"
        )

    @property
    def equation(self) -> Equation | None:
        """Of an Einsum, what its labels mean."""
        return self.form.equation

    @property
    def several_axes(self) -> bool:
        """Whether its channels, in or out, lie on several axes: an Einsum such as ``btd,dhk->bthk``."""
        return self.equation is not None and not self.equation.plain

    @property
    def fixed_width(self) -> Refusal | None:
        """Why not even the width can change: `blocked`, unless that only says that nothing but the width can."""
        return None if self.blocked is not None and self.blocked.code == ONLY_WIDTH else self.blocked

    @cached_property
    def weight_not_finite(self) -> Refusal | None:
        """Why nothing can be computed from the weight, where it holds NaN or infinities; reads all of it, once."""
        if self.blocked is not None or not non_finite(self.weight.array()):
            return None
        return Refusal(
            f"the weight '{self.weight.value.name}' of '{self.name}' holds NaN or infinity", code="weight-not-finite"
        )

    def kernel_array(self) -> Array:
        """The kernel ``(out, in/groups, *kernel)`` in the weight's dtype; read-only, a view where that is enough.

        Gemm's alpha is folded in; a ConvTranspose is flipped to the convolution over its zero-stuffed input.

        Raises:
            Refusal: The layer is blocked, or its weight holds NaN or infinities (code ``weight-not-finite``).
        """
        if self.blocked is not None:
            raise self.blocked
        weight = self.weight.array()
        if (refusal := self.weight_not_finite) is not None:
            raise refusal
        kernel = self.form.kernel(weight).view()
        kernel.flags.writeable = False
        return kernel

    def weight_from_kernel(self, kernel: Array) -> Array:
        """The weight in the form this layer's operator stores it, for a kernel ``(out, in/groups, *kernel)``.

        The inverse of `kernel_array` up to the rounding of Gemm's alpha; sizes may differ from the present ones.
        """
        return self.form.weight(kernel)

    def bias_array(self) -> Array | None:
        """The bias ``(out,)`` in the layer's dtype with beta folded in, ``None`` without one.

        Raises:
            Refusal: The layer is blocked, or the bias holds NaN or infinities (code ``bias-not-finite``).
        """
        if self.blocked is not None:
            raise self.blocked
        if self.bias is None:
            return None
        stored = self.bias.array()
        if non_finite(stored):
            raise Refusal(
                f"the bias '{self.bias.value.name}' of '{self.name}' holds NaN or infinity", code="bias-not-finite"
            )
        flat = stored.reshape(-1)
        if self.bias_scale != 1.0:
            flat = (flat.astype(np.float64) * self.bias_scale).astype(stored.dtype)
        return np.broadcast_to(flat, (self.out_channels,))

    @cached_property
    def _following(self) -> Following:
        if self.out_channels == 0 or self.cell is not None:
            return Following()
        start = Place(self.output, self.output_axis, self.shapes.rank(self.output), self.out_channels)
        steps: list[Step] = []
        activation = _sole(self.output, self._recognised(self.output))
        if activation is None and not self.several_axes:
            for step in follow(start, self.shapes, self.dtype):
                steps.append(step)
                activation = _sole(step.place.value, self._recognised(step.place.value))
                if activation is not None:
                    break
        return Following(tuple(steps), activation)

    def _recognised(self, value: ir.Value) -> Activation | None:
        from onnxmorph.graph.activations import recognise

        return recognise(value, shape=self.shapes.shape(value), ir_version=self.shapes.ir_version)

    @property
    def batch_norm(self) -> ir.Node | None:
        """A BatchNormalization node that alone consumes the output (through layout); other spellings: `affine`."""
        for step in self._following.steps:
            if step.scale is not None:
                return step.node if step.node.op_type == "BatchNormalization" else None
        return None

    @cached_property
    def affine(self) -> Affine | None:
        """The affine map per channel between the output and the activation, a batch normalisation in any spelling."""
        steps = self._following.steps
        scale, shift = np.ones(self.out_channels), np.zeros(self.out_channels)
        counted = 0
        for position, step in enumerate(steps):
            if step.scale is not None and step.shift is not None:
                scale, shift = scale * step.scale, shift * step.scale + step.shift
                counted = position + 1
        if not counted:
            return None
        return Affine(
            tuple(step.node for step in steps[:counted] if step.scale is not None),
            scale,
            shift,
            self.output,
            steps[counted - 1].place.value,
            tuple(step.node for step in steps[:counted] if step.scale is None),
        )

    @property
    def activation(self) -> Activation | None:
        """The activation that follows, through normalisation and layout; ``None`` when anything else uses a value."""
        return self._following.activation

    @property
    def layout_before_activation(self) -> tuple[ir.Node, ...]:
        """Transpose, Reshape and no-op nodes passed between the output and the activation."""
        if self._following.activation is None:
            return ()
        return tuple(step.node for step in self._following.steps if step.scale is None)


def _sole(value: ir.Value, activation: Activation | None) -> Activation | None:
    """The activation, if nothing but its own nodes uses the value it starts from."""
    if activation is None or value.is_graph_output():
        return None
    own = set(activation.nodes)
    return activation if all(user in own for user in value.consumers()) else None


def layers(model: ir.Model, shapes: Shapes | None = None) -> list[LinearLayer]:
    """Every linear layer: main graph in order with the bodies of its control flow, then model-local functions.

    Args:
        model: Left unchanged.
        shapes: Of this model, where the caller has them already.
    """
    from onnxmorph.graph.linear import find

    return find(model, Shapes.of(model) if shapes is None else shapes)
