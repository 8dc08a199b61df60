"""Small networks with one or two recurrent layers, in every layout that ONNX gives them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxmorph.graph.recurrent import GATES

__all__ = ["Layout", "layouts", "net"]

INPUTS, STEPS, BATCH = 3, 5, 2

_ACTIVATIONS = {
    "LSTM": ["Sigmoid", "Tanh", "Tanh"],
    "GRU": ["Sigmoid", "Tanh"],
    "RNN": ["Tanh"],
}
_OTHERS = ["Relu", "Softsign", "ScaledTanh", "Elu", "LeakyRelu", "HardSigmoid", "Sigmoid"]


@dataclass(frozen=True)
class Layout:
    """How a recurrent layer is written.

    Attributes:
        op: ``LSTM``, ``GRU`` or ``RNN``.
        direction: ``forward``, ``reverse`` or ``bidirectional``.
        hidden: Units.
        bias: B is given.
        peepholes: P is given (LSTM).
        initial: Where initial states come from: ``""``, ``stored``, ``zeros``, ``filled`` (by ConstantOfShape),
            ``expanded``, ``ones`` (expanded too) or ``input``.
        lengths: Where sequence_lens comes from: ``""``, ``stored`` or ``input``.
        reads: What is read: ``Y`` (flattened directions), ``squeezed`` (one direction), ``Y_h``, ``Y_c`` or ``all``.
        candidate: In place of the candidate's Tanh; ``""`` writes no activations.
        clip: The attribute; 0 writes none.
        linear_before_reset: Of a GRU.
        layers: 1, or 2 for a stack.
        opset: Of the model.
    """

    op: str = "LSTM"
    direction: str = "forward"
    hidden: int = 4
    bias: bool = True
    peepholes: bool = False
    initial: str = ""
    lengths: str = ""
    reads: str = "Y"
    candidate: str = ""
    clip: float = 0.0
    linear_before_reset: bool = False
    layers: int = 1
    opset: int = 17

    @property
    def directions(self) -> int:
        """1 or 2."""
        return 2 if self.direction == "bidirectional" else 1


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Any layout that ONNX Runtime runs."""
    op = draw(st.sampled_from(["LSTM", "GRU", "RNN"]))
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    reads = ["Y", "Y_h", "all"] + (["Y_c"] if op == "LSTM" else []) + (["squeezed"] * (direction != "bidirectional"))
    return Layout(
        op,
        direction,
        draw(st.integers(2, 5)),
        draw(st.booleans()),
        op == "LSTM" and draw(st.booleans()),
        draw(st.sampled_from(["", "stored", "zeros", "filled", "expanded", "ones"])),
        draw(st.sampled_from(["", "stored", "input"])),
        draw(st.sampled_from(reads)),
        draw(st.sampled_from(["", *_OTHERS])),
        draw(st.sampled_from([0.0, 0.7])),
        op == "GRU" and draw(st.booleans()),
        draw(st.integers(1, 2)),
        draw(st.sampled_from([7, 11, 14, 17, 22])),
    )


class _Writer:
    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []

    def weight(self, name: str, *shape: int) -> str:
        return self.tensor(name, (self._random.standard_normal(shape) * 0.6).astype(np.float32))

    def tensor(self, name: str, array: NDArray[np.generic]) -> str:
        self.stored.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, name: str, *numbers: int) -> str:
        return self.tensor(name, np.array(numbers, np.int64))

    def node(self, op: str, inputs: list[str], *outputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, list(outputs), name=f"/{outputs[0]}/{op}", **attributes))
        return outputs[0]


def net(layout: Layout, seed: int = 0) -> onnx.ModelProto:
    """``x (STEPS, N, INPUTS)`` through one or two layers named ``cell0``, ``cell1`` into a MatMul, ``y``."""
    writer = _Writer(seed)
    writer.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [STEPS, "N", INPUTS]))
    value, width = "x", INPUTS
    for place in range(layout.layers):
        last = place == layout.layers - 1
        value, width = _layer(writer, layout if last else replace(layout, reads="Y"), place, value, width)
    product = writer.node("MatMul", [value, writer.weight("head", width, 2)], "y")
    rank = 2 if layout.reads in ("Y_h", "Y_c") else 3
    graph = helper.make_graph(
        writer.nodes,
        "recurrent",
        writer.inputs,
        [helper.make_tensor_value_info(product, TensorProto.FLOAT, [None] * rank)],
        writer.stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", layout.opset)], ir_version=8)


def _layer(writer: _Writer, layout: Layout, place: int, value: str, inputs: int) -> tuple[str, int]:
    gates, hidden, both = GATES[layout.op], layout.hidden, layout.directions
    name = f"cell{place}"
    operands = [
        value,
        writer.weight(f"{name}.W", both, gates * hidden, inputs),
        writer.weight(f"{name}.R", both, gates * hidden, hidden),
        writer.weight(f"{name}.B", both, 2 * gates * hidden) if layout.bias else "",
        _lengths(writer, layout, name),
    ]
    states = 2 if layout.op == "LSTM" else 1
    operands += [_initial(writer, layout, f"{name}.{'hc'[state]}0") for state in range(states)]
    if layout.op == "LSTM":
        operands.append(writer.weight(f"{name}.P", both, 3 * hidden) if layout.peepholes else "")
    while not operands[-1]:
        operands.pop()
    attributes: dict[str, Any] = {"hidden_size": hidden, "direction": layout.direction}
    if layout.candidate:
        functions = list(_ACTIVATIONS[layout.op])
        functions[min(1, len(functions) - 1)] = layout.candidate
        attributes["activations"] = functions * both
    if layout.clip:
        attributes["clip"] = layout.clip
    if layout.linear_before_reset:
        attributes["linear_before_reset"] = 1
    wanted = {"Y": 0, "squeezed": 0, "Y_h": 1, "Y_c": 2, "all": 2}[layout.reads]
    outputs = [f"{name}.Y", f"{name}.Y_h", f"{name}.Y_c"][: states + 1]
    if layout.reads != "all":
        outputs = [output if at == wanted else "" for at, output in enumerate(outputs)][: wanted + 1]
    writer.nodes.append(helper.make_node(layout.op, operands, outputs, name=name, **attributes))
    return _read(writer, layout, name, both * hidden)


def _lengths(writer: _Writer, layout: Layout, name: str) -> str:
    if layout.lengths == "stored":
        return writer.tensor(f"{name}.lengths", np.array([STEPS, 2], np.int32))
    if layout.lengths == "input":
        given = f"{name}.lengths"
        writer.inputs.append(helper.make_tensor_value_info(given, TensorProto.INT32, ["N"]))
        return given
    return ""


def _initial(writer: _Writer, layout: Layout, name: str) -> str:
    both, hidden = layout.directions, layout.hidden
    if layout.initial == "stored":
        return writer.weight(name, both, BATCH, hidden)
    if layout.initial == "zeros":
        return writer.tensor(name, np.zeros((both, BATCH, hidden), np.float32))
    if layout.initial == "input":
        writer.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [both, "N", hidden]))
        return name
    if layout.initial in ("filled", "expanded", "ones"):
        shape = writer.node("Shape", ["x"], f"{name}.shape")
        batch = writer.node("Gather", [shape, writer.ints(f"{name}.one", 1)], f"{name}.batch")
        parts = [writer.ints(f"{name}.both", both), batch, writer.ints(f"{name}.hidden", hidden)]
        whole = writer.node("Concat", parts, f"{name}.sizes", axis=0)
        if layout.initial != "filled" and layout.opset >= 8:
            number = np.full((1, 1, 1), layout.initial == "ones", np.float32)
            return writer.node("Expand", [writer.tensor(f"{name}.number", number), whole], name)
        if layout.opset >= 9:
            return writer.node("ConstantOfShape", [whole], name)
    return ""


def _read(writer: _Writer, layout: Layout, name: str, width: int) -> tuple[str, int]:
    """Directions side by side on the last axis."""
    if layout.reads == "squeezed":
        axes: dict[str, Any] = {"axes": [1]} if layout.opset < 13 else {}
        given = [] if axes else [writer.ints(f"{name}.axes", 1)]
        return writer.node("Squeeze", [f"{name}.Y", *given], f"{name}.out", **axes), width
    sequence, last = [0, 2, 1, 3], [1, 0, 2]
    values = []
    for output, order in (("Y", sequence), ("Y_h", last), ("Y_c", last)):
        if layout.reads not in (output, "all") or (output == "Y_c" and layout.op != "LSTM"):
            continue
        turned = writer.node("Transpose", [f"{name}.{output}"], f"{name}.{output}.turned", perm=order)
        sizes = [0, 0, -1] if output == "Y" else [1, -1, width] if layout.reads == "all" else [0, -1]
        target = writer.ints(f"{name}.{output}.sizes", *sizes)
        values.append(writer.node("Reshape", [turned, target], f"{name}.{output}.flat"))
    if len(values) == 1:
        return values[0], width
    total = values[0]
    for at, value in enumerate(values[1:]):
        total = writer.node("Add", [total, value], f"{name}.sum{at}")
    return total, width
