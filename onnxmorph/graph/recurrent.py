"""LSTM, GRU and RNN: what their tensors hold, and what becomes of a unit that is fed zeros.

With ``D`` directions, ``g`` gates (4, 3, 1), ``H`` units and inputs of ``I`` channels: W is ``(D, g H, I)``, R is
``(D, g H, H)``, B is ``(D, 2 g H)`` and P, the peepholes of an LSTM, ``(D, 3 H)``; gates come one after another, in the
order ``iofc`` or ``zrh``. Such a layer feeds its result back through R, so no equation of linear layers is about it.
Its hidden size is an axis like others: units can be added and taken away.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxmorph._ir import ir
from onnxmorph.graph.attributes import WrongAttribute, floatings, integer, text, texts

__all__ = [
    "GATES",
    "LENGTHS",
    "RECURRENCE",
    "STATES",
    "WEIGHT",
    "Cell",
    "is_recurrent",
    "keeps_zero",
    "read_cell",
    "zero_filled",
]

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
"""Gates of each recurrent operator."""

WEIGHT, RECURRENCE = 1, 2
"""Positions of W and R among the inputs."""

LENGTHS = 4
"""Position of the lengths of the sequences."""

STATES = (5, 6)
"""Positions of the initial states."""

_DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}

_FUNCTIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
"""Activations per direction, where none are given."""

_MUST_KEEP_ZERO = {"LSTM": (1, 2), "GRU": (1,), "RNN": (0,)}
"""Those a unit that is to stay 0 goes through: the candidate's and, of an LSTM, the cell's. Gates may do anything."""

_KEEPS_ZERO = frozenset({"relu", "tanh", "leakyrelu", "thresholdedrelu", "scaledtanh", "elu", "softsign"})
"""What takes 0 to 0 whatever its alpha and beta are; ``Affine`` does where there is no beta other than 0."""


@dataclass(frozen=True)
class Cell:
    """The sizes of one recurrent layer.

    Attributes:
        op: ``'LSTM'``, ``'GRU'`` or ``'RNN'``.
        directions: 1 or 2.
        inputs: Channels of what it reads.
        hidden: Units of each direction.
        biased: Whether B is given.
        peepholes: Whether P is given.
        batch_first: Whether the batch comes before the time.
    """

    op: str
    directions: int
    inputs: int
    hidden: int
    biased: bool
    peepholes: bool
    batch_first: bool

    @property
    def multiplied(self) -> int:
        """Numbers in W and R, each of which is multiplied once a time step."""
        return self.directions * GATES[self.op] * self.hidden * (self.inputs + self.hidden)

    @property
    def biases(self) -> int:
        """Numbers in B."""
        return self.directions * 2 * GATES[self.op] * self.hidden if self.biased else 0

    @property
    def parameters(self) -> int:
        """Numbers in W, R, B and P."""
        peepholes = self.directions * 3 * self.hidden if self.peepholes else 0
        return self.multiplied + self.biases + peepholes


def is_recurrent(node: ir.Node | None) -> bool:
    """Whether a node is one of ONNX's own recurrent operators."""
    return node is not None and node.domain in ("", "ai.onnx") and node.op_type in GATES


def read_cell(node: ir.Node, weight: tuple[int, ...]) -> Cell | str:
    """The sizes of a recurrent node, or what is wrong with it.

    Args:
        node: One that `is_recurrent`.
        weight: Shape of its W.
    """
    gates = GATES[node.op_type]
    if len(weight) != 3 or weight[1] % gates or not all(weight):
        return f"a weight of shape {weight} is not (directions, {gates} x hidden, inputs)"
    hidden = weight[1] // gates
    stated = integer(node, "hidden_size", hidden)
    if stated != hidden:
        return f"its hidden_size {stated} is not that of its weight, {hidden}"
    direction = text(node, "direction", "forward")
    if _DIRECTIONS.get(direction) != weight[0]:
        return f"a weight of {weight[0]} directions does not fit direction '{direction}'"
    return Cell(
        node.op_type,
        weight[0],
        weight[2],
        hidden,
        _given(node, 3) is not None,
        node.op_type == "LSTM" and _given(node, 7) is not None,
        bool(integer(node, "layout", 0)),
    )


def keeps_zero(node: ir.Node) -> bool:
    """Whether a unit with zeros in W, R, B, P and its initial states is 0 at every time step, in every direction.

    An LSTM's unit is ``h = o . tanh(c)`` with ``c = f . c + i . tanh(0)``, a GRU's ``h = (1 - z) . tanh(0) + z . h``,
    an RNN's ``tanh(0)``: it stays 0 whatever its gates are, if the functions in place of the ``tanh`` take 0 to 0.
    """
    defaults, must = _FUNCTIONS[node.op_type], _MUST_KEEP_ZERO[node.op_type]
    try:
        names = texts(node, "activations") or defaults
        shifted = any(floatings(node, "activation_beta"))
    except WrongAttribute:
        return False
    through = [name.lower() for place, name in enumerate(names) if place % len(defaults) in must]
    return len(names) % len(defaults) == 0 and all(
        name in _KEEPS_ZERO or (name == "affine" and not shifted) for name in through
    )


def zero_filled(node: ir.Node) -> bool:
    """Whether a node is a ConstantOfShape of zeros, as initial states are made."""
    if node.op_type != "ConstantOfShape" or node.domain not in ("", "ai.onnx"):
        return False
    given = node.attributes.get("value")
    return given is None or (not given.is_ref() and not given.as_tensor().numpy().any())


def _given(node: ir.Node, position: int) -> ir.Value | None:
    return node.inputs[position] if position < len(node.inputs) else None
