"""Kernel size: K grows to K' with zeros around, and the padding grows with it (NM section 3.4).

``K' - K`` zeros per axis, ``delta`` of them before; a dilation ``d`` moves the border by ``d * delta``. Exact to the
last bit for every finite input: the new taps are zero and read padding or real values alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from onnxmorph._ir import ir
from onnxmorph.edit import Builder, drop_unused, rename_value
from onnxmorph.equation import embed
from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.graph.labels import article
from onnxmorph.graph.layers import LinearLayer
from onnxmorph.morphs.target import find_layer, layer_by_key
from onnxmorph.plan import Change, NewFactor, Plan

__all__ = ["KernelPlan", "check_kernel", "plan_kernel", "why_not_kernel"]


def why_not_kernel(layer: LinearLayer) -> Refusal | None:
    """Why the kernel of ``layer`` cannot grow, or ``None`` when it can."""
    if layer.blocked is not None:
        return layer.blocked
    if not layer.kernel:
        return Refusal(f"{layer.name} is {article(layer.op)}, which has no kernel axes", code="no-kernel")
    return layer.weight_not_finite


def check_kernel(_model: ir.Model) -> Callable[[LinearLayer], Refusal | None]:
    """What says of a model's layers why they cannot be morphed so; see :func:`why_not_kernel`."""
    return why_not_kernel


def plan_kernel(model: ir.Model, layer: str | LinearLayer, *, to: Sequence[int] | int) -> KernelPlan:
    """Decide how the kernel of ``layer`` grows to ``to``; nothing is edited.

    Args:
        model: The parent.
        layer: What a person types, or a layer of ``model``.
        to: The new size, one number for all axes or one per axis. Odd differences put the extra zero at the end.

    Raises:
        SelectionError: No such layer, or not a size.
        Refusal: It cannot be done exactly, with the reason and the nearest that can.
    """
    target = find_layer(model, layer)
    if (refusal := why_not_kernel(target)) is not None:
        raise refusal
    axes = len(target.kernel)
    sizes = (to,) * axes if isinstance(to, int) else tuple(to) * (axes if len(to) == 1 else 1)
    if len(sizes) != axes or any(size < 1 for size in sizes):
        raise SelectionError(
            f"{target.name} has {axes} kernel axes: give one size, or {axes} such as {_size([5] * axes)}"
        )
    if any(new < old for new, old in zip(sizes, target.kernel, strict=True)):
        raise Refusal(
            f"{target.name} has a {_size(target.kernel)} kernel, larger than {_size(sizes)}",
            way_out="kernels grow; 'fold' takes zero rims away",
            code="kernel-smaller",
        )
    if tuple(sizes) == target.kernel:
        raise Refusal(f"{target.name} has a {_size(sizes)} kernel already", code="kernel-same")
    _new_padding(target, tuple(sizes))
    return KernelPlan(target.key, target.name, target.op, target.kernel, tuple(sizes))


@dataclass(frozen=True)
class KernelPlan(Plan):
    """One kernel grown, decided.

    Attributes:
        layer: Key of the layer.
        name: The layer's name, for people.
        op: Its op.
        before: Kernel of the parent.
        to: Kernel of the child.
    """

    morph: ClassVar[str] = "kernel"

    layer: str
    name: str
    op: str
    before: tuple[int, ...]
    to: tuple[int, ...]

    def options(self) -> dict[str, Any]:
        """See :meth:`Plan.options`."""
        return {
            "layer": self.layer,
            "name": self.name,
            "op": self.op,
            "before": list(self.before),
            "to": list(self.to),
        }

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> KernelPlan:
        """The plan that :meth:`options` came from."""
        return cls(options["layer"], options["name"], options["op"], tuple(options["before"]), tuple(options["to"]))

    def describe(self) -> str:
        """See :meth:`Plan.describe`."""
        return f"{self.name}: grow the kernel from {_size(self.before)} to {_size(self.to)}, zeros around"

    def edit(self, child: ir.Model) -> Change:
        """See :meth:`Plan.edit`."""
        layer = layer_by_key(child, self.layer)
        if (refusal := why_not_kernel(layer)) is not None:
            raise refusal
        padding = _new_padding(layer, self.to)
        before = tuple((new - old) // 2 for new, old in zip(self.to, layer.kernel, strict=True))
        if layer.op == "ConvTranspose":
            # The canonical kernel is flipped, so the extra zero that goes at the end is at the beginning there.
            before = tuple(new - old - zeros for new, old, zeros in zip(self.to, layer.kernel, before, strict=True))
        kernel = embed(layer.kernel_array(), self.to, before).astype(layer.dtype.numpy())
        notes = []
        if layer.shared_with:
            notes.append(f"{layer.name} shared its weight with {', '.join(layer.shared_with)}; it has its own now")
        if layer.weight.quantized:
            notes.append(f"the weight of {layer.name} was quantised; the grown one is stored in {layer.dtype.name}")
        node = layer.node
        old = node.inputs[1]
        build = Builder(child, layer.graph, before=node)
        weight = build.initializer(f"{layer.label}.weight", layer.weight_from_kernel(kernel))
        node.replace_input_with(1, weight)
        freed = drop_unused(child, [] if old is None else [old])
        if old is not None and old.name and old.name in freed:
            rename_value(child, weight, old.name)
        node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", list(self.to))
        if padding is not None:
            node.attributes.pop("auto_pad", None)
            node.attributes["pads"] = ir.AttrInt64s("pads", padding)
        factor = NewFactor.of(weight.name or "", kernel)
        return Change((factor,), 0.0, (layer.output.name or "",), tuple(notes))


def _new_padding(layer: LinearLayer, to: tuple[int, ...]) -> list[int] | None:
    """Explicit pads of the grown layer, begins then ends; ``None`` where the padding it has grows by itself.

    SAME padding grows by itself for even differences as long as the old kernel spans the stride: its total is then
    ``K - stride + ...`` above zero, so ``2 delta`` more taps add ``delta`` on each side. A ConvTranspose that fixes its
    output by ``output_shape`` or SAME crops by itself likewise.
    """
    assert layer.pads is not None
    grown = [new - old for new, old in zip(to, layer.kernel, strict=True)]
    before = [zeros // 2 for zeros in grown]
    explicit = layer.pads.explicit
    if explicit is not None and not (layer.op == "ConvTranspose" and layer.pads.sized):
        begin = [pad + d * zeros for pad, d, zeros in zip(explicit[0], layer.dilations, before, strict=True)]
        end = [
            pad + d * (zeros - first)
            for pad, d, zeros, first in zip(explicit[1], layer.dilations, grown, before, strict=True)
        ]
        return [*begin, *end]
    spans = all(
        d * (size - 1) + 1 >= stride
        for size, stride, d in zip(layer.kernel, layer.strides, layer.dilations, strict=True)
    )
    if spans and all(zeros % 2 == 0 for zeros in grown):
        return None
    nearest = [size + zeros + zeros % 2 for size, zeros in zip(layer.kernel, grown, strict=True)]
    raise Refusal(
        f"{layer.name} pads by auto_pad over an input of unknown size, and {_size(to)} is not"
        f" {_size(layer.kernel)} plus an even number of taps" + ("" if spans else " spanning its stride"),
        way_out=f"{_size(nearest)} is" if spans else "fix the input's size in the model",
        code="auto-pad-dynamic",
    )


def _size(kernel: Sequence[int]) -> str:
    return "x".join(map(str, kernel))
