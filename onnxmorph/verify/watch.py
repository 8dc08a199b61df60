"""What the inputs reached inside the models: signs at activations that changed, channels alive, branches taken.

A swapped activation is only told from the one it replaced where both signs arrive, a new channel only where it is ever
alive, a branch only where it is taken. None of that is in the difference of two values that agree.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.verify.ties import Ties

__all__ = ["Watch"]

Array = np.ndarray[Any, Any]

_ACTIVATIONS = frozenset(
    {
        *("Relu", "LeakyRelu", "PRelu", "ThresholdedRelu", "Clip", "Elu", "Selu", "Celu", "HardSwish", "HardSigmoid"),
        *("Sigmoid", "Tanh", "Erf", "Softplus", "Softsign", "Gelu", "FastGelu", "QuickGelu", "Mish", "Swish", "Abs"),
    }
)
_DIES = frozenset({"Relu", "ThresholdedRelu"})
"""Activations that are constant for negative numbers."""

_CHANNELS_SECOND = frozenset({"Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization"})
_CHANNELS_LAST = frozenset({"MatMul", "Gemm", "LayerNormalization", "RMSNormalization"})
_MOST_ACTIVATIONS = 24
_MOST_ELEMENTS = 1 << 22
_LISTED = 8


@dataclass
class _Seen:
    """What arrived at one activation, channel by channel."""

    side: str
    op: str
    value: str
    output: str
    axis: int
    negative: Array | None = None
    positive: Array | None = None
    least: Array | None = None
    most: Array | None = None

    def add(self, array: Array) -> None:
        axis = self.axis if -array.ndim <= self.axis < array.ndim else -1
        flat = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) if array.ndim else array.reshape(1, 1)
        if not flat.size:
            return
        # Not nanmin, which warns of a channel that holds nothing else.
        least, most = np.fmin.reduce(flat, axis=1), np.fmax.reduce(flat, axis=1)
        if self.least is None or self.most is None or self.least.shape != least.shape:
            self.least, self.most = least, most
        self.least, self.most = np.fmin(self.least, least), np.fmax(self.most, most)

    def to_json(self) -> dict[str, Any] | None:
        if self.least is None or self.most is None:
            return None
        alive = self.most > 0 if self.op in _DIES else self.most > self.least
        return {
            "value": self.output,
            "op": self.op,
            "model": self.side,
            "channels": int(alive.size),
            "negative": int(np.count_nonzero(self.least < 0)),
            "positive": int(np.count_nonzero(self.most > 0)),
            "alive": int(np.count_nonzero(alive)),
            "dead": [int(place) for place in np.flatnonzero(~alive)[:_LISTED]],
        }


@dataclass
class _Branch:
    """An If of the main graph, and which of its branches ran."""

    node: str
    condition: str
    changed: frozenset[bool] = frozenset()
    taken: set[bool] = field(default_factory=set)


class Watch:
    """Looks at activations that changed and at the conditions of branches while the models run.

    Args:
        parent: The parent.
        child: The child.
        frontier: Names of values that both have and that are defined otherwise.
        ties: Between these two models.
    """

    def __init__(self, parent: ir.Model, child: ir.Model, frontier: Collection[str], ties: Ties) -> None:
        names = tuple({output.name for node in model.graph for output in node.outputs} for model in (parent, child))
        self._seen = [
            *_activations(parent, "parent", set(frontier) | (names[0] - names[1])),
            *_activations(child, "child", set(frontier) | (names[1] - names[0])),
        ]
        ops = [{seen.output: seen.op for seen in self._seen if seen.side == side} for side in ("parent", "child")]
        # The second of two equal activations in a row sees one sign only, and that is as it should be.
        self._swapped = {name for name, op in ops[1].items() if ops[0].get(name, op) != op}
        after = {node.outputs[0].name: node for node in child.graph if node.op_type == "If"}
        self._branches = [
            _Branch(
                node.name or str(node.outputs[0].name),
                str(node.inputs[0].name),
                _changed_branches(node, after.get(node.outputs[0].name), ties),
            )
            for node in parent.graph
            if node.op_type == "If" and node.inputs[0] is not None and node.inputs[0].producer() is not None
        ]

    @property
    def names(self) -> tuple[list[str], list[str]]:
        """Values to be looked at in the parent, and in the child."""
        parent = [seen.value for seen in self._seen if seen.side == "parent"]
        parent += [branch.condition for branch in self._branches]
        child = [seen.value for seen in self._seen if seen.side == "child"]
        return list(dict.fromkeys(parent)), list(dict.fromkeys(child))

    def add(self, side: str, values: Mapping[str, Array]) -> None:
        """Takes the values of one run of the ``"parent"`` or the ``"child"``."""
        for seen in self._seen:
            array = values.get(seen.value) if seen.side == side else None
            if array is not None and 0 < array.size <= _MOST_ELEMENTS:
                seen.add(array)
        for branch in self._branches if side == "parent" else ():
            if branch.condition in values:
                branch.taken.update(bool(item) for item in values[branch.condition].reshape(-1)[:1])

    def coverage(self) -> dict[str, Any]:
        """Per activation how many channels saw either sign and were alive, per If which branches ran."""
        activations = [entry for seen in self._seen if (entry := seen.to_json()) is not None]
        branches = [
            {"node": branch.node, "then": True in branch.taken, "else": False in branch.taken}
            for branch in self._branches
            if branch.taken
        ]
        return ({"activations": activations} if activations else {}) | ({"branches": branches} if branches else {})

    def unseen(self) -> list[str]:
        """Branches that are defined otherwise in the child and that no input took, in words."""
        return [
            f"the {'then' if side else 'else'} branch of If {branch.node!r} is defined otherwise in the child, and no "
            "input took it: data by --inputs may"
            for branch in self._branches
            for side in sorted(branch.changed)
            if branch.taken and side not in branch.taken
        ]

    def warnings(self) -> list[str]:
        """What was not reached at all, in words."""
        found: list[str] = []
        for entry in self.coverage().get("activations", ()):
            missing = [sign for sign in ("negative", "positive") if not entry[sign]]
            if missing and entry["value"] in self._swapped:
                found.append(
                    f"activation {entry['value']!r} ({entry['op']}, {entry['model']}) never saw a {missing[0]} number: "
                    "what it does there was not compared"
                )
        for branch in self._branches:
            if len(branch.taken) == 1:
                never = "else" if True in branch.taken else "then"
                found.append(f"If {branch.node!r}: its {never} branch was never taken; real data by --inputs may")
        return found


def _changed_branches(before: ir.Node, after: ir.Node | None, ties: Ties) -> frozenset[bool]:
    """Which branches of an If, by the condition that takes them, are others in the child."""
    names = {True: "then_branch", False: "else_branch"}
    if after is None or any(name not in node.attributes for node in (before, after) for name in names.values()):
        return frozenset()
    return frozenset(
        side
        for side, name in names.items()
        if not ties.same(before.attributes[name].as_graph(), after.attributes[name].as_graph())
    )


def _activations(model: ir.Model, side: str, changed: Collection[str | None]) -> list[_Seen]:
    found: list[_Seen] = []
    for node in model.graph:
        if node.op_type not in _ACTIVATIONS or not node.inputs or node.outputs[0].name not in changed:
            continue
        value = node.inputs[0]
        if value is not None and value.name and value.producer() is not None:
            found.append(_Seen(side, node.op_type, value.name, str(node.outputs[0].name), _channel_axis(node)))
    return _spread(found)


def _spread(found: Sequence[_Seen]) -> list[_Seen]:
    step = max(1.0, len(found) / _MOST_ACTIVATIONS)
    return [found[int(place * step)] for place in range(min(len(found), _MOST_ACTIVATIONS))]


def _channel_axis(node: ir.Node) -> int:
    """Where the channels of an activation lie: as with the layer it follows."""
    current: ir.Node | None = node
    for _ in range(6):
        value = current.inputs[0] if current is not None and current.inputs else None
        current = value.producer() if value is not None else None
        if current is None:
            break
        if current.op_type in _CHANNELS_SECOND:
            return 1
        if current.op_type in _CHANNELS_LAST:
            return -1
    value = node.inputs[0]
    rank = len(value.shape) if value is not None and value.shape is not None else 0
    return 1 if rank in (4, 5) else -1
