"""Whether two nodes, constants or graphs of two models are defined alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.verify.noise import movable, tensors

__all__ = ["PACKED", "Definitions", "same_tensor"]

_CHUNK = 1 << 22
_DEEPEST = 100
_LAYERS = ("MatMulInteger", "ConvInteger", "Conv", "ConvTranspose", "Gemm", "MatMul")
PACKED = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4)
"""Types of weights that are stored as integers."""


def same_tensor(one: ir.TensorProtocol | None, other: ir.TensorProtocol | None) -> bool:
    """Whether two tensors hold the same bits; reads them in pieces, so that mapped files stay out of memory."""
    if one is other:
        return True
    if one is None or other is None or one.dtype != other.dtype or tuple(one.shape) != tuple(other.shape):
        return False
    if one.dtype == ir.DataType.STRING:
        return bool(np.array_equal(one.numpy(), other.numpy()))
    left, right = _bytes(one), _bytes(other)
    if left is None or right is None:
        return one.tobytes() == other.tobytes()
    return len(left) == len(right) and all(
        np.array_equal(left[start : start + _CHUNK], right[start : start + _CHUNK])
        for start in range(0, len(left), _CHUNK)
    )


def _bytes(tensor: ir.TensorProtocol) -> np.ndarray[tuple[int], np.dtype[np.uint8]] | None:
    array = np.asarray(tensor.numpy())
    if not array.flags.c_contiguous:
        return None
    return array.reshape(-1).view(np.uint8)


class Definitions:
    """Definitions of one parent against one child, each pair looked at once."""

    def __init__(self, parent: ir.Model, child: ir.Model) -> None:
        self._functions = (parent.functions, child.functions)
        self._tensors = (tensors(parent), tensors(child))
        self._static: dict[ir.Value, bool] = {}
        self._depth = 0
        self._same: dict[tuple[int, int], bool] = {}

    def static(self, value: ir.Value) -> bool:
        """Whether the value follows from constants alone."""
        pending = [value]
        while pending:
            current = pending[-1]
            if current in self._static:
                pending.pop()
                continue
            node = current.producer()
            if node is None:
                self._static[current] = current.is_initializer() or current.const_value is not None
            elif node.op_type == "Constant":
                self._static[current] = True
            elif not node.inputs or any(attr.type == ir.AttributeType.GRAPH for attr in node.attributes.values()):
                self._static[current] = False
            else:
                open_inputs = [item for item in node.inputs if item is not None and item not in self._static]
                if open_inputs:
                    pending.extend(open_inputs)
                    continue
                self._static[current] = all(item is None or self._static[item] for item in node.inputs)
            pending.pop()
        return self._static[value]

    def same_input(self, one: ir.Value | None, other: ir.Value | None) -> bool:
        if one is None or other is None:
            return one is other
        static = self.static(one)
        if static != self.static(other):
            return False
        if not static:
            return one.name == other.name
        key = (id(one), id(other))
        if key not in self._same:
            self._same[key] = self._same_static(one, other)
        return self._same[key]

    def _same_static(self, one: ir.Value, other: ir.Value) -> bool:
        tensor, new_tensor = self._tensors[0].get(one), self._tensors[1].get(other)
        if tensor is not None or new_tensor is not None:
            return same_tensor(tensor, new_tensor)
        node, new_node = one.producer(), other.producer()
        if node is None or new_node is None or one.index() != other.index():
            return node is new_node
        if self._depth >= _DEEPEST:
            return False  # called different, which only means that more is compared
        self._depth += 1
        try:
            return self.same_node(node, new_node)
        finally:
            self._depth -= 1

    def same_node(self, one: ir.Node, other: ir.Node) -> bool:
        if one.op_identifier() != other.op_identifier() or len(one.inputs) != len(other.inputs):
            return False
        if not all(self.same_input(a, b) for a, b in zip(one.inputs, other.inputs, strict=True)):
            return False
        if one.attributes.keys() != other.attributes.keys():
            return False
        if not all(self.same_attribute(attr, other.attributes[name]) for name, attr in one.attributes.items()):
            return False
        function, new_function = (
            functions.get(node.op_identifier()) for functions, node in zip(self._functions, (one, other), strict=True)
        )
        if function is None or new_function is None:
            return function is new_function
        return self._same_graph(function, new_function)

    def alike(self, one: ir.Node, other: ir.Node) -> bool:
        """Whether two nodes compute the same from what they are given, whatever that is called."""
        return (
            len(one.inputs) == len(other.inputs)
            and one.op_identifier() not in self._functions[0]
            and one.attributes.keys() == other.attributes.keys()
            and all(self.same_attribute(attr, other.attributes[name]) for name, attr in one.attributes.items())
            and all(
                self.same_input(a, b)
                for a, b in zip(one.inputs, other.inputs, strict=True)
                if a is None or b is None or self.static(a) or self.static(b)
            )
        )

    def same_attribute(self, one: ir.Attr, other: ir.Attr) -> bool:
        if one.type != other.type or one.is_ref() != other.is_ref():
            return False
        if one.is_ref():
            return one.ref_attr_name == other.ref_attr_name
        if one.type == ir.AttributeType.TENSOR:
            return same_tensor(one.value, other.value)
        if one.type == ir.AttributeType.GRAPH:
            return self._same_graph(one.as_graph(), other.as_graph())
        return bool(one.value == other.value)

    def _same_graph(self, one: ir.Graph | ir.Function, other: ir.Graph | ir.Function) -> bool:
        key = (id(one), id(other))
        if key in self._same:
            return self._same[key]
        self._same[key] = (
            [value.name for value in one.inputs] == [value.name for value in other.inputs]
            and [value.name for value in one.outputs] == [value.name for value in other.outputs]
            and len(one) == len(other)
            and all(
                [value.name for value in node.outputs] == [value.name for value in new_node.outputs]
                and self.same_node(node, new_node)
                for node, new_node in zip(one, other, strict=True)
            )
        )
        return self._same[key]

    def changed_tensors(self, side: int) -> list[ir.Value]:
        """Constants of the child (``side`` 1) that are neither shared with the parent nor equal to its constant of the
        same name; or the other way round."""
        before, after = self._tensors[1 - side], self._tensors[side]
        known = {id(tensor) for tensor in before.values()}
        by_name: dict[str | None, list[ir.TensorProtocol]] = {}
        for value, tensor in before.items():
            by_name.setdefault(value.name, []).append(tensor)
        return [
            value
            for value, tensor in after.items()
            if id(tensor) not in known and not any(same_tensor(old, tensor) for old in by_name.get(value.name, []))
        ]

    def weights_of(self, node: ir.Node) -> list[str]:
        """Names of the parent's weights that enter a node, also through constant chains such as Transpose."""
        found: list[str] = []
        pending = [value for value in node.inputs if value is not None and self.static(value)]
        seen = set(pending)
        while pending:
            value = pending.pop()
            tensor = self._tensors[0].get(value)
            if tensor is not None and value.name and movable(value, tensor):
                found.append(value.name)
            producer = value.producer()
            for item in producer.inputs if producer is not None else ():
                if item is not None and item not in seen:
                    seen.add(item)
                    pending.append(item)
        return found

    def region(self, changed: Sequence[ir.Node]) -> tuple[set[str], bool]:
        """Weights of these nodes of the parent; where a node has none, those of the nearest nodes upstream that do.

        Returns:
            Names of weights, and whether some path upstream ended at a graph input before it met any.
        """
        names: set[str] = set()
        at_inputs = False
        pending = list(changed)
        seen = set(pending)
        while pending:
            node = pending.pop()
            weights = self.weights_of(node)
            names.update(weights)
            if weights or self._packed(node):
                continue
            for value in node.inputs:
                if value is None or self.static(value):
                    continue
                producer = value.producer()
                if producer is None:
                    at_inputs = True
                elif producer not in seen:
                    seen.add(producer)
                    pending.append(producer)
        return names, at_inputs

    def _packed(self, node: ir.Node) -> bool:
        """Whether this node weighs by integers, as they are or unpacked: these have no rounding to move them by, and to
        move what comes from upstream instead would make quantizers there jump, which the child does not."""
        pending = [node.inputs[1]] if node.op_type in _LAYERS and len(node.inputs) > 1 else []
        while pending:
            value = pending.pop()
            if value is None or not self.static(value):
                continue
            tensor, producer = self._tensors[0].get(value), value.producer()
            if tensor is not None and tensor.size > 1 and tensor.dtype in PACKED:
                return True
            if tensor is None and producer is not None:
                pending += producer.inputs[:1]
        return False

    def changed_rows(self, changed: Sequence[ir.Value]) -> dict[str, np.ndarray[tuple[int], np.dtype[np.intp]]]:
        before = {value.name: tensor for value, tensor in self._tensors[0].items()}
        rows: dict[str, np.ndarray[tuple[int], np.dtype[np.intp]]] = {}
        for value in changed:
            old, new = before.get(value.name), self._tensors[1][value]
            if old is None or value.name is None or tuple(old.shape) != tuple(new.shape) or len(new.shape) < 2:
                continue
            if old.dtype != new.dtype or old.dtype == ir.DataType.STRING:
                continue
            left, right = np.asarray(old.numpy()), np.asarray(new.numpy())
            differs = [bool(np.any(left[row] != right[row])) for row in range(left.shape[0])]
            rows[value.name] = np.flatnonzero(differs)
        return rows
